"""The 3×3 convolution of necks and heads."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.ops.convolution import convolve


class Convolution(nn.Module):
    """3×3 convolution with padding 1: [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, dim].

    Inputs and kernel are in ``dtype``; it accumulates and returns ``out_dtype``, by default the same. Parameters are
    float32, with the names of ``flax.linen.Conv``.
    """

    dim: int
    kernel_init: Callable
    stride: int = 1
    use_bias: bool = True
    bias_init: Callable = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32
    out_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 dim"]:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.dim))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        x = convolve(x, kernel, self.stride, self.out_dtype)
        return x + self.param("bias", self.bias_init, (self.dim,)).astype(x.dtype) if self.use_bias else x
