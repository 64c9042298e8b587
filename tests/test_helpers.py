"""The helpers: what they load, draw, save and check, and what they say and keep when it fails."""

import errno
import gzip
import inspect
import io
import os
import pickle
import re
import shutil
import socket
import tempfile
import threading
import zipfile
import zlib
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision.datasets.utils
from conftest import definitions, sources
from jupyter_client.manager import KernelManager
from matplotlib.image import imread
from torchvision.datasets import MNIST

import helpers

ROOT = Path(__file__).resolve().parents[1]
CELLS = sources()
DEFINITIONS = "\n\n".join(sources("definitions").values())


def sentence(caught):
    """The text of an error, which has to be a single sentence."""
    text = str(caught.value)
    assert text.endswith("."), text
    assert not re.search(r"\n|[.!?] [A-Z]", text), text
    return text


def contents(folder):
    """What lies in a folder and below: the checksum of each file, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): checksum(path) if path.is_file() else None
        for path in folder.rglob("*")
    }


def checksum(path):
    """CRC of a file; that of a file which lies in several places is computed once."""
    state = path.stat()
    if state.st_nlink == 1:
        return zlib.crc32(path.read_bytes())
    key = state.st_ino, state.st_size, state.st_mtime_ns
    if key not in CHECKSUMS:
        CHECKSUMS[key] = zlib.crc32(path.read_bytes())
    return CHECKSUMS[key]


CHECKSUMS = {}
ROOM = 1000  # bytes that can be written before writing fails


class Failing(io.FileIO):
    """A file that takes ROOM bytes and then fails, in the middle of a write."""

    def write(self, data):
        room = ROOM - self.tell()
        if len(data) > room:
            super().write(bytes(data)[: max(room, 0)])
            raise self.error
        return super().write(data)


@contextmanager
def writing_fails(how, module):
    """Let files that a module opens for writing fail after ROOM bytes."""
    failing = type("", (Failing,), {"error": how})
    module.open = lambda path, mode: (failing if "w" in mode else open)(path, mode)
    try:
        yield
    finally:
        del module.open


FULL, STOP = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()
failures = pytest.mark.parametrize("how", [FULL, STOP], ids=["disk full", "stopped"])


# ---------------------------------------------------------------------------------------- loading

ARCHIVES = dict(MNIST.resources)
FAULTS = ("missing", "empty", "cut short", "one byte altered", "another file")
NEIGHBOUR = {"train": "t10k", "t10k": "train"}

each_archive = pytest.mark.parametrize("archive", ARCHIVES)
each_fault = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture(scope="module")
def whole():
    """A folder with copies of the four archives and what is in them, unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        raw = Path(folder, "whole")
        raw.mkdir()
        for archive in ARCHIVES:
            packed = (ROOT / "data" / "MNIST" / "raw" / archive).read_bytes()
            (raw / archive).write_bytes(packed)
            (raw / archive.removesuffix(".gz")).write_bytes(gzip.decompress(packed))
        yield raw


