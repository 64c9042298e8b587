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
NUMBERS, OWN = list(range(1, 17)), {}  # exercise: its cell, and from where on it is judged
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
    return vars(module) | images | {"val_logits": 3 * rng.normal(size=(300, 10)), "trial": pow}


@pytest.fixture
def judge(made_up, monkeypatch, capsys):
    """What is said of code in place of an exercise's blanks."""
    monkeypatch.setattr(helpers, "show", lambda *figure_and_texts: None)

    def said(number, code):
        world = made_up.copy()
        for source in (OWN[number][0], code, OWN[number][1]):
            exec(source, world)  # noqa: S102, our own source
        untouched, _, out = capsys.readouterr().out.partition("\n")
        assert f"{untouched}\n" == f"Exercise {number}: no answer yet. {ENDING.format(number)}"
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
    assert re.findall(r"Exercise \d+, ([^:]+): right\.", out) == list(helpers.ANSWERS[number])
    assert f" Solution {number} is at the back.\n" in out


MISTAKES = [  # exercise, a piece of its solution, a mistake to put there, and what it is told
    (1, "[1 / 8, 2 / 8, 5 / 8]", "[1, 2, 5]", "p: nearly: divide the powers by their sum"),
    (1, "1 / 8 - 1", "1 / 8", "dz: nearly: subtract the one-hot row of the true digit"),
    (1, "my_dz = [1 / 8 - 1, 2 / 8, 5 / 8]", "my_dz = None", "dz: no answer yet"),
    (2, "W1 @ W2,", "W2 @ W1,", "W: nearly: W1 comes first"),
    (2, "b1 @ W2", "b1", "b: nearly: b1 goes through W2, too"),
    (3, "12)", "10)", "loss: nearly: the bias has its say, too"),
    (4, "x.T @ dz", "dz.T @ x", "dW: nearly: transpose it"),
    (4, "x.T @ dz", "x.T @ dz - np.eye(2, 3)", "at [0, 0] it is 0, by central differences 1."),
    (4, "dz.sum(axis=0)", "dz.mean(axis=0)", "db: nearly: each number is 0.25 times the"),
    (4, "dz.sum(axis=0)", "dz.sum(axis=1)", "db: found shape (4,), expected (3,)"),
    (4, "dz @ W.T", "-dz @ W.T", "dx: nearly: the sign is wrong"),
    (4, ", dz @ W.T", "", "found 2 values, expected dW, db, dx"),
    (4, "x.T @", "x @", "it stopped with ValueError: matmul"),
    (5, "(np.sin(1 + h) - np.sin(1 - h)) / (2 * h)", "(np.sin(1 + h) - np.sin(1)) / h", "to both"),
    (5, " - np.cos(1)", "", "error: nearly: this is the derivative; how far is it from cos 1"),
    (6, "2", "4", "this is the mean of the squares, so take its root"),
    (6, "2", "12**0.5", "the mean of the squared weights is not r², but a third of it"),
    (7, "params.copy()", "params", "the last ones; copy the best, since training changes them"),
    (7, "loss < lowest", "loss <= lowest", "params: nearly: an equal loss is not below the lowest"),
    (7, "loss, epoch", "loss, epoch\n        lowest = loss", "compare with the lowest loss so far"),
    (7, "< patience", "< patience - 1", "nearly: too early: count every epoch, and anew after"),
    (7, "< patience", "< 99", "it stopped with IndexError: tuple index"),
    (8, "z / T", "z * T", "T: nearly: divide by T"),
    (8, "- mistakes)", "* 0 + cross_entropy(z / T, y))", "T: nearly: this T has the lowest loss"),
    (9, "* 0.5", "* 0.5 / 60", "dw: nearly: db is a sum over the batch, and 1/B is already in it"),
    (9, "* 0.5", "* 0.5 * 60", "dw: nearly: db is the sum over the batch already"),
    (10, "run(seed, rate)", "run(rate, seed)", "nearly: the seed comes first in run(seed, rate)"),
    (10, "return means, gaps.min(axis=0)", "return gaps.min(axis=0), means", "means come first"),
    (10, "gaps.min(axis=0)", "gaps.max(axis=0)", "gaps: nearly: take the smallest gap"),
    (10, "gaps.min(axis=0)", "gaps.mean(axis=0)", "gaps: nearly: take the smallest gap"),
    (10, "return means", "return list(means) + [0]", "means: found shape (4,), expected (3,)"),
    (11, "-0.19, -0.271", "-0.1, -0.1", "velocities: nearly: 0.9 of the last velocity remains"),
    (11, "my_limit = -1", "my_limit = -10", "limit: nearly: each step adds the learning"),
    (12, "p * (g - (g * p).sum(axis=1, keepdims=True))", "g", "go on from P through softmax"),
    (12, "(g - (g * p).sum(axis=1, keepdims=True))", "g * (1 - p)", "each score changes all p"),
    (12, "return p * (g - (g * p).sum(axis=1, keepdims=True))", "return g / 2", "to cross-entropy"),
    (14, " * leaky_relu_grad(z)", "", "dz: nearly: the slope at z is left out"),
    (14, "da * mask", "da", "dz: nearly: the mask is left out"),
    (15, "120", "130", "parameters: not yet: found 103360"),
    (16, "/ len(y)", "", "gradient's error: nearly: divide by B, which is 20 here"),
    (16, "W -= lr * dW", "W = W - lr * dW", "it learns nothing: check first weights, sign"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "piece", "mistake", "told"), MISTAKES)
def test_a_mistake_gets_its_own_sentence(number, piece, mistake, told, judge):
    code = SOLUTIONS[number].split("\n\n\nfor ")[0]  # no training
    assert piece in code and told in judge(number, code.replace(piece, mistake))


def test_every_slip_that_the_judge_knows_is_made_above():
    for number, _, _, advice in helpers.SLIPS:
        tolds = [told.split("nearly: ")[-1] for n, _, _, told in MISTAKES if n == number]
        assert any(told in advice or advice in told for told in tolds), advice


P, DZ, SWEEP = [0.125, 0.25, 0.625], [-0.875, 0.25, 0.625], [[3.667, 16.333, 83.667], [0, 2, 6]]
EIGHTHS = [Fraction(n, 8) for n in (1, 2, 5)]
FORMS = [(1, (P, DZ)), (1, [P, DZ]), (1, np.array([P, DZ])), (1, (EIGHTHS, torch.tensor(DZ)))]
FORMS += [(3, (Fraction(1, 4), np.float32(2.485))), (6, np.array(2)), (10, SWEEP)]
FORMS += [(10, np.array(SWEEP)), (13, ((2, 4, 6), 2.0)), (13, (np.array([2, 4, 6]), 2))]


@pytest.mark.parametrize(("number", "right"), FORMS)
def test_right_numbers_count_in_every_form(number, right):
    assert helpers.check(number, right) is True


def stops(*arguments):
    raise KeyError("oh")


WRONG = [None, "0.25", {}, [], [None, None], [[1, 2], [3]], (1, 2, 3, 4), np.nan, stops, print]


@pytest.mark.parametrize("number", NUMBERS)
def test_no_answer_raises_or_changes_what_it_is_given(number, capsys):
    given = np.ones(2)
    for wrong in [*WRONG, *[(wrong, wrong) for wrong in WRONG], lambda x, *rest: x.fill(0)]:
        assert helpers.check(number, wrong, given, [3.0], 0.8, [1.0], loss=stops) is None
        assert capsys.readouterr().out.endswith(ENDING.format(number))
    assert list(given) == [1, 1]
