"""Helpers: what the walkthrough uses but does not teach: data, figures, photographs, answers."""

import io
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from IPython import get_ipython
from IPython.display import DisplayHandle, clear_output, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage
from threadpoolctl import threadpool_limits
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

threadpool_limits(1, user_api="blas")  # NumPy uses one core, so that results repeat
# With Apple's Accelerate NumPy warns of divisions by zero in products where there are none.
warnings.filterwarnings("ignore", "divide by zero encountered in matmul$", RuntimeWarning)


# ---------------------------------------------------------------------------------------- loading
def load_mnist(root: str | Path = "data") -> list[np.ndarray]:
    """MNIST from its four archives in `root`/MNIST/raw, loaded by torchvision.

    Returns training images (60000, 28, 28) and labels (60000,), test images and labels. Images are
    bytes, 0 for paper to 255 for ink; labels are integers 0 to 9. Raises a RuntimeError.
    """
    raw = Path(root, "MNIST", "raw")
    for name, md5 in MNIST.resources:
        if not check_integrity(raw / name, md5):
            advice = f"put the original there, with the MD5 sum {md5}, and run this again."
            raise RuntimeError(f"{raw / name} is missing or damaged: {advice}")
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        # In `raw` itself torchvision would trust any unpacked files.
        shutil.copytree(raw, f"{folder}/MNIST/raw", ignore=shutil.ignore_patterns("*-ubyte"))
        parts = [MNIST(folder, train=train, download=True) for train in (True, False)]
    return [array.numpy() for part in parts for array in (part.data, part.targets)]


# ---------------------------------------------------------------------------------------- figures
# Okabe and Ito's palette, which the colour-blind can tell apart: one colour for one thing.
TRAINING, VALIDATION, RIGHT, WRONG, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#555555"
COLOURS = (TRAINING, VALIDATION, RIGHT, NEUTRAL, "#CC79A7")
STYLES = ("o-", "s--", "^:", "d-.", "v:")  # told apart without colours, too
CENTRED, PLAIN = {"ha": "center", "va": "center"}, {"facecolor": "white", "linewidth": 0}
BOX = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
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
        axes.plot(columns, len(sizes) * [y], "o", color=TRAINING, markersize=15, zorder=3)
    for x, size, name in zip(columns, sizes, ["pixels", *hidden, "scores"]):
        axes.text(x, 1.2, "⋮", fontsize=18, **CENTRED)
        axes.text(x, 2.6, f"{size} {name}", **CENTRED)
    for digit, y in zip((0, 1, 8, 9), heights):
        axes.text(8.45, y, digit, **CENTRED)
    show(figure, "", f"A network in columns, each joined to the next, of {sizes} units.")


def plot_images(images, titles, title: str, columns=10, signed=False) -> None:
    """Draw images (h, w) or (784,), ink dark, or signed with zero grey."""
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
    if "x" in log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if "y" in log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside right center", frameon=False)
    show(figure, title, f"{title}. Lines over {xlabel}: {told}.")


