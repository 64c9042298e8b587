"""What the walkthrough uses but does not teach: loading, plotting, saving and checking.

No network mathematics stands here; every formula and its code are in mnist_from_scratch.ipynb.
"""

import hashlib
import inspect
import io
import linecache
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torchvision.datasets import MNIST

Params = list[tuple[np.ndarray, np.ndarray]]

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


# ---------------------------------------------------------------------------------------- loading


def load_mnist(root: str | Path = "data") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST through torchvision, which unpacks the archives below `root` or downloads them.

    A damaged file, packed or unpacked, is replaced.

    Args:
        root: the folder that holds, or is to hold, `MNIST/raw/`.

    Returns:
        Training images (60000, 28, 28) and labels (60000,), test images (10000, 28, 28) and labels
        (10000,). Images are bytes, 0 for paper to 255 for ink; labels are integers 0 to 9.

    Raises:
        RuntimeError: if a file is missing or damaged and cannot be replaced; it names the file,
            its place and the MD5 sum of the original.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits.
    """
    raw = Path(root, "MNIST", "raw")
    try:
        for name, md5 in UNPACKED_MD5.items():
            if _md5(raw / name) not in (md5, None):
                (raw / name).unlink()  # torchvision then unpacks its archive again
        train, test = (MNIST(root, train=part, download=True) for part in (True, False))
    except (RuntimeError, OSError) as error:
        for name, md5 in MNIST.resources:
            if _md5(raw / name) != md5:
                raise RuntimeError(
                    f"{name} is missing or damaged and could not be downloaded: put the original, "
                    f"MD5 sum {md5}, at {(raw / name).as_posix()} and run this again."
                ) from error
        raise RuntimeError(
            f"MNIST's archives are whole but could not be unpacked in {raw.as_posix()} ({error}): "
            "make the folder writable, or room on the disk, and run this again."
        ) from error
    return train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy()


def _md5(path: Path) -> str | None:
    """MD5 sum of a file in hexadecimal, or None if there is no such file."""
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None


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
        images: (n, 28, 28), or any shape that reshapes to it.
        titles: n things to write above them.
        columns: images in a row.
    """
    images = np.reshape(images, (-1, 28, 28))
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
    show(figure, alt or title)


def plot_weights(weights: np.ndarray, titles: Sequence[str], title: str, columns: int = 10) -> None:
    """Draw sets of 784 weights as 28 × 28 pictures: blue below zero, white at zero, red above.

    Args:
        weights: (n, 784). Each picture has its own colour scale, symmetric about zero.
        titles: n things to write above them.
        columns: pictures in a row.
    """
    rows = -(-len(weights) // columns)
    figure = Figure(figsize=(9, rows * (9 / columns + 0.2) + 0.4))
    for i, (picture, text) in enumerate(zip(weights.reshape(-1, 28, 28), titles)):
        limit = np.abs(picture).max()
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(text, fontsize=10, pad=3)
        axes.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(pad=0.4)
    show(figure, title)


def plot_function(x: np.ndarray, curves: dict[str, np.ndarray], title: str) -> None:
    """Draw functions of one variable next to each other.

    Args:
        x: (n,), where they were evaluated.
        curves: name and values (n,) of each.
    """
    figure = Figure(figsize=(9, 2.8))
    for i, (name, y) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), i + 1)
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.plot(x, y, color=TRAINING, linewidth=2)
        axes.set(title=name, xlabel="pre-activation z")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout()
    show(figure, f"{title}: {', '.join(curves)}.")


