"""How fast is the walkthrough's own code? Run it with `python tests/benchmark.py [--quick]`.

It takes the functions from the notebook's `definitions` cells and times an epoch of them on the
50,000 training images, in turns with the same network in PyTorch and with the matrix products
alone; then the parts of a step, other sizes, one thread, and the memory that all of it needs.
Each figure is the median of several rounds, with the fastest and the slowest in brackets. Nothing
else should be running: two busy programs slow the matrix products by far more than half.

`--seeds 0 1 2` only repeats the long training of section 14 with these seeds, and `--ladder 0` trains
as long on each rung of its ladder.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
BATCH = 60
IMAGES = 50_000


def progress(text):
    """Overwrite the progress line, if somebody is there to see it."""
    if sys.stderr.isatty():
        print(f"\r{text:<78.78}", end="", file=sys.stderr, flush=True)


def show(title, rows):
    """Print a table of name, seconds of each round, and a remark."""
    progress("")
    print(f"\n{title}")
    width = max(len(name) for name, *_ in rows)
    for name, seconds, remark in rows:
        middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
        print(f"  {name:<{width}}  {middle:8.3f}  ({low:.3f} to {high:.3f})  {remark}".rstrip())


def in_turns(candidates, rounds):
    """Seconds of each candidate in each round; all candidates take their turn in every round."""
    seconds = {name: [] for name in candidates}
    for i in range(rounds):
        for name, run in candidates.items():
            progress(f"round {i + 1} of {rounds}: {name}")
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, name, other):
    """Median over the rounds of how many times as long `name` took as `other`."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[other]))


def compared(seconds, name):
    """The ratios of `name` to PyTorch and to the matrix products alone, as text."""
    torch, products = (
        ratio(seconds, name, other) for other in ("PyTorch", "matrix products alone")
    )
    return f"{torch:.2f} × PyTorch, {products:.2f} × products"


def load():
    """The notebook's functions and its 50,000 training images as it prepares them."""
    start = time.perf_counter()
    from conftest import definitions

    import helpers

    imported = time.perf_counter()
    images, labels, *_ = helpers.load_mnist(ROOT / "data")
    loaded = time.perf_counter()
    nb = definitions()
    x = nb.scale(images[:IMAGES], images[:IMAGES].mean(), images[:IMAGES].astype("float32").std())
    return nb, x, labels[:IMAGES], imported - start, loaded - imported


def numpy_epoch(nb, params, x, y, batch=BATCH):
    """A closure that runs one epoch of the notebook's training."""
    rng = nb.np.random.default_rng(0)
    return lambda: nb.train_epoch(params, x, y, batch, 0.01, rng)


def torch_epoch(nb, params, x, y, batch=BATCH):
    """A closure that runs one epoch of the same network in PyTorch's eager loop."""
    import torch
    from torch import nn

    modules = []
    for W, b in params:
        linear = nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        modules += [linear, nn.LeakyReLU(float(nb.ALPHA))]
    network, loss = nn.Sequential(*modules[:-1]), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def epoch():
        for part in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            loss(network(x[part]), y[part]).backward()
            optimiser.step()

    return epoch


