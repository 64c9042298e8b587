"""What the walkthrough uses but does not teach: loading, plotting, saving, preparing a reader's own
digit, letting them draw one, and checking.

No network mathematics stands here; every formula and its code are in mnist_from_scratch.ipynb.
"""

import base64
import hashlib
import html
import inspect
import io
import linecache
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from IPython import get_ipython
from IPython.display import DisplayHandle, Image, display
from ipywidgets import HTML, Button, HBox, VBox
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter, ImageOps
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

Params = list[tuple[np.ndarray, np.ndarray]]
Picture = str | Path | np.ndarray
Point = tuple[float, float]  # x to the right and y down, in pixels of the pad
Predict = Callable[[np.ndarray], np.ndarray]  # probabilities (10,) from (28, 28) bytes

# MD5 sums of the four files once unpacked. torchvision knows those of the archives and checks
# them, but it reads an unpacked file, whole or not, without a check.
UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

# Okabe and Ito's palette, which the colour-blind can tell apart: one colour for one thing throughout.
TRAINING, VALIDATION, RIGHT, WRONG, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#555555"

SECONDS_BETWEEN_DRAWINGS = 3  # drawing the curves takes a fifth of a second

# Preparing a picture: pixels, but FAINTEST is a difference in brightness, of 255.
MOST_PIXELS = 150_000_000  # Pillow refuses pictures of 179 million
LONGEST_SIDE = 300  # of the picture in which the ink is looked for
FITTED = 20  # longer side of the digit, as in MNIST
THINNEST = 2.0  # strokes at that size; most of those of MNIST have 2 to 3
FAINTEST = 12
DARKEST = 64  # paper; in deeper shadow, differences are no longer enlarged to make up for it
SPECK = 0.02  # what has a smaller share of the ink of the largest piece
RESAMPLING = PILImage.Resampling.BICUBIC

PAD, PEN = 280, 18  # side of the drawing pad and width of its pen in pixels
SURE = 0.7  # lower probabilities are not announced as answers
EXAMPLE = [  # a 3, made of two arcs
    (135 + radius * np.cos(angle), y + radius * np.sin(angle))
    for y, radius, angles in ((93, 42, np.linspace(-2.6, 1.6)), (180, 48, np.linspace(-1.6, 2.6)))
    for angle in angles
]

TOO_LARGE = "{} has more than 150 million pixels: crop it to the digit or make it smaller."

DISGUISES = {
    "dark on white": {"enlarged": False},
    "large picture": {},
    "on grey paper": {"paper": 170, "ink": 70},
    "shadow and noise": {"paper": 230, "ink": 40, "shadow": 0.5, "noise": 5},
    "blue on yellow": {"paper": (250, 240, 190), "ink": (40, 60, 170)},
}


# ---------------------------------------------------------------------------------------- loading


