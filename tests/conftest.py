"""Executes the definitions of the notebook, so that tests test the very code that is read there.
Cells are found by their tag or by what they contain, for editors may renew or drop their ids."""

import ast
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "mnist_from_scratch.ipynb"
sys.path.insert(0, str(ROOT))


def pytest_runtest_setup():
    """Ignore a false warning of NumPy on macOS, even where a test makes warnings errors."""
    warnings.filterwarnings("ignore", "divide by zero encountered in matmul$", RuntimeWarning)


def pytest_collection_modifyitems(items):
    """Run the notebook's cells in their order, even if pytest-randomly has shuffled them."""
    items.sort(key=lambda item: getattr(item, "cell_num", -1))


def sources(tag=None):
    """The source of each code cell of the notebook, or of each with a tag, in order."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return ["".join(c["source"]) for c in code if tag in (None, *c["metadata"].get("tags", []))]


def cell(text):
    """The source of the first code cell that contains a text."""
    found = [source for source in sources() if text in source]
    assert found, f"no cell contains {text!r}"
    return found[0]


def definitions(piece="", replacement=""):
    """The cells tagged `definitions`, executed, as a module; `cells` has those that train openly,
    and at last the one that splits the images.

    A piece that stands there exactly once, as ast.unparse writes it, is replaced: a mistake.
    """
    texts = "live_curves(20)", "live_curves(EPOCHS)", "live_curves(LONG_EPOCHS)", "y_train, y_val ="
    parts = ["\n".join(sources("definitions")), *map(cell, texts)]
    parts = [ast.unparse(ast.parse(part)) for part in parts]
    assert not piece or sum(part.count(piece) for part in parts) == 1, f"not once: {piece}"
    code, *cells = (part.replace(piece, replacement) if piece else part for part in parts)
    module = ModuleType(NOTEBOOK.stem)
    exec(compile(code, NOTEBOOK.name, "exec"), vars(module))  # noqa: S102, our own source
    module.cells = cells
    return module


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, for example `nb.forward`."""
    return definitions()
