"""Convolutions whose gradients stay fast on one CPU, also in loops and branches."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.bilinear import with_gradients
from pvt_jax.ops.order import once

# The dimension order that XLA's convolutions for CPU are fast in.
_AXES = ("NHWC", "HWIO", "NHWC")
# In the gradient of a kernel, images take the place of the input channels. Of one image nothing is contiguous along
# them: it takes up to 1.7 times as long as its two halves. With few images, padding inside the convolution takes up to
# 1.5 times as long as padding before it.
_FEW_IMAGES = 8


class _Geometry(NamedTuple):
    stride: int
    input_sides: tuple[int, int]
    kernel_side: int


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c d"], stride: int = 1, out_dtype: DTypeLike | None = None
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with zero padding s // 2; ``x`` and ``kernel`` have one dtype, by default that of the result.

    For an odd side s, h2 = ⌈h / stride⌉ and w2 = ⌈w / stride⌉. Compiled for one CPU (``target.compiled_for``), the
    gradients are convolutions in the forward pass's dimension order. Autodiff's have another, which XLA canonicalizes
    in the entry computation only: in a branch or a loop they run as scalar loops, a hundred times slower. Reverse mode
    only, there and with a wider ``out_dtype``: ``jax.jvp`` fails.
    """
    if out_dtype is not None and out_dtype != x.dtype:
        return _widened(x, kernel, stride, jnp.dtype(out_dtype))
    if not target.is_one_cpu():
        return _convolve(x, kernel, stride)
    return _ordered(x, kernel, _Geometry(stride, (x.shape[1], x.shape[2]), kernel.shape[0]))


def _convolve(x: Array, kernel: Array, stride: int, out_dtype: DTypeLike | None = None) -> Array:
    pad = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=_AXES, preferred_element_type=out_dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _widened(x: Array, kernel: Array, stride: int, out_dtype: DTypeLike) -> Array:
    """jax 0.7 has no gradient of a convolution from bfloat16 to float32; this is the gradient of later versions."""
    return _convolve(x, kernel, stride, out_dtype)


def _widened_forward(x: Array, kernel: Array, stride: int, out_dtype: DTypeLike) -> tuple[Array, tuple[Array, Array]]:
    return _widened(x, kernel, stride, out_dtype), (x, kernel)


def _widened_backward(
    stride: int, out_dtype: DTypeLike, inputs: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    wide = (part.astype(gradient.dtype) for part in inputs)
    gradients = jax.vjp(partial(convolve, stride=stride), *wide)[1](gradient)
    return gradients[0].astype(inputs[0].dtype), gradients[1].astype(inputs[1].dtype)


_widened.defvjp(_widened_forward, _widened_backward)


def _gradient_of_map(kernel: Array, gradient: Array, geometry: _Geometry) -> Array:
    stride, sides, side = geometry
    before = side - 1 - side // 2
    padding = [
        (before, length - span - before + side - 1)
        for length, span in zip(sides, _spans(gradient, stride), strict=True)
    ]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        gradient, flipped, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=_AXES
    )


def _gradient_of_kernel(x: Array, gradient: Array, geometry: _Geometry) -> Array:
    stride, sides, side = geometry
    x = once(gradient, x)
    padding = [
        (side // 2, side - 1 + span - length - side // 2)
        for length, span in zip(sides, _spans(gradient, stride), strict=True)
    ]
    # With a stride padding may be negative, which ``jnp.pad`` cannot do.
    if stride == 1 and len(x) < _FEW_IMAGES:
        x, padding = jnp.pad(x, ((0, 0), *padding, (0, 0))), [(0, 0), (0, 0)]
        if len(x) == 1:
            x, gradient = _halves(x, gradient, side)
    return jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=_AXES,
    ).transpose(1, 2, 0, 3)


def _spans(gradient: Array, stride: int) -> list[int]:
    """Rows and columns of the input from the kernel's first position to its last."""
    return [(places - 1) * stride + 1 for places in gradient.shape[1:3]]


def _halves(padded: Array, gradient: Array, side: int) -> tuple[Array, Array]:
    """One image as two: the upper and lower half of the gradient's rows, each with the input rows that it reads."""
    rows = -(-gradient.shape[1] // 2)
    below = ((0, 0), (0, 2 * rows - gradient.shape[1]), (0, 0), (0, 0))
    padded, gradient = jnp.pad(padded, below), jnp.pad(gradient, below)
    return (
        jnp.concatenate([padded[:, : rows + side - 1], padded[:, rows:]]),
        jnp.concatenate([gradient[:, :rows], gradient[:, rows:]]),
    )


_ordered = with_gradients(
    lambda x, kernel, geometry: _convolve(x, kernel, geometry.stride), _gradient_of_map, _gradient_of_kernel
)