def plot_history(history: Sequence[dict], epochs: int) -> Figure:
    """Loss and accuracy, on training and validation images, after each epoch.

    Args:
        history: a record an epoch, as `train` yields them.
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
        axes.set(title=label.capitalize(), xlabel="epoch", ylabel=label, xlim=(0, epochs + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        axes.legend(frameon=False)
        if quantity == "loss":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.tight_layout()
    return figure


def watch(records: Iterable[dict], epochs: int) -> Iterator[dict]:
    """Pass on the records of a training run one by one, drawing the curves and the time left.

    Jupyter's stop button ends the run after the steps done so far, without an error.

    Args:
        records: what `train` yields, a record an epoch.
        epochs: how many there will be.
    """
    history: list[dict] = []
    start = drawn = time.perf_counter()
    status = display({"text/plain": "The first epoch is running."}, raw=True, display_id=True)
    curves = display(_curves(history, epochs), display_id=True)
    try:
        for record in records:
            history.append(record)
            now = time.perf_counter()
            left = (now - start) / len(history) * (epochs - len(history))
            status.update({"text/plain": _status(record, epochs, now - start, left)}, raw=True)
            if now - drawn > SECONDS_BETWEEN_DRAWINGS or not left:
                curves.update(_curves(history, epochs))
                drawn = time.perf_counter()
            yield record
    except KeyboardInterrupt:
        curves.update(_curves(history, epochs))
        print(
            f"Stopped in epoch {len(history) + 1}; the parameters are as the last step left them."
        )


def _curves(history: Sequence[dict], epochs: int) -> Image:
    alt = f"Loss and accuracy on training and validation images after {len(history)} epochs."
    return _picture(plot_history(history, epochs), alt)


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
    """
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
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9, 1.55 * rows + 0.35))
    grid = figure.add_gridspec(rows, 2 * columns, width_ratios=[1, 0.75] * columns)
    for i, (image, p, label) in enumerate(zip(images, probabilities, labels)):
        row, column = divmod(i, columns)
        guess = p.argmax()
        axes = figure.add_subplot(grid[row, 2 * column])
        axes.imshow(image, cmap="gray_r")
        axes.axis("off")
        verdict = (f"{guess}", RIGHT) if guess == label else (f"{guess}, but is {label}", WRONG)
        axes.set_title(verdict[0], fontsize=10, pad=3, color=verdict[1])
        axes = figure.add_subplot(grid[row, 2 * column + 1])
        colours = [RIGHT if k == label else WRONG if k == guess else "0.6" for k in range(10)]
        axes.barh(range(10), p, color=colours)
        for k in {guess, label}:
            axes.text(p[k] + 0.05, k, f"{p[k]:.1%}", fontsize=7, va="center", color=colours[k])
        axes.set(xlim=(0, 1.9), ylim=(9.6, -0.6), xticks=[], yticks=range(10))
        axes.tick_params(labelsize=6.5, length=0, pad=2)
        axes.spines[["top", "bottom", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(pad=0.4)
    show(figure, title)


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
        params: (W, b) of each layer; W (n_in, n_out), b (n_out,).
    """
    path = Path(path)
    arrays = {}
    for layer, (W, b) in enumerate(params, start=1):
        arrays[f"w{layer}"], arrays[f"b{layer}"] = W, b
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)
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
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise ValueError(
            f"{path.name} is not a whole model file ({error}): save it again."
        ) from error
    params = []
    for layer, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        for name, shape in ((f"w{layer}", (n_in, n_out)), (f"b{layer}", (n_out,))):
            array = arrays.get(name)
            if array is None:
                problem = "is missing"
            elif array.shape != shape or array.dtype != np.float32:
                problem = f"is {array.dtype} {array.shape}, but should be float32 {shape}"
            elif not np.isfinite(array).all():
                problem = "holds NaN or infinity"
            else:
                continue
            raise ValueError(f"{path.name}: {name} {problem}: save the model again.")
        params.append((arrays[f"w{layer}"], arrays[f"b{layer}"]))
    return params


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
            f"{old!r} stands {source.count(old)} times in {function.__name__}, not once."
        )
    source = source.replace(old, new)
    name = f"<{function.__name__} with {new!r}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    namespace: dict = {}
    exec(compile(source, name, "exec"), function.__globals__, namespace)  # noqa: S102, our own source
    return namespace[function.__name__]


def print_table(header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Print rows below a header, each column as wide as its longest entry, all but the first to the right."""
    table = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for i, row in enumerate(table):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        print("  ".join(cells).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
