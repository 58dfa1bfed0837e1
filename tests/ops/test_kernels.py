"""Kernels, run by jax's interpreter, against plain jax.numpy: values and every gradient, on one device and on two."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from pvt_jax.ops import target
from pvt_jax.ops.kernels import check, depthwise_feed_forward
from pvt_jax.ops.kernels.attention import attention
from pvt_jax.ops.kernels.feed_forward import feed_forward
from pvt_jax.ops.kernels.layer_norm import layer_norm

ROOT = Path(__file__).resolve().parents[2]


def mesh_of(count=1):
    return Mesh(np.array(jax.devices()[:count]).reshape(count, 1), ("data", "fsdp"))


def numbers(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes]


def both(function, inputs):
    """The result, and the gradients of its product with something."""
    result, back = jax.vjp(function, *inputs)
    return result, back(jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape))


def assert_equal(kernel, plain, inputs, devices=1):
    def by_kernel(*arguments):
        with target.compiled_for(mesh_of(devices), interpret=True):
            return both(kernel, arguments)

    found, expected = jax.jit(by_kernel)(*inputs), jax.jit(lambda *arguments: both(plain, arguments))(*inputs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


# 70 tokens are a block and a part of one; 96 channels are three blocks of 32.
@pytest.mark.parametrize(("dim", "hidden"), [(32, 64), (96, 32)])
def test_a_feed_forward_network(dim, hidden):
    inputs = numbers((2, 35, dim), (dim, hidden), (hidden,), (hidden, dim), (dim,))
    assert_equal(feed_forward, lambda x, a, b, c, d: gelu(x @ a + b) @ c + d, inputs)


def normalised(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-2) * scale + bias


@pytest.mark.parametrize("dim", [32, 192])
def test_layer_normalisation(dim):
    x, scale, bias = numbers((2, 35, dim), (dim,), (dim,))
    assert_equal(partial(layer_norm, epsilon=1e-2), normalised, (3.0 + 0.1 * x, scale, bias))


def of_heads(query, key_value, head_dim, mask=None):
    b, n, dim = query.shape

    def split(x):
        return x.reshape(b, -1, dim // head_dim, head_dim).transpose(0, 2, 1, 3)

    query, key, value = split(query), *(split(one) for one in jnp.split(key_value, 2, -1))
    scores = jnp.einsum("bhnd,bhmd->bhnm", query, key)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    return jnp.einsum("bhnm,bhmd->bhnd", jax.nn.softmax(scores), value).transpose(0, 2, 1, 3).reshape(b, n, dim)


@pytest.mark.parametrize(("n", "m"), [(70, 7), (5, 70)])
def test_attention(n, m):
    query, key_value = numbers((2, n, 64), (2, m, 128))
    assert_equal(partial(attention, head_dim=32), partial(of_heads, head_dim=32), (query / 4, key_value))


def test_attention_with_masked_keys():
    query, key_value = numbers((2, 9, 32), (2, 70, 64))
    mask = jnp.arange(70) < jnp.array([[66], [3]])
    # Many scores are far below 0, which a masked key might have instead of the lowest.
    inputs = (query - 2, key_value)
    kernel = partial(attention, head_dim=32, key_mask=mask)
    assert_equal(kernel, partial(of_heads, head_dim=32, mask=mask), inputs)


def with_convolution(x, a, b, kernel, c, d, e, grid, sizes, rectified=False):
    """The feed-forward network of PVT v2."""
    hidden = jax.nn.relu(x @ a + b) if rectified else x @ a + b
    hidden = hidden.reshape(len(x), *grid, -1)
    inside = (jnp.arange(grid[0])[:, None] < sizes[:, :1, None]) & (jnp.arange(grid[1]) < sizes[:, 1:, None])
    hidden = jnp.where(inside[..., None], hidden, 0.0)
    dimensions, channels = ("NHWC", "HWIO", "NHWC"), hidden.shape[-1]
    hidden = jax.lax.conv_general_dilated(
        hidden, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=channels
    )
    return gelu(hidden.reshape(*x.shape[:2], -1) + c) @ d + e


# 9 × 15 pixels are 40 cells, a block and a part of one, with empty pixels in the last row and column; 96 channels are
# three blocks of 32. Three images are divided among programs of two.
@pytest.mark.parametrize(
    ("dim", "hidden", "grid", "sizes", "rectified", "programs"),
    [
        (32, 96, (9, 15), [[9, 15], [3, 4], [9, 1]], False, 6),
        (96, 32, (3, 5), [[3, 5], [2, 5]], True, 1),
    ],
)
def test_a_feed_forward_network_with_a_convolution(monkeypatch, dim, hidden, grid, sizes, rectified, programs):
    monkeypatch.setattr(depthwise_feed_forward, "_PROGRAMS", programs)
    shapes = ((dim, hidden), (hidden,), (3, 3, 1, hidden), (hidden,), (hidden, dim), (dim,))
    x, a, *others = numbers((len(sizes), grid[0] * grid[1], dim), *shapes)
    settings = {"grid": grid, "sizes": jnp.array(sizes), "rectified": rectified}
    kernel = partial(depthwise_feed_forward.depthwise_feed_forward, **settings)
    assert_equal(kernel, partial(with_convolution, **settings), (x, a / dim**0.5, *others))


def check_two_devices():
    """Gradients of weights are sums over all devices; run where there are two."""
    weights = ((32, 32), (32,), (32, 32), (32,))
    inputs = numbers((2, 3, 32), *weights)
    assert_equal(feed_forward, lambda x, a, b, c, d: gelu(x @ a + b) @ c + d, inputs, devices=2)
    inputs = numbers((2, 3, 32), (2, 5, 64))
    assert_equal(partial(attention, head_dim=32), partial(of_heads, head_dim=32), inputs, devices=2)
    inputs = numbers((2, 3, 32), (32,), (32,))
    assert_equal(partial(layer_norm, epsilon=1e-2), normalised, inputs, devices=2)
    inputs = numbers((2, 6, 32), *weights[:2], (3, 3, 1, 32), *weights[1:])
    settings = {"grid": (2, 3), "sizes": jnp.array([[2, 3], [1, 2]])}
    kernel = partial(depthwise_feed_forward.depthwise_feed_forward, **settings)
    assert_equal(kernel, partial(with_convolution, **settings), inputs, devices=2)


def test_devices_share_the_batch():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = "from tests.ops.test_kernels import check_two_devices as check; check(); print('checked')"
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "checked\n", found.stderr


class Device:
    def __init__(self, platform, capability=None):
        self.platform = platform
        if capability:
            self.compute_capability = capability


@pytest.mark.parametrize(
    ("device", "dtype", "widths", "has"),
    [
        (Device("gpu", "9.0"), jnp.bfloat16, (64,), True),
        (Device("gpu", "8.0"), jnp.bfloat16, (), True),
        (Device("gpu", "7.5"), jnp.bfloat16, (64,), False),
        (Device("gpu", "gfx942"), jnp.bfloat16, (64,), False),
        (Device("gpu", "9.0"), jnp.float32, (64,), False),
        (Device("gpu", "9.0"), jnp.bfloat16, (40,), False),
        (Device("gpu", "9.0"), jnp.bfloat16, (64, 160), False),
        (Device("tpu"), jnp.bfloat16, (64,), False),
        (Device("cpu"), jnp.bfloat16, (64,), False),
    ],
)
def test_which_layers_have_kernels(device, dtype, widths, has):
    mesh = Mesh(np.array([device]).reshape(1, 1), ("data", "fsdp"))
    with target.compiled_for(mesh):
        assert target.has_kernels(dtype, *widths) == has
    # What is exported for several platforms has none.
    assert not target.has_kernels(dtype, *widths)


def test_a_device_is_checked(monkeypatch):
    # As on a GPU; what is rounded must stay far from what is wrong.
    found = check.differences(mesh_of(), interpret=True)
    assert len(found) == 4 and max(found.values()) < check.TOLERANCE / 5
    # A kernel that takes one element for another.
    monkeypatch.setattr(check, "layer_norm", lambda x, scale, bias, epsilon: x[:, ::-1] * scale + bias)
    monkeypatch.setattr(check, "feed_forward", lambda x, a, b, c, d: x * jnp.nan)
    # The longest to compile, and it shows nothing more here.
    monkeypatch.setattr(check, "depthwise_feed_forward", check._depthwise_feed_forward)
    found = check.differences(mesh_of(), dtype=jnp.float32, interpret=True)
    assert found["layer normalisation"] > check.TOLERANCE and found["feed-forward network"] == float("inf")
    assert found["attention"] < 1e-5
