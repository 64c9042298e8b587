"""The exercises: each solution at the back is right, each slip gets its own sentence, right answers
count in all forms, and no answer makes the judge raise."""

import json
import re
from fractions import Fraction

import conftest
import numpy as np
import pytest
import torch

import helpers

CELLS = json.loads(conftest.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
PROSE = "\n\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")
CODE = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "code"]
NUMBERS, OWN = list(range(1, 15)), {}  # exercise: its cell, and from where on it is judged
for code in CODE:
    for judged, number in re.findall(r"(?ms)^((?:if )?helpers\.check\((\d+).*)", code):
        OWN[int(number)] = code, judged
HINTS, BACK = PROSE.split("## Hints\n")[1].split("## Solutions\n")
SOLVED = re.findall(r"(?ms)^\*\*(\d+)\.\*\* [^\n]*\n\n```python\n(.*?)^```$", BACK)
SOLUTIONS = {int(number): code for number, code in SOLVED}
ENDING = "Hint {0} and solution {0} are at the back.\n"


@pytest.fixture(scope="module")
def made_up():
    """The notebook's definitions, with small made-up images that are easy to read."""
    module, rng = conftest.definitions(), np.random.default_rng(0)
    y, patterns = rng.integers(10, size=1500), rng.random((10, 28, 28)) < 0.2
    x = module.standardise((patterns[y] * rng.integers(1, 256, (1500, 28, 28))).astype(np.uint8))
    images = {"x_train": x[:1200], "y_train": y[:1200], "x_val": x[1200:], "y_val": y[1200:]}
    variants = ("Part I's choices", "no activation function")
    return vars(module) | images | {"results": {name: rng.random((6, 3)) for name in variants}}


@pytest.fixture
def judge(made_up, monkeypatch, capsys):
    """What is said of code in place of an exercise's blanks."""
    monkeypatch.setattr(helpers, "show", lambda *figure_and_texts: None)

    def said(number, code):
        world = made_up.copy()
        for source in (OWN[number][0], code, OWN[number][1]):
            exec(source, world)  # noqa: S102, our own source
        untouched, _, out = capsys.readouterr().out.partition("\n")
        parts = "; ".join(f"{part}: no answer yet" for part in helpers.ANSWERS[number])
        parts = parts if number != 13 else "parameters: not yet"  # too large and untrained
        assert untouched.startswith(f"Exercise {number}, {parts}")
        assert f"{untouched}\n".endswith(ENDING.format(number))
        return out

    return said


def test_each_exercise_has_its_minutes_hint_and_solution():
    pattern = r"(?m)^\*\*(?:Your turn (\d+)|(\d+)\. [^*]+)\*\* \(\d+ minutes"
    told = sorted(int(a or b) for a, b in re.findall(pattern, PROSE))
    assert told == sorted(OWN) == list(helpers.ANSWERS) == list(SOLUTIONS) == NUMBERS
    assert [int(number) for number in re.findall(r"(?m)^\*\*(\d+)\.\*\*", HINTS)] == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_a_solution_is_right_and_an_untouched_cell_does_no_harm(number, judge):
    out = judge(number, SOLUTIONS[number])
    parts = "; ".join(f"{part}: right" for part in helpers.ANSWERS[number])
    assert f"Exercise {number}, {parts}. Solution {number} is at the back.\n" in out


MISTAKES = [  # exercise, a piece of its solution, a mistake to put there, and what it is told
    (1, "[1 / 8, 2 / 8, 5 / 8]", "[1, 2, 5]", "p: nearly: divide the powers by their sum"),
    (1, "1 / 8 - 1", "1 / 8", "dz: nearly: subtract the one-hot row of the true digit"),
    (1, "my_dz = [1 / 8 - 1, 2 / 8, 5 / 8]", "my_dz = None", "dz: no answer yet"),
    (2, "W1 @ W2,", "W2 @ W1,", "W: nearly: W1 comes first"),
    (2, "b1 @ W2", "b1", "b: nearly: b1 goes through W2, too"),
    (3, "12)", "10)", "loss: nearly: the bias has its say, too"),
    (4, "x.T @ dz", "x.T @ dz - np.eye(2, 3)", "dW: not yet: found 0 at [0, 0], expected 1"),
    (4, "dz.sum(axis=0)", "dz.mean(axis=0)", "db: nearly: each number is 0.25 times the"),
    (4, "dz.sum(axis=0)", "dz.sum(axis=1)", "db: found shape (4,), expected (3,)"),
    (4, "dz @ W.T", "-dz @ W.T", "dx: nearly: each number is -1 times the right one"),
    (4, ", dz @ W.T", "", "numbers are expected for dW, db, dx (zip() argument 2 is shorter"),
    (5, "(np.sin(1 + h) - np.sin(1 - h)) / (2 * h)", "(np.sin(1 + h) - np.sin(1)) / h", "to both"),
    (5, " - np.cos(1)", "", "error: nearly: this is the derivative; how far is it from cos 1"),
    (6, "2", "4", "this is the mean of the squares, so take its root"),
    (6, "2", "12**0.5", "the mean of the squared weights is not r², but a third of it"),
    (7, "* 0.5", "* 0.5 / 60", "dw: nearly: db is a sum over the batch, and 1/B is already in it"),
    (7, "* 0.5", "* 0.5 * 60", "dw: nearly: db is the sum over the batch already"),
    (8, "losses.min(axis=0) - our_losses.min(axis=0)", "(losses - our_losses).min(axis=0)",
     "nearly: each variant is taken at its own best rate"),
    (8, ".min(axis=0)", ".mean(axis=0)", "nearly: take the lowest loss of each seed, not the mean"),
    (8, ".min(axis=0)", ".min(axis=1)", "found shape (2,), expected (3,)"),
    (9, "-0.19, -0.271", "-0.1, -0.1", "velocities: nearly: 0.9 of the last velocity remains"),
    (9, "my_limit = -1", "my_limit = -10", "limit: nearly: each step adds the learning"),
    (10, "p * (g - (g * p).sum(axis=1, keepdims=True))", "g", "go on from P through softmax"),
    (10, "(g - (g * p).sum(axis=1, keepdims=True))", "g * (1 - p)", "each score changes all p"),
    (10, "return p * (g - (g * p).sum(axis=1, keepdims=True))", "return g / 2", "to cross-entropy"),
    (12, " * leaky_relu_grad(z)", "", "dz: nearly: the slope at z is left out"),
    (12, "da * mask", "da", "dz: nearly: the mask is left out"),
    (13, "120", "130", "parameters: not yet: found 103360"),
    (14, "dz = cross", "dz = 20 * cross", "gradient's error: nearly: divide by B, which is 20 here"),
    (14, "W -= lr * dW", "W = W - lr * dW", "it learns nothing: check first weights, sign"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "piece", "mistake", "told"), MISTAKES)
