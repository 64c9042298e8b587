"""How fast is the walkthrough, how far does its long run get, and what does each part of it bring?

python tests/benchmark.py speed                 an epoch and Run All, on an idle machine: seven minutes
python tests/benchmark.py first 0 1 2           Part I with other choices: four minutes a seed
python tests/benchmark.py seeds 0 1 2 3 4       the long run of section 11: three minutes a seed
python tests/benchmark.py ladder 0 1 2 3 4      its rungs, half as long: seven minutes a seed
python tests/benchmark.py tune 0 1 2 3 4        its rungs at three rates each: 20 minutes a seed
python tests/benchmark.py diverge               how many of 40 seeds diverge: three minutes
"""

import argparse
import os
import shutil
import time
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
import torch
from conftest import ROOT, cell, definitions
from nbclient import NotebookClient
from torch import nn

THREADS = torch.get_num_threads()  # as PyTorch comes
# What is changed in Part I's run; the notebook itself trains one layer at 0.01.
FIRST = {
    "one layer at 0.1": {"sizes": (784, 10), "epochs": 20, "factor": 0, "rate": 0.1, "decay": 0},
    "Part I": {},
    "without decay": {"decay": 0},
    "at 0.1": {"rate": 0.1},
}
# From the third on, each adds one thing to the one above; `tune` tries half and twice their rates.
RUNGS = {
    "plain at 0.1": {"rate": 0.1, "pixels": 0, "fall": 0, "shrink": 0},
    "plain": {"rate": 0.0125, "pixels": 0, "fall": 0, "shrink": 0},
    "+ distortions": {"rate": 0.2, "fall": 0, "shrink": 0},
    "+ falling rate": {"rate": 0.175, "shrink": 0},
    "+ weight decay": {"rate": 0.35},
}


def walkthrough():
    """The notebook's functions and constants, and its data, as a module."""
    os.chdir(ROOT)  # where its cells look for the data
    nb = definitions()
    with redirect_stdout(None):
        for text in ("= helpers.load_mnist()", "y_train, y_val ="):
            exec(cell(text), vars(nb))  # noqa: S102, our own source
    nb.x_test = nb.standardise(nb.test_images)
    return nb


def torch_epoch(nb, params, threads):
    """An epoch of the same network in PyTorch's usual loop."""
    torch.set_num_threads(threads)
    layers = []
    for W, _ in params:
        layers += [nn.Linear(*W.shape), nn.LeakyReLU(float(nb.ALPHA))]
    network, loss = nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=nb.LEARNING_RATE)
    x, y = torch.from_numpy(nb.x_train), torch.from_numpy(nb.y_train)
    for batch in torch.randperm(len(x)).split(nb.BATCH_SIZE):
        optimiser.zero_grad()
        loss(network(x[batch]), y[batch]).backward()
        optimiser.step()


def products_epoch(nb, params):
    """Only the matrix products of an epoch."""
    a = [np.ones((nb.BATCH_SIZE, size), np.float32) for size in nb.SIZES]
    for _ in range(0, len(nb.x_train), nb.BATCH_SIZE):
        for layer, (W, _) in enumerate(params):
            a[layer] @ W
            a[layer].T @ a[layer + 1]
            if layer > 0:
                a[layer + 1] @ W.T


def in_turns(nb):
    """Print what an epoch takes, if notebook, PyTorch and matrix products take turns."""
    rng, rows = np.random.default_rng(0), []
    params = nb.init_params(nb.SIZES, rng)
    for _ in range(6):
        ends = [time.perf_counter()]
        nb.train_epoch(params, nb.x_train, nb.y_train, nb.BATCH_SIZE, nb.LEARNING_RATE, rng)
        ends.append(time.perf_counter())
        torch_epoch(nb, params, threads=1)
        ends.append(time.perf_counter())
        torch_epoch(nb, params, THREADS)
        ends.append(time.perf_counter())
        products_epoch(nb, params)
        ends.append(time.perf_counter())
        rows.append(np.diff(ends))
    table = np.array(rows[1:])  # the first round warms up
    print("An epoch: median, fastest, slowest; the notebook's in relation")
    for name, s in zip(("notebook", "PyTorch, one thread", "PyTorch", "products"), table.T):
        ratio = np.median(table[:, 0] / s)
        print(f"{name:20} {np.median(s):.2f} {s.min():.2f} {s.max():.2f} s {ratio:.2f}", flush=True)


