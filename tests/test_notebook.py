"""The committed notebook as a file: executed, clean, readable on GitHub, and true to the README."""

import ast
import base64
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "mnist_from_scratch.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=nbformat.NO_CONVERT)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
PROSE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
OUTPUTS = [(cell, output) for cell in CODE for output in cell.outputs]
README = (ROOT / "README.md").read_text(encoding="utf-8")

by_id = pytest.mark.parametrize("cell", PROSE, ids=[cell.id for cell in PROSE])


def printed(cells=CODE):
    """All text that the cells print or display."""
    texts = []
    for cell in cells:
        for output in cell.outputs:
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def test_format_is_valid_4_5():
    nbformat.validate(NOTEBOOK)
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor) == (4, 5)


def test_small_enough_to_be_read_on_github():
    assert PATH.stat().st_size < 3_000_000


def test_executed_once_from_top_to_bottom():
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert len(CODE) > 30


def test_no_errors_warnings_or_paths_in_the_outputs():
    for cell, output in OUTPUTS:
        assert output.output_type != "error", cell.id
        assert output.get("name") != "stderr", cell.id
    assert not re.search(r"Warning|/(home|root|tmp|Users)/|[A-Z]:\\", printed())


def test_metadata_is_only_what_readers_need():
    assert set(NOTEBOOK.metadata) <= {"kernelspec", "language_info"}
    for cell in NOTEBOOK.cells:
        assert set(cell.metadata) <= {"tags"}, cell.id
        assert set(cell.metadata.get("tags", [])) <= {"definitions", "nbval-check-output"}, cell.id


def test_every_figure_is_a_png_with_a_text_for_those_who_cannot_see_it():
    figures = 0
    for cell, output in OUTPUTS:
        if output.output_type == "stream":
            continue
        assert set(output.data) <= {"image/png", "text/plain"}, cell.id
        if "image/png" in output.data:
            figures += 1
            assert len(output.metadata["image/png"]["alt"]) > 10, cell.id
    assert figures >= 8


def test_definitions_hold_only_imports_constants_and_functions():
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign)
    cells = [cell for cell in CODE if "definitions" in cell.metadata.get("tags", [])]
    names = set()
    for cell in cells:
        assert not cell.outputs, cell.id
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, kinds), ast.unparse(statement)
            if isinstance(statement, ast.FunctionDef):
                names.add(statement.name)
                assert ast.get_docstring(statement), statement.name
    assert names >= {
        "leaky_relu", "leaky_relu_grad", "softmax", "cross_entropy",
        "init_params", "forward", "backward", "sgd_step", "train",
    }  # fmt: skip


def test_compared_outputs_exist():
    for cell in CODE:
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert printed([cell]).strip(), cell.id


@by_id
def test_formulas_render_everywhere(cell):
    text = without_code(cell.source)
    assert not re.search(r"\\\(|\\\[|\\bm\b|\\operatorname|\\begin\{(align|equation)", text)
    assert text.count("$$") % 2 == 0
    for line in text.split("\n"):
        assert "$$" not in line or line == "$$", "$$ must stand on a line of its own"
    inline = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    for paragraph in inline.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph
    for row in re.findall(r"^\|.*\|$", inline, flags=re.MULTILINE):
        assert not any("|" in formula for formula in re.findall(r"\$[^$]*\$", row)), row


@by_id
def test_prose_has_no_html_and_no_links_to_headings(cell):
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", without_code(cell.source), flags=re.DOTALL)
    assert not re.search(r"<[a-zA-Z/!]", text)
    assert "](#" not in text


def test_readme_gives_the_figures_of_the_notebook():
    table = README.split("| in the committed run |")[1].split("\n\n")[0]
    cells = [cell for row in table.split("\n")[2:] for cell in row.split("|")[2:]]
    figures = re.findall(r"\d[\d.]*%?", " ".join(cells))
    assert len(figures) == 14
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", printed()), figure


def test_readme_shows_a_picture_of_the_notebook():
    name = re.search(r"!\[[^\]]{20,}\]\((\.github/[^)]+)\)", README).group(1)
    stored = [o.data["image/png"] for _, o in OUTPUTS if "image/png" in o.get("data", {})]
    assert (ROOT / name).read_bytes() in [base64.b64decode(image) for image in stored]
