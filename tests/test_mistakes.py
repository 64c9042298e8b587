"""The tests against mistakes: each is planted in the notebook's code and must be caught by a test.

A test catches it if a comparison fails or a warning comes. Shapes that do not fit are not counted,
for such a mistake shows itself.
"""

import pytest
import test_network as t
from conftest import definitions

pytestmark = pytest.mark.filterwarnings("error")

SETTINGS = t.test_settings_are_those_asked_for
LEAKY = t.test_leaky_relu_and_its_slope_follow_their_formulas_even_at_zero
SOFTMAX = t.test_softmax_and_loss_are_right_and_finite_for_small_and_huge_logits
PYTORCH = t.test_logits_loss_and_gradients_agree_with_pytorch
DIFFERENCES = t.test_gradients_agree_with_central_differences_in_every_entry
CHECK = t.test_the_notebooks_check_finds_a_mistake_in_half_of_any_array_and_nowhere_else
ON_PURPOSE = t.test_mistakes_on_purpose_spoil_what_they_should_and_nothing_else
NEAREST = t.test_the_nearest_mean_is_that_of_scipys_distances
SPLIT = t.test_training_and_validation_images_are_all_different_and_keep_their_labels
BATCHES = t.test_mini_batches_hold_every_number_once_in_an_order_that_follows_from_the_seed
FIRST = t.test_first_weights_have_the_bounds_and_the_variance_of_their_formula
TRAINING = t.test_200_steps_of_training_agree_with_pytorch_and_change_the_arrays_themselves
FLOAT32 = t.test_what_is_float32_stays_float32
ONE_LAYER = t.test_the_loop_of_one_layer_trains_as_the_network_does
LOOPS = t.test_the_loops_of_sections_7_and_11_train_then_measure_at_the_rates_of_their_formulas
LONG = t.test_each_part_of_the_long_epoch_has_a_number
EVALUATION = t.test_loss_accuracy_probabilities_and_interval_are_right
SWEEP = t.test_a_sweep_trains_and_measures_at_each_rate_with_each_seed
DISTORTED = t.test_distorted_images_agree_with_those_that_scipy_looks_up