def speed(nb, _):
    """What an epoch takes, and what Run All takes."""
    in_turns(nb)
    notebook = nbformat.read(ROOT / "mnist_from_scratch.ipynb", as_version=4)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # where it writes its files
        shutil.copy(ROOT / "helpers.py", folder)
        shutil.copytree(ROOT / "data", f"{folder}/data")
        start = time.perf_counter()
        NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
        print(f"Run All: {time.perf_counter() - start:.0f} s")


def first(nb, numbers):
    """Validation loss and accuracy of Part I with other choices; as it is, test accuracy, too."""
    usual = {"sizes": nb.SIZES, "epochs": nb.EPOCHS, "rate": nb.LEARNING_RATE, "decay": nb.DECAY}
    for seed in numbers:
        for name, changes in FIRST.items():
            sizes, epochs, rate, decay, factor = (usual | {"factor": 1} | changes).values()
            rng = np.random.default_rng([seed, 7])
            params = nb.init_params(sizes, np.random.default_rng(seed), factor)
            for epoch in range(epochs):
                lr = rate / (1 + decay * epoch)
                nb.train_epoch(params, nb.x_train, nb.y_train, nb.BATCH_SIZE, lr, rng)
            loss, accuracy = nb.evaluate(params, nb.x_val, nb.y_val)
            print(f"{name}, seed {seed}: {loss:.4f} {accuracy:.2%}", flush=True)
            if not changes:
                print(f"    test images: {nb.evaluate(params, nb.x_test, nb.test_labels)[1]:.2%}")


def long_run(nb, seed, epochs, numbers):
    """Parameters after a long run of some epochs with these numbers for long_epoch."""
    rng = np.random.default_rng([seed, 11])
    params = nb.init_params(nb.SIZES, rng)
    for epoch in range(epochs):
        nb.long_epoch(params, nb.x_train, nb.y_train, epoch / epochs, rng, **numbers)
    return params


def seeds(nb, numbers):
    """The test accuracy of the recipe with each seed, and their mean."""
    accuracies = []
    for seed in numbers:
        params = long_run(nb, seed, nb.LONG_EPOCHS, {})
        accuracies.append(nb.evaluate(params, nb.x_test, nb.test_labels)[1])
        print(f"seed {seed}: {accuracies[-1]:.2%} of the test images", flush=True)
    print(f"mean {np.mean(accuracies):.3%}")


def rung(nb, numbers, name, rate):
    """Losses and accuracies (2, seeds) of a rung on the validation images, printed."""
    half, settings = nb.LONG_EPOCHS // 2, RUNGS[name] | {"rate": rate}
    runs = [long_run(nb, seed, half, settings) for seed in numbers]
    results = np.transpose([nb.evaluate(params, nb.x_val, nb.y_val) for params in runs])
    print(name, rate, "means", results.mean(axis=1).round(5), results.round(4).tolist(), flush=True)
    return results


def ladder(nb, numbers):
    """Each rung at its best rate, and with how many seeds it is better than the one above."""
    above = np.full((2, len(numbers)), np.nan)  # above the first one is none
    for name, settings in RUNGS.items():
        results = rung(nb, numbers, name, settings["rate"])
        better = np.sum([results[0] < above[0], results[1] > above[1]], axis=1)
        print("    seeds with which loss and accuracy are better than above:", better, flush=True)
        above = results


def tune(nb, numbers):
    """Each rung at half its rate, its rate and twice its rate."""
    for name, settings in RUNGS.items():
        for factor in (0.5, 1, 2):
            rung(nb, numbers, name, factor * settings["rate"])


def diverge(nb, numbers):
    """Which seeds diverge in two epochs at 1.2 times the recipe's first rate."""
    rate, diverged = nb.long_epoch.__defaults__[0], []
    for seed in numbers:
        params = long_run(nb, seed, 2, {"rate": 1.2 * rate, "fall": 0})
        loss, _ = nb.evaluate(params, nb.x_val, nb.y_val)
        if not loss < np.log(10):  # nan, or no better than who knows nothing
            diverged.append(seed)
    print(f"diverged: {len(diverged)} of {len(numbers)}: {diverged}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for function in (speed, first, seeds, ladder, tune, diverge):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        numbers = range(40 if function is diverge else 5)
        command.add_argument("seeds", type=int, nargs="*", default=numbers)
        command.set_defaults(function=function)
    options = parser.parse_args()
    options.function(walkthrough(), options.seeds)


if __name__ == "__main__":
    main()
