"""Attention between two sets of tokens, for heads that are transformers.

"Attention Is All You Need" (arXiv 1706.03762), section 3. The layers whose norm comes last are DETR's.

Shapes: b batch, n queries, m keys, c channels.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.nn.layers import Dense, FeedForward, matmul, normal_002, uniform_fan_in

_xavier_uniform = nn.initializers.xavier_uniform()
# PyTorch's attention fuses the projections of queries, keys and values: Xavier's bound is that of [dim, 3 dim].
_xavier_uniform_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class MultiHeadAttention(nn.Module):
    """Concat(head_0 … head_N) W_O, head_j = softmax(Q W_Q (K W_K)ᵀ / √d) V W_V (section 3.2), d channels per head.

    The projections of queries, keys and values have no bias, the output projection has one. With ``biased`` all four
    have one and start Xavier-uniform, as in PyTorch's ``MultiheadAttention``. Softmax is float32; ``dropout_rate``
    applies to the attention weights in training.
    """

    dim: int
    num_heads: int
    dtype: DTypeLike = jnp.float32
    biased: bool = False
    dropout_rate: float = 0.0

    def setup(self) -> None:
        first, last = (_xavier_uniform_of_three, _xavier_uniform) if self.biased else (normal_002, None)

        def linear(init: Callable) -> nn.Dense:
            return nn.Dense(self.dim, use_bias=self.biased, dtype=self.dtype, kernel_init=init)

        # Parameters are created on first use: a module of which only ``scores`` is called has no ``v`` and ``proj``.
        self.q, self.k, self.v = linear(first), linear(first), linear(first)
        self.proj = Dense(self.dim, self.dtype) if last is None else linear(last)
        self.dropout = nn.Dropout(self.dropout_rate)

    def scores(self, queries: Float[Array, "b n c"], keys: Float[Array, "b m c"]) -> Float[Array, "b h n m"]:
        """Attention scores before softmax, Q W_Q (K W_K)ᵀ / √d of each head; float32."""
        query, key = self._heads(self.q(queries)), self._heads(self.k(keys))
        query = query * (self.dim // self.num_heads) ** -0.5
        return jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)

    def __call__(
        self,
        queries: Float[Array, "b n c"],
        keys: Float[Array, "b m c"],
        values: Float[Array, "b m c"],
        key_mask: Bool[Array, "b m"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """Attention output per query. ``key_mask``: key padding mask; False keys are masked. Keep one per sample."""
        scores = self.scores(queries, keys)
        if key_mask is not None:
            # Finite, but exp of its difference from any score is exactly 0.
            scores = jnp.where(key_mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        value = self._heads(self.v(values))
        weights = self.dropout(jax.nn.softmax(scores).astype(value.dtype), deterministic=not train)
        out = jnp.einsum("bhnm,bmhd->bnhd", weights, value, preferred_element_type=jnp.float32)
        return self.proj(out.astype(value.dtype).reshape(queries.shape))

    def _heads(self, x: Float[Array, "b n c"]) -> Float[Array, "b n h d"]:
        return x.reshape(*x.shape[:2], self.num_heads, self.dim // self.num_heads)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention layer: x + Attention(Norm(x)), then x + FeedForward(Norm(x))."""

    num_heads: int
    mlp_ratio: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], key_mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b n c"]:
        """``key_mask``: see ``MultiHeadAttention``; what is given where it is False has no meaning."""
        normed = nn.LayerNorm(1e-5, self.dtype, name="norm1")(x)
        attention = MultiHeadAttention(x.shape[-1], self.num_heads, self.dtype, name="attn")
        x = x + attention(normed, normed, normed, key_mask)
        return x + token_mlp(nn.LayerNorm(1e-5, self.dtype, name="norm2")(x), self.mlp_ratio, self.dtype, "mlp")


def token_mlp(x: Float[Array, "b n c"], ratio: int, dtype: DTypeLike, name: str) -> Float[Array, "b n c"]:
    """``x`` through a feed-forward network of ``ratio`` times its channels, of tokens that need not be a map's."""
    return FeedForward(x.shape[-1], ratio * x.shape[-1], dtype, name=name)(x, (1, x.shape[1]))