def test_a_mistake_gets_its_own_sentence(number, piece, mistake, told, judge):
    code = SOLUTIONS[number].split("\n\n\nfor ")[0]  # no training
    assert piece in code and told in judge(number, code.replace(piece, mistake))


def test_every_slip_that_the_judge_knows_is_made_above():
    for number, _, _, advice in helpers.SLIPS:
        tolds = [told.split("nearly: ")[-1] for n, _, _, told in MISTAKES if n == number]
        assert any(told in advice or advice in told for told in tolds), advice


P, DZ = [0.125, 0.25, 0.625], [-0.875, 0.25, 0.625]
EIGHTHS = [Fraction(n, 8) for n in (1, 2, 5)]
FORMS = [(1, (P, DZ)), (1, [P, DZ]), (1, np.array([P, DZ])), (1, (EIGHTHS, torch.tensor(DZ)))]
FORMS += [(3, (Fraction(1, 4), np.float32(2.485))), (6, np.array(2)), (8, (2, 3, 1))]
FORMS += [(11, ((3, 4, 6), 3.0)), (11, (np.array([3, 4, 6]), 3))]


@pytest.mark.parametrize(("number", "right"), FORMS)
def test_right_numbers_count_in_every_form(number, right):
    assert helpers.check(number, right) is True


WRONG = [None, "0.25", {}, [], [None, None], [[1, 2], [3]], (1, 2, 3, 4), np.nan, 1j, print]
WRONG += [10**400]  # too large for a fraction


@pytest.mark.parametrize("number", NUMBERS)
def test_no_answer_raises(number, capsys):
    for wrong in [*WRONG, *[(wrong, wrong) for wrong in WRONG]]:
        assert helpers.check(number, wrong) is None
        assert capsys.readouterr().out.endswith(ENDING.format(number))


def numerical(function, array):
    """Central differences of a function of an array, in every entry."""
    moves = 1e-6 * np.eye(array.size).reshape(-1, *array.shape)
    slopes = [(function(array + move) - function(array - move)) / 2e-6 for move in moves]
    return np.reshape(slopes, array.shape)


def test_right_derivatives_agree_with_central_differences(made_up):
    """Of exercises 4, 10 and 12, whose cells hold what the derivatives are taken at."""
    at = {number: made_up.copy() for number in (4, 10, 12)}
    for number, names in at.items():
        exec(OWN[number][0].split("helpers.check")[0], names)  # noqa: S102, our own source
    x, W, dz = (at[4][name].astype(float) for name in ("my_x", "my_W", "my_dz"))
    right = helpers.ANSWERS
    assert np.allclose(numerical(lambda W: (x @ W * dz).sum(), W), right[4]["dW"])
    assert np.allclose(numerical(lambda x: (x @ W * dz).sum(), x), right[4]["dx"])
    assert np.allclose(numerical(lambda b: ((x @ W + b) * dz).sum(), np.zeros(3)), right[4]["db"])
    z, Y, softmax = at[10]["my_z"], at[10]["my_Y"], made_up["softmax"]
    squared = numerical(lambda z: ((softmax(z) - Y) ** 2).sum() / len(z), z)
    assert np.allclose(squared, right[10]["dz"], atol=1e-6)
    z, mask, da = (at[12][name].astype(float) for name in ("my_z", "my_mask", "my_da"))
    dropped = numerical(lambda z: (made_up["leaky_relu"](z) * mask / 0.8 * da).sum(), z)
    assert np.allclose(dropped, right[12]["dz"], atol=1e-6)
