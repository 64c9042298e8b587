"""A reader's own digit: what becomes of pictures of all kinds, and the pad to draw on."""

import base64
import html
import io
import re
import runpy
import struct
import sys
import warnings
import zlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ipycanvas.canvas import COMMANDS
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from PIL import Image, ImageDraw
from test_helpers import assert_picture, sentence

import helpers

ROOT = Path(__file__).resolve().parents[1]
ALL_BLANK = "picture seems to be blank, as nothing in it stands out from the paper"

pytestmark = pytest.mark.filterwarnings("error")


# ---------------------------------------------------------------------------------------- pictures


def seven(side=200, pen=16, paper=255, ink=0, box=(55, 40, 145, 160)):
    """A 7 in grey; box is what it lies in, measured in a picture of side 200: (x, y, x, y)."""
    left, top, right, bottom = (n * side / 200 for n in box)
    large = Image.new("L", (4 * side, 4 * side), paper)
    points = [(left, top), (right, top), (left + (right - left) / 3, bottom)]
    draw = ImageDraw.Draw(large)
    draw.line([(4 * x, 4 * y) for x, y in points], fill=ink, width=4 * pen, joint="curve")
    return np.asarray(large.reduce(4))


SEVEN = helpers.prepare_digit(seven())


def assert_prepared(image):
    """What is true of every image of MNIST."""
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    rows, columns = image.any(axis=1).nonzero()[0], image.any(axis=0).nonzero()[0]
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    for axis in (0, 1):
        centre = np.average(np.arange(28), weights=image.sum(axis=axis, dtype=float))
        assert 13.5 <= centre <= 14.5
    assert image.max() == 255
    assert (image == 0).mean() > 0.5, "the paper is not blank"


def likeness(image, other):
    """Correlation of the pixels, 1 for the same image, even if one is shifted by a pixel: the
    place is rounded, and the width may be, too."""
    shifted = [np.roll(image, shift, (0, 1)) for shift in product((-1, 0, 1), repeat=2)]
    return max(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one in shifted)


def assert_seven(picture, at_least=0.95):
    image = helpers.prepare_digit(picture)
    assert_prepared(image)
    assert likeness(image, SEVEN) > at_least


def test_a_digit_becomes_as_those_of_mnist():
    assert_prepared(SEVEN)
    assert 0.05 < ((SEVEN > 0) & (SEVEN < 255)).mean() < 0.4, "edges should be grey"
    rows, columns = SEVEN.any(axis=1).sum(), SEVEN.any(axis=0).sum()
    assert (rows, columns) == (20, 15)  # the 7 is 90 pixels wide and 120 high, and the pen 16
    assert (SEVEN[8:11, 6:20] > 200).any(axis=0).all(), "the upper bar is missing"
    assert SEVEN[18:, 18:].max() == 0, "there should be nothing at the lower right"


def test_the_likeness_tells_digits_apart():
    assert likeness(helpers.prepare_digit(seven()[:, ::-1]), SEVEN) < 0.8
    assert likeness(helpers.prepare_digit(seven()[::-1]), SEVEN) < 0.8


def coloured(grey):
    return np.stack([grey, grey, np.full_like(grey, 90)], axis=-1)


def transparent(grey, colour):
    return np.dstack([np.full_like(grey, colour)] * 3 + [255 - grey])


@pytest.fixture(scope="module")
def images():
    """The images of MNIST to test with."""
    return helpers.load_mnist(ROOT / "data")[2]


