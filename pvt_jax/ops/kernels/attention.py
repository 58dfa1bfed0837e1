"""Softmax(Q Kᵀ) V whose scores are in no memory, for the few keys of spatial reduction and for many.

"FlashAttention" (arXiv 2205.14135) and "FlashAttention-2" (arXiv 2307.08691): a program takes a block of queries
through all keys, 64 at a time, with the softmax so far; the backward pass computes the weights again from the logarithm
of their sum. The gradient of Q has a program for each block of queries, those of K and V one for each block of keys and
share of the queries. Heads are read where they lie in the rows, so that nothing is transposed. Reverse mode only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from pvt_jax.ops import target
from pvt_jax.ops.kernels.blocks import BY_COLUMNS, BY_ROWS, call, product, read_rows, write_rows

_QUERIES, _KEYS = 64, 64
# Programs that keep a GPU busy: the queries of a head are shared among as many as that takes.
_PROGRAMS = 512
# Finite, but the exponential of its difference from any score is 0.
_LOWEST = -1e30


def attention(
    query: Float[Array, "b n c"],
    key_value: Float[Array, "b m c2"],
    head_dim: int,
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """Multi-head attention; ``key_value`` has all keys before all values, c2 = 2 c, and ``query`` is scaled.

    ``head_dim`` is 32, 64 or 128. Keys with a False in ``key_mask`` are attended to by no query; at least one of each
    sample must be True. Softmax is float32.
    """
    if key_mask is None:
        return _attention(head_dim, query, key_value)
    return _attention(head_dim, query, key_value, key_mask.astype(jnp.int32))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(head_dim: int, query: Array, key_value: Array, *mask: Array) -> Array:
    return _forward(head_dim, query, key_value, *mask)[0]


def _forward(head_dim: int, query: Array, key_value: Array, *mask: Array) -> tuple[Array, tuple[Array, ...]]:
    batched = (True,) * (2 + len(mask))
    out, log_sums = target.on_each_device(partial(_output, head_dim), batched, (False, False))(query, key_value, *mask)
    return out, (query, key_value, out, log_sums, *mask)


def _backward(head_dim: int, residuals: tuple[Array, ...], gradient: Array) -> tuple[Any, ...]:
    batched = (True,) * (1 + len(residuals))
    found = target.on_each_device(partial(_gradients, head_dim), batched, (False, False))(gradient, *residuals)
    return *found, *(None for _ in residuals[4:])


_attention.defvjp(_forward, _backward)


class _Places:
    """Blocks of the arrays of a head; a program's number along the grid is made a sample and a head by ``of``."""

    def __init__(self, query: Array, key_value: Array, head_dim: int, of: Callable[..., tuple[Any, Any]]) -> None:
        n, dim = query.shape[1:]
        m, heads = key_value.shape[1], dim // head_dim

        def spec(shape: tuple[int | None, ...], index: Callable[[Any, Any], tuple[Any, ...]]) -> pl.BlockSpec:
            return pl.BlockSpec(shape, lambda *program: index(*of(*program)))

        self.query = spec((None, n, head_dim), lambda b, h: (b, 0, h))
        self.key = spec((None, m, head_dim), lambda b, h: (b, 0, h))
        self.value = spec((None, m, head_dim), lambda b, h: (b, 0, heads + h))
        self.of_query = spec((None, None, n), lambda b, h: (b, h, 0))
        self.mask = spec((None, m), lambda b, h: (b, 0))


def _output(head_dim: int, query: Array, key_value: Array, *mask: Array) -> tuple[Array, Array]:
    """(attention output, logarithm of the sum of exponentials float32 [b, heads, n])."""
    (b, n, dim), m = query.shape, key_value.shape[1]
    heads = dim // head_dim
    at = _Places(query, key_value, head_dim, lambda i, b, h: (b, h))
    return call(
        partial(_output_kernel, n=n, m=m),
        grid=(pl.cdiv(n, _QUERIES), b, heads),
        in_specs=[at.query, at.key, at.value, *(at.mask for _ in mask)],
        out_specs=(at.query, at.of_query),
        out_shape=(jax.ShapeDtypeStruct(query.shape, query.dtype), jax.ShapeDtypeStruct((b, heads, n), jnp.float32)),
        warps=4,
    )(query, key_value, key_value, *mask)


