"""The network of the notebook against independent references, and the tests against mistakes.

Every test of the network takes `nb`, the definitions of the notebook. So the same tests run once
more, at the end of this file, on definitions in which a mistake was planted, and have to fail.
"""

import copy
import inspect
import itertools
import traceback
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import definitions

import helpers

pytestmark = pytest.mark.filterwarnings("error")
torch.set_num_threads(1)  # on few cores its threads and those of NumPy wait for each other

ALPHA = float(np.float32(0.01))
SIZES = (784, 500, 300, 100, 10)
AFFINE, SHIFT, BEND = 0.13, 1.5, 1  # largest matrix entry, pixels; standard deviation, pixels
LAYERS = [(10, 10, 10, 10), (20, 20, 10), (6, 5, 4, 10), SIZES]
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


def run(nb, params, x, y, epochs=3, lr=0.1, decay=0.5, seed=0, val=None):
    """The records of a training in batches of 60, validated on `val` or on the training images."""
    x_val, y_val = val or (x, y)
    rng = np.random.default_rng(seed)
    return list(nb.train(params, x, y, x_val, y_val, epochs, 60, lr, decay, rng))


# --------------------------------------------------------------------------- the parts one by one


def test_settings_are_those_asked_for(nb):
    assert nb.SIZES == SIZES
    assert (nb.EPOCHS, nb.BATCH_SIZE, nb.LEARNING_RATE, nb.DECAY) == (30, 60, 0.01, 0.005)
    assert nb.ALPHA == np.float32(0.01)


def test_scaled_pixels_are_shifted_by_the_mean_then_divided_by_the_deviation(nb):
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)
    before = images.copy()
    x = nb.scale(images, np.float32(33), np.float32(80))
    assert relative_error(x, ((before - 33.0) / 80).reshape(3, 784)) < 1e-6
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
        assert abs(W.var() / (2 / sum(W.shape)) - 1) < 5 * np.sqrt(0.8 / W.size)
        assert b.shape == W.shape[1:] and not b.any()


def test_one_seed_repeats_the_first_weights_and_another_does_not(nb):
    first, again, other = (nb.init_params(SIZES, np.random.default_rng(s)) for s in (0, 0, 1))
    for (W, _), (W_again, _), (W_other, _) in zip(first, again, other):
        assert np.array_equal(W, W_again)
        assert np.mean(W == W_other) < 0.01


@pytest.mark.parametrize("sizes", [(16, 12, 10), SIZES])
def test_every_number_in_a_training_of_float32_is_float32(nb, sizes):
    rng = np.random.default_rng(0)
    params = nb.init_params(sizes, rng)
    mean, std = np.float32(127), np.float32(70)
    x = nb.scale(rng.integers(0, 256, (70, sizes[0])).astype(np.uint8), mean, std)
    y = rng.integers(10, size=70)
    seen = [x, nb.softmax(x), nb.cross_entropy(x, y)]
    forward, backward, sgd_step = nb.forward, nb.backward, nb.sgd_step

    def forward_seen(params, x):
        logits, (A, Z) = forward(params, x)
        seen.extend([logits, *A, *Z, *map(nb.leaky_relu, Z), *map(nb.leaky_relu_grad, Z)])
        return logits, (A, Z)

    def backward_seen(params, cache, y):
        grads = backward(params, cache, y)
        seen.extend(flat(grads))
        return grads

    def sgd_step_seen(params, grads, lr):
        seen.extend(lr * grad for grad in flat(grads))
        sgd_step(params, grads, lr)
        seen.extend(flat(params))

    with mock.patch.multiple(
        nb, forward=forward_seen, backward=backward_seen, sgd_step=sgd_step_seen
    ):
        run(nb, params, x, y)
    assert len(seen) > 100
    assert {array.dtype for array in seen} == {np.dtype(np.float32)}


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
    logits, cache = nb.forward(params, x)
    inputs = params, x, y, logits, cache
    before = copy.deepcopy(inputs)
    nb.forward(params, x)
    nb.backward(params, cache, y)
    for array, same in zip(arrays_in(inputs), arrays_in(before), strict=True):
        assert np.array_equal(array, same)


def arrays_in(nested):
    if isinstance(nested, np.ndarray):
        return [nested]
    return [array for part in nested for array in arrays_in(part)]


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
    epochs, lr, decay = 20, 0.05, 0.1
    params, x, y = problem(sizes, 580, dtype=dtype)  # nine batches of 60 and one of 40
    if dtype == np.float32:  # at a kink, rounding decides between two slopes: keep all units away
        for W, b in params:
            W *= 0.1
            b += np.copysign(1, b)
    start, model = copy.deepcopy(flat(params)), torch_model(params)
    optimizer = torch.optim.SGD(model.parameters(), lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + decay * epoch))
    rng, rates, steps = np.random.default_rng(0), [], 0
    for _ in range(epochs):
        rates += scheduler.get_last_lr()
        for batch in nb.mini_batches(580, 60, rng):
            optimizer.zero_grad()
            logits = model(torch.tensor(x[batch]))
            torch.nn.functional.cross_entropy(logits, torch.tensor(y[batch])).backward()
            optimizer.step()
            steps += 1
        scheduler.step()
    assert steps == 200
    records = run(nb, params, x, y, epochs, lr, decay)
    assert np.allclose([record["lr"] for record in records], rates, rtol=1e-14)
    for ours, theirs, first in zip(flat(params), torch_arrays(model.parameters()), start):
        apart, moved = np.linalg.norm(ours - theirs), np.linalg.norm(theirs - first)
        assert apart < min(tolerance * np.linalg.norm(theirs), 1e-3 * moved)


