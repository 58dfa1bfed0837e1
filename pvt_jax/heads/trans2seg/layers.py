"""The transformer layers of Trans2Seg's encoder (arXiv 2101.08461, figure 3).

Shapes: b batch, n tokens, c channels.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from pvt_jax.nn.attention import MultiHeadAttention
from pvt_jax.nn.layers import FeedForward


class EncoderLayer(nn.Module):
    """Pre-norm self-attention layer: x + Attention(Norm(x)), then x + FeedForward(Norm(x))."""

    num_heads: int
    mlp_ratio: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], key_mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b n c"]:
        """``key_mask``: see ``MultiHeadAttention``; discard the outputs of masked tokens."""
        normed = nn.LayerNorm(1e-5, self.dtype, name="norm1")(x)
        attention = MultiHeadAttention(x.shape[-1], self.num_heads, self.dtype, name="attn")
        x = x + attention(normed, normed, normed, key_mask)
        return x + token_mlp(nn.LayerNorm(1e-5, self.dtype, name="norm2")(x), self.mlp_ratio, self.dtype, "mlp")


def token_mlp(x: Float[Array, "b n c"], ratio: int, dtype: DTypeLike, name: str) -> Float[Array, "b n c"]:
    """Feed-forward network with ``ratio`` times the channels of ``x``, for tokens that need not form a feature map."""
    return FeedForward(x.shape[-1], ratio * x.shape[-1], dtype, name=name)(x, (1, x.shape[1]))
