"""Whether the kernels compute here what XLA does: a run asks before its first step."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from pvt_jax.ops import target
from pvt_jax.ops.kernels.attention import attention
from pvt_jax.ops.kernels.depthwise_feed_forward import depthwise_feed_forward
from pvt_jax.ops.kernels.feed_forward import feed_forward
from pvt_jax.ops.kernels.layer_norm import layer_norm

# bfloat16 has 8 bits of precision; wrong indices are wrong by the size of the numbers.
TOLERANCE = 0.05


def differences(mesh: Mesh, *, dtype: DTypeLike = jnp.bfloat16, interpret: bool = False) -> dict[str, float]:
    """By kernel, the largest difference of its result or of a gradient from XLA's in float32, over the largest value.

    The arrays are small and odd: blocks are not full, and the last one of each device is the smallest.
    """
    cases = _cases(mesh.size)
    inputs = {name: [one.astype(dtype) for one in shapes] for name, (_, _, shapes) in cases.items()}

    def compare(inputs: dict[str, list[Array]]) -> dict[str, Array]:
        found = {}
        for name, (kernel, plain, _) in cases.items():
            with target.compiled_for(mesh, interpret=interpret):
                by_kernel = _with_gradients(kernel, inputs[name], dtype)
            with jax.default_matmul_precision("highest"):
                exact = _with_gradients(plain, [one.astype(jnp.float32) for one in inputs[name]], dtype)
            each = [
                jnp.abs(one.astype(jnp.float32) - other).max() / jnp.abs(other).max()
                for one, other in zip(by_kernel, exact, strict=True)
            ]
            # Not the maximum, which might pass over a NaN.
            found[name] = jnp.stack(each)
        return found

    found = jax.jit(compare)(inputs)
    return {name: float(jnp.where(jnp.isfinite(each), each, jnp.inf).max()) for name, each in found.items()}


def _with_gradients(function: Callable[..., Array], inputs: list[Array], dtype: DTypeLike) -> list[Array]:
    result, back = jax.vjp(function, *inputs)
    # Rounded for both: the gradient of a bias is a sum of them, which is no larger than some of them.
    weights = jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape).astype(dtype)
    return [result, *back(weights.astype(result.dtype))]


def _cases(devices: int) -> dict[str, tuple[Callable[..., Array], Callable[..., Array], list[Array]]]:
    """(kernel, the same by jax.numpy, inputs) by name."""
    keys = iter(jax.random.split(jax.random.key(0), 32))

    def draw(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape)

    dim, hidden, batch = 64, 128, 2 * devices
    first, second = [draw(dim, hidden) / 8, draw(hidden)], [draw(hidden, dim) / 8, draw(dim)]
    grid, sizes = (11, 9), jnp.array([[11, 9], [8, 5]] * devices)
    return {
        "feed-forward network": (
            feed_forward,
            lambda x, a, b, c, d: _gelu(x @ a + b) @ c + d,
            [draw(batch, 75, dim), *first, *second],
        ),
        "layer normalisation": (
            partial(layer_norm, epsilon=1e-5),
            _layer_norm,
            [draw(batch, 75, dim), draw(dim), draw(dim)],
        ),
        "attention": (
            partial(attention, head_dim=32),
            partial(_attention, head_dim=32),
            [draw(batch, 75, dim) / 6, draw(batch, 70, 2 * dim)],
        ),
        "feed-forward network with a depthwise convolution": (
            partial(depthwise_feed_forward, grid=grid, sizes=sizes),
            partial(_depthwise_feed_forward, grid=grid, sizes=sizes),
            [draw(batch, 99, dim), *first, draw(3, 3, 1, hidden), draw(hidden), *second],
        ),
    }


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def _attention(query: Array, key_value: Array, head_dim: int) -> Array:
    shape = (*query.shape[:1], -1, query.shape[2] // head_dim, head_dim)
    key, value = (one.reshape(shape) for one in jnp.split(key_value, 2, -1))
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", query.reshape(shape), key))
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value).reshape(query.shape)


def _depthwise_feed_forward(x: Array, *weights: Array, grid: tuple[int, int], sizes: Array) -> Array:
    kernel1, bias1, kernel, bias, kernel2, bias2 = weights
    hidden = (x @ kernel1 + bias1).reshape(len(x), *grid, -1)
    inside = (jnp.arange(grid[0])[:, None] < sizes[:, :1, None]) & (jnp.arange(grid[1]) < sizes[:, 1:, None])
    hidden = _depthwise(jnp.where(inside[..., None], hidden, 0.0), kernel) + bias
    return (_gelu(hidden) @ kernel2 + bias2).reshape(x.shape)


def _depthwise(x: Array, kernel: Array) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=x.shape[-1]
    )
