"""The tests against mistakes: each is planted in the code and has to be caught by a test.

A test catches it if a comparison fails or a warning comes; shapes that do not fit are not counted,
for such a mistake shows itself.
"""

import itertools

import pytest
import test_network as t
from conftest import definitions

pytestmark = pytest.mark.filterwarnings("error")

LEAKY = t.test_leaky_relu_and_its_slope_follow_their_formulas_even_at_zero
SOFTMAX = t.test_softmax_and_loss_are_right_and_finite_for_small_and_huge_logits
SHIFTED = t.test_softmax_and_loss_do_not_change_if_a_number_is_added_to_a_row
XAVIER = t.test_xavier_has_the_bounds_and_the_variance_of_its_formula_and_zero_biases
PYTORCH = t.test_logits_loss_and_gradients_agree_with_pytorch
SIGMOID = t.test_another_activation_function_agrees_with_pytorch
DIFFERENCES = t.test_gradients_agree_with_central_differences_in_every_entry
LOGITS = t.test_gradient_at_the_logits_agrees_with_pytorch_and_sums_to_zero_in_each_row
CENTRAL = t.test_central_difference_is_central_and_puts_the_entry_back
CHECK = t.test_the_notebooks_check_finds_a_mistake_in_half_of_any_array_and_nowhere_else
HOW_WRONG = t.test_the_notebooks_check_says_how_wrong_a_gradient_is
BATCHES = t.test_mini_batches_hold_every_number_once_and_only_the_last_may_be_smaller
RANDOM = t.test_mini_batches_are_random_differ_between_epochs_and_repeat_with_the_seed
STEP = t.test_a_step_goes_against_the_gradient_and_changes_the_arrays_themselves
TRAINING = t.test_200_steps_of_training_agree_with_pytorch
ONCE = t.test_an_epoch_sees_each_image_once_with_its_label
SEED = t.test_one_seed_repeats_first_weights_and_training_and_another_does_not
FLOAT32 = t.test_every_number_in_a_training_of_float32_is_float32
LOOPS = t.test_the_loops_in_the_open_agree_with_pytorch
EVALUATION = t.test_loss_accuracy_and_probabilities_agree_with_pytorch
INTERVAL = t.test_the_confidence_interval_holds_95_percent_of_the_normal_distribution
HE = t.test_he_has_the_variance_of_its_formula_and_zero_biases
TRIAL = t.test_a_trial_is_ten_epochs_with_the_given_choices
DECAY = t.test_weight_decay_agrees_with_pytorch_and_changes_the_arrays_themselves
COSINE = t.test_the_cosine_agrees_with_pytorch
DISTORTED = t.test_distorted_images_agree_with_those_that_pytorch_looks_up
AFFINE = t.test_affine_places_are_near_those_of_the_pixels_and_use_the_whole_range
ELASTIC = t.test_elastic_places_bend_by_the_wanted_amount_and_alike_for_neighbours

