"""How fast is the walkthrough, alone and beside a busy program, and how far does it get?

    python tests/benchmark.py                 epochs, seconds to 99 %, memory, Run All: half an hour
    python tests/benchmark.py --quick         short epochs and one run to 99 %: two minutes
    python tests/benchmark.py --seeds 0 1 2   only the long run of section 11 with these seeds
    python tests/benchmark.py --ladder 0      only the rungs of section 11, a long run each

Functions, settings and data are the notebook's. What is compared takes turns, each in a process of
its own; figures are medians over the rounds, and the fastest and the slowest. Run nothing else
meanwhile: the busy program, on one thread, is started and ended by the benchmark itself.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
import torch
from nbclient import NotebookClient
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from conftest import definitions, sources

SHORT_EPOCHS = 14  # of the run to 99 %
BUSY = """# ends when its input does: it cannot outlive the benchmark, even if that is killed
import os, sys, threading, numpy, threadpoolctl
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
threadpoolctl.threadpool_limits(1)
a = numpy.ones((500, 500), numpy.float32)
while True:
    a @ a
"""


def walkthrough():
    """The notebook's functions and constants, and its data, as a module."""
    os.chdir(ROOT)  # where its cells look for the data
    nb, cells = definitions(), sources()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        for cell in ("load-data", "split-data", "standardise-run"):
            exec(cells[cell], vars(nb))  # noqa: S102, our own source
    return nb


def numpy_epoch(nb, params, x, y):
    """A function that trains for an epoch as section 7 does."""
    rng = np.random.default_rng(0)
    return lambda: nb.train_epoch(params, x, y, nb.BATCH_SIZE, nb.LEARNING_RATE, rng)


def torch_epoch(nb, params, x, y, threads=None):
    """A function that trains the same network for an epoch in PyTorch's usual loop."""
    nb.limits.restore_original_limits()  # some builds of PyTorch would share NumPy's
    if threads:
        torch.set_num_threads(threads)
    layers = []
    for W, _ in params:
        layers += [nn.Linear(*W.shape), nn.LeakyReLU(float(nb.ALPHA))]
    network, loss = nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=nb.LEARNING_RATE)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def epoch():
        for batch in torch.randperm(len(x)).split(nb.BATCH_SIZE):
            optimiser.zero_grad()
            loss(network(x[batch]), y[batch]).backward()
            optimiser.step()

    return epoch


def products_epoch(nb, params, x, y):
    """A function that computes only the matrix products of an epoch."""
    a = [np.ones((nb.BATCH_SIZE, size), np.float32) for size in nb.SIZES]

    def epoch():
        for _ in range(0, len(x), nb.BATCH_SIZE):
            for left, (W, _) in zip(a, params):
                left @ W
            for left, right, (W, _) in zip(a, a[1:], params):
                left.T @ right
            for right, (W, _) in zip(a[2:], params[1:]):
                right @ W.T

    return epoch


CANDIDATES = {
    "the notebook, one thread": numpy_epoch,
    "PyTorch, one thread": partial(torch_epoch, threads=1),
    "PyTorch as it comes": torch_epoch,
    "its matrix products alone": products_epoch,
}


def work(name, images):
    """What a process of its own does: an epoch for each line that comes in, and print its seconds."""
    nb = walkthrough()
    params = nb.init_params(nb.SIZES, np.random.default_rng(0))
    epoch = CANDIDATES[name](nb, params, nb.x_train[:images], nb.y_train[:images])
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(time.perf_counter() - start, flush=True)


@contextmanager
def python(code):
    """A Python process, free to use as many threads as it likes, which is ended with the block."""
    free = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    options = {"cwd": ROOT, "env": free, "text": True}
    options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def in_turns(workers, rounds):
    """Seconds of an epoch of each worker in each round."""
    seconds = {name: [] for name in workers}
    for _ in range(rounds):
        for name, process in workers.items():
            print(file=process.stdin, flush=True)
            seconds[name].append(float(process.stdout.readline()))
    return seconds


def compare_epochs(rounds, images):
    """Print what an epoch takes, idle and beside a busy program."""
    with ExitStack() as stack:
        workers = {}
        for name in CANDIDATES:
            call = f"from tests.benchmark import work; work({name!r}, {images})"
            workers[name] = stack.enter_context(python(call))
        in_turns(workers, 1)  # to warm up
        idle = in_turns(workers, rounds)
        with python(BUSY):
            busy = in_turns(workers, rounds)
    for state, seconds in {"on an idle machine": idle, "beside a busy program": busy}.items():
        print(f"An epoch of {images:,} images {state}, {rounds} rounds:")
        ours, *_ = seconds.values()
        for name, s in seconds.items():
            line = f"{name:25} {np.median(s):6.2f} s ({min(s):.2f} to {max(s):.2f})"
            times = np.median(np.divide(ours, s))
            print(f"  {line:50}  the notebook takes {times:.2f} times as long")
    print(f"  {np.median(np.divide(ours, next(iter(idle.values())))):.2f} times as long as idle\n")


