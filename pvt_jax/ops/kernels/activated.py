"""GELU(x + b) W + c whose activations are in no memory: the second half of PVT v2's feed-forward network.

The backward pass has one kernel, for all four gradients. Reverse mode only.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import BY_COLUMNS, block_of, call, parts_of, product, read_rows, whole, write_rows
from pvt_jax.ops.kernels.gelu import gelu, of_gelu

_TOKENS = 64
# Into how many sums the gradients of the weights are divided at most.
_SHARES = 64


@jax.custom_vjp
def activated_linear(
    x: Float[Array, "b n hidden"],
    bias: Float[Array, " hidden"],
    kernel: Float[Array, "hidden c"],
    bias2: Float[Array, " c"],
) -> Float[Array, "b n c"]:
    """Linear layer of GELU(x + b); all of one dtype. c and hidden are multiples of 32."""
    return _forward(x, bias, kernel, bias2)[0]


def _forward(x: Array, *weights: Array) -> tuple[Array, tuple[Array, ...]]:
    (y,) = target.on_each_device(_output, (True, *(False,) * 3), (False,))(x, *weights)
    return y, (x, *weights)


def _backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    x, bias, kernel, _ = residuals
    of_each = target.on_each_device(_gradients, (True, True, False, False), (False, *(True,) * 3))
    gradients = of_each(x, gradient, bias, kernel)
    return tuple(one.astype(of.dtype) for one, of in zip(gradients, residuals, strict=True))


activated_linear.defvjp(_forward, _backward)


def _output(x: Array, bias: Array, kernel: Array, bias2: Array) -> tuple[Array]:
    hidden, dim = kernel.shape
    tokens = x.reshape(-1, hidden)
    count = len(tokens)
    y = call(
        partial(_output_kernel, end=count),
        grid=(pl.cdiv(count, _TOKENS),),
        in_specs=[whole(count, hidden), whole(hidden), whole(hidden, dim), whole(dim)],
        out_specs=whole(count, dim),
        out_shape=jax.ShapeDtypeStruct((count, dim), x.dtype),
        warps=4,
    )(tokens, bias, kernel, bias2)
    return (y.reshape(*x.shape[:-1], dim),)


def _gradients(x: Array, gradient: Array, bias: Array, kernel: Array) -> tuple[Array, ...]:
    """Of x, b, W and c; float32 but that of x."""
    hidden, dim = kernel.shape
    tokens, gradient = x.reshape(-1, hidden), gradient.reshape(-1, dim)
    count, width = len(tokens), block_of(hidden)
    blocks = pl.cdiv(count, _TOKENS)
    each = pl.cdiv(blocks, _SHARES)
    shares = pl.cdiv(blocks, each)
    channels = pl.BlockSpec((count, width), lambda j, share: (0, j))
    of_x, of_bias, of_kernel = call(
        partial(_gradient_kernel, end=count, blocks=each),
        grid=(hidden // width, shares),
        in_specs=[
            channels,
            whole(count, dim),
            pl.BlockSpec((width,), lambda j, share: (j,)),
            pl.BlockSpec((width, dim), lambda j, share: (j, 0)),
        ],
        out_specs=(
            channels,
            pl.BlockSpec((None, width), lambda j, share: (share, j)),
            pl.BlockSpec((None, width, dim), lambda j, share: (share, j, 0)),
        ),
        out_shape=(
            jax.ShapeDtypeStruct(tokens.shape, x.dtype),
            jax.ShapeDtypeStruct((shares, hidden), jnp.float32),
            jax.ShapeDtypeStruct((shares, hidden, dim), jnp.float32),
        ),
        warps=4 if dim <= 64 else 8,
    )(tokens, gradient, bias, kernel)
    return of_x.reshape(x.shape), of_bias.sum(0), of_kernel.sum(0), gradient.astype(jnp.float32).sum(0)


def _output_kernel(x: Any, bias: Any, kernel: Any, bias2: Any, y: Any, *, end: int) -> None:
    first, parts, width = pl.program_id(0) * _TOKENS, parts_of(kernel.shape[1]), block_of(kernel.shape[0])

    def add(j: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        some = pl.ds(j * width, width)
        hidden = read_rows(x, first, _TOKENS, end, some).astype(jnp.float32) + bias[some].astype(jnp.float32)
        active = gelu(hidden).astype(x.dtype)
        return tuple(one + product(active, kernel[some, part]) for one, part in zip(sums, parts, strict=True))

    zeros = tuple(jnp.zeros((_TOKENS, part.size), jnp.float32) for part in parts)
    sums = jax.lax.fori_loop(0, kernel.shape[0] // width, add, zeros)
    for one, part in zip(sums, parts, strict=True):
        write_rows(y, first, one + bias2[part].astype(jnp.float32), end, part)


def _gradient_kernel(
    x: Any, gradient: Any, bias: Any, kernel: Any, of_x: Any, of_bias: Any, of_kernel: Any, *, end: int, blocks: int
) -> None:
    parts, start, every = parts_of(kernel.shape[1]), pl.program_id(1) * blocks * _TOKENS, slice(None)
    kernels, shift = [kernel[:, part] for part in parts], bias[...].astype(jnp.float32)

    def add(i: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        first = start + i * _TOKENS
        hidden = read_rows(x, first, _TOKENS, end, every).astype(jnp.float32) + shift
        gradients = [read_rows(gradient, first, _TOKENS, end, part) for part in parts]
        active, of_hidden = of_gelu(hidden, gradients, kernels)
        write_rows(of_x, first, of_hidden, end, every)
        active = active.astype(x.dtype)
        products = (product(active, some, BY_COLUMNS) for some in gradients)
        return sums[0] + of_hidden.sum(0), tuple(one + some for one, some in zip(sums[1], products, strict=True))

    zeros = tuple(jnp.zeros(one.shape, jnp.float32) for one in kernels)
    biases, products = jax.lax.fori_loop(0, blocks, add, (jnp.zeros(shift.shape, jnp.float32), zeros))
    for one, part in zip(products, parts, strict=True):
        of_kernel[:, part] = one
    of_bias[...] = biases