# The test that catches it; what is wrong; a piece of the code; what stands there instead.
# fmt: off
MISTAKES = [
    (t.test_settings_are_those_asked_for, "hidden layers swapped", "500, 300", "300, 500"),
    (t.test_settings_are_those_asked_for, "tenfold decay", "60, 0.01, 0.005", "60, 0.01, 0.05"),
    (t.test_standardised_pixels_are_shifted_by_the_mean_then_divided_by_the_deviation,
     "divided before the mean is subtracted", "-1) - PIXEL_MEAN) / PIXEL_STD",
     "-1) / PIXEL_STD) - PIXEL_MEAN"),

    (LEAKY, "by minimum", "np.maximum(z, ALPHA * z)", "np.minimum(z, ALPHA * z)"),
    (LEAKY, "slopes of the two sides swapped", "np.maximum(z > 0", "np.maximum(z < 0"),
    (LEAKY, "slope 1 at zero", "np.maximum(z > 0,", "np.maximum(z >= 0,"),

    (SOFTMAX, "maximum not subtracted", "np.exp(z - z.max(axis=1, keepdims=True))", "np.exp(z)"),
    (SOFTMAX, "sum over the wrong axis", "e / e.sum(axis=1", "e / e.sum(axis=0"),
    (SOFTMAX, "maximum not subtracted in the loss", "z = z - z.max(axis=1, keepdims=True)", ""),
    (SHIFTED, "maximum of the whole batch", "np.exp(z - z.max(axis=1, keepdims=True))",
     "np.exp(z - z.max())"),

    (XAVIER, "3 for 6", "np.sqrt(6 /", "np.sqrt(3 /"),
    (XAVIER, "a product", "6 / (n_in + n_out)", "6 / (n_in * n_out)"),
    (XAVIER, "inputs alone", "6 / (n_in + n_out)", "3 / n_in"),
    (XAVIER, "no negative weights", "rng.uniform(-r, r,", "rng.uniform(0, r,"),
    (XAVIER, "biases of one", "np.zeros(n_out, np", "np.ones(n_out, np"),
    (SEED, "the same first weights", "rng.uniform(-r, r,",
     "np.random.default_rng(SEED).uniform(-r, r,"),

    (FLOAT32, "a slope in float64", "ALPHA = np.float32(0.01)", "ALPHA = np.float64(0.01)"),
    (FLOAT32, "weights in float64", "n_out).astype(np.float32)", "n_out)"),
    (FLOAT32, "biases in float64", "np.zeros(n_out, np.float32)", "np.zeros(n_out)"),
    (FLOAT32, "one-hot rows in float64", "np.eye(10, dtype=np.float32)", "np.eye(10)"),
    (FLOAT32, "a rate that is a NumPy number", "float(lr * (1 + np.cos(np.pi * t)) / 2)",
     "lr * (1 + np.cos(np.pi * t)) / 2"),
    (FLOAT32, "pixels in float64", "np.float32(33.3), np.float32(78.6)", "33.3, np.float64(78.6)"),

    (PYTORCH, "tenfold slope", "ALPHA = np.float32(0.01)", "ALPHA = np.float32(0.1)"),
    (PYTORCH, "pre-activations overwritten", "np.maximum(z, ALPHA * z)",
     "np.maximum(z, ALPHA * z, out=z)"),
    (PYTORCH, "loss summed over the batch", "y]).mean()", "y]).sum()"),
    (PYTORCH, "biases not added", "        z = a @ W + b\n        A.append",
     "        z = a @ W\n        A.append"),
    (PYTORCH, "slope left out", "da * slope(Z[layer - 1])", "da"),
    (PYTORCH, "slope of the layer before", "Z[layer - 1]", "Z[layer - 2]"),
    (PYTORCH, "weights not transposed", "dz @ W.T", "dz @ W"),
    (PYTORCH, "inputs not transposed", "A[layer].T @ dz", "A[layer] @ dz"),
    (PYTORCH, "1/60 for 1/B", "ONE_HOT[y]) / len(y)\n    for layer",
     "ONE_HOT[y]) / 60\n    for layer"),
    (PYTORCH, "bias gradient averaged", "@ dz, dz.sum(axis=0)", "@ dz, dz.mean(axis=0)"),
    (PYTORCH, "bias gradient not summed", "@ dz, dz.sum(axis=0)", "@ dz, dz"),
    (PYTORCH, "gradients in reverse order", "grads.insert(0, (", "grads.insert(len(grads), ("),
    (SIGMOID, "always Leaky ReLU", "a = f(z)", "a = leaky_relu(z)"),
    (SIGMOID, "slope of Leaky ReLU", "slope(Z[layer - 1])", "leaky_relu_grad(Z[layer - 1])"),
    (SIGMOID, "evaluated with Leaky ReLU", "loss_and_accuracy(forward(params, x, f)",
     "loss_and_accuracy(forward(params, x)"),
    (SIGMOID, "mirrored", "1 / (1 + np.exp(-z))", "1 / (1 + np.exp(z))"),
    (SIGMOID, "slope without 1 - a", "sigmoid(z) * (1 - sigmoid(z))", "sigmoid(z)"),

    (DIFFERENCES, "true score added", "- z[np.arange", "+ z[np.arange"),
    (DIFFERENCES, "no activation function", "a = f(z)", "a = z"),
    (DIFFERENCES, "slope of the layer itself", "Z[layer - 1]", "Z[layer]"),
    (LOGITS, "1/B forgotten", "ONE_HOT[y]) / len(y)\n    for layer", "ONE_HOT[y])\n    for layer"),
    (LOGITS, "row of the digit before", "softmax(Z[-1]) - ONE_HOT[y]",
     "softmax(Z[-1]) - ONE_HOT[y - 1]"),
    (t.test_forward_and_backward_leave_parameters_images_and_cache_as_they_are,
     "backward overwrites the cache", "    dz = (softmax(Z[-1]) - ONE_HOT[y])",
     "    dz = Z[-1]; dz[:] = (softmax(dz) - ONE_HOT[y])"),

    (CENTRAL, "over h", "/ (2 * h)", "/ h"),
    (CENTRAL, "to one side", "array[index] = value - h", "array[index] = value"),
    (CENTRAL, "entry not put back", "    array[index] = value\n", ""),
    (CHECK, "layers left out", "zip(params, grads):\n        for array,",
     "zip(params[:3], grads):\n        for array,"),
    (CHECK, "biases left out", "[(W, dW), (b, db)]", "[(W, dW), (W, dW)]"),
    (CHECK, "one entry of each array", "rng.integers(len(row), size=20)", "np.zeros(20, int)"),
    (CHECK, "largest error missed", "abs(ours[chosen] - numerical).max()",
     "abs(ours[chosen] - numerical).min()"),
    (HOW_WRONG, "error not relative", " / abs(numerical).max())", ")"),
    (HOW_WRONG, "compared with itself", "[central_difference(loss, row, i) for i in chosen]",
     "ours[chosen]"),
    (HOW_WRONG, "Leaky ReLU, whatever is asked", "cross_entropy(forward(params, x, f)[0], y)",
     "cross_entropy(forward(params, x)[0], y)"),

    (BATCHES, "last batch dropped", "range(0, n, batch_size)",
     "range(0, n - batch_size + 1, batch_size)"),
    (RANDOM, "not shuffled", "rng.permutation(n)", "np.arange(n)"),
    (RANDOM, "the same order always", "rng.permutation(n)",
     "np.random.default_rng(SEED).permutation(n)"),
    (SEED, "another order each time", "rng.permutation(n)",
     "np.random.default_rng().permutation(n)"),
    (STEP, "uphill", "W -= lr * dW", "W += lr * dW"),
    (STEP, "biases not updated", "lr * dW\n        b -= lr * db", "lr * dW"),
    (STEP, "a copy changed", "W -= lr * dW", "W = W - lr * dW"),
    (TRAINING, "decay after every step", "        step(params, grads, lr)\n",
     "        step(params, grads, lr)\n        lr /= 1 + DECAY\n"),
    (ONCE, "batches overlap", "start + batch_size]", "start + batch_size + 1]"),
    (ONCE, "images without their labels", "cache, y[batch], slope)",
     "cache, y[: len(batch)], slope)"),

    (LOOPS, "rate falls in a straight line", "RATE / (1 + DECAY * epoch)", "RATE * (1 - DECAY * epoch)"),
    (LOOPS, "epochs counted from 1 in the decay", "DECAY * epoch)", "DECAY * (epoch + 1))"),
    (LOOPS, "decay on top of decay", "lr = LEARNING_RATE /", "lr = LEARNING_RATE = LEARNING_RATE /"),
    (LOOPS, "rate without decay", "BATCH_SIZE, lr, rng)", "BATCH_SIZE, LEARNING_RATE, rng)"),
    (LOOPS, "trained on the validation images", "train_epoch(params, x_train, y_train, BATCH",
     "train_epoch(params, x_val, y_val, BATCH"),
    (LOOPS, "trained on the validation images, too", "train_epoch(params, x_train, y_train, BATCH",
     "train_epoch(params, np.append(x_train, x_val, 0), np.append(y_train, y_val), BATCH"),
    (LOOPS, "validated on training images", " curves.add(training, evaluate(params, x_val, y_val))",
     " curves.add(training, evaluate(params, x_train, y_train))"),
    (LOOPS, "one layer: inputs not summed", "0.01 * dz.sum(axis=0)", "0.01 * dz.mean(axis=0)"),
    (LOOPS, "one layer: uphill", "W -= 0.01", "W += 0.01"),
    (LOOPS, "far: schedule one epoch ahead", "epoch / FAR_EPOCHS", "(epoch + 1) / FAR_EPOCHS"),
    (LOOPS, "far: rate that does not fall", "FAR_BATCH, lr, rng", "FAR_BATCH, FAR_RATE, rng"),
    (LOOPS, "far: no weight decay", "rng, step=decay_step)", "rng)"),
    (LOOPS, "far: a distortion for all epochs", "x = helpers.distort(x_train, rng, out=x)",
     "x = x if epoch else helpers.distort(x_train, rng, out=x)"),
    (LOOPS, "far: distorted ever more", "x = helpers.distort(x_train, rng, out=x)",
     "x = helpers.distort(x if epoch else x_train, rng, out=x)"),
    (LOOPS, "far: epochs counted from 0 in the report", "y_val), epoch + 1)", "y_val), epoch)"),
    (LOOPS, "far: a report after every epoch", "if (epoch + 1) % 8 == 0:", "if True:"),

    (EVALUATION, "mean of the digits", "(z.argmax(axis=1) == y).mean()", "z.argmax(axis=1).mean()"),
    (EVALUATION, "pixels not standardised", "forward(params, standardise(images))",
     "forward(params, images.reshape(-1, 784) / np.float32(255))"),
    (EVALUATION, "logits for probabilities", "return softmax(forward(", "return (forward("),
    (INTERVAL, "99 %", "1.96 * np.sqrt", "2.58 * np.sqrt"),
    (INTERVAL, "standard deviation of one image", "(1 - accuracy) / n)", "(1 - accuracy))"),

    (HE, "number of outputs", "np.sqrt(2 / n_in)", "np.sqrt(2 / n_out)"),
    (HE, "variance for deviation", "np.sqrt(2 / n_in)", "2 / n_in"),
    (TRIAL, "regardless of the seed", "default_rng([seed, 10])", "default_rng([SEED, 10])"),
    (TRIAL, "the same batches for all seeds", "default_rng([seed, 12])", "default_rng([SEED, 12])"),
    (TRIAL, "regardless of the sizes", "init_params(sizes, np", "init_params((784, 8, 10), np"),
    (TRIAL, "always Xavier", "default_rng([seed, 10]), weights)", "default_rng([seed, 10]))"),
    (TRIAL, "trained with Leaky ReLU", "batch_size, lr, rng, activation)", "batch_size, lr, rng)"),
    (TRIAL, "evaluated with Leaky ReLU", "y_val[:1000], activation[0])", "y_val[:1000])"),
    (TRIAL, "regardless of the batch size", "batch_size, lr, rng, activation)",
     "60, lr, rng, activation)"),
    (TRIAL, "always standardised", "x, x_check = scale(", "x, x_check = standardise("),
    (TRIAL, "one epoch", "        for epoch in range(10):", "        for epoch in range(1):"),
    (TRIAL, "validated on training images", "x_check, y_val[:1000]", "x[:70], y_train[:70]"),
    (t.test_a_trial_with_too_long_steps_counts_as_ten_without_a_warning,
     "NumPy's warnings",
     'np.errstate(all="ignore"):\n        for epoch', "np.errstate():\n        for epoch"),
    (t.test_a_mistyped_name_of_a_choice_is_an_error, "any name is taken",
     "scale=standardise\n", "scale=standardise, **others\n"),

    (DECAY, "uphill", "W -= lr * (dW +", "W += lr * (dW +"),
    (DECAY, "a copy changed", "W -= lr * (dW +", "W = W - lr * (dW +"),
    (DECAY, "twice as large", "WEIGHT_DECAY * W", "2 * WEIGHT_DECAY * W"),
    (DECAY, "none", " + WEIGHT_DECAY * W", ""),
    (DECAY, "of the biases, too", " * W)\n        b -= lr * db",
     " * W)\n        b -= lr * (db + WEIGHT_DECAY * b)"),
    (COSINE, "rising", "(1 + np.cos(np.pi * t))", "(1 - np.cos(np.pi * t))"),
    (COSINE, "a whole cosine", "np.pi * t", "2 * np.pi * t"),

    (DISTORTED, "rows and columns swapped", "28 * corner[0] + corner[1]", "28 * corner[1] + corner[0]"),
    (DISTORTED, "pixel to the left", "[[0], [1], [28], [29]]", "[[0], [1], [28], [28]]"),
    (DISTORTED, "left and right swapped", "((1 - down) * (1 - right), (1 - down) * right,",
     "((1 - down) * right, (1 - down) * (1 - right),"),
    (DISTORTED, "all images in one way", "_look_up(places[group])", "_look_up(places[0])"),
    (DISTORTED, "in float64", "out = np.empty_like(x) if", "out = np.empty(x.shape) if"),
    (AFFINE, "shifts to one side", "rng.uniform(-1.3, 1.3,", "rng.uniform(0, 1.3,"),
    (AFFINE, "stretched only", "np.eye(2) + rng.uniform", "np.eye(2) + np.eye(2) * rng.uniform"),
    (AFFINE, "counted from the corner", "reshape(2, 784) - 13.5", "reshape(2, 784)"),
    (ELASTIC, "smoothing with sum 1", "np.linalg.norm(_SMOOTH[0])", "_SMOOTH[0].sum()"),
    (ELASTIC, "smoothed along columns only", " @ _SMOOTH.T", ""),
    (ELASTIC, "a narrower bell", "gaussian_filter1d(np.eye(28), 4,",
     "gaussian_filter1d(np.eye(28), 3,"),
]
# fmt: on


def cases(test):
    """All combinations of arguments that a test is parametrised with."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args[0].split(", "), mark.args[1]
        axes.append([dict(zip(names, value if len(names) > 1 else [value])) for value in values])
    for combination in itertools.product(*axes):
        yield dict(itertools.chain(*map(dict.items, combination)))


def fails(test, nb, arguments):
    try:
        test(nb, **arguments)
    except (AssertionError, RuntimeWarning, pytest.fail.Exception):
        return True
    except ValueError:
        pass
    return False


@pytest.mark.parametrize(
    "test, piece, replacement",
    [
        pytest.param(test, *change, id=f"{test.__name__}: {name}")
        for test, name, *change in MISTAKES
    ],
)
def test_a_mistake_is_caught(test, piece, replacement):
    broken = definitions({piece: replacement})
    assert any(fails(test, broken, arguments) for arguments in cases(test)), test.__name__
