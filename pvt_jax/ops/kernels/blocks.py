"""What the kernels share: blocks of rows, products of blocks, and the call of a kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pvt_jax.ops import target

# Axes over which ``product`` sums: of rows with columns, of rows with rows, of columns with columns.
PLAIN, BY_ROWS, BY_COLUMNS = (1, 0), (1, 1), (0, 0)


def product(a: jax.Array, b: jax.Array, axes: tuple[int, int] = PLAIN) -> jax.Array:
    """Product of two blocks, summed over an axis of each, in float32."""
    return jax.lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)


def multiply_add(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """a b + c of blocks, float32; b may be a row. XLA and Triton make two instructions of it."""
    if target.interprets():
        return a * b + c
    inputs = [jnp.broadcast_to(one, c.shape) for one in (a, b, c)]
    settings = {"constraints": "=f,f,f,f", "pack": 1, "result_shape_dtypes": [jax.ShapeDtypeStruct(c.shape, c.dtype)]}
    return triton.elementwise_inline_asm("fma.rn.f32 $0, $1, $2, $3;", args=inputs, **settings)[0]


def read_rows(reference: Any, first: Any, count: int, end: int, *columns: Any) -> jax.Array:
    """``count`` rows from ``first`` on, 0 from ``end`` on. ``columns``: of a matrix."""
    mask = first + jnp.arange(count) < end
    place = reference.at[(pl.ds(first, count), *columns)]
    return triton.load(place, mask=mask[:, None] if columns else mask, other=0)


def write_rows(reference: Any, first: Any, values: jax.Array, end: int, *columns: Any) -> None:
    """Write ``values`` from row ``first`` on, but none from ``end`` on. ``columns``: of a matrix."""
    mask = first + jnp.arange(values.shape[0]) < end
    place = reference.at[(pl.ds(first, values.shape[0]), *columns)]
    triton.store(place, values.astype(reference.dtype), mask=mask[:, None] if columns else mask)


def call(kernel: Callable[..., None], *, warps: int, stages: int = 2, **settings: Any) -> Callable[..., Any]:
    """``pallas_call`` with ``settings`` for the target of the program."""
    if target.interprets():
        return pl.pallas_call(kernel, interpret=True, **settings)
    return pl.pallas_call(kernel, compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages), **settings)


def whole(*shape: int) -> pl.BlockSpec:
    """All of an array, for every program of a grid."""
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


# A block of tokens or of weights is a list of blocks of 32 or 64 channels: their sides are powers of two.


def block_of(width: int) -> int:
    """How many channels a block has, of a multiple of 32."""
    return 64 if width % 64 == 0 else 32


def parts_of(width: int) -> list[Any]:
    """The channels of each block."""
    return [pl.ds(first, block_of(width)) for first in range(0, width, block_of(width))]


def sum_of_products(a: list[jax.Array], b: list[jax.Array], axes: tuple[int, int] = PLAIN) -> jax.Array:
    """Product of two lists of blocks, summed over the blocks as well."""
    found = product(a[0], b[0], axes)
    for one, other in zip(a[1:], b[1:], strict=True):
        found += product(one, other, axes)
    return found
