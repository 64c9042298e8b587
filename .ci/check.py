"""Checks that the notebook is committed as executed, and the README says what it printed.

Usage: python3 .ci/check.py NOTEBOOK.ipynb NAMES_AT_THE_TOP_LEVEL...
"""

import base64
import json
import re
import sys
from pathlib import Path

TAGS = {"definitions", "nbval-check-output"}
path, *top = sys.argv[1:]
known = {path, "README.md", "helpers.py", "requirements.txt", "data", "tests", ".ci", ".github"}
new = set(top) - known - {".gitignore"}
assert not new, f"unexpected at the top level: {new}"

text, counts, printed = Path(path).read_text(encoding="utf-8"), [], ""
notebook = json.loads(text)
assert "@@" not in text, "a placeholder is left"
assert len(text) < 3_000_000, "3 MB or more"
assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}, "more metadata than needed"
for cell in notebook["cells"]:
    tags = set(cell["metadata"].get("tags", []))
    assert set(cell["metadata"]) <= {"tags"} and tags <= TAGS, f"{cell['id']}: {cell['metadata']}"
    if cell["cell_type"] == "code" and "".join(cell["source"]).strip():
        counts.append(cell["execution_count"])
        for output in cell["outputs"]:
            shown = "".join(output.get("text", output.get("data", {}).get("text/plain", [])))
            fault = output["output_type"] == "error" or output.get("name") == "stderr"
            fault = fault or re.search(r"Warning|(?<![\w./:])/\w+/|\b[A-Z]:\\", shown)  # or a path
            assert not fault, f"{cell['id']}: {output}"
            printed += f"{shown}\n"
assert counts == list(range(1, len(counts) + 1)), "restart the kernel, run all cells and save"

errors = re.search(r"W1, b1, W2, b2, ...: (.*)", printed)[1].split()
assert all(float(error) < 1e-5 for error in errors), f"the gradient check found {errors}"
accuracies, mistakes = zip(*re.findall(r"test accuracy (\S+): (\d+) mistakes", printed))
first, long = (float(accuracy.rstrip("%")) for accuracy in accuracies)
assert first > 97.6 and long > 99.3, f"test accuracies {first} and {long} %"
best = set(" ".join(re.findall(r"at rates \[(.*)\]", printed)).split())
assert best and not best & {"0.003", "1.", "1"}, f"a best rate is at an edge of those tried: {best}"

# What the text says of random outcomes, and what must have been printed.
SAID = {
    "13 sevens taken for a 9": r"digit 7:.* 13\n",
    "E, which D hides, is right, and A, the fastest, is wrong": r"A no 1/B(?s:.*)D mean db.*\nE no mist",
    "near $\\\\ln10$": r"E no mistake +2\.[34] ",
    "$\\\\sqrt2$ times as large made it worse": r"√2 +gaps \[[^-]*\] at",
    "Their gaps lie on both sides of 0": r"one hidden layer +gaps \[ 0[^]]* -.*\n"
    r"ReLU +gaps \[ 0[^]]* -.*\n.*\nbatches of 20 +gaps \[ 0[^]]* -",
    "178 lies far outside": r"178 by this one",
}
for said, shown in SAID.items():
    assert said in text, f"no longer said, so check something else: {said}"
    assert re.search(shown, printed), f"said, but not printed: {said}"

picture = base64.b64encode(Path(".github/predictions.png").read_bytes()).decode()
assert picture in text, "the README's picture is not one of the notebook's"
readme = Path("README.md").read_text(encoding="utf-8")
code = re.search(r"(?s)```python\n(.*?)```", readme)[1]
assert any(code in "".join(cell["source"]) for cell in notebook["cells"]), "README: other code"
intervals = re.findall(r"confidence interval: (.*)", printed)
read = re.findall(r"prepared: (\d+) of", printed)
for figures in (accuracies, mistakes, intervals, read):
    row = " | ".join(figures)
    assert f"| {row} |" in readme, f"not in the README's table: {row}"
mean = re.search(r"mean of five .* \| ([\d.]+)%", readme)[1]
assert f"{mean} % in the mean" in text, f"another mean in the README: {mean}"
