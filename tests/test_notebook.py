"""The notebook as a file, and run to its end with little data: with other layers and settings, with
the stop button pressed, in a folder that cannot be written to, and with each cell run again.
"""

import ast
import json
import os
import re
import shutil
import time
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import NOTEBOOK, ROOT, cell, sources
from jupyter_client.manager import start_new_kernel
from nbconvert import PythonExporter

import helpers

HERE = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = [c for c in HERE["cells"] if c["cell_type"] == "code"]


# --------------------------------------------------------------------------------------- as a file


def test_the_format_is_4_5():
    for number, one in enumerate(HERE["cells"]):
        one.setdefault("id", f"cell-{number}")  # some editors drop them
    nbformat.validate(nbformat.from_dict(HERE))
    assert (HERE["nbformat"], HERE["nbformat_minor"]) == (4, 5)


def test_figures_have_texts_that_say_what_they_show():
    for one in CODE:
        pictures = [o for o in one["outputs"] if "image/png" in o.get("data", {})]
        for picture in pictures if "helpers.check(" not in "".join(one["source"]) else []:
            text = "".join(picture["data"]["text/plain"])
            assert len(text) >= 20 and not re.match(r"<.*>$|\S*$", text), text
            assert picture["metadata"]["image/png"]["alt"] == text


def test_definitions_hold_only_imports_constants_and_functions():
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign | ast.AugAssign
    cells = sources("definitions")
    assert len(cells) > 10
    for statement in ast.parse("\n".join(cells)).body:
        assert isinstance(statement, kinds), ast.unparse(statement)
        if isinstance(statement, ast.FunctionDef) and len(statement.body) > 2:
            assert ast.get_docstring(statement), statement.name


def test_prose_and_formulas_render_everywhere():
    for one in HERE["cells"]:
        if one["cell_type"] == "code":
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", "".join(one["source"]), flags=re.DOTALL)
        bad = re.search(
            r"\\\(|\\\[|\\bm\b|\\operatorname|\\begin\{(align\*?\}|equation)|\]\(#", text
        )
        assert not bad, bad[0]
        lines = [line for line in text.split("\n") if "$$" in line]
        assert set(lines) <= {"$$"} and len(lines) % 2 == 0, f"$$ needs its own line: {text}"
        inline = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
        for paragraph in inline.split("\n\n"):
            assert paragraph.count("$") % 2 == 0, paragraph
        for row in re.findall(r"^\|.*\|$", inline, flags=re.MULTILINE):
            assert not any("|" in formula for formula in re.findall(r"\$[^$]*\$", row)), row
        assert not re.search(r"<[a-zA-Z/!]", re.sub(r"\$[^$]*\$", "", inline)), f"HTML: {text}"


# --------------------------------------------------------------------------- run with little data

LOAD = f"""
import helpers
images, labels, test_images, test_labels = helpers.load_mnist({str(ROOT / "data")!r})
small = images[:19_000], labels[:19_000], test_images[:500], test_labels[:500]
"""
PATCH = """
helpers.load_mnist = lambda: small
helpers.get_ipython = lambda: None  # figures are told, not drawn, and two not even that: too slow
helpers.plot_images = lambda images, *rest, **_: print(*map(np.sum, images), *map(list, rest[:1]))
helpers.plot_predictions = lambda images, p, *rest, **_: print(np.argmax(p, axis=1), *rest)
"""
# A text in a cell, and what is executed after this cell.
AFTER = {
    "y_train, y_val =": "many = x_train, y_train",
    "EPOCHS, BATCH_SIZE": "EPOCHS = 2",
    "RATES, SEEDS": "RATES, SEEDS = (0.1,), (0, 1)",
    "LONG_EPOCHS, ": "LONG_EPOCHS = 8",
}
FEW = """
if "many" in globals():
    x_train, y_train = many[0][:600], many[1][:600]  # ten batches
"""
CELLS = [s.replace("50_000", "18_000") for s in sources() if "helpers.check(" not in s]
SECONDS = r"[\d.]+ s\b"


def with_little_data(source, after):
    """The source of a cell, and around it what makes its data few and its trainings short."""
    few = FEW.replace("600", "18_000") if "18_000" in source else FEW
    return "\n".join([few, source, *(code for text, code in after.items() if text in source)])


