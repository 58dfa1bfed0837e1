"""Semantic FPN, the semantic branch of "Panoptic Feature Pyramid Networks" (arXiv 1901.02446, section 3.1, figure 3).

As in mmsegmentation, which the PVT papers use: batch norm in place of group norm.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.nn.layers import normal_fan_out
from pvt_jax.nn.normalization import BatchNorm
from pvt_jax.nn.pixels import PixelClassifier, check_channels, grid_of, resampled


class ScaleBranch(nn.Module):
    """3×3 convolution, norm and ReLU, once for each doubling that brings the map of ``level`` to stride 4, or once.

    The map is doubled before each convolution but the first; the last doubling is left to the head.
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
                # What this gives is 0 beyond an image's end, as the convolution needs it.
                x = resampled(x, (2 * x.shape[1], 2 * x.shape[2]), sizes, self.level - j + 1, self.level - j)
            init = normal_fan_out(9 * self.channels)
            x = nn.Conv(
                self.channels, (3, 3), padding=1, use_bias=False, dtype=self.dtype, kernel_init=init, name=f"conv{j}"
            )(x)
            x = nn.relu(BatchNorm(self.dtype, name=f"norm{j}")(x, not train))
        return x


class SemanticFPNHead(nn.Module):
    """Maps ``p2`` … ``p5`` of a feature pyramid → class scores at stride 4: the sum of all scales, and a linear map.

    Attributes:
      num_classes: channels of what it gives.
      channels: of every convolution.
      dropout_rate: of whole channels of the sum, when ``train`` is True.
      dtype: type of the computation; parameters, batch statistics and class scores stay float32.
    """

    num_classes: int
    channels: int = 128
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: dict[str, Float[Array, "b _h _w _c"]], train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w k"]:
        """Class scores, float32. ``sizes`` are those of ``Backbone.features``; ``maps`` are then 0 beyond them."""
        check_channels(self.channels)
        branches = {
            level: ScaleBranch(level, self.channels, self.dtype, name=f"branch_p{level}")(
                maps[f"p{level}"], train, sizes
            )
            for level in (2, 3, 4, 5)
        }
        total = branches.pop(2)
        # Maps of one size have the last doubling in common: it is linear, so their sum goes through it, once. That is
        # all of them, unless a side is odd somewhere.
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
            self.num_classes,
            self.dropout_rate,
            whole_channels=True,
            deviation=0.01,
            dtype=self.dtype,
            name="classifier",
        )
        return classifier(total, train)
