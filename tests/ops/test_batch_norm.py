"""Batch norm's own gradients, for one CPU: equal to autodiff's, of one map alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops import batch_norm
from pvt_jax.ops.convolution import convolve
from pvt_jax.ops.target import compiled_for
from tests.helpers.devices import ONE_DEVICE

DIM = 5


def inputs(shape=(3, 4, 6, DIM)):
    rng = np.random.default_rng(0)
    scale, bias = rng.standard_normal((2, DIM))
    # Multiples of 1/1024: exact, too, after a shift of 4,096.
    x, mean = (np.round(rng.standard_normal(size) * 1024) / 1024 for size in (shape, DIM))
    return tuple(jnp.asarray(part, jnp.float32) for part in (x, scale, bias, mean, rng.uniform(0.2, 3.0, DIM)))


def gradients(mode, mesh, shift=0.0):
    """Of x, scale and bias, and the value."""
    x, scale, bias, mean, var = inputs()
    weights = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def loss(x, scale, bias):
        y = batch_norm.by_batch(x, scale, bias)[0] if mode == "batch" else by_statistics(x, scale, bias)
        return jnp.sum(weights * jnp.sin(y))

    def by_statistics(x, scale, bias):
        return batch_norm.by_statistics(x, mean + np.float32(shift), var, scale, bias)

    with compiled_for(mesh):
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x + np.float32(shift), scale, bias)


def assert_equal(found, expected, rtol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(np.abs(other).max()))


@pytest.mark.parametrize("mode", ["batch", "statistics"])
def test_gradients_on_one_cpu_are_those_of_autodiff(mode):
    assert_equal(gradients(mode, ONE_DEVICE), gradients(mode, None), 1e-5)


@pytest.mark.parametrize("mode", ["batch", "statistics"])
def test_gradients_do_not_depend_on_how_far_values_are_from_zero(mode):
    # The forward pass, by whose sine each gradient is weighed, rounds a mean of 4,096.
    assert_equal(gradients(mode, ONE_DEVICE, 4096.0), gradients(mode, ONE_DEVICE), 1e-4)


def test_statistics_are_no_way_for_a_gradient():
    x, scale, bias, *_ = inputs()
    for mesh in (ONE_DEVICE, None):
        with compiled_for(mesh):
            found = jax.grad(lambda x: sum(part.sum() for part in batch_norm.by_batch(x, scale, bias)[1:]))(x)
        assert not np.any(found)


@pytest.mark.parametrize("mode", ["batch", "statistics"])
def test_a_backward_pass_keeps_two_maps_of_a_layer(mode):
    """What was convolved and what comes out of ReLU. Each further copy would be one map more for every layer."""
    layers, map_bytes = 12, 64 * 64 * 16 * 4
    ones = jnp.ones(16)

    def loss(kernels, x):
        for kernel in kernels:
            x = convolve(x, kernel)
            norm = functools.partial(batch_norm.by_statistics, mean=ones, var=ones)
            y = batch_norm.by_batch(x, ones, ones)[0] if mode == "batch" else norm(x, scale=ones, bias=ones)
            x = jax.nn.relu(y)
        return jnp.square(x).sum()

    kernels = [jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)] * layers
    with compiled_for(ONE_DEVICE):
        lowered = jax.jit(jax.grad(loss)).lower(kernels, jax.ShapeDtypeStruct((1, 64, 64, 16), jnp.float32))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < (2 * layers + 10) * map_bytes
