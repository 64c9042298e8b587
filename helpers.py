"""What the walkthrough uses but does not teach: loading, plotting, saving and checking.

No network mathematics stands here; every formula and its code are in mnist_from_scratch.ipynb.
"""

import inspect
import io
import linecache
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

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
        axes.set(title=label.capitalize(), xlabel="epoch", ylabel=label, xlim=(0.5, epochs + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.grid(color="0.9")
        axes.legend(frameon=False)
        if quantity == "loss":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.tight_layout()
    return figure


def watch(records: Iterable[dict], epochs: int) -> Iterator[dict]:
    """Pass on the records of a training run one by one, drawing the curves and the time left.

    Jupyter's stop button ends the run after the steps done so far, without an error. Each record is
    passed on before it is drawn, so that no interruption loses it.

    Args:
        records: what `train` yields, a record an epoch.
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
            left = (now - start) / len(history) * (epochs - len(history))
            status.update({"text/plain": _status(record, epochs, now - start, left)}, raw=True)
            if now - drawn > SECONDS_BETWEEN_DRAWINGS:
                curves.update(_curves(history, epochs))
                drawn = time.perf_counter()
    except KeyboardInterrupt:
        print(
            f"Stopped after {len(history)} of {epochs} epochs; "
            "the parameters are as the last step left them."
        )
    finally:
        curves.update(_curves(history, epochs))


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
    expected = " or ".join(map(str, shapes)).replace("None", "n")
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