def load_mnist(root: str | Path = "data") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST through torchvision, which unpacks the archives below `root` or downloads them.

    A missing or damaged file is replaced: an unpacked one from its archive, and an archive that is
    needed for this by a download.

    Args:
        root: the folder that holds, or is to hold, `MNIST/raw/`.

    Returns:
        Training images (60000, 28, 28) and labels (60000,), test images (10000, 28, 28) and labels
        (10000,). Images are bytes, 0 for paper to 255 for ink; labels are integers 0 to 9.

    Raises:
        RuntimeError: if a file cannot be replaced; it names the file, its place and, for an
            archive, the MD5 sum of the original. What was there before is still there.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits.
    """
    raw = Path(root, "MNIST", "raw")
    for archive, md5 in MNIST.resources:
        _make_whole(raw, archive, md5)
    train, test = (MNIST(root, train=part) for part in (True, False))
    return train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy()


def _make_whole(raw: Path, archive: str, md5: str) -> None:
    """Unpack an archive, downloaded if need be, unless the unpacked file is there and whole.

    New files come into being in a folder of their own and then take their places in one move each.
    """
    name = archive.removesuffix(".gz")
    try:
        if check_integrity(raw / name, UNPACKED_MD5[name]):
            return
        if not check_integrity(raw / archive, md5):
            _download(raw, archive, md5)
        with TemporaryDirectory(dir=raw) as new:
            extract_archive(raw / archive, new)
            os.replace(Path(new, name), raw / name)
    except OSError as error:
        raise RuntimeError(
            f"{name} could not be unpacked in {raw.as_posix()} ({error}): make the folder "
            "writable, or room on the disk, and run this again."
        ) from None


def _download(raw: Path, archive: str, md5: str) -> None:
    """Download an archive from the first mirror that works."""
    for mirror in MNIST.mirrors:
        try:
            raw.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=raw) as new:
                download_url(mirror + archive, new, md5=md5)
                os.replace(Path(new, archive), raw / archive)
            return
        except (OSError, RuntimeError, HTTPException) as error:
            reason = str(error).strip(" .\n")
    raise RuntimeError(
        f"{archive} is missing or damaged and could not be downloaded ({reason}): put the "
        f"original, MD5 sum {md5}, at {(raw / archive).as_posix()} and run this again."
    )


# --------------------------------------------------------------------------------------- plotting


def plot_network(sizes: Sequence[int]) -> None:
    """Draw a fully connected network: a column of units per layer, weights as arrows between them.

    Args:
        sizes: units of each layer, inputs first.
    """
    figure = Figure(figsize=(9, 3.6))
    axes = figure.add_axes([0, 0, 1, 1])
    axes.axis("off")
    shown = [5] * len(sizes)
    columns = [[(2.4 * i, y) for y in np.linspace(1, -1, n)] for i, n in enumerate(shown)]
    for left, right in pairwise(columns):
        for x0, y0 in left:
            for x1, y1 in right:
                axes.plot([x0, x1], [y0, y1], color="0.8", linewidth=0.6, zorder=1)
    last = len(sizes) - 1
    for i, (n, column) in enumerate(zip(sizes, columns)):
        colour = NEUTRAL if i == 0 else VALIDATION if i == last else TRAINING
        for j, (x, y) in enumerate(column):
            if j == len(column) // 2:
                axes.text(
                    x,
                    y,
                    "⋮",
                    ha="center",
                    va="center",
                    fontsize=18,
                    zorder=3,
                    bbox={"color": "white", "pad": 1},
                )
            else:
                axes.plot(x, y, "o", color=colour, markersize=15, zorder=2)
        what = "pixels" if i == 0 else "scores" if i == last else f"hidden layer {i}"
        axes.text(
            2.4 * i,
            1.35,
            f"{n} {what}" if i in (0, last) else f"{what}\n{n} units",
            ha="center",
            va="center",
            fontsize=11,
        )
        if i < last:
            axes.text(
                2.4 * i + 1.2,
                -1.45,
                f"weights {n} × {sizes[i + 1]}\nbiases {sizes[i + 1]}",
                ha="center",
                va="center",
                fontsize=9.5,
                color="0.3",
            )
    for digit, (x, y) in zip((0, 1, None, 8, 9), columns[-1]):
        if digit is not None:
            axes.text(x + 0.3, y, digit, ha="center", va="center", fontsize=12)
    axes.set(xlim=(-0.9, 2.4 * last + 0.9), ylim=(-1.75, 1.65))
    show(figure, f"A fully connected network with layers of {', '.join(map(str, sizes))} units.")


def plot_digits(
    images: np.ndarray, titles: Sequence, columns: int = 10, title: str = "", alt: str = ""
) -> None:
    """Draw images side by side, ink dark on white paper.

    Args:
        images: (n, 28, 28) or (n, 784).
        titles: n things to write above them.
        columns: images in a row.
        alt: what the picture shows, for those who cannot see it, if the title does not say it.

    Raises:
        ValueError: if the images have another shape or hold NaN or infinity, or if there are none,
            or not as many titles.
    """
    images = _checked("images", images, (None, 28, 28), (None, 784)).reshape(-1, 28, 28)
    _check_count("titles", titles, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(str(text).count("\n") for text in titles)
    figure = Figure(figsize=(9, rows * (9 / columns + 0.18 * lines) + 0.35 * bool(title)))
    for i, (image, text) in enumerate(zip(images, titles)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray_r")
        axes.set_title(text, fontsize=10, pad=3)
        axes.axis("off")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(pad=0.4)
    show(figure, alt or title or f"Images titled {', '.join(map(str, titles))}.")


def plot_weights(rows: dict[str, np.ndarray], title: str) -> None:
    """Draw sets of 784 weights as 28 × 28 pictures: blue below zero, white at zero, red above.

    Args:
        rows: the name of each row of pictures and its weights (n, 784); each row has its own scale
            of colours, symmetric about zero.

    Raises:
        ValueError: if weights have another shape or hold NaN or infinity, or if there are none.
    """
    figure = Figure(figsize=(9, 1.0 * len(rows) + 0.35), layout="constrained")
    for part, (name, weights) in zip(np.atleast_1d(figure.subfigures(len(rows))), rows.items()):
        weights = _checked(name, weights, (None, 784))
        limit = np.abs(weights).max()
        all_axes = part.subplots(1, len(weights), squeeze=False)[0]
        for axes, picture in zip(all_axes, weights):
            image = axes.imshow(picture.reshape(28, 28), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set(xticks=[], yticks=[])
        all_axes[0].set_ylabel(name)
        part.colorbar(image, ax=all_axes, pad=0.01, aspect=8).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=12)
    show(figure, title)


def plot_function(x: np.ndarray, curves: dict[str, np.ndarray], title: str) -> None:
    """Draw functions of one variable next to each other.

    Args:
        x: (n,), where they were evaluated.
        curves: name and values (n,) of each.

    Raises:
        ValueError: if an array has another shape or holds NaN or infinity, or if it is empty.
    """
    x = _checked("x", x, (None,))
    figure = Figure(figsize=(9, 2.8))
    for i, (name, y) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), i + 1)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.plot(x, _checked(name, y, x.shape), color=TRAINING, linewidth=2)
        axes.set(title=name, xlabel="pre-activation z")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout()
    show(figure, f"{title}: {', '.join(curves)}.")


def plot_lines(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]],
    xlabel: str,
    title: str,
    log: bool = False,
) -> None:
    """Draw panels with several lines each, side by side; a line has one style in all of them.

    Args:
        panels: title of each panel and its lines: name, then x (n,) and y (n,).
        log: whether equal distances upwards are equal ratios.

    Raises:
        ValueError: if an array has another shape or holds NaN or infinity, or if it is empty.
    """
    figure = Figure(figsize=(9, 3.4))
    styles = ("o-", "s--", "^:", "d-.")
    colours = (TRAINING, VALIDATION, RIGHT, NEUTRAL)
    for i, (name, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for (label, (x, y)), style, colour in zip(lines.items(), styles, colours):
            x = _checked("x", x, (None,))
            y = _checked(label, y, x.shape)
            axes.plot(x, y, style, color=colour, label=label, markersize=4)
        axes.set(title=name, xlabel=xlabel, yscale="log" if log else "linear")
        if x.dtype.kind == "i":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=12)
    figure.tight_layout()
    show(figure, f"{title}. {', '.join(panels)}; lines: {', '.join(lines)}.")


def plot_history(history: Sequence[dict], epochs: int) -> Figure:
    """Loss and accuracy, on training and validation images, while the training went on.

    Args:
        history: records as `train` yields them.
        epochs: how many there will be, so that the picture keeps its scale while it grows.
    """
    figure = Figure(figsize=(9, 3.2))
    done = [record["epoch"] for record in history]
    for i, (quantity, label) in enumerate({"loss": "mean loss", "accuracy": "accuracy"}.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        for part, name, style, colour in (
            ("train", "training images", "o-", TRAINING),
            ("val", "validation images", "s--", VALIDATION),
        ):
            values = [record[f"{part}_{quantity}"] for record in history]
            axes.plot(done, values, style, color=colour, label=name, markersize=3, linewidth=1.5)
        axes.set(title=label.capitalize(), xlabel="epoch", ylabel=label, xlim=(0.5, epochs + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.grid(color="0.9")
        axes.legend(frameon=False)
        if quantity == "loss":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    figure.tight_layout()
    return figure


def watch(records: Iterable[dict], epochs: int) -> Iterator[dict]:
    """Pass on the records of a training run one by one, drawing the curves and the time left.

    Jupyter's stop button ends the run after the steps done so far, without an error. Each record is
    passed on before it is drawn, so that no interruption loses it.

    Args:
        records: what `train` yields, a record after each epoch or after every few.
        epochs: how many there will be.
    """
    history: list[dict] = []
    start = drawn = time.perf_counter()
    status, curves = DisplayHandle(), DisplayHandle()
    try:
        status.display({"text/plain": "The first epoch is running."}, raw=True)
        curves.display(_curves(history, epochs))
        for record in records:
            history.append(record)
            yield record
            now = time.perf_counter()
            left = (now - start) / record["epoch"] * (epochs - record["epoch"])
            status.update({"text/plain": _status(record, epochs, now - start, left)}, raw=True)
            if now - drawn > SECONDS_BETWEEN_DRAWINGS:
                curves.update(_curves(history, epochs))
                drawn = time.perf_counter()
    except KeyboardInterrupt:
        print(
            f"Stopped after {_epochs_done(history)} of {epochs} epochs; "
            "the parameters are as the last step left them."
        )
    finally:
        curves.update(_curves(history, epochs))


def _curves(history: Sequence[dict], epochs: int) -> Image:
    done = _epochs_done(history)
    alt = f"Loss and accuracy on training and validation images after {done} epochs."
    return _picture(plot_history(history, epochs), alt)


def _epochs_done(history: Sequence[dict]) -> int:
    return history[-1]["epoch"] if history else 0


def _status(record: dict, epochs: int, seconds: float, left: float) -> str:
    return (
        f"epoch {record['epoch']} of {epochs}, "
        + (f"about {left:.0f} s left\n" if left else f"{seconds:.0f} s in all\n")
        + f"training:   loss {record['train_loss']:.4f}, accuracy {record['train_accuracy']:.2%}\n"
        + f"validation: loss {record['val_loss']:.4f}, accuracy {record['val_accuracy']:.2%}"
    )


def plot_confusion(counts: np.ndarray, title: str) -> None:
    """Draw a confusion matrix with its counts; only mistakes are shaded.

    Args:
        counts: (10, 10), images of digit i that were taken for digit j.

    Raises:
        ValueError: if the counts have another shape or hold NaN or infinity.
    """
    counts = _checked("counts", counts, (10, 10))
    figure = Figure(figsize=(6, 5.2))
    axes = figure.add_subplot()
    mistakes = counts * (1 - np.eye(len(counts)))
    axes.imshow(mistakes, cmap="Oranges")
    for (i, j), n in np.ndenumerate(counts):
        if n:
            axes.text(
                j,
                i,
                n,
                ha="center",
                va="center",
                fontsize=9,
                color=RIGHT if i == j else "black" if n < 0.6 * mistakes.max() else "white",
            )
    axes.set(
        xticks=range(10),
        yticks=range(10),
        title=title,
        xlabel="what the network said",
        ylabel="what it is",
    )
    figure.tight_layout()
    show(figure, f"{title}. Rows: true digits, columns: predictions.")


def plot_predictions(
    images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, title: str, columns: int = 5
) -> None:
    """Draw each image with its ten probabilities as bars: the true digit green, a wrong guess red.

    Args:
        images: (n, 28, 28).
        probabilities: (n, 10), rows that sum to 1.
        labels: (n,), the true digits.

    Raises:
        ValueError: if an array has another shape or holds NaN or infinity, if there are no images,
            or if a label is not one of the digits 0 to 9.
    """
    images = _checked("images", images, (None, 28, 28))
    probabilities = _checked("probabilities", probabilities, (len(images), 10))
    labels = _checked("labels", labels, (len(images),))
    strange = labels[~np.isin(labels, range(10))]
    if strange.size:
        raise ValueError(
            f"labels should be digits 0 to 9, but {strange[0]} was found: pass the true digits."
        )
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9, 1.2 * rows + 0.35))
    grid = figure.add_gridspec(rows, 2 * columns, width_ratios=[1.1, 1] * columns)
    for i, (image, p, label) in enumerate(zip(images, probabilities, labels)):
        row, column = divmod(i, columns)
        guess = p.argmax()
        colours = [RIGHT if k == label else WRONG if k == guess else "0.6" for k in range(10)]
        verdict = f"{guess}" if guess == label else f"{guess}, but is {label}"
        axes = figure.add_subplot(grid[row, 2 * column])
        _draw_digit(axes, image, verdict, colours[guess])
        axes = figure.add_subplot(grid[row, 2 * column + 1])
        _draw_bars(axes, p, colours, {guess, label})
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(pad=0.4)
    show(figure, title)


def _draw_digit(axes: Axes, image: np.ndarray, title: str, colour: str = "black") -> None:
    axes.imshow(image, cmap="gray_r")
    axes.axis("off")
    axes.set_title(title, fontsize=10, pad=3, color=colour)


def _draw_bars(axes: Axes, p: np.ndarray, colours: Sequence[str], told: Iterable[int]) -> None:
    """Ten probabilities as bars, those of some digits also in figures."""
    axes.barh(range(10), p, color=colours)
    for k in told:
        axes.text(p[k] + 0.05, k, f"{p[k]:.1%}", fontsize=7, va="center", color=colours[k])
    axes.set(xlim=(0, 1.9), ylim=(9.6, -0.6), xticks=[], yticks=range(10))
    axes.tick_params(labelsize=6.5, length=0, pad=2)
    axes.spines[["top", "bottom", "right"]].set_visible(False)


def plot_times(parts: dict[str, float], products: float) -> None:
    """Draw the parts of a training step as one stacked bar, above it the matrix products alone.

    Args:
        parts: milliseconds of each part.
        products: milliseconds of the matrix products alone.
    """
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    axes = figure.add_subplot()
    axes.barh("products alone", products, color="0.6")
    axes.text(products / 2, 0, f"{products:.2f}", ha="center", va="center")
    start = 0.0
    for (name, milliseconds), colour in zip(parts.items(), ("0.85", TRAINING, VALIDATION, RIGHT)):
        axes.barh("whole step", milliseconds, left=start, color=colour, label=name)
        if milliseconds > 0.04 * sum(parts.values()):
            axes.text(start + milliseconds / 2, 1, f"{milliseconds:.2f}", ha="center", va="center")
        start += milliseconds
    axes.set(title="Where the time of a step goes", xlabel="milliseconds", ylim=(-0.5, 1.5))
    figure.legend(frameon=False, ncols=4, loc="outside lower center")
    texts = ", ".join(f"{name} {milliseconds:.2f}" for name, milliseconds in parts.items())
    show(figure, f"Milliseconds of a training step: {texts}; matrix products alone {products:.2f}.")


def show(figure: Figure, alt: str) -> None:
    """Put a figure into the notebook as a PNG with a text for those who cannot see it."""
    display(_picture(figure, alt))


def _picture(figure: Figure, alt: str) -> Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return Image(buffer.getvalue(), alt=alt)


# ----------------------------------------------------------------------------------------- saving


def save_model(path: str | Path, params: Params) -> None:
    """Write weights and biases as w1, b1, w2, b2, … with `np.savez_compressed`.

    The file is first written beside `path` and then takes its place in one move: if saving is
    interrupted, the previous file stays whole.

    Args:
        params: (W, b) of each layer, float32; W (n_in, n_out), b (n_out,).

    Raises:
        ValueError: if `load_model` would refuse the file, as after a training that diverged; the
            previous file stays.
        OSError: if the file cannot be written; the previous file stays.
    """
    path = Path(path)
    arrays = {}
    for layer, (W, b) in enumerate(params, start=1):
        arrays[f"w{layer}"], arrays[f"b{layer}"] = W, b
    sizes = [len(params[0][0]), *(len(b) for _, b in params)]
    _check_model(path, arrays, sizes, "nothing was written, so train again and save then")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(buffer.getvalue())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_model(path: str | Path, sizes: Sequence[int]) -> Params:
    """Read weights and biases as `save_model` wrote them.

    Args:
        sizes: units of each layer, inputs first, which the shapes must match.

    Returns:
        (W, b) of each layer, float32; W (n_in, n_out), b (n_out,).

    Raises:
        ValueError: if the file is no whole model of these sizes; it says what is wrong with it.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: save a model there or name another path.")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception as error:  # noqa: BLE001, a damaged file makes NumPy raise almost anything
        raise ValueError(
            f"{path} cannot be read as a model ({type(error).__name__}), being damaged or of another "
            "kind: save the model again or put a whole copy there."
        ) from None
    _check_model(path, arrays, sizes, "save the model again")
    return [(arrays[f"w{layer}"], arrays[f"b{layer}"]) for layer in range(1, len(sizes))]