def test_training_sees_each_training_image_once_an_epoch_with_its_label_and_no_other(nb):
    images = np.arange(1500, dtype=np.float32).reshape(-1, 1)  # each image is its own number
    digits = images[:, 0].astype(int) * 7 % 10
    params, seen = nb.init_params((1, 10), np.random.default_rng(0)), []

    def backward_seen(params, cache, y):
        seen.append((cache[0][0][:, 0].astype(int), y))
        return [(0 * W, 0 * b) for W, b in params]

    with mock.patch.object(nb, "backward", backward_seen):
        run(nb, params, images[:580], digits[:580], val=(images[580:], digits[580:]))
    assert [len(numbers) for numbers, _ in seen] == 3 * (9 * [60] + [40])
    for numbers, y in seen:
        assert np.array_equal(y, digits[numbers])
    for epoch in range(3):
        numbers, _ = zip(*seen[10 * epoch : 10 * epoch + 10])
        assert sorted(np.concatenate(numbers)) == list(range(580))


def test_records_tell_epoch_rate_loss_and_accuracy_at_the_end_of_each_epoch(nb):
    params, x, y = problem((6, 5, 10), 12_300)
    x, x_val, y, y_val = x[:10_200], x[10_200:], y[:10_200], y[10_200:]
    y[10_000:] = 0  # images beyond the first 10,000 would change the loss
    records = nb.train(params, x, y, x_val, y_val, 3, 60, 0.1, 0.5, np.random.default_rng(0))
    for epoch, record in enumerate(records):
        expected = {"epoch": epoch + 1, "lr": 0.1 / (1 + 0.5 * epoch)}
        for part, images, digits in (("train", x[:10_000], y[:10_000]), ("val", x_val, y_val)):
            logits = torch_model(params)(torch.tensor(images)).detach()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(digits))
            expected[f"{part}_loss"] = loss.item()
            expected[f"{part}_accuracy"] = np.mean(logits.numpy().argmax(axis=1) == digits)
        assert record == pytest.approx(expected, rel=1e-10)
    assert epoch == 2


def test_training_changes_the_arrays_of_the_parameters_themselves(nb):
    params, x, y = problem((6, 5, 10), 130)
    arrays, before = flat(params), copy.deepcopy(flat(params))
    run(nb, params, x, y)
    for array, after, start in zip(arrays, flat(params), before):
        assert after is array
        assert (array != start).all()


def test_one_seed_repeats_a_training_to_the_last_bit_and_another_does_not(nb):
    runs = []
    for seed in (0, 0, 1):
        params, x, y = problem((6, 5, 10), 130)
        runs.append((run(nb, params, x, y, seed=seed), params))
    (records, params), (same_records, same_params), (other_records, _) = runs
    assert records == same_records
    assert all(map(np.array_equal, flat(params), flat(same_params)))
    assert records[0]["train_loss"] != other_records[0]["train_loss"]


# A rate of 10⁸ in the first epoch, or not before the second, by a decay of almost -1.
@pytest.mark.parametrize("lr, decay, epoch", [(1e8, 0, 1), (0.01, -1 + 1e-10, 2)])
def test_a_training_that_diverges_says_so_and_in_which_epoch(nb, lr, decay, epoch):
    params, x, y = problem((20, 16, 10), 130, dtype=np.float32)
    records = nb.train(params, x, y, x, y, 3, 60, lr, decay, np.random.default_rng(0))
    assert [next(records)["epoch"] for _ in range(epoch - 1)] == list(range(1, epoch))
    with pytest.raises(FloatingPointError, match=rf"epoch {epoch}\b.*{lr}"):
        next(records)


# ------------------------------------------------------------------- the notebook's gradient check


BROKEN = {  # a piece of backward, a wrong one, and the errors of the four arrays that follow from it
    "da * leaky_relu_grad": ("2 * da * leaky_relu_grad", [1, 1, 0, 0]),
    "A[layer].T @ dz": ("2 * A[layer].T @ dz", [1, 0, 1, 0]),
    " / len(y)": ("", [19, 19, 19, 19]),
    "dz.sum(axis=0)": ("dz.mean(axis=0)", [0, 0.95, 0, 0.95]),
}