KINDS = {
    "bytes": lambda grey: grey,
    "light on dark": lambda grey: 255 - grey,
    "boolean": lambda grey: grey > 127,
    "boolean, light on dark": lambda grey: grey < 127,
    "float64 to 1": lambda grey: grey / 255,
    "float32 to 1": lambda grey: (grey / 255).astype(np.float32),
    "float64 to 255": lambda grey: grey * 1.0,
    "int64": lambda grey: grey.astype(np.int64),
    "list": lambda grey: grey.tolist(),
    "RGB": coloured,
    "RGB, float": lambda grey: coloured(grey) / 255,
    "RGBA, opaque": lambda grey: np.dstack([coloured(grey), np.full_like(grey, 255)]),
    "black on transparent": lambda grey: transparent(grey, 0),
    "white on transparent": lambda grey: transparent(grey, 255),
    "low contrast": lambda grey: 180 + (grey // 10),
    "low contrast, dark": lambda grey: 40 - (grey // 10),
    "columns first in memory": np.asfortranarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_all_kinds_give_the_same_digit(kind):
    assert_seven(KINDS[kind](seven()), at_least=0.97)


FILES = {
    "a.png": {}, "a.jpg": {}, "a.bmp": {}, "a.webp": {}, "a.gif": {},
    "1.png": {"mode": "1"}, "p.png": {"mode": "P"}, "la.png": {"mode": "LA"}, "i16.png": {"mode": "I;16"},
    "rgb.jpg": {"mode": "RGB"}, "cmyk.jpg": {"mode": "CMYK"}, "clear.png": {"transparency": 255},
}  # fmt: skip


@pytest.mark.parametrize("path_type", [str, Path])
@pytest.mark.parametrize("name", FILES)
def test_files_of_all_kinds_give_the_same_digit(tmp_path, name, path_type):
    options = dict(FILES[name])
    mode = options.pop("mode", "L")
    image = Image.fromarray(seven())
    if mode == "I;16":
        image = Image.fromarray(seven().astype(np.uint16) * 256)
    elif mode == "P":
        image = image.convert("RGB").quantize(16)
    else:
        image = image.convert(mode)
    image.save(tmp_path / name, **options)
    assert_seven(path_type(tmp_path / name), at_least=0.97)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_the_camera_says(tmp_path, orientation):
    turn = [
        lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud,
        np.transpose, lambda a: np.rot90(a, 1), lambda a: np.rot90(a.T, 2), lambda a: np.rot90(a, 3),
    ][orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(seven())))
    stored.save(tmp_path / "photo.jpg", exif=exif)
    assert_seven(tmp_path / "photo.jpg")


@pytest.mark.parametrize("side", [30, 60, 100, 500, 1500])
def test_the_size_of_the_picture_does_not_matter(side):
    assert_seven(seven(side, pen=max(1, round(0.08 * side))), at_least=0.9)


@pytest.mark.parametrize("pen", [1, 2, 4, 8, 24, 32])
def test_thin_and_thick_pens_leave_full_black_strokes(pen):
    image = helpers.prepare_digit(seven(pen=pen))
    assert_prepared(image)
    assert likeness(image, SEVEN) > 0.7
    rows = image[image.any(axis=1)][4:-2]
    assert rows.max(axis=1).min() > 180, "a stroke is pale"
    assert 1.5 < helpers._stroke_width(image) < 7


def test_thin_strokes_become_as_thick_as_thin_ones_of_mnist_but_no_thicker():
    width = helpers._stroke_width(helpers.prepare_digit(seven(pen=1)))
    assert 1.7 < width < 2.6


@pytest.mark.parametrize("n", [3, 5, 11])
def test_the_width_of_strokes_is_measured_in_pixels(n):
    ink = np.zeros((100, 100), np.uint8)
    ink[10:90, 50 : 50 + n] = 255
    assert helpers._stroke_width(ink) == pytest.approx(n, rel=0.12)


@pytest.mark.parametrize(
    "place", [(0, 0, 40, 60), (150, 10, 190, 70), (10, 130, 50, 190), (20, 15, 180, 185)]
)
def test_the_place_of_the_digit_does_not_matter(place):
    box = tuple(np.clip(place, 10, 190))
    image = helpers.prepare_digit(seven(side=400, pen=12, box=box))
    assert_prepared(image)
    assert likeness(image, SEVEN) > 0.75


@pytest.mark.parametrize("height, width", [(160, 10), (10, 160), (100, 50), (50, 100), (100, 100)])
def test_proportions_are_kept(height, width):
    picture = np.full((200, 200), 255, np.uint8)
    picture[20 : 20 + height, 20 : 20 + width] = 0
    image = helpers.prepare_digit(picture)
    found = image.any(axis=1).sum(), image.any(axis=0).sum()
    expected = 20 * height / max(height, width), 20 * width / max(height, width)
    assert np.abs(np.subtract(found, expected)).max() <= 1.5
    assert max(found) == 20


def test_images_of_mnist_hardly_change(images):
    for image in images[:200]:
        prepared = helpers.prepare_digit(image)
        assert_prepared(prepared)
        assert likeness(prepared, image) > 0.99
        assert likeness(helpers.prepare_digit(prepared), prepared) > 0.99


@pytest.mark.parametrize("look", helpers.DISGUISES)
def test_a_disguised_digit_is_found_again(images, look):
    rng = np.random.default_rng(4)
    found = []
    for image in images[:40]:
        picture = helpers.disguise(image, rng, **helpers.DISGUISES[look])
        prepared = helpers.prepare_digit(picture)
        assert_prepared(prepared)
        found.append(likeness(prepared, image))
    assert min(found) > 0.85
    assert np.mean(found) > 0.95


# ------------------------------------------------------------------------------------------- paper

ACROSS = np.linspace(0, 1, 200)


def shadow(grey):
    return grey * (1 - 0.5 * ACROSS)


def shadow_edge(grey):
    return grey * np.where(ACROSS + ACROSS[:, None] < 1, 1, 0.6)


def dark_corners(grey):
    return grey * (1 - 0.6 * ((ACROSS - 0.5) ** 2 + (ACROSS[:, None] - 0.5) ** 2))


def noise(grey):
    return grey + np.random.default_rng(2).normal(0, 8, grey.shape)


def specks(grey):
    return np.where(np.random.default_rng(3).random(grey.shape) < 0.001, 30, grey)


def table(grey):
    return np.where(ACROSS < 0.12, 50, grey)


def table_all_around(grey):
    return np.pad(grey, 30, constant_values=90)


def lines(grey):
    return np.where(np.arange(200)[:, None] % 40 == 20, np.minimum(grey, 190), grey)


PAPERS = [shadow, shadow_edge, dark_corners, noise, specks, table, table_all_around, lines]


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_leaves_no_trace(paper):
    picture = paper(seven(paper=220, ink=40)).clip(0, 255).astype(np.uint8)
    assert_seven(picture)


@pytest.mark.parametrize("paper", [shadow, dark_corners, noise, specks])
def test_nor_does_it_below_thin_strokes(paper):
    picture = paper(seven(paper=220, ink=40, pen=4)).clip(0, 255).astype(np.uint8)
    image = helpers.prepare_digit(picture)
    assert_prepared(image)
    assert likeness(image, helpers.prepare_digit(seven(pen=4))) > 0.9


def test_ink_is_as_dark_in_the_shadow_as_in_the_light():
    picture = np.full((200, 200), 220)
    picture[30:170, 40:60] = picture[30:170, 140:160] = 40
    picture = (picture * np.where(ACROSS < 0.5, 1, 0.5)).astype(np.uint8)
    image = helpers.prepare_digit(picture)
    left, right = image[:, :14].max(axis=1), image[:, 14:].max(axis=1)
    assert right[8:20].min() > 0.9 * left[8:20].min()


def test_pieces_of_a_digit_are_kept_and_specks_are_not():
    picture = np.full((200, 200), 255, np.uint8)
    picture[40:160, 60:80] = 0  # like a 5 with its bar drawn apart
    picture[40:50, 100:140] = 0
    with_bar = helpers.prepare_digit(picture)
    picture[180:184, 180:184] = 0
    assert np.array_equal(helpers.prepare_digit(picture), with_bar)
    assert with_bar.any(axis=1).sum() == 20
    assert with_bar[:, 18:].max() == 255, "the bar is missing"


def test_a_digit_that_reaches_the_edge_is_still_one():
    assert_seven(seven()[32:168, 52:148], at_least=0.9)


def test_otsu_divides_two_groups():
    values = np.concatenate([np.full(900, 10), np.full(100, 200)]).astype(np.float32)
    assert 10 <= helpers._otsu_threshold(values) < 200


# ------------------------------------------------------------------------------------------ errors


def refusal(picture, error=ValueError):
    """The one sentence with which a picture is refused, the same by all who prepare it."""
    with pytest.raises(error) as caught:
        helpers.prepare_digit(picture)
    with pytest.raises(error) as plotted:
        helpers.plot_preparation(picture)
    assert sentence(plotted) == sentence(caught)
    return sentence(caught)


@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "nothing"])
def test_a_path_without_a_file_is_refused(tmp_path, folder):
    path = tmp_path / "digit.png"
    if folder:
        path.mkdir()
    text = refusal(path, FileNotFoundError)
    assert text == f"{path} is no file: name a picture, such as a PNG or a JPEG."


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "a model"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, kind):
    path = tmp_path / "digit.png"
    Image.fromarray(seven()).save(path)
    data = path.read_bytes()
    path.write_bytes(
        {"text": b"seven", "empty": b"", "cut short": data[:300], "a model": b"PK\x03\x04"}[kind]
    )
    assert re.fullmatch(
        rf"{re.escape(str(path))} cannot be read as a picture \(\w+\), being damaged or of another "
        r"kind: save it again as a PNG or a JPEG\.",
        refusal(str(path)),
    )


