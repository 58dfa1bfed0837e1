"""Soft-target cross-entropy against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops.cross_entropy import soft_cross_entropy


def numpy_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    values = []
    for row, target in zip(np.asarray(logits, np.float64), np.asarray(targets, np.float64), strict=True):
        shifted = row - row.max()
        values.append(-(target * (shifted - np.log(np.exp(shifted).sum()))).sum())
    return np.array(values)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 80.0])
def test_agrees_with_numpy(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.standard_normal((6, 11))).astype(np.float32)
    targets = rng.dirichlet(np.ones(11), 6).astype(np.float32)
    found = soft_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    assert found.shape == (6,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, numpy_cross_entropy(logits, targets), rtol=2e-6)


def test_of_equal_scores_is_the_logarithm_of_the_classes():
    found = soft_cross_entropy(jnp.full((2, 1000), 7.0), jax.nn.one_hot(jnp.asarray([3, 999]), 1000))
    np.testing.assert_allclose(found, np.log(1000), rtol=1e-6)


def test_is_finite_for_huge_scores():
    logits = jnp.asarray([[1e38, -1e38, 0.0], [0.0, 1e4, -1e4]])
    found = soft_cross_entropy(logits, jax.nn.one_hot(jnp.asarray([0, 1]), 3))
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_computes_in_float32_whatever_the_scores_are():
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((4, 9)), jnp.bfloat16)
    targets = jax.nn.one_hot(jnp.arange(4), 9)
    found = soft_cross_entropy(logits, targets)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, numpy_cross_entropy(np.asarray(logits, np.float32), targets), rtol=1e-6)


def test_gradient_is_softmax_minus_target():
    rng = np.random.default_rng(2)
    logits, targets = rng.standard_normal((3, 5)).astype(np.float32), rng.dirichlet(np.ones(5), 3).astype(np.float32)
    gradient = jax.grad(lambda x: soft_cross_entropy(x, jnp.asarray(targets)).sum())(jnp.asarray(logits))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, softmax - targets, atol=1e-6)