def _check_model(path: Path, arrays: dict, sizes: Sequence[int], then: str) -> None:
    """Raise a ValueError unless the arrays are w1, b1, w2, …, finite float32 of these sizes."""
    shapes = {}
    for layer, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        shapes[f"w{layer}"], shapes[f"b{layer}"] = (n_in, n_out), (n_out,)
    if arrays.keys() != shapes.keys():
        found = ", ".join(arrays) or "nothing"
        raise ValueError(f"{path} should hold {', '.join(shapes)}, but holds {found}: {then}.")
    for name, shape in shapes.items():
        _checked(f"{name} of {path}", arrays[name], shape, dtype=np.float32, then=then)


# -------------------------------------------------------------------------------------- preparing


def prepare_digit(picture: Picture) -> np.ndarray:
    """Prepare a picture of one digit as the images of MNIST were prepared.

    The ink is separated from the paper, cropped, fitted into 20 × 20 pixels with its proportions
    and the grey of its edges kept, and placed so that its centre of mass is in the middle of 28 × 28 pixels.

    Args:
        picture: path of a PNG or JPEG file, or an array: grey (h, w), RGB (h, w, 3) or RGBA
            (h, w, 4), of bytes, booleans or fractions from 0 to 1. The digit may be dark on light
            or light on dark, anywhere in the picture and of any size.

    Returns:
        (28, 28) bytes, 0 for paper to 255 for ink.

    Raises:
        ValueError: if it is no such picture, or nothing in it stands out from the paper.
        FileNotFoundError: if there is no such file.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits.
    """
    return _preparation(picture)["centred"]