class Linear(nn.Module):
    """x W + b, both from U(-1/√fan_in, 1/√fan_in), PyTorch's default; with ``xavier`` W is Xavier-uniform."""

    dim: int
    dtype: DTypeLike = jnp.float32
    xavier: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows dim"]:
        uniform = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", _xavier_uniform if self.xavier else uniform, (x.shape[-1], self.dim))
        bias = self.param("bias", uniform, (self.dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return matmul(x, kernel) + bias


class RectifiedFeedForward(nn.Module):
    """Two linear maps with a ReLU and dropout between (section 3.3)."""

    hidden_dim: int
    dropout_rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        hidden = nn.relu(Linear(self.hidden_dim, self.dtype, xavier=True, name="fc1")(x))
        hidden = nn.Dropout(self.dropout_rate, deterministic=not train)(hidden)
        return Linear(x.shape[-1], self.dtype, xavier=True, name="fc2")(hidden)


class PostNormEncoderLayer(nn.Module):
    """Norm(x + Attention(x)), then Norm(x + FeedForward(x)), as in DETR (arXiv 2005.12872, figure 10).

    ``positions`` are added to queries and keys, and not to values, of every layer anew.
    """

    num_heads: int
    hidden_dim: int
    dropout_rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        positions: Float[Array, "#b n c"],
        key_mask: Bool[Array, "b n"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """``key_mask``: see ``MultiHeadAttention``; what is given where it is False has no meaning."""
        attention = _attention(self, x.shape[-1], "attn")
        placed = x + positions
        x = _added(self, x, attention(placed, placed, x, key_mask, train), train, "norm1")
        mlp = RectifiedFeedForward(self.hidden_dim, self.dropout_rate, self.dtype, name="mlp")
        return _added(self, x, mlp(x, train), train, "norm2")


class PostNormDecoderLayer(nn.Module):
    """Attention among the queries, their attention to the memory, a feed-forward network: DETR's, with its norms last.

    ``query_positions`` are added to queries, and to keys that are queries; ``positions`` to keys from the memory.
    """

    num_heads: int
    hidden_dim: int
    dropout_rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        query_positions: Float[Array, "#b n c"],
        memory: Float[Array, "b m c"],
        positions: Float[Array, "#b m c"],
        key_mask: Bool[Array, "b m"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """``key_mask``: where the memory has a meaning."""
        attention = _attention(self, x.shape[-1], "self_attn")
        placed = x + query_positions
        x = _added(self, x, attention(placed, placed, x, train=train), train, "norm1")
        attention = _attention(self, x.shape[-1], "cross_attn")
        attended = attention(x + query_positions, memory + positions, memory, key_mask, train)
        x = _added(self, x, attended, train, "norm2")
        mlp = RectifiedFeedForward(self.hidden_dim, self.dropout_rate, self.dtype, name="mlp")
        return _added(self, x, mlp(x, train), train, "norm3")


_PostNormLayer = PostNormEncoderLayer | PostNormDecoderLayer


def _attention(layer: _PostNormLayer, dim: int, name: str) -> MultiHeadAttention:
    return MultiHeadAttention(
        dim, layer.num_heads, layer.dtype, biased=True, dropout_rate=layer.dropout_rate, name=name
    )


def _added(layer: _PostNormLayer, x: Array, branch: Array, train: bool, name: str) -> Array:
    branch = nn.Dropout(layer.dropout_rate, deterministic=not train)(branch)
    return nn.LayerNorm(1e-5, layer.dtype, name=name)(x + branch)


def sine_positions(
    grid: tuple[int, int], dim: int, sizes: Int[Array, "b 2"] | None = None
) -> Float[Array, "_b n {dim}"]:
    """Sines and cosines of the positions of a map, row by row: half of ``dim`` channels for the row, then the column.

    As in DETR: rows are counted from 1 and scaled so that the last is 2π, as are columns; channels are sin, cos of the
    least wave length, then sin, cos of the next, 10000^(4/dim) times as long. One for all samples, or, with ``sizes``
    (rows, columns), each sample's last row and column are those of the part that is image.
    """
    ends = jnp.array([grid]) if sizes is None else sizes
    rates = np.power(10000.0, -4.0 / dim * np.arange(dim // 4)).astype(np.float32)

    def waves(axis: int) -> Float[Array, "b side d"]:
        place = jnp.arange(1, grid[axis] + 1) / (ends[:, axis, None] + 1e-6) * (2 * math.pi)
        angle = place[..., None] * rates
        return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(len(ends), grid[axis], dim // 2)

    rows, columns = waves(0)[:, :, None], waves(1)[:, None]
    shape = (len(ends), *grid, dim // 2)
    both = jnp.concatenate([jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)], axis=-1)
    return both.reshape(len(ends), grid[0] * grid[1], dim)
