"""Resampling of maps against loops over positions, PyTorch, and properties that hold for any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.ops.resize import interpolation_matrix, resize_grid
from tests.helpers import numpy_models

METHODS = pytest.mark.parametrize("method", ["bilinear", "bicubic"])
SIZES = [
    ((7, 7), (14, 14)),
    ((14, 14), (9, 30)),
    ((28, 20), (5, 3)),
    ((2, 3), (1, 7)),
    ((1, 1), (3, 2)),
    ((5, 9), (9, 5)),
]
sides = st.integers(1, 40)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@METHODS
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_agrees_with_a_loop_over_pixels(method, source, target):
    maps = numbers(2, *source, 3)
    found = resize_grid(jnp.asarray(maps), target, method)
    expected = np.stack([getattr(numpy_models, method)(one.astype(np.float64), target) for one in maps])
    assert found.shape == (2, *target, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@METHODS
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_is_pytorch_s_interpolate(method, source, target):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here: make test ORACLES=1 installs it")
    maps = numbers(2, *source, 3)
    channels_first = torch.from_numpy(maps.transpose(0, 3, 1, 2).copy())
    expected = torch.nn.functional.interpolate(channels_first, size=target, mode=method, align_corners=False)
    found = resize_grid(jnp.asarray(maps), target, method)
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


@METHODS
def test_any_number_of_axes_may_come_first(method):
    maps = numbers(2, 3, 4, 5, 1)
    resize = functools.partial(resize_grid, target=(6, 3), method=method)
    found = jax.jit(resize)(maps)
    assert found.shape == (2, 3, 6, 3, 1)
    for i in range(2):
        np.testing.assert_allclose(found[i], resize(jnp.asarray(maps[i])), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0, 0], resize(jnp.asarray(maps[0, 0])), rtol=0, atol=1e-6)


@METHODS
@settings(max_examples=40)
@given(source=sides, target=sides)
def test_weights_sum_to_one_and_mirror(method, source, target):
    matrix = interpolation_matrix(source, target, method)
    assert matrix.shape == (target, source) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-9)
    # A neighbourhood of 2 or 4 positions, whatever the scale: no antialiasing.
    assert (matrix != 0).sum(1).max() <= {"bilinear": 2, "bicubic": 4}[method]
    assert method == "bicubic" or matrix.min() >= 0


@settings(max_examples=20)
@given(source=st.integers(4, 30), target=sides)
def test_bilinear_leaves_straight_lines_straight(source, target):
    """Half-pixel centres: position i of the result lies at (i + ½) source / target - ½ of the source.

    Not so bicubic, whose a is not the -0.5 of Keys' third order.
    """
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    np.testing.assert_allclose(interpolation_matrix(source, target, "bilinear") @ np.arange(source), centres)


@METHODS
def test_its_own_size_is_the_identity(method):
    maps = jnp.asarray(numbers(1, 3, 5, 2))
    assert resize_grid(maps, (3, 5), method) is maps
    # Nor does resampling to it change anything, where only one side changes.
    np.testing.assert_array_equal(interpolation_matrix(5, 5, method), np.eye(5))


@METHODS
def test_the_gradient_is_the_transpose(method):
    maps, upstream = numbers(1, 4, 6, 2), numbers(1, 7, 3, 2)
    gradient = jax.grad(lambda x: (resize_grid(x, (7, 3), method) * upstream).sum())(jnp.asarray(maps))
    rows, columns = interpolation_matrix(4, 7, method), interpolation_matrix(6, 3, method)
    np.testing.assert_allclose(gradient, np.einsum("yh,byxc,xw->bhwc", rows, upstream, columns), rtol=0, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    maps = numbers(1, 4, 6, 2)
    found = resize_grid(jnp.asarray(maps, jnp.bfloat16), (7, 3))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), resize_grid(jnp.asarray(maps), (7, 3)), atol=0.03)