def plot_preparation(picture: Picture, title: str = "") -> None:
    """Draw what `prepare_digit` makes of a picture, step by step; a cross marks the middle.

    Args:
        picture: as for `prepare_digit`.

    Raises:
        ValueError, FileNotFoundError: as `prepare_digit` does.
    """
    steps = _preparation(picture)
    figure = Figure(figsize=(9, 3.0 if title else 2.7), layout="constrained")
    for i, (name, step) in enumerate(steps.items()):
        axes = figure.add_subplot(1, len(steps), i + 1)
        axes.imshow(step, cmap="gray_r" if i else "gray", vmin=0, vmax=255)
        (height, width), side = step.shape, max(step.shape)
        axes.set(xlim=np.array([-side, side]) / 2 + width / 2 - 0.5)
        axes.set(ylim=np.array([side, -side]) / 2 + height / 2 - 0.5)
        axes.set(xticks=[], yticks=[], xlabel=f"{width} × {height} pixels")
        axes.set_title(name, fontsize=10)
    axes.plot(14, 14, "+", color=WRONG, markersize=12)
    figure.suptitle(title, fontsize=12)
    show(figure, f"{title or 'Preparing a digit'}: {', '.join(steps)}.")


def naive_digit(picture: Picture) -> np.ndarray:
    """The whole picture in grey and shrunk to (28, 28) bytes, without any other preparation.

    Args, Raises: as for `prepare_digit`, but a blank picture is no error.
    """
    return np.asarray(_opened(picture).resize((28, 28)))


