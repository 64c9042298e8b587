"""The notebook as a file (executed, clean, readable on GitHub, true to the README) and in a kernel:
the stop button, divergence, and networks with more or fewer layers."""

import ast
import base64
import os
import re
import subprocess
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import benchmark
import nbformat
import numpy as np
import pytest
from conftest import definitions, sources
from jupyter_client.manager import start_new_kernel

import helpers

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "mnist_from_scratch.ipynb"
README = (ROOT / "README.md").read_text(encoding="utf-8")
HERE = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
CELLS = sources()


def in_git():
    """The notebook as committed, or as staged to be; None if git doesn't tell."""
    try:
        command = ["git", "show", f":./{PATH.name}"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return nbformat.reads(shown.decode("utf-8"), as_version=nbformat.NO_CONVERT)


def written(notebook):
    """What an author writes: all cells but empty ones and answers to exercises, without outputs."""
    return [
        (cell.cell_type, cell.source, cell.metadata.get("tags"))
        for cell in notebook.cells
        if cell.source.strip() and "helpers.check(" not in cell.source
    ]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed_once(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    return counts == list(range(1, len(counts) + 1))


def judged(here, stored):
    """Which version is judged, and why the one in the folder isn't.

    What git holds is judged, not a reader's run of it; but if an author has changed something in the
    folder, then that is. Without git, a run in another order tells that it is a reader's.
    """
    if stored is None and not executed_once(here):
        return None, "its cells were run in another order, and without git it is all there is."
    if stored is None or here == stored or written(here) != written(stored):
        return here, None
    return stored, "it was only run here, so the version in git is judged instead."


STORED = in_git()
JUDGED, REASON = judged(HERE, STORED)


def test_the_notebook_in_this_folder_is_the_one_judged():
    if REASON:
        pytest.skip(f"{PATH.name}: {REASON}")


def made_up(*sources, counts=(1, 2, 3, 4), output="1"):
    new = nbformat.v4
    cells = [new.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    for cell, cell.execution_count in zip(cells, counts):
        cell.outputs = [new.new_output("stream", text=output)]
    return new.new_notebook(cells=cells)


def test_a_readers_run_is_not_judged_but_a_change_is():
    exercise, solved = "my_p = None\nhelpers.check(1, my_p)", "my_p = 1\nhelpers.check(1, my_p)"
    stored = made_up("a", "b", exercise)
    one_again = made_up("a", "b", exercise, counts=[1, 4, 3])
    two_cells = made_up("a", "b", exercise, counts=[1, 2])
    another_processor = made_up("a", "b", exercise, output="1.0001")
    answered, new_empty_cell = made_up("a", "b", solved), made_up("a", "b", exercise, "")
    for here in (one_again, two_cells, another_processor, answered, new_empty_cell):
        assert judged(here, stored)[0] is stored
    changed, not_run = made_up("a", "c", exercise), made_up("a", "c", exercise, counts=[])
    added, removed = made_up("a", "b", "c", exercise), made_up("a", exercise)
    for here in (changed, not_run, added, removed):
        assert judged(here, stored) == (here, None)
    assert judged(stored, None)[0] is stored and judged(one_again, None)[0] is None


# --------------------------------------------------------------------------------------- as a file


@pytest.fixture
def notebook():
    """The version that is judged."""
    return JUDGED or pytest.skip(f"{PATH.name}: {REASON}")


def outputs(notebook):
    return [(cell, output) for cell in code(notebook) for output in cell.outputs]


def printed(cells):
    """All text that the cells print or display."""
    shown = [output for cell in cells for output in cell.outputs]
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in shown)


def test_format_4_5_small_enough_for_github_with_no_more_metadata_than_readers_need(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len(nbformat.writes(notebook)) < 3_000_000
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.id
        assert set(cell.metadata.get("tags", [])) <= {"definitions", "nbval-check-output"}, cell.id


def test_executed_once_from_top_to_bottom_without_errors_warnings_or_paths(notebook):
    assert executed_once(notebook), "Restart the kernel, run all cells and save, then commit."
    assert len(code(notebook)) > 30
    for cell, output in outputs(notebook):
        assert output.output_type != "error", cell.id
        assert output.get("name") != "stderr", cell.id
    assert not re.search(r"Warning|/(home|root|tmp|Users)/|[A-Z]:\\", printed(code(notebook)))
    for cell in code(notebook):
        compared = "nbval-check-output" in cell.metadata.get("tags", [])
        assert printed([cell]).strip() or not compared, cell.id


def test_every_figure_is_a_png_with_a_text_that_says_what_it_shows(notebook):
    figures = 0
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        assert set(data) <= {"image/png", "text/plain"}, cell.id
        if "image/png" in data:
            figures += 1
            text = data["text/plain"]
            assert len(text) >= 20 and not re.match(r"<.*>$|\S*$", text), (cell.id, text)
            more = len(text.split()) > 10 or text.strip(" .\"'") not in cell.source
            assert more, f"{cell.id}: no more than the title"
            assert output.metadata["image/png"]["alt"] == text, cell.id
    assert figures >= 8


def test_definitions_hold_only_imports_constants_and_functions(notebook):
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign)
    cells = [cell for cell in code(notebook) if "definitions" in cell.metadata.get("tags", [])]
    assert len(cells) > 10
    for cell in cells:
        assert not cell.outputs, cell.id
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, kinds), ast.unparse(statement)
            if isinstance(statement, ast.FunctionDef) and len(statement.body) > 2:
                assert ast.get_docstring(statement), statement.name


def test_prose_and_formulas_render_everywhere(notebook):
    for cell in notebook.cells:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
        if cell.cell_type == "code":
            continue
        bad = re.search(r"\\\(|\\\[|\\bm\b|\\operatorname|\\begin\{(align|equation)|\]\(#", text)
        assert not bad, (cell.id, bad[0])
        lines = [line for line in text.split("\n") if "$$" in line]
        assert set(lines) <= {"$$"} and len(lines) % 2 == 0, f"{cell.id}: $$ needs its own line"
        inline = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
        for paragraph in inline.split("\n\n"):
            assert paragraph.count("$") % 2 == 0, paragraph
        for row in re.findall(r"^\|.*\|$", inline, flags=re.MULTILINE):
            assert not any("|" in formula for formula in re.findall(r"\$[^$]*\$", row)), row
        assert not re.search(r"<[a-zA-Z/!]", re.sub(r"\$[^$]*\$", "", inline)), f"{cell.id}: HTML"


def test_readme_gives_the_figures_of_the_notebook(notebook):
    if STORED is None:
        pytest.skip("Without git, the figures may be those of a reader's run.")
    table = README.split("| in the committed run |")[1].split("\n\n")[0]
    rows = [row.split("|")[2:4] for row in table.split("\n")[2:]]
    middle = [cell.id for cell in notebook.cells].index("part-two")
    for column, part in zip(zip(*rows), (notebook.cells[:middle], notebook.cells[middle:])):
        text = printed(cell for cell in part if cell.cell_type == "code")
        figures = re.findall(r"\d[\d.]*", " ".join(column))
        assert len(figures) >= 4
        for figure in figures:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", text), figure


def test_readme_shows_a_picture_of_the_notebook_and_a_test_command(notebook):
    name = re.search(r"!\[[^\]]{20,}\]\((\.github/[^)]+)\)", README).group(1)
    stored = [o.data["image/png"] for _, o in outputs(notebook) if "image/png" in o.get("data", {})]
    assert (ROOT / name).read_bytes() in [base64.b64decode(image) for image in stored]
    assert len(re.findall(r"(?m)^python3 -m venv .*pytest", README)) == 1  # .ci/run looks for it


SMALL = f"""
images, labels, test_images, test_labels = helpers.load_mnist({str(ROOT / "data")!r})
train, val = np.arange(18_000), np.arange(50_000, 51_000)
x_train, x_val = standardise(images[train]), standardise(images[val])
y_train, y_val = labels[train], labels[val]
test_images, test_labels = test_images[:500], test_labels[:500]
"""
FEW = "x_train, y_train = x_train[:1200], y_train[:1200]\n"


def cells_between(first, last):
    """The sources of cells from one to another one, without definitions and exercises, by name."""
    ids = [cell.id for cell in HERE.cells]
    names = [name for name in ids[ids.index(first) : ids.index(last)] if name in CELLS]
    left_out = sources("definitions")
    return {n: CELLS[n] for n in names if n not in left_out and not n.startswith("own-")}


@pytest.fixture(scope="module")
def small():
    """The notebook's definitions, and little data."""
    nb = definitions()
    exec(SMALL, vars(nb))  # noqa: S102, our own source
    return nb


@pytest.mark.parametrize("hidden", [(64,), (50, 30), (40, 30, 30, 20)], ids=len)
def test_every_cell_of_part_one_runs_with_other_layers(small, hidden, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where a cell saves the parameters
    monkeypatch.setattr(helpers, "_png", lambda figure, alt: {"text/plain": alt})  # saves time
    monkeypatch.setattr(helpers, "plot_predictions", lambda *_, **__: None)  # sees no layers
    nb, said, layers = SimpleNamespace(**vars(small)), {}, len(hidden) + 1
    nb.SIZES = (784, *hidden, 10)
    before = {"train-run": FEW + "EPOCHS = 2\n"}
    cells = cells_between("network", "load") | cells_between("hidden", "part-two")
    for name, source in cells.items():
        with redirect_stdout(StringIO()) as out:
            exec(before.get(name, "") + source, vars(nb))  # noqa: S102, our own source
        said[name] = out.getvalue()
    pairs = list(zip(nb.SIZES, nb.SIZES[1:]))
    assert all(str(pair) in said["forward-run"] for pair in pairs)
    assert str(sum(n * m + m for n, m in pairs)) in said["init-run"]
    assert len(re.findall(r"\de-\d", said["check-run"])) == len(nb.errors) == 2 * layers
    assert re.findall(r"[wb]\d+", said["save-model"]) == [
        f"{a}{i + 1}" for i in range(layers) for a in "wb"
    ]


def test_the_benchmark_trains_as_the_notebook_does(small):
    nb = SimpleNamespace(**vars(small))
    nb.SEED, nb.SIZES, nb.FAR_EPOCHS = 1, (784, 30, 10), 6
    with redirect_stdout(StringIO()):
        exec(FEW + CELLS["far-run"], vars(nb))  # noqa: S102
    *_, params = benchmark.far_epochs(nb, seed=1, epochs=6)
    for arrays, others in zip(nb.far_params, params, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(arrays, others))


# ------------------------------------------------------------------------------------- in a kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A function that runs cells in a Jupyter kernel with the definitions and little data."""
    folder, path = str(tmp_path_factory.mktemp("kernel")), {"PYTHONPATH": str(ROOT)}
    manager, client = start_new_kernel(startup_timeout=120, cwd=folder, env=os.environ | path)
    run = partial(run_cell, manager, client)
    run(*sources("definitions").values(), SMALL, FEW, "SIZES = (784, 60, 40, 20, 10)")
    run("helpers.plot_predictions = lambda *_, **__: None", CELLS["fade"], CELLS["init-run"])
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(manager, client, *sources, stop_at=None, error=None):
    """Run a cell, press the stop button when a text appears, and return all that is shown."""
    texts = []

    def show(message):
        nonlocal stop_at
        content = message["content"]
        assert content.get("name") != "stderr", content["text"]
        texts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        if stop_at and stop_at in texts[-1]:
            stop_at = None
            manager.interrupt_kernel()

    source = "\n\n".join(sources)
    reply = client.execute_interactive(source, output_hook=show, timeout=120)["content"]
    assert reply.get("ename") == error, reply
    assert stop_at is None, "the text to stop at never appeared"
    return "\n".join([*texts, reply.get("evalue", "")])


def test_divergence_is_told_in_one_sentence_without_warnings(kernel):
    kernel("EPOCHS, LEARNING_RATE = 30, 1e6")
    shown = kernel(CELLS["train-run"], error="FloatingPointError")
    assert re.search(r"\nthe run diverged in epoch 1[^.\n]*\.$", shown), shown


def test_the_stop_button_in_the_very_first_epoch_ends_the_cell(kernel):
    begun = "        print('begun', flush=True)"  # within the epoch, not while the cell is compiled
    endless = "def mini_batches(*_):\n    while True:", begun, "        yield np.arange(60)"
    kernel("EPOCHS, LEARNING_RATE, few = 30, 0.01, mini_batches", "\n".join(endless))
    kernel(CELLS["train-run"], stop_at="begun", error="KeyboardInterrupt")
    kernel("mini_batches = few")


def test_the_stop_button_leaves_what_all_later_cells_need(kernel):
    kernel("EPOCHS = FAR_EPOCHS = 10**6; LEARNING_RATE = FAR_RATE = 0.01")
    shown = kernel(CELLS["train-run"], stop_at="after 1 of 1000000")
    assert int(re.search(r"Stopped after (\d+) of 1000000 epochs", shown)[1]) >= 1
    kernel(*cells_between("early-stopping", "part-two").values())
    kernel("assert all(np.array_equal(W, V) for (W, _), (V, _) in zip(loaded, params))")
    assert "Stopped after" in kernel(CELLS["far-run"], stop_at="after 8 of 1000000")
    kernel(*cells_between("far-test", "handwriting").values())
