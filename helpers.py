"""What the walkthrough uses but does not teach: loading the data, drawing, distorting images,
preparing a reader's own digit, a pad to draw one on, judging answers; and no network mathematics.
"""

import base64
import html
import io
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage
from scipy.sparse import csr_matrix
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

# NumPy says so without cause where Apple's Accelerate multiplies, and of nothing else.
warnings.filterwarnings("ignore", "divide by zero encountered in matmul$", RuntimeWarning)


# ---------------------------------------------------------------------------------------- loading
def load_mnist(root: str | Path = "data") -> list[np.ndarray]:
    """MNIST, which torchvision checks and unpacks from `root`/MNIST/raw, or downloads to there.

    Returns training images (60000, 28, 28) and labels (60000,), test images and labels. Images are
    bytes, 0 for paper to 255 for ink; labels are integers 0 to 9.

    Raises a RuntimeError if an archive is missing or damaged and cannot be downloaded.
    """
    raw = Path(root, "MNIST", "raw")
    with TemporaryDirectory(ignore_cleanup_errors=True) as new_root:
        new = Path(new_root, "MNIST", "raw")  # torchvision would trust unpacked files that it finds
        new.mkdir(parents=True)
        for name, _ in MNIST.resources:
            with suppress(OSError):  # it is missing or cannot be read
                shutil.copy(raw / name, new)
        try:
            with redirect_stdout(io.StringIO()):  # some versions of torchvision report each step
                parts = [MNIST(new_root, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError, HTTPException) as error:
            reason = str(error).strip().split("\n")[-1].strip("<>. ")
            advice = f"MNIST could not be unpacked in {new} ({reason}): make room there"
            for name, md5 in reversed(MNIST.resources):
                if not check_integrity(new / name, md5):
                    what = f"{name} is missing or damaged and could not be downloaded ({reason})"
                    place = (raw / name).as_posix()
                    advice = f"{what}: put the original, MD5 sum {md5}, at {place}"
            raise RuntimeError(f"{advice} and run this again.") from None
        for name, md5 in MNIST.resources:
            with suppress(OSError):  # a read-only folder: the next run downloads again
                if not check_integrity(raw / name, md5):
                    raw.mkdir(parents=True, exist_ok=True)
                    shutil.copy(new / name, raw)
    return [array.numpy() for part in parts for array in (part.data, part.targets)]


# ---------------------------------------------------------------------------------------- figures
# Okabe and Ito's palette, which the colour-blind can tell apart: one colour for one thing.
TRAINING, VALIDATION, RIGHT, WRONG, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#555555"
COLOURS = (TRAINING, VALIDATION, RIGHT, NEUTRAL, "#CC79A7")
STYLES = ("o-", "s--", "^:", "d-.", "v:")
CENTRED = {"ha": "center", "va": "center"}
plain_style = matplotlib.rc_context(matplotlib.rcParamsDefault)  # whatever style the reader has set


def show(figure: Figure, alt: str) -> None:
    """Put a figure into the notebook, with a text for those who cannot see it."""
    display(_png(figure, alt), metadata={"image/png": {"alt": alt}}, raw=True)


@plain_style
def _png(figure: Figure, alt: str) -> dict:
    """What a front end displays: the figure as an opaque PNG, and a text in its place."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return {"image/png": buffer.getvalue(), "text/plain": alt}


@plain_style
def plot_network(sizes: Sequence[int]) -> None:
    """Draw a fully connected network: a column of units per layer, pixels left and digits right."""
    last, heights = len(sizes) - 1, np.array([1, 0.5, -0.5, -1])
    figure = Figure(figsize=(9, 3.4))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, last + 0.5), ylim=(-1.7, 1.9))
    axes.axis("off")
    for i, size in enumerate(sizes):
        colour = NEUTRAL if i == 0 else VALIDATION if i == last else TRAINING
        axes.plot(4 * [i], heights, "o", color=colour, markersize=15)
        axes.text(i, 0, "⋮", fontsize=18, **CENTRED)
        name = "pixels" if i == 0 else "scores" if i == last else f"units in\nhidden layer {i}"
        axes.text(i, 1.5, f"{size} {name}", **CENTRED)
        if i < last:
            ends = np.reshape(np.meshgrid(heights, heights), (2, 16))
            axes.plot([i, i + 1], ends, color="0.8", linewidth=0.6, zorder=0)
            axes.text(i + 0.5, -1.4, f"{size} × {sizes[i + 1]} weights", **CENTRED)
    for digit, y in zip((0, 1, 8, 9), heights):
        axes.text(last + 0.15, y, digit, **CENTRED)
    show(figure, f"A network in columns, each joined to the next, of {sizes} units.")


@plain_style
def plot_images(images, titles, title: str, columns: int = 10, signed: bool = False) -> None:
    """Draw images (h, w), or (n,) as rectangles, ink dark on white; or signed, with zero grey."""
    images, titles = list(images), list(map(str, titles))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9, rows * (9 / columns + 0.2) + 0.4), layout="constrained")
    limit = max(abs(image).max() for image in images)
    scale = {"vmin": -limit, "vmax": limit} if signed else {}
    for i, (image, text) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1, xticks=[], yticks=[])
        height = max(n for n in range(1, 29) if image.size % n == 0)
        axes.imshow(image.reshape(height, -1) if image.ndim == 1 else image, "gray_r", **scale)
        axes.set_title(text, fontsize=10, pad=3)
        axes.spines[:].set_color("0.8")
    figure.suptitle(title, fontsize=12)
    show(figure, f"{title}. {len(images)} pictures: {', '.join(titles)}.")


@plain_style
def plot_lines(
    panels: dict, title: str, xlabel: str, ylabel: str = "", log: str = "", share: bool = False
) -> None:
    """Draw panels in rows of three, which may share their scales.

    `panels` holds titles with lines, or just lines: name, then x (n,) and y (n,), or y (n, runs),
    drawn as medians with a dot for each run. `log` names logarithmic axes: "x", "y" or "xy".
    """
    panels = panels if isinstance(next(iter(panels.values())), dict) else {"": panels}
    figure, described = _draw_lines(panels, xlabel, ylabel, log, share)
    figure.suptitle(title, fontsize=12)
    show(figure, f"{title}. Lines over {xlabel}: {described}.")


def _draw_lines(panels: dict, xlabel: str, ylabel="", log="", share=False) -> tuple[Figure, str]:
    rows, columns = -(-len(panels) // 3), min(3, len(panels))
    figure, described = Figure(figsize=(9, 3.3 * rows), layout="constrained"), []
    for i, (name, lines) in enumerate(panels.items()):
        first = figure.axes[0] if i and share else None
        axes = figure.add_subplot(rows, columns, i + 1, sharex=first, sharey=first)
        for k, ((label, (x, y)), style, colour) in enumerate(zip(lines.items(), STYLES, COLOURS)):
            y, step = np.asarray(y, float), max(1, len(y) // 8)  # between markers, which take turns
            if y.ndim == 2:
                axes.plot(x, y, style[0], color=colour, markersize=3, alpha=0.6)
                y = np.median(y, axis=1)
            axes.plot(x, y, style, color=colour, label=label, ms=4, markevery=(k % step, step))
            ends = f"{y[0]:.3g} at {x[0]:.3g} to {y[-1]:.3g} at {x[-1]:.3g}"
            described.append(f"{name} {label}: {ends}".strip())
        axes.set(title=name, xlabel=xlabel, ylabel="" if i % columns else ylabel)
        if "x" not in log and np.asarray(x).dtype.kind == "i":
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        for letter in log:
            axes.set(**{f"{letter}scale": "log"})
            axis, (low, high) = getattr(axes, f"{letter}axis"), getattr(axes, f"get_{letter}lim")()
            subs = (1, 3) if high < low * 10 ** (6 / columns) else (1,)
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(color="0.9")
        axes.legend(frameon=False, fontsize=9)
    return figure, "; ".join(described)


@plain_style
def plot_way_back(sizes: Sequence[int]) -> None:
    """Draw the forward pass from left to right and, below it, the backward pass, with all shapes."""
    figure = Figure(figsize=(9, 3.3))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.4, len(sizes) + 0.4), ylim=(-0.4, 2.6))
    axes.axis("off")
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}

    def write(x: float, y: float, text: str, colour: str = "black", **more) -> None:
        axes.text(x, y, text, color=colour, **CENTRED, **more)

    write(0, 2, f"$X$\n(B, {sizes[0]})", bbox=box)
    write(0, 2.45, "forward", TRAINING)
    write(0, 0.9, "backward", VALIDATION)
    for i, n in enumerate(sizes[1:], start=1):
        a, W, z = f"A^{{({i - 1})}}" if i > 1 else "X", f"W^{{({i})}}", f"Z^{{({i})}}"
        write(i - 0.5, 2, f"${'f, ' * (i > 1)}{W}$\n$\\longrightarrow$", TRAINING)
        write(i, 2, f"${z}$\n(B, {n})", bbox=box)
        write(i, 0.9, f"$\\partial L/\\partial {z}$\n(B, {n})", bbox=box)
        if i > 1:
            write(i - 0.5, 0.9, f"${W}{{}}^\\top, f^\\prime$\n$\\longleftarrow$", VALIDATION)
        gradient = f"$\\partial L/\\partial {W} = {{{a}}}^\\top \\partial L/\\partial {z}$"
        write(i, 0.4, "$\\downarrow$", VALIDATION)
        write(i, 0, f"{gradient}\n({sizes[i - 1]}, {n})", fontsize=8)
    write(i + 0.55, 2, "softmax\n$\\longrightarrow$", TRAINING)
    write(i + 1, 1.45, "loss\n$L$", bbox=box)
    write(i + 0.55, 0.9, "$(P - Y)/B$\n$\\longleftarrow$", VALIDATION)
    there = f"Forward: from {sizes[0]} pixels X to Z of every layer, {sizes[1:]} columns, then loss"
    back = "Backward: the derivatives with respect to Z, from the last layer to the first, as large as Z"
    show(figure, f"{there}. {back}, and from each of them those of the layer's weights.")


def plot_predictions(images, probabilities, labels, title: str) -> None:
    """Draw each image with its ten probabilities as bars: the true digit green, a wrong answer red."""
    figure, described = _predictions(images, probabilities, labels, title)
    show(figure, f"{title}. The network's answers: {described}.")


@plain_style
def _predictions(images, probabilities, labels, title: str):
    rows, columns = -(-len(images) // 5), min(5, len(images))
    figure = Figure(figsize=(max(4, 1.8 * columns), 2 * rows + 0.4))
    grid, described = figure.add_gridspec(2 * rows, columns, height_ratios=[1.5, 1] * rows), []
    for i, (image, p, label) in enumerate(zip(images, probabilities, labels)):
        answer, row = p.argmax(), 2 * (i // 5)
        other = TRAINING if label is None else WRONG  # where no digit is the true one
        colours = [RIGHT if k == label else other if k == answer else "0.6" for k in range(10)]
        verdict = f"{answer}" if label in (answer, None) else f"{answer}, but is {label}"
        described.append(f"{verdict} ({p[answer]:.0%})")
        axes = figure.add_subplot(grid[row, i % 5])
        axes.imshow(image, cmap="gray_r")
        axes.axis("off")
        axes.set_title(verdict, fontsize=11, pad=3, color=colours[answer])
        axes = figure.add_subplot(grid[row + 1, i % 5], ylim=(0, 1.3), xticks=range(10), yticks=[])
        axes.bar(range(10), p, color=colours)
        for k in {answer, label} - {None}:
            axes.text(k, p[k] + 0.05, f"{p[k]:.0%}", fontsize=9, ha="center", color=colours[k])
        axes.tick_params(length=0, labelsize=8)
        axes.spines[["top", "left", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(pad=0.4, h_pad=0.1)
    return figure, "; ".join(described)


@plain_style
def plot_confusion(counts: np.ndarray, title: str) -> None:
    """Draw how many images of digit i (row) were taken for digit j (column); mistakes are shaded."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.add_subplot(xticks=range(10), yticks=range(10), title=title)
    mistakes = counts * (1 - np.eye(10, dtype=int))
    axes.imshow(mistakes, cmap="Oranges", vmax=1.6 * mistakes.max())  # so that figures stay legible
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j, i, n or "", color=RIGHT if i == j else "black", **CENTRED)
    axes.set(xlabel="what the network said", ylabel="what it is")
    i, j = np.unravel_index(mistakes.argmax(), mistakes.shape)
    show(figure, f"{title}. The most frequent mistake: {i} taken for {j}, {mistakes[i, j]} times.")


