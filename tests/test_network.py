"""The network of the notebook against independent references: PyTorch and central differences.

Every test takes `nb`, the definitions of the notebook, in which test_mistakes.py plants mistakes.
"""

import copy
import itertools
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.filterwarnings("error")
torch.set_num_threads(1)  # on few cores its threads and those of NumPy wait for each other

ALPHA = float(np.float32(0.01))
SIZES = (784, 500, 300, 100, 10)
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}


def problem(sizes, batch, dtype=np.float64, alpha=ALPHA):
    """Parameters with random biases, images and digits; no unit is near its kink on any image."""
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(0, np.sqrt(2 / (n_in + n_out)), (n_in, n_out)), rng.normal(0, 0.3, n_out))
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    a = x = rng.normal(size=(20 + 2 * batch, sizes[0]))
    clear = np.full(len(x), True)
    for W, b in params[:-1]:
        z = a @ W + b
        clear &= (abs(z) > 1e-4).all(axis=1)
        a = np.where(z > 0, z, alpha * z)
    x = x[clear][:batch].astype(dtype)
    return [(W.astype(dtype), b.astype(dtype)) for W, b in params], x, rng.integers(10, size=batch)


def torch_model(params, alpha=ALPHA):
    """The same network in PyTorch with copies of the parameters."""
    layers = []
    for W, b in params:
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data, linear.bias.data = torch.tensor(W.T), torch.tensor(b)
        layers += [linear, torch.nn.LeakyReLU(alpha)]
    return torch.nn.Sequential(*layers[:-1])


def flat(pairs):
    return [array for pair in pairs for array in pair]


