"""Convolutions of maps, with gradients that are fast on one CPU wherever they stand."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from pvt_jax.ops import target

# The order of axes that XLA's convolutions for CPU are written for.
_AXES = ("NHWC", "HWIO", "NHWC")
# In the gradient of a kernel, images take the place of channels. One image is up to 1.7 times as slow as two, as its
# numbers lie one by one then; and of few, padding by the convolution itself is up to 1.5 times as slow.
_FEW_IMAGES = 8


class _Geometry(NamedTuple):
    stride: int
    sides: tuple[int, int]  # rows and columns of the input
    side: int  # of the kernel


def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "s s c d"], stride: int = 1) -> Float[Array, "b h2 w2 d"]:
    """Convolution (cross-correlation) padded with s // 2 zeros; ``x``, ``kernel`` and the result have one dtype.

    For an odd side s, h2 = ⌈h / stride⌉. Compiled for one CPU (``target.compiled_for``), the gradients are convolutions
    of the same order of axes, in reverse mode only. Autodiff's have others, which XLA changes in the outermost
    computation alone: in a branch or a loop it sums their products one by one, a hundred times slower.
    """
    if not target.is_one_cpu():
        return _convolve(x, kernel, stride)
    return _ordered(x, kernel, _Geometry(stride, (x.shape[1], x.shape[2]), kernel.shape[0]))


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=_AXES)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _ordered(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    return _convolve(x, kernel, geometry.stride)


def _forward(x: Any, kernel: Any, geometry: _Geometry) -> tuple[Array, tuple[Array | None, Array | None]]:
    # Images have no gradient, and none is computed; nor is one of frozen kernels.
    kept = x.value if kernel.perturbed else None, kernel.value if x.perturbed else None
    return _convolve(x.value, kernel.value, geometry.stride), kept


def _backward(
    geometry: _Geometry, kept: tuple[Array | None, Array | None], gradient: Any
) -> tuple[Array | None, Array | None]:
    x, kernel = kept
    if isinstance(gradient, SymbolicZero):
        return None, None
    of_x = None if kernel is None else _gradient_of_map(kernel, gradient, geometry)
    return of_x, None if x is None else _gradient_of_kernel(x, gradient, geometry)


_ordered.defvjp(_forward, _backward, symbolic_zeros=True)


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
    padding = [
        (side // 2, side - 1 + span - length - side // 2)
        for length, span in zip(sides, _spans(gradient, stride), strict=True)
    ]
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
    """Rows and columns of the input from the first place of the kernel to its last."""
    return [(places - 1) * stride + 1 for places in gradient.shape[1:3]]


def _halves(padded: Array, gradient: Array, side: int) -> tuple[Array, Array]:
    """One image as two: the gradient's upper and lower rows, with zeros if they are odd, and what they were made of."""
    rows = -(-gradient.shape[1] // 2)
    below = ((0, 0), (0, 2 * rows - gradient.shape[1]), (0, 0), (0, 0))
    padded, gradient = jnp.pad(padded, below), jnp.pad(gradient, below)
    return (
        jnp.concatenate([padded[:, : rows + side - 1], padded[:, rows:]]),
        jnp.concatenate([gradient[:, :rows], gradient[:, rows:]]),
    )
