"""Helpers: what the walkthrough uses but does not teach: data, figures, photographs, answers."""

import base64
import html
import io
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage
from torchvision.datasets import MNIST
from torchvision.datasets.utils import download_url

# NumPy says so without cause where Apple's Accelerate multiplies, and of nothing else.
warnings.filterwarnings("ignore", "divide by zero encountered in matmul$", RuntimeWarning)
np.seterr(all="warn", under="ignore")  # NumPy's own settings, whatever a startup file says
np.set_printoptions(precision=8)


# ---------------------------------------------------------------------------------------- loading
def load_mnist(root: str | Path = "data") -> list[np.ndarray]:
    """MNIST from the archives in `root`/MNIST/raw, which torchvision checks, or else downloads.

    Returns training images (60000, 28, 28) and labels (60000,), test images and labels. Images are
    bytes, 0 for paper to 255 for ink; labels are integers 0 to 9. Raises a RuntimeError.
    """
    raw, source = Path(root, "MNIST", "raw"), "https://ossci-datasets.s3.amazonaws.com/mnist/"
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        new = Path(folder, "MNIST", "raw")  # torchvision would trust unpacked files in `raw`
        new.mkdir(parents=True)
        for name, md5 in MNIST.resources:
            try:  # nothing is downloaded that is there and undamaged
                download_url(source + name, raw, name, md5)
            except (OSError, RuntimeError) as error:
                what = f"{name} is missing or damaged and could not be downloaded ({error})"
                advice = f"put the original, MD5 sum {md5}, at {raw / name} and run this again."
                raise RuntimeError(f"{what}: {advice}") from None
            shutil.copy(raw / name, new)
        parts = [MNIST(folder, train=train, download=True) for train in (True, False)]
    return [array.numpy() for part in parts for array in (part.data, part.targets)]


# ---------------------------------------------------------------------------------------- figures
# Okabe and Ito's palette, which the colour-blind can tell apart: one colour for one thing.
TRAINING, VALIDATION, RIGHT, WRONG, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#555555"
COLOURS = (TRAINING, VALIDATION, RIGHT, NEUTRAL, "#CC79A7")
STYLES = ("o-", "s--", "^:", "d-.")  # with five colours, twenty kinds of lines
CENTRED = {"ha": "center", "va": "center"}
BOXED = CENTRED | {"bbox": {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}}
matplotlib.rcdefaults()  # whatever style the reader has set
matplotlib.rc("font", size=11)


def show(figure: Figure, title: str, alt: str, put: Callable | None = None) -> None:
    """Display a figure as an opaque PNG, with a text for those who cannot see it, or print that."""
    figure.suptitle(title, fontsize=12)
    if get_ipython() is None:  # a plain script
        return print(alt)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, facecolor="white")
    data = {"image/png": png.getvalue(), "text/plain": alt}
    (put or display)(data, metadata={"image/png": {"alt": alt}}, raw=True)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure, and axes all over it without frame or ticks; both measured in inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def plot_network(sizes: Sequence[int]) -> None:
    """Draw a fully connected network: a column of units per layer, pixels left and digits right."""
    figure, axes = _blank(9, 3.1)
    hidden = [f"units in\nhidden layer {i}" for i in range(1, len(sizes) - 1)]
    columns, heights = np.linspace(0.8, 8.2, len(sizes)), (2.1, 1.6, 0.8, 0.3)
    for y in heights:
        for y_next in heights:  # to and fro from column to column
            axes.plot(columns, np.resize([y, y_next], len(sizes)), color="0.8", linewidth=0.6)
    for x, size, name in zip(columns, sizes, ["pixels", *hidden, "scores"]):
        axes.plot(4 * [x], heights, "o", color=TRAINING, markersize=15)
        axes.text(x, 1.2, "⋮", fontsize=18, **CENTRED)
        axes.text(x, 2.6, f"{size} {name}", **CENTRED)
    for digit, y in zip((0, 1, 8, 9), heights):
        axes.text(8.45, y, digit, **CENTRED)
    show(figure, "", f"A network in columns, each joined to the next, of {sizes} units.")


def plot_images(images, titles, title: str, columns: int = 10, signed: bool = False) -> None:
    """Draw images (h, w) or (784,), ink dark on white; or signed, with zero grey."""
    images, titles = list(images), list(map(str, titles))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9, rows * (9 / columns + 0.2) + 0.4), layout="constrained")
    limit = max(abs(image).max() for image in images)
    scale = {"vmin": -limit, "vmax": limit} if signed else {}
    for i, (image, text) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1, xticks=[], yticks=[])
        axes.imshow(image.reshape(28, 28) if image.ndim == 1 else image, "gray_r", **scale)
        axes.set_title(text, fontsize=10, pad=3)
        axes.spines[:].set_color("0.8")
    show(figure, title, f"{title}. {len(images)} pictures: {', '.join(titles)}.")