def test_the_notebooks_check_finds_backward_right(nb):
    params, x, y = problem((6, 5, 4, 10), 20)
    before = copy.deepcopy(params)
    errors, kinks = nb.gradient_errors(params, x, y, np.random.default_rng(0))
    assert len(errors) == 6 and max(errors) < 1e-6
    assert kinks == 0
    assert all(map(np.array_equal, flat(params), flat(before)))


@pytest.mark.parametrize("piece", BROKEN)
def test_the_notebooks_check_finds_a_broken_backward_wrong_and_by_how_much(nb, piece):
    replacement, expected = BROKEN[piece]
    broken = helpers.with_change(nb.backward, piece, replacement)
    params, x, y = problem((6, 5, 10), 20)
    errors, _ = nb.gradient_errors(params, x, y, np.random.default_rng(0), backward=broken)
    assert errors == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_notebooks_check_leaves_out_and_counts_entries_that_take_a_unit_over_its_kink(
    nb, layer
):
    params, x, y = problem((6, 5, 4, 10), 20)
    for array in params[layer]:
        array[..., 0] = 0  # now the first unit is at 0 on every image
    central_difference, seen = nb.central_difference, []

    def central_difference_seen(loss, array, index):
        slope = central_difference(loss, array, index)
        moves_unit = index[-1] == 0 and any(array is moved for moved in params[layer])
        seen.append((np.isnan(slope), moves_unit and layer < 2))  # the logits have no kink
        return slope

    with mock.patch.object(nb, "central_difference", central_difference_seen):
        errors, kinks = nb.gradient_errors(params, x, y, np.random.default_rng(0))
    left_out, at_kink = zip(*seen)
    assert left_out == at_kink
    assert kinks == sum(left_out)
    assert (kinks > 0) == (layer < 2)
    assert max(errors) < 1e-6


# ------------------------------------------------------------------------------- what Part II adds


def test_he_has_the_variance_of_its_formula_and_zero_biases(nb):
    for (W, b), n_in in zip(nb.he_params(SIZES, np.random.default_rng(0)), SIZES):
        assert W.dtype == b.dtype == np.float32
        assert abs(W.var() / (2 / n_in) - 1) < 5 * np.sqrt(0.8 / W.size)
        assert not b.any()


def test_stretched_and_equal_weights_are_xaviers_times_a_factor_and_one_value(nb):
    sizes = (6, 5, 10)
    drawn = {
        name: flat(init(sizes, np.random.default_rng(0)))
        for name, init in {"1": nb.init_params, "3": nb.stretched(3), "=": nb.equal(0.2)}.items()
    }
    for array, thrice, same in zip(*drawn.values()):
        assert array.dtype == thrice.dtype == same.dtype == np.float32
        assert relative_error(thrice, 3 * array) < 1e-6 if array.any() else not thrice.any()
        assert (same == (np.float32(0.2) if array.any() else 0)).all()


def test_sigmoid_and_its_slope_agree_with_pytorch(nb):
    z = torch.linspace(-20, 20, 101, dtype=torch.float64, requires_grad=True)
    value = torch.sigmoid(z)
    value.sum().backward()
    ours = z.detach().numpy()
    assert np.allclose(nb.sigmoid(ours), value.detach(), rtol=1e-12, atol=0)
    assert np.allclose(nb.sigmoid_grad(ours), z.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("changes", [{}, {"ALPHA": np.float32(0.5), "LEARNING_RATE": 0.1}], ids=str)
def test_a_trial_is_a_training_with_other_values_which_are_put_back(nb, seed, changes):
    _, x, y = problem((6, 5, 10), 200, dtype=np.float32)
    x, x_val, y, y_val = x[:130], x[130:], y[:130], y[130:]
    images = {"x_few": x, "y_few": y, "x_watch": x_val, "y_val": y_val}
    with mock.patch.dict(vars(nb), images | {"SIZES": (6, 5, 10)}):
        before = dict(vars(nb))
        loss, accuracy, params = nb.trial(seed, **changes)
        assert vars(nb) == before
    rng = np.random.default_rng(seed)
    lr = changes.get("LEARNING_RATE", nb.LEARNING_RATE)
    with mock.patch.dict(vars(nb), changes):
        reference = nb.init_params((6, 5, 10), rng)
        arguments = nb.TRIAL_EPOCHS, nb.BATCH_SIZE, lr, nb.DECAY, rng
        *_, record = nb.train(reference, x, y, x_val, y_val, *arguments)
    assert (loss, accuracy) == (record["val_loss"], record["val_accuracy"])
    assert all(map(np.array_equal, flat(params), flat(reference)))


@pytest.mark.parametrize("momentum", [(), (0.5,), (0,)])
def test_momentum_agrees_with_pytorch_and_changes_the_arrays_themselves(nb, momentum):
    params, gradients = problem((6, 5, 10), 1)[0], np.random.default_rng(1)
    arrays, model = flat(params), [torch.tensor(array) for array in flat(params)]
    optimizer = torch.optim.SGD(model, lr=0.1, momentum=(*momentum, 0.9)[0])
    velocities = [(0 * W, 0 * b) for W, b in params]
    for _ in range(20):
        grads = [
            (gradients.normal(size=W.shape), gradients.normal(size=b.shape)) for W, b in params
        ]
        nb.momentum_step(params, velocities, grads, 0.1, *momentum)
        for tensor, grad in zip(model, flat(grads)):
            tensor.grad = torch.tensor(grad)
        optimizer.step()
    for array, after, tensor in zip(arrays, flat(params), model):
        assert after is array
        assert relative_error(array, tensor) < 1e-12


def test_the_half_cosine_agrees_with_pytorch(nb):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for i in range(11):
        assert nb.half_cosine(0.3, i / 10) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_distorted_images_agree_with_those_that_pytorch_looks_up(nb):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(11, 784)).astype(np.float32)
    places = rng.uniform(-16, 16, (3, 2, 784))  # some outside, where the border counts
    places[0, :, :4] = [[-13.5, -13.5, 13.5, 13.5], [-13.5, 13.5, -13.5, 13.5]]
    ours = nb.distort(x, *nb.corners(places))
    groups = [0] * 4 + [1] * 4 + [2] * 3
    column_and_row = (places[groups, ::-1] / 13.5).transpose(0, 2, 1).reshape(11, 28, 28, 2)
    theirs = torch.nn.functional.grid_sample(
        torch.tensor(x, dtype=torch.float64).reshape(11, 1, 28, 28),
        torch.tensor(column_and_row),
        padding_mode="border",
        align_corners=True,
    ).reshape(11, 784)
    assert ours.dtype == np.float32
    assert relative_error(ours, theirs) < 1e-5


