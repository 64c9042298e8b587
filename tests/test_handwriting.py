"""A reader's own digit: what becomes of pictures of all kinds, and of paper as people have it."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from test_helpers import sentence

import helpers

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = sorted((ROOT / "data" / "handwriting").glob("*.jpg"))
DIGITS = helpers.load_mnist(ROOT / "data")[2][:20]

pytestmark = pytest.mark.filterwarnings("error")


def seven(side=200, pen=16, paper=255, ink=0, box=(55, 40, 145, 160)):
    """A 7 in grey; box is what it lies in, measured in a picture of side 200: (x, y, x, y)."""
    left, top, right, bottom = (4 * n * side / 200 for n in box)
    large = Image.new("L", (4 * side, 4 * side), paper)
    points = [(left, top), (right, top), (left + (right - left) / 3, bottom)]
    ImageDraw.Draw(large).line(points, fill=ink, width=4 * pen, joint="curve")
    return np.asarray(large.reduce(4))


SEVEN = helpers.prepare_digit(seven())


def likeness(image, other):
    """Correlation of the pixels, 1 for the same image, even if one is shifted by a pixel."""
    shifted = [np.roll(image, shift, (0, 1)) for shift in product((-1, 0, 1), repeat=2)]
    return max(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one in shifted)


def prepared(picture):
    """The prepared picture, of which is true what is true of every image of MNIST."""
    image = helpers.prepare_digit(picture)
    assert (image.shape, image.dtype, image.max()) == ((28, 28), np.uint8, 255)
    assert max(image.any(axis=0).sum(), image.any(axis=1).sum()) == 20
    assert abs(np.array(ndimage.center_of_mass(image)) - 14).max() <= 0.6
    assert (image == 0).mean() > 0.5, "the paper is not blank"
    return image


def test_a_digit_becomes_as_those_of_mnist():
    picture = seven()
    image = prepared(picture)
    assert np.array_equal(picture, seven()), "the picture is changed"
    assert 0.05 < ((image > 0) & (image < 255)).mean() < 0.4, "edges should be grey"
    assert (image.any(axis=1).sum(), image.any(axis=0).sum()) == (20, 15)  # 120 by 90 and the pen
    assert (image[8:11, 6:20] > 200).any(axis=0).all(), "the upper bar is missing"
    assert image[18:, 18:].max() == 0, "there should be nothing at the lower right"
    assert np.median([likeness(prepared(digit), digit) for digit in DIGITS]) > 0.97


grey = seven()
ARRAYS = {
    "light on dark": 255 - grey,
    "dark, of low contrast": 40 - (grey // 10),
    "boolean": grey > 127,
    "integers 0 and 1": (grey > 127).astype(np.uint8),
    "fractions": (grey / 255).astype(np.float32).tolist(),
    "16 bits": grey.astype(np.uint16) * 257,
    "RGB": np.dstack([grey, grey, np.full_like(grey, 90)]),
    "black on nothing": np.dstack([0 * grey] * 3 + [255 - grey]),
    "white on nothing": np.dstack([0 * grey + 255] * 3 + [255 - grey]),
    "opened by Pillow": Image.fromarray(grey).convert("P"),
}


@pytest.mark.parametrize("picture", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_all_kinds_give_the_same_digit(picture):
    assert likeness(prepared(picture), SEVEN) > 0.97


FILES = {"a.png": "L", "a.jpg": "L", "a.webp": "L", "a.gif": "L", "1.png": "1", "p.png": "P"}
FILES |= {"la.png": "LA", "rgb.jpg": "RGB", "cmyk.jpg": "CMYK", "clear.png": "L"}
FILES |= {"16.png": "I;16", "i.tif": "I", "f.tif": "F"}  # more than 8 bits


@pytest.mark.parametrize("name", FILES)
def test_files_of_all_kinds_give_the_same_digit(tmp_path, monkeypatch, name):
    values = {"16.png": seven().astype(np.uint16) * 257, "f.tif": seven() / np.float32(255)}
    image = Image.fromarray(values.get(name, seven())).convert(FILES[name])
    image.save(tmp_path / name, **{"transparency": 255} if name == "clear.png" else {})
    assert likeness(prepared(tmp_path / name), SEVEN) > 0.97
    for home in ("HOME", "USERPROFILE"):  # the latter on Windows
        monkeypatch.setenv(home, str(tmp_path))
    assert likeness(prepared(f"~/{name}"), SEVEN) > 0.97


def test_a_photograph_of_twelve_megapixels_is_turned_as_the_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    stored = Image.fromarray(np.rot90(seven(400, 32, 210, 50))).resize((3464, 3464))
    stored.save(tmp_path / "photo.jpg", exif=exif)
    assert likeness(prepared(tmp_path / "photo.jpg"), SEVEN) > 0.97


def test_a_picture_merely_shrunk_is_inverted(tmp_path):
    large = 255 - DIGITS[0].repeat(10, 0).repeat(10, 1)
    Image.fromarray(large).save(tmp_path / "a.png")
    for picture in (tmp_path / "a.png", large, 255 - DIGITS[0]):
        shrunk = Image.fromarray(helpers.preparation(picture)["picture"]).resize((28, 28))
        assert abs(np.asarray(shrunk, int) - DIGITS[0]).mean() < 3


@pytest.mark.parametrize("picture", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_every_photograph_is_prepared(picture):
    prepared(picture)


@pytest.mark.parametrize("pen", [1, 4, 32])
def test_thin_and_thick_pens_leave_full_black_strokes(pen):
    image = prepared(seven(pen=pen))
    assert likeness(image, SEVEN) > 0.75
    rows = image[image.any(axis=1)][4:-2]
    assert rows.max(axis=1).min() > 180, "a stroke is pale"
    assert pen > 4 or 1.5 < rows[4:12].sum(axis=1).mean() / 255 < 3.5, "MNIST's are 2 to 3 wide"


SIZES = [seven(28, 2), seven(700, 56), seven(400, 12, box=(10, 10, 40, 60))]
SIZES += [seven()[32:168, 47:153]]  # cut out narrowly
SIZES += [np.where(np.arange(200)[:, None] % 32 < 4, 255, seven())]  # a pen that skips
SIZES += [np.where(np.arange(28)[:, None] % 8 < 1, 255, seven(28, 2))]


@pytest.mark.parametrize("picture", SIZES)
def test_a_digit_of_any_size_and_place_or_in_pieces_is_a_digit(picture):
    assert likeness(prepared(picture), SEVEN) > 0.8


def test_a_dim_photograph_is_not_taken_for_light_ink_on_dark_paper():
    assert likeness(prepared(Image.fromarray(seven(paper=90, ink=20))), SEVEN) > 0.97


def test_a_straight_stroke_is_neither_a_line_of_the_paper_nor_made_wider():
    picture = np.full((200, 200), 230, np.uint8)
    picture[4:196, 96:104] = 60
    image = prepared(picture)
    assert (image[:, 10:18] > 0).any(axis=1).sum() == 20 and image.any(axis=0).sum() <= 4


ACROSS = np.linspace(0, 1, 200)
DOWN, RNG = ACROSS[:, None], np.random.default_rng(2)
FRAME = np.pad(np.pad(np.zeros((162, 162), bool), 4, constant_values=True), 15)
UNDERLINE = (abs(DOWN - 0.9) < 0.02) & (abs(ACROSS - 0.5) < 0.35)
grey = seven(paper=220, ink=40, pen=6).astype(float)
TRACES = {
    "shadow": grey * (1 - 0.6 / (1 + np.exp(9 - 9 * (ACROSS + DOWN)))),
    "noise": grey + RNG.normal(0, 8, grey.shape),
    "specks": np.where(RNG.random(grey.shape) < 0.001, 30, grey),
    "table": np.where(ACROSS < 0.12, 50, grey),
    "table all around": np.pad(grey, 30, constant_values=90),
    "printed frame": np.where(FRAME, 60, grey),
    "underline": np.where(UNDERLINE, 40, grey),
    "print behind": grey - 20 * np.kron(RNG.random((50, 50)) < 0.1, np.ones((4, 4))),
    "tall": np.pad(grey, [(150, 250), (0, 0)], constant_values=220),
    "unsharp and faint": ndimage.gaussian_filter(195 + grey / 8, 2),
}


@pytest.mark.parametrize("picture", TRACES.values(), ids=TRACES)
def test_paper_leaves_no_trace(picture):
    image = prepared(picture.clip(0, 255).astype(np.uint8))
    assert likeness(image, prepared(seven(pen=6))) > 0.88


def on_paper(image, rng, across=0.0, down=0.0, dots=0.0, ink=0.8, pen=0.0):
    """A digit of MNIST in a shadow on paper whose lines or dots take these parts of its light."""
    side = int(rng.integers(200, 350))
    digit = int(side * rng.uniform(0.4, 0.7))
    large = np.asarray(Image.fromarray(image).resize((digit, digit))) / 255
    filtered = ndimage.grey_dilation if pen > 0 else ndimage.grey_erosion
    large = filtered(large, 1 + 2 * round(abs(pen) * digit / 28))
    top, left = rng.integers(0, side - digit + 1, 2)
    cover = np.pad(large, [(n, side - digit - n) for n in (top, left)])
    y, x = np.indices((side, side)) / side - 0.5
    turn = np.radians(rng.uniform(-3, 3))
    y, x = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    width, distance = rng.uniform(0.003, 0.01), rng.uniform(0.07, 0.2)
    rows, columns = (abs(z % distance - distance / 2) for z in (y, x))
    light = 1 - rng.uniform(0, 0.4) / (1 + np.exp(-6 * (x + y)))
    for darkness, away in ((across, rows), (down, columns), (dots, np.hypot(rows, columns) / 2)):
        light = light * (1 - darkness * np.clip((width / 2 - away) * side + 0.5, 0, 1))
    picture = ndimage.gaussian_filter(235 * light * (1 - ink * cover), 0.7)
    return (picture + rng.normal(0, 3, picture.shape)).round().clip(0, 255).astype(np.uint8)


SQUARES = {"across": 0.4, "down": 0.4}
PAPERS = {
    "plain": {}, "ruled": {"across": 0.4}, "squared": SQUARES, "pale ink": SQUARES | {"ink": 0.6},
    "thick pen": SQUARES | {"pen": 0.7}, "thin pen": SQUARES | {"pen": -0.3}, "dots": {"dots": 0.4},
}  # fmt: skip


@pytest.mark.parametrize("paper", PAPERS)
def test_lines_of_the_paper_leave_no_trace(paper):
    found = []
    for seed, digit in enumerate(DIGITS[:5]):
        image = prepared(on_paper(digit, np.random.default_rng(seed), **PAPERS[paper]))
        plain = on_paper(digit, np.random.default_rng(seed), pen=PAPERS[paper].get("pen", 0))
        found.append(likeness(image, prepared(plain)))
    assert np.median(found) > 0.92 and min(found) > 0.75


def test_the_steps_have_names_and_end_in_the_prepared_digit():
    steps = helpers.preparation(seven())
    names = "picture, light divided out, lines taken away, the digit's pieces, centred"
    assert ", ".join(steps) == names and np.array_equal(steps["centred"], SEVEN)


def refusal(picture):
    with pytest.raises(ValueError) as caught:
        helpers.prepare_digit(picture)
    return sentence(caught)


def test_what_is_no_file_or_no_picture_is_refused(tmp_path):
    path = tmp_path / "digit.png"
    assert f"No such file or directory: '{path}')" in refusal(path)
    assert refusal(tmp_path).startswith("picture cannot be read (")
    Image.fromarray(seven()).save(path)
    for data in (b"seven", b"", path.read_bytes()[:300]):
        path.write_bytes(data)
        assert refusal(path).startswith("picture cannot be read (")
    path.write_bytes(b"P5 20000 20000 255\n")  # so large that Pillow refuses it
    assert refusal(path).endswith("give a PNG, JPEG or array.")


BAD = [np.full((9, 9), "a"), np.full((9, 9), None), np.ones((9, 9, 5)), np.ones((0, 5))]


@pytest.mark.parametrize("array", BAD)
def test_an_array_that_is_no_picture_is_refused(array):
    assert refusal(array).startswith("picture cannot be read (")


BLANK = [np.full((50, 50), 255), np.zeros((50, 50)), np.ones((50, 1)), np.zeros((50, 50, 4))]
BLANK += [np.full((9, 9), value) for value in (np.nan, np.inf, -1)]
BLANK += [RNG.normal(128, 8, (300, 300)), 220 - 40 * (DOWN + ACROSS), seven(ink=250)]


@pytest.mark.parametrize("picture", BLANK)
def test_a_blank_picture_is_refused(picture):
    assert refusal(picture).startswith("picture seems to be blank: use a darker pen, or crop")


def test_several_digits_are_refused():
    text = refusal(np.hstack([seven(side=140, pen=11)] * 2))
    assert text == "picture seems to show several digits: crop it to one of them."