def _preparation(picture: Picture) -> dict[str, np.ndarray]:
    """The steps of `prepare_digit`, each an array of bytes (h, w), by name and in order."""
    image = _opened(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    ink = _ink(image)
    fitted = _fitted(ink)
    return {
        "picture": np.asarray(image),
        "ink alone": ink,
        "cropped and fitted": fitted,
        "centred": _centred(fitted),
    }


def _opened(picture: Picture) -> PILImage.Image:
    """A picture in grey, upright, and with paper where it is transparent."""
    if isinstance(picture, str | Path):
        image = _read_picture(Path(picture))
    else:
        image = _picture_of(picture)
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = PILImage.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L")
    grey, opaque = image.convert("LA").split()
    light = np.average(grey, weights=np.asarray(opaque) + 1e-9) > 127
    paper = PILImage.new("L", image.size, 0 if light else 255)
    paper.paste(grey, mask=opaque)
    return paper


def _read_picture(path: Path) -> PILImage.Image:
    """A picture from a file, turned upright as its EXIF data say."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: name a picture, such as a PNG or a JPEG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PILImage.open(path) as image:
                if image.width * image.height <= MOST_PIXELS:
                    image.draft("L", (LONGEST_SIDE, LONGEST_SIDE))  # a JPEG is shrunk while read
                    return ImageOps.exif_transpose(image)
    except PILImage.DecompressionBombError:
        pass
    except Exception as error:  # noqa: BLE001, a damaged file makes Pillow raise almost anything
        raise ValueError(
            f"{path} cannot be read as a picture ({type(error).__name__}), being damaged or of "
            "another kind: save it again as a PNG or a JPEG."
        ) from None
    raise ValueError(TOO_LARGE.format(path))


def _picture_of(array: np.ndarray) -> PILImage.Image:
    """A picture from an array of bytes, booleans or fractions."""
    shapes = (None, None), (None, None, 3), (None, None, 4)
    array = _checked("picture", array, *shapes, then="pass such an array or the path of a file")
    if array.shape[0] * array.shape[1] > MOST_PIXELS:
        raise ValueError(TOO_LARGE.format("picture"))
    if array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"picture should hold numbers from 0 to 255, or fractions from 0 to 1, but {array.min()} "
            f"to {array.max()} were found: scale them."
        )
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and array.max() <= 1):
        array = array * np.float32(255)
    return PILImage.fromarray(array.astype(np.uint8))


def _ink(image: PILImage.Image) -> np.ndarray:
    """The ink alone: bytes (h, w), 0 for paper to 255 for ink, from a picture in grey.

    Ink takes more of the light from the paper than noise does, and in smaller places than shadows.
    """
    grey = np.asarray(image, np.float32)
    if _light_on_dark(image, grey):
        image, grey = ImageOps.invert(image), 255 - grey
    paper = _paper(image)
    ink = (paper - grey) * (255 / np.maximum(paper, DARKEST))  # in a shadow the same ink takes less
    noise = np.median(abs(np.diff(ink[::3], axis=1))) if image.width > 1 else 0
    ink[ink < max(6 * noise, FAINTEST)] = 0
    core = ink > _otsu_threshold(ink)
    if not core.any():
        raise ValueError(
            "picture seems to be blank, as nothing in it stands out from the paper: write the digit "
            "with a darker pen or crop the picture to it."
        )
    core = _digit_alone(core)
    ink *= 255 / np.percentile(ink[core], 95)
    edges = PILImage.fromarray(core.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return np.where(edges, ink.clip(0, 255), 0).astype(np.uint8)


def _light_on_dark(image: PILImage.Image, grey: np.ndarray) -> bool:
    """Whether the strongest differences from the surroundings are towards the light."""
    surroundings = image.filter(ImageFilter.BoxBlur(max(image.size) / 6))
    difference = grey - np.asarray(surroundings)
    return bool((difference * difference * difference).sum() > 0)


def _paper(image: PILImage.Image) -> np.ndarray:
    """Brightness (h, w) of the paper below dark ink, shadows included.

    It is what a closing leaves of a small copy (J. Serra, Image Analysis and Mathematical
    Morphology, 1982): the brightest value nearby, which removes strokes, and of these the darkest
    nearby, which gives back what is larger than a stroke.
    """
    small = image.copy()
    small.thumbnail((25, 25), PILImage.Resampling.BOX)
    nearby = 9  # wider than a stroke, if the digit fills the picture
    closed = small.filter(ImageFilter.MaxFilter(nearby)).filter(ImageFilter.MinFilter(nearby))
    return np.asarray(closed.resize(image.size, PILImage.Resampling.BILINEAR), np.float32)


def _otsu_threshold(values: np.ndarray) -> int:
    """The number from 0 to 255 that divides values into two groups as different as possible.

    Source: N. Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    counts = np.bincount(values.clip(0, 255).astype(np.uint8).ravel(), minlength=256)
    low, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    high = low[-1] - low
    difference = sums / np.maximum(low, 1) - (sums[-1] - sums) / np.maximum(high, 1)
    return int((low * high * difference**2).argmax())


def _digit_alone(core: np.ndarray) -> np.ndarray:
    """Which of the pixels (h, w) that are ink or as dark belong to the digit.

    Left out are specks, much smaller than the largest piece, and what reaches the edge of the
    picture, such as the edge of the table, if there is a piece that does not.
    """
    side = max(1, max(core.shape) // 50)  # pieces are traced on squares of this side
    rim = core.copy()
    rim[1:-1, 1:-1] = False
    ink, on_rim = (_squares(mask, side) for mask in (core, rim))
    left = set(zip(*(axis.tolist() for axis in ink.nonzero())))
    pieces = []
    while left:
        piece = [left.pop()]
        for i, j in piece:  # grows while it is walked through
            for neighbour in product((i - 1, i, i + 1), (j - 1, j, j + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    piece.append(neighbour)
        pieces.append(tuple(np.transpose(piece)))
    largest = max(ink[piece].sum() for piece in pieces)
    pieces = [piece for piece in pieces if ink[piece].sum() > SPECK * largest]
    inside = [piece for piece in pieces if not on_rim[piece].any()]
    kept = np.zeros(ink.shape, bool)
    for piece in inside or pieces:
        kept[piece] = True
    height, width = core.shape
    return core & kept.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def _squares(mask: np.ndarray, side: int) -> np.ndarray:
    """How many pixels of a mask (h, w) are set in each square of this side."""
    mask = np.pad(mask, [(0, -n % side) for n in mask.shape])
    height, width = mask.shape
    return mask.reshape(height // side, side, width // side, side).sum(axis=(1, 3))


def _fitted(ink: np.ndarray) -> np.ndarray:
    """The ink (h, w) cropped and fitted into 20 × 20 pixels, proportions kept; bytes.

    Strokes that would come out thinner and paler than those of MNIST are made thicker before.
    """
    image = _cropped(PILImage.fromarray(ink))
    if max(image.size) > FITTED:
        image = _resized(image, 4 * FITTED)
        missing = 4 * THINNEST - _stroke_width(np.asarray(image))
        if missing > 1:
            more = round(missing / 2)  # on either side of the stroke
            image = ImageOps.expand(image, more).filter(ImageFilter.MaxFilter(2 * more + 1))
    fitted = np.asarray(_resized(image, FITTED))
    return (fitted * (255 / fitted.max())).astype(np.uint8)


def _cropped(image: PILImage.Image) -> PILImage.Image:
    return image.crop(image.getbbox())


def _resized(image: PILImage.Image, side: int) -> PILImage.Image:
    """The picture shrunk or enlarged such that its longer side has this many pixels."""
    scale = side / max(image.size)
    return image.resize([max(1, round(scale * n)) for n in image.size], RESAMPLING)


def _stroke_width(ink: np.ndarray) -> float:
    """Mean width of the strokes (h, w) in pixels: twice their area by the length of their edges.

    This length is the sum of all slopes, which is the same for sharp and for blurred edges.
    """
    dy, dx = np.gradient(np.pad(ink.astype(np.float32), 1))
    return float(2 * ink.sum() / np.hypot(dy, dx).sum())


def _centred(fitted: np.ndarray) -> np.ndarray:
    """28 × 28 pixels with the ink placed such that its centre of mass is at (14, 14), as in MNIST."""
    centred = np.zeros((28, 28), np.uint8)
    corner = []
    for axis, size in enumerate(fitted.shape):
        mass = fitted.sum(axis=1 - axis, dtype=float)
        centre = np.average(np.arange(size), weights=mass)
        corner.append(int(np.clip(np.floor(14.5 - centre), 0, 28 - size)))
    (top, left), (height, width) = corner, fitted.shape
    centred[top : top + height, left : left + width] = fitted
    return centred


def disguise(
    image: np.ndarray,
    rng: np.random.Generator,
    enlarged: bool = True,
    paper: int | Sequence[int] = 255,
    ink: int | Sequence[int] = 0,
    shadow: float = 0,
    noise: float = 0,
) -> np.ndarray:
    """An MNIST image as a picture such as a reader would bring; DISGUISES holds some to choose.

    Args:
        image: (28, 28) bytes, 0 for paper to 255 for ink.
        rng: draws the size, the place and the noise.
        enlarged: whether it is a larger picture with the digit anywhere in it, or 28 × 28.
        paper, ink: their brightness from 0 to 255, or three for red, green and blue.
        shadow: share of the light that is missing in one corner; from there it grows lighter.
        noise: standard deviation, in units of brightness.

    Returns:
        (h, w) or (h, w, 3) bytes.
    """
    cover = image / 255  # how much of each pixel is covered with ink
    if enlarged:
        side = int(rng.integers(200, 401))
        digit = int(side * rng.uniform(0.4, 0.8))
        large = PILImage.fromarray(image).resize((digit, digit), RESAMPLING)
        top, left = rng.integers(0, side - digit + 1, 2)
        cover = np.pad(large, [(n, side - digit - n) for n in (top, left)]) / 255
    across = np.linspace(-3, 3, len(cover))
    light = 1 - shadow / (1 + np.exp(-across - across[:, None]))
    picture = np.multiply.outer(light * (1 - cover), paper) + np.multiply.outer(light * cover, ink)
    picture += noise * rng.normal(size=picture.shape)
    return picture.round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------- drawing a digit


def open_pad(predict: Predict) -> None:
    """Show a DrawingPad, or where nobody can draw, what it says about an example.

    Somebody can draw if the kernel may ask for input (`allow_stdin` in the Jupyter protocol). That is
    so in JupyterLab, but not in nbconvert and nbval, which run notebooks from end to end; for them
    no widget is made, as nothing of it could be seen in the file. `DrawingPad(predict)` at the end
    of a cell always makes one.

    Args:
        predict: takes (28, 28) bytes as `prepare_digit` returns them and returns the probabilities
            (10,) of the digits.
    """
    shell = get_ipython()
    message = shell.get_parent() if hasattr(shell, "get_parent") else {}
    if message.get("content", {}).get("allow_stdin"):
        return display(DrawingPad(predict))
    print("Run this cell in JupyterLab, and a pad to draw on opens here. It answers like this:\n")
    drawing = _drawing([EXAMPLE])
    sentence, figure = _reading(drawing, predict, {"drawn": 255 - drawing})
    print(sentence)
    show(figure, f"A digit drawn by hand, prepared, and its probabilities. {sentence}")


class DrawingPad(HBox):
    """A pad to draw a digit on, which is read whenever the mouse, the pen or the finger is lifted.

    Args:
        predict: as for `open_pad`.
    """

    def __init__(self, predict: Predict) -> None:
        from ipycanvas import Canvas  # its import talks to the frontend: not before it is needed

        self.predict = predict
        self.strokes: list[list[Point]] = []
        self.is_down = False
        self.canvas = Canvas(width=PAD, height=PAD, layout={"border": "1px solid gray"})
        self.answer = HTML()
        clear = Button(description="Clear")
        super().__init__([VBox([self.canvas, clear]), self.answer])

        self.canvas.on_client_ready(self.redraw)  # whenever a page with the pad is opened
        self.canvas.on_mouse_down(lambda x, y: self.put_down((x, y)))
        self.canvas.on_mouse_move(lambda x, y: self.move((x, y)))
        self.canvas.on_mouse_up(lambda x, y: self.lift())
        self.canvas.on_mouse_out(lambda x, y: self.lift())
        self.canvas.on_touch_start(lambda points: self.put_down(points[0]))
        self.canvas.on_touch_move(lambda points: self.move(points[0]))
        self.canvas.on_touch_end(lambda points: self.lift())
        self.canvas.on_touch_cancel(lambda points: self.lift())
        clear.on_click(lambda _: self.clear())
        self.clear()

    def __repr__(self) -> str:  # what a saved notebook shows instead
        return "A pad to draw a digit on; run this cell to use it."

    def put_down(self, point: Point) -> None:
        """Begin a stroke, unless one is being drawn: by another finger or another kind of event."""
        if not self.is_down:
            self.is_down = True
            self.strokes.append([point])
            self._line(point, point)

    def move(self, point: Point) -> None:
        """Go on with the stroke, if one is being drawn."""
        if self.is_down:
            self._line(self.strokes[-1][-1], point)
            self.strokes[-1].append(point)

    def lift(self) -> None:
        """End the stroke and read what is on the pad."""
        if self.is_down:
            self.is_down = False
            try:
                self._say(*_reading(_drawing(self.strokes), self.predict))
            except Exception as error:  # noqa: BLE001, Jupyter would lose it
                self._say(f"This could not be read ({type(error).__name__}): {error}")

    def clear(self) -> None:
        """Take everything from the pad."""
        self.strokes, self.is_down = [], False
        self.redraw()
        self._say("Draw a digit on the pad, as large as you like.")

    def redraw(self) -> None:
        """Draw blank paper and all strokes anew."""
        # ipycanvas says only once which canvas it draws on, and a page loaded anew missed it.
        self.canvas._canvas_manager._current_canvas = None
        self.canvas.line_width, self.canvas.line_cap = PEN, "round"
        self.canvas.fill_style = "white"
        self.canvas.fill_rect(0, 0, PAD, PAD)
        self.canvas.fill_style = "black"
        for stroke in self.strokes:
            for start, end in pairwise([stroke[0], *stroke]):
                self._line(start, end)

    def _line(self, start: Point, end: Point) -> None:
        self.canvas.fill_circle(*start, PEN / 2)
        self.canvas.stroke_line(*start, *end)

    def _say(self, sentence: str, figure: Figure | None = None) -> None:
        """Show a sentence and below it a figure, which the sentence also describes."""
        self.answer.value = text = html.escape(sentence)
        if figure:
            png = base64.b64encode(_picture(figure, sentence).data).decode()
            self.answer.value = f'{text}<br><img src="data:image/png;base64,{png}" alt="{text}">'


def _drawing(strokes: Iterable[Sequence[Point]]) -> np.ndarray:
    """Strokes as black ink on a white pad, (PAD, PAD) bytes."""
    image = PILImage.new("L", (PAD, PAD), 255)
    pen = ImageDraw.Draw(image)
    for stroke in strokes:
        pen.line(stroke, fill=0, width=PEN)
        for x, y in stroke:
            pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=0)
    return np.asarray(image)


def _reading(
    drawing: np.ndarray, predict: Predict, shown: dict[str, np.ndarray] | None = None
) -> tuple[str, Figure]:
    """A sentence about a drawing and a figure of it, prepared, with its ten probabilities.

    Args:
        shown: further images to show before, and their titles.
    """
    image = prepare_digit(drawing)
    p = _checked("probabilities", predict(image), (10,), then="let predict return such an array")
    guess = int(p.argmax())
    sure = p[guess] >= SURE
    shown = (shown or {}) | {"what the network sees": image}
    figure = Figure(figsize=(2.2 * len(shown) + 2, 2.3))
    *places, last = figure.subplots(1, len(shown) + 1)
    for axes, (name, picture) in zip(places, shown.items()):
        _draw_digit(axes, picture, name)
    colours = [TRAINING if sure and k == guess else "0.6" for k in range(10)]
    _draw_bars(last, p, colours, {guess})
    figure.tight_layout(pad=0.4)
    if sure:
        return f"The answer is {guess}, with a probability of {p[guess]:.1%}.", figure
    return (
        f"Uncertain: the most probable digit is {guess} with only {p[guess]:.1%}, so it is not "
        "announced as an answer."
    ), figure


# --------------------------------------------------------------------------------------- checking


def with_change(function: Callable, old: str, new: str) -> Callable:
    """The same function compiled anew with one piece of its source replaced: a mistake on purpose.

    Args:
        function: one that was defined in a cell.
        old: the piece, which must stand in its source exactly once.
        new: what to put there.

    Raises:
        ValueError: if `old` does not stand there exactly once.
    """
    source = inspect.getsource(function)
    if source.count(old) != 1:
        raise ValueError(
            f"{old!r} stands {source.count(old)} times in {function.__name__}, but should stand "
            "there once: quote a piece exactly, and enough of it to be the only one."
        )
    source = source.replace(old, new)
    name = f"<{function.__name__} with {new!r} for {old!r}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    namespace: dict = {}
    exec(compile(source, name, "exec"), function.__globals__, namespace)  # noqa: S102, our own source
    return namespace[function.__name__]


def print_table(header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Print rows below a header, each column as wide as its longest entry, all but the first to the right."""
    table = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for i, row in enumerate(table):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        print("  ".join(cells).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))


def grade(exercise: str, answer: object, right: Callable[[Any], bool]) -> None:
    """Print whether the answer to an exercise is right, or what kept it from being judged.

    Args:
        answer: what the reader found; None stands for no answer yet.
        right: says of an answer whether it is right.
    """
    if answer is None:
        verdict = "no answer yet"
    else:
        try:
            verdict = "right, well done" if right(answer) else "not right yet"
        except Exception as error:  # noqa: BLE001, an answer may go wrong in any way
            verdict = f"not right yet, it stopped with {type(error).__name__}: {error}"
    print(f"{exercise}: {verdict}.")


def fingerprint(answer: object) -> str:
    """Eight characters by which an answer can be compared without being shown."""
    return hashlib.sha256(str(answer).encode()).hexdigest()[:8]


def _checked(
    what: str,
    array: np.ndarray,
    *shapes: tuple[int | None, ...],
    dtype: type | None = None,
    then: str = "pass such an array",
) -> np.ndarray:
    """The array, if it has one of the shapes (None: any length but 0) and holds finite numbers."""
    array = np.asarray(array)
    fits = any(
        len(shape) == array.ndim and all(n in (None, m) for n, m in zip(shape, array.shape))
        for shape in shapes
    )
    numbers = array.dtype == dtype if dtype else array.dtype.kind in "buif"
    finite = not numbers or np.isfinite(array).all()
    if fits and array.size and numbers and finite:
        return array
    expected = " or ".join(map(str, shapes))
    expected = expected.replace("None, None", "h, w").replace("None", "n")
    raise ValueError(
        f"{what} should be finite {np.dtype(dtype) if dtype else 'numbers'} of shape {expected}"
        f"{', n > 0' * ('n' in expected)}, but {array.dtype} of shape {array.shape}"
        f"{'' if finite else ' with NaN or infinity'} was found: {then}."
    )


def _check_count(what: str, things: Sequence, n: int) -> None:
    """Raise a ValueError unless there are n things, one for each picture."""
    if len(things) != n:
        raise ValueError(
            f"{what} should be {n}, one for each picture, but {len(things)} were found: "
            "pass as many as there are pictures."
        )
