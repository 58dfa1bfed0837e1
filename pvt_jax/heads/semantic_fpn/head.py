"""Semantic FPN, the semantic branch of "Panoptic Feature Pyramid Networks" (arXiv 1901.02446, section 3.1, figure 3).

As in mmsegmentation, which the PVT papers use, with batch norm instead of group norm.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.nn.convolution import Convolution
from pvt_jax.nn.layers import normal_fan_out
from pvt_jax.nn.normalization import BatchNorm
from pvt_jax.nn.pixels import PixelClassifier, grid_of, resampled
from pvt_jax.nn.settings import check_counts
from pvt_jax.ops.padding import Maps


class ScaleBranch(nn.Module):
    """3×3 convolution, norm and ReLU, once per upsampling that takes ``level`` to stride 4, and at least once.

    The map is upsampled by 2 before each convolution but the first; the last upsampling is left to the head.
    """

    level: int
    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, sizes: Int[Array, "b 2"] | None
    ) -> Float[Array, "b h2 w2 d"]:
        for j in range(max(1, self.level - 2)):
            if j:
                # The result is 0 in the padding, as the convolution needs.
                x = resampled(x, (2 * x.shape[1], 2 * x.shape[2]), sizes, self.level - j + 1, self.level - j)
            init = normal_fan_out(9 * self.channels)
            x = Convolution(self.channels, init, use_bias=False, dtype=self.dtype, name=f"conv{j}")(x)
            x = nn.relu(BatchNorm(self.dtype, name=f"norm{j}")(x, not train))
        return x


class SemanticFPNHead(nn.Module):
    """A feature pyramid's ``p2`` … ``p5`` → logits at stride 4: the sum of all scales, then a 1×1 convolution.

    Attributes:
      num_classes: channels of the logits.
      channels: of every convolution.
      dropout_rate: of whole channels of the sum, when ``train`` is True.
      dtype: of the computation; parameters, batch norm statistics and logits stay float32.
    """

    num_classes: int
    channels: int = 128
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Maps, train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w k"]:
        """Logits, float32. With ``sizes``, as in ``Backbone.features``, ``maps`` must be 0 in the padding."""
        check_counts(self, "channels")
        branches = {
            level: ScaleBranch(level, self.channels, self.dtype, name=f"branch_p{level}")(
                maps[f"p{level}"], train, sizes
            )
            for level in (2, 3, 4, 5)
        }
        total = branches.pop(2)
        # The last upsampling is linear, so maps of one size are summed first and upsampled once. That is all of them
        # unless some side is odd.
        sums: dict[tuple[int, int], Array] = {}
        for x in branches.values():
            grid = grid_of(x)
            sums[grid] = sums[grid] + x if grid in sums else x
        for (rows, columns), x in sums.items():
            x = resampled(x, (2 * rows, 2 * columns), sizes, 3, 2)
            if grid_of(x) != grid_of(total):
                x = resampled(x, grid_of(total), sizes, 2, 2)
            total = total + x
        classifier = PixelClassifier(
            self.num_classes, self.dropout_rate, self.dtype, whole_channels=True, deviation=0.01, name="classifier"
        )
        return classifier(total, train)
