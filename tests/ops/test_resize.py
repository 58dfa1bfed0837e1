"""Resampling of maps against loops over positions, PyTorch, and properties that hold for any size."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.ops.resize import interpolation_matrix, padded_interpolation_matrix, resize_grid, resize_padded
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
# One program for each size, where single operations would be compiled one by one.
resized = jax.jit(resize_grid, static_argnums=(1, 2))
padded = jax.jit(resize_padded, static_argnums=(3, 4))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@METHODS
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_it_agrees_with_a_loop_over_pixels(method, source, target):
    maps = numbers(2, *source, 3)
    found = resized(maps, target, method)
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
    found = resized(maps, target, method)
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


# Sizes that the program computes with, one a sample.

PADDED_METHODS = pytest.mark.parametrize("method", ["bilinear", "bicubic", "triangle"])
SOURCE_SIZES = np.asarray([(7, 7), (8, 11), (1, 2), (5, 3)], np.int32)
TARGET_SIZES = np.asarray([(14, 9), (3, 30), (16, 1), (5, 3)], np.int32)
padded_matrix = jax.jit(padded_interpolation_matrix, static_argnums=(2, 3, 4))


def fixed(maps: np.ndarray, target: tuple[int, int], method: Any) -> np.ndarray:
    """As of a map that is as large as the true region."""
    if method == "triangle":
        shape = (*maps.shape[:-3], *target, maps.shape[-1])
        return np.asarray(jax.image.resize(maps, shape, "linear", antialias=True))
    return np.asarray(resized(maps, target, method))


@PADDED_METHODS
def test_padded_maps_are_resampled_as_each_alone(method):
    maps = numbers(4, 8, 11, 3)
    found = padded(maps, SOURCE_SIZES, TARGET_SIZES, (16, 30), method)
    assert found.shape == (4, 16, 30, 3)
    for one, whole, (h, w), (y, x) in zip(found, maps, SOURCE_SIZES, TARGET_SIZES, strict=True):
        np.testing.assert_allclose(one[:y, :x], fixed(whole[:h, :w], (int(y), int(x)), method), rtol=0, atol=1e-5)
        assert not one[y:].any() and not one[:, x:].any()


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_padded_maps_are_resampled_as_by_pytorch(method):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here: make test ORACLES=1 installs it")
    maps = numbers(4, 8, 11, 3)
    found = padded(maps, SOURCE_SIZES, TARGET_SIZES, (16, 30), method)
    for one, whole, (h, w), (y, x) in zip(found, maps, SOURCE_SIZES.tolist(), TARGET_SIZES.tolist(), strict=True):
        part = torch.from_numpy(whole[:h, :w].transpose(2, 0, 1).copy())[None]
        expected = torch.nn.functional.interpolate(part, size=(y, x), mode=method, align_corners=False)
        np.testing.assert_allclose(one[:y, :x], expected[0].numpy().transpose(1, 2, 0), rtol=0, atol=1e-5)


@METHODS
@settings(max_examples=40)
@given(source=sides, target=sides)
def test_padded_weights_are_those_of_the_fixed_matrix(method, source, target):
    """The other sample has sizes of its own, and what is beyond them has no weight."""
    source_sizes, target_sizes = np.asarray([source, 40], np.int32), np.asarray([target, 7], np.int32)
    found = np.asarray(padded_matrix(source_sizes, target_sizes, 40, 40, method))
    for matrix, old, new in zip(found, source_sizes.tolist(), target_sizes.tolist(), strict=True):
        expected = np.zeros((40, 40))
        expected[:new, :old] = interpolation_matrix(old, new, method)
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-6)


@PADDED_METHODS
@pytest.mark.parametrize(("source", "target"), [(512, 2048), (683, 2731), (1365, 2048), (2999, 1000), (2731, 2733)])
def test_weights_of_large_sides_are_exact(method, source, target):
    """Where a centre in float32 is off by 1e-4."""
    found = np.asarray(
        padded_matrix(np.asarray([source], np.int32), np.asarray([target], np.int32), source, target, method)
    )[0]
    if method == "triangle":
        distance = np.abs((np.arange(target)[:, None] + 0.5) * source / target - 0.5 - np.arange(source))
        expected = np.maximum(1 - distance / max(source / target, 1), 0)
        expected /= expected.sum(1, keepdims=True)
    else:
        expected = interpolation_matrix(source, target, method)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@PADDED_METHODS
def test_maps_of_no_size_become_zeros(method):
    nothing, something = jnp.zeros((1, 2), jnp.int32), jnp.full((1, 2), 3)
    for source, target in ((nothing, something), (something, nothing), (nothing, nothing)):
        found = padded(jnp.zeros((1, 4, 4, 1)), source, target, (5, 6), method)
        np.testing.assert_array_equal(found, np.zeros((1, 5, 6, 1)))


def test_padded_bfloat16_stays_bfloat16():
    sizes = jnp.full((1, 2), 4)
    found = resize_padded(jnp.ones((1, 5, 6, 2), jnp.bfloat16), sizes, sizes + 3, (7, 7))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float32), 1.0)
