"""A reader's own digit: what becomes of pictures of all kinds, and of paper as people have it."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from test_helpers import sentence

import helpers

ROOT, BICUBIC = Path(__file__).resolve().parents[1], Image.Resampling.BICUBIC

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def mnist():
    """Training images and labels, test images and labels."""
    return helpers.load_mnist(ROOT / "data")


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


def test_a_picture_merely_shrunk_is_inverted_and_has_means_of_squares():
    digit, noise = SEVEN.astype(int), np.random.default_rng(0).integers(-9, 10, (28, 10, 28, 10))
    noise -= noise.mean(axis=(1, 3), keepdims=True).astype(int)
    picture = 255 - np.clip(digit.repeat(10, 0).repeat(10, 1), 20, 235) + noise.reshape(280, 280)
    assert abs(helpers.shrink(picture.astype(np.uint8)) - np.clip(digit, 20.0, 235)).max() < 1.5


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
    picture = seven()
    assert np.array_equal(helpers.prepare_digit(picture), SEVEN)
    assert np.array_equal(picture, seven()), "the picture is changed"
    assert_prepared(SEVEN)
    assert 0.05 < ((SEVEN > 0) & (SEVEN < 255)).mean() < 0.4, "edges should be grey"
    rows, columns = SEVEN.any(axis=1).sum(), SEVEN.any(axis=0).sum()
    assert (rows, columns) == (20, 15)  # the 7 is 90 pixels wide and 120 high, and the pen 16
    assert (SEVEN[8:11, 6:20] > 200).any(axis=0).all(), "the upper bar is missing"
    assert SEVEN[18:, 18:].max() == 0, "there should be nothing at the lower right"
    assert likeness(helpers.prepare_digit(seven()[:, ::-1]), SEVEN) < 0.8


def coloured(grey):
    return np.stack([grey, grey, np.full_like(grey, 90)], axis=-1)


def transparent(grey, colour):
    return np.dstack([np.full_like(grey, colour)] * 3 + [255 - grey])


KINDS = {
    "light on dark": lambda grey: 255 - grey,
    "boolean": lambda grey: grey > 127,
    "fractions": lambda grey: (grey / 255).astype(np.float32),
    "list": lambda grey: grey.tolist(),
    "RGB": coloured,
    "RGBA, opaque": lambda grey: np.dstack([coloured(grey), np.full_like(grey, 255)]),
    "black on transparent": lambda grey: transparent(grey, 0),
    "white on transparent": lambda grey: transparent(grey, 255),
    "low contrast, dark": lambda grey: 40 - (grey // 10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_all_kinds_give_the_same_digit(kind):
    assert_seven(KINDS[kind](seven()), at_least=0.97)


FILES = {
    "a.png": {}, "a.jpg": {}, "a.webp": {}, "a.gif": {}, "1.png": {"mode": "1"},
    "p.png": {"mode": "P"}, "la.png": {"mode": "LA"}, "i16.png": {"mode": "I;16"},
    "rgb.jpg": {"mode": "RGB"}, "cmyk.jpg": {"mode": "CMYK"}, "clear.png": {"transparency": 255},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_all_kinds_give_the_same_digit(tmp_path, name):
    options = dict(FILES[name])
    mode = options.pop("mode", "L")
    image = Image.fromarray(seven())
    if mode == "I;16":
        image = Image.fromarray(seven().astype(np.uint16) * 256)
    else:
        image = image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name, **options)
    assert_seven(tmp_path / name, at_least=0.97)
    assert_seven(str(tmp_path / name), at_least=0.97)


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


@pytest.mark.parametrize("side", [30, 100, 700])
def test_the_size_of_the_picture_does_not_matter(side):
    assert_seven(seven(side, pen=max(1, round(0.08 * side))), at_least=0.9)


@pytest.mark.parametrize("pen", [1, 4, 32])
def test_thin_and_thick_pens_leave_full_black_strokes(pen):
    image = helpers.prepare_digit(seven(pen=pen))
    assert_prepared(image)
    assert likeness(image, SEVEN) > 0.7
    rows = image[image.any(axis=1)][4:-2]
    assert rows.max(axis=1).min() > 180, "a stroke is pale"
    assert pen > 4 or rows[4:12].sum(axis=1).mean() < 3.2 * 255, "it is thicker than need be"


@pytest.mark.parametrize("place", [(10, 10, 40, 60), (150, 10, 190, 70), (20, 15, 180, 185)])
def test_the_place_of_the_digit_does_not_matter(place):
    image = helpers.prepare_digit(seven(side=400, pen=12, box=place))
    assert_prepared(image)
    assert likeness(image, SEVEN) > 0.75


@pytest.mark.parametrize("height, width", [(160, 10), (10, 160), (100, 50), (100, 100)])
def test_proportions_are_kept(height, width):
    picture = np.full((200, 200), 255, np.uint8)
    picture[20 : 20 + height, 20 : 20 + width] = 0
    image = helpers.prepare_digit(picture)
    found = image.any(axis=1).sum(), image.any(axis=0).sum()
    expected = 20 * height / max(height, width), 20 * width / max(height, width)
    assert np.abs(np.subtract(found, expected)).max() <= 1.5
    assert max(found) == 20


def test_images_of_mnist_hardly_change(mnist):
    for image in mnist[2][:50]:
        prepared = helpers.prepare_digit(image)
        assert_prepared(prepared)
        assert likeness(prepared, image) > 0.99
        assert likeness(helpers.prepare_digit(prepared), prepared) > 0.99


def test_a_thick_digit_that_nearly_fills_a_small_picture_is_no_blot():
    picture = Image.new("L", (28, 28), 255)
    draw = ImageDraw.Draw(picture)
    draw.line([(17, 3), (9, 10), (7, 18)], fill=15, width=9, joint="curve")
    draw.ellipse((4, 8, 23, 26), outline=15, width=7)
    image = helpers.prepare_digit(np.asarray(picture))
    middle = image[12:20, 10:18]
    assert image.max() == 255 and middle.min() < 60, "ink and paper are swapped"
    assert image.any(axis=1).sum() == 20


# ------------------------------------------------------------------------------------------- paper

ACROSS = np.linspace(0, 1, 200)


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


def printed_frame(grey):
    frame = np.zeros(grey.shape, bool)
    frame[15:185, 15:185], frame[19:181, 19:181] = True, False
    return np.where(frame, 60, grey)


@pytest.mark.parametrize(
    "paper", [dark_corners, noise, specks, table, table_all_around, printed_frame]
)
@pytest.mark.parametrize("pen", [4, 12])
def test_paper_leaves_no_trace(paper, pen):
    picture = paper(seven(paper=220, ink=40, pen=pen)).clip(0, 255).astype(np.uint8)
    image = helpers.prepare_digit(picture)
    assert_prepared(image)
    assert likeness(image, helpers.prepare_digit(seven(pen=pen))) > 0.88


def test_ink_is_as_dark_in_the_shadow_as_in_the_light():
    picture = np.full((200, 200), 220)
    picture[30:170, 60:80] = picture[30:50, 60:140] = picture[30:170, 120:140] = 40
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
    assert with_bar[:, 18:].max() == 255, "the bar is missing"


def test_a_digit_that_reaches_the_edge_is_still_one():
    assert_seven(seven()[32:168, 52:148], at_least=0.9)


# --------------------------------------------------------------------------------- paper with lines


def on_paper(image, rng, across=0.0, down=0.0, margin=0.0, dots=0.0, ink=0.8, pen=0):
    """A digit of MNIST on paper whose lines or dots take these fractions of its light."""
    side = int(rng.integers(200, 350))
    digit = int(side * rng.uniform(0.4, 0.7))
    cover = np.zeros((side, side))
    top, left = rng.integers(0, side - digit + 1, 2)
    large = np.asarray(Image.fromarray(image).resize((digit, digit), BICUBIC)) / 255
    if pen:
        filtered = ndimage.grey_dilation if pen > 0 else ndimage.grey_erosion
        large = filtered(large, 1 + 2 * round(abs(pen) * digit / 28))
    cover[top : top + digit, left : left + digit] = large
    y, x = np.indices((side, side)) / side - 0.5
    turn = np.radians(rng.uniform(-3, 3))
    y, x = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    width, distance = rng.uniform(0.003, 0.01), rng.uniform(0.07, 0.2)
    from_rows, from_columns = (abs(z % distance - distance / 2) for z in (y, x))
    places = (from_rows, from_columns, abs(x + 0.3), np.hypot(from_rows, from_columns) / 2)
    light = 1 - rng.uniform(0, 0.4) / (1 + np.exp(-6 * (x + y)))  # a shadow
    for darkness, place in zip((across, down, margin, dots), places):
        light = light * (1 - darkness * np.clip((width / 2 - place) * side + 0.5, 0, 1))
    picture = ndimage.gaussian_filter(235 * light * (1 - ink * cover), 0.7)
    return (picture + rng.normal(0, 3, picture.shape)).round().clip(0, 255).astype(np.uint8)


PAPERS = {
    "plain": {},
    "ruled, light": {"across": 0.2},
    "dotted": {"dots": 0.4},
    "squared, light": {"across": 0.15, "down": 0.15},
    "ruled with a margin": {"across": 0.2, "margin": 0.35},
    "ruled, strong": {"across": 0.4},
    "squared, strong": {"across": 0.4, "down": 0.4},
    "squared, pale ink": {"across": 0.4, "down": 0.4, "ink": 0.6},
    "squared, thick pen": {"across": 0.4, "down": 0.4, "pen": 0.7},
    "squared, thin pen": {"across": 0.4, "down": 0.4, "pen": -0.3},
}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_digit_on_paper_becomes_as_on_plain_paper(mnist, paper):
    found = []
    for seed, image in enumerate(mnist[2][:7]):
        look = PAPERS[paper]
        picture = on_paper(image, np.random.default_rng(seed), **look)
        pen = {"pen": look.get("pen", 0)}
        plain = on_paper(image, np.random.default_rng(seed), **pen)
        prepared = helpers.prepare_digit(picture)
        assert_prepared(prepared)
        found.append(likeness(prepared, helpers.prepare_digit(plain)))
        if paper == "plain":
            found[-1] = likeness(prepared, image)
    assert np.median(found) > 0.95
    assert np.mean(np.array(found) > 0.8) > 0.85


def test_a_straight_stroke_is_no_line():
    picture = np.full((200, 200), 230, np.uint8)
    picture[4:196, 96:104] = 60  # a 1 as high as the picture
    image = helpers.prepare_digit(picture)
    assert image.any(axis=1).sum() == 20 and image.any(axis=0).sum() <= 3


# ------------------------------------------------------------------------------------------ errors


def refusal(picture, error=ValueError):
    with pytest.raises(error) as caught:
        helpers.prepare_digit(picture)
    return sentence(caught)


@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "nothing"])
def test_a_path_without_a_file_is_refused(tmp_path, folder):
    path = tmp_path / "digit.png"
    if folder:
        path.mkdir()
    assert refusal(path, FileNotFoundError).startswith(f"{path} is no file: name a picture")


@pytest.mark.parametrize("data", [b"seven", b"", "cut short"], ids=["text", "empty", "cut short"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, data):
    path = tmp_path / "digit.png"
    Image.fromarray(seven()).save(path)
    path.write_bytes(path.read_bytes()[:300] if data == "cut short" else data)
    assert refusal(str(path)).startswith(f"{path} cannot be read as a picture (")


BAD_ARRAYS = {
    "empty": np.zeros((0, 5)),
    "two channels": np.zeros((9, 9, 2)),
    "NaN": np.where(np.eye(9) == 1, np.nan, 0),
    "infinity": np.where(np.eye(9) == 1, np.inf, 0),
    "text": np.full((9, 9), "a"),
    "too bright": np.eye(9) * 510,
    "below zero": np.eye(9) * -1,
}


@pytest.mark.parametrize("array", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_an_array_that_is_no_picture_is_refused(array):
    text = refusal(array)
    assert text.startswith("picture should be an array (h, w), (h, w, 3) or (h, w, 4) of numbers")
    assert f"{np.asarray(array).dtype} of shape {np.shape(array)}" in text


BLANK = {
    "white": np.full((50, 50), 255, np.uint8),
    "black": np.zeros((50, 50), np.uint8),
    "a column of white": np.ones((50, 1)),
    "noise": np.random.default_rng(0).normal(128, 8, (300, 300)).astype(np.uint8),
    "light falling off": np.full((200, 200), 220) * (1 - 0.2 * ACROSS),
    "faint": seven(paper=255, ink=250),
    "transparent": np.zeros((50, 50, 4), np.uint8),
}


@pytest.mark.parametrize("picture", BLANK.values(), ids=BLANK)
def test_a_blank_picture_is_refused(picture):
    assert refusal(picture).startswith("picture seems to be blank: use a darker pen, or crop")


@pytest.mark.parametrize("lines", [{"across": 0.4}, {"across": 0.3, "down": 0.3}])
def test_paper_with_nothing_but_lines_is_refused(lines):
    picture = on_paper(np.zeros((28, 28), np.uint8), np.random.default_rng(1), **lines)
    assert refusal(picture).startswith("picture shows nothing darker than its lines")


def test_several_digits_are_refused():
    two = np.hstack([seven(side=140, pen=11)] * 2)
    assert refusal(two) == "picture seems to show several digits: crop it to one of them."
    assert refusal(two.T) == refusal(two)


@pytest.mark.parametrize("side", [12_300, 20_000])  # Pillow itself warns, then refuses
def test_a_file_of_ridiculous_size_is_refused_at_once(tmp_path, side):
    (tmp_path / "bomb.pgm").write_bytes(b"P5 %d %d 255\n" % (side, side))
    assert refusal(tmp_path / "bomb.pgm").endswith(
        "too large: save it again as a PNG or a JPEG, cropped to the digit."
    )


def test_a_photograph_of_twelve_megapixels_is_read(tmp_path):
    photo = Image.fromarray(seven(1000, pen=80, paper=210, ink=50)).resize((3464, 3464))
    photo.save(tmp_path / "photo.jpg")
    assert_seven(tmp_path / "photo.jpg")


# ------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("lined", [True, False])
def test_the_steps_have_names_and_end_in_the_prepared_digit(mnist, lined):
    picture = on_paper(mnist[2][0], np.random.default_rng(1), across=0.4 * lined)
    steps = helpers.preparation(picture)
    names = ["picture", *["lines found"] * lined, "ink alone", "cropped and fitted", "centred"]
    assert list(steps) == names and np.array_equal(steps["picture"][:9, :9], 255 - picture[:9, :9])
    assert np.array_equal(steps["centred"], helpers.prepare_digit(picture))