def relative_error(ours, theirs):
    """Largest difference of two arrays as a share of the largest reference value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return abs(ours.astype(np.float64) - theirs).max() / abs(theirs).max()


def test_settings_are_those_asked_for(nb):
    assert (nb.SIZES, nb.ALPHA) == (SIZES, ALPHA)
    assert nb.sweep.__defaults__ == ([784, 250, 150, 50, 10], ALPHA, 1, 60)
    assert (nb.RATES, nb.SEEDS) == ((0.003, 0.01, 0.03, 0.1, 0.3, 1), (0, 1, 2, 3, 4, 5))
    assert (nb.LONG_EPOCHS, nb.LONG_BATCH) == (80, 100)
    assert nb.long_epoch.__defaults__ == (0.35, 1.2, 1, 0.1)
    assert (nb.EPOCHS, nb.BATCH_SIZE, nb.LEARNING_RATE, nb.DECAY) == (30, 60, 0.01, 0.005)


def test_leaky_relu_and_its_slope_follow_their_formulas_even_at_zero(nb):
    z = np.array([[-1e4, -3, -1e-20, 0], [1e-20, 0.5, 7, 1e4]], np.float32)
    for alpha in (0, 0.01, 1):
        value, slope = nb.leaky_relu(z, alpha), nb.leaky_relu_grad(z, alpha)
        assert value.dtype == slope.dtype == np.float32
        assert np.allclose(value, [alpha * z[0], z[1]], rtol=1e-6, atol=0)
        assert np.allclose(slope, [4 * [alpha], 4 * [1]], rtol=1e-6, atol=0)


def test_softmax_and_loss_are_right_and_finite_for_small_and_huge_logits(nb):
    rng = np.random.default_rng(0)
    for dtype, size in itertools.product(TOLERANCE, (0, 1, 30, 100, 1e4)):
        z = rng.uniform(-size, size, (40, 10)).astype(dtype)
        z[0], z[1], z[2] = size, -size, np.linspace(-size, size, 10)
        z[3:] += rng.choice([-1e4, 0, 1e4], (37, 1)).astype(dtype)  # whole rows far apart
        y = rng.integers(10, size=40)
        reference = torch.tensor(z, dtype=torch.float64)
        loss = cross_entropy(reference, torch.tensor(y))
        assert relative_error(nb.softmax(z), torch.softmax(reference, 1)) < TOLERANCE[dtype]
        assert relative_error(nb.cross_entropy(z, y), loss) < TOLERANCE[dtype]


def test_logits_loss_and_gradients_agree_with_pytorch(nb):
    layers = [(10, 10, 10, 10), (12, 10), (20, 16, 10), (6, 5, 5, 4, 4, 10), SIZES]
    for sizes, dtype, batch in itertools.product(layers, TOLERANCE, (10, 1, 60)):
        for alpha in [0, ALPHA, 0.25, 1] if sizes != SIZES else [ALPHA]:
            params, x, y = problem(sizes, batch, dtype, alpha)
            before = copy.deepcopy([*flat(params), x, y])
            model = torch_model(params, alpha)
            their_logits = model(torch.tensor(x))
            their_loss = cross_entropy(their_logits, torch.tensor(y))
            their_loss.backward()
            more = [] if alpha == ALPHA else [alpha]  # the default
            logits, cache = nb.forward(params, x, *more)
            grads = nb.backward(params, cache, y, *more)
            ours = [logits, nb.cross_entropy(logits, y), *flat(grads)]
            theirs = [their_logits.detach(), their_loss.detach()]
            theirs += [parameter.grad.numpy().T for parameter in model.parameters()]
            case = sizes, dtype, batch, alpha
            errors = list(map(relative_error, ours, theirs))
            assert len(ours) == len(errors) == 2 * len(sizes) and max(errors) < TOLERANCE[dtype], (
                case
            )
            assert all(map(np.array_equal, [*flat(params), x, y], before)), case


def test_gradients_agree_with_central_differences_in_every_entry(nb):
    for sizes, batch in itertools.product([(6, 10), (6, 5, 10), (6, 5, 4, 4, 10)], (1, 7)):
        params, x, y = problem(sizes, batch)
        grads = nb.backward(params, nb.forward(params, x)[1], y)
        for array, grad in zip(flat(params), flat(grads), strict=True):
            places = range(array.size)
            slopes = [nb.central_difference(params, array, place, x, y) for place in places]
            assert relative_error(grad, np.reshape(slopes, grad.shape)) < 1e-6, (sizes, batch)
    slope = nb.central_difference(params, params[-1][0], 32, x, y, h=0.01)
    assert slope == pytest.approx(grads[-1][0][3, 2], rel=1e-4)  # one-sided ones are off by 1e-3
    assert all(map(np.array_equal, flat(params), flat(problem(sizes, batch)[0])))  # as before


def test_the_notebooks_check_finds_a_mistake_in_half_of_any_array_and_nowhere_else(nb):
    for sizes, alpha in [((7, 10), 0.01), ((6, 5, 10), 0.5), ((6, 5, 4, 4, 4, 10), 0.01)]:
        params, x, y = problem(sizes, 20)
        for broken in range(2 * len(params)):
            grads = nb.backward(params, nb.forward(params, x, alpha)[1], y, alpha)
            half = flat(grads)[broken][len(flat(grads)[broken]) // 2 :]
            half *= 20
            errors = nb.gradient_errors(params, grads, x, y, np.random.default_rng(0), alpha)
            assert len(errors) == 2 * len(params)
            for i, error in enumerate(errors):
                assert 0.1 < error < 19.1 if i == broken else error < 1e-6, (sizes, broken, i)
    nothing = [(0 * W, 0 * b) for W, b in params]
    errors = nb.gradient_errors(params, nothing, x, y, np.random.default_rng(0))
    assert errors == pytest.approx(2 * len(params) * [1])


def test_mistakes_on_purpose_spoil_what_they_should_and_nothing_else(nb):
    params, x, y = problem((12, 8, 6, 10), 60)
    cache = nb.forward(params, x)[1]
    right, no_slope = nb.backward(params, cache, y), nb.backward(params, cache, y, 1)
    expected = {
        "no mistake": right,
        "no slope": no_slope,
        "no 1/B": [(60 * dW, 60 * db) for dW, db in right],
        "mean db": [(dW, db / 60) for dW, db in right],
        "no dW1": [(0 * right[0][0], right[0][1]), *right[1:]],
    }
    assert relative_error(no_slope[0][0], right[0][0]) > 0.1
    for mistake, grads in expected.items():
        found = nb.wrong_backward(params, cache, y, mistake)
        assert all(map(np.allclose, flat(found), flat(grads))), mistake
        net, losses = nb.train_copy(params, x, y, 1, mistake)  # a single step
        assert losses == [pytest.approx(nb.evaluate(params, x, y)[0], rel=1e-5)]
        for after, before, grad in zip(flat(net), flat(params), flat(grads), strict=True):
            assert np.allclose(after, before - 0.01 * grad, atol=1e-6), mistake


def test_training_and_validation_images_are_all_different_and_keep_their_labels(nb):
    numbers = np.arange(60_000)
    with mock.patch.dict(vars(nb), images=numbers.reshape(-1, 1, 1), labels=numbers % 10):
        exec(nb.cells[3], vars(nb))  # noqa: S102, our own source
        parts = [(nb.x_train, nb.y_train), (nb.x_val, nb.y_val)]
    found = [np.rint(x[:, 0] * nb.PIXEL_STD + nb.PIXEL_MEAN).astype(int) for x, _ in parts]
    assert [len(part) for part in found] == [50_000, 10_000]
    assert np.array_equal(np.sort(np.concatenate(found)), numbers)
    assert all(np.array_equal(part % 10, y) for part, (_, y) in zip(found, parts))


def test_the_nearest_mean_is_that_of_scipys_distances(nb):
    rng = np.random.default_rng(0)
    means, x = rng.normal(size=(10, 7)), rng.normal(size=(50, 7))
    assert np.array_equal(nb.nearest_mean(means, x), cdist(x, means).argmin(axis=1))


def test_mini_batches_hold_every_number_once_in_an_order_that_follows_from_the_seed(nb):
    for n, batch_size in [(580, 60), (60, 60), (61, 60), (7, 20), (50, 1)]:
        batches = list(nb.mini_batches(n, batch_size, np.random.default_rng(0)))
        assert sorted(np.concatenate(batches)) == list(range(n))
        sizes = [len(batch) for batch in batches]
        assert set(sizes[:-1]) <= {batch_size} and 0 < sizes[-1] <= batch_size
    rngs = [np.random.default_rng(seed) for seed in (0, 0, 1)]
    first, again, other = (np.concatenate(nb.mini_batches(580, 60, rng)) for rng in rngs)
    second = np.concatenate(nb.mini_batches(580, 60, rngs[0]))
    assert np.array_equal(first, again)
    for order in (np.arange(580), other, second):
        assert np.mean(first == order) < 0.05


def test_first_weights_have_the_bounds_and_the_variance_of_their_formula(nb):
    for factor, more in ((1, []), (3, [3])):
        params = nb.init_params(SIZES, np.random.default_rng(0), *more)
        assert [W.shape for W, _ in params] == list(itertools.pairwise(SIZES))
        for W, b in params:
            bound = factor * np.sqrt(6 / sum(W.shape))
            assert 0.98 * bound < W.max() <= bound * (1 + 1e-6)
            assert 0.98 * bound < -W.min() <= bound * (1 + 1e-6)
            # Five standard deviations of the variance of as many uniform numbers.
            assert abs(W.var() / (bound**2 / 3) - 1) < 5 * np.sqrt(0.8 / W.size)
            assert b.shape == W.shape[1:] and not b.any()
    params, x, y = problem((784, 8, 10), 1)
    for alpha in (0.01, 0.5):  # the magnitudes that section 6 measures
        logits, (_, Z) = nb.forward(params, x, alpha)
        dz = nb.softmax(logits) - np.eye(10)[y]
        dZ = [dz @ params[1][0].T * nb.leaky_relu_grad(Z[1], alpha), dz]
        for found, arrays in zip(nb.magnitudes(params, x, y, alpha), (Z[1:], dZ), strict=True):
            assert found == pytest.approx([np.sqrt(np.mean(array**2)) for array in arrays])


def test_200_steps_of_training_agree_with_pytorch_and_change_the_arrays_themselves(nb):
    for dtype, alpha in [(np.float32, ALPHA), (np.float64, 0.25)]:
        params, x, y = problem((20, 16, 12, 10), 580, dtype, alpha)  # 9 batches of 60, one of 40
        for W, b in params:  # at a kink, rounding decides between two slopes: keep away from it
            W *= 0.1
            b += np.copysign(1, b)
        arrays, start, model = flat(params), copy.deepcopy(flat(params)), torch_model(params, alpha)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        rng = np.random.default_rng(0)
        for epoch in range(20):
            for batch in nb.mini_batches(580, 60, rng):
                optimizer.zero_grad()
                logits = model(torch.tensor(x[batch]))
                cross_entropy(logits, torch.tensor(y[batch])).backward()
                optimizer.step()
        rng, more = np.random.default_rng(0), [] if alpha == ALPHA else [alpha]
        for epoch in range(20):
            nb.train_epoch(params, x, y, 60, 0.05, rng, *more)
        assert all(after is array for after, array in zip(flat(params), arrays))
        for ours, first, theirs in zip(arrays, start, model.parameters(), strict=True):
            theirs = theirs.detach().numpy().T  # the changes since the first weights are compared
            assert relative_error(ours - first, theirs - first) < TOLERANCE[dtype]


def test_what_is_float32_stays_float32(nb):
    rng = np.random.default_rng(0)
    x = nb.standardise(rng.integers(0, 256, (20, 28, 28)).astype(np.uint8))
    y = np.arange(20) % 10
    params = nb.init_params((784, 12, 8, 10), rng, np.sqrt(2))
    for alpha in (nb.ALPHA, 0, 1):
        logits, (A, Z) = nb.forward(params, x, alpha)
        grads = nb.backward(params, (A, Z), y, alpha)
        arrays = [x, nb.distort(x, rng, 1.2), *flat(params), *A, *Z[1:], *flat(grads)]
        arrays += [nb.softmax(logits), nb.cross_entropy(logits, y)]
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def run_loop(nb, number, **names):
    """Execute a cell that trains openly: what it calls, in order, and all names after it."""
    _, x, y = problem((784, 10), 600, np.float32)
    names |= {"x_train": x[:250], "y_train": y[:250], "x_val": x[250:], "y_val": y[250:]}
    calls, names["SIZES"] = mock.Mock(), (784, 5, 10)
    calls.evaluate.side_effect = lambda params, x, y: (len(x), len(y))
    calls.distort.side_effect = lambda x, *rest: -x
    names |= {name: getattr(calls, name) for name in ("train_epoch", "evaluate", "distort")}
    with mock.patch.dict(vars(nb), names):
        exec(nb.cells[number], vars(nb))  # noqa: S102, our own source
        return calls, SimpleNamespace(**vars(nb))


def test_the_loop_of_one_layer_trains_as_the_network_does(nb):
    _, after = run_loop(nb, 0)
    data, checked = (after.x_train, after.y_train), (after.x_val, after.y_val)
    params, rng = [(np.zeros((784, 10)), np.zeros(10))], np.random.default_rng([nb.SEED, 2])
    for _ in range(20):
        nb.train_epoch(params, *data, 60, 0.01, rng)
    assert after.W_one.dtype == after.b_one.dtype == np.float32
    assert max(map(relative_error, (after.W_one, after.b_one), params[0])) < 1e-5
    curves = after.one_layer_curves
    expected = nb.evaluate(params, *data) + nb.evaluate(params, *checked)
    assert curves.training[-1] + curves.validation[-1] == pytest.approx(expected, rel=1e-5)


def test_the_loops_of_sections_7_and_11_train_then_measure_at_the_rates_of_their_formulas(nb):
    calls, after = run_loop(nb, 1, EPOCHS=3, LEARNING_RATE=0.1, DECAY=0.5, BATCH_SIZE=50)
    assert [c[0] for c in calls.mock_calls] == 3 * ["train_epoch", "evaluate", "evaluate"]
    for call, rate in zip(calls.train_epoch.call_args_list, (0.1, 0.1 / 1.5, 0.1 / 2)):
        assert call.args[0] is after.params and call.args[1] is after.x_train
        assert call.args[2] is after.y_train and call.args[3:5] == (50, pytest.approx(rate))
    assert (after.curves.training, after.curves.validation) == (3 * [(250, 250)], 3 * [(350, 350)])
    first = nb.init_params(after.SIZES, np.random.default_rng(nb.SEED))
    assert all(map(np.array_equal, flat(after.params), flat(first)))
    calls, after = run_loop(nb, 2, LONG_EPOCHS=10)
    epoch, curves = 3 * ["distort"] + ["train_epoch"], after.long_curves
    assert [c[0] for c in calls.mock_calls] == 8 * epoch + 2 * ["evaluate"] + 2 * epoch
    assert (curves.epochs, curves.training, curves.validation) == ([8], [(250, 250)], [(350, 350)])
    assert {call.args[2:] for call in calls.distort.call_args_list} == {(1.2,)}
    for i, call in enumerate(calls.train_epoch.call_args_list):
        assert call.args[0] is after.long_params and call.args[2] is after.y_train
        assert np.array_equal(call.args[1], -after.x_train)
        assert call.args[3:5] == (nb.LONG_BATCH, pytest.approx(0.35 * (1 - i / 10)))
        assert not call.kwargs


def test_each_part_of_the_long_epoch_has_a_number(nb):
    x = np.arange(250.0).reshape(250, 1)
    with mock.patch.multiple(nb, distort=mock.DEFAULT, train_epoch=mock.DEFAULT) as calls:
        calls["distort"].side_effect = lambda group, *rest: -group
        params = [(np.full((3, 2), 2.0), np.ones(2))]
        nb.long_epoch(params, x, "y", 0.25, "rng", 0.5, 0.2, fall=0.6, shrink=0.4)
    groups = [(len(call.args[0]), *call.args[1:]) for call in calls["distort"].call_args_list]
    assert groups == [(n, "rng", 0.2) for n in (100, 100, 50)]
    rate = 0.5 * (1 - 0.6 / 4)
    (passed,) = calls["train_epoch"].call_args_list
    assert np.array_equal(passed.args[1], -x) and not passed.kwargs
    assert passed.args[::2] + passed.args[3::2] == (params, "y", rate, nb.LONG_BATCH, "rng")
    ((W, b),) = params
    assert W == pytest.approx(2 * (1 - 0.4 * rate)) and (b == 1).all()


def test_loss_accuracy_probabilities_and_interval_are_right(nb):
    params, x, y = problem((784, 5, 10), 400, alpha=0.25)
    logits, digits = torch_model(params, 0.25)(torch.tensor(x)).detach(), torch.tensor(y)
    expected = cross_entropy(logits, digits), np.mean((logits.argmax(1) == digits).numpy())
    assert np.allclose(nb.evaluate(params, x, y, 0.25), expected, rtol=1e-10)
    images = np.random.default_rng(0).integers(256, size=(400, 28, 28)).astype(np.uint8)
    pixels = torch.tensor((images - 33.3) / 78.6).reshape(400, 784)
    p = torch.softmax(torch_model(params)(pixels), 1).detach().numpy()
    assert relative_error(nb.predict(params, images), p) < 1e-5
    other = torch.softmax(torch_model(params, 0.25)(pixels), 1).detach().numpy()
    assert relative_error(nb.predict(params, images, 0.25), other) < 1e-5
    labels = (other.argmax(axis=1) + (np.arange(400) < 40)) % 10
    with mock.patch("builtins.print") as said:
        misread = nb.report_mistakes(params, images, labels, 0.25)
    assert misread.tolist() == 40 * [True] + 360 * [False]
    texts = [call.args[0] for call in said.call_args_list]
    assert texts[0] == "test accuracy 90.00%: 40 mistakes in 400 images"
    low, high = (float(number) for number in re.findall(r"([0-9.]+)%", texts[1]))
    assert [low, high] == pytest.approx([90 - 1.96 * 1.5, 90 + 1.96 * 1.5], abs=0.49)


def test_a_sweep_trains_and_measures_at_each_rate_with_each_seed(nb):
    x, y = np.random.default_rng(0).normal(size=(1100, 6)), np.arange(1100) % 10
    names = {"x_train": x, "y_train": y, "x_val": x[::-1], "y_val": y[::-1]}
    names |= {"RATES": (0.02, 30, 1e30), "SEEDS": (0, 1)}
    sizes, alpha, factor, batch_size = (6, 5, 10), 0.25, 2, 50
    with mock.patch.dict(vars(nb), names):
        losses = nb.sweep(sizes, alpha, factor, batch_size)
    assert (losses[1:] == 10).all()  # steps were too long
    for seed, loss in enumerate(losses[0]):
        rng = np.random.default_rng([seed, 10])
        chosen = rng.permutation(1100)[:1000]
        net = nb.init_params(sizes, rng, factor)
        for _ in range(8):
            nb.train_epoch(net, x[chosen], y[chosen], batch_size, 0.02, rng, alpha)
        assert nb.evaluate(net, x[:99:-1], y[:99:-1], alpha)[0] == loss


def test_distorted_images_agree_with_those_that_scipy_looks_up(nb):
    x = np.random.default_rng(0).normal(size=(50, 784)).astype(np.float32)
    assert np.array_equal(nb.distort(x, np.random.default_rng(0), 0), x)
    places = np.indices((28, 28))
    for seed in (1, 2):
        ours, rng = nb.distort(x, np.random.default_rng(seed), 3), np.random.default_rng(seed)
        from_middle = [np.ones((28, 28)), *(places / 13.5 - 1)]
        shifts = np.tensordot(rng.normal(0, 3, (2, 3)), from_middle, axes=1)  # down, right
        for new, image in zip(ours, x.reshape(-1, 28, 28)):
            theirs = ndimage.map_coordinates(image, places - shifts, order=0, mode="nearest")
            assert np.mean(new == theirs.ravel()) > 0.999  # halves may be rounded otherwise
