"""The helpers: loading, figures, the curves of a training, the pad; what they say when it fails."""

import gzip
import hashlib
import io
import re
import signal
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from PIL import Image, ImageDraw
from torchvision.datasets import MNIST

import helpers

RNG = np.random.default_rng(0)


def sentence(caught):
    """The text of an error, which has to be a single sentence."""
    text = str(caught.value)
    assert text.endswith(".") and not re.search(r"\n|[.!?] [A-Z]", text), text
    return text


# ---------------------------------------------------------------------------------------- loading
SHAPES = [(60, 28, 28), (60,), (10, 28, 28), (10,)]  # a thousandth of MNIST
WHOLE = {}  # the four archives, in the format of MNIST
for (name, _), shape in zip(MNIST.resources, SHAPES):
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    WHOLE[name] = gzip.compress(header + RNG.integers(0, 10, shape, np.uint8).tobytes())
MD5 = {name: hashlib.md5(data).hexdigest() for name, data in WHOLE.items()}


@pytest.fixture
def raw(monkeypatch, tmp_path):
    """A folder with the small MNIST."""
    monkeypatch.setattr(MNIST, "resources", list(MD5.items()))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive, data in WHOLE.items():
        (raw / archive).write_bytes(data)
    return raw


def test_nothing_is_written_or_said_and_no_unpacked_file_is_trusted(raw, tmp_path, capsys):
    for archive in WHOLE:
        (raw / archive[:-3]).write_bytes(b"left by a killed run")
    assert [array.shape for array in helpers.load_mnist(tmp_path)] == SHAPES
    assert len(list(raw.iterdir())) == 8 and capsys.readouterr().out == ""


@pytest.mark.parametrize("left", [None, -9])
def test_an_archive_that_is_missing_or_damaged_is_named(raw, tmp_path, left):
    archive, md5 = list(MD5.items())[2]
    path = raw / archive
    path.unlink() if left is None else path.write_bytes(WHOLE[archive][:left])
    with pytest.raises(RuntimeError) as caught:
        helpers.load_mnist(tmp_path)
    advice = f"put the original there, with the MD5 sum {md5}, and run this again."
    assert sentence(caught) == f"{path} is missing or damaged: {advice}"