def run(cells, names, after):
    """What each of the cells prints, all executed with these names."""
    printed = []
    for source in cells:
        with redirect_stdout(StringIO()) as out:
            exec(with_little_data(source, after), names)  # noqa: S102, our own source
        printed.append(out.getvalue())
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to run in, with a few photographs."""
    photographs = tmp_path_factory.mktemp("run") / "data" / "handwriting"
    photographs.mkdir(parents=True)
    for path in (ROOT / "data" / "handwriting").glob("c_[59].jpg"):
        shutil.copy(path, photographs)
    return photographs.parents[1]


@pytest.fixture(scope="module")
def loaded():
    """Names after loading, which takes a second."""
    names = {}
    exec(LOAD, names)  # noqa: S102
    return names


@pytest.fixture
def small(folder, loaded, monkeypatch):
    """Names to begin with."""
    monkeypatch.chdir(folder)
    for name in ("load_mnist", "get_ipython", "plot_images", "plot_predictions"):
        monkeypatch.setattr(helpers, name, vars(helpers)[name])  # so that it is put back afterwards
    names = loaded.copy()
    exec(PATCH, names)  # noqa: S102
    return names


@pytest.mark.parametrize(
    "sizes, setting",
    [
        ((784, 10), "BATCH_SIZE = 10**6"),
        ((784, 8, 10), "LEARNING_RATE = 0"),
        ((784, 40, 30, 30, 20, 10), "LEARNING_RATE = 1e-4"),
    ],
    ids=str,
)
def test_every_cell_runs_with_other_layers_and_settings(small, sizes, setting):
    after = AFTER | {"SIZES = (": f"SIZES = {sizes}"}
    after["EPOCHS, BATCH_SIZE"] += f"\n{setting}"
    printed = "".join(run(CELLS, small, after))
    assert f"A network in columns, each joined to the next, of {sizes} units." in printed
    assert str(sum(n * m + m for n, m in pairwise(sizes))) in printed  # parameters
    with np.load("trained_model.npz") as file:
        expected = [f"{letter}{i + 1}" for i in range(len(sizes) - 1) for letter in "wb"]
        assert file.files == expected


def test_each_cell_run_again_in_reverse_order_prints_the_same(small):
    after = AFTER | {"SIZES = (": "SIZES = (784, 16, 12, 10)"}
    printed = run(CELLS, small, after)
    params = [(W.copy(), b.copy()) for W, b in small["params"]]
    again = [number for number, source in enumerate(CELLS) if source not in sources("definitions")]
    for number in reversed(again):
        [now] = run([CELLS[number]], small, {})
        then = printed[number]
        assert re.sub(SECONDS, "", now) == re.sub(SECONDS, "", then), CELLS[number]
    for (W, b), (other_W, other_b) in zip(small["params"], params):
        assert np.array_equal(W, other_W) and np.array_equal(b, other_b)


def test_a_few_seconds_of_training_read_most_digits(loaded, nb):
    images, labels, *_ = loaded["small"]
    x, rng = nb.standardise(images), np.random.default_rng(0)
    params = nb.init_params(nb.SIZES, rng)
    for epoch in range(2):
        nb.long_epoch(params, x[:10_000], labels[:10_000], epoch / 2, rng)
    assert nb.evaluate(params, x[10_000:], labels[10_000:])[1] > 0.9


def test_a_script_made_of_it_prints_the_texts_of_figures_and_no_bytes(monkeypatch):
    start = [nbformat.v4.new_code_cell(cell(text)) for text in ("SIZES = (", "plot_network(")]
    script, _ = PythonExporter().from_notebook_node(nbformat.v4.new_notebook(cells=start))
    monkeypatch.setattr(helpers, "get_ipython", lambda: None)  # in case pytest runs in Jupyter
    with redirect_stdout(StringIO()) as out:
        exec(script, {})  # noqa: S102, our own source
    assert re.fullmatch(r"A network in columns, [^\n]*\.\n", out.getvalue())


def test_divergence_and_a_file_that_cannot_be_written_are_told_in_one_sentence(small, nb):
    names, x = vars(nb).copy(), np.ones((60, 784), np.float32)
    names |= {"x_train": x, "x_val": x, "y_train": np.zeros(60, int), "y_val": np.ones(60, int)}
    names |= {"SIZES": (784, 5, 10), "LEARNING_RATE": 1e20}
    with pytest.raises(FloatingPointError, match=r"^the run diverged in epoch \d[^.\n]*\.$"):
        exec(cell("live_curves(EPOCHS)"), names)  # noqa: S102
    Path("trained_model.npz").unlink(missing_ok=True)
    Path("trained_model.npz").mkdir()
    [said] = run([cell("np.savez")], names, {})
    assert re.fullmatch(r"trained_model.npz could not be written[^.\n]*\n", said), said
    Path("trained_model.npz").rmdir()


def test_the_stop_button_leaves_what_all_later_cells_need(folder):
    start = CELLS.index(cell("live_curves(EPOCHS)"))
    needed = sources("definitions") + [cell("load_mnist("), cell("y_train, y_val =")]
    needed = [source for source in CELLS[:start] if source.replace("18_000", "50_000") in needed]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    manager, client = start_new_kernel(cwd=str(folder), env=environment)
    said, pressed = [], {}  # when, by how many trainings had been stopped

    def show(message):
        said.append(message["content"].get("text", ""))
        stopped, now = "".join(said).count("Stopped after"), time.monotonic()
        drawn = "of 1000000 epochs: training" in said[-1] and "Stopped" not in said[-1]
        if drawn and now > pressed.get(stopped, 0) + 5:
            pressed[stopped] = now  # and again after five seconds, should it have been missed
            time.sleep(0.5)  # until the kernel, having printed, trains again
            for _ in range(1 + stopped):  # the second training twice
                manager.interrupt_kernel()
                time.sleep(0.1)

    after = AFTER | {"SIZES = (": "SIZES = (784, 16, 12, 10)"}
    after |= {"EPOCHS, BATCH_SIZE": "EPOCHS = 10**6", "LONG_EPOCHS, ": "LONG_EPOCHS = 10**6"}
    try:
        for source in [LOAD + PATCH, *needed, *CELLS[start:]]:
            source = with_little_data(source, after)
            reply = client.execute_interactive(source, output_hook=show, timeout=120)["content"]
            assert reply["status"] == "ok", (source, reply)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert len(re.findall(r"Stopped after \d+ of 1000000 epochs", "".join(said))) == 2