@pytest.fixture
def raw(whole, monkeypatch):
    """A folder with the same files, which may be replaced but not changed; and no network."""
    root = Path(tempfile.mkdtemp(dir=whole.parent))
    root.chmod(0o755)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in whole.iterdir():
        os.link(file, raw / file.name)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:  # it listens to nobody, so all connections are refused
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{closed.getsockname()[1]}/"])
        yield raw
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def mirror(whole):
    """Address of a server of the archives; what follows it says which fault the server has."""

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self):
            _, fault, name = self.path.split("/")
            data = (whole / name).read_bytes()
            if fault == "without-the-file":
                return self.send_error(404)
            if fault == "without-manners":
                return self.wfile.write(b"Who are you\n\n")
            if fault == "with-another-file":
                data = b"<html>Log in first.</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # torchvision first asks without reading the answer
                self.wfile.write(data[: len(data) // 2] if fault == "that-breaks-off" else data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def load(raw):
    return helpers.load_mnist(raw.parents[1])


def unpacked(raw, archive):
    return raw / archive.removesuffix(".gz")


def spoil(path, fault, whole):
    """Replace a file by a damaged one."""
    data = path.read_bytes()
    path.unlink()
    if fault == "empty":
        data = b""
    elif fault == "cut short":
        data = data[: len(data) // 2]
    elif fault == "one byte altered":
        middle = len(data) // 2
        data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    elif fault == "another file":
        part, rest = path.name.split("-", maxsplit=1)
        data = (whole / f"{NEIGHBOUR[part]}-{rest}").read_bytes()
    if fault != "missing":
        path.write_bytes(data)


@contextmanager
def read_only(folder):
    """A folder where nothing can be written: root, who always can, is somebody else meanwhile."""
    user = os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


needs_posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")


def refused(raw):
    """What a load says that fails or is stopped, after which everything is as it was before."""
    before = contents(raw.parents[1])
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        load(raw)
    assert contents(raw.parents[1]) == before
    return sentence(caught) if caught.type is RuntimeError else "stopped"


def test_the_images_and_labels_are_those_of_the_files(raw, whole):
    before = contents(raw)
    arrays = load(raw)
    assert contents(raw) == before
    kinds = [(array.shape, array.dtype.kind) for array in arrays]
    assert kinds == [
        ((60000, 28, 28), "u"), ((60000,), "i"), ((10000, 28, 28), "u"), ((10000,), "i"),
    ]  # fmt: skip
    for archive, array in zip(ARCHIVES, arrays):
        header = 16 if "images" in archive else 8
        data = np.frombuffer(unpacked(whole, archive).read_bytes(), np.uint8, offset=header)
        assert np.array_equal(array.ravel(), data), archive


def test_the_archives_alone_are_enough(raw, whole):
    for archive in ARCHIVES:
        unpacked(raw, archive).unlink()
    load(raw)
    assert contents(raw) == contents(whole)


def test_archives_are_not_needed_once_they_are_unpacked(raw, whole):
    for archive, fault in zip(ARCHIVES, FAULTS):
        spoil(raw / archive, fault, whole)
    before = contents(raw)
    load(raw)
    assert contents(raw) == before


@each_fault
@each_archive
def test_a_damaged_archive_is_named_and_kept_if_it_cannot_be_downloaded(raw, whole, archive, fault):
    spoil(raw / archive, fault, whole)
    unpacked(raw, archive).unlink()
    text = refused(raw)
    assert text.startswith(f"{archive} is missing or damaged and could not be downloaded")
    assert ARCHIVES[archive] in text
    assert (raw / archive).as_posix() in text
    assert "refused" in text


@each_fault
def test_damaged_archives_are_downloaded_again(raw, whole, mirror, monkeypatch, fault):
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror}whole/"])
    for archive in ARCHIVES:
        spoil(raw / archive, fault, whole)
        unpacked(raw, archive).unlink()
    load(raw)
    assert contents(raw) == contents(whole)


@each_fault
def test_damaged_unpacked_files_are_repaired_from_their_archives(raw, whole, fault):
    for archive in ARCHIVES:
        spoil(unpacked(raw, archive), fault, whole)
    load(raw)
    assert contents(raw) == contents(whole)


@each_fault
def test_a_damaged_unpacked_file_is_kept_if_its_archive_is_damaged_too(raw, whole, fault):
    archive = "train-labels-idx1-ubyte.gz"
    spoil(unpacked(raw, archive), "one byte altered", whole)
    spoil(raw / archive, fault, whole)
    assert ARCHIVES[archive] in refused(raw)


def test_everything_is_downloaded_into_an_empty_folder(raw, whole, mirror, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror}whole/"])
    shutil.rmtree(raw.parent)
    load(raw)
    assert contents(raw) == contents(whole)


BAD_MIRRORS = {
    "without-the-file": "HTTP Error 404: Not Found",
    "without-manners": "Who are you",
    "with-another-file": "File not found or corrupted",
    "that-breaks-off": r"File not found or corrupted|IncompleteRead\(.*\)",
}


@pytest.mark.parametrize("fault, reason", BAD_MIRRORS.items())
def test_a_bad_mirror_does_no_harm(raw, whole, mirror, monkeypatch, fault, reason):
    archive = "t10k-labels-idx1-ubyte.gz"
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror}{fault}/"])
    spoil(raw / archive, "cut short", whole)
    unpacked(raw, archive).unlink()
    assert re.search(rf"\({reason}\): put the original", refused(raw))


def test_after_a_bad_mirror_comes_the_next(raw, whole, mirror, monkeypatch):
    archive = "t10k-labels-idx1-ubyte.gz"
    bad = [*MNIST.mirrors, *(f"{mirror}{fault}/" for fault in BAD_MIRRORS)]
    monkeypatch.setattr(MNIST, "mirrors", [*bad, f"{mirror}whole/"])
    (raw / archive).unlink()
    unpacked(raw, archive).unlink()
    load(raw)
    assert contents(raw) == contents(whole)


@needs_posix
def test_unpacked_data_is_loaded_from_a_read_only_folder(raw):
    with read_only(raw):
        assert len(load(raw)) == 4


@needs_posix
@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_a_read_only_folder_is_named_if_something_is_to_be_unpacked(raw, whole, fault):
    spoil(raw / "t10k-labels-idx1-ubyte", fault, whole)
    with read_only(raw):
        text = refused(raw)
    assert text.startswith(f"t10k-labels-idx1-ubyte could not be unpacked in {raw.as_posix()} (")
    assert "Permission denied" in text
    assert "make the folder writable" in text


@needs_posix
@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_a_damaged_archive_in_a_read_only_folder_is_named(raw, whole, mirror, monkeypatch, fault):
    archive = "t10k-labels-idx1-ubyte.gz"
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror}whole/"])
    spoil(raw / archive, fault, whole)
    unpacked(raw, archive).unlink()
    with read_only(raw):
        text = refused(raw)
    assert re.search(
        rf"{archive} is missing or damaged .*Permission denied.*{ARCHIVES[archive]}", text
    )
    assert (raw / archive).as_posix() in text


@failures
def test_nothing_is_lost_if_unpacking_fails_half_way(raw, whole, how):
    spoil(raw / "train-labels-idx1-ubyte", "cut short", whole)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with writing_fails(how, torchvision.datasets.utils):
        text = refused(raw)
    assert (
        text == "stopped"
        if how is STOP
        else re.fullmatch(
            r"train-labels-idx1-ubyte could not be unpacked in .*/raw \(.*space left.*\): "
            "make the folder writable, or room on the disk, and run this again.",
            text,
        )
    )
    load(raw)
    assert contents(raw) == contents(whole)