def products_epoch(nb, params, n, batch=BATCH):
    """A closure that runs only the matrix products of an epoch, the last batch rounded up."""
    units = [W.shape[0] for W, _ in params] + [params[-1][0].shape[1]]
    arrays = [nb.np.ones((batch, size), params[0][0].dtype) for size in units]

    def epoch():
        for _ in range(-(-n // batch)):
            for layer, (W, _) in enumerate(params):
                arrays[layer] @ W
            for layer, (W, _) in enumerate(params):
                arrays[layer].T @ arrays[layer + 1]
                if layer > 0:
                    arrays[layer + 1] @ W.T

    return epoch


def time_parts(nb, params, x, y, batch=BATCH):
    """Seconds that an epoch spends in each part of a step; the loss is not part of training."""
    np = nb.np
    seconds = np.zeros(5)
    for part in nb.mini_batches(len(x), batch, np.random.default_rng(0)):
        times = [time.perf_counter()]
        xb, yb = x[part], y[part]
        times.append(time.perf_counter())
        logits, cache = nb.forward(params, xb)
        times.append(time.perf_counter())
        nb.cross_entropy(logits, yb)
        times.append(time.perf_counter())
        grads = nb.backward(params, cache, yb)
        times.append(time.perf_counter())
        nb.sgd_step(params, grads, 0.01)
        times.append(time.perf_counter())
        seconds += np.diff(times)
    return dict(zip(["gather the batch", "forward", "loss", "backward", "update"], seconds))


def peak_megabytes():
    """The most memory this process has held so far, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def held_after_epochs(epoch, count):
    """MB that Python and NumPy hold after each of some epochs, and the most during that epoch."""
    held = []
    tracemalloc.start()
    for i in range(count):
        progress(f"epoch {i + 1} of {count}: memory")
        tracemalloc.reset_peak()
        epoch()
        held.append([size / 1e6 for size in tracemalloc.get_traced_memory()])
    tracemalloc.stop()
    return held


def run_part_one():
    """Seconds and peak memory in MB of running Part I of the notebook in a fresh kernel."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "mnist_from_scratch.ipynb", as_version=4)
    probe = nbformat.v4.new_code_cell(
        "from tests.benchmark import peak_megabytes as _p; print(_p())"
    )
    end = [cell.id for cell in notebook.cells].index("part-two")
    notebook.cells[end:] = [probe]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("helpers.py", "data", "tests"):
            os.symlink(ROOT / name, Path(folder, name))
        start = time.perf_counter()
        NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    return time.perf_counter() - start, probe.outputs[0].text.strip()


def one_thread(rounds):
    """Seconds of an epoch on one thread, measured in a process of its own; see `main`."""
    command = [sys.executable, __file__, "--one-thread", "--rounds", str(rounds)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def walkthrough():
    """The notebook's functions and data, and the sources of its cells."""
    from conftest import definitions, sources

    import helpers

    os.chdir(ROOT)  # where the notebook's cells look for the data
    helpers.watch = lambda records, epochs: records
    helpers.print_table = lambda header, rows: None
    nb, cells = definitions(), sources()
    for cell in ("load", "split", "scaled"):
        exec(cells[cell], vars(nb))  # noqa: S102, our own source
    return nb, cells


def climb_with_seeds(seeds):
    """Print what the cells of the long training of section 14 print with these seeds."""
    nb, cells = walkthrough()
    for nb.SEED in seeds:
        print(f"\nseed {nb.SEED}", flush=True)
        for cell in ("far-run", "far-test"):
            exec(cells[cell], vars(nb))  # noqa: S102, our own source


def climb_the_ladder(seed):
    """Print loss and accuracy on the validation images after a long training on each rung."""
    nb, _ = walkthrough()
    data = nb.x_train, nb.y_train, nb.x_val, nb.y_val
    for name, options in nb.RUNGS.items():
        start, rng = time.perf_counter(), nb.np.random.default_rng(seed)
        *_, record = nb.climb(nb.he_params(nb.SIZES, rng), data, nb.FAR_EPOCHS, rng, **options)
        print(
            f"seed {seed}, {name}, {nb.FAR_EPOCHS} epochs: validation loss {record['val_loss']:.4f}, "
            f"accuracy {record['val_accuracy']:.2%}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: fewer rounds and rows"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each table")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="only repeat the long training of section 14"
    )
    parser.add_argument("--ladder", type=int, metavar="SEED", help="only train long on each rung")
    parser.add_argument("--one-thread", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seeds is not None:
        return climb_with_seeds(options.seeds)
    if options.ladder is not None:
        return climb_the_ladder(options.ladder)
    rounds = options.rounds or (3 if options.quick else 7)

    nb, x, y, import_seconds, load_seconds = load()
    np = nb.np

    def fresh(sizes=nb.SIZES, dtype=np.float32):
        return [
            (W.astype(dtype), b.astype(dtype))
            for W, b in nb.init_params(sizes, np.random.default_rng(0))
        ]

    candidates = {
        "the notebook": numpy_epoch(nb, fresh(), x, y),
        "PyTorch": torch_epoch(nb, fresh(), x, y),
        "matrix products alone": products_epoch(nb, fresh(), len(x)),
    }
    if options.one_thread:
        print(json.dumps(in_turns(candidates, rounds)))
        return

    import torch

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, PyTorch {torch.__version__} with {torch.get_num_threads()} threads"
    )
    print(f"importing helpers took {import_seconds:.1f} s, loading MNIST {load_seconds:.2f} s")

    candidates["the notebook in float64"] = numpy_epoch(
        nb, fresh(dtype=np.float64), x.astype(np.float64), y
    )
    before = peak_megabytes()
    epochs = in_turns(candidates, rounds)
    show(
        f"An epoch of {IMAGES:,} images in batches of {BATCH}, seconds",
        [(name, seconds, compared(epochs, name)) for name, seconds in epochs.items()],
    )

    params, rows = fresh(), {}
    for i in range(rounds):
        progress(f"round {i + 1} of {rounds}: parts of a step")
        for name, seconds in time_parts(nb, params, x, y).items():
            rows.setdefault(name, []).append(seconds)
    total = sum(statistics.median(seconds) for seconds in rows.values())
    show(
        "Parts of an epoch, seconds",
        [
            (name, seconds, f"{statistics.median(seconds) / total:.0%}")
            for name, seconds in rows.items()
        ],
    )

    if not options.quick:
        sizes = {
            "half as wide": (784, 250, 150, 50, 10),
            "as it is": nb.SIZES,
            "double width": (784, 1000, 600, 200, 10),
        }
        grown = {
            f"batch {batch:4}": numpy_epoch(nb, fresh(), x, y, batch)
            for batch in (10, 60, 250, 1000)
        }
        grown |= {name: numpy_epoch(nb, fresh(sizes=s), x, y) for name, s in sizes.items()}
        grown = in_turns(grown, max(1, rounds // 2))
        show(
            "How an epoch grows, seconds", [(name, seconds, "") for name, seconds in grown.items()]
        )

    progress("one thread")
    single = one_thread(max(1, rounds // 2))
    show(
        "On one thread, seconds",
        [(name, seconds, compared(single, name)) for name, seconds in single.items()],
    )

    held = held_after_epochs(numpy_epoch(nb, fresh(), x, y), 3 if options.quick else 10)
    progress("")
    print(
        "\nmemory held after each epoch beyond what was held before the first, and the most during it:"
    )
    print("  " + ", ".join(f"{after:.2f} ({peak:.1f})" for after, peak in held) + " MB")
    if before:
        print(
            f"this whole process: at most {peak_megabytes():.0f} MB, before the epochs {before:.0f}"
        )
    if not options.quick:
        progress("running Part I of the notebook")
        seconds, peak = run_part_one()
        progress("")
        print(f"Part I of the notebook: {seconds:.0f} s, at most {float(peak):.0f} MB")
    print(
        f"\nan epoch of the notebook takes {ratio(epochs, 'the notebook', 'PyTorch'):.2f} times PyTorch's, "
        f"{ratio(epochs, 'the notebook', 'matrix products alone'):.2f} times its matrix products alone"
    )


if __name__ == "__main__":
    main()
