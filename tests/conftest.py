"""Puts the project's folder on the path, so that tests can import helpers from anywhere, and
executes the definitions of the notebook, so that they test the very code that the reader reads."""

import json
import linecache
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NOTEBOOK = Path(__file__).resolve().parents[1] / "mnist_from_scratch.ipynb"


def sources(tag=None):
    """The source of each code cell of the notebook, or of each with a tag, by the cell's name."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return {
        cell["id"]: "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and tag in {None, *cell["metadata"].get("tags", [])}
    }


def definitions(changes=None):
    """The notebook's cells tagged `definitions`, executed in order, as a module.

    Args:
        changes: pieces of their source and what to put there: mistakes on purpose.

    Raises:
        ValueError: if a piece does not stand in these cells exactly once.
    """
    tagged = sources("definitions")
    for old, new in (changes or {}).items():
        count = sum(source.count(old) for source in tagged.values())
        if count != 1:
            raise ValueError(f"{old!r} stands {count} times in the definitions, not once.")
        tagged = {cell: source.replace(old, new) for cell, source in tagged.items()}
    module = ModuleType(NOTEBOOK.stem)
    for cell, source in tagged.items():
        name = f"<{NOTEBOOK.name}, cell {cell}{f', {changes}' if changes else ''}>"
        # Where tracebacks and inspect look for lines of source.
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        exec(compile(source, name, "exec"), vars(module))  # noqa: S102, our own source
    return module


@pytest.fixture(scope="session")
def nb():
    """The definitions of the notebook, for example `nb.forward`."""
    return definitions()