# ------------------------------------------------------------------------------- watching a training
SECONDS_BETWEEN_DRAWINGS = 3  # drawing the curves takes a fifth of a second


@contextmanager
def live_curves(planned: int) -> Iterator["Curves"]:
    """Curves of loss and accuracy during the planned epochs of a training in a `with` block.

    Once an epoch is done, the stop button ends the block without an error. Inside, NumPy does not
    warn of overflow and the like: the curves say when a training diverges.
    """
    curves = Curves(planned)
    try:
        with np.errstate(all="ignore"):
            yield curves
        if curves.epochs:
            curves.draw()
    except KeyboardInterrupt:
        if not curves.epochs:
            raise
        curves.draw()
        done = f"Stopped after {curves.epochs[-1]} of {planned} epochs"
        print(f"{done}; the parameters are as the last step left them.")


class Curves:
    """Epochs after which training and validation images gave which pairs of loss and accuracy."""

    def __init__(self, planned: int) -> None:
        self.planned, self.begun = planned, time.perf_counter()
        self.epochs, self.training, self.validation = [], [], []
        self.handle, self.drawn = DisplayHandle(), None

    def add(self, training: tuple, validation: tuple, epoch: int | None = None) -> None:
        """Keep and draw what was measured after an epoch, by default the one after the last.

        Raises a FloatingPointError if a loss is not finite.
        """
        epoch = epoch or len(self.epochs) + 1
        if not np.isfinite([training[0], validation[0]]).all():
            raise FloatingPointError(f"the run diverged in epoch {epoch}: lower the learning rate.")
        lists = [*self.epochs, epoch], [*self.training, training], [*self.validation, validation]
        self.epochs, self.training, self.validation = lists  # at once: the stop button may come
        if self.drawn is None or time.perf_counter() - self.drawn > SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    @plain_style
    def draw(self) -> None:
        panels, told = {"Mean loss": {}, "Accuracy": {}}, []
        for name, values in (("training", self.training), ("validation", self.validation)):
            losses, accuracies = np.transpose(values)
            panels["Mean loss"][f"{name} images"] = self.epochs, losses
            panels["Accuracy"][f"{name} images"] = self.epochs, accuracies
            told.append(f"{name} {losses[-1]:.3f}, {100 * accuracies[-1]:.2f} %")
        figure, _ = _draw_lines(panels, "epoch")
        for axes in figure.axes:
            axes.set(xlim=(0, self.planned + 0.5))
        done, seconds = self.epochs[-1], time.perf_counter() - self.begun
        left = seconds / done * (self.planned - done)
        time_text = f"about {left:.0f} s left" if left else f"{seconds:.0f} s in all"
        text = f"Loss and accuracy after {done} of {self.planned} epochs: {'; '.join(told)}"
        figure.suptitle(f"{text}; {time_text}", fontsize=11)
        show = self.handle.display if self.drawn is None else self.handle.update
        show(_png(figure, f"{text}."), metadata={"image/png": {"alt": f"{text}."}}, raw=True)
        self.drawn = time.perf_counter()


