"""The gradients of a depthwise 3×3 convolution in one pass over the two maps that they need."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import block_of, call, read_rows, write_rows

# Pixels of a block, in row-major order, and channels.
_PIXELS = 32
_TAPS = tuple((i, j) for i in range(-1, 2) for j in range(-1, 2))


def depthwise_gradients(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"], gradient: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "3 3 1 c"]]:
    """Of ``x`` and of ``kernel``, the second in float32. c is a multiple of 32.

    A program takes some channels of an image; XLA reads both maps once for every two of the nine sums of the kernel.
    """
    return target.on_each_device(_gradients, (True, False, True), (False, True))(x, kernel, gradient)


def _gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    b, h, w, c = x.shape
    channels = block_of(c)
    pixels = pl.BlockSpec((None, h * w, channels), lambda j, image: (image, 0, j))
    of_x, sums = call(
        partial(_kernel, height=h, width=w),
        grid=(c // channels, b),
        in_specs=[pixels, pl.BlockSpec((9, channels), lambda j, image: (0, j)), pixels],
        out_specs=(pixels, pl.BlockSpec((None, 9, channels), lambda j, image: (image, 0, j))),
        out_shape=(jax.ShapeDtypeStruct((b, h * w, c), x.dtype), jax.ShapeDtypeStruct((b, 9, c), jnp.float32)),
        warps=4,
    )(x.reshape(b, h * w, c), kernel.reshape(9, c), gradient.reshape(b, h * w, c))
    return of_x.reshape(x.shape), sums.sum(0).reshape(kernel.shape)


def _kernel(x: Any, kernel: Any, gradient: Any, of_x: Any, of_kernel: Any, *, height: int, width: int) -> None:
    every, end = slice(None), height * width
    taps = [kernel[number, :].astype(jnp.float32) for number in range(9)]

    def add(block: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        first = block * _PIXELS
        pixel = first + jnp.arange(_PIXELS)
        row, column, here = pixel // width, pixel % width, pixel < end

        def shifted(reference: Any, i: int, j: int) -> Array:
            inside = here & (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
            # Rows one by one, since none may be before the first, nor after the last.
            found = reference[jnp.where(inside, pixel + i * width + j, 0), :]
            return jnp.where(inside[:, None], found.astype(jnp.float32), 0.0)

        factor = read_rows(gradient, first, _PIXELS, end, every).astype(jnp.float32)
        total = jnp.zeros(factor.shape, jnp.float32)
        for tap, (i, j) in zip(taps, _TAPS, strict=True):
            total += shifted(gradient, -i, -j) * tap[None]
        write_rows(of_x, first, total, end, every)
        return tuple(one + (shifted(x, i, j) * factor).sum(0) for one, (i, j) in zip(sums, _TAPS, strict=True))

    sums = jax.lax.fori_loop(0, pl.cdiv(end, _PIXELS), add, (jnp.zeros(taps[0].shape, jnp.float32),) * 9)
    for number, one in enumerate(sums):
        of_kernel[number, :] = one