# ---------------------------------------------------------------------------------------- figures
IMAGES, X = RNG.integers(0, 256, (39, 28, 28), np.uint8), np.linspace(1, 2, 9)
X_ROW = RNG.normal(size=784)
LINES = {"a": (X, X), "b": (X, X**2), "gone": (X, X * np.nan)}
VALUES, FACTORS = [None, [3.4951, -0.03], 1.9], [np.array([[2, 0]]), np.array([[0.5], [-0.1]])]
PATHS = [["w", "z^{(1)}", "L"], VALUES, [0.7, np.array([[0.5, -0.1]]), 1], FACTORS, "Paths"]
GAPS = {"ReLU": [0.1, -0.02], "far": [3, 2]}
DIGITS = [IMAGES[:9], np.eye(10)[9 * [8]], 9 * [5], "Nine", 8]
GOOD = [  # function, arguments, and what the text has to tell
    ("network", [(784, 9, 9, 9, 9, 10)], "(784, 9, 9, 9, 9, 10)"),
    ("images", [IMAGES[:3], (0, 9, 5), "Three images"], "3 pictures: 0, 9, 5"),
    ("lines", [LINES, "Lines", "x", "y", "xy"], "b: 1 at 1 to 4 at 2; gone: nan at 1"),
    ("graph", PATHS, "_1 = 3.495, derivative 0.5; z^{(1)}_2 = −0.03, derivative −0.1; L = 1.9"),
    ("predictions", DIGITS, "8 (100%), is 5 (0%)"),
    ("dots", [GAPS, "Dots", "gap", ["far"]], "gap: ReLU 0.1, −0.02; far 3, 2."),
]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed in a notebook, in order."""
    shown = []
    monkeypatch.setattr(helpers, "get_ipython", SimpleNamespace)
    monkeypatch.setattr(helpers, "display", lambda data, **how: shown.append((data, how)))
    return shown


def colours_of(data, how):
    """Which colours an opaque PNG has; it has a text for those who cannot see it in two places."""
    assert how == {"raw": True, "metadata": {"image/png": {"alt": data["text/plain"]}}}
    pixels = imread(io.BytesIO(data["image/png"]), format="png")
    assert (pixels[0, 0] == 1).all(), "the paper is not white and opaque"
    assert pixels.min() < 0.9, "nothing is drawn"
    far = [abs(pixels[..., :3] - to_rgb(colour)).max(axis=2) for colour in helpers.COLOURS]
    return {k for k in range(5) if (far[k] < 0.02).sum() > 20}


@pytest.mark.parametrize(("function", "arguments", "told"), GOOD)
def test_pictures_are_told_and_in_a_plain_script_only_that(
    shown, monkeypatch, capsys, function, arguments, told
):
    getattr(helpers, f"plot_{function}")(*arguments)
    colours_of(*shown[0])
    assert told in shown[0][0]["text/plain"]
    monkeypatch.setattr(helpers, "get_ipython", lambda: None)
    getattr(helpers, f"plot_{function}")(*arguments)
    assert capsys.readouterr().out.rstrip() == shown.pop()[0]["text/plain"] and not shown


def test_eleven_lines_and_two_that_coincide_and_rows_of_pixels_are_all_seen(shown):
    helpers.plot_lines({f"line {k}": (X, X + k) for k in range(11)}, "Eleven", "x")
    helpers.plot_lines({"first": (X, X), "second": (X, X)}, "Coincide", "x")
    assert colours_of(*shown[0]) == {0, 1, 2, 3, 4} and {0, 1} <= colours_of(*shown[1])
    for image in (X_ROW.reshape(28, 28), X_ROW):
        helpers.plot_images([image], [0], "The same", signed=True)
    assert shown[2] == shown[3]


def test_a_derivative_and_a_number_stand_in_a_graph_of_paths(monkeypatch):
    monkeypatch.setattr(helpers, "show", show := Mock())
    helpers.plot_graph(*PATHS)
    said = [text.get_text() for text in show.mock_calls[0].args[0].axes[0].texts]
    assert said.count("−0.1") == 2 and "$w$" in said and "$z^{(1)}_2$\n−0.03" in said


# ------------------------------------------------------------------------------ watching a training
MEASURED = [((1 / n, 1 - 0.2 / n), (2 / n, 1 - 0.4 / n)) for n in (1, 2, 3)]


class Screen(list):  # records titles and lines instead of drawing them, by a clock of its own
    now, stop_at = 0.0, 0

    def show(self, figure, title, alt, put):
        assert title.startswith(alt[:-1])
        self.append((title, [list(line.get_ydata()) for ax in figure.axes for line in ax.lines]))
        if len(self) >= self.stop_at > 0:
            signal.raise_signal(signal.SIGINT)  # as the stop button does, each time again

    def train(self, seconds, every, planned=9):
        with helpers.live_curves(planned) as curves:
            for n, measured in enumerate(MEASURED, start=1):
                self.now += seconds
                curves.add(*measured, every and every * n)
        return curves


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    clock = SimpleNamespace(perf_counter=lambda: screen.now, sleep=lambda seconds: None)
    monkeypatch.setattr(helpers, "time", clock)
    monkeypatch.setattr(helpers, "show", screen.show)
    return screen


def test_measurements_are_told_and_drawn(screen):
    curves = screen.train(2, 3)
    rests = [title.split("; ")[-1] for title, _ in screen]
    assert rests == ["about 4 s left", "6 s in all", "6 s in all"]
    assert [len(lines[0]) for _, lines in screen] == [1, 3, 3]
    parts = curves.training, curves.validation
    assert screen[-1][1] == [[pair[i] for pair in part] for i in (0, 1) for part in parts]
    assert curves.epochs == [3, 6, 9] and [*zip(*parts)] == MEASURED
    text = "after 9 of 9 epochs: training 0.333, 93.33%; validation 0.667, 86.67%; 6 s"
    assert text in screen[-1][0]


def test_one_figure_is_displayed_and_then_updated(shown, monkeypatch):
    monkeypatch.setattr(helpers, "DisplayHandle", lambda: handle)
    handle = Mock()
    with helpers.live_curves(3) as curves:
        curves.add(*MEASURED[0])
    assert [name for name, *_ in handle.mock_calls] == ["display", "update"]
    assert all({0, 1} <= colours_of(data, how) for _, (data,), how in handle.mock_calls)


@pytest.mark.parametrize(("stop_at", "epochs"), [(1, 1), (2, 2), (4, 3)])
def test_the_stop_button_loses_nothing_also_if_pressed_twice(screen, capsys, stop_at, epochs):
    screen.stop_at, heard = stop_at, signal.getsignal(signal.SIGINT)
    curves = screen.train(10, None, 3)
    assert list(zip(curves.training, curves.validation)) == MEASURED[:epochs]
    assert capsys.readouterr().out.startswith(f"Stopped after {epochs} of 3 epochs; the parameters")
    assert f"after {epochs} of 3 epochs" in screen[-1][0]
    assert signal.getsignal(signal.SIGINT) == heard
    with pytest.raises(KeyboardInterrupt), helpers.live_curves(3):
        raise KeyboardInterrupt  # in the first epoch: there is nothing to go on with


@pytest.mark.parametrize("bad", [((np.nan, 0), (1, 0)), ((1, 0), (np.float32(np.inf), 0))])
def test_divergence_is_told_in_one_sentence_and_not_by_warnings(screen, bad):
    before = np.geterr()
    with pytest.raises(FloatingPointError) as caught, helpers.live_curves(9) as curves:
        curves.add(*MEASURED[0])
        assert np.geterr() == dict.fromkeys(before, "ignore")
        curves.add(*bad)
    assert sentence(caught) == "the run diverged in epoch 2: lower the learning rate."
    assert curves.epochs == [1] and np.geterr() == before


# -------------------------------------------------------------------------------- drawing on a pad
SURE = np.full(10, 0.01) + 0.9 * np.eye(10)[7]
SEVEN = [(70, 60), (190, 60), (110, 220)]


def draw(pad, *strokes):
    """Draw on a pad as the browser does, which sends black ink on transparent paper."""
    drawing = Image.new("RGBA", (280, 280), (0, 0, 0, 0))
    for stroke in strokes:
        ImageDraw.Draw(drawing).line(stroke, fill="black", width=4)
    pad.replace_with_pil(drawing)
    return drawing


def test_what_is_drawn_is_read_and_what_cannot_be_read_is_told(shown, capsys):
    read = Mock(return_value=SURE)
    pad, _ = helpers.drawing_pad(read).children
    drawing = draw(pad, SEVEN)
    ((image,),) = (call.args for call in read.mock_calls)
    assert np.array_equal(image, helpers.prepare_digit(drawing))
    assert shown[0][0]["text/plain"].startswith("The answer is 7,\nwith a probability of 91.0%.")
    draw(pad, [(60, 60), (60, 220)], [(220, 60), (220, 220)])
    assert capsys.readouterr().out.endswith("several digits: crop it to one of them.\n")
    draw(pad)
    assert "picture seems to be blank" in capsys.readouterr().out
    draw(pad, SEVEN)
    assert len(shown) == 2 == read.call_count


@pytest.mark.parametrize(
    ("answer", "text"),
    [(0.034 + 0.656 * np.eye(10)[4], "Uncertain: the likeliest digit is 4,\nwith a probability"),
     (np.where(np.arange(10) == 4, 0.7, 0.03), "The answer is 4,\nwith a probability of 70.0%.")],
)  # fmt: skip
def test_what_is_said_of_a_doubtful_answer(shown, answer, text):
    draw(helpers.drawing_pad(lambda image: answer).children[0], SEVEN)
    assert shown[0][0]["text/plain"].startswith(text)


@pytest.mark.parametrize("can_draw", [True, False])
def test_a_pad_opens_or_an_example(shown, monkeypatch, capsys, can_draw):
    shell = Mock(get_parent=lambda: {"content": {"allow_stdin": can_draw}})
    monkeypatch.setattr(helpers, "get_ipython", lambda: shell)
    helpers.open_pad(lambda image: SURE)
    data, said = shown[0][0], capsys.readouterr().out
    assert can_draw == hasattr(data, "_repr_mimebundle_") == (said == "")
    if not can_draw:
        assert said.startswith("To draw a digit here, run this cell in JupyterLab.")
        assert data["text/plain"].startswith("The answer is 7")
