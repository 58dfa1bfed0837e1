"""The feed-forward networks of transformer blocks in parts of the batch whose hidden maps stay in the cache: for CPU.

XLA writes each hidden map of a whole batch to memory, and reads it wherever it is used. Here a part of the images, or
of the tokens, goes through the whole network before the next one starts. The backward pass does as much and computes
the hidden maps again; only where a map is small, or cannot be divided, x W₁ is kept. Reverse mode only, and float32: of
less precise numbers the sums over parts would be rounded too often.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pvt_jax.ops.depthwise import depthwise_conv3x3
from pvt_jax.ops.gelu import gelu_of_one_erf
from pvt_jax.ops.linear import matmul
from pvt_jax.ops.padding import zero_outside

# Values of a part's hidden map, 4 MiB in float32, and of one that is kept for the backward pass, 16 MiB.
_CACHED_VALUES, _KEPT_VALUES = 2**20, 2**22


def feed_forward(
    x: Float[Array, "b n c"],
    kernel1: Float[Array, "c hidden"],
    bias1: Float[Array, " hidden"],
    kernel2: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
) -> Float[Array, "b n c"]:
    """GELU(x W₁ + b₁) W₂ + b₂, float32: the network of every transformer block (arXiv 1706.03762, section 3.3)."""

    def network(tokens: Array) -> Array:
        return matmul(gelu_of_one_erf(matmul(tokens, kernel1) + bias1), kernel2) + bias2

    # One token does not depend on another.
    tokens = x.reshape(-1, x.shape[-1])
    return _in_parts(network, kernel1.shape[1], tokens).reshape(*x.shape[:-1], kernel2.shape[1])


def depthwise_feed_forward(
    x: Float[Array, "b n c"],
    kernel1: Float[Array, "c hidden"],
    bias1: Float[Array, " hidden"],
    kernel: Float[Array, "3 3 1 hidden"],
    bias: Float[Array, " hidden"],
    kernel2: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
    *,
    grid: tuple[int, int],
    sizes: Int[Array, "b 2"] | None = None,
    rectified: bool = False,
) -> Float[Array, "b n c"]:
    """GELU(depthwise 3×3 convolution of (x W₁ + b₁) + b) W₂ + b₂, float32: PVT v2's (arXiv 2106.13797, section 3.4).

    n are the pixels of ``grid`` (rows, columns). The convolution has stride 1 and zero padding 1; beyond ``sizes``
    (rows, columns) it takes x W₁ + b₁ for 0. ``rectified``: it takes ReLU(x W₁ + b₁).
    """
    width = kernel1.shape[1]

    def network(images: Array, sizes: Array | None) -> Array:
        hidden = matmul(images, kernel1) + bias1
        if rectified:
            hidden = jax.nn.relu(hidden)
        maps = zero_outside(hidden.reshape(len(images), *grid, width), sizes)
        hidden = _convolved(maps, kernel, bias).reshape(hidden.shape)
        return matmul(gelu_of_one_erf(hidden), kernel2) + bias2

    return _in_parts(network, grid[0] * grid[1] * width, x, sizes)


def _in_parts(network: Callable[..., Array], values: int, x: Array, *others: Array | None) -> Array:
    """``network`` of arrays that share their leading axis, a part of it at a time.

    The hidden map of each of their elements has ``values`` values.
    """
    count = len(x)
    part = _part(count, _CACHED_VALUES // values)
    if part == count or count * values <= _KEPT_VALUES:
        return jax.checkpoint(network, policy=jax.checkpoint_policies.dots_saveable)(x, *others)
    # Inside of a loop nothing can be merged with the first computation, which the default guards against at a cost.
    again = jax.checkpoint(network, prevent_cse=False)
    parts = jax.tree.map(lambda one: one.reshape(count // part, part, *one.shape[1:]), (x, *others))
    done = jax.lax.map(lambda of_part: again(*of_part), parts)
    return done.reshape(count, *done.shape[2:])


def _part(count: int, most: int) -> int:
    """The largest divisor of ``count`` that is at most ``most`` and not much less; ``count`` if there is none."""
    if most <= 1:
        return 1
    return next((part for part in range(min(most, count), most // 8, -1) if count % part == 0), count)


@jax.custom_vjp
def _convolved(maps: Array, kernel: Array, bias: Array) -> Array:
    """Depthwise convolution and bias."""
    return depthwise_conv3x3(maps, kernel) + bias


def _convolved_forward(maps: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    """Left to itself XLA convolves again wherever the result is used; what comes from a branch it reads."""
    always = jax.lax.optimization_barrier(jnp.array(True))
    return jax.lax.cond(always, _convolved, lambda maps, *_: maps, maps, kernel, bias), (maps, kernel)


def _convolved_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    _, back = jax.vjp(depthwise_conv3x3, *residuals)
    return *back(gradient), gradient.sum((0, 1, 2))


_convolved.defvjp(_convolved_forward, _convolved_backward)
