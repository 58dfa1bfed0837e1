"""DETR's post-norm transformer layers and position encoding (arXiv 2005.12872, figure 10).

Shapes: b batch, n queries, m keys, c channels.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.nn.attention import Linear, MultiHeadAttention


class RectifiedFeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between (arXiv 1706.03762, section 3.3)."""

    hidden_dim: int
    dropout_rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        hidden = nn.relu(Linear(self.hidden_dim, self.dtype, xavier=True, name="fc1")(x))
        hidden = nn.Dropout(self.dropout_rate, deterministic=not train)(hidden)
        return Linear(x.shape[-1], self.dtype, xavier=True, name="fc2")(hidden)


class PostNormEncoderLayer(nn.Module):
    """Norm(x + Attention(x)), then Norm(x + FeedForward(x)).

    ``positions`` are added to queries and keys, not to values, in every layer.
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
        """``key_mask``: see ``MultiHeadAttention``; discard the outputs of masked tokens."""
        attention = _attention(self, x.shape[-1], "attn")
        placed = x + positions
        x = _added(self, x, attention(placed, placed, x, key_mask, train), train, "norm1")
        mlp = RectifiedFeedForward(self.hidden_dim, self.dropout_rate, self.dtype, name="mlp")
        return _added(self, x, mlp(x, train), train, "norm2")


class PostNormDecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the memory and a feed-forward network, each with post-norm.

    ``query_positions`` are added to queries, and to keys in self-attention; ``positions`` to keys from the memory.
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
        """``key_mask``: key padding mask of the memory."""
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
    """DETR's sine position encoding of a feature map in row-major order: ``dim`` / 2 channels for rows, then columns.

    Rows and columns are counted from 1 and scaled so that the last is 2π; channels are sin, cos of the shortest wave
    length, then sin, cos of the next, 10000^(4/dim) times as long. With ``sizes`` (rows, columns) the last row and
    column are those of each sample's valid region; without, one encoding serves all samples.
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
