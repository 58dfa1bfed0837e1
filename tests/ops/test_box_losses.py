"""Losses of boxes and classes against NumPy in float64, and PyTorch's gradients where it is installed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops.box_losses import binary_cross_entropy, giou, l1, sigmoid_focal, softmax_cross_entropy

SETTINGS = [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)]


def values_and_slopes(loss, *inputs):
    """Values, and the gradient of their sum weighted with 1, 2, … by the first input."""

    def weighted(x, *others):
        values = loss(x, *others)
        return (values * (1.0 + jnp.arange(values.size).reshape(values.shape))).sum(), values

    (_, values), slopes = jax.jit(jax.value_and_grad(weighted, has_aux=True))(*inputs)
    assert values.dtype == jnp.float32
    return np.asarray(values), np.asarray(slopes)


def numpy_slopes(loss, x, *inputs, step=1e-6):
    """As the second of these, by differences; ``loss`` gives float64."""
    x = np.asarray(x, np.float64)
    slopes = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        change = loss(x + moved, *inputs) - loss(x - moved, *inputs)
        slopes[place] = (change * (1 + np.arange(change.size).reshape(change.shape))).sum() / (2 * step)
    return slopes


def numpy_log_sigmoid(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def numpy_focal(logits, labels, alpha, gamma):
    logits = np.asarray(logits, np.float64)
    own = labels[..., None] == np.arange(logits.shape[-1])
    right = np.where(own, logits, -logits)
    weight = np.where(own, alpha, 1 - alpha) * np.exp(gamma * numpy_log_sigmoid(-right))
    return (-weight * numpy_log_sigmoid(right)).sum(axis=-1)


def classes(rows=12, number=5, background=True):
    """Logits, of which some are large, and labels."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, rows, number)) * rng.choice([0, 1, 5, 30], (2, rows, 1))
    labels = rng.integers(-1 if background else 0, number, (2, rows))
    return logits.astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize(("alpha", "gamma"), SETTINGS)
def test_focal_loss_and_its_gradient_agree_with_numpy(alpha, gamma):
    logits, labels = classes()
    loss = functools.partial(sigmoid_focal, alpha=alpha, gamma=gamma)
    values, slopes = values_and_slopes(loss, logits, labels)
    oracle = functools.partial(numpy_focal, alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(values, oracle(logits, labels), rtol=3e-6)
    expected = numpy_slopes(oracle, logits, labels)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_focal_loss_of_extreme_logits():
    """Of an object and of background, with α = 1/4 and γ = 2: 3/4 · 100 for an object called background, and so on."""
    loss = functools.partial(sigmoid_focal, alpha=0.25, gamma=2.0)
    logits = np.array([[100], [-100], [100], [-100], [0], [0]], np.float32)
    labels = np.array([0, 0, -1, -1, 0, -1], np.int32)
    values, slopes = values_and_slopes(loss, logits, labels)
    log2 = np.log(2)
    np.testing.assert_allclose(values, [0, 25, 75, 0, log2 / 16, 3 * log2 / 16], rtol=1e-6, atol=1e-30)
    # d/dx of (1 - p)² · -log p is (1 - p)² · (2 p log p + p - 1) of the right answer.
    middle = 0.25 * (-log2 - 0.5)
    expected = np.array([0, -0.25, 0.75, 0, 0.25 * middle, -0.75 * middle]) * np.arange(1, 7)
    np.testing.assert_allclose(slopes[:, 0], expected, rtol=1e-6, atol=1e-30)


def test_focal_loss_keeps_nothing_of_the_logits_size_but_their_gradient():
    rows, number = 5000, 80
    logits = jax.ShapeDtypeStruct((rows, number), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x, labels: sigmoid_focal(x, labels).sum()))
    compiled = gradient.lower(logits, jax.ShapeDtypeStruct((rows,), jnp.int32)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.1 * rows * number * 4


def test_logits_in_half_precision_are_taken_as_they_are():
    logits, labels = classes()
    half = jnp.asarray(logits, jnp.bfloat16)
    values, slopes = values_and_slopes(sigmoid_focal, half, labels)
    np.testing.assert_allclose(values, numpy_focal(np.asarray(half, np.float32), labels, 0.25, 2.0), rtol=3e-6)
    assert slopes.dtype == jnp.bfloat16


def some_boxes(rng, *shape):
    corners = 10 * rng.random((*shape, 2))
    return np.concatenate([corners, corners + 0.5 + 5 * rng.random((*shape, 2))], -1).astype(np.float32)


def test_l1_is_the_sum_of_four_distances():
    rng = np.random.default_rng(1)
    predicted, target = rng.standard_normal((2, 3, 7, 4)).astype(np.float32)
    predicted[0, 0] = target[0, 0]
    values, slopes = values_and_slopes(l1, predicted, target)
    np.testing.assert_allclose(values, np.abs(predicted.astype(np.float64) - target).sum(axis=-1), rtol=1e-6)
    weights = 1 + np.arange(21).reshape(3, 7, 1)
    np.testing.assert_array_equal(slopes, weights * np.sign(predicted - target))


def numpy_giou(predicted, target):
    """Box by box, with areas counted by hand."""
    found = []
    for a, b in zip(np.reshape(predicted, (-1, 4)), np.reshape(target, (-1, 4)), strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        inner = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1)]
        outer = [max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1)]
        both = inner[0] * inner[1]
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
        around = outer[0] * outer[1]
        found.append(1 - both / union + (around - union) / around)
    return np.reshape(found, np.shape(predicted)[:-1])


