"""Puts the project's folder on the path, so that tests can import helpers from anywhere, and
executes the definitions of the notebook, so that they test the very code that the reader reads."""

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy  # noqa: F401, loads what threadpool_limits sets
import pytest
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NOTEBOOK, HELPERS = ROOT / "mnist_from_scratch.ipynb", ROOT / "helpers.py"
LOOPS = ("one-layer-run", "train-run", "far-run")  # cells that train in the open
LIMITS = threadpool_limits(1, user_api="blas")  # of NumPy, as in the notebook's first cell


def pytest_runtest_setup():
    """Bear a false warning, which NumPy gives on macOS with Accelerate: even a test with a mark
    that makes warnings errors, for this comes after all marks and options. pytest undoes it."""
    warnings.filterwarnings("ignore", "divide by zero encountered in matmul$", RuntimeWarning)


def sources(tag=None):
    """The source of each code cell of the notebook, or of each with a tag, by the cell's name."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return {
        cell["id"]: "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and tag in {None, *cell["metadata"].get("tags", [])}
    }


def definitions(changes=None):
    """The notebook's cells tagged `definitions`, executed, as a module; `loops` has LOOPS' sources.

    Args:
        changes: pieces of this source or of helpers.py, and what to put there: mistakes on purpose.

    Raises:
        ValueError: if a piece does not stand there exactly once.
    """
    cells, tagged, helpers = sources(), sources("definitions"), HELPERS.read_text(encoding="utf-8")
    code = tagged | {cell: cells[cell] for cell in LOOPS} | {"helpers": helpers}
    for old, new in (changes or {}).items():
        count = sum(source.count(old) for source in code.values())
        if count != 1:
            raise ValueError(f"{old!r} stands {count} times in the code, not once.")
        code = {name: source.replace(old, new) for name, source in code.items()}
    module = ModuleType(NOTEBOOK.stem)
    for cell in tagged:
        name = f"<{NOTEBOOK.name}, cell {cell}{f', {changes}' if changes else ''}>"
        exec(compile(code[cell], name, "exec"), vars(module))  # noqa: S102, our own source
    module.loops = {cell: code[cell] for cell in LOOPS}
    if code["helpers"] != helpers:
        module.helpers = ModuleType("helpers")
        exec(code["helpers"], vars(module.helpers))  # noqa: S102
    return module


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, for example `nb.forward`."""
    return definitions()
