"""Adaptive pooling against a loop over bins, PyTorch, and properties that hold for any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.ops.pooling import adaptive_average_pool, averaging_matrix, padded_averaging_matrix
from tests.helpers import numpy_models

# Above, below and equal to the side that is pooled to; 7 divides some of them.
SIZES = pytest.mark.parametrize("size", [(7, 7), (14, 21), (18, 26), (13, 9), (3, 8), (2, 3), (1, 1), (1, 20)])


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@SIZES
def test_it_agrees_with_a_loop_over_bins(size):
    x = numbers(2, *size, 3)
    found = jax.jit(adaptive_average_pool, static_argnums=1)(x, 7)
    assert found.shape == (2, 7, 7, 3)
    np.testing.assert_allclose(found, numpy_models.adaptive_average(x.astype(np.float64), 7), rtol=0, atol=2e-6)


@SIZES
def test_it_is_pytorch_s(size):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here: make test ORACLES=1 installs it")
    x = numbers(2, *size, 3)
    for side in (1, 4, 7):
        expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), side)
        found = adaptive_average_pool(jnp.asarray(x), side)
        np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=0, atol=2e-6)


@settings(max_examples=100)
@given(size=st.integers(1, 60), bins=st.integers(1, 20))
def test_bins_cover_the_side_and_overlap_only_if_they_must(size, bins):
    matrix = averaging_matrix(size, bins)
    assert matrix.shape == (bins, size) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
    members = matrix > 0
    assert members.any(0).all()
    for row, weights in zip(members, matrix, strict=True):
        (positions,) = np.nonzero(row)
        # One run of positions that weigh the same.
        assert positions[-1] - positions[0] + 1 == len(positions)
        np.testing.assert_allclose(weights[positions], 1 / len(positions))
    np.testing.assert_array_equal(members, members[::-1, ::-1])
    if size % bins == 0:
        assert members.sum() == size


def test_numbers_by_hand():
    # Bins of 5 positions in 3: 0–1, 1–3, 3–4.
    x = jnp.asarray([1.0, 2.0, 3.0, 4.0, 50.0])[None, :, None, None]
    found = adaptive_average_pool(x, 3)[0, :, 0, 0]
    np.testing.assert_allclose(found, [1.5, 3.0, 27.0], rtol=1e-6)


def test_the_gradient_spreads_over_the_bins():
    x, upstream = numbers(1, 5, 9, 2), numbers(1, 4, 4, 2)
    gradient = jax.grad(lambda x: (adaptive_average_pool(x, 4) * upstream).sum())(jnp.asarray(x))
    rows, columns = averaging_matrix(5, 4), averaging_matrix(9, 4)
    np.testing.assert_allclose(gradient, np.einsum("yh,byxc,xw->bhwc", rows, upstream, columns), rtol=0, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    x = numbers(1, 12, 9, 2)
    found = adaptive_average_pool(jnp.asarray(x, jnp.bfloat16), 7)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), adaptive_average_pool(jnp.asarray(x), 7), atol=0.02)


def test_the_mean_of_a_constant_is_that_constant_in_bfloat16_too():
    """A seventh is no bfloat16: matrices in that type would lose half a percent."""
    pooled = adaptive_average_pool(jnp.ones((1, 49, 49, 2), jnp.bfloat16), 7)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(pooled, np.float32), 1.0)


def test_padding_is_left_out():
    x = numbers(4, 14, 20, 3)
    sizes = np.asarray([(14, 20), (7, 9), (1, 13), (2, 3)], np.int32)
    found = jax.jit(adaptive_average_pool, static_argnums=1)(x, 7, sizes)
    for one, whole, (h, w) in zip(found, x, sizes, strict=True):
        expected = numpy_models.adaptive_average(whole[None, :h, :w].astype(np.float64), 7)[0]
        np.testing.assert_allclose(one, expected, rtol=0, atol=2e-6)


@settings(max_examples=60)
@given(size=st.integers(1, 60))
def test_padded_bins_are_those_of_the_fixed_matrix(size):
    found = padded_averaging(np.asarray([size, 60], np.int32), 60, 7)
    expected = np.zeros((2, 7, 60))
    expected[0, :, :size], expected[1] = averaging_matrix(size, 7), averaging_matrix(60, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


padded_averaging = jax.jit(padded_averaging_matrix, static_argnums=(1, 2))


def test_the_mean_of_nothing_is_zero():
    found = adaptive_average_pool(jnp.ones((1, 5, 5, 1)), 3, jnp.zeros((1, 2), jnp.int32))
    np.testing.assert_array_equal(found, np.zeros((1, 3, 3, 1)))