def test_giou_and_its_gradient_agree_with_numpy():
    rng = np.random.default_rng(2)
    predicted, target = some_boxes(rng, 4, 10), some_boxes(rng, 4, 10)
    target[0] = predicted[0] + 0.3 * rng.random((10, 4), np.float32)  # nearly the same
    predicted[1, :, :2], predicted[1, :, 2:] = target[1, :, :2] + 0.2, target[1, :, 2:] + 7  # one within the other
    values, slopes = values_and_slopes(giou, predicted, target)
    expected = numpy_giou(predicted, target)
    assert expected.min() < 0.3
    assert expected.max() > 1.5
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    expected = numpy_slopes(numpy_giou, predicted, target)
    np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_giou_of_boxes_without_area_is_finite():
    point, box = [3.0, 3, 3, 3], [1.0, 1, 5, 4]
    predicted = np.array([point, point, box, box, [5, 4, 1, 1]], np.float32)
    target = np.array([point, box, point, box, box], np.float32)
    values, slopes = values_and_slopes(giou, predicted, target)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(values[:4], [1, 1, 1, 0], atol=1e-6)
    assert 0 <= values[4] <= 2


def test_cross_entropy_agrees_with_numpy():
    logits, labels = classes(background=False)

    def oracle(x, labels):
        x = np.asarray(x, np.float64)
        x = x - x.max(axis=-1, keepdims=True)
        return np.log(np.exp(x).sum(axis=-1)) - np.take_along_axis(x, labels[..., None], -1)[..., 0]

    values, slopes = values_and_slopes(softmax_cross_entropy, logits, labels)
    np.testing.assert_allclose(values, oracle(logits, labels), rtol=2e-6, atol=1e-7)
    expected = numpy_slopes(oracle, logits, labels)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_binary_cross_entropy_agrees_with_numpy():
    logits, _ = classes()
    logits[0, 0], logits[0, 1] = 100, -100
    targets = np.random.default_rng(3).choice([0, 0.3, 1], logits.shape).astype(np.float32)

    def oracle(x, targets):
        x, targets = np.asarray(x, np.float64), targets.astype(np.float64)
        return -targets * numpy_log_sigmoid(x) - (1 - targets) * numpy_log_sigmoid(-x)

    values, slopes = values_and_slopes(binary_cross_entropy, logits, targets)
    np.testing.assert_allclose(values, oracle(logits, targets), rtol=2e-6, atol=1e-6)
    weights = 1 + np.arange(logits.size).reshape(logits.shape)
    expected = weights * (1 / (1 + np.exp(-logits.astype(np.float64))) - targets)
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("loss", [sigmoid_focal, softmax_cross_entropy])
def test_gradients_of_extreme_logits_are_finite(loss):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [3e38, -3e38, 0], [-200, -200, -200]], np.float32)
    for label in range(3):
        assert np.isfinite(values_and_slopes(loss, logits, np.full(4, label, np.int32))[1]).all()


def test_losses_and_gradients_agree_with_pytorch():
    torch: Any = pytest.importorskip("torch", reason="PyTorch is the oracle here: make test ORACLES=1 installs it")
    functional = torch.nn.functional
    logits, labels = classes(rows=40)
    logits[0, 0], logits[0, 1] = 100, -100

    def slopes_of(loss, x, *inputs):
        x = torch.from_numpy(x).double().requires_grad_()
        values = loss(x, *map(torch.from_numpy, inputs))
        (values * (1 + torch.arange(values.numel()).reshape(values.shape))).sum().backward()
        return values.detach().numpy(), x.grad.numpy()

    def focal(x, labels):
        own = functional.one_hot(labels.long() + 1, x.shape[-1] + 1)[..., 1:].double()
        entropy = functional.binary_cross_entropy_with_logits(x, own, reduction="none")
        wrong = own * (1 - x.sigmoid()) + (1 - own) * x.sigmoid()
        return ((own * 0.25 + (1 - own) * 0.75) * wrong**2 * entropy).sum(-1)

    def cross_entropy(x, labels):
        found = functional.cross_entropy(x.reshape(-1, x.shape[-1]), labels.long().ravel(), reduction="none")
        return found.reshape(labels.shape)

    own = np.maximum(labels, 0)
    targets = np.random.default_rng(3).random(logits.shape)
    entropy = functools.partial(functional.binary_cross_entropy_with_logits, reduction="none")
    pairs = [
        (sigmoid_focal, focal, (labels,)),
        (softmax_cross_entropy, cross_entropy, (own,)),
        (binary_cross_entropy, entropy, (targets,)),
    ]
    for ours, theirs, inputs in pairs:
        expected, expected_slopes = slopes_of(theirs, logits, *inputs)
        narrow = [x.astype(np.float32) if x.dtype == np.float64 else x for x in inputs]
        values, slopes = values_and_slopes(ours, logits, *narrow)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slopes, expected_slopes, rtol=1e-4, atol=1e-6 * np.abs(expected_slopes).max())