def test_affine_places_are_near_those_of_the_pixels_and_use_the_whole_range(nb):
    places = nb.affine_places(500, np.random.default_rng(0))
    assert places.shape == (500, 2, 784)
    pixels = np.stack([*np.indices((28, 28)).reshape(2, 784) - 13.5, np.ones(784)])
    fitted = places @ np.linalg.pinv(pixels)  # (500, 2, 3): a matrix and a shift
    assert np.allclose(fitted @ pixels, places, atol=1e-9)
    for entries, limit in ((fitted[..., :2] - np.eye(2), AFFINE), (fitted[..., 2:], SHIFT)):
        largest = abs(entries).reshape(500, -1).max(axis=0)
        assert (largest < limit + 1e-9).all() and (largest > 0.97 * limit).all()
        assert (abs(entries.mean(axis=0)) < 0.15 * limit).all()


def test_elastic_places_bend_by_the_wanted_amount_and_alike_for_neighbours(nb):
    still = np.zeros((2000, 2, 784))
    with mock.patch.object(nb, "affine_places", lambda n, rng: still[:n]):
        bends = nb.elastic_places(2000, np.random.default_rng(0)).reshape(4000, 28, 28)
    assert np.allclose(bends.std(axis=0), BEND, rtol=0.1)
    assert abs(bends.mean(axis=0)).max() < 0.1
    mine = bends[:, 14, 14]
    for apart in (1, 2, 4, 6):  # two bells so far apart overlap by e^(-d² / (4 σ²))
        for other in (bends[:, 14 + apart, 14], bends[:, 14, 14 - apart]):
            expected = np.exp(-(apart**2) / (4 * 4**2))
            assert np.corrcoef(mine, other)[0, 1] == pytest.approx(expected, abs=0.04)


def climb(nb, params, x, y, epochs=3, **options):
    """The records of a climb, validated on the training images."""
    return list(nb.climb(params, (x, y, x, y), epochs, np.random.default_rng(0), **options))