@failures
def test_nothing_is_lost_if_a_download_fails_half_way(raw, whole, mirror, monkeypatch, how):
    archive = "t10k-labels-idx1-ubyte.gz"
    monkeypatch.setattr(MNIST, "mirrors", [f"{mirror}whole/"])
    spoil(raw / archive, "cut short", whole)
    unpacked(raw, archive).unlink()
    with writing_fails(how, torchvision.datasets.utils):
        text = refused(raw)
    assert (
        text == "stopped"
        if how is STOP
        else re.search(
            r"could not be downloaded \(.*space left.*\): put the original, MD5 sum",
            text,
        )
    )
    load(raw)
    assert contents(raw) == contents(whole)


def test_a_file_in_place_of_the_folder_is_kept(raw):
    shutil.rmtree(raw)
    raw.write_text("mine")
    assert f"at {raw.as_posix()}/train-images-idx3-ubyte.gz and" in refused(raw)


# --------------------------------------------------------------------------------------- plotting

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 28, 28), np.uint8)
LABELS = np.array([0, 9, 5])
X = np.linspace(-1, 1, 9)
GOOD = {
    "plot_network": {"sizes": (784, 500, 300, 100, 10)},
    "plot_digits": {"images": IMAGES, "titles": LABELS, "title": "Three images"},
    "plot_weights": {
        "rows": {"before": RNG.normal(size=(3, 784)), "after": np.ones((3, 784))}, "title": "Some weights",
    },
    "plot_function": {"x": X, "curves": {"square": X**2, "cube": X**3}, "title": "Functions"},
    "plot_lines": {
        "panels": {"Left": {"a": (X, X), "b": (X, X**2)}, "Right": {"a": (X, X**3), "b": (X, -X)}},
        "xlabel": "layer", "title": "Lines in two panels",
    },
    "plot_times": {"parts": {"products": 0.5, "update": 0.4, "rest": 0.01}, "products": 0.4},
    "plot_confusion": {"counts": RNG.integers(0, 9, (10, 10)), "title": "Confusion"},
    "plot_predictions": {
        "images": IMAGES, "probabilities": np.eye(10)[[0, 9, 8]], "labels": LABELS, "title": "Three answers",
    },
}  # fmt: skip


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    images = []
    monkeypatch.setattr(helpers, "display", images.append)
    return images


def assert_picture(image):
    """An opaque PNG with something on it and a text for those who cannot see it."""
    assert image.format == "png"
    assert len(image.alt) > 10
    pixels = imread(io.BytesIO(image.data), format="png")
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
    assert (pixels[0, 0, :3] == 1).all(), "the paper is not white"
    assert pixels.min() < 0.9, "nothing is drawn"


def draw(function, **changed):
    getattr(helpers, function)(**GOOD[function] | changed)


@pytest.mark.parametrize("function", GOOD)
def test_every_picture_is_an_opaque_png_with_a_text(shown, function):
    draw(function)
    (image,) = shown
    assert_picture(image)


def test_images_may_be_rows_and_need_no_title(shown):
    draw("plot_digits", images=IMAGES.reshape(3, 784), title="")
    draw("plot_digits", title="")
    assert shown[0].data == shown[1].data
    assert shown[0].alt == "Images titled 0, 9, 5."
    draw("plot_digits", alt="A nought, a nine and a five")
    assert shown[2].alt == "A nought, a nine and a five"


def test_weights_that_are_all_zero_and_faultless_answers_can_be_drawn(shown):
    draw("plot_weights", rows={"none": np.zeros((3, 784))})
    draw("plot_confusion", counts=np.diag(range(10)))
    assert len(shown) == 2


@pytest.mark.parametrize("log", [False, True])
def test_lines_are_drawn_as_they_stand_with_one_style_each_in_all_panels(shown, monkeypatch, log):
    figures = []
    monkeypatch.setattr(helpers, "show", lambda figure, alt: figures.append((figure, alt)))
    draw("plot_lines", log=log)
    ((figure, alt),) = figures
    styles = []
    for axes, (title, lines) in zip(figure.axes, GOOD["plot_lines"]["panels"].items(), strict=True):
        assert axes.get_title() == title and axes.get_yscale() == ("log" if log else "linear")
        for line, (label, (x, y)) in zip(axes.lines, lines.items(), strict=True):
            assert np.array_equal(line.get_xdata(), x) and np.array_equal(line.get_ydata(), y)
            assert line.get_label() == label
        styles.append([(line.get_linestyle(), line.get_color()) for line in axes.lines])
    assert styles[0] == styles[1] and len(set(styles[0])) == 2
    assert alt == "Lines in two panels. Left, Right; lines: a, b."


def test_the_picture_of_the_training_shows_every_record_as_it_stands():
    left, right = helpers.plot_history(RECORDS, 5).axes
    for axes, quantity in ((left, "loss"), (right, "accuracy")):
        for line, part in zip(axes.lines, ("train", "val"), strict=True):
            assert list(line.get_xdata()) == [1, 2, 3]
            assert list(line.get_ydata()) == [r[f"{part}_{quantity}"] for r in RECORDS]
        assert axes.get_xlim() == (0.5, 5.5)


BAD_ARRAYS = {
    "an axis too many": lambda array: array[None],
    "no axis": lambda array: array.ravel()[0],
    "empty": lambda array: array[:0],
    "NaN": lambda array: np.where(np.arange(array.size).reshape(array.shape) == 1, np.nan, array),
    "infinity": lambda array: np.where(array == array.max(), np.inf, array),
    "minus infinity": lambda array: np.where(array == array.min(), -np.inf, array),
    "text": lambda array: array.astype(str),
    "objects": lambda array: array.astype(object),
}