def _draw_lines(axes: Axes, lines: dict) -> str:
    """Draw lines whose markers show even where they coincide; return where they begin and end."""
    told = []
    for k, (name, (x, y)) in enumerate(lines.items()):
        size = 10 - 2 * (k % 5) if len(y) < 100 else 0  # no marks on a smooth curve
        look = {"color": COLOURS[k % 5], "markersize": size}
        axes.plot(x, y, STYLES[k % 5], label=name, markevery=max(1, len(y) // 8), **look)
        told.append(f"{name}: {y[0]:.3g} at {x[0]:.3g} to {y[-1]:.3g} at {x[-1]:.3g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3, steps=[1, 2, 5, 10]))
    axes.grid(color="0.9")
    return "; ".join(told)


def _number(value: float) -> str:
    """Three decimals at most, or three digits if there are zeros before them."""
    text = f"{value:.3g}" if abs(value) < 1 else f"{round(float(value), 3):g}"
    return text.replace("-", "−")


def plot_graph(names: Sequence, values: Sequence, derivatives, factors, title: str) -> None:
    """Draw a computation from left to right: values in black, derivatives of the loss in orange.

    Each name has values (n,), or None, and derivatives (n,). Between two neighbours is an array of
    factors (n_left, n_right), how fast the right rises with the left; 0 is not drawn.
    """
    derivatives = [np.ravel(array) for array in derivatives]
    rows = max(map(len, derivatives))
    figure, axes = _blank(9, 1.8 * rows + 0.6)
    places, told = [], []
    for i, back in enumerate(derivatives):
        x, n = 9 * (i + 0.5) / len(names), len(back)
        places.append([(x, 0.5 + 0.9 * (rows + n - 1 - 2 * k)) for k in range(n)])
        for k, (x, y) in enumerate(places[i]):
            label = names[i] + (f"_{k + 1}" if n > 1 else "")
            value = "" if values[i] is None else f"\n{_number(np.ravel(values[i])[k])}"
            axes.text(x, y, f"${label}${value}", fontsize=13, bbox=BOX, **CENTRED)
            axes.text(x, y - 0.52, _number(back[k]), color=VALIDATION, fontsize=13, **CENTRED)
            told.append(f"{label}{value}, derivative {_number(back[k])}".replace("\n", " = "))
    for left, right, array in zip(places, places[1:], factors):
        for i, j in np.argwhere(array):  # where it is not 0
            (x, y), (x_end, y_end) = left[i], right[j]
            axes.plot([x, x_end], [y, y_end], color="0.6", zorder=0)
            y += 0.66 / (x_end - x) * (y_end - y)  # the number stands near the left end
            axes.text(x + 0.66, y, _number(array[i, j]), bbox=PLAIN, color=NEUTRAL, **CENTRED)
    axes.text(0.3, 0.2, "grey: how fast the right end rises with the left", color=NEUTRAL)
    axes.text(5.8, 0.2, "orange: how fast the loss rises with it", color=VALIDATION)
    show(figure, title, f"{title}. From left to right: {'; '.join(told)}.")


def plot_predictions(images, probabilities, labels, title: str, columns: int = 5) -> None:
    """Draw images and ten probabilities as bars: the true digit (or None) green, a mistake red."""
    columns, told = min(columns, len(images)), []
    rows, side = -(-len(images) // columns), min(1.8, 9 / columns)
    size = max(4, side * columns), rows * (side + 0.2) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    for i, (image, p, label) in enumerate(zip(images, probabilities, labels)):
        answer, colours = p.argmax(), 10 * ["0.6"]
        verdict = f"{answer} ({p[answer]:.0%})"
        colours[answer] = TRAINING if label is None else WRONG
        if label is not None:
            colours[label] = RIGHT
            verdict += "" if label == answer else f", is {label} ({p[label]:.0%})"
        told.append(verdict)
        axes = figure.add_subplot(rows, columns, i + 1, box_aspect=1)
        axes.set_title(verdict, fontsize=9, pad=2, color=colours[answer])
        axes.bar(range(10), p, color=colours)
        axes.imshow(image, "gray_r", extent=(1.4, 7.6, 1.5, 3.66), aspect="auto")  # square
        axes.set(xlim=(-0.8, 9.8), ylim=(0, 3.7), xticks=range(10), yticks=[])
        axes.tick_params(labelsize=6, length=0, pad=1)
        axes.spines[["top", "left", "right"]].set_visible(False)
    show(figure, title, f"{title}. The network's answers: {'; '.join(told)}.")


def plot_dots(rows: dict, title: str, xlabel: str, marked: Sequence) -> None:
    """Draw a row of dots for each name, orange where marked, and a line at zero."""
    figure = Figure(figsize=(9, 0.4 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    for y, (name, values) in enumerate(rows.items()):
        colour = VALIDATION if name in marked else NEUTRAL
        axes.plot(values, len(values) * [y], "o", color=colour, alpha=0.6)
    axes.axvline(0, color="0.5", zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(axis="y", color="0.9")
    told = [f"{name} {', '.join(map(_number, values))}" for name, values in rows.items()]
    show(figure, title, f"{title}. {xlabel}: {'; '.join(told)}.")


# ----------------------------------------------------------------------------- watching a training
@contextmanager
def live_curves(planned: int) -> Iterator["Curves"]:
    """Curves of loss and accuracy during the planned epochs of a training in a `with` block.

    Once an epoch is done, the stop button ends the block without an error. NumPy's warnings are
    off: the curves say when a training diverges.
    """
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
        figure, n = Figure(figsize=(9, 3.3), layout="constrained"), len(self.epochs)
        parts = {"training images": self.training[:n], "validation images": self.validation[:n]}
        for i, title in enumerate(("Mean loss", "Accuracy")):
            axes = figure.add_subplot(1, 2, i + 1, title=title, xlabel="epoch")
            y = {name: [pair[i] for pair in pairs] for name, pairs in parts.items()}
            _draw_lines(axes, {name: (self.epochs, y[name]) for name in y})
            axes.set_xlim(0, self.planned + 0.5)
            axes.legend(frameon=False)
        (loss, accuracy), (val_loss, val_accuracy) = self.training[n - 1], self.validation[n - 1]
        done, seconds = self.epochs[-1], time.perf_counter() - self.begun
        text = f"Loss and accuracy after {done} of {self.planned} epochs: training {loss:.3f}, "
        text += f"{accuracy:.2%}; validation {val_loss:.3f}, {val_accuracy:.2%}"
        left = seconds / done * (self.planned - done)
        rest = f"about {left:.0f} s left" if left else f"{seconds:.0f} s in all"
        put = self.handle.update if self.drawn else self.handle.display
        show(figure, f"{text}; {rest}", f"{text}.", put)
        self.drawn = time.perf_counter()


# ---------------------------------------------------------------------- preparing a reader's digit
Picture = str | Path | np.ndarray | Image.Image  # what a reader brings
SIDE = 300  # pixels of a picture's longer side; on this scale, in pixels, too:
STROKE = 101  # more than a pen's stroke is wide
SQUARE = 65  # more than the squares of squared paper
GAP = 9  # more than the gaps between the pieces of a digit
FAINTEST, SPECK, THINNEST = 0.04, 0.02, 0.12  # of the light, of a digit's ink, of its longer side


def prepare_digit(picture: Picture) -> np.ndarray:
    """A digit as in MNIST, (28, 28) bytes, 0 paper to 255 ink; a ValueError if there is none."""
    return preparation(picture)["centred"]


def preparation(picture: Picture) -> dict[str, np.ndarray]:
    """The steps of `prepare_digit` by name, each an array (h, w) of bytes with light as 0."""
    try:
        steps = {"picture": _opened(picture)}
    except Exception as error:  # noqa: BLE001, a damaged file makes Pillow raise almost anything
        raise ValueError(f"picture cannot be read ({error}): give a PNG, JPEG or array.") from None
    steps["light divided out"] = _light_divided_out(1 - steps["picture"])
    steps["lines taken away"] = _lines_taken_away(steps["light divided out"])
    steps["the digit's pieces"] = _pieces_of_digit(steps["lines taken away"])
    steps["centred"] = _centred(steps["the digit's pieces"])
    return {name: (255 * step).round().astype(np.uint8) for name, step in steps.items()}


def _opened(picture: Picture) -> np.ndarray:
    """A picture upright and in grey (h, w), 0 white to 1 black, its longer side SIDE pixels."""
    if isinstance(picture, str | Path):
        with Image.open(Path(picture).expanduser()) as image:
            picture = ImageOps.exif_transpose(image)
    if not isinstance(picture, Image.Image) or picture.mode[0] in "IF":  # of more than 8 bits
        array = np.nan_to_num(picture).clip(0)  # whose greatest number is white: 1, 255 or 65535
        picture = Image.fromarray((array * (255 / max(array.max(), 1e-9))).astype(np.uint8))
    image = ImageOps.contain(picture.convert("LA"), (SIDE, SIDE))
    grey, opaque = (np.asarray(band) / 255 for band in image.split())
    paper = np.average(grey, weights=opaque + 1e-6) < 0.5  # where transparent: unlike the visible
    return 1 - grey * opaque - paper * (1 - opaque)


def _light_divided_out(light: np.ndarray) -> np.ndarray:
    """The part of the light that each pixel takes; paper's is the grey closing (Serra 1982)."""
    light = ndimage.gaussian_filter(light, 1)  # without the camera's noise
    skew = ((light - ndimage.uniform_filter(light, STROKE)) ** 3).sum()
    if skew >= 0 and np.median(light) < 0.5:  # light ink on dark paper
        light = 1 - light
    light = np.pad(light, STROKE, "edge")
    paper = ndimage.uniform_filter(ndimage.grey_closing(light, STROKE), STROKE // 4)
    dark = (1 - light / np.maximum(paper, 0.15)).clip(0, 1)
    return dark[STROKE:-STROKE, STROKE:-STROKE]


def _lines_taken_away(dark: np.ndarray) -> np.ndarray:
    """Ink, 0 to 1: what is darker than the lines, for they are near every place, unlike ink."""
    lines = min(0.5, np.percentile(ndimage.maximum_filter(dark, SQUARE), 5))  # or a digit fills all
    pen = np.median(dark[dark >= (lines + dark.max()) / 2])
    if pen < 1.1 * lines + FAINTEST:
        raise ValueError("picture seems to be blank: use a darker pen, or crop it to the digit.")
    return (2.5 * (dark - lines) / (pen - lines) - 0.5).clip(0, 1)  # from 0.2 of the way to 0.6


def _pieces_of_digit(ink: np.ndarray) -> np.ndarray:
    """The digit's ink: no specks, no underline, and nothing that surrounds ink, as a frame does."""
    near = ndimage.maximum_filter(ink, GAP)[1:-1, 1:-1]
    pieces = ndimage.label(np.pad(near, 1, constant_values=1))[0]  # 1 is all that touches the rim
    weights = np.bincount(pieces.ravel(), ink.ravel())
    for piece in (1, weights.argmax()):
        inside = ndimage.binary_fill_holes(pieces == piece) & (pieces != piece)
        within = np.bincount(pieces.ravel(), (ink * inside).ravel())
        if within.max() > SPECK * weights.max():
            weights = within
    kept = (weights > SPECK * weights.max())[pieces]
    rows = np.flatnonzero(kept.any(axis=1))
    above = pieces[: round(np.quantile(rows, 0.85))]  # where an underline is not
    return np.where(kept & np.isin(pieces, above), ink, 0)


def _centred(digit: np.ndarray) -> np.ndarray:
    """Fitted into 20 × 20 pixels, thin strokes made as thick as MNIST's, its mass in the middle."""
    thickness = 4 * ndimage.distance_transform_edt(digit)[digit > 0].mean()
    digit = digit[ndimage.find_objects(1 * (digit > 0))[0]]
    if not ndimage.maximum_filter(digit, GAP).any(axis=0).all():  # there are empty columns
        raise ValueError("picture seems to show several digits: crop it to one of them.")
    more = max(0, round((THINNEST * max(digit.shape) - thickness) / 2))  # on each side of a stroke
    image = Image.fromarray(ndimage.grey_dilation(np.pad(digit, more), 2 * more + 1))
    fitted = np.pad(ImageOps.pad(image, (20, 20), color=0), 4).clip(0, 1)
    shift = np.floor(14.5 - np.array(ndimage.center_of_mass(fitted))).astype(int).clip(-4, 4)
    return np.roll(fitted / fitted.max(), shift, (0, 1))


# ------------------------------------------------------------------------------- drawing on a pad
def open_pad(read: Callable) -> None:
    """Show a pad, or an example where nobody can draw; read(image) gives ten probabilities."""
    # Who runs a notebook from end to end, such as nbval, does not let the kernel ask for input.
    message = getattr(get_ipython(), "get_parent", dict)()
    if message.get("content", {}).get("allow_stdin"):
        return display(drawing_pad(read))
    print("To draw a digit here, run this cell in JupyterLab. This is how a 7 is answered:")
    drawing = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(drawing).line([(75, 70), (205, 70), (120, 225)], width=18, joint="curve")
    _answer(drawing, read)


def drawing_pad(read: Callable) -> object:
    """A widget: a pad, and beside it what is said of the drawing after each stroke."""
    from ipywidgets import HBox, Output  # here, as all the rest works without these two
    from wigglystuff import Paint

    pad, answer = Paint(width=280, height=280), Output()

    def answer_anew(_: object) -> None:
        with answer:  # so that an error is seen, too
            clear_output(wait=True)
            _answer(pad.get_pil(), read)

    pad.observe(answer_anew, "base64")
    return HBox([pad, answer], layout={"flex_flow": "row wrap"})


def _answer(drawing: Image.Image, read: Callable) -> None:
    """Show a drawing as the network sees it, with its ten probabilities and what they say."""
    try:
        image = prepare_digit(drawing)
    except ValueError as error:  # such as several digits
        return print(error)
    p = read(image)
    said = "The answer is" if p.max() >= 0.7 else "Uncertain: the likeliest digit is"
    title = f"{said} {p.argmax()},\nwith a probability of {p.max():.1%}"
    plot_predictions([image], [p], [None], title)


# ------------------------------------------------------------------------------- judging answers
ANSWERS = {  # exercise: its parts and what is right; a pair stands for all numbers between two
    1: {"p": [0.125, 0.25, 0.625], "dz": [-0.875, 0.25, 0.625]},
    2: {"W": [[9, 1], [4, 0]], "b": [13, 3]},
    3: {"p": 0.25, "loss": 2.4849},
    4: {"dW": [[1, 4, 0], [2, -3, 2]], "db": [3, 1, 1], "dx": [[-1, -1], [0, -2], [4, 2], [2, 1]]},
    5: {"error": 9.0005e-4},
    6: {"RMS": 2},
    7: {"dw": (-0.212, -0.2099), "dw_if_0": 0},
    8: {"gaps": [2, 3, 1]},
    9: {"velocities": [-0.1, -0.19, -0.271], "limit": -1},
    10: {"dz": 4 * [[-0.076172, -0.011719, 0.087891]]},
    11: {"lines": [3, 4, 6], "uncaught": 3},
    12: {"a": [[2.5, 0], [-0.0375, 5]], "dz": [[1.25, 0], [0.0375, 5]]},
    13: {"parameters": (1, 99_999), "accuracy": (0.965, 1)},
    14: {"gradient's error": (0, 1e-5), "accuracy": (0.9, 1)},
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
    (7, "dw", -12.6, "db is the sum over the batch already"),
    (7, "dw", -0.0035, "db is a sum over the batch, and 1/B is already in it"),
    (8, "gaps", [1, -2, 0], "each variant is taken at its own best rate, so find the lowest first"),
    (8, "gaps", [2.5, 1.5, 1.5], "take the lowest loss of each seed, not the mean"),
    (9, "velocities", [-0.1, -0.1, -0.1], "0.9 of the last velocity remains"),
    (9, "limit", -10, "each step adds the learning rate, 0.1, times the derivative"),
    (10, "dz", 4 * [[-0.4375, 0.125, 0.3125]], "go on from P through softmax"),
    (10, "dz", 4 * [[-0.047852, 0.023438, 0.073242]], "each score changes all p"),
    (10, "dz", 4 * [[-0.21875, 0.0625, 0.15625]], "this belongs to cross-entropy"),
    (12, "dz", [[1.25, 0], [3.75, 5]], "the slope at z is left out"),
    (12, "dz", [[1.25, 0.025], [0.0375, 5]], "the mask is left out"),
    (14, "gradient's error", (18.99, 19.01), "divide by B, which is 20 here"),
    (14, "accuracy", (0, 0.2), "it learns nothing: check first weights, sign, and steps in place"),
)


@np.errstate(all="ignore")
def check(exercise: int, answer: object) -> bool | None:
    """Say of each part of an answer if it is right, or what the likely slip is; True if all are.

    The answer is a number or an array, or several in a tuple, a list or an array. Never raises.
    """
    parts, said = ANSWERS[exercise], []
    try:
        values = [answer] if len(parts) == 1 else list(answer)
        for part, value in zip(parts, values, strict=True):
            said.append(f"{part}: {_verdict(exercise, part, value)}")
    except Exception as error:  # noqa: BLE001, NumPy may raise anything for what is no number
        said.append(f"numbers are expected for {', '.join(parts)} ({error})")
    right = all(text.endswith(": right") for text in said)
    hint = f"Solution {exercise} is" if right else f"Hint {exercise} and solution {exercise} are"
    print(f"Exercise {exercise}, {'; '.join(said)}. {hint} at the back.")
    return right or None  # None is not shown below a cell


def _verdict(exercise: int, part: str, value: object) -> str:
    """What is said of a part: right, nearly and why, or not yet and what was found."""
    if value is None:
        return "no answer yet"
    found, right = np.asarray(value, float), ANSWERS[exercise][part]
    if _agree(found, right):
        return "right"
    for number, name, slip, advice in SLIPS:
        if (number, name) == (exercise, part) and _agree(found, slip):
            return f"nearly: {advice}"
    shape = () if isinstance(right, tuple) else np.shape(right)
    if found.shape != shape:
        return f"found shape {found.shape}, expected {shape or 'a single number'}"
    scale = np.vdot(right, found) / np.vdot(right, right) if shape else 0
    if scale and _agree(found, np.multiply(scale, right)):
        return f"nearly: each number is {scale:.3g} times the right one"
    if len(shape) < 2:
        return f"not yet: found {np.round(found, 4).tolist()}"
    place = np.unravel_index(abs(found - right).argmax(), shape)
    wanted = np.asarray(right)[place]
    return f"not yet: found {found[place]:.4g} at {list(map(int, place))}, expected {wanted:.4g}"


def _agree(found: np.ndarray, right: object) -> bool:
    """Whether a number lies between two, or an array is as good as the same."""
    if isinstance(right, tuple):
        return found.shape == () and right[0] <= found <= right[1]
    near = 1e-3 * np.max(np.abs(right)) + 1e-9
    return found.shape == np.shape(right) and np.allclose(found, right, rtol=0, atol=near)
