"""The helpers: loading, figures, the curves of a training, the pad; and what they say if it fails."""

import errno
import gzip
import hashlib
import html
import io
import os
import re
import runpy
import shutil
import socket
import sys
import tempfile
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import matplotlib.style
import numpy as np
import pytest
from matplotlib.image import imread
from packaging.requirements import Requirement
from PIL import Image
from torchvision.datasets import MNIST

import helpers

ROOT = Path(__file__).resolve().parents[1]


def sentence(caught):
    """The text of an error, which has to be a single sentence."""
    text = str(caught.value)
    assert text.endswith(".") and not re.search(r"\n|[.!?] [A-Z]", text), text
    return text


# ---------------------------------------------------------------------------------------- loading

RNG = np.random.default_rng(0)
SHAPES = [(60, 28, 28), (60,), (10, 28, 28), (10,)]  # a thousandth of MNIST
FAULTS = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "one byte altered": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "another file": lambda data: gzip.compress(data[::-1]),
    "longer": lambda data: data + data[:9],
}
WHOLE = {}  # the four archives, in the format of MNIST
for (name, _), shape in zip(MNIST.resources, SHAPES):
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    WHOLE[name] = gzip.compress(header + RNG.integers(0, 10, shape, np.uint8).tobytes())
MD5 = {name: hashlib.md5(data).hexdigest() for name, data in WHOLE.items()}  # noqa: S324


def contents(folder):
    """What lies in a folder and below: the bytes of each file, None for a folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}


@pytest.fixture
def raw(monkeypatch):
    """A folder with the small MNIST, where torchvision expects it; and no network."""
    monkeypatch.setattr(MNIST, "resources", list(MD5.items()))
    monkeypatch.setenv("no_proxy", "*")
    with tempfile.TemporaryDirectory() as root, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but listens to nobody, so all connections are refused
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{closed.getsockname()[1]}/"])
        Path(root).chmod(0o755)
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for name, data in WHOLE.items():
            (raw / name).write_bytes(data)
        yield raw


@contextmanager
def read_only(raw):
    """A folder where nothing can be written: root, who always can, is somebody else meanwhile."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has other permissions")
    user = os.geteuid()
    raw.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        raw.chmod(0o755)


def shapes_loaded(raw):
    return [array.shape for array in helpers.load_mnist(raw.parents[1])]


def refused(raw):
    """What a load says that fails, after which everything is as it was before."""
    before = contents(raw.parents[1])
    with pytest.raises(RuntimeError) as caught:
        helpers.load_mnist(raw.parents[1])
    assert contents(raw.parents[1]) == before
    return sentence(caught)


def test_mnist_itself_is_loaded_and_is_what_its_archives_hold():
    arrays = helpers.load_mnist(ROOT / "data")
    assert [a.shape for a in arrays] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    for array, (archive, md5) in zip(arrays, MNIST.resources):
        data = (ROOT / "data" / "MNIST" / "raw" / archive).read_bytes()
        assert hashlib.md5(data).hexdigest() == md5  # noqa: S324
        assert gzip.decompress(data).endswith(array.astype(np.uint8).tobytes())


def test_nothing_is_written_or_said_and_no_unpacked_file_is_trusted(raw, capsys):
    (raw / "train-images-idx3-ubyte").write_bytes(b"left by a killed run")
    before = contents(raw)
    assert shapes_loaded(raw) == SHAPES and contents(raw) == before
    with read_only(raw):
        assert shapes_loaded(raw) == SHAPES
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_archives_that_lack_or_are_damaged_are_downloaded(raw, monkeypatch, fault):
    def download(url, root, filename, md5):
        Path(root, filename).write_bytes(WHOLE[filename])

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    for name, data in WHOLE.items():
        (raw / name).write_bytes(FAULTS[fault](data))
    if fault == "empty":
        shutil.rmtree(raw.parent)
    else:
        with read_only(raw):
            assert shapes_loaded(raw) == SHAPES
    assert shapes_loaded(raw) == SHAPES and contents(raw) == WHOLE


@pytest.mark.parametrize("archive, fault", [*zip(WHOLE, FAULTS), (list(WHOLE)[3], "unreadable")])
def test_an_archive_that_cannot_be_had_is_named(raw, archive, fault):
    if fault == "unreadable":
        helpers.load_mnist(raw.parents[1])  # which imports what only root may import
        (raw / archive).chmod(0)
        with read_only(raw), pytest.raises(RuntimeError) as caught:
            helpers.load_mnist(raw.parents[1])
        text = sentence(caught)
    else:
        (raw / archive).write_bytes(FAULTS[fault](WHOLE[archive]))
        text = refused(raw)
    assert text.startswith(f"{archive} is missing or damaged and could not be downloaded (")
    assert f"MD5 sum {MD5[archive]}, at {(raw / archive).as_posix()} and run" in text


