"""The network of the notebook against independent references: PyTorch and central differences.

Every test takes `nb`, the definitions of the notebook. So test_mistakes.py can run one of them on
definitions in which a mistake was planted, and it has to fail.
"""

import copy
import itertools
import warnings
from contextlib import nullcontext
from functools import partial
from statistics import NormalDist
from types import SimpleNamespace
from unittest import mock

import benchmark
import numpy as np
import pytest
import torch
from conftest import definitions

pytestmark = pytest.mark.filterwarnings("error")
torch.set_num_threads(1)  # on few cores its threads and those of NumPy wait for each other

ALPHA = float(np.float32(0.01))
SIZES = (784, 500, 300, 100, 10)
LAYERS = [(12, 10), (10, 10, 10, 10), (20, 20, 10), (6, 5, 4, 10), SIZES]
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}


def problem(sizes, batch, seed=0, dtype=np.float64):
    """Parameters with random biases, images and digits; no unit is near its kink on any image."""
    rng = np.random.default_rng(seed)
    params = [
        (rng.normal(0, np.sqrt(2 / (n_in + n_out)), (n_in, n_out)), rng.normal(0, 0.3, n_out))
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    a = x = rng.normal(size=(20 + 2 * batch, sizes[0]))
    clear = np.full(len(x), True)
    for W, b in params[:-1]:
        z = a @ W + b
        clear &= (abs(z) > 1e-4).all(axis=1)
        a = np.where(z > 0, z, ALPHA * z)
    x = x[clear][:batch].astype(dtype)
    assert len(x) == batch
    return [(W.astype(dtype), b.astype(dtype)) for W, b in params], x, rng.integers(10, size=batch)


def torch_model(params):
    """The same network in PyTorch with copies of the parameters."""
    layers = []
    for W, b in params:
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data, linear.bias.data = torch.tensor(W.T), torch.tensor(b)
        layers += [linear, torch.nn.LeakyReLU(ALPHA)]
    return torch.nn.Sequential(*layers[:-1])


def torch_arrays(tensors):
    """Parameters of a model, or their gradients, as NumPy arrays W1, b1, W2, ..."""
    return [tensor.detach().numpy().T for tensor in tensors]


def flat(pairs):
    return [array for pair in pairs for array in pair]


def relative_error(ours, theirs):
    """Largest difference of two arrays as a share of the largest reference value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return abs(ours.astype(np.float64) - theirs).max() / abs(theirs).max()


def torch_loss_and_accuracy(model, x, y):
    logits = model(torch.tensor(x)).detach()
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y)).item()
    return loss, np.mean(logits.numpy().argmax(axis=1) == y)


def train(nb, params, x, y, epochs=3, lr=0.1, decay=0.5, seed=0):
    """Some epochs in batches of 60, as the notebook trains."""
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        nb.train_epoch(params, x, y, 60, lr / (1 + decay * epoch), rng)


# --------------------------------------------------------------------------- the parts one by one


def test_settings_are_those_asked_for(nb):
    assert nb.SIZES == SIZES
    assert (nb.EPOCHS, nb.BATCH_SIZE, nb.LEARNING_RATE, nb.DECAY) == (30, 60, 0.01, 0.005)
    assert nb.ALPHA == ALPHA


def test_standardised_pixels_are_shifted_by_the_mean_then_divided_by_the_deviation(nb):
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)
    before = images.copy()
    x = nb.standardise(images)
    assert relative_error(x, ((before - 33.3) / 78.6).reshape(3, 784)) < 1e-6
    assert np.array_equal(images, before)


def test_leaky_relu_and_its_slope_follow_their_formulas_even_at_zero(nb):
    z = np.array([[-1e4, -3, -1e-20, 0], [1e-20, 0.5, 7, 1e4]], np.float32)
    value = np.array([[ALPHA * -1e4, ALPHA * -3, ALPHA * -1e-20, 0], z[1]], np.float32)
    assert np.allclose(nb.leaky_relu(z), value, rtol=1e-6, atol=0)
    assert nb.leaky_relu_grad(z).tolist() == [[ALPHA] * 4, [1] * 4]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [0, 1, 30, 100, 1e4])
def test_softmax_and_loss_are_right_and_finite_for_small_and_huge_logits(nb, size, dtype):
    rng = np.random.default_rng(0)
    z = rng.uniform(-size, size, (40, 10)).astype(dtype)
    z[0], z[1], z[2] = size, -size, np.linspace(-size, size, 10)
    y = rng.integers(10, size=40)
    reference = torch.tensor(z, dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(reference, torch.tensor(y))
    p = nb.softmax(z)
    assert abs(p.sum(axis=1) - 1).max() < TOLERANCE[dtype] / 50
    assert relative_error(p, torch.softmax(reference, 1)) < TOLERANCE[dtype]
    assert relative_error(nb.cross_entropy(z, y), loss) < TOLERANCE[dtype]


@pytest.mark.parametrize("shift", [-10_000, -3, 128, 10_000])
def test_softmax_and_loss_do_not_change_if_a_number_is_added_to_a_row(nb, shift):
    rng = np.random.default_rng(0)
    z = rng.integers(-20, 21, (30, 10)).astype(np.float32)  # so that adding is exact
    y = rng.integers(10, size=30)
    shifts = np.float32(shift) * rng.integers(0, 2, (30, 1)).astype(np.float32)
    assert np.allclose(nb.softmax(z + shifts), nb.softmax(z), rtol=1e-6, atol=0)
    assert np.isclose(nb.cross_entropy(z + shifts, y), nb.cross_entropy(z, y), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_xavier_has_the_bounds_and_the_variance_of_its_formula_and_zero_biases(nb, seed):
    params = nb.init_params(SIZES, np.random.default_rng(seed))
    assert [W.shape for W, _ in params] == list(itertools.pairwise(SIZES))
    for W, b in params:
        bound = np.sqrt(6 / sum(W.shape))
        assert 0.98 * bound < W.max() <= bound * (1 + 1e-6)
        assert 0.98 * bound < -W.min() <= bound * (1 + 1e-6)
        # Five standard deviations of the mean and of the variance of as many uniform numbers.
        assert abs(W.mean()) < 5 * bound / np.sqrt(3 * W.size)
        assert abs(W.var() / (bound**2 / 3) - 1) < 5 * np.sqrt(0.8 / W.size)
        assert b.shape == W.shape[1:] and not b.any()


# -------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", LAYERS, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 20, 60])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_loss_and_gradients_agree_with_pytorch(nb, seed, batch, sizes, dtype):
    params, x, y = problem(sizes, batch, seed, dtype)
    model = torch_model(params)
    their_logits = model(torch.tensor(x))
    their_loss = torch.nn.functional.cross_entropy(their_logits, torch.tensor(y))
    their_loss.backward()
    logits, cache = nb.forward(params, x)
    grads = nb.backward(params, cache, y)
    ours = [logits, nb.cross_entropy(logits, y), *flat(grads)]
    theirs = [their_logits.detach(), their_loss.detach()]
    theirs += torch_arrays(parameter.grad for parameter in model.parameters())
    assert len(ours) == len(theirs) == 2 * len(sizes)
    assert max(map(relative_error, ours, theirs)) < TOLERANCE[dtype]


def test_another_activation_function_agrees_with_pytorch(nb):
    params, x, y = problem((6, 5, 4, 10), 20)
    model = torch_model(params)
    model[1] = model[3] = torch.nn.Sigmoid()
    torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y)).backward()
    grads = nb.backward(params, nb.forward(params, x, nb.sigmoid)[1], y, nb.sigmoid_grad)
    theirs = torch_arrays(parameter.grad for parameter in model.parameters())
    assert max(map(relative_error, flat(grads), theirs)) < 1e-10
    expected = torch_loss_and_accuracy(model, x, y)
    assert nb.evaluate(params, x, y, nb.sigmoid) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sizes", LAYERS[:-1], ids=str)
@pytest.mark.parametrize("batch", [1, 7])
def test_gradients_agree_with_central_differences_in_every_entry(nb, batch, sizes):
    params, x, y = problem(sizes, batch)
    h = 1e-6  # too little to take a unit over its kink
    for array, grad in zip(flat(params), flat(nb.backward(params, nb.forward(params, x)[1], y))):
        slopes = np.empty_like(array)
        for index, value in np.ndenumerate(array):
            losses = []
            for array[index] in (value + h, value - h):
                losses.append(nb.cross_entropy(nb.forward(params, x)[0], y))
            array[index] = value
            slopes[index] = (losses[0] - losses[1]) / (2 * h)
        assert relative_error(grad, slopes) < 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 2, 20, 60])
def test_gradient_at_the_logits_agrees_with_pytorch_and_sums_to_zero_in_each_row(nb, batch, dtype):
    rng = np.random.default_rng(batch)
    z, y = rng.normal(0, 2, (batch, 10)).astype(dtype), rng.integers(10, size=batch)
    logits = torch.tensor(z, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
    # With a unit matrix for inputs, the gradient of the last weights is that of the logits.
    images = np.eye(batch, dtype=dtype)
    [(dz, _)] = nb.backward([(z, np.zeros(10, dtype))], ([images], [z]), y)
    assert relative_error(dz, logits.grad) < TOLERANCE[dtype]
    assert abs(dz.sum(axis=1)).max() < TOLERANCE[dtype] / 100 / batch


def test_forward_and_backward_leave_parameters_images_and_cache_as_they_are(nb):
    params, x, y = problem((6, 5, 4, 10), 20)
    logits, (A, Z) = nb.forward(params, x)
    arrays = [*flat(params), x, y, logits, *A, *Z]
    before = copy.deepcopy(arrays)
    nb.forward(params, x)
    nb.backward(params, (A, Z), y)
    assert all(map(np.array_equal, arrays, before))


# ------------------------------------------------------------------- the notebook's gradient check


def test_central_difference_is_central_and_puts_the_entry_back(nb):
    array = np.array([[1.0, 2.0], [3.0, 4.0]])
    slope = nb.central_difference(lambda: (array**2).sum(), array, (1, 0), h=0.25)
    assert slope == 6  # exact for a square; to one side it would be 6.25
    assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "sizes", [(7, 10), (6, 5, 10), (6, 5, 4, 10), (6, 5, 4, 4, 10), (6, 5, 4, 4, 4, 10)], ids=str
)
def test_the_notebooks_check_finds_a_mistake_in_half_of_any_array_and_nowhere_else(nb, sizes):
    params, x, y = problem(sizes, 20)
    before = copy.deepcopy(params)
    for broken in [None, *range(2 * len(params))]:
        grads = nb.backward(params, nb.forward(params, x)[1], y)
        for i, array in enumerate(flat(grads)):
            if i == broken:
                array[len(array) // 2 :] *= 2
        errors = nb.gradient_errors(params, grads, x, y, np.random.default_rng(0))
        assert len(errors) == 2 * len(params)
        for i, error in enumerate(errors):
            assert error > 0.01 if i == broken else error < 1e-6
    assert all(map(np.array_equal, flat(params), flat(before)))


@pytest.mark.parametrize(
    "change, factor, expected",
    [
        (lambda dW, db, n: (n * dW, n * db), 1, [19, 19, 19, 19]),  # 1/B forgotten
        (lambda dW, db, n: (dW, db / n), 1, [0, 0.95, 0, 0.95]),  # bias gradient averaged
        (lambda dW, db, n: (dW, db), 2, [1, 1, 0, 0]),  # twice the slope
    ],
)
def test_the_notebooks_check_says_how_wrong_a_gradient_is(nb, change, factor, expected):
    params, x, y = problem((6, 5, 10), 20)
    slope = lambda z: factor * nb.sigmoid_grad(z)  # noqa: E731
    grads = nb.backward(params, nb.forward(params, x, nb.sigmoid)[1], y, slope)
    grads = [change(dW, db, len(y)) for dW, db in grads]
    errors = nb.gradient_errors(params, grads, x, y, np.random.default_rng(0), nb.sigmoid)
    assert errors == pytest.approx(expected, abs=1e-5)


# --------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("n, batch_size", [(580, 60), (60, 60), (61, 60), (7, 20), (50, 1)])
def test_mini_batches_hold_every_number_once_and_only_the_last_may_be_smaller(nb, n, batch_size):
    batches = list(nb.mini_batches(n, batch_size, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert 0 < len(batches[-1]) <= batch_size


def test_mini_batches_are_random_differ_between_epochs_and_repeat_with_the_seed(nb):
    rngs = [np.random.default_rng(seed) for seed in (0, 0, 1)]
    first, again, other = (np.concatenate(list(nb.mini_batches(580, 60, rng))) for rng in rngs)
    second = np.concatenate(list(nb.mini_batches(580, 60, rngs[0])))
    assert np.array_equal(first, again)
    for order in (np.arange(580), other, second):
        assert np.mean(first == order) < 0.05


def test_a_step_goes_against_the_gradient_and_changes_the_arrays_themselves(nb):
    params, grads = problem((6, 5, 10), 1, seed=0)[0], problem((6, 5, 10), 1, seed=1)[0]
    arrays, before = flat(params), copy.deepcopy(flat(params))
    nb.sgd_step(params, grads, 0.25)
    for array, after, start, grad in zip(arrays, flat(params), before, flat(grads)):
        assert after is array
        assert np.allclose(array, start - 0.25 * grad, rtol=1e-14)


@pytest.mark.parametrize(
    "sizes, dtype, tolerance",
    [
        ((20, 16, 12, 10), np.float64, 1e-12),
        ((20, 16, 12, 10), np.float32, 2e-6),
        (SIZES, np.float32, 2e-6),
    ],
)
def test_200_steps_of_training_agree_with_pytorch(nb, sizes, dtype, tolerance):
    epochs, lr, decay = 20, 0.05, 0.1  # of ten steps each
    params, x, y = problem(sizes, 580, dtype=dtype)  # nine batches of 60 and one of 40
    if dtype == np.float32:  # at a kink, rounding decides between two slopes: keep all units away
        for W, b in params:
            W *= 0.1
            b += np.copysign(1, b)
    arrays, start, model = flat(params), copy.deepcopy(flat(params)), torch_model(params)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + decay * epoch))
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        for batch in nb.mini_batches(580, 60, rng):
            optimizer.zero_grad()
            logits = model(torch.tensor(x[batch]))
            torch.nn.functional.cross_entropy(logits, torch.tensor(y[batch])).backward()
            optimizer.step()
        scheduler.step()
    train(nb, params, x, y, epochs, lr, decay)
    assert all(after is array for after, array in zip(flat(params), arrays))
    for ours, theirs, first in zip(arrays, torch_arrays(model.parameters()), start):
        apart, moved = np.linalg.norm(ours - theirs), np.linalg.norm(theirs - first)
        assert apart < min(tolerance * np.linalg.norm(theirs), 1e-3 * moved)


def test_an_epoch_sees_each_image_once_with_its_label(nb):
    images = np.arange(580, dtype=np.float32).reshape(-1, 1)  # each image is its own number
    digits = images[:, 0].astype(int) * 7 % 10
    params, seen = nb.init_params((1, 10), np.random.default_rng(0)), []

    def backward_seen(params, cache, y, slope):
        seen.append((cache[0][0][:, 0].astype(int), y))
        return [(0 * W, 0 * b) for W, b in params]

    with mock.patch.object(nb, "backward", backward_seen):
        train(nb, params, images, digits)
    assert [len(numbers) for numbers, _ in seen] == 3 * (9 * [60] + [40])
    for numbers, y in seen:
        assert np.array_equal(y, digits[numbers])
    for epoch in range(3):
        numbers, _ = zip(*seen[10 * epoch : 10 * epoch + 10])
        assert sorted(np.concatenate(numbers)) == list(range(580))


def test_one_seed_repeats_first_weights_and_training_and_another_does_not(nb):
    _, x, y = problem((6, 5, 10), 130, dtype=np.float32)
    runs = []
    for seed in (0, 0, 1):
        params = nb.init_params((6, 5, 10), np.random.default_rng(seed))
        runs.append([W.copy() for W, _ in params])
        train(nb, params, x, y, seed=seed)
        runs[-1] += flat(params)
    first, same, other = runs
    assert all(map(np.array_equal, first, same))
    assert not any(map(np.array_equal, first, other))


@pytest.mark.parametrize("far", [False, True])
def test_every_number_in_a_training_of_float32_is_float32(nb, far):
    rng = np.random.default_rng(0)
    params = nb.init_params((784, 12, 10), rng, nb.he if far else nb.xavier)
    x = nb.standardise(rng.integers(0, 256, (70, 28, 28)).astype(np.uint8))
    x, y = nb.helpers.distort(x, rng) if far else x, rng.integers(10, size=70)
    seen = [x, nb.softmax(x), nb.cross_entropy(x, y)]
    forward, step = nb.forward, nb.decay_step if far else nb.sgd_step

    def forward_seen(params, x, f):
        logits, (A, Z) = forward(params, x, f)
        seen.extend([logits, *A, *Z, *map(nb.leaky_relu, Z), *map(nb.leaky_relu_grad, Z)])
        return logits, (A, Z)

    def step_seen(params, grads, lr):
        seen.extend([*flat(grads), *(lr * grad for grad in flat(grads))])
        step(params, grads, lr)
        seen.extend(flat(params))

    with mock.patch.object(nb, "forward", forward_seen):
        for lr in (0.1, nb.cosine(0.1, 0.5), nb.cosine(0.1, 0.9)):
            nb.train_epoch(params, x, y, 60, lr, rng, step=step_seen)
    assert len(seen) > 100
    assert {array.dtype for array in seen} == {np.dtype(np.float32)}


# A loop, the name of its parameters, rate by the epoch, and the epochs that it reports.
@pytest.mark.parametrize(
    "cell, result, rates, reported",
    [
        ("train-run", "params", [0.1, 0.1 / 1.5, 0.1 / 2], [1, 2, 3]),
        ("far-run", "far_params", 0.1 * (1 + np.cos(np.pi * np.arange(10) / 10)), [8]),
        ("one-layer-run", None, [0.01] * 20, range(1, 21)),
    ],
)
def test_the_loops_in_the_open_agree_with_pytorch(nb, cell, result, rates, reported):
    _, x, y = problem((784, 10), 600)
    starts, batches, distorted, told, decay = [], [], [], {}, 0.1 * (cell == "far-run")

    def init(sizes, rng, weights=None):
        starts.append(problem(sizes, 1)[0])
        return copy.deepcopy(starts[0])

    def mini_batches(n, batch_size, rng):
        batches.append(np.split(rng.permutation(n), range(batch_size, n, batch_size)))
        return batches[-1]

    def distort(x, rng, out):
        assert x is names["x_train"] and out.shape == x.shape
        distorted.append(np.roll(x, len(distorted) + 1, axis=1))
        return distorted[-1]

    def add(training, validation, epoch=None):
        told[epoch or len(told) + 1] = (*training, *validation)

    names = {"x_train": x[:250], "y_train": y[:250], "x_val": x[250:], "y_val": y[250:]}
    names |= {"SIZES": (784, 5, 10), "EPOCHS": 3, "LEARNING_RATE": 0.1, "DECAY": 0.5}
    names |= {"FAR_EPOCHS": 10, "FAR_RATE": 0.2, "FAR_BATCH": 100, "WEIGHT_DECAY": 0.1}
    names |= {"init_params": init, "mini_batches": mini_batches}
    curves = mock.Mock(return_value=nullcontext(SimpleNamespace(add=add)))
    names["helpers"] = SimpleNamespace(live_curves=curves, distort=distort)
    with mock.patch.dict(vars(nb), names):
        exec(nb.loops[cell], vars(nb))  # noqa: S102, our own source
        ours = flat(vars(nb)[result] if result else [(nb.W, nb.b)])
    model = torch_model(starts[0] if starts else [(np.zeros((784, 10)), np.zeros(10))])
    tensors = list(model.parameters())
    images = distorted or [x[:250]] * len(rates)
    assert len(images) == len(batches) == len(rates)
    for epoch, (lr, x_epoch, numbers) in enumerate(zip(rates, images, batches), start=1):
        assert len(numbers) == (3 if cell == "far-run" else 5)
        for batch in numbers:
            logits = model(torch.tensor(x_epoch[batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y[batch]))
            grads = torch.autograd.grad(loss, tensors)
            for tensor, grad in zip(tensors, grads):
                pull = decay * tensor.data * (tensor.ndim == 2)  # of the weights, not the biases
                tensor.data.sub_(grad + pull, alpha=lr)
        if epoch in told:
            expected = torch_loss_and_accuracy(model, x[:250], y[:250])
            expected += torch_loss_and_accuracy(model, x[250:], y[250:])
            assert told[epoch] == pytest.approx(expected, rel=1e-5)
    assert list(told) == list(reported)
    for array, theirs in zip(ours, torch_arrays(tensors), strict=True):
        assert relative_error(array, theirs) < TOLERANCE[array.dtype.type]


# ------------------------------------------------------------------------------------- evaluation


def test_loss_accuracy_and_probabilities_agree_with_pytorch(nb):
    params, x, y = problem((784, 5, 10), 300)
    model, images = torch_model(params), np.random.default_rng(0).integers(256, size=(9, 28, 28))
    expected = torch_loss_and_accuracy(model, x, y)
    for ours in (nb.evaluate(params, x, y), nb.loss_and_accuracy(nb.forward(params, x)[0], y)):
        assert ours == pytest.approx(expected, rel=1e-10)
    pixels = torch.tensor((images - 33.3) / 78.6).reshape(9, 784)
    theirs = torch.softmax(model(pixels), 1).detach()
    assert relative_error(nb.predict(params, images.astype(np.uint8)), theirs) < 1e-5


def test_the_confidence_interval_holds_95_percent_of_the_normal_distribution(nb):
    low, high = nb.confidence_interval(0.9, 400)
    normal = NormalDist(0.9, (0.9 * 0.1 / 400) ** 0.5)
    assert normal.cdf(low) == pytest.approx(0.025, rel=2e-3)
    assert normal.cdf(high) == pytest.approx(0.975, rel=2e-3)


# ------------------------------------------------------------------------------- what Part II adds


def test_he_has_the_variance_of_its_formula_and_zero_biases(nb):
    for (W, b), n_in in zip(nb.init_params(SIZES, np.random.default_rng(0), nb.he), SIZES):
        assert W.dtype == b.dtype == np.float32
        assert abs(W.var() / (2 / n_in) - 1) < 5 * np.sqrt(0.8 / W.size)
        assert not b.any()


def trial(nb, seed=3, lr=0.02, **choices):
    """A trial on 130 random images, and what it has for its training and its validation."""
    rng = np.random.default_rng(0)
    images, y = rng.integers(256, size=(200, 28, 28)).astype(np.uint8), rng.integers(10, size=200)
    train, val = np.split(rng.permutation(200), [130])
    names = {"images": images, "train": train, "val": val, "y_train": y[train], "y_val": y[val]}
    with mock.patch.dict(vars(nb), names):
        loss = nb.trial(seed, lr, **choices)
    return loss, (images[train], y[train]), (images[val], y[val])


@pytest.mark.parametrize("changed", ["sizes", "weights", "activation", "batch_size", "scale"])
def test_a_trial_is_ten_epochs_with_the_given_choices(nb, changed):
    choices = {"sizes": (784, 8, 10)}
    choices |= {
        "sizes": {"sizes": (784, 7, 6, 10)},
        "weights": {"weights": nb.he},
        "activation": {"activation": (nb.sigmoid, nb.sigmoid_grad)},
        "batch_size": {"batch_size": 20},
        "scale": {"scale": lambda images: images.reshape(-1, 784) / np.float32(255)},
    }[changed]
    loss, (x, y), (x_val, y_val) = trial(nb, **choices)
    x, x_val = map(choices.get("scale", nb.standardise), (x, x_val))
    f, slope = choices.get("activation", (nb.leaky_relu, nb.leaky_relu_grad))
    weights, rng = choices.get("weights", nb.xavier), np.random.default_rng([3, 12])
    params = nb.init_params(choices["sizes"], np.random.default_rng([3, 10]), weights)
    for _ in range(10):
        for batch in nb.mini_batches(130, choices.get("batch_size", 60), rng):
            _, cache = nb.forward(params, x[batch], f)
            nb.sgd_step(params, nb.backward(params, cache, y[batch], slope), 0.02)
    expected = nb.cross_entropy(nb.forward(params, x_val, f)[0], y_val)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lr", [30, 1e30])
def test_a_trial_with_too_long_steps_counts_as_ten_without_a_warning(nb, lr):
    assert trial(nb, lr=lr, sizes=(784, 8, 10))[0] == 10


def test_a_mistyped_name_of_a_choice_is_an_error(nb):
    with pytest.raises(TypeError, match="batchsize"):
        trial(nb, sizes=(784, 8, 10), batchsize=3)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_weight_decay_agrees_with_pytorch_and_changes_the_arrays_themselves(nb, momentum):
    params, gradients = problem((6, 5, 10), 1)[0], np.random.default_rng(1)
    arrays, model = flat(params), [torch.tensor(array) for array in flat(params)]
    weights = torch.optim.SGD(model[::2], 0.1, momentum, weight_decay=nb.WEIGHT_DECAY)
    biases, step = torch.optim.SGD(model[1::2], 0.1, momentum), nb.decay_step
    if momentum:
        more = {"velocities": [(0 * W, 0 * b) for W, b in params], "weight_decay": nb.WEIGHT_DECAY}
        step = partial(benchmark.momentum_step, **more)
    for _ in range(20):
        grads = [tuple(gradients.normal(size=array.shape) for array in pair) for pair in params]
        step(params, grads, 0.1)
        for tensor, grad in zip(model, flat(grads)):
            tensor.grad = torch.tensor(grad)
        weights.step()
        biases.step()
    for array, after, tensor in zip(arrays, flat(params), model):
        assert after is array
        assert relative_error(array, tensor) < 1e-12


def test_the_cosine_agrees_with_pytorch(nb):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for i in range(11):
        assert nb.cosine(0.3, i / 10) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_distorted_images_agree_with_those_that_pytorch_looks_up(nb):
    x = np.random.default_rng(0).normal(size=(10_303, 784)).astype(np.float32)
    some = slice(-1000, None)  # of two parts, for 10,000 images at a time are distorted
    with mock.patch.object(nb.helpers, "_look_up", wraps=nb.helpers._look_up) as look_up:
        ours = nb.helpers.distort(x, np.random.default_rng(0))
    places = np.stack([call.args[0] for call in look_up.call_args_list])
    groups = np.arange(len(x)) // nb.helpers.GROUP
    assert len(places) == len(np.unique(places[:, 0, 0])) == groups[-1] + 1
    column_and_row = (places[groups[some], ::-1] / 13.5).transpose(0, 2, 1)
    theirs = torch.nn.functional.grid_sample(
        torch.tensor(x[some], dtype=torch.float64).reshape(-1, 1, 28, 28),
        torch.tensor(column_and_row.reshape(-1, 28, 28, 2)),
        padding_mode="border",
        align_corners=True,
    ).reshape(-1, 784)
    assert ours.dtype == np.float32
    assert relative_error(ours[some], theirs) < 1e-5
    again = nb.helpers.distort(x, np.random.default_rng(0), out=ours)
    assert again is ours and relative_error(ours[some], theirs) < 1e-5


def places(nb, n, **options):
    """Where each of n images would be looked up, (n, 2, 784)."""
    look_up = mock.Mock(return_value=np.eye(784, dtype=np.float32))
    with mock.patch.multiple(nb.helpers, GROUP=1, _look_up=look_up):
        nb.helpers.distort(np.zeros((n, 784), np.float32), np.random.default_rng(0), **options)
    return np.stack([call.args[0] for call in look_up.call_args_list])


def test_affine_places_are_near_those_of_the_pixels_and_use_the_whole_range(nb):
    found = places(nb, 500, elastic=False)
    pixels = np.stack([*np.indices((28, 28)).reshape(2, 784) - 13.5, np.ones(784)])
    fitted = found @ np.linalg.pinv(pixels)  # (500, 2, 3): a matrix and a shift
    assert np.allclose(fitted @ pixels, found, atol=1e-9)
    for entries, limit in ((fitted[..., :2] - np.eye(2), 0.11), (fitted[..., 2:], 1.3)):
        largest = abs(entries).reshape(500, -1).max(axis=0)
        assert (largest < limit + 1e-9).all() and (largest > 0.97 * limit).all()
        assert (abs(entries.mean(axis=0)) < 0.15 * limit).all()


def test_elastic_places_bend_by_the_wanted_amount_and_alike_for_neighbours(nb):
    bends = places(nb, 2000) - places(nb, 2000, elastic=False)  # one seed, so one matrix
    bends = bends.reshape(4000, 28, 28)
    assert np.allclose(bends.std(axis=0), 0.85, rtol=0.1)
    assert abs(bends.mean(axis=0)).max() < 0.1
    mine = bends[:, 14, 14]
    for apart in (1, 2, 4, 6):  # two bells so far apart overlap by e^(-d² / (4 σ²))
        for other in (bends[:, 14 + apart, 14], bends[:, 14, 14 - apart]):
            expected = np.exp(-(apart**2) / (4 * 4**2))
            assert np.corrcoef(mine, other)[0, 1] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("piece, count", [("no such piece", 0), ("keepdims=True", 3)])
def test_a_change_whose_piece_does_not_stand_there_exactly_once_is_refused(piece, count):
    with pytest.raises(ValueError, match=f"{piece}.* {count} times"):
        definitions({piece: ""})


def test_every_warning_is_an_error_but_the_false_one_of_macos():
    warnings.warn("divide by zero encountered in matmul", RuntimeWarning)
    for real in ("divide by zero encountered in log", "overflow encountered in matmul"):
        with pytest.raises(RuntimeWarning):
            warnings.warn(real, RuntimeWarning)
