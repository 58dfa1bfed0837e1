"""GELU(x W₁ + b₁) W₂ + b₂ whose hidden map is in no memory.

A program takes a block of tokens through all hidden channels, a block of them at a time. The backward pass has two
kernels, which compute the hidden map again: one for the gradient of x, with a block of tokens a program, and one for
those of the weights, with a block of hidden channels and a share of the tokens a program. Reverse mode only.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import (
    BY_COLUMNS,
    BY_ROWS,
    block_of,
    call,
    parts_of,
    product,
    read_rows,
    sum_of_products,
    whole,
    write_rows,
)
from pvt_jax.ops.kernels.gelu import gelu, of_gelu

_TOKENS = 64
# Into how many sums the gradients of the weights are divided at most: as many programs for each block of channels.
_SHARES = 32


@jax.custom_vjp
def feed_forward(
    x: Float[Array, "b n c"],
    kernel1: Float[Array, "c hidden"],
    bias1: Float[Array, " hidden"],
    kernel2: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
) -> Float[Array, "b n c"]:
    """The feed-forward network of a transformer block; all of one dtype. c and hidden are multiples of 32."""
    return _forward(x, kernel1, bias1, kernel2, bias2)[0]


def _forward(x: Array, *weights: Array) -> tuple[Array, tuple[Array, ...]]:
    (y,) = target.on_each_device(_output, (True, *(False,) * 4), (False,))(x, *weights)
    return y, (x, *weights)


def _backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    *inputs, bias2 = residuals
    of_batch = (True, True, False, False, False)
    gradients = target.on_each_device(_gradients, of_batch, (False, *(True,) * 4))(inputs[0], gradient, *inputs[1:])
    return tuple(one.astype(of.dtype) for one, of in zip(gradients, residuals, strict=True))


feed_forward.defvjp(_forward, _backward)


def _output(x: Array, kernel1: Array, bias1: Array, kernel2: Array, bias2: Array) -> tuple[Array]:
    tokens = x.reshape(-1, x.shape[-1])
    count, dim = tokens.shape
    hidden = kernel1.shape[1]
    y = call(
        partial(_output_kernel, end=count),
        grid=(pl.cdiv(count, _TOKENS),),
        in_specs=[whole(count, dim), whole(dim, hidden), whole(hidden), whole(hidden, dim), whole(dim)],
        out_specs=whole(count, dim),
        out_shape=jax.ShapeDtypeStruct(tokens.shape, tokens.dtype),
        warps=4,
    )(tokens, kernel1, bias1, kernel2, bias2)
    return (y.reshape(x.shape),)


def _gradients(x: Array, gradient: Array, kernel1: Array, bias1: Array, kernel2: Array) -> tuple[Array, ...]:
    """Of x, W₁, b₁, W₂ and b₂; float32 but that of x."""
    tokens, gradient = (one.reshape(-1, x.shape[-1]) for one in (x, gradient))
    count, dim = tokens.shape
    hidden = kernel1.shape[1]
    of_x = call(
        partial(_x_kernel, end=count),
        grid=(pl.cdiv(count, _TOKENS),),
        in_specs=[whole(count, dim), whole(count, dim), whole(dim, hidden), whole(hidden), whole(hidden, dim)],
        out_specs=whole(count, dim),
        out_shape=jax.ShapeDtypeStruct(tokens.shape, tokens.dtype),
        warps=4,
    )(tokens, gradient, kernel1, bias1, kernel2)

    blocks = pl.cdiv(count, _TOKENS)
    each = pl.cdiv(blocks, _SHARES)  # blocks of tokens a program
    shares, width = pl.cdiv(blocks, each), block_of(hidden)
    row, column, vector = (
        pl.BlockSpec((width, dim), lambda j, share: (j, 0)),
        pl.BlockSpec((dim, width), lambda j, share: (0, j)),
        pl.BlockSpec((width,), lambda j, share: (j,)),
    )
    sums = call(
        partial(_weights_kernel, end=count, blocks=each),
        grid=(hidden // width, shares),
        in_specs=[whole(count, dim), whole(count, dim), column, vector, row],
        out_specs=(
            pl.BlockSpec((None, dim, width), lambda j, share: (share, 0, j)),
            pl.BlockSpec((None, width), lambda j, share: (share, j)),
            pl.BlockSpec((None, width, dim), lambda j, share: (share, j, 0)),
        ),
        out_shape=tuple(
            jax.ShapeDtypeStruct((shares, *shape), jnp.float32) for shape in ((dim, hidden), (hidden,), (hidden, dim))
        ),
        warps=8,
    )(tokens, gradient, kernel1, bias1, kernel2)
    of_weights = (one.sum(0) for one in sums)
    return of_x.reshape(x.shape), *of_weights, gradient.astype(jnp.float32).sum(0)


def _output_kernel(x: Any, kernel1: Any, bias1: Any, kernel2: Any, bias2: Any, y: Any, *, end: int) -> None:
    first, parts = pl.program_id(0) * _TOKENS, parts_of(x.shape[1])
    tokens = [read_rows(x, first, _TOKENS, end, part) for part in parts]
    width = block_of(kernel1.shape[1])

    def add(j: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        some = pl.ds(j * width, width)
        hidden = _hidden(tokens, [kernel1[part, some] for part in parts], bias1[some])
        active = gelu(hidden).astype(x.dtype)
        return tuple(one + product(active, kernel2[some, part]) for one, part in zip(sums, parts, strict=True))

    zeros = tuple(jnp.zeros((_TOKENS, part.size), jnp.float32) for part in parts)
    sums = jax.lax.fori_loop(0, kernel1.shape[1] // width, add, zeros)
    for one, part in zip(sums, parts, strict=True):
        write_rows(y, first, one + bias2[part].astype(jnp.float32), end, part)


def _x_kernel(x: Any, gradient: Any, kernel1: Any, bias1: Any, kernel2: Any, of_x: Any, *, end: int) -> None:
    first, parts = pl.program_id(0) * _TOKENS, parts_of(x.shape[1])
    tokens = [read_rows(x, first, _TOKENS, end, part) for part in parts]
    gradients = [read_rows(gradient, first, _TOKENS, end, part) for part in parts]
    width = block_of(kernel1.shape[1])

    def add(j: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        some = pl.ds(j * width, width)
        kernels1, kernels2 = [kernel1[part, some] for part in parts], [kernel2[some, part] for part in parts]
        of_hidden = of_gelu(_hidden(tokens, kernels1, bias1[some]), gradients, kernels2)[1].astype(x.dtype)
        return tuple(one + product(of_hidden, kernel, BY_ROWS) for one, kernel in zip(sums, kernels1, strict=True))

    zeros = tuple(jnp.zeros((_TOKENS, part.size), jnp.float32) for part in parts)
    sums = jax.lax.fori_loop(0, kernel1.shape[1] // width, add, zeros)
    for one, part in zip(sums, parts, strict=True):
        write_rows(of_x, first, one, end, part)


def _weights_kernel(
    x: Any,
    gradient: Any,
    kernel1: Any,
    bias1: Any,
    kernel2: Any,
    of_1: Any,
    of_bias: Any,
    of_2: Any,
    *,
    end: int,
    blocks: int,
) -> None:
    parts, start = parts_of(x.shape[1]), pl.program_id(1) * blocks * _TOKENS
    kernels1, kernels2 = [kernel1[part, :] for part in parts], [kernel2[:, part] for part in parts]
    bias = bias1[...]

    def add(i: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        first = start + i * _TOKENS
        tokens = [read_rows(x, first, _TOKENS, end, part) for part in parts]
        gradients = [read_rows(gradient, first, _TOKENS, end, part) for part in parts]
        active, of_hidden = of_gelu(_hidden(tokens, kernels1, bias), gradients, kernels2)
        ones, biases, twos = sums
        rounded, active = of_hidden.astype(x.dtype), active.astype(x.dtype)
        return (
            tuple(one + product(some, rounded, BY_COLUMNS) for one, some in zip(ones, tokens, strict=True)),
            biases + of_hidden.sum(0),
            tuple(two + product(active, some, BY_COLUMNS) for two, some in zip(twos, gradients, strict=True)),
        )

    width = kernel1.shape[1]
    zeros = [jnp.zeros((part.size, width), jnp.float32) for part in parts]
    nothing = (tuple(zeros), jnp.zeros((width,), jnp.float32), tuple(zero.T for zero in zeros))
    ones, biases, twos = jax.lax.fori_loop(0, blocks, add, nothing)
    for one, two, part in zip(ones, twos, parts, strict=True):
        of_1[part, :], of_2[:, part] = one, two
    of_bias[...] = biases


def _hidden(tokens: list[Array], kernels1: list[Array], bias1: Array) -> Array:
    """What GELU takes, float32."""
    return sum_of_products(tokens, kernels1) + bias1.astype(jnp.float32)
