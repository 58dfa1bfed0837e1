"""Attention between two sets of tokens, for heads that are transformers.

"Attention Is All You Need" (arXiv 1706.03762), section 3.

Names of dimensions in shapes: b batch, n queries, m keys, c channels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from pvt_jax.models.layers import Dense, FeedForward, normal_002


class MultiHeadAttention(nn.Module):
    """Concat(head_0 … head_N) W_O, head_j = softmax(Q W_Q (K W_K)ᵀ / √d) V W_V (section 3.2), d channels a head.

    Queries, keys and values are linear maps without a bias; the one at the end has one. Softmax is float32.
    """

    dim: int
    num_heads: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        def linear() -> nn.Dense:
            return nn.Dense(self.dim, use_bias=False, dtype=self.dtype, kernel_init=normal_002)

        # A matrix is made where it is used: who asks for the scores alone has no ``v`` and no ``proj``.
        self.q, self.k, self.v = linear(), linear(), linear()
        self.proj = Dense(self.dim, self.dtype)

    def scores(self, queries: Float[Array, "b n c"], keys: Float[Array, "b m c"]) -> Float[Array, "b h n m"]:
        """Q W_Q (K W_K)ᵀ / √d of every head, what softmax is taken of; float32."""
        query, key = self._heads(self.q(queries)), self._heads(self.k(keys))
        query = query * (self.dim // self.num_heads) ** -0.5
        return jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)

    def __call__(
        self,
        queries: Float[Array, "b n c"],
        keys: Float[Array, "b m c"],
        values: Float[Array, "b m c"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n c"]:
        """What every query gets from the values. Where ``key_mask`` is False none looks; each sample needs a True."""
        scores = self.scores(queries, keys)
        if key_mask is not None:
            # exp of it, less a true score, is 0 exactly.
            scores = jnp.where(key_mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        value = self._heads(self.v(values))
        weights = jax.nn.softmax(scores).astype(value.dtype)
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
