"""The feed-forward networks of transformer blocks, which keep no hidden map after GELU: for TPUs.

XLA writes what is before GELU and what is after it, and reads both again in the backward pass. Here the gradient is a
function of its own that starts from the map before GELU, behind a barrier: XLA for TPU then computes GELU where the
matmuls read their operand, and a training step of PVT-Tiny moves an eighth less. XLA for GPU fuses nothing into a
matmul's operand, and would move more. Reverse mode only. All arrays of a network have one dtype.
"""

import jax
from jaxtyping import Array, Float, Int

from pvt_jax.ops.depthwise import depthwise_conv3x3
from pvt_jax.ops.gelu import gelu
from pvt_jax.ops.linear import matmul
from pvt_jax.ops.padding import zero_outside


def feed_forward(
    x: Float[Array, "b n c"],
    kernel1: Float[Array, "c hidden"],
    bias1: Float[Array, " hidden"],
    kernel2: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
) -> Float[Array, "b n c"]:
    """GELU(x W₁ + b₁) W₂ + b₂: the network of every transformer block (arXiv 1706.03762, section 3.3)."""
    return _activated_matmul(matmul(x, kernel1), bias1, kernel2) + bias2


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
    """GELU(depthwise 3×3 convolution of (x W₁ + b₁) + b) W₂ + b₂: PVT v2's (arXiv 2106.13797, section 3.4).

    n are the pixels of ``grid`` (rows, columns). The convolution has stride 1 and zero padding 1; beyond ``sizes``
    (rows, columns) it takes x W₁ + b₁ for 0. ``rectified``: it takes ReLU(x W₁ + b₁).
    """
    hidden = matmul(x, kernel1) + bias1
    if rectified:
        hidden = jax.nn.relu(hidden)
    maps = zero_outside(hidden.reshape(len(x), *grid, kernel1.shape[1]), sizes)
    return _activated_matmul(depthwise_conv3x3(maps, kernel).reshape(hidden.shape), bias, kernel2) + bias2


@jax.custom_vjp
def _activated_matmul(
    x: Float[Array, "b n c"], bias: Float[Array, " c"], kernel: Float[Array, "c d"]
) -> Float[Array, "b n d"]:
    """GELU(x + bias) · kernel."""
    return matmul(_activated(x, bias), kernel)


def _activated(x: Array, bias: Array) -> Array:
    return gelu(x + bias)


def _forward(x: Array, bias: Array, kernel: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    # Not _activated_matmul, which has no forward mode for the derivative of a gradient.
    return matmul(_activated(x, bias), kernel), (x, bias, kernel)


def _backward(residuals: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    x, bias, kernel = residuals
    # Without it XLA merges this GELU with that of the forward pass, and keeps the result.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    activated, back = jax.vjp(_activated, x, bias)
    rows, of_rows = (one.reshape(-1, one.shape[-1]) for one in (activated, gradient))
    return *back(matmul(gradient, kernel.T)), rows.T @ of_rows


_activated_matmul.defvjp(_forward, _backward)