@pytest.mark.parametrize("bad", BAD_ARRAYS)
@pytest.mark.parametrize(
    "function, argument",
    [
        ("plot_digits", "images"),
        ("plot_weights", "rows"),
        ("plot_function", "x"),
        ("plot_function", "curves"),
        ("plot_confusion", "counts"),
        ("plot_predictions", "images"),
        ("plot_predictions", "probabilities"),
        ("plot_predictions", "labels"),
    ],
)
def test_a_bad_array_is_refused_in_one_sentence(shown, function, argument, bad):
    name, good = argument, GOOD[function][argument]
    if isinstance(good, dict):
        name, good = list(good.items())[-1]
    array = BAD_ARRAYS[bad](good)
    with pytest.raises(ValueError) as caught:
        draw(function, **{argument: array if name == argument else {name: array}})
    text = sentence(caught)
    assert text.startswith(f"{name} should be finite numbers of shape (")
    assert f", but {array.dtype} of shape {array.shape}" in text
    assert (" with NaN or infinity was found" in text) == (
        bad in ("NaN", "infinity", "minus infinity")
    )
    assert not shown


@pytest.mark.parametrize(
    "function, argument, value, text",
    [
        ("plot_digits", "images", IMAGES[:, 1:], "(n, 28, 28) or (n, 784), n > 0, but uint8 of shape (3, 27, 28)"),
        ("plot_digits", "images", IMAGES.reshape(784, 3), "(784, 3)"),
        ("plot_digits", "titles", LABELS[1:], "titles should be 3, one for each picture, but 2 were found"),
        ("plot_weights", "rows", {"w": np.ones((784, 3))}, "w should be finite numbers of shape (n, 784), n > 0, but float64 of shape (784, 3)"),
        ("plot_function", "curves", {"f": X[1:]}, "f should be finite numbers of shape (9,), but float64 of shape (8,)"),
        ("plot_function", "curves", {"f": X * 1j}, "f should be finite numbers"),
        ("plot_confusion", "counts", np.ones((9, 10)), "(10, 10), but float64 of shape (9, 10)"),
        ("plot_predictions", "images", IMAGES.reshape(3, 784), "(n, 28, 28), n > 0, but uint8 of shape (3, 784)"),
        ("plot_predictions", "probabilities", np.eye(10), "probabilities should be finite numbers of shape (3, 10)"),
        ("plot_predictions", "labels", LABELS[1:], "labels should be finite numbers of shape (3,), but int64 of shape (2,)"),
        ("plot_predictions", "labels", np.array([0, 10, 5]), "labels should be digits 0 to 9, but 10 was found"),
        ("plot_predictions", "labels", np.array([0, 9, -1]), "labels should be digits 0 to 9, but -1 was found"),
        ("plot_predictions", "labels", np.array([0, 9, 2.5]), "labels should be digits 0 to 9, but 2.5 was found"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(
    shown, function, argument, value, text
):
    with pytest.raises(ValueError) as caught:
        draw(function, **{argument: value})
    assert text in sentence(caught)
    assert not shown


# --------------------------------------------------------------------------------- watch and train

RECORDS = [
    {
        "epoch": epoch, "lr": 0.01,
        "train_loss": 1 / epoch, "train_accuracy": 1 - 0.2 / epoch,
        "val_loss": 2 / epoch, "val_accuracy": 1 - 0.4 / epoch,
    }
    for epoch in (1, 2, 3)
]  # fmt: skip


class Screen:
    """In place of Jupyter's display: keeps all texts and curves that it is given to show."""

    def __init__(self):
        self.status, self.curves, self.stop_at, self.now = [], [], None, 0.0

    def display(self, content, raw=False):
        shown = content["text/plain"] if raw else content
        (self.status if raw else self.curves).append(shown)
        if self.stop_at and self.stop_at in str(shown):
            self.stop_at = None
            raise KeyboardInterrupt

    update = display


@pytest.fixture
def screen(monkeypatch):
    """What `watch` shows; the clock stands still unless a test moves it."""
    screen = Screen()
    monkeypatch.setattr(helpers, "DisplayHandle", lambda: screen)
    monkeypatch.setattr(helpers, "_curves", lambda history, _: f"curves of {len(history)} epochs")
    monkeypatch.setattr(helpers, "time", SimpleNamespace(perf_counter=lambda: screen.now))
    return screen


def running(screen, seconds, end=None):
    """The records, each after some seconds; then perhaps an error."""
    for record in RECORDS:
        screen.now += seconds
        yield record
    if end:
        raise end


def test_watch_passes_the_records_on_as_they_are(screen):
    before = [dict(record) for record in RECORDS]
    passed = list(helpers.watch(iter(RECORDS), 3))
    assert all(a is b for a, b in zip(passed, RECORDS, strict=True))
    assert before == RECORDS


def test_watch_shows_the_figures_and_the_time_left(screen):
    list(helpers.watch(running(screen, 10), 3))
    assert [text.split("\n")[0] for text in screen.status] == [
        "The first epoch is running.",
        "epoch 1 of 3, about 20 s left",
        "epoch 2 of 3, about 10 s left",
        "epoch 3 of 3, 30 s in all",
    ]
    assert screen.status[-1].split("\n")[1:] == [
        "training:   loss 0.3333, accuracy 93.33%",
        "validation: loss 0.6667, accuracy 86.67%",
    ]


def test_watch_tells_the_time_left_if_there_is_a_record_every_few_epochs_only(screen):
    records = ({**record, "epoch": 5 * record["epoch"]} for record in running(screen, 50))
    list(helpers.watch(records, 20))
    assert [text.split("\n")[0] for text in screen.status[1:]] == [
        "epoch 5 of 20, about 150 s left",
        "epoch 10 of 20, about 100 s left",
        "epoch 15 of 20, about 50 s left",
    ]


def test_watch_names_the_epoch_of_the_last_record_if_it_is_stopped(screen, capsys):
    def records():
        yield {**RECORDS[0], "epoch": 5}
        raise KeyboardInterrupt

    list(helpers.watch(records(), 20))
    assert capsys.readouterr().out.startswith("Stopped after 5 of 20 epochs")


@pytest.mark.parametrize("seconds, drawings", [(10, [0, 1, 2, 3, 3]), (2, [0, 2, 3]), (0, [0, 3])])
def test_watch_draws_now_and_then_and_at_the_end(screen, seconds, drawings):
    list(helpers.watch(running(screen, seconds), 3))
    assert screen.curves == [f"curves of {epochs} epochs" for epochs in drawings]


@pytest.mark.parametrize("epochs", [0, 3])
def test_the_curves_are_an_opaque_png_with_a_text(epochs):
    image = helpers._curves(RECORDS[:epochs], 3)
    assert_picture(image)
    assert f"after {epochs} epochs" in image.alt


def test_the_stop_button_ends_watch_without_an_error(screen, capsys):
    passed = list(helpers.watch(running(screen, 0, end=KeyboardInterrupt), 9))
    assert passed == RECORDS
    assert capsys.readouterr().out.startswith("Stopped after 3 of 9 epochs; the parameters are")
    assert screen.curves[-1] == "curves of 3 epochs"


@pytest.mark.parametrize(
    "stop_at, epochs",
    [("first epoch", 0), ("curves of 0", 0), ("epoch 2", 2), ("epoch 3", 3)],
)
def test_stopping_while_something_is_shown_loses_no_record(screen, capsys, stop_at, epochs):
    screen.stop_at = stop_at
    assert list(helpers.watch(running(screen, 0), 3)) == RECORDS[:epochs]
    assert capsys.readouterr().out.startswith(f"Stopped after {epochs} of 3 epochs")
    assert screen.curves[-1] == f"curves of {epochs} epochs"


def test_an_error_goes_through_watch_and_leaves_the_history(screen):
    history = []
    with pytest.raises(ZeroDivisionError):
        history.extend(helpers.watch(running(screen, 0, end=ZeroDivisionError), 9))
    assert history == RECORDS
    assert screen.curves[-1] == "curves of 3 epochs"


@pytest.mark.parametrize(
    "lr, decay, epoch", [(1e6, 0, 1), (0.01, 1e-9 - 1, 2)], ids=["at once", "in the second epoch"]
)
def test_training_that_diverges_names_the_epoch_and_leaves_the_history(
    nb, screen, tmp_path, lr, decay, epoch
):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 784)).astype(np.float32), rng.integers(0, 10, 300)
    params = nb.init_params((784, 20, 10), rng)
    records = nb.train(params, x, y, x, y, 9, 60, lr, decay, rng)
    history = []
    with pytest.raises(FloatingPointError, match=f"diverged in epoch {epoch}:"):
        history.extend(helpers.watch(records, 9))
    assert [record["epoch"] for record in history] == list(range(1, epoch))
    assert screen.curves[-1] == f"curves of {epoch - 1} epochs"
    with pytest.raises(ValueError, match="NaN or infinity was found: nothing was written"):
        helpers.save_model(tmp_path / "model.npz", params)


# ---------------------------------------------------------------------------- Jupyter's stop button

SYNTHETIC = """
rng = np.random.default_rng(1)
images = rng.integers(0, 256, (4000, 28, 28), np.uint8)
labels = rng.integers(0, 10, 4000)
test_images, test_labels = images[3000:], labels[3000:]
pixel_mean, pixel_std = images.mean(dtype=np.float32), images.std(dtype=np.float32)
x_train, x_val = scale(images[:2000], pixel_mean, pixel_std), scale(images[2000:3000], 0, 255)
y_train, y_val = labels[:2000], labels[2000:3000]
"""
LATER = ("curves", "save", "test")
FIGURES = ("samples", "inside")


class Kernel:
    """A Jupyter kernel in a folder; it starts while others work and is waited for when needed."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(
            cwd=str(folder),
            env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
            extra_arguments=[
                "--HistoryManager.hist_file=:memory:",
                "--IPKernelApp.code_to_run=import helpers",
            ],
        )
        self.client = self.manager.client()
        self.client.start_channels()

    def prepare(self):
        """Wait for it, and run the notebook's definitions."""
        self.client.wait_for_ready(timeout=120)
        self.run(DEFINITIONS)
        self.run(SYNTHETIC)
        self.run(CELLS["init-table"])

    def run(self, source, stop_at=None, error=None):
        """Run a cell, press the stop button when a text appears, and return all that is shown."""
        texts = []

        def show(message):
            nonlocal stop_at
            content = message["content"]
            assert content.get("name") != "stderr", content["text"]
            text = content.get("text") or content.get("data", {}).get("text/plain", "")
            texts.append(text)
            if "image/png" in content.get("data", {}):
                assert len(content["metadata"]["image/png"]["alt"]) > 10
            if stop_at and stop_at in text:
                stop_at = None
                self.manager.interrupt_kernel()

        reply = self.client.execute_interactive(source, output_hook=show, timeout=120)["content"]
        assert reply.get("ename") == error, reply
        assert stop_at is None, "the text to stop at never appeared"
        return "\n".join([*texts, reply.get("evalue", "")])

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module", autouse=True)
def starting_kernel(request, tmp_path_factory):
    """A kernel, started before the first test if any of the tests needs it."""
    if not any("kernel" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
    else:
        kernel = Kernel(tmp_path_factory.mktemp("kernel"))
        yield kernel
        kernel.close()


@pytest.fixture(scope="module")
def kernel(starting_kernel):
    starting_kernel.prepare()
    return starting_kernel


def test_the_stop_button_leaves_what_all_later_cells_need(kernel):
    kernel.run("EPOCHS, LEARNING_RATE = 10**6, 0.01")
    shown = kernel.run(CELLS["run"], stop_at="epoch 2 of 1000000, about")
    epochs = int(re.search(r"Stopped after (\d+) of 1000000 epochs", shown)[1])
    assert epochs >= 2
    kernel.run(f"assert [r['epoch'] for r in history] == list(range(1, {epochs} + 1))")
    for cell in LATER + FIGURES:
        kernel.run(CELLS[cell])
    kernel.run("assert np.array_equal(loaded[0][0], params[0][0])")


def test_the_stop_button_works_in_the_very_first_epoch(kernel):
    kernel.run("EPOCHS, LEARNING_RATE = 30, 0.01")
    kernel.run("from itertools import repeat")
    kernel.run("few, mini_batches = mini_batches, lambda *_: repeat(np.arange(60))")
    shown = kernel.run(CELLS["run"], stop_at="Image object")
    kernel.run("mini_batches = few")
    assert "Stopped after 0 of 30 epochs" in shown
    kernel.run("assert history == []")
    for cell in LATER:
        kernel.run(CELLS[cell])


def test_the_stop_button_leaves_what_the_test_of_section_14_needs(kernel):
    kernel.run("FAR_EPOCHS = 10**6")
    shown = kernel.run(CELLS["far-run"], stop_at="epoch 5 of 1000000, about")
    assert re.search(r"Stopped after \d+ of 1000000 epochs", shown)
    kernel.run("assert far_history[0]['epoch'] == 5")
    assert "test accuracy" in kernel.run(CELLS["far-test"])
    kernel.run("FAR_EPOCHS = 3")  # too few for a record
    kernel.run(CELLS["far-run"])
    kernel.run("assert far_history == []")
    assert "test accuracy" in kernel.run(CELLS["far-test"])
    kernel.run("FAR_EPOCHS = 30")  # not stopped, and random labels cannot be learned
    kernel.run(CELLS["far-run"])
    kernel.run(CELLS["far-test"], error="AssertionError")


def test_divergence_is_told_in_one_sentence_without_warnings(kernel):
    kernel.run("EPOCHS, LEARNING_RATE = 30, 1e6")
    shown = kernel.run(CELLS["run"], error="FloatingPointError")
    assert shown.split("\n")[-1].startswith("training diverged in epoch 1: lower the rate")


# ----------------------------------------------------------------------------------------- saving

SIZES = (12, 7, 5, 4, 10)
NAMES = ["w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4"]


@pytest.fixture
def params():
    """Random parameters, the rarest float32 numbers among them."""
    rng = np.random.default_rng(3)
    params = [
        (rng.normal(size=pair).astype(np.float32), rng.normal(size=pair[1]).astype(np.float32))
        for pair in pairwise(SIZES)
    ]
    params[0][0].flat[:5] = -0.0, 1e-45, 3.4028235e38, -3.4028235e38, 1 / 3
    return params


@pytest.fixture
def model(tmp_path, params):
    """A saved model, alone in its folder."""
    helpers.save_model(tmp_path / "model.npz", params)
    return tmp_path / "model.npz"


def arrays_of(params):
    return dict(zip(NAMES, [array for pair in params for array in pair]))


def assert_same_bits(params, others):
    for name, array in arrays_of(params).items():
        other = arrays_of(others)[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name


@pytest.mark.parametrize("path_type", [str, Path])
def test_a_model_comes_back_bit_for_bit(model, params, path_type):
    assert_same_bits(helpers.load_model(path_type(model), SIZES), params)


def test_the_file_holds_exactly_the_arrays_compressed(model):
    with zipfile.ZipFile(model) as file:
        assert {m.filename: m.compress_type for m in file.infolist()} == dict.fromkeys(
            [f"{name}.npy" for name in NAMES], zipfile.ZIP_DEFLATED
        )
    assert [path.name for path in model.parent.iterdir()] == ["model.npz"]


@failures
@pytest.mark.parametrize("previous", [True, False], ids=["over a file", "anew"])
def test_saving_that_fails_half_way_leaves_everything_as_it_was(model, params, how, previous):
    if not previous:
        model.unlink()
    before = contents(model.parent)
    changed = [(W + 1, b + 1) for W, b in params]
    with pytest.raises((OSError, KeyboardInterrupt)), writing_fails(how, helpers):
        helpers.save_model(model, changed)
    assert contents(model.parent) == before
    helpers.save_model(model, changed)
    assert_same_bits(helpers.load_model(model, SIZES), changed)


BAD_PARAMETERS = {
    "NaN": (lambda a: a * np.float32(np.nan), "float32 of shape (7, 5) with NaN or infinity"),
    "infinity": (lambda a: a / np.float32(0), "float32 of shape (7, 5) with NaN or infinity"),
    "float64": (lambda a: a.astype(np.float64), "float64 of shape (7, 5)"),
    "integers": (lambda a: a.astype(np.int32), "int32 of shape (7, 5)"),
    "misshapen": (lambda a: a[:-1], "float32 of shape (6, 5)"),
    "transposed": (lambda a: a.T, "float32 of shape (5, 7)"),
    "flat": (np.ravel, "float32 of shape (35,)"),
    "text": (lambda a: a.astype("U3"), "<U3 of shape (7, 5)"),
}
each_bad_parameter = pytest.mark.parametrize("spoiled, found", BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)  # fmt: skip


@each_bad_parameter
def test_bad_parameters_do_not_replace_a_good_file(model, params, spoiled, found):
    before = contents(model.parent)
    with np.errstate(all="ignore"):
        params[1] = spoiled(params[1][0]), params[1][1]
    with pytest.raises(ValueError) as caught:
        helpers.save_model(model, params)
    assert sentence(caught) == (
        f"w2 of {model} should be finite float32 of shape (7, 5), but {found} was found: "
        "nothing was written, so train again and save then."
    )
    assert contents(model.parent) == before


@each_bad_parameter
def test_a_file_with_a_bad_array_is_refused_in_one_sentence(model, params, spoiled, found):
    arrays = arrays_of(params)
    with np.errstate(all="ignore"):
        arrays["w2"] = spoiled(arrays["w2"])
    np.savez_compressed(model, **arrays)
    with pytest.raises(ValueError) as caught:
        helpers.load_model(model, SIZES)
    assert sentence(caught) == (
        f"w2 of {model} should be finite float32 of shape (7, 5), but {found} was found: "
        "save the model again."
    )


@pytest.mark.parametrize(
    "missing, extra, found",
    [
        (["b3"], {}, "w1, b1, w2, b2, w3, w4, b4"),
        ([], {"w5": np.ones(3)}, "w1, b1, w2, b2, w3, b3, w4, b4, w5"),
        (NAMES, {}, "nothing"),
    ],
    ids=["one missing", "one too many", "none"],
)
def test_a_file_with_other_arrays_is_refused_in_one_sentence(model, params, missing, extra, found):
    arrays = {name: a for name, a in arrays_of(params).items() if name not in missing}
    np.savez_compressed(model, **arrays, **extra)
    with pytest.raises(ValueError) as caught:
        helpers.load_model(model, SIZES)
    assert sentence(caught) == (
        f"{model} should hold w1, b1, w2, b2, w3, b3, w4, b4, but holds {found}: "
        "save the model again."
    )


def test_a_model_of_other_sizes_is_refused_in_one_sentence(model):
    with pytest.raises(ValueError) as caught:
        helpers.load_model(model, (12, 8, 5, 4, 10))
    assert "of shape (12, 8), but float32 of shape (12, 7) was found" in sentence(caught)


def assert_unreadable(model):
    with pytest.raises(ValueError) as caught:
        helpers.load_model(model, SIZES)
    assert re.fullmatch(
        rf"{re.escape(str(model))} cannot be read as a model \(\w+\), .* damaged .*: save .*\.",
        sentence(caught),
    )


@pytest.mark.parametrize("share", [0, 0.001, 0.002, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file_is_refused_in_one_sentence(model, share):
    data = model.read_bytes()
    model.write_bytes(data[: int(share * len(data))])
    assert_unreadable(model)


@pytest.mark.parametrize("data", [b"not a model\n", b"PK\x03\x04", bytes(100)])
def test_a_file_of_another_kind_is_refused_in_one_sentence(model, data):
    model.write_bytes(data)
    assert_unreadable(model)


def test_an_npy_file_is_refused_in_one_sentence(model, params):
    with open(model, "wb") as file:
        np.save(file, params[0][0])
    assert_unreadable(model)


def test_something_that_is_no_array_is_refused_in_one_sentence(model, params):
    np.savez_compressed(model, **{n: a for n, a in arrays_of(params).items() if n != "w1"})
    with zipfile.ZipFile(model, "a") as file:
        file.writestr("w1.npy", "no array")
    with pytest.raises(ValueError) as caught:
        helpers.load_model(model, SIZES)
    assert "of shape (12, 7), but |S8 of shape () was found" in sentence(caught)


def test_one_altered_byte_never_changes_a_number(model, params):
    data = model.read_bytes()
    refusals = 0
    for i in range(0, len(data), 11):
        model.write_bytes(data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :])
        try:
            loaded = helpers.load_model(model, SIZES)
        except ValueError as error:
            sentence(SimpleNamespace(value=error))
            refusals += 1
        else:
            assert_same_bits(loaded, params)
    assert refusals > len(data) / 22


@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "nothing"])
def test_a_path_without_a_file_is_refused_in_one_sentence(tmp_path, folder):
    path = tmp_path / "model.npz"
    if folder:
        path.mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        helpers.load_model(path, SIZES)
    assert sentence(caught) == f"{path} is no file: save a model there or name another path."


class Trap:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle"])
def test_pickled_objects_are_never_unpickled(model, params, tmp_path, kind):
    trap = tmp_path / "unpickled"
    trapped = np.array([Trap(str(trap))], dtype=object)
    if kind == "npz":
        np.savez_compressed(model, **arrays_of(params) | {"w1": trapped})
    elif kind == "npy":
        with open(model, "wb") as file:
            np.save(file, trapped)
    else:
        model.write_bytes(pickle.dumps(trapped))
    assert_unreadable(model)
    assert not trap.exists()


def test_the_trap_is_sprung_by_unpickling(tmp_path):
    pickle.loads(pickle.dumps(Trap(str(tmp_path / "unpickled"))))
    assert (tmp_path / "unpickled").exists()


# --------------------------------------------------------------------------------------- checking


def example(x):
    """Twice x, plus one."""
    y = 2 * x
    return y + 1


def test_a_piece_of_a_function_is_replaced_in_a_copy():
    changed = helpers.with_change(example, "2 * x", "3 * x")
    assert (changed(5), example(5)) == (16, 11)
    assert "y = 3 * x" in inspect.getsource(changed)
    assert helpers.with_change(changed, "+ 1", "- 1")(5) == 14


@pytest.mark.parametrize("piece, times", [("4 * x", 0), ("y", 2), ("2*x", 0)])
def test_a_piece_that_does_not_stand_exactly_once_is_refused(piece, times):
    with pytest.raises(ValueError) as caught:
        helpers.with_change(example, piece, "0")
    text = sentence(caught)
    assert text.startswith(
        f"{piece!r} stands {times} times in example, but should stand there once"
    )


def test_tables_are_aligned_below_their_header(capsys):
    helpers.print_table(["name", "n", "share"], [["a", 1000, "1 %"], ["longer", 2, ""]])
    assert capsys.readouterr().out.split("\n") == [
        "name       n  share",
        "------  ----  -----",
        "a       1000    1 %",
        "longer     2",
        "",
    ]


def test_a_table_without_rows_is_its_header(capsys):
    helpers.print_table(["one", "two"], [])
    assert capsys.readouterr().out == "one  two\n---  ---\n"


def test_a_row_that_does_not_fit_is_not_cut():
    with pytest.raises(ValueError):
        helpers.print_table(["one", "two"], [["1"]])


# --------------------------------------------------------------------------------------- exercises


def test_an_answer_is_called_right_or_not_and_none_is_no_answer(capsys):
    for answer in (None, 41, 42):
        helpers.grade("Exercise 1", answer, lambda n: n == 42)
    assert capsys.readouterr().out.split("\n")[:-1] == [
        "Exercise 1: no answer yet.",
        "Exercise 1: not right yet.",
        "Exercise 1: right, well done.",
    ]


def test_an_answer_that_cannot_be_judged_is_told_why(capsys):
    helpers.grade("Exercise 2", "three", lambda n: n + 1 == 4)
    shown = capsys.readouterr().out
    assert shown.startswith("Exercise 2: not right yet, it stopped with TypeError: ")


def test_an_answer_may_be_an_array(capsys):
    helpers.grade("Exercise 3", np.zeros(3), lambda array: array.sum() == 0)
    assert capsys.readouterr().out == "Exercise 3: right, well done.\n"


def test_equal_answers_have_equal_fingerprints_and_others_do_not():
    prints = [helpers.fingerprint(n) for n in (167_560, 167_560, 167_561, np.int64(167_560))]
    assert prints[0] == prints[1] == prints[3] != prints[2]
    assert re.fullmatch(r"[0-9a-f]{8}", prints[0])


SOLUTIONS = {  # what a reader could put into the cells of the exercises, right and wrong
    "own-count": ("answer = None", "answer = 167_560", "answer = 167_300"),
    "own-slope": ("return None", "return 1 - np.tanh(z) ** 2", "return 1 - z**2"),
    "own-soft": ("return None", "return (softmax(z) - T) / len(z)", "return softmax(z) - T"),
    "own-rate": ("rate = None", "rate = 0.1", "rate = 0.01"),
    "own-permute": (
        "return None",
        "(W, b), (V, c), *rest = params; return [(W[:, order], b[order]), (V[order], c), *rest]",
        "(W, b), *rest = params; return [(W[:, order], b[order]), *rest]",
    ),
    "own-small": (
        "my_params = None",
        "my_params = [(np.eye(784, 10, dtype=np.float32), np.zeros(10, np.float32))]",
        "my_params = [(np.zeros((784, 10), np.float32), np.zeros(10, np.float32))]",
    ),
}


@pytest.fixture(scope="module")
def learner():
    """The names that the exercises use: the definitions of the notebook and small data."""
    nb = definitions()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 28, 28)).astype(np.uint8)
    x, y = nb.scale(images, 127, 74), rng.integers(0, 10, 300)
    nb.x_train, nb.y_train = x[:100], y[:100]
    nb.x_val = x[100:]
    nb.y_val = nb.x_val[:, :10].argmax(axis=1)  # which the first ten pixels tell
    nb.params = nb.init_params(nb.SIZES, rng)
    return nb


@pytest.mark.parametrize("cell", SOLUTIONS)
def test_exercises_tell_right_answers_from_wrong_ones_and_from_none(learner, capsys, cell):
    blank, right, wrong = SOLUTIONS[cell]
    source = CELLS[cell]
    assert source.count(blank) == 1
    for answer, verdict in ((blank, "no answer"), (right, "right,"), (wrong, "not right yet.")):
        exec(source.replace(blank, answer), vars(learner))  # noqa: S102, our own source
        assert f": {verdict}" in capsys.readouterr().out, answer


def test_every_exercise_has_a_solution_here():
    assert [cell for cell in CELLS if cell.startswith("own-")] == list(SOLUTIONS)