@pytest.mark.parametrize("falling", [True, False])
@pytest.mark.parametrize("penalty", [0, 0.1])
@pytest.mark.parametrize("momentum", [0.9, 0])
def test_climbing_without_distortions_agrees_with_gradients_from_pytorch(
    nb, momentum, penalty, falling
):
    params, x, y = problem((6, 5, 10), 500)
    model = torch_model(params)
    tensors = list(model.parameters())
    velocities = [torch.zeros_like(tensor) for tensor in tensors]
    rng, step, steps = np.random.default_rng(0), 0, 3 * -(-500 // nb.FAR_BATCH)
    for _ in range(3):
        for batch in nb.mini_batches(500, nb.FAR_BATCH, rng):
            lr = nb.FAR_RATE * ((1 + np.cos(np.pi * step / steps)) / 2 if falling else 1)
            logits = model(torch.tensor(x[batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y[batch]))
            for weights in tensors[::2]:  # every other one are biases
                loss = loss + penalty / 2 * (weights**2).sum()
            for tensor, velocity, grad in zip(
                tensors, velocities, torch.autograd.grad(loss, tensors), strict=True
            ):
                velocity.mul_(momentum).sub_(grad, alpha=lr)
                tensor.data.add_(velocity)
            step += 1
    climb(nb, params, x, y, momentum=momentum, falling=falling, penalty=penalty)
    for ours, theirs in zip(flat(params), torch_arrays(tensors), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_climbing_sees_each_group_of_a_batch_in_a_distortion_of_its_own(nb):
    images = np.zeros((500, 28, 28), np.float32)
    images[np.arange(500), 14, 14] = np.arange(1, 501)  # one spot, which tells the image
    digits = np.arange(500) * 7 % 10
    seen, asked = [], []

    def moved(n, rng):
        """Every distortion moves the spot to a column of its own, from 3 to 24, in turn."""
        columns = 3 + np.arange(len(asked), len(asked) + n) % 22
        asked.extend(columns)
        shift = np.stack([np.zeros(n), 14 - columns], axis=1)[:, :, None]
        return np.indices((28, 28)).reshape(2, 784) - 13.5 + shift

    def backward_seen(params, cache, y):
        seen.append((cache[0][0].reshape(-1, 28, 28), y))
        return [(0 * W, 0 * b) for W, b in params]

    params = nb.init_params((784, 10), np.random.default_rng(0))
    with mock.patch.object(nb, "backward", backward_seen):
        records = climb(nb, params, images.reshape(500, 784), digits, 10, places=moved)
    assert [record["epoch"] for record in records] == [5, 10]
    assert len(seen) == 10 * 3 and len(asked) == nb.GROUPS * len(seen)
    for i, (x, y) in enumerate(seen):
        numbers = x.sum(axis=(1, 2)).round().astype(int) - 1
        assert np.array_equal(y, digits[numbers])
        columns = asked[nb.GROUPS * i : nb.GROUPS * (i + 1)]
        groups = np.array_split(x.argmax(axis=2)[:, 14], nb.GROUPS)
        assert [set(group) for group in groups] == [{column} for column in columns]


def test_every_number_in_a_climb_of_float32_is_float32(nb):
    params = nb.he_params((784, 6, 10), np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(210, 784)).astype(np.float32)
    seen, momentum_step = [], nb.momentum_step

    def seen_step(params, velocities, grads, lr, momentum):
        momentum_step(params, velocities, grads, lr, momentum)
        seen.extend(flat(params) + flat(velocities) + flat(grads) + [lr * grads[0][0]])

    with mock.patch.object(nb, "momentum_step", seen_step):
        climb(nb, params, x, np.arange(210) % 10, places=nb.elastic_places, penalty=nb.PENALTY)
    assert len(seen) == 3 * 2 * 13
    assert {array.dtype for array in seen} == {np.dtype(np.float32)}


# ---------------------------------------------------------------------- definitions with a mistake


def test_tracebacks_and_inspect_show_the_source_of_the_cells():
    nb = definitions()
    with pytest.raises(ValueError) as caught:
        nb.forward([(np.ones((3, 2)), np.ones(2))], np.ones((1, 4)))
    text = "".join(traceback.format_exception(caught.value))
    assert "mnist_from_scratch.ipynb, cell forward" in text
    assert "Z.append(a @ W + b)" in text
    assert inspect.getsource(nb.softmax).startswith("def softmax(z):")


@pytest.mark.parametrize("piece, count", [("no such piece", 0), ("keepdims=True", 4)])
def test_a_change_whose_piece_does_not_stand_there_exactly_once_is_refused(piece, count):
    with pytest.raises(ValueError, match=f"{piece}.* {count} times"):
        definitions({piece: ""})


def test_taking_the_slope_from_the_output_of_leaky_relu_changes_nothing():
    """Not a mistake, for the output has the sign of the input. With a plain ReLU and >= it is one."""
    nb, same = (
        definitions(),
        definitions({"leaky_relu_grad(Z[layer - 1])": "leaky_relu_grad(A[layer])"}),
    )
    for dtype in TOLERANCE:
        params, x, y = problem(SIZES, 60, dtype=dtype)
        _, cache = nb.forward(params, x)
        ours, theirs = nb.backward(params, cache, y), same.backward(params, cache, y)
        assert all(map(np.array_equal, flat(ours), flat(theirs)))


MISTAKES = {  # for each test, mistakes that it has to catch: (piece of the definitions, replacement)
    test_settings_are_those_asked_for: {
        "hidden layers swapped": ("500, 300", "300, 500"),
        "tenfold decay": ("30, 60, 0.01, 0.005", "30, 60, 0.01, 0.05"),
    },
    test_scaled_pixels_are_shifted_by_the_mean_then_divided_by_the_deviation: {
        "divided by the deviation before the mean is subtracted": (
            "x -= mean\n    x /= std",
            "x /= std\n    x -= mean",
        ),
    },
    test_leaky_relu_and_its_slope_follow_their_formulas_even_at_zero: {
        "Leaky ReLU by minimum": ("np.maximum(z, ALPHA * z)", "np.minimum(z, ALPHA * z)"),
        "slopes of the two sides swapped": ("z > 0, ALPHA", "z < 0, ALPHA"),
        "slope 1 at zero": ("z > 0, ALPHA", "z >= 0, ALPHA"),
    },
    test_softmax_and_loss_are_right_and_finite_for_small_and_huge_logits: {
        "softmax without the maximum subtracted": (
            "np.exp(z - z.max(axis=1, keepdims=True))",
            "np.exp(z)",
        ),
        "softmax over the wrong axis": (
            "e.sum(axis=1, keepdims=True)",
            "e.sum(axis=0, keepdims=True)",
        ),
        "loss without the maximum subtracted": ("z = z - z.max(axis=1, keepdims=True)", ""),
    },
    test_softmax_and_loss_do_not_change_if_a_number_is_added_to_a_row: {
        "softmax with the maximum of the whole batch subtracted": (
            "np.exp(z - z.max(axis=1, keepdims=True))",
            "np.exp(z - z.max())",
        ),
    },
    test_xavier_has_the_bounds_and_the_variance_of_its_formula_and_zero_biases: {
        "Xavier's bound with 3 for 6": ("np.sqrt(6 /", "np.sqrt(3 /"),
        "Xavier's bound with a product": ("6 / (n_in + n_out)", "6 / (n_in * n_out)"),
        "bound of the inputs alone": ("6 / (n_in + n_out)", "3 / n_in"),
        "no negative weights": ("rng.uniform(-r, r,", "rng.uniform(0, r,"),
        "biases of one": ("np.zeros(n_out, np.float32)", "np.ones(n_out, np.float32)"),
    },
    test_one_seed_repeats_the_first_weights_and_another_does_not: {
        "first weights regardless of the seed": (
            "rng.uniform(-r, r,",
            "np.random.default_rng(SEED).uniform(-r, r,",
        ),
    },
    test_every_number_in_a_training_of_float32_is_float32: {
        "float64 from a slope that is a Python number": ("np.float32(0.01)", "0.01"),
        "weights in float64": ("(n_in, n_out)).astype(np.float32)", "(n_in, n_out))"),
        "biases in float64": ("np.zeros(n_out, np.float32)", "np.zeros(n_out)"),
        "one-hot rows in float64": ("np.eye(10, dtype=np.float32)", "np.eye(10)"),
    },
    test_logits_loss_and_gradients_agree_with_pytorch: {
        "tenfold slope": ("np.float32(0.01)", "np.float32(0.1)"),
        "Leaky ReLU overwrites the pre-activations": ("ALPHA * z)", "ALPHA * z, out=z)"),
        "loss summed over the batch": ("y]).mean()", "y]).sum()"),
        "biases not added": ("Z.append(a @ W + b)", "Z.append(a @ W)"),
        "slope left out": ("da * leaky_relu_grad(Z[layer - 1])", "da"),
        "slope of the layer before": ("Z[layer - 1]", "Z[layer - 2]"),
        "transpose of the weights left out": ("dz @ W.T", "dz @ W"),
        "transpose of the inputs left out": ("A[layer].T @ dz", "A[layer] @ dz"),
        "1/60 for 1/B": (" / len(y)", " / BATCH_SIZE"),
        "1/B a second time, by averaging the bias gradient": ("dz.sum(axis=0)", "dz.mean(axis=0)"),
        "bias gradient not summed": ("dz.sum(axis=0)", "dz"),
        "gradients in reverse order": ("grads.insert(0, (", "grads.insert(len(grads), ("),
    },
    test_gradients_agree_with_central_differences_in_every_entry: {
        "score of the true digit added instead of subtracted": ("- z[np.arange", "+ z[np.arange"),
        "no activation function": ("a = leaky_relu(Z[-1])", "a = Z[-1]"),
        "slope of the layer itself": ("Z[layer - 1]", "Z[layer]"),
    },
    test_gradient_at_the_logits_agrees_with_pytorch_and_sums_to_zero_in_each_row: {
        "1/B forgotten": (" / len(y)", ""),
        "one-hot row of the digit before": ("ONE_HOT[y]", "ONE_HOT[y - 1]"),
    },
    test_forward_and_backward_leave_parameters_images_and_cache_as_they_are: {
        "backward overwrites what forward computed": (
            "dz = (softmax(Z[-1]) - ONE_HOT[y]) / len(y)",
            "dz = Z[-1]; dz[:] = (softmax(dz) - ONE_HOT[y]) / len(y)",
        ),
    },
    test_mini_batches_hold_every_number_once_and_only_the_last_may_be_smaller: {
        "last batch dropped": (
            "range(0, n, batch_size)",
            "range(0, n - batch_size + 1, batch_size)",
        ),
    },
    test_mini_batches_are_random_differ_between_epochs_and_repeat_with_the_seed: {
        "shuffling left out": ("rng.permutation(n)", "np.arange(n)"),
        "same order in every epoch": (
            "rng.permutation(n)",
            "np.random.default_rng(SEED).permutation(n)",
        ),
    },
    test_a_step_goes_against_the_gradient_and_changes_the_arrays_themselves: {
        "step uphill": ("W -= lr * dW", "W += lr * dW"),
        "biases not updated": ("b -= lr * db", "pass"),
    },
    test_200_steps_of_training_agree_with_pytorch: {
        "epochs counted from 1 in the decay": (
            "lr_now = decayed(lr, decay, epoch)",
            "lr_now = decayed(lr, decay, epoch + 1)",
        ),
        "decay on top of decay": ("lr_now = decayed(", "lr = lr_now = decayed("),
        "decay after every step": (
            "        sgd_step(params, grads, lr)",
            "        sgd_step(params, grads, lr)\n        lr = decayed(lr, DECAY, 1)",
        ),
        "decay only in the record": ("batch_size, lr_now, rng)", "batch_size, lr, rng)"),
    },
    test_training_sees_each_training_image_once_an_epoch_with_its_label_and_no_other: {
        "batches overlap": ("start + batch_size]", "start + batch_size + 1]"),
        "trained on the validation images": (
            "train_epoch(params, x_train, y_train,",
            "train_epoch(params, x_val, y_val,",
        ),
        "trained on the validation images, too": (
            "train_epoch(params, x_train, y_train,",
            "train_epoch(params, np.append(x_train, x_val, 0), np.append(y_train, y_val),",
        ),
        "images without their labels": ("y[batch])", "y[: len(batch)])"),
    },
    test_records_tell_epoch_rate_loss_and_accuracy_at_the_end_of_each_epoch: {
        "rate falls in a straight line": ("lr / (1 + decay * epoch)", "lr * (1 - decay * epoch)"),
        "validated on training images": (
            "evaluate(params, x_val, y_val)",
            "evaluate(params, x_train, y_train)",
        ),
        "epochs counted from 0 in the record": ("epoch + 1,", "epoch,"),
    },
    test_training_changes_the_arrays_of_the_parameters_themselves: {
        "update of a copy": ("W -= lr * dW", "W = W - lr * dW"),
    },
    test_one_seed_repeats_a_training_to_the_last_bit_and_another_does_not: {
        "shuffling regardless of the seed": (
            "rng.permutation(n)",
            "np.random.default_rng().permutation(n)",
        ),
    },
    test_a_training_that_diverges_says_so_and_in_which_epoch: {
        "divergence not noticed": ("if not np.isfinite(train_loss + val_loss)", "if False"),
        "divergence with NumPy's warnings": ('np.errstate(all="ignore")', "np.errstate()"),
        "epoch of the divergence counted from 0": ("epoch {epoch}:", "epoch {epoch - 1}:"),
    },
    test_the_notebooks_check_finds_backward_right: {
        "central difference over h instead of 2 h": ("/ (2 * h)", "/ h"),
        "moved entry not put back": ("    array[index] = value\n", ""),
    },
    test_the_notebooks_check_finds_a_broken_backward_wrong_and_by_how_much: {
        "error not relative": (" / np.nanmax(abs(slopes))", ""),
        "gradient check of backward with itself": (
            "[central_difference(loss, array, entry) for entry in entries]",
            "[grad[entry] for entry in entries]",
        ),
        "gradient check of the right backward, whatever is asked": (
            "grads = backward(params, forward(",
            "grads = globals()['backward'](params, forward(",
        ),
    },
    test_the_notebooks_check_leaves_out_and_counts_entries_that_take_a_unit_over_its_kink: {
        "kinks not left out": ("if np.array_equal(sides_above, sides_below)", "if True"),
        "kinks of the first layer only": ("for z in Z[:-1]", "for z in Z[:1]"),
        "kinks of the logits, which have none": ("for z in Z[:-1]", "for z in Z"),
        "kinks counted once an array": ("np.isnan(slopes).sum()", "np.isnan(slopes).any()"),
    },
    test_he_has_the_variance_of_its_formula_and_zero_biases: {
        "He with the number of outputs": ("sum(W.shape) / len(W)", "sum(W.shape) / len(b)"),
        "He twice as wide": ("np.sqrt(sum(W.shape) / len(W))", "sum(W.shape) / len(W)"),
    },
    test_stretched_and_equal_weights_are_xaviers_times_a_factor_and_one_value: {
        "not stretched": ("np.float32(factor) * W", "W"),
        "equal to something else": ("np.full_like(W, value)", "np.full_like(W, 1)"),
    },
    test_sigmoid_and_its_slope_agree_with_pytorch: {
        "sigmoid mirrored": ("1 / (1 + np.exp(-z))", "1 / (1 + np.exp(z))"),
        "slope of the sigmoid without 1 - a": ("sigmoid(z) * (1 - sigmoid(z))", "sigmoid(z)"),
    },
    test_a_trial_is_a_training_with_other_values_which_are_put_back: {
        "a trial that changes nothing": ("patch.dict(globals(), changes)", "patch.dict(globals())"),
        "a trial that leaves its changes behind": (
            "    with patch.dict(globals(), changes), np",
            "    globals().update(changes)\n    with np",
        ),
        "a trial regardless of the seed": (
            "rng = np.random.default_rng(seed)",
            "rng = np.random.default_rng(SEED)",
        ),
        "a trial without decay": ("decayed(LEARNING_RATE, DECAY, epoch)", "LEARNING_RATE"),
    },
    test_momentum_agrees_with_pytorch_and_changes_the_arrays_themselves: {
        "velocity uphill": ("velocity -= lr * grad", "velocity += lr * grad"),
        "velocity that does not decay": ("velocity *= momentum", "pass"),
        "another momentum": ("MOMENTUM = 0.9", "MOMENTUM = 0.95"),
        "a copy moved": ("array += velocity", "array = array + velocity"),
    },
    test_the_half_cosine_agrees_with_pytorch: {
        "rate that rises": ("(1 + cos(pi * progress))", "(1 - cos(pi * progress))"),
        "a whole cosine": ("cos(pi * progress)", "cos(2 * pi * progress)"),
    },
    test_distorted_images_agree_with_those_that_pytorch_looks_up: {
        "rows and columns swapped": ("28 * row + column", "28 * column + row"),
        "nearest pixel to the left": ("first + 29], axis=1)", "first + 28], axis=1)"),
        "weights of left and right swapped": (
            "up, left = 1 - down, 1 - right",
            "up, left = 1 - down, right\n    right = 1 - left",
        ),
        "all images in one way": ("np.array_split(x, len(numbers)), numbers", "[x], numbers"),
    },
    test_affine_places_are_near_those_of_the_pixels_and_use_the_whole_range: {
        "shifts to one side": ("rng.uniform(-1.5, 1.5,", "rng.uniform(0, 1.5,"),
        "stretched only": ("np.eye(2) + rng", "np.eye(2) + np.eye(2) * rng"),
        "counted from the corner": ("- 13.5  # row and column", "# row and column"),
    },
    test_elastic_places_bend_by_the_wanted_amount_and_alike_for_neighbours: {
        "rows of the smoothing with sum 1": (
            "SMOOTH / np.linalg.norm(SMOOTH, axis=1, keepdims=True)",
            "SMOOTH / SMOOTH.sum(axis=1, keepdims=True)",
        ),
        "smoothed along columns only": (" @ SMOOTH.T", ""),
        "a narrower bell": ("/ (2 * 4**2)", "/ 4**2"),
    },
    test_climbing_without_distortions_agrees_with_gradients_from_pytorch: {
        "schedule one epoch ahead": ("(epoch - 1 + i", "(epoch + i"),
        "rate that falls by epochs": ("(epoch - 1 + i / len(batches))", "(epoch - 1)"),
        "momentum whatever is asked": ("grads, lr, momentum)", "grads, lr)"),
        "penalty twice as large": ("dW += penalty * W", "dW += 2 * penalty * W"),
        "no penalty": ("dW += penalty * W", "pass"),
        "falling, whatever is asked": (" / epochs if falling else 0", " / epochs"),
    },
    test_climbing_sees_each_group_of_a_batch_in_a_distortion_of_its_own: {
        "the first distortions for all batches": (
            "slice(GROUPS * i, GROUPS * (i + 1))",
            "slice(GROUPS)",
        ),
        "digits of other images": ("y_train[batch])", "y_train[: len(batch)])"),
        "a record after every epoch": ("if epoch % 5 == 0:", "if epoch:"),
        "distortions of the first epoch for all": (
            "        if places:\n            numbers",
            "        if places and epoch == 1:\n            numbers",
        ),
    },
    test_every_number_in_a_climb_of_float32_is_float32: {
        "rate that is a NumPy number": ("(1 + cos(pi * progress))", "(1 + np.cos(pi * progress))"),
        "weights of the pixels in float64": (".astype(np.float32).swapaxes", ".swapaxes"),
    },
}


def cases(test):
    """All combinations of arguments that a test is parametrised with."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args[0].split(", "), mark.args[1]
        axes.append([dict(zip(names, value if len(names) > 1 else [value])) for value in values])
    for combination in itertools.product(*axes):
        yield dict(itertools.chain(*map(dict.items, combination)))


def fails(test, nb, arguments):
    """Whether a comparison fails or a warning comes; shapes that do not fit are not counted."""
    try:
        test(nb, **arguments)
    except (AssertionError, RuntimeWarning, pytest.fail.Exception):
        return True
    except ValueError:
        pass
    return False


@pytest.mark.parametrize(
    "test, mistake",
    [(test, mistake) for test, mistakes in MISTAKES.items() for mistake in mistakes],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_mistake_is_caught(test, mistake):
    old, new = MISTAKES[test][mistake]
    broken = definitions({old: new})
    assert any(fails(test, broken, arguments) for arguments in cases(test)), test.__name__


def test_every_test_of_the_network_catches_a_mistake():
    tests = {
        test
        for name, test in globals().items()
        if name.startswith("test_") and "nb" in inspect.signature(test).parameters
    }
    assert tests == set(MISTAKES)
