"""Attention between two sets of tokens, for heads that are transformers.

"Attention Is All You Need" (arXiv 1706.03762), section 3.

Shapes: b batch, n queries, m keys, c channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from pvt_jax.nn.layers import Dense, normal_002, uniform_fan_in
from pvt_jax.ops.linear import matmul

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
        linear = partial(nn.Dense, self.dim, use_bias=self.biased, dtype=self.dtype)
        # Parameters are created on first use: a module of which only ``scores`` is called has no ``v`` and ``proj``.
        self.q, self.k, self.v = (linear(kernel_init=first) for _ in range(3))
        self.proj = Dense(self.dim, self.dtype) if last is None else linear(kernel_init=last)
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
        if value.dtype == jnp.float32:
            out = jnp.einsum("bhnm,bmhd->bnhd", weights, value)
        else:
            # The CPU backend of jaxlib 0.7 has no bfloat16 product of the layout above.
            out = jnp.einsum("bhnm,bmhd->bhnd", weights, value, preferred_element_type=jnp.float32)
            out = out.transpose(0, 2, 1, 3)
        return self.proj(out.astype(value.dtype).reshape(queries.shape))

    def _heads(self, x: Float[Array, "b n c"]) -> Float[Array, "b n h d"]:
        return x.reshape(*x.shape[:2], self.num_heads, self.dim // self.num_heads)


class Linear(nn.Module):
    """x W + b, both from U(-1/√fan_in, 1/√fan_in), PyTorch's default; with ``xavier`` W starts Xavier-uniform."""

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