# ------------------------------------------------------------------------------- distorting images
GROUP = 100  # images that share a distortion
_PLACES = np.indices((28, 28)).reshape(2, 784) - 13.5  # of the pixels, from the image's centre
_SMOOTH = ndimage.gaussian_filter1d(np.eye(28), 4, mode="wrap")  # as a matrix, which is faster
_SMOOTH /= np.linalg.norm(_SMOOTH[0])  # so that smoothing keeps the standard deviation


def distort(
    x: np.ndarray, rng: np.random.Generator, elastic: bool = True, out: np.ndarray | None = None
) -> np.ndarray:
    """A copy of images (n, 784), stretched, slanted, turned and moved a little, and bent if elastic.

    Every 100 images share a distortion: a random matrix, up to 0.11 from the identity, and a shift of
    up to 1.3 pixels say for each new pixel where to look in the old image; an elastic distortion
    moves these places by 0.85 pixels more (RMS), neighbours alike. `out`, if given, takes the copy.

    Source: P. Simard, D. Steinkraus, J. Platt, https://doi.org/10.1109/ICDAR.2003.1227801
    """
    out = np.empty_like(x) if out is None else out
    for start in range(0, len(x), 10_000):  # so many at a time, to save memory
        part, new = x[start : start + 10_000], out[start : start + 10_000]
        n = -(-len(part) // GROUP)
        places = (np.eye(2) + rng.uniform(-0.11, 0.11, (n, 2, 2))) @ _PLACES
        places += rng.uniform(-1.3, 1.3, (n, 2, 1))
        if elastic:
            bends = _SMOOTH @ rng.normal(size=(n, 2, 28, 28)) @ _SMOOTH.T
            places += 0.85 * bends.reshape(n, 2, 784)
        for group in range(n):
            images = slice(GROUP * group, GROUP * (group + 1))
            new[images] = (_look_up(places[group]) @ part[images].T).T
    return out


def _look_up(places: np.ndarray) -> csr_matrix:
    """A matrix (784, 784) that turns an image into the one seen at places (2, 784), bilinearly."""
    places = np.clip(places + 13.5, 0, 27 - 1e-6)
    corner = places.astype(np.int32)
    down, right = (places - corner).astype(np.float32)
    weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    pixels = 28 * corner[0] + corner[1] + np.array([[0], [1], [28], [29]], np.int32)
    row_ends = np.arange(0, 4 * 784 + 1, 4)
    return csr_matrix((np.ravel(weights, "F"), pixels.ravel("F"), row_ends), shape=(784, 784))


# ---------------------------------------------------------------------- preparing a reader's digit
Picture = str | Path | np.ndarray  # what a reader brings: a file, or an array of pixels
SIDE, FITTED, THINNEST = 300, 20, 2  # of the picture in which ink is sought, the digit, its strokes
FAINTEST, DARKEST = 12, 64  # ink takes more than this of 255; darker paper is not made up for
TILTS = np.tan(np.radians(np.arange(-3.5, 3.6, 0.5)))  # of lines


def prepare_digit(picture: Picture) -> np.ndarray:
    """Prepare a picture of one digit as MNIST was: ink fitted into 20 × 20 pixels and centred.

    The picture is a file, or an array (h, w), RGB (h, w, 3) or RGBA (h, w, 4) of bytes, booleans or
    fractions from 0 to 1, with a digit of any size, dark on light or light on dark. The result has
    (28, 28) bytes, 0 for paper to 255 for ink, with its centre of mass in the middle.

    Raises a ValueError if it is too large or shows no single digit, a FileNotFoundError if missing.
    """
    return preparation(picture)["centred"]


def preparation(picture: Picture) -> dict[str, np.ndarray]:
    """The steps of `prepare_digit` by name, each an array of bytes (h, w), with light as 0."""
    image = _opened(picture)
    image.thumbnail((SIDE, SIDE))
    ink = _ink(np.asarray(image, np.float32))
    lines = _lines(ink)
    alone = _digit_alone(np.where(lines, 0, ink))
    fitted = _fitted(alone)
    corner = np.floor(14.5 - np.array(ndimage.center_of_mass(fitted))).astype(int)
    corner = corner.clip(0, np.subtract(28, fitted.shape))
    centred = np.roll(np.pad(fitted, [(0, 28 - n) for n in fitted.shape]), corner, (0, 1))
    steps = {"picture": 255 - np.asarray(image), "lines found": lines * np.uint8(255)}
    steps |= {"ink alone": alone, "cropped and fitted": fitted, "centred": centred}
    return {name: step for name, step in steps.items() if step.any()}


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w) of bytes merely made 28 × 28 and inverted, to compare with prepared ones."""
    return 255 - np.asarray(Image.fromarray(picture).resize((28, 28), Image.Resampling.BOX))


def _opened(picture: Picture) -> Image.Image:
    """A picture in grey, upright, and with paper where it is transparent."""
    image = _from_file(Path(picture)) if isinstance(picture, str | Path) else _from_array(picture)
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L")
    grey, opaque = image.convert("LA").split()
    light = np.average(grey, weights=np.asarray(opaque) + 1e-9) > 127
    return Image.composite(grey, Image.new("L", image.size, 255 * (not light)), opaque)


def _from_file(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: name a picture, such as a PNG or a JPEG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.draft("L", (SIDE, SIDE))  # a JPEG is shrunk while it is read
                return ImageOps.exif_transpose(image)
    except Exception as error:  # noqa: BLE001, a damaged file makes Pillow raise almost anything
        why = f"({type(error).__name__}), being damaged, of another kind or too large"
        advice = "save it again as a PNG or a JPEG, cropped to the digit"
        raise ValueError(f"{path} cannot be read as a picture {why}: {advice}.") from None


def _from_array(picture: np.ndarray) -> Image.Image:
    array = np.asarray(picture)
    fits = array.ndim == 2 or array.shape[2:] in ((3,), (4,))
    numbers = array.size > 0 and array.dtype.kind in "buif"
    if not (fits and numbers and array.min() >= 0 and array.max() <= 255):  # nor with a NaN
        values = f" from {array.min()} to {array.max()}" if numbers else ""
        raise ValueError(
            "picture should be an array (h, w), (h, w, 3) or (h, w, 4) of numbers from 0 to 255, or "
            f"fractions from 0 to 1, but {array.dtype} of shape {array.shape}{values} was found."
        )
    fractions = array.dtype.kind == "b" or (array.dtype.kind == "f" and array.max() <= 1)
    return Image.fromarray((array * np.float32(255) if fractions else array).astype(np.uint8))


def _ink(grey: np.ndarray) -> np.ndarray:
    """How much of the paper's light each pixel (h, w) takes, of 255; about 0 where it is paper."""
    around = ndimage.uniform_filter(grey, 2 * round(max(grey.shape) / 5) + 1, mode="nearest")
    if ((grey - around) ** 3).sum() > 0:  # what differs most is lighter: light ink on dark paper
        grey = 255 - grey
    smooth, width = ndimage.uniform_filter(grey, 5), max(grey.shape) // 3
    paper = ndimage.grey_closing(smooth, width, mode="nearest")  # without strokes, with shadows
    paper = ndimage.uniform_filter(paper, width // 4 or 1)
    return (paper - grey) * (255 / np.maximum(paper, DARKEST))


def _lines(ink: np.ndarray) -> np.ndarray:
    """Which pixels (h, w) belong to ruled or squared lines and are not crossed by darker ink."""
    if min(ink.shape) < 60:
        return np.zeros(ink.shape, bool)
    across, down = _darkness_across(ink), _darkness_across(ink.T).T
    lines = across + down - across * down / 255  # where two cross, they take more
    strongest = np.percentile(ink[lines < FAINTEST], 99.5) if lines.min() < FAINTEST else 0
    count = ndimage.label(across.max(1) >= FAINTEST)[1] + ndimage.label(down.max(0) >= FAINTEST)[1]
    if count > 3 and strongest < max(across.max(), down.max()):
        raise ValueError("picture shows nothing darker than its lines: use a darker pen.")
    found = (lines >= FAINTEST) & (lines < 0.75 * strongest)  # others may be straight strokes
    return found & (ink < (lines + strongest) / 2)


def _darkness_across(ink: np.ndarray) -> np.ndarray:
    """How dark three quarters of a line from left to right are at least, at each pixel (h, w)."""
    (height, width), smooth = ink.shape, ndimage.uniform_filter1d(ink.clip(0), 7, axis=1)
    columns, y = np.arange(0, width, 4), np.arange(height)[:, None]

    def darkness(tilt: float) -> np.ndarray:
        """Of each row (h,), if lines have this tilt."""
        rows = (y + (columns - width // 2) * tilt).round().astype(int).clip(0, height - 1)
        row = np.percentile(smooth[rows, columns], 25, axis=1)
        return row - np.median(row)

    tilt = max(TILTS, key=lambda tilt: (darkness(tilt) ** 2).sum())
    rows = (y - (np.arange(width) - width // 2) * tilt).round().astype(int)
    return ndimage.maximum_filter1d(darkness(tilt), 3)[rows.clip(0, height - 1)]


def _digit_alone(ink: np.ndarray) -> np.ndarray:
    """The ink of the digit alone, bytes (h, w), without noise and without other things."""
    noise = np.median(abs(np.diff(ink[::3], axis=1))) if ink.shape[1] > 1 else 0
    ink = np.where(ink < max(6 * noise, FAINTEST), 0, ink)
    if not ink.any():
        raise ValueError("picture seems to be blank: use a darker pen, or crop it to the digit.")
    core = _pieces_of_digit(ink > 0.5 * np.percentile(ink[ink > 0], 98))
    ink = (ink * (255 / np.percentile(ink[core], 95))).clip(0, 255)
    return np.where(ndimage.maximum_filter(core, 3), ink, 0).astype(np.uint8)


def _pieces_of_digit(core: np.ndarray) -> np.ndarray:
    """The pixels (h, w) of ink without specks, a frame around others, and what touches the rim."""
    near = ndimage.maximum_filter(core, 1 + max(core.shape) // 60)  # bridges gaps in strokes
    pieces = ndimage.label(near, np.ones((3, 3)))[0] * core
    sizes = np.bincount(pieces[core])
    kept = sizes > 0.02 * sizes.max()  # without specks
    numbers, boxes = np.arange(len(kept)), [None, *ndimage.find_objects(pieces)]
    for piece in kept.nonzero()[0]:
        margins = [(s.start, s.stop, (s.stop - s.start) // 8) for s in boxes[piece]]
        inner = pieces[tuple(slice(start + n, stop - n) for start, stop, n in margins)]
        if piece not in inner and kept[inner].any():  # a frame
            kept &= np.isin(numbers, inner)
    rim = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    inside = kept & ~np.isin(numbers, rim)
    kept = inside if inside.any() else kept
    ends = np.array([[(s.start, s.stop) for s in boxes[piece]] for piece in kept.nonzero()[0]])
    heights = np.ptp(ends[:, 0], axis=1)
    tall = ends[heights > 0.6 * heights.max()].mean(axis=2)  # their centres
    down, right = np.ptp(tall, axis=0) / heights.max()
    if len(ends) > 8 or down > 1 or right > 0.6:
        raise ValueError("picture seems to show several digits: crop it to one of them.")
    return kept[pieces]


def _fitted(ink: np.ndarray) -> np.ndarray:
    """The ink (h, w) cropped and fitted into 20 × 20 pixels, proportions kept; bytes."""

    def resized(image: Image.Image, longer: int) -> Image.Image:
        size = [max(1, round(longer / max(image.size) * n)) for n in image.size]
        return image.resize(size, Image.Resampling.BICUBIC)

    image = Image.fromarray(ink)
    image = image.crop(image.getbbox())
    if max(image.size) > FITTED:  # strokes that would come out thinner than MNIST's grow first
        large = np.asarray(resized(image, 4 * FITTED))
        edges = np.hypot(*np.gradient(np.pad(large.astype(np.float32), 1))).sum()
        more = max(0, round(2 * THINNEST - large.sum() / edges))  # on either side of the stroke
        image = Image.fromarray(ndimage.grey_dilation(np.pad(large, more), 2 * more + 1))
    fitted = np.asarray(resized(image, FITTED))
    return (fitted * (255 / fitted.max())).astype(np.uint8)


# ------------------------------------------------------------------------------ drawing on a pad
PAD, PEN = 280, 18  # side of the pad and width of its pen in pixels


def open_pad(read: Callable) -> None:
    """Show a pad, or an example where nobody can draw; read((28, 28) bytes) is ten probabilities."""
    # Who runs a notebook from end to end, such as nbval, does not let the kernel ask for input.
    message = getattr(get_ipython(), "get_parent", dict)()
    then = "run this cell in JupyterLab"
    if message.get("content", {}).get("allow_stdin"):
        try:
            return display(DrawingPad(read).widget)
        except ImportError as error:
            then = f"install {error.name}, which is missing, and restart the kernel"
    print(f"To draw a digit here, {then}. This is how one is answered:")
    drawing = Image.new("L", (PAD, PAD), 255)
    _draw_stroke(drawing, [(75, 70), (205, 70), (180, 110), (145, 165), (120, 225)])  # a 7
    sentence, figure = _answer(drawing, read)
    print(sentence)
    show(figure, f"A 7 drawn by hand, as the network sees it, and ten probabilities. {sentence}")


class DrawingPad:
    """A pad whose drawing is read whenever the mouse, the pen or the finger is lifted."""

    def __init__(self, read: Callable) -> None:
        from ipycanvas import Canvas  # here, as all the rest works without these two
        from ipywidgets import HTML, Button, HBox, VBox

        self.read, self.answer, button = read, HTML(), Button(description="Clear")
        self.canvas = Canvas(width=PAD, height=PAD, layout={"border": "1px solid gray"})
        self.widget = HBox([VBox([self.canvas, button]), self.answer])
        self.canvas.on_client_ready(self.redraw)  # whenever a page with the pad is opened
        self.canvas.on_mouse_down(self.put_down)
        self.canvas.on_mouse_move(self.move)
        self.canvas.on_touch_start(lambda points: self.put_down(*points[0]))
        self.canvas.on_touch_move(lambda points: self.move(*points[0]))
        for end in ("mouse_up", "mouse_out", "touch_end", "touch_cancel"):
            getattr(self.canvas, f"on_{end}")(self.lift)
        button.on_click(self.clear)
        self.clear()

    def clear(self, *_: object) -> None:
        self.drawing, self.last = Image.new("L", (PAD, PAD), 255), None
        self.redraw()
        self.say("Draw a digit on the white square; if there is none, JupyterLab lacks ipycanvas.")

    def redraw(self) -> None:
        # ipycanvas says only once which canvas it draws on, and a page opened anew missed it.
        self.canvas._canvas_manager._current_canvas = None
        self.canvas.put_image_data(np.asarray(self.drawing.convert("RGB")))
        self.canvas.line_width = PEN

    def put_down(self, x: float, y: float) -> None:
        """Begin a stroke, unless another finger or another kind of event has begun one."""
        if not self.last:
            self.last = x, y
            self.move(x, y)

    def move(self, x: float, y: float) -> None:
        if self.last:
            _draw_stroke(self.drawing, (self.last, (x, y)))
            self.canvas.stroke_line(*self.last, x, y)
            self.canvas.fill_circle(x, y, PEN / 2)
            self.last = x, y

    def lift(self, *_: object) -> None:
        if self.last:
            self.last = None
            try:
                self.say(*_answer(self.drawing, self.read))
            except Exception as error:  # noqa: BLE001, Jupyter would lose it
                self.say(f"This could not be read ({type(error).__name__}): {error}")

    def say(self, sentence: str, figure: Figure | None = None) -> None:
        self.answer.value = text = html.escape(sentence)
        if figure:
            png = base64.b64encode(_png(figure, sentence)["image/png"]).decode()
            self.answer.value += f'<br><img src="data:image/png;base64,{png}" alt="{text}">'


def _draw_stroke(drawing: Image.Image, points: Sequence[tuple[float, float]]) -> None:
    pen = ImageDraw.Draw(drawing)
    pen.line(points, fill=0, width=PEN)
    for x, y in points:
        pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=0)


def _answer(drawing: Image.Image, read: Callable) -> tuple[str, Figure]:
    """A sentence about a drawing, and a figure of it, prepared, with its ten probabilities."""
    image = prepare_digit(np.asarray(drawing))
    p = np.asarray(read(image))
    if p.shape != (10,) or not np.isfinite(p).all():
        raise ValueError(f"ten probabilities should be read, not {p}: mend the function.")
    figure, _ = _predictions([image], [p], [None], "What the network sees")
    said = "The answer is" if p.max() >= 0.7 else "Uncertain: the likeliest digit is"
    return f"{said} {p.argmax()}, with a probability of {p.max():.1%}.", figure


# ------------------------------------------------------------------------------- judging answers
ANSWERS = {  # exercise: its parts and what is right; a pair stands for all numbers between two
    1: {"p": [0.125, 0.25, 0.625], "dz": [-0.875, 0.25, 0.625]},
    2: {"W": [[9, 1], [4, 0]], "b": [13, 3]},
    3: {"RMS": 2},
    4: {"p": 0.25, "loss": 2.4849},
    5: {"dW": [[1, 4, 0], [2, -3, 2]], "db": [3, 1, 1], "dx": [[-1, -1], [0, -2], [4, 2], [2, 1]]},
    6: {"params": [5, 5], "epochs": 8},
    7: {"T": (1.6, 1.71)},
    8: {"dw": -0.21, "dw_if_0": 0},
    9: {"means": [3, 12.5, 63], "deviations": [1.8708, 13.865, 88.846]},
    10: {"velocities": [-0.1, -0.19, -0.271], "limit": -1},
    11: {"dz": 4 * [[-0.076172, -0.011719, 0.087891]]},
    12: {"lines": [2, 4, 6], "uncaught": 2},
    13: {"errors": [0.0856536, 9.0005e-4]},
    14: {"a": [[2.5, 0], [-0.0375, 5]], "dz": [[1.25, 0], [0.0375, 5]]},
    15: {"parameters": (1, 99_999), "accuracy": (0.97, 1)},
    16: {"forward's error": (0, 1e-5), "gradient's error": (0, 1e-5), "accuracy": (0.9, 1)},
}
SLIPS = (  # exercise, part, what a slip gives there, and what is wrong with it
    (1, "p", [1, 2, 5], "divide the powers by their sum"),
    (1, "dz", [0.125, 0.25, 0.625], "subtract the one-hot row of the true digit"),
    (2, "W", [[1, 3], [4, 8]], "W1 comes first"),
    (2, "b", [1, 5], "b1 goes through W2, too"),
    (3, "RMS", 4, "this is the mean of the squares, so take its root"),
    (3, "RMS", 3.4641, "the mean of the squared weights is not r², but a third of it"),
    (4, "loss", 2.3026, "the bias has its say, too"),
    (6, "params", [8, 8], "these are the last ones; copy the best, since training changes them"),
    (6, "params", [6, 6], "an equal loss is not below the lowest"),
    (6, "epochs", 7, "too early: count every epoch, and anew after each lowest loss"),
    (6, "epochs", 11, "compare with the lowest loss so far, not with the one before"),
    (7, "T", (0.58, 0.63), "divide by T"),
    (7, "T", (0.78, 0.84), "this T has the lowest loss; compare mistakes expected and made"),
    (9, "means", [1, 19.5, 192], "the seed comes first in run(seed, rate)"),
    (9, "means", [1.8708, 13.865, 88.846], "the means come first"),
    (9, "deviations", [3.5, 192.25, 7893.5], "this is the variance, so take its root"),
    (9, "deviations", [2.1602, 16.010, 102.59], "divide by the number of seeds, as np.std does"),
    (10, "velocities", [-0.1, -0.1, -0.1], "0.9 of the last velocity remains"),
    (11, "dz", 4 * [[-0.4375, 0.125, 0.3125]], "go on from P through softmax"),
    (11, "dz", 4 * [[-0.047852, 0.023438, 0.073242]], "each score changes all p"),
    (11, "dz", 4 * [[-0.21875, 0.0625, 0.15625]], "this belongs to cross-entropy"),
    (13, "errors", [0.472476, 0.0429386], "move to both sides"),
    (13, "errors", [0.454649, 0.539402], "this is the derivative; how far is it from cos 1"),
    (14, "dz", [[1.25, 0], [3.75, 5]], "the slope at z is left out"),
    (14, "dz", [[1.25, 0.025], [0.0375, 5]], "the mask is left out"),
    (16, "gradient's error", (18.99, 19.01), "divide by B, which is 20 here"),
    (16, "accuracy", (0, 0.2), "it learns nothing: check first weights, sign, and steps in place"),
)


def check(exercise: int, answer: object, *arguments: object) -> bool:
    """Say of each part of an answer if it is right, or what the likely slip is; True if all are right.

    Never raises, whatever the answer is (a value, the values of the parts in a tuple, or a function
    that returns these) or does when called with the arguments, in which lists become arrays.
    """
    parts, label, said = ANSWERS[exercise], f"Exercise {exercise}", {}
    try:
        with np.errstate(all="ignore"):
            if callable(answer):
                answer = answer(*[np.array(a) if isinstance(a, list) else a for a in arguments])
            values = answer if len(parts) > 1 and isinstance(answer, (tuple, list)) else [answer]
            if all(value is None for value in values):
                said[label] = "no answer yet"
            elif len(values) != len(parts):
                said[label] = f"found {len(values)} values, expected {', '.join(parts)}"
            else:
                said = {f"{label}, {p}": _verdict(exercise, p, v) for p, v in zip(parts, values)}
    except (Exception, SystemExit) as error:
        said = {label: f"it stopped with {type(error).__name__}"}
        with suppress(Exception):  # its text may go wrong, too
            fit = " (do the shapes fit?)" if isinstance(error, ValueError) else ""
            said[label] += f"{fit}: {error}".rstrip(". ")
    right = set(said.values()) == {"right"}
    hint = f"Solution {exercise} is" if right else f"Hint {exercise} and solution {exercise} are"
    print("\n".join(f"{name}: {what}." for name, what in said.items()), f"{hint} at the back.")
    return right


def _verdict(exercise: int, part: str, value: object) -> str:
    right = ANSWERS[exercise][part]
    shape = () if isinstance(right, tuple) else np.shape(right)
    expected = f"numbers of shape {shape}" if shape else "a number"
    if value is None:
        return "no answer yet"
    found = np.array("")
    with suppress(Exception):  # rows of unequal length, or an object that resists
        found = np.asarray(value)
    if found.dtype.kind not in "buif":
        return f"found {type(value).__name__}, expected {expected}"
    if _agree(found, right):
        return "right"
    slips = [(v, slip) for n, name, v, slip in SLIPS if (n, name) == (exercise, part)]
    slips += [(np.negative(right), "the sign is wrong"), (np.transpose(right), "transpose it")]
    for slip, advice in slips:
        if _agree(found, slip):
            return f"nearly: {advice}"
    if found.shape != shape:
        return f"found shape {found.shape}, expected {expected}"
    if not np.isfinite(found).all():
        return "not all numbers are finite: something exploded, or was divided by 0"
    if exercise in (1, 5, 8, 10, 11, 14):  # where a factor is a likely slip
        scale = np.vdot(right, found) / np.vdot(right, right)
        if scale and _agree(found, scale * np.array(right)):
            return f"nearly: each number is {scale:.3g} times what it should be"
    return f"not yet right: it is {np.round(found, 4)}" if exercise in (15, 16) else "not yet right"


def _agree(found: np.ndarray, value: object) -> bool:
    if isinstance(value, tuple):
        return found.shape == () and value[0] <= found <= value[1]
    near = 1e-3 * np.max(np.abs(value)) + 1e-9
    return found.shape == np.shape(value) and np.allclose(found, value, rtol=0, atol=near)