# The test that catches it; what is wrong; a piece of the code, as ast.unparse writes it, on one
# line and with all brackets, so that no formatting matters; what stands there instead.
# fmt: off
MISTAKES = [
    (SETTINGS, "tenfold decay", "60, 0.01, 0.005)", "60, 0.01, 0.05)"),
    (SOFTMAX, "the batch's maximum", "e = np.exp(z - z.max(axis=1, keepdims=True))",
     "e = np.exp(z - z.max())"),
    (SOFTMAX, "sum over the images", "e / e.sum(axis=1, keepdims=True)", "e / e.sum(axis=0)"),
    (PYTORCH, "loss summed over the batch", "y]).mean()", "y]).sum()"),
    (DIFFERENCES, "true score added", "- z[np.arange", "+ z[np.arange"),
    (EVALUATION, "mean of the answers", "(z.argmax(axis=1) == y).mean()",
     "z.argmax(axis=1).mean()"),
    (SPLIT, "validated on training images", "order[50000:]", "order[:10000]"),
    (NEAREST, "sums of differences", "((x - mean) ** 2).sum", "(x - mean).sum"),
    (BATCHES, "not shuffled", "rng.permutation(n)", "np.arange(n)"),

    (LEAKY, "the smaller one", "np.maximum(z, alpha * z)", "np.minimum(z, alpha * z)"),
    (LEAKY, "slope 1 at zero", "np.maximum(z > 0", "np.maximum(z >= 0"),
    (PYTORCH, "biases not added", "A[-1] @ W + b", "A[-1] @ W"),
    (PYTORCH, "no activation function", "A.append(leaky_relu(Z[-1], alpha))", "A.append(Z[-1])"),
    (PYTORCH, "alpha lost on the way back", "leaky_relu_grad(z, alpha)", "leaky_relu_grad(z)"),
    (PYTORCH, "slope left out", "da * leaky_relu_grad(z, alpha)", "da"),
    (PYTORCH, "weights not transposed", "dz @ W.T", "dz @ W"),
    (PYTORCH, "inputs not transposed", "(a.T @ dz, dz.sum", "(a @ dz, dz.sum"),
    (PYTORCH, "labels of other images", "cross_entropy_grad(Z[-1], y)",
     "cross_entropy_grad(Z[-1], y[::-1])"),
    (PYTORCH, "not divided by B", "return dz / len(y)", "return dz"),
    (DIFFERENCES, "one-hot rows added", "y] -= 1", "y] += 1"),
    (PYTORCH, "bias gradient averaged", "T @ dz, dz.sum(axis=0)", "T @ dz, dz.mean(axis=0)"),
    (DIFFERENCES, "to one side", "array.flat[place] = value - h", "array.flat[place] = value"),
    (DIFFERENCES, "entry not put back", "array.flat[place] = value\n    return",
     "array.flat[place] = value + h\n    return"),
    (CHECK, "last layer left out", "in zip(params, grads):\n        for",
     "in zip(params[:-1], grads):\n        for"),
    (CHECK, "alpha lost", "k, x, y, alpha)", "k, x, y)"),
    (CHECK, "biases left out", "[(W, dW), (b, db)]", "[(W, dW), (W, dW)]"),
    (CHECK, "error not relative", " / np.abs(numerical).max()", ""),

    (ON_PURPOSE, "no mistake made", "mistake == 'mean db'", "mistake == 'no db'"),
    (ON_PURPOSE, "trained without the mistake", "y[batch], mistake), 0.01", "y[batch], ''), 0.01"),

    (FIRST, "3 for 6", "np.sqrt(6 /", "np.sqrt(3 /"),
    (FIRST, "magnitudes of the weights", "[rms(db) for", "[rms(dW) for"),
    (FIRST, "RMS without its root", "np.sqrt(np.mean(array ** 2))", "np.mean(array ** 2)"),
    (FLOAT32, "weights in float64", "n_out)).astype(np.float32)", "n_out))"),
    (TRAINING, "uphill", "W -= lr * dW", "W += lr * dW"),
    (TRAINING, "biases stay", "b -= lr * db", "pass"),
    (TRAINING, "a copy changed", "W -= lr * dW", "W = W - lr * dW"),
    (TRAINING, "labels of other images", "backward(params, cache, y[batch], alpha)",
     "backward(params, cache, y[:len(batch)], alpha)"),
    (ONE_LAYER, "weights in float64", "np.zeros((784, 10), np.float32)", "np.zeros((784, 10))"),
    (ONE_LAYER, "uphill", "W_one -= 0.01", "W_one += 0.01"),
    (ONE_LAYER, "bias gradient averaged", "0.01 * dz.sum(axis=0)", "0.01 * dz.mean(axis=0)"),
    (LOOPS, "rate does not fall", "BATCH_SIZE, lr, rng)", "BATCH_SIZE, LEARNING_RATE, rng)"),
    (LOOPS, "trained on validation images", "train_epoch(params, x_train, y_train, BATCH",
     "train_epoch(params, x_val, y_val, BATCH"),
    (LOOPS, "validated on training images", "curves.add(training, evaluate(params, x_val, y_val))",
     "curves.add(training, evaluate(params, x_train, y_train))"),

    (EVALUATION, "pixels not standardised", "forward(params, standardise(images), alpha)",
     "forward(params, images.reshape(-1, 784))"),
    (EVALUATION, "alpha not passed on", "standardise(images), alpha)", "standardise(images))"),
    (EVALUATION, "alpha lost in the test", "predict(params, images, alpha)", "predict(params, images)"),
    (FIRST, "alpha lost backward", "(A, Z), y, alpha)", "(A, Z), y)"),
    (SWEEP, "alpha not passed on", "batch_size, lr, rng, alpha)", "batch_size, lr, rng)"),
    (SWEEP, "warnings", "np.errstate(all='ignore'):\n                for epoch in range(8)",
     "np.errstate():\n                for epoch in range(8)"),
    (SWEEP, "validated on training images", "evaluate(net, x_val[:1000], y_val[:1000]",
     "evaluate(net, x_train[:1000], y_train[:1000]"),
    (SWEEP, "factor not passed on", "init_params(sizes, rng, factor)", "init_params(sizes, rng)"),
    (SWEEP, "nan", "loss if loss < 10 else 10", "10 if loss > 10 else loss"),
    (LOOPS, "long: rate one epoch ahead", "epoch / LONG_EPOCHS", "(epoch + 1) / LONG_EPOCHS"),
    (LONG, "rate falls whatever is asked", "rate * (1 - fall * t)", "rate * (1 - t)"),
    (LONG, "no distortion", "distort(x[start:start + 100], rng, pixels)",
     "x[start:start + 100]"),
    (LONG, "no weight decay", "W *= 1 - shrink * lr", "pass"),
    (DISTORTED, "rows and columns swapped", "[:, row, column]", "[:, column, row]"),
    (DISTORTED, "rounded down", "np.rint(ROW", "np.floor(ROW"),
    (DISTORTED, "all of a row shifted alike", " + c * BY_COLUMN", ""),
    (DISTORTED, "moved up", "ROW - down", "ROW + down"),
    (EVALUATION, "no image twice", "rng.integers(n, size=n)", "rng.permutation(n)"),
    (EVALUATION, "limits of 90 of 100", "{samples[25]:.2%} to {samples[974]",
     "{samples[50]:.2%} to {samples[949]"),
]
# fmt: on


@pytest.mark.parametrize(
    "test, piece, replacement",
    [
        pytest.param(test, piece, replacement, id=f"{test.__name__}: {wrong}")
        for test, wrong, piece, replacement in MISTAKES
    ],
)
def test_a_mistake_is_caught(test, piece, replacement):
    broken = definitions(piece, replacement)
    with pytest.raises((AssertionError, RuntimeWarning)):
        test(broken)