def plot_lines(lines: dict, title: str, xlabel: str, ylabel: str = "", log: str = "") -> None:
    """Draw lines: name, then x (n,) and y (n,). `log` names logarithmic axes: "x", "y" or "xy"."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    told = _draw_lines(axes, lines)
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        if axis.axis_name in log:
            set_scale("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 3) if high < 1e6 * low else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    figure.legend(loc="outside right center", frameon=False)
    show(figure, title, f"{title}. Lines over {xlabel}: {told}.")


def _draw_lines(axes: Axes, lines: dict) -> str:
    """Draw lines whose markers show even where they coincide; return where they begin and end."""
    told = []
    for k, (name, (x, y)) in enumerate(lines.items()):
        look = {"color": COLOURS[k % 5], "markersize": 9 - 2 * (k % 4)}
        axes.plot(x, y, STYLES[k % 4], label=name, markevery=max(1, len(y) // 8), **look)
        told.append(f"{name}: {y[0]:.3g} at {x[0]:.3g} to {y[-1]:.3g} at {x[-1]:.3g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3, steps=[1, 2, 5, 10]))
    axes.grid(color="0.9")
    return "; ".join(told)


def _number(value: float) -> str:
    """Three decimals at most, or three digits if there are zeros before them."""
    text = f"{value:.3g}" if abs(value) < 1 else f"{round(float(value), 3):g}"
    return text.replace("-", "−")


def plot_graph(columns: dict, factors: Sequence, title: str) -> None:
    """Draw a computation from left to right: values in black, derivatives of the loss in orange.

    `columns` holds name, then values (n,) or None and derivatives (n,). `factors` has for each two
    neighbours an array (n_left, n_right): how fast the right rises with the left; 0 is not drawn.
    """
    rows = max(len(derivatives) for _, derivatives in columns.values())
    figure, axes = _blank(9, 1.8 * rows + 0.6)
    places, told = [], []
    for i, (name, (values, derivatives)) in enumerate(columns.items()):
        n, x = len(derivatives), 9 * (i + 0.5) / len(columns)
        places.append([(x, 0.5 + 0.9 * (rows + n - 1 - 2 * k)) for k in range(n)])
        for k, (x, y) in enumerate(places[i]):
            label = name.strip("$") + (f"_{k + 1}" if n > 1 else "")
            value = "" if values is None else f"\n{_number(values[k])}"
            back = _number(derivatives[k])
            axes.text(x, y, f"${label}${value}", fontsize=13, **BOXED)
            axes.text(x, y - 0.52, back, fontsize=13, color=VALIDATION, weight="bold", **CENTRED)
            told.append(f"{label}{value}, derivative {back}".replace("\n", " = "))
    for left, right, array in zip(places, places[1:], factors):
        for i, j in np.argwhere(array):  # where it is not 0
            (x, y), (x_end, y_end) = left[i], right[j]
            axes.plot([x, x_end], [y, y_end], color="0.6", zorder=0)
            y += 0.66 / (x_end - x) * (y_end - y)  # the number stands near the left end
            text = _number(np.asarray(array)[i, j])
            axes.text(x + 0.66, y, text, color=NEUTRAL, backgroundcolor="white", **CENTRED)
    if any(values is not None for values, _ in columns.values()):
        axes.text(0.2, 0.2, "black: values, forward")
    axes.text(2.3, 0.2, "grey: how fast the right end rises with the left", color=NEUTRAL)
    axes.text(6.35, 0.2, "orange: how fast the loss rises", color=VALIDATION)
    show(figure, title, f"{title}. From left to right: {'; '.join(told)}.")


def plot_layer() -> None:
    """Draw a layer's formulas: forward above, from left to right; backward below, to the left."""
    figure, axes = _blank(9, 5)
    of_W = r"$\partial L/\partial W^{(l)} = A^{(l-1)}{}^\top \; \partial L/\partial Z^{(l)}$"
    of_b = r"$\partial L/\partial b^{(l)} = $ sum of $\partial L/\partial Z^{(l)}$ over the batch"
    for x, y, text, x_end, y_end, beside in (  # boxes; where an arrow leads, and what that does
        (1.3, 4.1, "$A^{(l-1)}$", 4.25, 4.1, r"$\cdot \; W^{(l)} + b^{(l)}$"),
        (4.5, 4.1, "$Z^{(l)}$", 7.45, 4.1, "$f$"),
        (7.7, 4.1, "$A^{(l)}$", 7.7, 4.1, ""),
        (7.7, 2.2, r"$\partial L/\partial A^{(l)}$", 4.97, 2.2, r"$\odot \; f^\prime(Z^{(l)})$"),
        (4.5, 2.2, "", 4.5, 1.15, ""),
        (4.5, 2.2, r"$\partial L/\partial Z^{(l)}$", 1.9, 2.2, r"$\cdot \; W^{(l)}{}^\top$"),
        (1.3, 2.2, r"$\partial L/\partial A^{(l-1)}$", 1.3, 2.2, ""),
        (4.5, 0.7, f"{of_W}\n{of_b}", 4.5, 0.7, ""),
    ):
        colour = TRAINING if y > 3 else VALIDATION
        axes.annotate("", (x_end, y_end), (x, y), arrowprops={"color": colour, "width": 1.5})
        axes.text(x, y, text, fontsize=15, linespacing=1.6, **BOXED)
        axes.text((x + x_end) / 2, y + 0.27, beside, color=colour, fontsize=15, **CENTRED)
    for x, y in (([1.3, 0.3, 0.3, 4.5], [4.1, 4.1, 0.7, 0.7]), ([4.5, 6.3], [4.1, 2.7])):
        axes.plot(x, y, "--", color="0.4", zorder=0)
    title = "A layer: forward in blue, backward in orange, and what it has to remember"
    back = "times the slope of f at Z, then W transposed; derivatives at W: inputs times those at Z"
    show(figure, title, f"{title}. Forward: times W, plus b, then f. Backward: {back}.")


