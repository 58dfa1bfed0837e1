"""The depthwise convolution against XLA's own, for values and both gradients; and its ways to be run."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pvt_jax.ops import depthwise
from pvt_jax.ops.depthwise import depthwise_conv3x3

SHAPES = [(2, 5, 7, 3), (3, 1, 6, 2), (2, 6, 1, 5), (2, 1, 1, 1), (1, 2, 2, 4)]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
run = jax.jit(depthwise_conv3x3)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def grouped(x: Any, kernel: Any) -> Any:
    """The same by one group a channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


@functools.cache
def with_gradients(function: Any) -> Any:
    """(x, kernel, upstream) → result, gradients of both arguments."""

    def both(x: Any, kernel: Any, upstream: Any) -> Any:
        result, pullback = jax.vjp(function, x, kernel)
        return result, *pullback(upstream)

    return jax.jit(both)


def assert_same_as_grouped(shape: tuple[int, ...]) -> None:
    arguments = numbers(*shape), numbers(3, 3, 1, shape[-1], seed=1), numbers(*shape, seed=2)
    found, expected = (with_gradients(function)(*arguments) for function in (depthwise_conv3x3, grouped))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1.0, float(np.abs(other).max())))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_a_grouped_convolution(shape):
    assert_same_as_grouped(shape)


@settings(max_examples=12)
@given(shape=shapes)
def test_they_are_for_any_shape(shape):
    assert_same_as_grouped(shape)


def test_numbers_by_hand():
    """Correlation, as every framework has it: the kernel is not flipped, and row and column do not change places."""
    x = jnp.zeros((1, 3, 3, 2)).at[0, 1, 1].set(1.0)
    kernel = jnp.stack([jnp.arange(9.0), 10 * jnp.arange(9.0)], -1).reshape(3, 3, 1, 2)
    found = depthwise_conv3x3(x, kernel)
    np.testing.assert_array_equal(found[0, :, :, 0], [[8, 7, 6], [5, 4, 3], [2, 1, 0]])
    np.testing.assert_array_equal(found[0, :, :, 1], 10 * found[0, :, :, 0])


def test_gradients_agree_with_differences():
    check_grads(run, (numbers(2, 3, 4, 2), numbers(3, 3, 1, 2, seed=1)), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("cached", [1, 9 * 2 * 5, 2**19])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_sums_of_products_are_the_same(shape, cached, monkeypatch):
    """One runs on CPU, the other everywhere else: both are held to a plain sum here."""
    monkeypatch.setattr(depthwise, "_CACHED_VALUES", cached)
    x, upstream = numbers(*shape), numbers(*shape, seed=1)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    height, width = shape[1:3]
    taps = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    expected = np.stack([(tap * upstream).sum((0, 1, 2)) for tap in taps])
    for function in (depthwise._products, depthwise._products_by_rows):
        found = jax.jit(lambda x, upstream, function=function: function(x, upstream))(x, upstream)
        assert found.shape == (9, shape[-1]) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))
    if shape == (2, 6, 1, 5):
        assert depthwise._rows_in_cache(6, 5) == {1: 1, 90: 2, 2**19: 6}[cached]


@pytest.mark.parametrize(
    ("height", "row", "rows"),
    [(56, 56 * 256, 4), (28, 28 * 512, 4), (14, 14 * 640, 2), (16, 16 * 128, 16), (7, 2**20, 1), (53, 56 * 256, 1)],
)
def test_the_sums_of_a_group_of_rows_stay_in_the_cache(height, row, rows):
    assert depthwise._rows_in_cache(height, row) == rows


def test_other_devices_compile_the_sum_without_a_loop():
    """What is compiled for a CPU loops over images and groups of rows; for other devices it does not."""
    arguments = numbers(4, 5, 5, 2), numbers(3, 3, 1, 2), numbers(4, 5, 5, 2)
    exported = {
        platform: jax.export.export(with_gradients(depthwise_conv3x3), platforms=[platform])(*arguments).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert {platform: "stablehlo.while" in text for platform, text in exported.items()} == {
        "cpu": True,
        "cuda": False,
        "tpu": False,
    }


def test_bfloat16_stays_bfloat16_and_sums_its_kernel_gradient_in_float32():
    shape = (8, 16, 16, 2)
    # Products of one sign: a sum of 2048 of them in bfloat16, which has eight bits, would stand still at 256.
    x, kernel, upstream = np.abs(numbers(*shape)), numbers(3, 3, 1, 2, seed=1), np.abs(numbers(*shape, seed=2))
    halves = [jnp.asarray(array, jnp.bfloat16) for array in (x, kernel, upstream)]
    found = with_gradients(depthwise_conv3x3)(*halves)
    expected = with_gradients(grouped)(*(np.asarray(array, np.float32) for array in halves))
    for one, other, tolerance in zip(found, expected, (0.03, 0.03, 0.005), strict=True):
        assert one.dtype == jnp.bfloat16
        error = np.abs(np.asarray(one, np.float32) - other).max() / np.abs(other).max()
        assert error < tolerance
    for function in (depthwise._products, depthwise._products_by_rows):
        sums = np.asarray(jax.jit(function)(halves[0], halves[2])).reshape(3, 3, 1, 2)
        np.testing.assert_allclose(sums, expected[2], rtol=2e-3)


def test_vmap_adds_a_batch():
    x, kernels = numbers(3, 2, 4, 5, 2), numbers(3, 3, 3, 1, 2, seed=1)
    upstream = numbers(3, 2, 4, 5, 2, seed=2)
    found = jax.jit(jax.vmap(with_gradients(depthwise_conv3x3)))(x, kernels, upstream)
    for i in range(3):
        expected = with_gradients(grouped)(x[i], kernels[i], upstream[i])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[i], other, rtol=0, atol=2e-5)


def test_a_sharded_batch_gives_the_same_gradients(tmp_path):
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.ops.depthwise import depthwise_conv3x3
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
inputs = np.load(sys.argv[1])
x, upstream = (jax.device_put(inputs[n], NamedSharding(mesh, PartitionSpec("data"))) for n in ("x", "upstream"))
kernel = jax.device_put(inputs["kernel"], NamedSharding(mesh, PartitionSpec()))
@jax.jit
def both(x, kernel, upstream):
    result, pullback = jax.vjp(depthwise_conv3x3, x, kernel)
    return result, *pullback(upstream)
np.savez(sys.argv[2], *both(x, kernel, upstream))
"""
    x, kernel, upstream = numbers(16, 4, 5, 2), numbers(3, 3, 1, 2, seed=1), numbers(16, 4, 5, 2, seed=2)
    np.savez(tmp_path / "in.npz", x=x, kernel=kernel, upstream=upstream)
    command = [sys.executable, "-c", script, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2], capture_output=True)
    with np.load(tmp_path / "out.npz") as file:
        for one, other in zip(file.values(), with_gradients(grouped)(x, kernel, upstream), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=5e-5)