def _gradients(
    head_dim: int, gradient: Array, query: Array, key_value: Array, out: Array, log_sums: Array, *mask: Array
) -> tuple[Array, Array]:
    """Of the queries, and of the keys and values."""
    (b, n, dim), m = query.shape, key_value.shape[1]
    heads = dim // head_dim
    at = _Places(query, key_value, head_dim, lambda i, b, h: (b, h))
    of_query, inner = call(
        partial(_query_kernel, n=n, m=m),
        grid=(pl.cdiv(n, _QUERIES), b, heads),
        in_specs=[at.query, at.key, at.value, at.query, at.query, at.of_query, *(at.mask for _ in mask)],
        out_specs=(at.query, at.of_query),
        out_shape=(jax.ShapeDtypeStruct(query.shape, query.dtype), jax.ShapeDtypeStruct((b, heads, n), jnp.float32)),
        warps=4,
    )(query, key_value, key_value, out, gradient, log_sums, *mask)

    blocks = pl.cdiv(n, _QUERIES)
    each = pl.cdiv(blocks, min(blocks, pl.cdiv(_PROGRAMS, b * heads * pl.cdiv(m, _KEYS))))
    shares = pl.cdiv(blocks, each)
    at = _Places(query, key_value, head_dim, lambda j, share, one: (one // heads, one % heads))
    sums = pl.BlockSpec((None, None, m, head_dim), lambda j, share, one: (share, one // heads, 0, one % heads))
    found = call(
        partial(_key_kernel, n=n, m=m, blocks=each),
        grid=(pl.cdiv(m, _KEYS), shares, b * heads),
        in_specs=[at.query, at.key, at.value, at.query, at.of_query, at.of_query, *(at.mask for _ in mask)],
        out_specs=(sums, sums),
        out_shape=(jax.ShapeDtypeStruct((shares, b, m, dim), jnp.float32),) * 2,
        warps=4,
    )(query, key_value, key_value, gradient, log_sums, inner, *mask)
    return of_query, jnp.concatenate([one.sum(0) for one in found], -1).astype(key_value.dtype)


def _scores(query: Array, key: Array, first: Any, m: int, mask: tuple[Any, ...]) -> Array:
    """[queries, keys] of a block of keys from ``first`` on, float32; the lowest where there is no key."""
    inside = first + jnp.arange(_KEYS) < m
    for one in mask:
        inside &= read_rows(one, first, _KEYS, m) != 0
    return jnp.where(inside[None], product(query, key, BY_ROWS), _LOWEST)


def _output_kernel(query: Any, key: Any, value: Any, *rest: Any, n: int, m: int) -> None:
    *mask, out, log_sums = rest
    first, every = pl.program_id(0) * _QUERIES, slice(None)
    queries = read_rows(query, first, _QUERIES, n, every)

    def add(j: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, highest, weight = state
        keys, values = (read_rows(one, j * _KEYS, _KEYS, m, every) for one in (key, value))
        scores = _scores(queries, keys, j * _KEYS, m, tuple(mask))
        higher = jnp.maximum(highest, scores.max(1))
        factor, weights = jnp.exp(highest - higher), jnp.exp(scores - higher[:, None])
        total = total * factor[:, None] + product(weights.astype(values.dtype), values)
        return total, higher, weight * factor + weights.sum(1)

    nothing = (
        jnp.zeros(queries.shape, jnp.float32),
        jnp.full((_QUERIES,), _LOWEST, jnp.float32),
        jnp.zeros((_QUERIES,), jnp.float32),
    )
    total, highest, weight = jax.lax.fori_loop(0, pl.cdiv(m, _KEYS), add, nothing)
    write_rows(out, first, total / weight[:, None], n, every)
    write_rows(log_sums, first, highest + jnp.log(weight), n)


def _query_kernel(
    query: Any, key: Any, value: Any, out: Any, gradient: Any, log_sums: Any, *rest: Any, n: int, m: int
) -> None:
    *mask, of_query, inner = rest
    first, every = pl.program_id(0) * _QUERIES, slice(None)
    queries, gradients, outs = (read_rows(one, first, _QUERIES, n, every) for one in (query, gradient, out))
    log_sum = read_rows(log_sums, first, _QUERIES, n)
    # What softmax subtracts from the gradient of each weight.
    mean = (outs.astype(jnp.float32) * gradients.astype(jnp.float32)).sum(1)

    def add(j: Any, total: Array) -> Array:
        keys, values = (read_rows(one, j * _KEYS, _KEYS, m, every) for one in (key, value))
        weights = jnp.exp(_scores(queries, keys, j * _KEYS, m, tuple(mask)) - log_sum[:, None])
        of_scores = weights * (product(gradients, values, BY_ROWS) - mean[:, None])
        return total + product(of_scores.astype(keys.dtype), keys)

    total = jax.lax.fori_loop(0, pl.cdiv(m, _KEYS), add, jnp.zeros(queries.shape, jnp.float32))
    write_rows(of_query, first, total, n, every)
    write_rows(inner, first, mean, n)


def _key_kernel(
    query: Any, key: Any, value: Any, gradient: Any, log_sums: Any, inner: Any, *rest: Any, n: int, m: int, blocks: int
) -> None:
    *mask, of_key, of_value = rest
    first, start, every = pl.program_id(0) * _KEYS, pl.program_id(1) * blocks * _QUERIES, slice(None)
    keys, values = (read_rows(one, first, _KEYS, m, every) for one in (key, value))

    def add(i: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row = start + i * _QUERIES
        queries, gradients = (read_rows(one, row, _QUERIES, n, every) for one in (query, gradient))
        log_sum, mean = (read_rows(one, row, _QUERIES, n) for one in (log_sums, inner))
        weights = jnp.exp(_scores(queries, keys, first, m, tuple(mask)) - log_sum[:, None])
        of_scores = weights * (product(gradients, values, BY_ROWS) - mean[:, None])
        return (
            sums[0] + product(of_scores.astype(queries.dtype), queries, BY_COLUMNS),
            sums[1] + product(weights.astype(gradients.dtype), gradients, BY_COLUMNS),
        )

    zeros = jnp.zeros(keys.shape, jnp.float32)
    of_keys, of_values = jax.lax.fori_loop(0, blocks, add, (zeros, zeros))
    write_rows(of_key, first, of_keys, m, every)
    write_rows(of_value, first, of_values, m, every)