def plot_predictions(
    images, probabilities, labels, title: str, columns: int = 5, put: Callable | None = None
) -> None:
    """Draw each image with its ten probabilities as bars: the true digit green, a wrong answer red.

    A label is None where no digit is the true one. `put` shows the figure, by default the notebook.
    """
    columns, told = min(columns, len(images)), []
    rows, side = -(-len(images) // columns), min(1.8, 9 / columns)
    size = max(4, side * columns), rows * (side + 0.2) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    for i, (image, p, label) in enumerate(zip(images, probabilities, labels)):
        answer, other = p.argmax(), TRAINING if label is None else WRONG
        colours = [RIGHT if k == label else other if k == answer else "0.6" for k in range(10)]
        verdict = f"{answer}" if label in (answer, None) else f"{answer}, but is {label}"
        told.append(f"{verdict} ({p[answer]:.0%})")
        axes = figure.add_subplot(rows, columns, i + 1, box_aspect=1)
        axes.set_title(verdict, fontsize=9, pad=2, color=colours[answer])
        axes.bar(range(10), p, color=colours)
        sides = {answer: "center"}
        if label not in (answer, None):  # two percentages, which might collide
            sides = {min(answer, label): "right", max(answer, label): "left"}
        for k, side in sides.items():
            axes.text(k, p[k] + 0.05, f"{p[k]:.0%}", fontsize=8, ha=side, color=colours[k])
        axes.imshow(image, "gray_r", extent=(1.4, 7.6, 1.5, 3.66), aspect="auto")  # square
        axes.set(xlim=(-0.8, 9.8), ylim=(0, 3.7), xticks=range(10), yticks=[])
        axes.tick_params(labelsize=6, length=0, pad=1)
        axes.spines[["top", "left", "right"]].set_visible(False)
    show(figure, title, f"{title}. The network's answers: {'; '.join(told)}.", put)


def plot_confusion(labels, answers, title: str) -> None:
    """Draw how often digit i (row) was taken for digit j (column), with the mistakes shaded."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, answers), 1)
    mistakes = counts - np.diag(counts.diagonal())
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.add_subplot(xticks=range(10), yticks=range(10))
    axes.imshow(mistakes, cmap="Oranges", vmax=1.6 * mistakes.max())  # so that figures stay legible
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j, i, n or "", color=RIGHT if i == j else "black", **CENTRED)
    axes.set(xlabel="what the network said", ylabel="what it is")
    i, j = np.unravel_index(mistakes.argmax(), mistakes.shape)
    show(figure, title, f"{title}. Most frequent mistake: {i} taken for {j}, {counts[i, j]} times.")


def plot_dots(rows: dict, title: str, xlabel: str, limit: float) -> None:
    """Draw a row for each name, from top to bottom, with a dot for each of its values (seeds,).

    Lines stand at 0 and at the limit; of values beyond ten times that the highest is written.
    """
    figure = Figure(figsize=(9, 0.4 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylim=(len(rows) - 0.5, -1.2))
    told, edge = f"{title}. {xlabel}; the limit is {_number(limit)}", 10 * limit
    for y, (name, values) in enumerate(rows.items()):
        colour = VALIDATION if min(values) > limit else NEUTRAL
        axes.plot(np.minimum(values, edge), len(values) * [y], "o", color=colour, alpha=0.6)
        beyond = f"  up to {_number(max(values))}" if max(values) > edge else ""
        axes.text(edge, y, beyond, color=colour, va="center")
        told += f"; {name} {', '.join(map(_number, values))}"
    axes.vlines([0, limit], -1.2, len(rows), ["black"], ["-", "--"], linewidth=1)
    axes.text(limit, -0.8, f" limit {_number(limit)}")
    axes.set_xlim(right=1.4 * edge)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(axis="y", color="0.9")
    show(figure, title, f"{told}.")


# ----------------------------------------------------------------------------- watching a training
@contextmanager
def live_curves(planned: int) -> Iterator["Curves"]:
    """Curves of loss and accuracy during the planned epochs of a training in a `with` block.

    Once an epoch is done, the stop button ends the block without an error. Inside, NumPy does not
    warn of overflow and the like: the curves say when a training diverges.
    """
    if planned < 1:
        raise ValueError(f"{planned} epochs are planned: train for at least one epoch.")
    curves = Curves(planned)
    try:
        with np.errstate(all="ignore"):
            yield curves
        curves.draw()
    except KeyboardInterrupt:
        if not curves.epochs:
            raise
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the button may be pressed twice
        curves.draw()
        done = f"Stopped after {curves.epochs[-1]} of {planned} epochs"
        print(f"{done}; the parameters are as the last step left them.")
        time.sleep(0.3)
        signal.signal(signal.SIGINT, heard)


class Curves:
    """Epochs after which training and validation images gave which pairs of loss and accuracy."""

    def __init__(self, planned: int) -> None:
        self.planned, self.begun, self.drawn = planned, time.perf_counter(), None
        self.epochs, self.training, self.validation, self.handle = [], [], [], DisplayHandle()

    def add(self, training: tuple, validation: tuple, epoch: int | None = None) -> None:
        """Keep what was measured after the next or a given epoch; draw it every three seconds."""
        epoch = epoch or len(self.epochs) + 1
        if not np.isfinite([training[0], validation[0]]).all():
            raise FloatingPointError(f"the run diverged in epoch {epoch}: lower the learning rate.")
        self.training.append(training)
        self.validation.append(validation)
        self.epochs.append(epoch)  # last, since the stop button may come in between
        if self.drawn is None or time.perf_counter() - self.drawn > 3:
            self.draw()

    def draw(self) -> None:
        """Draw all curves anew, with the latest values and the time left above them."""
        figure = Figure(figsize=(9, 3.3), layout="constrained")
        n, parts = len(self.epochs), {}
        for name, pairs in (("training", self.training), ("validation", self.validation)):
            parts[name] = np.array(pairs[:n])  # the stop button may have come before the nth epoch
        for i, title in enumerate(("Mean loss", "Accuracy")):
            axes = figure.add_subplot(1, 2, i + 1, title=title, xlabel="epoch")
            _draw_lines(axes, {f"{k} images": (self.epochs, v[:, i]) for k, v in parts.items()})
            axes.set_xlim(0, self.planned + 0.5)
            axes.legend(frameon=False)
        latest = "; ".join(f"{k} {v[-1, 0]:.3f}, {v[-1, 1]:.2%}" for k, v in parts.items())
        done, seconds = self.epochs[-1], time.perf_counter() - self.begun
        text = f"Loss and accuracy after {done} of {self.planned} epochs: {latest}"
        left = seconds / done * (self.planned - done)
        rest = f"about {left:.0f} s left" if left else f"{seconds:.0f} s in all"
        put = self.handle.update if self.drawn else self.handle.display
        show(figure, f"{text}; {rest}", f"{text}.", put)
        self.drawn = time.perf_counter()


# ---------------------------------------------------------------------- preparing a reader's digit
Picture = str | Path | np.ndarray | Image.Image  # what a reader brings
SIDE, LARGEST = 300, 50_000_000  # pixels: longer side of an opened picture; all those of a file
STROKE, SQUARE, GAP = 101, 65, 9  # windows in pixels: wider than strokes, ruled squares, gaps
FAINTEST = 0.04  # ink takes more of the light than this, beyond what lines take
THINNEST, SPECK = 0.12, 0.02  # a stroke, of the digit's longer side; no ink, of the largest piece


def prepare_digit(picture: Picture) -> np.ndarray:
    """A digit as in MNIST, (28, 28) bytes, 0 paper to 255 ink, from a file or an array of any size.

    Raises a ValueError if there is no single digit, a FileNotFoundError if there is no file.
    """
    return preparation(picture)["centred"]


def preparation(picture: Picture) -> dict[str, np.ndarray]:
    """The steps of `prepare_digit` by name, each an array of bytes with light as 0."""
    light = _opened(picture)
    dark = _light_divided_out(light)
    ink = _lines_taken_away(dark)
    digit = _pieces_of_digit(ink)
    fitted = _fitted(digit)
    steps = {"picture": 1 - light, "light divided out": dark, "lines taken away": ink}
    steps |= {"the digit's pieces": digit, "fitted": fitted, "centred": _centred(fitted)}
    return {name: (255 * step).round().astype(np.uint8) for name, step in steps.items()}


def shrink(picture: Picture) -> np.ndarray:
    """A picture merely made 28 × 28 and inverted, to compare with a prepared one; bytes."""
    small = Image.fromarray(1 - _opened(picture)).resize((28, 28), Image.Resampling.BOX)
    return (255 * np.asarray(small)).round().astype(np.uint8)


def _opened(picture: Picture) -> np.ndarray:
    """A picture in grey (h, w), 0 black to 1 white, SIDE pixels long; paper where transparent."""
    if isinstance(picture, str | Path):
        picture = _from_file(Path(picture).expanduser())
    if not isinstance(picture, Image.Image) or picture.mode[0] in "IF":  # 16 bits or fractions
        picture = _from_array(np.asarray(picture))
    image = ImageOps.contain(picture.convert("LA"), (SIDE, SIDE))
    grey, opaque = np.moveaxis(np.asarray(image, np.float32) / 255, 2, 0)
    paper = 0 if np.average(grey, weights=opaque + 1e-6) > 0.5 else 1  # unlike what is visible
    return grey * opaque + paper * (1 - opaque)


def _from_file(path: Path) -> Image.Image:
    """The picture in a file, upright."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: name a picture, such as a PNG or a JPEG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"more than {LARGEST:,} pixels")
                image.draft("L", (SIDE, SIDE))  # a JPEG is shrunk while it is read
                return ImageOps.exif_transpose(image)
    except Exception as error:  # noqa: BLE001, a damaged file makes Pillow raise almost anything
        advice = "save it again as a PNG or a JPEG, cropped to the digit"
        raise ValueError(f"{path} cannot be read as a picture ({error}): {advice}.") from None


def _from_array(array: np.ndarray) -> Image.Image:
    """Bytes with the greatest number as white, since 1, 255 and 65535 are all in use for it."""
    fits = array.ndim == 2 or array.shape[2:] in ((3,), (4,))
    numbers = array.size > 0 and array.dtype.kind in "buif"
    if not (fits and numbers and array.min() >= 0 and array.max() < np.inf):  # nor with a NaN
        wanted = "an array (h, w), (h, w, 3) or (h, w, 4) of numbers from 0 up"
        raise ValueError(f"picture should be {wanted}, not {array.dtype} of shape {array.shape}.")
    return Image.fromarray((array * (255 / max(array.max(), 1e-9))).astype(np.uint8))


def _light_divided_out(light: np.ndarray) -> np.ndarray:
    """The part of the paper's light that each pixel takes, the same in a shadow as outside.

    The paper is the grey closing (Serra 1982), which fills what is narrower than its window.
    """
    light = ndimage.gaussian_filter(light, 1)  # without the camera's noise
    around = ndimage.uniform_filter(light, STROKE, mode="nearest")
    skew = ((light - around) * (light - around) ** 2).sum()
    if skew >= 0 and np.median(light) < 0.5:  # light ink on dark paper
        light = 1 - light
    edge = STROKE // 2
    paper = ndimage.grey_closing(np.pad(light, edge, "edge"), STROKE)[edge:-edge, edge:-edge]
    paper = ndimage.uniform_filter(paper, STROKE // 4, mode="nearest")
    return (1 - light / np.maximum(paper, 0.15)).clip(0, 1)


def _lines_taken_away(dark: np.ndarray) -> np.ndarray:
    """Ink, 0 to 1: what is darker than the lines, for they are near every place, unlike ink."""
    lines = np.percentile(ndimage.maximum_filter(dark, SQUARE), 5)
    pen = np.median(dark[dark >= (lines + dark.max()) / 2])
    blank = pen < 1.1 * lines + FAINTEST
    if blank and pen > 0.2 and (dark > pen / 2).mean() > 0.1:
        lines = 0  # these are no lines, but a digit that fills the picture
    elif blank:
        raise ValueError("picture seems to be blank: use a darker pen, or crop it to the digit.")
    least = lines + 0.2 * (pen - lines)
    return ((dark - least) / (0.5 * (pen - least))).clip(0, 1)


def _pieces_of_digit(ink: np.ndarray) -> np.ndarray:
    """The digit's ink, cropped: no specks, frame or underline, and nothing that touches the rim."""
    pieces = ndimage.label(ndimage.maximum_filter(ink, GAP))[0] * (ink > 0)  # 0 where there is none
    found = ndimage.find_objects(pieces)
    boxes = np.array([(0, 0, 0, 0), *[(y.start, y.stop, x.start, x.stop) for y, x in found]])
    weights = ndimage.sum_labels(ink, pieces, np.arange(len(boxes)))
    kept = np.flatnonzero(weights > SPECK * weights.max())
    kept = _within_frame(kept, pieces, boxes)
    rim = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    if not np.isin(kept, rim).all():
        kept = np.setdiff1d(kept, rim)
    kept = _of_one_digit(kept, boxes)
    top, bottom, left, right = boxes[kept].T
    digit = np.where(np.isin(pieces, kept), ink, 0)
    return digit[top.min() : bottom.max(), left.min() : right.max()]


def _within_frame(kept: np.ndarray, pieces: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The pieces within a frame, which has no ink in the middle of its box, unlike others."""
    for piece in kept:
        top, bottom, left, right = boxes[piece]
        down, across = (bottom - top) // 8, (right - left) // 8
        middle = pieces[top + down : bottom - down, left + across : right - across]
        if piece not in middle and np.isin(kept, middle).any():
            kept = np.intersect1d(kept, middle)
    return kept


def _of_one_digit(kept: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The pieces without an underline, which is flat and below all others; none may be abreast."""
    top, bottom, left, right = boxes[kept].T
    height, width = bottom - top, right - left
    middles = ((left + right) / 2)[height > 0.6 * height.max()]
    if np.ptp(middles) > 0.6 * height.max():
        raise ValueError("picture seems to show several digits: crop it to one of them.")
    lowest = bottom.argmax()
    below = top[lowest] >= np.delete(bottom, lowest).max(initial=0)
    if len(kept) > 1 and below and height[lowest] < width[lowest] / 4:
        kept = np.delete(kept, lowest)
    return kept


def _fitted(ink: np.ndarray) -> np.ndarray:
    """The digit fitted into 20 × 20 pixels, its strokes, if thin, made as thick as MNIST's.

    A stroke's pixels are, on average, a quarter of its thickness away from the paper.
    """
    distances = ndimage.distance_transform_edt(np.pad(ink, 1))
    thickness = 4 * distances[distances > 0].mean()
    more = max(0, round((THINNEST * max(ink.shape) - thickness) / 2))  # on each side of a stroke
    image = Image.fromarray(ndimage.grey_dilation(np.pad(ink, more), 2 * more + 1))
    fitted = np.asarray(ImageOps.contain(image, (20, 20))).clip(0, 1)
    return fitted / fitted.max()


def _centred(digit: np.ndarray) -> np.ndarray:
    """The digit on 28 × 28 pixels with its centre of mass in the middle."""
    corner = np.floor(14.5 - np.array(ndimage.center_of_mass(digit))).astype(int)
    room = np.subtract(28, digit.shape)
    top, left = corner.clip(0, room)
    return np.pad(digit, [(top, room[0] - top), (left, room[1] - left)])


# ------------------------------------------------------------------------------- drawing on a pad
PAD, PEN = 280, 18  # side of the pad and width of its pen in pixels


def open_pad(read: Callable) -> None:
    """Show a pad, or an example where nobody can draw; read(image) gives ten probabilities."""
    # Who runs a notebook from end to end, such as nbval, does not let the kernel ask for input.
    message = getattr(get_ipython(), "get_parent", dict)()
    if message.get("content", {}).get("allow_stdin"):
        return display(DrawingPad(read).widget)
    print("To draw a digit here, run this cell in JupyterLab. This is how a 7 is answered:")
    drawing = Image.new("L", (PAD, PAD), 255)
    seven = [(75, 70), (205, 70), (180, 110), (145, 165), (120, 225)]
    ImageDraw.Draw(drawing).line(seven, width=PEN, joint="curve")
    _answer(drawing, read)


class DrawingPad:
    """A pad whose drawing is read whenever the mouse, the pen or the finger is lifted."""

    def __init__(self, read: Callable) -> None:
        from ipycanvas import Canvas  # here, as all the rest works without these two
        from ipywidgets import HTML, Button, HBox, VBox

        self.read, self.answer, button = read, HTML(), Button(description="Clear")
        self.canvas = Canvas(width=PAD, height=PAD, layout={"border": "1px solid gray"})
        column = VBox([self.canvas, button], layout={"flex": "0 0 auto"})  # never shrinks
        self.widget = HBox([column, self.answer], layout={"flex_flow": "row wrap"})
        self.canvas.on_mouse_down(self.put_down)
        self.canvas.on_mouse_move(self.move)
        self.canvas.on_mouse_up(self.lift)
        self.canvas.on_mouse_out(self.lift)
        self.canvas.on_touch_start(lambda points: self.put_down(*points[0]))
        self.canvas.on_touch_move(lambda points: self.move(*points[0]))
        self.canvas.on_touch_end(self.lift)
        button.on_click(self.clear)
        self.clear()

    def clear(self, *_: object) -> None:
        """Begin with white paper."""
        self.drawing, self.last = Image.new("L", (PAD, PAD), 255), None
        self.canvas.put_image_data(np.full((PAD, PAD, 3), 255))
        self.canvas.line_width = PEN
        self.answer.value = "Draw a digit on the square; if you see none, install ipycanvas."

    def put_down(self, x: float, y: float) -> None:
        """Begin a stroke, with a dot."""
        self.last = x, y
        self.move(x, y)

    def move(self, x: float, y: float) -> None:
        """Go on with a stroke, with a round end, if the pen is down."""
        if self.last:
            pen, r = ImageDraw.Draw(self.drawing), PEN / 2
            pen.line([self.last, (x, y)], fill=0, width=PEN)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=0)
            self.canvas.stroke_line(*self.last, x, y)
            self.canvas.fill_circle(x, y, r)
            self.last = x, y

    def lift(self, *_: object) -> None:
        """End a stroke, if there is one, and read the drawing."""
        if self.last:
            self.last = None
            try:
                _answer(self.drawing, self.read, self.show)
            except Exception as error:  # noqa: BLE001, Jupyter would lose it
                what = html.escape(f"({type(error).__name__}): {error}")
                self.answer.value = f"This could not be read {what}"

    def show(self, data: dict, **_: object) -> None:
        """Show a picture, as a front end is given it, beside the drawing."""
        png, alt = base64.b64encode(data["image/png"]).decode(), html.escape(data["text/plain"])
        self.answer.value = f'<img src="data:image/png;base64,{png}" alt="{alt}">'


def _answer(drawing: Image.Image, read: Callable, put: Callable | None = None) -> None:
    """Show a drawing as the network sees it, with its ten probabilities and what they say."""
    image = prepare_digit(np.asarray(drawing))
    p = read(image)
    said = "The answer is" if p.max() >= 0.7 else "Uncertain: the likeliest digit is"
    title = f"{said} {p.argmax()},\nwith a probability of {p.max():.1%}"
    plot_predictions([image], [p], [None], title, put=put)


# ------------------------------------------------------------------------------- judging answers
ANSWERS = {  # exercise: its parts and what is right; a pair stands for all numbers between two, and
    # {"argument": k} for central differences of the loss with respect to its argument k
    1: {"p": [0.125, 0.25, 0.625], "dz": [-0.875, 0.25, 0.625]},
    2: {"W": [[9, 1], [4, 0]], "b": [13, 3]},
    3: {"p": 0.25, "loss": 2.4849},
    4: {"dW": {"argument": 1}, "db": {"argument": 2}, "dx": {"argument": 0}},
    5: {"error": 9.0005e-4},
    6: {"RMS": 2},
    7: {"params": [5, 5], "epochs": 8},
    8: {"T": (1.6, 1.71)},
    9: {"dw": -0.21, "dw_if_0": 0},
    10: {"means": [3.6667, 16.3333, 83.6667], "gaps": [0, 2, 6]},
    11: {"velocities": [-0.1, -0.19, -0.271], "limit": -1},
    12: {"dz": {"argument": 0}},
    13: {"lines": [2, 4, 6], "uncaught": 2},
    14: {"a": [[2.5, 0], [-0.0375, 5]], "dz": {"argument": 0}},
    15: {"parameters": (1, 99_999), "accuracy": (0.97, 1)},
    16: {"forward's error": (0, 1e-5), "gradient's error": (0, 1e-5), "accuracy": (0.9, 1)},
}
SLIPS = (  # exercise, part, what a slip gives there, and what is wrong with it
    (1, "p", [1, 2, 5], "divide the powers by their sum"),
    (1, "dz", [0.125, 0.25, 0.625], "subtract the one-hot row of the true digit"),
    (2, "W", [[1, 3], [4, 8]], "W1 comes first"),
    (2, "b", [1, 5], "b1 goes through W2, too"),
    (3, "loss", 2.3026, "the bias has its say, too"),
    (5, "error", 0.0429386, "move to both sides"),
    (5, "error", 0.539402, "this is the derivative; how far is it from cos 1"),
    (6, "RMS", 4, "this is the mean of the squares, so take its root"),
    (6, "RMS", 3.4641, "the mean of the squared weights is not r², but a third of it"),
    (7, "params", [8, 8], "these are the last ones; copy the best, since training changes them"),
    (7, "params", [6, 6], "an equal loss is not below the lowest"),
    (7, "epochs", 7, "too early: count every epoch, and anew after each lowest loss"),
    (7, "epochs", 11, "compare with the lowest loss so far, not with the one before"),
    (8, "T", (0.58, 0.63), "divide by T"),
    (8, "T", (0.78, 0.84), "this T has the lowest loss; compare mistakes expected and made"),
    (9, "dw", -12.6, "db is the sum over the batch already"),
    (9, "dw", -0.0035, "db is a sum over the batch, and 1/B is already in it"),
    (10, "means", [1, 25.3333, 255], "the seed comes first in run(seed, rate)"),
    (10, "means", [0, 2, 6], "the means come first"),
    (10, "gaps", [0, 30, 210], "take the smallest gap"),
    (10, "gaps", [0, 12.6667, 80], "take the smallest gap"),
    (11, "velocities", [-0.1, -0.1, -0.1], "0.9 of the last velocity remains"),
    (11, "limit", -10, "each step adds the learning rate, 0.1, times the derivative"),
    (12, "dz", 4 * [[-0.4375, 0.125, 0.3125]], "go on from P through softmax"),
    (12, "dz", 4 * [[-0.047852, 0.023438, 0.073242]], "each score changes all p"),
    (12, "dz", 4 * [[-0.21875, 0.0625, 0.15625]], "this belongs to cross-entropy"),
    (14, "dz", [[1.25, 0], [3.75, 5]], "the slope at z is left out"),
    (14, "dz", [[1.25, 0.025], [0.0375, 5]], "the mask is left out"),
    (16, "gradient's error", (18.99, 19.01), "divide by B, which is 20 here"),
    (16, "accuracy", (0, 0.2), "it learns nothing: check first weights, sign, and steps in place"),
)


@np.errstate(all="ignore")
def check(exercise: int, answer: object, *arguments: object, loss: Callable | None = None) -> bool:
    """Say of each part of an answer if it is right, or what the likely slip is; True if all are.

    The answer is a value, several in a tuple, or a function of the arguments (whose lists become
    arrays) that returns these; derivatives are compared with those of loss(*arguments). Returns
    None, which shows nothing, if not all is right. Never raises.
    """
    parts, label, said = ANSWERS[exercise], f"Exercise {exercise}", {}
    given = [np.array(a) if isinstance(a, list) else a for a in arguments]
    try:
        values = answer(*deepcopy(given)) if callable(answer) else answer
        if len(parts) == 1 or not isinstance(values, tuple | list | np.ndarray):
            values = [values]
        if all(value is None for value in values):
            said[label] = "no answer yet"
        elif len(values) != len(parts):
            said[label] = f"found {len(values)} values, expected {', '.join(parts)}"
        else:
            for part, value in zip(parts, values):
                said[f"{label}, {part}"] = _verdict(exercise, part, value, given, loss)
    except Exception as error:  # noqa: BLE001, a reader's function may raise anything
        said[label] = f"it stopped with {type(error).__name__}: {error}".rstrip(". ")
    right = set(said.values()) == {"right"}
    hint = f"Solution {exercise} is" if right else f"Hint {exercise} and solution {exercise} are"
    print("\n".join(f"{name}: {what}." for name, what in said.items()), f"{hint} at the back.")
    return right or None


def _verdict(exercise: int, part: str, value: object, given: list, loss: Callable | None) -> str:
    """What is said of a part: right, nearly and why, or not yet and what was found."""
    if value is None:
        return "no answer yet"
    found, right = np.asarray(value, float), ANSWERS[exercise][part]
    derivative = isinstance(right, dict)
    if derivative:
        right = _differences(loss, given, right["argument"])
    if _agree(found, right):
        return "right"
    shape = () if isinstance(right, tuple) else np.shape(right)
    slips = [slip for number, name, *slip in SLIPS if (number, name) == (exercise, part)]
    slips += [(np.negative(right), "the sign is wrong"), (np.transpose(right), "transpose it")]
    if found.shape == shape != () and found.any():
        scale = np.vdot(right, found) / np.vdot(right, right)
        slips += [(np.multiply(scale, right), f"each number is {scale:.3g} times the right one")]
    for slip, advice in slips:
        if _agree(found, slip):
            return f"nearly: {advice}"
    if found.shape != shape:
        return f"found shape {found.shape}, expected {shape or 'a single number'}"
    if derivative:
        worst = np.unravel_index(abs(found - right).argmax(), shape)
        true = f"{found[worst]:.4g}, by central differences {right[worst]:.4g}"
        return f"not yet: at [{', '.join(map(str, worst))}] it is {true}"
    return f"not yet: found {np.round(found, 4).tolist()}"


def _differences(loss: Callable, arguments: list, number: int) -> np.ndarray:
    """How fast loss(*arguments) rises with each entry of one argument."""
    slopes = np.zeros(arguments[number].shape)
    for index in np.ndindex(slopes.shape):
        above, below = deepcopy(arguments), deepcopy(arguments)
        above[number][index] += 1e-6
        below[number][index] -= 1e-6
        slopes[index] = (loss(*above) - loss(*below)) / 2e-6
    return slopes


def _agree(found: np.ndarray, value: object) -> bool:
    """Whether a number lies between two, or an array is as good as the same."""
    if isinstance(value, tuple):
        return found.shape == () and value[0] <= found <= value[1]
    near = 1e-3 * np.max(np.abs(value)) + 1e-9
    return found.shape == np.shape(value) and np.allclose(found, value, rtol=0, atol=near)