# Each rung adds one thing to the one above, but for the last, a control. Each has the best learning
# rate of those tried, by the mean loss on the validation images with the seeds 0 and 1.
RUNGS = {
    "plain steps": 0.18,  # of 0.06, 0.18 and 0.6
    "+ affine distortions": 0.1,  # of 0.06, 0.1 and 0.18
    "+ elastic distortions": 0.06,  # of 0.06, 0.1 and 0.18
    "+ cosine annealing": 0.36,  # of 0.18 and 0.36
    "+ weight decay": 0.36,  # of 0.18 and 0.36, the latter with 1e-4, 2e-4, 3e-4 and 4e-4
    "momentum in place of plain steps": 0.06,
}
LAST = 4  # the recipe of section 11


def momentum_step(params, grads, lr, velocities, weight_decay):
    """Momentum 0.9 as in section 11, with weight decay; changes params and velocities in place."""
    for (W, b), (dW, db), (vW, vb) in zip(params, grads, velocities):
        vW *= 0.9
        vW -= lr * (dW + weight_decay * W)
        W += vW
        vb *= 0.9
        vb -= lr * db
        b += vb


def far_epochs(nb, seed, epochs, rung=LAST):
    """Train as the cell `far-run` does, or on another rung; yield the parameters each epoch."""
    rng, rate = np.random.default_rng([seed, 11]), list(RUNGS.values())[rung]
    params = nb.init_params(nb.SIZES, rng, nb.he)
    step = nb.sgd_step
    if rung == 4:
        step = nb.decay_step
    if rung == 5:
        velocities = [(np.zeros_like(W), np.zeros_like(b)) for W, b in params]
        step = partial(momentum_step, velocities=velocities, weight_decay=nb.WEIGHT_DECAY)
    x = nb.x_train if rung == 0 else np.empty_like(nb.x_train)
    for epoch in range(epochs):
        lr = nb.cosine(rate, epoch / epochs) if rung >= 3 else rate
        if rung >= 1:
            nb.helpers.distort(nb.x_train, rng, elastic=rung >= 2, out=x)
        nb.train_epoch(params, x, nb.y_train, nb.FAR_BATCH, lr, rng, step=step)
        yield params


def far_run(nb, seed, epochs, rung=LAST):
    """Train on a rung, print what came of it, and return the accuracy on the test images."""
    start = time.perf_counter()
    *_, params = far_epochs(nb, seed, epochs, rung)
    loss, accuracy = nb.evaluate(params, nb.x_val, nb.y_val)
    result = f"{epochs} epochs, validation loss {loss:.4f}, accuracy {accuracy:.2%}"
    name, seconds = list(RUNGS)[rung], time.perf_counter() - start
    print(f"seed {seed}, {name}, {seconds:.0f} s: {result}", flush=True)
    return float((nb.predict(params, nb.test_images).argmax(axis=1) == nb.test_labels).mean())


def run_to_99(nb, seed):
    """Print how long a short run takes until 99 % of the validation images are read."""
    start = time.perf_counter()
    for epoch, params in enumerate(far_epochs(nb, seed, SHORT_EPOCHS), start=1):
        accuracy = nb.evaluate(params, nb.x_val, nb.y_val)[1]
        if accuracy >= 0.99:
            break
    print(f"seed {seed}: {accuracy:.2%} of validation images, epoch {epoch}", end=", ")
    print(f"{time.perf_counter() - start:.1f} s", flush=True)


def run_all():
    """Seconds and peak memory of all cells of the notebook, in a new kernel and folder, as text."""
    notebook = nbformat.read(ROOT / "mnist_from_scratch.ipynb", as_version=4)
    code = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    peak = nbformat.v4.new_code_cell(code, metadata={"tags": ["raises-exception"]})  # on Windows
    notebook.cells.append(peak)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.copy(ROOT / "helpers.py", folder)
        shutil.copytree(ROOT / "data", Path(folder, "data"))
        start = time.perf_counter()
        NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
        seconds = time.perf_counter() - start
    memory = int(peak.outputs[0].get("text", 0)) // (10**6 if sys.platform == "darwin" else 1000)
    return f"{seconds:.0f} s, at most {memory} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two minutes, without Run All")
    parser.add_argument("--seeds", type=int, nargs="+", help="only the long run with these seeds")
    parser.add_argument("--ladder", type=int, nargs="+", metavar="SEED", help="only the ladder")
    parser.add_argument("--epochs", type=int, help="of seeds and ladder, to try them")
    options = parser.parse_args()
    nb = walkthrough()
    epochs = options.epochs or nb.FAR_EPOCHS
    machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, NumPy {np.__version__}, PyTorch {torch.__version__}", flush=True)
    if options.seeds:
        accuracies = [far_run(nb, seed, epochs) for seed in options.seeds]
        print("test accuracies", accuracies, f"mean {np.mean(accuracies):.3%}")
    elif options.ladder:
        for seed in options.ladder:
            for rung in range(len(RUNGS)):
                far_run(nb, seed, epochs, rung)
    else:
        rounds, images, seeds = (3, 10_000, 1) if options.quick else (5, 50_000, 3)
        compare_epochs(rounds, images)
        for seed in range(seeds):
            run_to_99(nb, seed)
        if not options.quick:
            print(f"Run All on an idle machine: {run_all()}", flush=True)
            with python(BUSY):
                print(f"Run All beside a busy program: {run_all()}")


if __name__ == "__main__":
    main()