def test_a_full_disk_is_told(raw, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", Mock(side_effect=full))
    monkeypatch.setattr("torchvision.datasets.utils._decompress", Mock(side_effect=full))
    assert re.match(r"MNIST could not be unpacked in .*\(.*No space.*\): make room", refused(raw))


# ---------------------------------------------------------------------------------------- figures

IMAGES = RNG.integers(0, 256, (3, 28, 28), np.uint8)
X = np.linspace(1, 2, 9)
PANELS = {"Left": {"a": (X, X), "b": (X, X**2)}, "Right": {"c": (X, np.stack([X, X**3], 1))}}
GOOD = {
    "plot_network": [(784, 500, 300, 100, 10)],
    "plot_images": [IMAGES, (0, 9, 5), "Three images"],
    "plot_lines": [PANELS, "Lines in two panels", "layer", "y", "xy"],
    "plot_way_back": [(784, 500, 300, 100, 10)],
    "plot_predictions": [IMAGES, np.eye(10)[[0, 9, 8]], np.array([0, 9, 5]), "Three answers"],
    "plot_confusion": [RNG.integers(0, 9, (10, 10)), "Confusion"],
}


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    shown = []
    monkeypatch.setattr(helpers, "display", lambda data, **how: shown.append((data, how)))
    return shown


def assert_picture(data, metadata, raw):
    """An opaque PNG with something on it, and a text for those who cannot see it in two places."""
    assert raw and metadata["image/png"]["alt"] == data["text/plain"] != ""
    pixels = imread(io.BytesIO(data["image/png"]), format="png")
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
    assert (pixels[0, 0, :3] == 1).all(), "the paper is not white"
    assert pixels.min() < 0.9, "nothing is drawn"


@pytest.mark.parametrize("function", [name for name in dir(helpers) if name[:5] == "plot_"])
def test_every_picture_is_opaque_has_a_text_and_is_the_same_in_a_dark_style(shown, function):
    getattr(helpers, function)(*GOOD[function])
    with matplotlib.style.context("dark_background"):
        getattr(helpers, function)(*GOOD[function])
    (light, how), (dark, _) = shown
    assert_picture(light, **how)
    assert light == dark


def test_rows_of_numbers_are_drawn_as_full_rectangles(shown):
    rows = RNG.normal(size=(2, 500))
    for images in (IMAGES / 1, IMAGES.reshape(3, 784) / 1, rows.reshape(2, 25, 20), rows):
        helpers.plot_images(images, range(len(images)), "The same", signed=True)
    assert shown[0] == shown[1] != shown[2] == shown[3]


# ------------------------------------------------------------------------------ watching a training

MEASURED = [((1 / n, 1 - 0.2 / n), (2 / n, 1 - 0.4 / n)) for n in (1, 2, 3)]
LAST = "training 0.333, 93.33 %; validation 0.667, 86.67 %"


class Screen(list):
    """In place of Jupyter's display: keeps what a handle is given to show; and a clock."""

    now, stop_at = 0.0, None

    def handle(self):
        display, update = (partial(self.show, kind) for kind in ("display", "update"))
        return SimpleNamespace(display=display, update=update)

    def show(self, kind, data, **how):
        self.append((kind, data, how))
        if self.stop_at == len(self):
            raise KeyboardInterrupt


@pytest.fixture
def screen(monkeypatch):
    """What `live_curves` shows; the clock stands still."""
    screen = Screen()
    monkeypatch.setattr(helpers, "DisplayHandle", screen.handle)
    monkeypatch.setattr(helpers, "time", SimpleNamespace(perf_counter=lambda: screen.now))
    return screen


@pytest.fixture
def figures(monkeypatch):
    """The figures, which are not made into pictures."""
    figures = []
    made = lambda figure, alt: figures.append(figure) or {"text/plain": alt}  # noqa: E731
    monkeypatch.setattr(helpers, "_png", made)
    return figures


def train(screen, seconds=0, every=None, planned=3):
    """Three measurements, each after some seconds."""
    with helpers.live_curves(planned) as curves:
        for n, measured in enumerate(MEASURED, start=1):
            screen.now += seconds
            curves.add(*measured, every and every * n)
    return curves


def test_one_figure_is_shown_the_same_in_a_dark_style(screen):
    train(screen)
    assert [kind for kind, *_ in screen] == ["display", "update"]
    for _, data, how in screen:
        assert_picture(data, **how)
    assert data["text/plain"] == f"Loss and accuracy after 3 of 3 epochs: {LAST}."
    with matplotlib.style.context("dark_background"):
        train(screen)
    assert screen[1] == screen[3]


@pytest.mark.parametrize(
    "every, seconds, times, drawn",
    [
        (None, 10, ["about 80 s left", "about 70 s left", *2 * ["about 60 s left"]], [1, 2, 3, 3]),
        (3, 2, ["about 4 s left", *2 * ["6 s in all"]], [1, 3, 3]),
    ],
)
def test_measurements_are_told_and_drawn(screen, figures, every, seconds, times, drawn):
    curves = train(screen, seconds, every, planned=9)
    assert [figure.get_suptitle().split("; ")[-1] for figure in figures] == times
    assert [len(figure.axes[0].lines[0].get_xdata()) for figure in figures] == drawn
    assert curves.epochs == [(every or 1) * n for n in (1, 2, 3)]
    assert list(zip(curves.training, curves.validation)) == MEASURED
    for i, axes in enumerate(figures[-1].axes):
        for line, part in zip(axes.lines, (curves.training, curves.validation), strict=True):
            assert list(line.get_xdata()) == curves.epochs
            assert list(line.get_ydata()) == [pair[i] for pair in part]
        looks = [(x.get_color(), x.get_linestyle(), x.get_marker()) for x in axes.lines]
        assert all(one != other for one, other in zip(*looks, strict=True))


@pytest.mark.parametrize("stop_at, epochs", [(1, 1), (2, 2), (4, 3)])
def test_the_stop_button_loses_nothing(screen, figures, capsys, stop_at, epochs):
    screen.stop_at = stop_at
    with helpers.live_curves(3) as curves:
        for measured in MEASURED:
            screen.now += 10
            curves.add(*measured)
    assert curves.epochs == list(range(1, epochs + 1))
    assert list(zip(curves.training, curves.validation)) == MEASURED[:epochs]
    assert capsys.readouterr().out.startswith(f"Stopped after {epochs} of 3 epochs; the parameters")
    assert f"after {epochs} of 3 epochs" in screen[-1][1]["text/plain"]


def test_a_run_stopped_in_its_first_epoch_has_nothing_to_go_on_with(screen):
    with pytest.raises(KeyboardInterrupt), helpers.live_curves(3):
        raise KeyboardInterrupt
    assert screen == []


@pytest.mark.parametrize("bad", [((np.nan, 0.1), (1, 0.1)), ((1, 0.1), (np.float32(np.inf), 0.1))])
def test_divergence_is_told_in_one_sentence_and_not_by_warnings(screen, figures, bad):
    before = np.geterr()
    with pytest.raises(FloatingPointError) as caught, helpers.live_curves(9) as curves:
        curves.add(*MEASURED[0])
        assert np.geterr() == dict.fromkeys(before, "ignore")
        curves.add(*bad)
    assert sentence(caught) == "the run diverged in epoch 2: lower the learning rate."
    assert curves.epochs == [1] and "after 1 of 9 epochs" in screen[-1][1]["text/plain"]
    assert np.geterr() == before


# --------------------------------------------------------------------------------- drawing on a pad

A, B, C, FAR = (70, 60), (190, 60), (110, 220), (9, 9)
SURE = np.full(10, 0.01) + 0.9 * np.eye(10)[7]


@pytest.fixture
def pad():
    """A pad, and in place of a network the same answer to all images."""
    return helpers.DrawingPad(Mock(return_value=SURE))


def send(pad, event, *points):
    """What the browser sends."""
    points = [{"x": x, "y": y} for x, y in points]
    content = {"touches": points} if "touch" in event else points[0] if points else {}
    pad.canvas._handle_frontend_event(None, {"event": event} | content, [])


def draw(pad, first, *others):
    send(pad, "mouse_down", first)
    for point in others:
        send(pad, "mouse_move", point)
    send(pad, "mouse_up", FAR)


def said(pad):
    """The text on the pad; if there is a picture with it, it has the same text."""
    text, *picture = pad.answer.value.split("<br><img ")
    assert not picture or f'alt="{text}"' in picture[0]
    assert "<" not in text
    return html.unescape(text)


BY_MOUSE = ("mouse_down", A), ("mouse_move", B), ("mouse_move", C), ("mouse_out", FAR)
BY_TOUCH = ("touch_start", A), ("touch_move", B, FAR), ("touch_move", C), ("touch_cancel",)


@pytest.mark.parametrize(
    "events",
    [
        [("mouse_move", FAR), ("mouse_up", FAR), *BY_MOUSE, ("mouse_move", FAR), ("touch_end",)],
        [BY_TOUCH[0], ("mouse_down", FAR), ("touch_start", FAR, A), *BY_TOUCH[1:]],
    ],
)
def test_what_is_drawn_with_the_pen_down_is_read_once_it_is_lifted(pad, events):
    for event in events:
        send(pad, *event)
    ideal = Image.new("L", (helpers.PAD, helpers.PAD), 255)
    helpers._draw_stroke(ideal, [A, B, C])
    assert pad.drawing.tobytes() == ideal.tobytes()
    ((image,),) = (call.args for call in pad.read.mock_calls)
    assert np.array_equal(image, helpers.prepare_digit(np.asarray(ideal)))
    assert said(pad) == "The answer is 7, with a probability of 91.0%."
    assert "base64,iVBORw0KGgo" in pad.answer.value, "there is no PNG"


def test_strokes_stay_also_in_a_page_opened_later_until_the_button_is_clicked(pad, monkeypatch):
    blank, invitation = pad.drawing.tobytes(), said(pad)
    draw(pad, A, B, C)
    draw(pad, FAR)
    both = np.asarray(pad.drawing)
    assert both[FAR] == both[A[::-1]] == 0 and said(pad) != invitation
    monkeypatch.setattr(pad.canvas, "put_image_data", Mock())
    send(pad, "client_ready")
    assert np.array_equal(pad.canvas.put_image_data.call_args[0][0][..., 0], both)
    (button,) = (w for w in pad.widget.children[0].children if hasattr(w, "description"))
    button.click()
    assert said(pad) == invitation and pad.drawing.tobytes() == blank


@pytest.mark.parametrize(
    "answer, text",
    [
        (np.full(10, 0.034) + 0.656 * np.eye(10)[4], "Uncertain: the likeliest digit is 4, with a"),
        (np.full(10, 0.03) + 0.67 * np.eye(10)[4], "The answer is 4, with a probability of 70.0%."),
        (RuntimeError("a <b> & c"), "This could not be read (RuntimeError): a <b> & c"),
        (np.eye(10), "This could not be read (ValueError): ten probabilities should be read, not"),
    ],
)
def test_what_is_said_of_doubtful_and_wrong_answers_after_which_it_goes_on(pad, answer, text):
    pad.read.side_effect = [answer, SURE]
    draw(pad, A, B, C)
    assert said(pad).startswith(text)
    draw(pad, A)
    assert said(pad).startswith("The answer is 7")


def asking(allow_stdin):
    return lambda: SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": allow_stdin}})


def test_a_pad_opens_where_somebody_can_draw(shown, monkeypatch):
    monkeypatch.setattr(helpers, "get_ipython", asking(True))
    helpers.open_pad(lambda image: SURE)
    ((pad, _),) = shown
    assert "application/vnd.jupyter.widget-view+json" in pad._repr_mimebundle_()


@pytest.mark.parametrize(
    "shell, lacking, advice",
    [
        (lambda: None, "", "run this cell in JupyterLab."),
        (asking(False), "", "run this cell in JupyterLab."),
        (asking(True), "ipycanvas", "install ipycanvas, which is missing, and restart"),
    ],
)
def test_elsewhere_an_example_is_read(shown, monkeypatch, capsys, shell, lacking, advice):
    monkeypatch.setattr(helpers, "get_ipython", shell)
    monkeypatch.setitem(sys.modules, lacking, None)
    helpers.open_pad(lambda image: SURE)
    assert_picture(shown[0][0], **shown[0][1])
    text = capsys.readouterr().out
    assert text.startswith(f"To draw a digit here, {advice}")
    assert text.endswith("The answer is 7, with a probability of 91.0%.\n")


def test_only_the_false_warning_of_accelerate_is_borne():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(ROOT / "helpers.py"))
        warnings.warn("divide by zero encountered in matmul", RuntimeWarning, stacklevel=1)
        for other in ("overflow encountered in matmul", "divide by zero encountered in log"):
            with pytest.raises(RuntimeWarning, match=other):
                warnings.warn(other, RuntimeWarning, stacklevel=1)


def test_a_python_that_is_too_old_is_refused_by_the_name_of_a_file_that_is_not_there():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (first,) = (Requirement(line) for line in lines if "python_version" in line)
    assert [first.marker.evaluate({"python_version": v}) for v in ("3.9", "3.10")] == [True, False]
    assert not Path(first.url.removeprefix("file://")).exists()