BAD_ARRAYS = {
    "empty": (np.zeros((0, 5)), "float64 of shape (0, 5) was found"),
    "a row": (np.zeros(784), "float64 of shape (784,) was found"),
    "two channels": (np.zeros((9, 9, 2)), "float64 of shape (9, 9, 2) was found"),
    "several pictures": (np.zeros((5, 9, 9)), "float64 of shape (5, 9, 9) was found"),
    "NaN": (
        np.where(np.eye(9) == 1, np.nan, 0),
        "float64 of shape (9, 9) with NaN or infinity was found",
    ),
    "infinity": (
        np.where(np.eye(9) == 1, np.inf, 0),
        "float64 of shape (9, 9) with NaN or infinity was found",
    ),
    "text": (np.full((9, 9), "a"), "<U1 of shape (9, 9) was found"),
    "complex": (np.eye(9) * 1j, "complex128 of shape (9, 9) was found"),
    "nothing": (None, "object of shape () was found"),
}


@pytest.mark.parametrize("array, found", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_an_array_that_is_no_picture_is_refused(array, found):
    assert refusal(array) == (
        "picture should be finite numbers of shape (h, w) or (h, w, 3) or (h, w, 4), but "
        f"{found.removesuffix(' was found')} was found: pass such an array or the path of a file."
    )


@pytest.mark.parametrize("scale, found", [(2.0, "0.0 to 510.0"), (-1, "-255 to 0")])
def test_numbers_out_of_range_are_refused(scale, found):
    picture = seven().astype(type(scale)) * scale
    text = refusal(picture)
    assert text.startswith("picture should hold numbers from 0 to 255, or fractions from 0 to 1, ")
    assert f"but {found} were found: scale them" in text


RNG = np.random.default_rng(0)
BLANK = {
    "white": np.full((50, 50), 255, np.uint8),
    "black": np.zeros((50, 50), np.uint8),
    "grey": np.full((300, 200, 3), 128, np.uint8),
    "true": np.ones((28, 28), bool),
    "a pixel": np.ones((1, 1)),
    "a row of white": np.ones((1, 50)),
    "a column of white": np.ones((50, 1)),
    "noise": RNG.normal(128, 8, (300, 300)).astype(np.uint8),
    "dark noise": RNG.normal(9, 3, (300, 300)).clip(0).astype(np.uint8),
    "light falling off": np.full((200, 200), 220) * (1 - 0.2 * ACROSS),
    "faint": seven(paper=255, ink=250),
    "nearly black": seven(paper=3, ink=1),
    "transparent": np.zeros((50, 50, 4), np.uint8),
}


@pytest.mark.parametrize("picture", BLANK.values(), ids=BLANK)
def test_a_blank_picture_is_refused(picture):
    assert refusal(picture) == (
        f"{ALL_BLANK}: write the digit with a darker pen or crop the picture to it."
    )


def png_header(width, height):
    """A PNG file that claims a size and holds nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("side", [12_300, 13_000, 20_000, 2**30])
def test_a_file_of_ridiculous_size_is_refused_at_once(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    assert refusal(tmp_path / "bomb.png") == (
        f"{tmp_path / 'bomb.png'} has more than 150 million pixels: crop it to the digit or make "
        "it smaller."
    )


def test_an_array_of_ridiculous_size_is_refused():
    picture = np.broadcast_to(np.False_, (20_000, 10_000))
    assert refusal(picture).startswith("picture has more than 150 million pixels: crop it")


@pytest.mark.parametrize("kind", ["jpg", "png", "array"])
def test_a_photograph_of_twelve_megapixels_is_read(tmp_path, kind):
    photo = Image.fromarray(seven(1000, pen=80, paper=210, ink=50)).resize((3464, 3464))
    picture = np.asarray(photo)
    if kind != "array":
        picture = tmp_path / f"photo.{kind}"
        photo.save(picture, **({"compress_level": 1} if kind == "png" else {}))
    if kind == "jpg":
        assert max(helpers._read_picture(picture).size) < 500, "it is not shrunk while read"
    assert_seven(picture)


def test_more_pixels_than_pillow_warns_of_are_read_without_a_warning(tmp_path, monkeypatch):
    Image.fromarray(seven()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    assert_seven(tmp_path / "a.png")


def test_the_picture_is_left_as_it_was():
    picture = seven()
    before = picture.copy()
    helpers.prepare_digit(picture)
    assert np.array_equal(picture, before)
    picture.setflags(write=False)
    helpers.prepare_digit(picture)


# -------------------------------------------------------------------- the naive way, the disguises


def test_the_naive_digit_is_the_whole_picture_as_it_is(images):
    image = helpers.naive_digit(seven())
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert image[0, 0] == 255
    assert np.abs(image[:, ::-1] - helpers.naive_digit(seven()[:, ::-1]).astype(int)).max() <= 1
    dark = np.argwhere(image < 100)
    assert dark.min(axis=0)[0] == pytest.approx(28 * 32 / 200, abs=1.5)
    assert np.array_equal(helpers.naive_digit(images[0]), images[0])


def test_disguises_are_what_they_say(images):
    image = images[0]

    def disguised(look):
        picture = helpers.disguise(image, np.random.default_rng(0), **helpers.DISGUISES[look])
        assert picture.dtype == np.uint8
        return picture

    assert np.array_equal(disguised("dark on white"), 255 - image)
    large = disguised("large picture")
    assert large.ndim == 2 and 200 <= len(large) <= 400
    assert large.max() == 255 and large.min() < 10
    assert disguised("on grey paper").max() == 170
    uneven = disguised("shadow and noise")
    assert uneven[:20, :20].mean() > 1.7 * uneven[-20:, -20:].mean()
    assert 3 < np.diff(uneven[:20, :20].astype(float)).std() / 2**0.5 < 7
    colour = disguised("blue on yellow")
    assert colour.shape[2] == 3
    assert tuple(colour[0, 0]) == (250, 240, 190)
    sizes = {len(helpers.disguise(image, np.random.default_rng(i))) for i in range(9)}
    assert len(sizes) > 5


# ----------------------------------------------------------------------------------------- picture


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    images = []
    monkeypatch.setattr(helpers, "display", images.append)
    return images


def pixels_of_colour(png, colour):
    """Which pixels of a PNG have a colour."""
    pixels = imread(io.BytesIO(png), format="png")[..., :3]
    return np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.01


def test_the_steps_are_drawn_side_by_side(shown):
    helpers.plot_preparation(seven(), "A seven")
    helpers.plot_preparation(seven())
    for image in shown:
        assert_picture(image)
        mark = pixels_of_colour(image.data, helpers.WRONG)
        assert mark.any(), "the middle is not marked"
        assert 0.85 < mark.nonzero()[1].mean() / mark.shape[1] < 0.9
    assert shown[0].alt == "A seven: picture, ink alone, cropped and fitted, centred."


def test_the_steps_lead_to_the_prepared_digit():
    steps = helpers._preparation(seven(400))
    assert [step.shape for step in steps.values()] == [(300, 300), (300, 300), (20, 15), (28, 28)]
    assert np.array_equal(steps["centred"], helpers.prepare_digit(seven(400)))
    assert steps["picture"].min() == 0 and steps["picture"][0, 0] == 255
    assert steps["ink alone"].max() == 255 and steps["ink alone"][0, 0] == 0


# ------------------------------------------------------------------------------------------ the pad

STROKE = [(70, 60), (190, 60), (110, 220)]
SURE, UNSURE = np.eye(10)[7], np.full(10, 0.1) + np.eye(10)[7] * 0.05 - 0.005


class Network:
    """In place of a network: keeps the images and gives the same answer to all of them."""

    def __init__(self, p=SURE):
        self.p, self.images = p, []

    def __call__(self, image):
        self.images.append(image)
        if isinstance(self.p, Exception):
            raise self.p
        return self.p


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def pad(network):
    return helpers.DrawingPad(network)


def send(pad, event, *points):
    """What the browser sends."""
    content = {"event": event}
    if event.startswith("touch"):
        content["touches"] = [{"x": x, "y": y} for x, y in points]
    else:
        content |= {"x": points[0][0], "y": points[0][1]}
    pad.canvas._handle_frontend_event(None, content, [])


def draw(pad, points, kind="mouse"):
    down, move, up = {
        "mouse": ("mouse_down", "mouse_move", "mouse_up"),
        "touch": ("touch_start", "touch_move", "touch_end"),
    }[kind]
    send(pad, down, points[0])
    for point in points[1:]:
        send(pad, move, point)
    send(pad, up, *([points[-1]] if kind == "mouse" else []))


def said(pad):
    """The text on the pad; if there is a picture with it, it has the same text."""
    text = re.sub(r"<br><img [^>]*>$", "", pad.answer.value)
    for alt in re.findall(r'alt="([^"]*)"', pad.answer.value):
        assert alt == text
    assert "<" not in text
    return html.unescape(text)


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_digit_drawn_is_read_when_the_pen_is_lifted(pad, network, kind):
    draw(pad, STROKE, kind)
    (image,) = network.images
    assert_prepared(image)
    assert likeness(image, SEVEN) > 0.9
    assert said(pad) == "The answer is 7, with a probability of 100.0%."


def test_nothing_is_read_before_the_pen_is_lifted(pad, network):
    send(pad, "mouse_down", STROKE[0])
    send(pad, "mouse_move", STROKE[1])
    assert not network.images
    send(pad, "mouse_out", STROKE[1])
    assert len(network.images) == 1


def test_the_mouse_draws_nothing_before_it_is_pressed_or_after_it_left(pad, network):
    for event in ("mouse_move", "mouse_up", "mouse_out"):
        send(pad, event, (10, 10))
    assert not pad.strokes and not network.images
    send(pad, "mouse_down", STROKE[0])
    send(pad, "mouse_out", STROKE[1])
    send(pad, "mouse_move", STROKE[2])
    assert pad.strokes == [[STROKE[0]]]


def test_strokes_add_up(pad, network):
    draw(pad, [(70, 60), (190, 60)])
    draw(pad, [(190, 60), (110, 220)], "touch")
    assert likeness(network.images[0], SEVEN) < 0.7
    assert likeness(network.images[1], SEVEN) > 0.9


def test_one_stroke_is_not_drawn_twice_by_two_kinds_of_events_or_two_fingers(pad, network):
    send(pad, "touch_start", STROKE[0])
    send(pad, "mouse_down", STROKE[0])
    send(pad, "touch_start", STROKE[0], (5, 5))
    send(pad, "touch_move", STROKE[1], (9, 9))
    send(pad, "touch_move", STROKE[2], (9, 9))
    send(pad, "touch_end", (9, 9))  # what still touches
    send(pad, "mouse_up", STROKE[2])
    send(pad, "touch_move", (20, 20))
    send(pad, "touch_end")
    assert pad.strokes == [STROKE]
    assert len(network.images) == 1


def test_an_interrupted_touch_ends_the_stroke(pad, network):
    send(pad, "touch_start", STROKE[0])
    send(pad, "touch_move", STROKE[1])
    send(pad, "touch_cancel")
    assert len(network.images) == 1


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_dot_is_read_like_everything_else(pad, network, kind):
    draw(pad, [(140, 140)], kind)
    (image,) = network.images
    assert image.max() == 255
    assert said(pad).startswith("The answer is 7")


def test_a_stroke_may_leave_the_pad(pad, network):
    draw(pad, [(140, 20), (140, 400), (-50, 300)])
    assert len(network.images) == 1
    draw(pad, [(-100, -100)])
    assert len(network.images) == 2


def test_a_stroke_beside_the_pad_is_nothing(pad, network):
    draw(pad, [(-100, -100)])
    assert not network.images
    assert said(pad).startswith(f"This could not be read (ValueError): {ALL_BLANK}")


def clear_button(pad):
    (button,) = (w for w in pad.children[0].children if getattr(w, "description", "") == "Clear")
    return button


def test_the_button_clears_the_pad(pad, network):
    invitation = said(pad)
    assert invitation.startswith("Draw a digit on the pad")
    draw(pad, [(20, 20), (20, 250)])
    assert said(pad) != invitation
    clear_button(pad).click()
    assert said(pad) == invitation and pad.strokes == []
    draw(pad, STROKE)
    assert likeness(network.images[-1], SEVEN) > 0.9


def test_the_picture_on_the_pad_shows_the_digit_and_its_probabilities(pad):
    draw(pad, STROKE)
    data = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', pad.answer.value)[1])
    assert pixels_of_colour(data, "#FFFFFF")[0, 0]
    assert pixels_of_colour(data, helpers.TRAINING).sum() > 300, "the bar of the answer is missing"


@pytest.mark.parametrize("p, announced", [(0.69, False), (0.7, True), (0.71, True), (0.3, False)])
def test_a_low_probability_is_not_announced_as_an_answer(p, announced):
    rest = (1 - p) / 9
    pad = helpers.DrawingPad(Network(np.where(np.arange(10) == 4, p, rest)))
    draw(pad, STROKE)
    assert said(pad) == (
        f"The answer is 4, with a probability of {p:.1%}."
        if announced
        else f"Uncertain: the most probable digit is 4 with only {p:.1%}, so it is not announced "
        "as an answer."
    )
    assert "<img" in pad.answer.value


@pytest.mark.parametrize(
    "answer, text",
    [
        (RuntimeError("a <b> & c"), "This could not be read (RuntimeError): a <b> & c"),
        (np.eye(10), "probabilities should be finite numbers of shape (10,), but float64 of shape (10, 10) was found: let predict return such an array."),
        (np.full(10, np.nan), "with NaN or infinity was found"),
        (None, "but object of shape () was found"),
    ],
)  # fmt: skip
def test_a_predict_that_fails_is_told_on_the_pad_which_then_goes_on(answer, text):
    network = Network(answer)
    pad = helpers.DrawingPad(network)
    draw(pad, STROKE)
    assert text in said(pad)
    assert said(pad).startswith("This could not be read (")
    network.p = SURE
    draw(pad, STROKE)
    assert said(pad).startswith("The answer is 7")


def test_a_page_that_is_opened_later_gets_the_paper_and_all_strokes(pad, monkeypatch):
    draw(pad, STROKE)
    draw(pad, [(20, 20)])
    drawn = []
    for name in ("fill_rect", "stroke_line"):
        method = lambda canvas, *numbers: drawn.append((canvas.fill_style, *numbers))
        monkeypatch.setattr(type(pad.canvas), name, method)
    commands = []
    monkeypatch.setattr(
        pad.canvas._canvas_manager, "_send_custom", lambda command, *_: commands.append(command)
    )
    pad.canvas._handle_frontend_event(None, {"event": "client_ready"}, [])
    switch = COMMANDS["switchCanvas"], [f"IPY_MODEL_{pad.canvas.model_id}"]
    assert tuple(commands[0]) == switch, "the page does not know where to draw"
    assert drawn == [
        ("white", 0, 0, 280, 280),
        ("black", 70, 60, 70, 60), ("black", 70, 60, 190, 60), ("black", 190, 60, 110, 220),
        ("black", 20, 20, 20, 20),
    ]  # fmt: skip


# --------------------------------------------------------------------------------- opening the pad


def in_a_frontend(monkeypatch, allow_stdin):
    message = {"content": {"allow_stdin": allow_stdin}}
    monkeypatch.setattr(helpers, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: message))


def test_the_pad_opens_where_somebody_can_draw(shown, network, monkeypatch):
    in_a_frontend(monkeypatch, True)
    helpers.open_pad(network)
    (pad,) = shown
    assert isinstance(pad, helpers.DrawingPad)
    stored = pad._repr_mimebundle_()
    assert stored["text/plain"] == "A pad to draw a digit on; run this cell to use it."
    draw(pad, STROKE)
    assert len(network.images) == 1


FRONTENDS = {
    "nbconvert": lambda monkeypatch: in_a_frontend(monkeypatch, False),
    "plain Python": lambda monkeypatch: monkeypatch.setattr(helpers, "get_ipython", lambda: None),
    "IPython": lambda monkeypatch: monkeypatch.setattr(helpers, "get_ipython", lambda: object()),
}


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_an_example_is_shown_where_nobody_can(shown, network, monkeypatch, capsys, frontend):
    FRONTENDS[frontend](monkeypatch)
    monkeypatch.setattr(helpers, "DrawingPad", None)
    helpers.open_pad(network)
    (image,) = shown
    assert_picture(image)
    assert image.alt.endswith("The answer is 7, with a probability of 100.0%.")
    text = capsys.readouterr().out
    assert text.startswith("Run this cell in JupyterLab, and a pad to draw on opens here.")
    assert text.endswith("The answer is 7, with a probability of 100.0%.\n")
    assert_prepared(network.images[0])


def test_a_predict_that_fails_stops_the_run_where_nobody_can_draw(shown, monkeypatch):
    in_a_frontend(monkeypatch, False)
    with pytest.raises(RuntimeError):
        helpers.open_pad(Network(RuntimeError("broken")))
    assert not shown


def test_importing_the_helpers_opens_no_widget(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ipycanvas"]:
        monkeypatch.delitem(sys.modules, name)
    runpy.run_path(helpers.__file__)
    assert "ipycanvas" not in sys.modules


def test_drawing_and_reading_give_no_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pad = helpers.DrawingPad(Network(UNSURE))
        draw(pad, STROKE)
    assert not caught
    assert said(pad).startswith("Uncertain")
