"""Depthwise 3×3 convolution of x + b or ReLU(x + b), whose gradients take one pass over two maps.

XLA reads both maps once for every two of the nine sums of the kernel's gradient, and once more for the bias's; it also
writes x + b for the backward pass. Here a program takes some channels of an image. Reverse mode only.
"""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import block_of, call, read_rows, write_rows

# Pixels of a block, in row-major order.
_PIXELS = 32
_TAPS = tuple((i, j) for i in range(-1, 2) for j in range(-1, 2))


def biased_depthwise(
    x: Float[Array, "b h w c"],
    bias: Float[Array, " c"],
    kernel: Float[Array, "3 3 1 c"],
    sizes: Int[Array, "b 2"] | None = None,
    *,
    rectified: bool = False,
) -> Float[Array, "b h w c"]:
    """Stride 1, zero padding 1; all of one dtype, c a multiple of 32. Beyond ``sizes`` (rows, columns) x + b is 0."""
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array(x.shape[1:3], jnp.int32), (x.shape[0], 2))
    return _convolution(rectified, x, bias, kernel, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolution(rectified: bool, x: Array, bias: Array, kernel: Array, sizes: Array) -> Array:
    height, width = x.shape[1:3]
    shifted = x + bias
    if rectified:
        shifted = jax.nn.relu(shifted)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (rows < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    padded = jnp.pad(jnp.where(inside[..., None], shifted, jnp.zeros((), x.dtype)), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # One fusion: the map is read and the result written, nothing between.
    parts = (padded[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] * kernel[1 + i, 1 + j, 0] for i, j in _TAPS)
    return functools.reduce(jnp.add, parts)


def _forward(rectified: bool, *inputs: Array) -> tuple[Array, tuple[Array, ...]]:
    return _convolution(rectified, *inputs), inputs


def _backward(rectified: bool, residuals: tuple[Array, ...], gradient: Array) -> tuple[Any, ...]:
    x, bias, kernel, sizes = residuals
    batched = (True, False, False, True, True)
    of_each = target.on_each_device(partial(_gradients, rectified), batched, (False, True, True))
    of_x, of_bias, of_kernel = of_each(x, bias, kernel, sizes, gradient)
    return of_x, of_bias.astype(bias.dtype), of_kernel.astype(kernel.dtype), None


_convolution.defvjp(_forward, _backward)


def _gradients(
    rectified: bool, x: Array, bias: Array, kernel: Array, sizes: Array, gradient: Array
) -> tuple[Array, Array, Array]:
    """Of x, the bias and the kernel; the last two in float32."""
    b, h, w, c = x.shape
    channels = block_of(c)
    pixels = pl.BlockSpec((None, h * w, channels), lambda j, image: (image, 0, j))

    def sums(count: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, count, channels), lambda j, image: (image, 0, j))

    of_x, of_bias, of_kernel = call(
        partial(_kernel, height=h, width=w, rectified=rectified),
        grid=(c // channels, b),
        in_specs=[
            pixels,
            pl.BlockSpec((channels,), lambda j, image: (j,)),
            pl.BlockSpec((9, channels), lambda j, image: (0, j)),
            pl.BlockSpec((None, 2), lambda j, image: (image, 0)),
            pixels,
        ],
        out_specs=(pixels, sums(1), sums(9)),
        out_shape=(
            jax.ShapeDtypeStruct((b, h * w, c), x.dtype),
            jax.ShapeDtypeStruct((b, 1, c), jnp.float32),
            jax.ShapeDtypeStruct((b, 9, c), jnp.float32),
        ),
        warps=4,
    )(x.reshape(b, h * w, c), bias, kernel.reshape(9, c), sizes, gradient.reshape(b, h * w, c))
    return of_x.reshape(x.shape), of_bias.sum((0, 1)), of_kernel.sum(0).reshape(kernel.shape)


def _kernel(
    x: Any,
    bias: Any,
    kernel: Any,
    sizes: Any,
    gradient: Any,
    of_x: Any,
    of_bias: Any,
    of_kernel: Any,
    *,
    height: int,
    width: int,
    rectified: bool,
) -> None:
    every, end = slice(None), height * width
    taps, shift = [kernel[number, :].astype(jnp.float32) for number in range(9)], bias[...].astype(jnp.float32)
    rows, columns = sizes[0], sizes[1]

    def at(reference: Any, pixel: Array, inside: Array) -> Array:
        # Row by row, as none may be before the first or after the last.
        found = reference[jnp.where(inside, pixel, 0), :].astype(jnp.float32)
        return jnp.where(inside[:, None], found, 0.0)

    def shifted(pixel: Array, inside: Array) -> Array:
        found = at(x, pixel, inside) + shift
        if rectified:
            found = jnp.maximum(found, 0.0)
        # As the forward pass rounds it.
        return jnp.where(inside[:, None], found.astype(x.dtype).astype(jnp.float32), 0.0)

    def add(block: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        first = block * _PIXELS
        pixel = first + jnp.arange(_PIXELS)
        row, column = pixel // width, pixel % width
        upstream = read_rows(gradient, first, _PIXELS, end, every).astype(jnp.float32)
        total = jnp.zeros(upstream.shape, jnp.float32)
        of_taps = []
        for tap, (i, j) in zip(taps, _TAPS, strict=True):
            before = (row - i >= 0) & (row - i < height) & (column - j >= 0) & (column - j < width) & (pixel < end)
            total += at(gradient, pixel - i * width - j, before) * tap
            after = (row + i >= 0) & (row + i < rows) & (column + j >= 0) & (column + j < columns) & (pixel < end)
            of_taps.append((shifted(pixel + i * width + j, after) * upstream).sum(0))
        here = (row < rows) & (column < columns)
        if rectified:
            total = jnp.where(at(x, pixel, here) + shift > 0, total, 0.0)
        total = jnp.where(here[:, None], total, 0.0)
        write_rows(of_x, first, total, end, every)
        added = (total.sum(0), *of_taps)
        return tuple(one + more for one, more in zip(sums, added, strict=True))

    zeros = (jnp.zeros(shift.shape, jnp.float32),) * 10
    found = jax.lax.fori_loop(0, pl.cdiv(end, _PIXELS), add, zeros)
    of_bias[0, :] = found[0]
    for number in range(9):
        of_kernel[number, :] = found[1 + number]
