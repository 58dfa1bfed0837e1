"""Layer normalisation that reads a map once forward, and both maps once backward. Reverse mode only.

"Layer Normalization" (arXiv 1607.06450). XLA reads a map for the statistics and again to normalise it, and writes the
statistics and what each sum of the backward pass needs.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import call, parts_of, read_rows, whole, write_rows

_TOKENS = 32
# Programs of the backward pass, each with its own sums for scale and bias.
_PROGRAMS = 512


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "b *rows c"], scale: Float[Array, " c"], bias: Float[Array, " c"], epsilon: float
) -> Float[Array, "b *rows c"]:
    """(x - mean) / √(var + ε) · scale + bias of each row, in the dtype of ``x``; c is a multiple of 32."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    (y,) = target.on_each_device(partial(_output, epsilon), (True, False, False), (False,))(x, scale, bias)
    return y, (x, scale)


def _backward(epsilon: float, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    x, scale = residuals
    of_each = target.on_each_device(partial(_gradients, epsilon), (True, False, True), (False, True, True))
    of_x, of_scale, of_bias = of_each(x, scale, gradient)
    return of_x, of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


layer_norm.defvjp(_forward, _backward)


def _output(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Array]:
    rows = x.reshape(-1, x.shape[-1])
    count, dim = rows.shape
    y = call(
        partial(_output_kernel, end=count, epsilon=epsilon),
        grid=(pl.cdiv(count, _TOKENS),),
        in_specs=[whole(count, dim), whole(dim), whole(dim)],
        out_specs=whole(count, dim),
        out_shape=jax.ShapeDtypeStruct(rows.shape, x.dtype),
        warps=4,
    )(rows, scale, bias)
    return (y.reshape(x.shape),)


def _gradients(epsilon: float, x: Array, scale: Array, gradient: Array) -> tuple[Array, Array, Array]:
    """Of x, scale and bias; the last two in float32."""
    rows, gradient = (one.reshape(-1, x.shape[-1]) for one in (x, gradient))
    count, dim = rows.shape
    blocks = pl.cdiv(count, _TOKENS)
    each = pl.cdiv(blocks, _PROGRAMS)
    programs = pl.cdiv(blocks, each)
    of_x, sums = call(
        partial(_gradient_kernel, end=count, epsilon=epsilon, blocks=each),
        grid=(programs,),
        in_specs=[whole(count, dim), whole(dim), whole(count, dim)],
        out_specs=(whole(count, dim), pl.BlockSpec((None, 2, dim), lambda i: (i, 0, 0))),
        out_shape=(
            jax.ShapeDtypeStruct(rows.shape, x.dtype),
            jax.ShapeDtypeStruct((programs, 2, dim), jnp.float32),
        ),
        warps=4 if dim <= 128 else 8,  # fewer have no room for the rows of 512 channels
    )(rows, scale, gradient)
    of_scale, of_bias = sums.sum(0)
    return of_x.reshape(x.shape), of_scale, of_bias


def _normalised(x: Any, first: Any, end: int, epsilon: float) -> tuple[list[Array], Array]:
    """Rows with mean 0 and variance 1, by blocks of channels, and what they were divided by, inverted; float32."""
    dim = x.shape[1]
    rows = [read_rows(x, first, _TOKENS, end, part).astype(jnp.float32) for part in parts_of(dim)]
    mean = _sum(rows) / dim
    centred = [one - mean[:, None] for one in rows]
    inverse = jax.lax.rsqrt(_sum([one * one for one in centred]) / dim + epsilon)
    return [one * inverse[:, None] for one in centred], inverse


def _sum(rows: list[Array]) -> Array:
    total = rows[0].sum(1)
    for one in rows[1:]:
        total += one.sum(1)
    return total


def _output_kernel(x: Any, scale: Any, bias: Any, y: Any, *, end: int, epsilon: float) -> None:
    first = pl.program_id(0) * _TOKENS
    normalised, _ = _normalised(x, first, end, epsilon)
    for one, part in zip(normalised, parts_of(x.shape[1]), strict=True):
        write_rows(y, first, one * scale[part] + bias[part], end, part)


def _gradient_kernel(
    x: Any, scale: Any, gradient: Any, of_x: Any, sums: Any, *, end: int, epsilon: float, blocks: int
) -> None:
    dim, parts, start = x.shape[1], parts_of(x.shape[1]), pl.program_id(0) * blocks * _TOKENS

    def add(i: Any, so_far: tuple[Any, ...]) -> tuple[Any, ...]:
        first = start + i * _TOKENS
        normalised, inverse = _normalised(x, first, end, epsilon)
        upstream = [read_rows(gradient, first, _TOKENS, end, part).astype(jnp.float32) for part in parts]
        scaled = [one * scale[part] for one, part in zip(upstream, parts, strict=True)]
        mean = _sum(scaled) / dim
        along = _sum([one * other for one, other in zip(scaled, normalised, strict=True)]) / dim
        for one, other, part in zip(scaled, normalised, parts, strict=True):
            write_rows(of_x, first, (one - mean[:, None] - other * along[:, None]) * inverse[:, None], end, part)
        of_scale = [(one * other).sum(0) for one, other in zip(upstream, normalised, strict=True)]
        added = (*of_scale, *(one.sum(0) for one in upstream))
        return tuple(one + more for one, more in zip(so_far, added, strict=True))

    zeros = [jnp.zeros((part.size,), jnp.float32) for part in parts]
    found = jax.lax.fori_loop(0, blocks, add, (*zeros, *zeros))
    for number, part in enumerate(parts):
        sums[0, part], sums[1, part] = found[number], found[number + len(parts)]
