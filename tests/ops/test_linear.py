"""Products with a kernel: on one CPU as anywhere, and in the form of their gradient that is fast there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops import target
from pvt_jax.ops.linear import matmul
from pvt_jax.planning.flops import count_flops
from tests.helpers.devices import ONE_DEVICE


def with_gradients(x, kernel, mesh):
    with target.compiled_for(mesh):
        result, back = jax.vjp(matmul, x, kernel)
        return result, *back(jnp.cos(result))


run = jax.jit(with_gradients, static_argnums=2)


@pytest.mark.parametrize("shape", [(2, 3, 8, 4), (0, 3, 8, 4), (1, 1, 3, 5), (2, 7, 5, 1)], ids=str)
def test_result_and_gradients(shape):
    *rows, height, width = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*rows, height)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((height, width)), jnp.float32)
    upstream = np.cos(np.asarray(x, np.float64) @ np.asarray(kernel, np.float64))
    expected = x @ kernel, upstream @ np.asarray(kernel).T, np.einsum("abh,abw->hw", x, upstream)
    for mesh in (ONE_DEVICE, None):
        for one, other in zip(run(x, kernel, mesh), expected, strict=True):
            assert one.shape == other.shape and one.dtype == jnp.float32
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_high_kernel_is_computed_wide():
    """In rows of 8 numbers a CPU takes up to three times as long as in rows of 64."""
    x, kernel = jnp.ones((256, 64)), jnp.ones((64, 8))

    def products(mesh):
        compiled = run.lower(x, kernel, mesh).compile().as_text()
        return set(re.findall(r"f32(\[\d+,\d+\]\{[01],[01]\}) dot\(", compiled))

    in_rows = "[64,8]{1,0}"
    assert in_rows in products(None)
    # A transpose may have become a layout.
    assert in_rows not in products(ONE_DEVICE) and products(ONE_DEVICE) & {"[8,64]{1,0}", "[64,8]{0,1}"}


def test_what_has_no_gradient_costs_none():
    x, kernel = jnp.ones((256, 64)), jnp.ones((64, 8))

    def of_kernel(x, kernel):
        with target.compiled_for(ONE_DEVICE):
            return jax.grad(lambda kernel: matmul(x, kernel).sum())(kernel)

    def of_x(x, kernel):
        with target.compiled_for(ONE_DEVICE):
            return jax.grad(lambda x: matmul(x, kernel).sum())(x)

    assert count_flops(of_kernel, x, kernel) == count_flops(of_x, x, kernel) == 2 * 2 * 256 * 64 * 8
    np.testing.assert_array_equal(of_kernel(x, kernel), jnp.full((64, 8), 256.0))
    np.testing.assert_array_equal(of_x(x, kernel), jnp.full((256, 64), 8.0))
