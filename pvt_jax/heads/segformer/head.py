"""SegFormer's all-MLP decoder (arXiv 2105.15203, section 3.2)."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.nn.layers import Parameters, normal_002
from pvt_jax.nn.normalization import BatchNorm
from pvt_jax.nn.pixels import PixelClassifier, grid_of, resampled
from pvt_jax.nn.settings import check_counts
from pvt_jax.ops.padding import Maps


class SegFormerHead(nn.Module):
    """A backbone's ``c2`` … ``c5`` → logits at stride 4.

    Equation 4 of the paper: a linear layer per level to ``channels``, bilinear upsampling to stride 4, concatenation, a
    linear layer with batch norm and ReLU (which the reference adds), dropout, and a linear classifier.

    It is computed in another order. The two linear layers have no activation between them and commute with upsampling,
    so each level's two matrices are multiplied first, the product is applied at the level's own resolution, and the
    results are upsampled and added. The concatenation, four times as wide, is never made; at 512² the two layers take a
    twentieth of the multiplications (MiT-B2).

    Attributes:
      num_classes: channels of the logits.
      channels: of the linear layers; in the paper 256 for MiT-B0 and B1, 768 for larger ones.
      dropout_rate: of single activations, when ``train`` is True.
      dtype: of the computation; parameters, batch norm statistics, the sum over levels and logits stay float32.
    """

    num_classes: int
    channels: int = 256
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Maps, train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w k"]:
        """Logits, float32. ``sizes``: see ``Backbone.features``."""
        check_counts(self, "channels")
        dim, levels = self.channels, (5, 4, 3, 2)
        fuse, _ = Parameters((len(levels) * dim, dim), normal_002, use_bias=False, name="fuse")()
        # Rounded to ``dtype`` once, after the product.
        times = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        parts = []
        for level, part in zip(levels, jnp.split(fuse, len(levels)), strict=True):
            x = maps[f"c{level}"]
            kernel, bias = Parameters((x.shape[-1], dim), normal_002, name=f"linear_c{level}")()
            x, product = promote_dtype(x, times(kernel, part), dtype=self.dtype)
            fused = jnp.matmul(x.reshape(-1, x.shape[-1]), product, preferred_element_type=jnp.float32)
            fused = fused.reshape(*x.shape[:-1], dim)
            parts.append(resampled(fused, grid_of(maps["c2"]), sizes, level, 2) + times(bias, part))
        x = nn.relu(BatchNorm(self.dtype, name="norm")(reduce(jnp.add, parts), not train))
        classifier = PixelClassifier(
            self.num_classes, self.dropout_rate, self.dtype, whole_channels=False, deviation=0.02, name="classifier"
        )
        return classifier(x, train)
