"""Convolutions: the same on one CPU as elsewhere, with gradients in the dimension order that XLA is fast in."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.ops import target
from pvt_jax.ops.convolution import convolve
from pvt_jax.planning.flops import count_flops
from tests.helpers.devices import ONE_DEVICE


def with_gradients(x, kernel, stride, mesh, out_dtype=None):
    with target.compiled_for(mesh):
        result, back = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, out_dtype), x, kernel)
        return result, *back(jnp.cos(result))


run = jax.jit(with_gradients, static_argnums=(2, 3, 4))


def drawn(x_shape, kernel_shape, dtype=jnp.float32):
    """A map and a kernel."""
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in (x_shape, kernel_shape))


def expected(x, kernel, stride, upstream=None):
    """By the definition, in float64: each place of the result sees one window of the padded map."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    side, (height, width) = kernel.shape[0], x.shape[1:3]
    pad = side // 2
    padded: np.ndarray = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (height + 2 * pad - side) // stride + 1, (width + 2 * pad - side) // stride + 1
    at = [
        (slice(None), slice(i, i + stride * (rows - 1) + 1, stride), slice(j, j + stride * (columns - 1) + 1, stride))
        for i in range(side)
        for j in range(side)
    ]
    taps = kernel.reshape(side * side, *kernel.shape[2:])
    result = np.sum([padded[place] @ tap for place, tap in zip(at, taps, strict=True)], axis=0)
    upstream = np.cos(result) if upstream is None else np.asarray(upstream, np.float64)
    of_padded = np.zeros_like(padded)
    for place, tap in zip(at, taps, strict=True):
        of_padded[place] += upstream @ tap.T
    of_kernel = np.stack([np.einsum("bijc,bijd->cd", padded[place], upstream) for place in at]).reshape(kernel.shape)
    return result, of_padded[:, pad : pad + height, pad : pad + width], of_kernel


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 9]),
    st.integers(3, 9),
    st.integers(3, 9),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 2, 3, 4, 5, 7]),
)
def test_result_and_gradients(batch, height, width, stride, side):
    """Also where no kernel reaches the last rows, and of no images."""
    x, kernel = drawn((batch, height, width, 2), (side, side, 2, 3))
    for mesh in (ONE_DEVICE, None):
        for one, other in zip(with_gradients(x, kernel, stride, mesh), expected(x, kernel, stride), strict=True):
            assert one.shape == other.shape and one.dtype == jnp.float32
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("out_dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(("batch", "stride"), [(1, 1), (2, 1), (2, 2)])
def test_in_bfloat16(batch, stride, out_dtype):
    """Gradients are of the inputs' type; a wider result is not rounded."""
    x, kernel = drawn((batch, 6, 5, 4), (3, 3, 4, 8), jnp.bfloat16)
    for mesh in (ONE_DEVICE, None):
        found = run(x, kernel, stride, mesh, out_dtype)
        assert [one.dtype for one in found] == [out_dtype, jnp.bfloat16, jnp.bfloat16]
        for one, other in zip(found, expected(x, kernel, stride, jnp.cos(found[0])), strict=True):
            tolerance = 2**-7 if one.dtype == jnp.bfloat16 else 1e-5
            assert np.abs(np.asarray(one, np.float64) - other).max() < tolerance * np.abs(other).max()


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_in_a_branch_have_the_axes_of_the_forward_convolution(stride):
    """XLA runs other dimension orders there as scalar loops."""

    def in_a_branch(x, kernel, mesh):
        return jax.lax.cond(x.sum() > 0, lambda x, kernel: with_gradients(x, kernel, stride, mesh), zeros, x, kernel)

    def zeros(x, kernel):
        return jnp.zeros((2, 8 // stride, 8 // stride, 4)), jnp.zeros_like(x), jnp.zeros_like(kernel)

    def orders(mesh):
        x, kernel = drawn((2, 8, 8, 4), (3, 3, 4, 4))
        compiled = jax.jit(in_a_branch, static_argnums=2).lower(x, kernel, mesh).compile().as_text() or ""
        return set(re.findall(r"convolution\(.*dim_labels=(\w+->\w+)", compiled))

    assert orders(None) > {"b01f_01io->b01f"}
    assert orders(ONE_DEVICE) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("form", ["remat", "scan"])
def test_a_convolution_in_a_loop_and_computed_again(form):
    """The form depends on shapes alone, so it can be traced."""
    x, kernel = drawn((1, 5, 6, 4), (3, 3, 4, 4))
    again = jax.checkpoint(lambda x, kernel: jax.nn.relu(convolve(x, kernel)))

    def loss(x, kernel):
        with target.compiled_for(ONE_DEVICE):
            if form == "remat":
                return jnp.sum(again(again(x, kernel), kernel) ** 2)
            return jnp.sum(jax.lax.scan(lambda x, _: (again(x, kernel), None), x, length=2)[0] ** 2)

    def plain(x, kernel):
        return jnp.sum(jax.nn.relu(convolve(jax.nn.relu(convolve(x, kernel)), kernel)) ** 2)

    results = (jax.jit(jax.grad(one, (0, 1)))(x, kernel) for one in (loss, plain))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4 * float(jnp.abs(other).max()))


def test_what_has_no_gradient_costs_none():
    x, kernel = drawn((8, 8, 8, 4), (3, 3, 4, 4))

    def loss(x, kernel):
        with target.compiled_for(ONE_DEVICE):
            return (convolve(x, kernel) ** 2).sum()

    forward = count_flops(loss, x, kernel)
    for argument in (0, 1):
        assert count_flops(jax.grad(loss, argument), x, kernel) == 2 * forward
