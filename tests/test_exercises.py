"""The exercises: each solution at the back is right, each slip gets its own sentence, untouched
cells do no harm, no answer makes the judge raise, and the stored references are independent."""

import ast
import json
import re
import statistics
import sys

import conftest
import numpy as np
import pytest
import torch
from torch.nn import functional

import helpers

CELLS = json.loads(conftest.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
PROSE = {c["id"]: "".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown"}
OWN = {
    int(re.search(r"helpers\.check\((\d+)", source).group(1)): source
    for name, source in conftest.sources().items()
    if name.startswith("own-")
}
NUMBERS = list(range(1, 17))
ENDING = "Hint {0} and solution {0} are at the back.\n"
HINTS = re.findall(r"(?m)^\*\*(\d+)\.\*\*", PROSE["hints"])
SOLUTIONS = {
    int(n): code
    for n, code in re.findall(r"(?ms)^\*\*(\d+)\.\*\* .*?^```python\n(.*?)^```", PROSE["solutions"])
}


def bound(statement):
    """Names that a statement of a cell gives a meaning."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def answer(number, code, world):
    """Run an exercise's cell with code in place of its blanks."""
    filled = set().union(*map(bound, ast.parse(code).body))
    cell = ast.parse(OWN[number])
    cell.body = [statement for statement in cell.body if not bound(statement) & filled]
    exec(code, world)  # noqa: S102, our own source
    exec(compile(cell, "cell", "exec"), world)  # noqa: S102


@pytest.fixture(scope="module")
def small_world():
    """The notebook's definitions, with small made-up images that are easy to read."""
    module, rng = conftest.definitions(), np.random.default_rng(0)
    labels, patterns = rng.integers(10, size=1500), rng.random((10, 28, 28)) < 0.2
    images = (patterns[labels] * rng.integers(1, 256, (1500, 28, 28))).astype(np.uint8)
    train, val = np.arange(1200), np.arange(1200, 1500)
    x, loaded = module.standardise(images), module.init_params(module.SIZES, rng)
    vars(module).update(
        images=images, train=train[:200], val=val, x_train=x[train], x_val=x[val],
        y_train=labels[train], y_val=labels[val], test_images=images[val], test_labels=labels[val],
        wrong=labels[val] > 1, loaded=loaded, val_logits=3 * module.forward(loaded, x[val])[0],
    )  # fmt: skip
    return vars(module)


@pytest.fixture
def world(small_world, monkeypatch):
    monkeypatch.setattr(helpers, "show", lambda figure, alt: None)
    return small_world.copy()


def test_each_exercise_has_its_minutes_hint_and_solution():
    pattern = r"(?m)^\*\*(?:Your turn (\d+)|(\d+)\. [^*]+)\*\* \(\d+ minutes\)"
    told = [int(a or b) for a, b in re.findall(pattern, "\n".join(PROSE.values()))]
    assert told == sorted(OWN) == list(helpers.ANSWERS) == NUMBERS
    assert list(map(int, HINTS)) == list(SOLUTIONS) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_an_untouched_cell_does_no_harm(number, world, capsys):
    rest = "\n".join(s for name, s in conftest.sources().items() if not name.startswith("own-"))
    for name in set().union(*map(bound, ast.parse(OWN[number]).body)):
        assert number > 10 or not re.search(rf"\b{name}\b", rest), name
    exec(OWN[number], world)  # noqa: S102
    assert capsys.readouterr().out == f"Exercise {number}: no answer yet. {ENDING.format(number)}"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_solution_is_right(number, world, capsys):
    answer(number, SOLUTIONS[number], world)
    out = capsys.readouterr().out
    assert re.findall(r"Exercise \d+, ([^:]+): right\.", out) == list(helpers.ANSWERS[number])
    assert f" Solution {number} is at the back.\n" in out


MISTAKES = [  # exercise, a piece of its solution, a mistake to put there, and what it is told
    (1, "[1 / 8, 2 / 8, 5 / 8]", "[1, 2, 5]", "p: nearly: divide the powers by their sum"),
    (1, "1 / 8 - 1", "1 / 8", "dz: nearly: subtract the one-hot row of the true digit"),
    (2, "W1 @ W2,", "W2 @ W1,", "W: nearly: W1 comes first"),
    (2, "b1 @ W2", "b1", "b: nearly: b1 goes through W2, too"),
    (1, "1 / 8 - 1, 2 / 8, 5 / 8", "-7 / 24, 2 / 24, 5 / 24", "dz: nearly: each number is 0.333"),
    (3, "2", "4", "this is the mean of the squares, so take its root"),
    (3, "2", "12**0.5", "the mean of the squared weights is not r², but a third of it"),
    (4, "12)", "10)", "loss: nearly: the bias has its say, too"),
    (5, "x.T @ dz", "dz.T @ x", "dW: nearly: transpose it"),
    (5, "dz.sum(axis=0)", "dz.mean(axis=0)", "db: nearly: each number is 0.25 times what"),
    (5, "dz.sum(axis=0)", "dz.sum(axis=1)", "db: found shape (4,), expected numbers of shape (3,)"),
    (5, ", dz @ W.T", "", "found 2 values, expected dW, db, dx"),
    (5, "x.T @", "x @", "it stopped with ValueError (do the shapes fit?): matmul"),
    (6, "params.copy()", "params", "the last ones; copy the best, since training changes them"),
    (6, "return best", "return params", "these are the last ones; copy the best"),
    (6, "loss < lowest", "loss <= lowest", "params: nearly: an equal loss is not below the lowest"),
    (6, "if e", "lowest = loss\n        if e", "compare with the lowest loss so far"),
    (6, "== patience", "== patience - 1",
     "too early: count every epoch, and anew after each lowest loss"),
    (6, "in epochs:", "in [(p.copy(), loss) for p, loss in epochs]:", "stopped with RuntimeError: "),
    (7, "z / T", "z * T", "T: nearly: divide by T"),
    (7, "abs((1 - softmax(z / T).max(axis=1)).sum() - mistakes)", "cross_entropy(z / T, y)",
     "T: nearly: this T has the lowest loss; compare mistakes expected and made"),
    (8, "* 0.5", "* 0.5 / 60", "dw: nearly: each number is 0.0167 times what"),
    (8, "* 0.5", "* 0.5 * 60", "dw: nearly: each number is 60 times what"),
    (9, "run(seed, rate)", "run(rate, seed)", "means: nearly: the seed comes first in run(seed, rate)"),
    (9, "losses.mean(axis=0), losses.std(axis=0)", "losses.std(axis=0), losses.mean(axis=0)",
     "means: nearly: the means come first"),
    (9, "losses.std(axis=0)", "losses.var(axis=0)", "this is the variance, so take its root"),
    (9, "losses.std(axis=0)", "losses.std(axis=0, ddof=1)", "by the number of seeds, as np.std does"),
    (9, "run(seed, rate) for rate in rates] for seed in seeds", "run(seeds, rate) for rate in rates]",
     "it stopped with TypeError"),
    (10, "-0.19, -0.271", "-0.1, -0.1", "velocities: nearly: 0.9 of the last velocity remains"),
    (10, "my_limit = -1", "my_limit = 1", "limit: nearly: the sign is wrong"),
    (10, "my_limit = -1", "my_limit = -10", "limit: nearly: each number is 10 times what"),
    (11, "p * (g - (g * p).sum(axis=1, keepdims=True))", "g", "go on from P through softmax"),
    (11, "(g - (g * p).sum(axis=1, keepdims=True))", "g * (1 - p)", "each score changes all p"),
    (11, "2 * (p - Y) / len(z)", "2 * (p - Y)", "dz: nearly: each number is 4 times what"),
    (11, "2 * (p - Y) / len(z)", "p - Y", "dz: nearly: each number is 2 times what"),
    (11, "return p * (g - (g * p).sum(axis=1, keepdims=True))", "return g / 2", "to cross-entropy"),
    (13, "(np.sin(1 + h) - np.sin(1 - h)) / (2 * h)", "(np.sin(1 + h) - np.sin(1)) / h", "to both"),
    (13, "abs(", "(", "errors: nearly: the sign is wrong"),
    (13, " - np.cos(1)", "", "errors: nearly: this is the derivative; how far is it from cos 1"),
    (14, "a = leaky_relu(z) * mask / keep", "a = leaky_relu(z) * mask", "each number is 0.8 times"),
    (14, " * leaky_relu_grad(z)", "", "dz: nearly: the slope at z is left out"),
    (14, "leaky_relu_grad(z)", "leaky_relu_grad(da)", "dz: nearly: the slope at z is left out"),
    (14, "da * mask", "da", "dz: nearly: the mask is left out"),
    (15, "120", "130", "parameters: not yet right: it is 103360"),
    (16, "/ len(y)", "", "gradient's error: nearly: divide by B, which is 20 here"),
    (16, "return Z[-1], (A", "return x, (A", "forward's error: not yet right"),
    (16, "W -= lr * dW", "W = W - lr * dW", "it learns nothing: check first weights, sign"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "piece", "mistake", "told"), MISTAKES)
def test_a_slip_gets_its_own_sentence(number, piece, mistake, told, world, capsys):
    code = SOLUTIONS[number].split("\n\n\nfor ")[0]  # no training
    assert piece in code
    answer(number, code.replace(piece, mistake), world)
    assert told in capsys.readouterr().out


def test_every_slip_that_the_judge_knows_is_made_above():
    for number, _, _, advice in helpers.SLIPS:
        tolds = [told for n, _, _, told in MISTAKES if n == number]
        assert any(advice in told or told in advice for told in tolds), advice


class Odd(Exception):
    """Resists whatever is done with it."""

    def resist(self, *arguments, **named):
        raise RuntimeError

    def stop(*arguments):
        raise Odd

    __array__ = __eq__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = resist


ODD = {  # what is given as W of exercise 2, and what is said of it
    "nothing": (None, "W: no answer yet."),
    "text": ("9", "W: found str, expected numbers of shape (2, 2)."),
    "object": (Odd(), "W: found Odd, expected numbers of shape (2, 2)."),
    "complex": (9j, "W: found complex, expected numbers of shape (2, 2)."),
    "ragged": ([[9, 1], [4]], "W: found list, expected numbers of shape (2, 2)."),
    "shape": (np.zeros((2, 3)), "W: found shape (2, 3), expected numbers of shape (2, 2)."),
    "nan": ([[9, 1], [4, np.nan]], "W: not all numbers are finite"),
    "zeros": (np.zeros((2, 2), bool), "W: not yet right."),
    "transposed": ([[9, 4], [1, 0]], "W: nearly: transpose it."),
    "right": (torch.tensor([[9, 1], [4, 0]]), "W: right."),
}


@pytest.mark.parametrize(("odd", "told"), ODD.values(), ids=ODD)
def test_an_odd_part_is_told_from_the_others(odd, told, capsys):
    assert not helpers.check(2, (odd, [0, 0]))
    out = capsys.readouterr().out
    assert out.startswith(f"Exercise 2, {told}") and "Exercise 2, b: not yet right." in out


@pytest.mark.parametrize("number", NUMBERS)
def test_no_answer_raises(number, capsys):
    functions = [Odd.stop, sys.exit, lambda x, f: x.fill(0), lambda *arguments: Odd(), Odd]
    for odd in [odd for odd, _ in ODD.values()] + functions:
        for value in (odd, [odd], (odd, odd), {1: odd}):
            assert helpers.check(number, value, [1.0, 2.0], np.log) is False
            assert capsys.readouterr().out.endswith(ENDING.format(number))


def gradients(loss, *arrays):
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    loss(*tensors).backward()
    return [tensor.grad for tensor in tensors]


def references():
    """What is right for each part, by PyTorch or the standard library, as ANSWERS has it."""
    z, first = torch.tensor([[1.0, 2, 5]]).log(), torch.tensor([0])
    (dz,) = gradients(lambda z: functional.cross_entropy(z, first), z.tolist())
    yield 1, z.softmax(1)[0], dz[0]
    yield 3, np.sqrt(1200 * statistics.fmean(np.linspace(-0.1, 0.1, 100_001) ** 2))
    scores = torch.tensor([[np.log(3.0)] + 9 * [0]])
    yield 4, scores.softmax(1)[0, 0], functional.cross_entropy(scores, torch.tensor([7]))
    x, W, b = [[1, 0], [2, -1], [0, 1], [1, 1]], [[1, 0, 2], [0, -1, 1]], [0, 0, 0]
    dz = torch.tensor([[1, 0, -1], [0, 2, 0], [2, -1, 1], [0, 0, 1]])
    dx, dW, db = gradients(lambda x, W, b: ((x @ W + b) * dz).sum(), x, W, b)
    yield 5, dW, db, dx
    runs = [[seed**rate for seed in (1, 2, 3, 6)] for rate in (1, 2, 3)]
    yield 9, [*map(statistics.fmean, runs)], [*map(statistics.pstdev, runs)]
    weight, places = torch.zeros(1, requires_grad=True), [0.0]
    optimiser = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    for _ in range(200):
        weight.grad = torch.ones(1)
        optimiser.step()
        places.append(weight.item())
    yield 10, np.diff(places)[:3], np.diff(places)[-1]
    Y, z = torch.eye(3)[4 * [0]], np.log(4 * [[1, 2, 5]])
    yield 11, *gradients(lambda z: ((z.softmax(1) - Y) ** 2).sum() / 4, z)
    sines = torch.tensor([2, 0, 1.1, 0.9, 1 + np.pi / 2]).double().sin()  # the last: cos 1
    yield 13, (sines[:4:2] - sines[1::2]).div(torch.tensor([2, 0.2])).sub(sines[4]).abs()
    z, factor, da = torch.tensor([[[2, -1], [-3, 4]], [[1.25, 0], [1.25, 1.25]], [[1, 2], [3, 4]]])
    (dz,) = gradients(lambda z: (functional.leaky_relu(z) * factor * da).sum(), z.tolist())
    yield 14, functional.leaky_relu(z) * factor, dz


@pytest.mark.parametrize("reference", list(references()), ids=lambda reference: str(reference[0]))
def test_what_the_judge_takes_for_right_is_right(reference):
    for stored, value in zip(helpers.ANSWERS[reference[0]].values(), reference[1:], strict=True):
        np.testing.assert_allclose(stored, value, rtol=1e-4, atol=1e-6)
