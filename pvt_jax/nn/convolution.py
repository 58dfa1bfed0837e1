"""A 3×3 convolution as the heads have it."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.ops.convolution import convolve


class Convolution(nn.Module):
    """3×3 convolution with padding 1, like ``flax.linen.Conv``: [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, dim].

    It computes and returns ``dtype``; parameters are float32.
    """

    dim: int
    kernel_init: Callable
    stride: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 dim"]:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = convolve(x, kernel, self.stride)
        return x if bias is None else x + bias
