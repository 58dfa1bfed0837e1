"""Feature pyramid network, "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144, section 3).

This is mmdetection's form, which the PVT papers use: no activations, and extra levels that depend on the detector.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.nn.convolution import Convolution
from pvt_jax.ops.padding import Maps, zero_outside

xavier_uniform = nn.initializers.xavier_uniform()


class _Neck(nn.Module):
    """Lateral 1×1 and smoothing 3×3 convolutions, which every neck consists of; ``dtype`` is that of the outputs."""

    channels: int = 256
    dtype: DTypeLike = jnp.float32

    def _lateral(self, maps: Float[Array, "b h w c"], level: int) -> Float[Array, "b h w d"]:
        if not isinstance(self.channels, int) or self.channels < 1:
            raise UserError(f"head.neck_channels must be a whole number above 0, but is {self.channels}")
        linear = nn.Dense(self.channels, dtype=self.dtype, kernel_init=xavier_uniform, name=f"lateral_c{level}")
        return linear(maps.reshape(-1, maps.shape[-1])).reshape(*maps.shape[:-1], self.channels)

    def _output(
        self, x: Float[Array, "b h w c"], level: int, sizes: Int[Array, "b 2"] | None, stride: int = 1
    ) -> Float[Array, "b h2 w2 d"]:
        conv = Convolution(self.channels, xavier_uniform, stride, dtype=self.dtype, name=f"output_p{level}")
        # The convolution must see zero padding at the image's border, where biases have left other values.
        x = zero_outside(x, _at(level - 1 if stride == 2 else level, sizes))
        return zero_outside(conv(x), _at(level, sizes))


class FeaturePyramid(_Neck):
    """A backbone's ``c2`` … ``c5`` → ``p2`` … ``p5`` of ``channels`` each, at the same resolutions.

    Each map goes through a lateral 1×1 convolution, the top-down path adds the upsampled coarser level, and a 3×3
    convolution smooths each sum.

    Attributes:
      channels: of every output.
      first_level: the finest level, 2 or 3; finer maps of the backbone are not used.
      extra_levels: coarser levels beyond p5, each of half the size. "max_pool": ``p6`` is p5 subsampled by 2 (Mask
        R-CNN). "convolution": 3×3 convolutions give ``p6`` from c5 and ``p7`` from p6 (RetinaNet).
      dtype: of the computation and the outputs; parameters stay float32.
    """

    first_level: Literal[2, 3] = 2
    extra_levels: Literal["none", "max_pool", "convolution"] = "none"

    @nn.compact
    def __call__(self, maps: Maps, sizes: Int[Array, "b 2"] | None = None) -> Maps:
        """The pyramid. With ``sizes``, as in ``Backbone.features``, outputs are 0 in the padding."""
        levels = range(self.first_level, 6)
        sums: dict[int, Array] = {}
        for level in reversed(levels):
            sums[level] = self._lateral(maps[f"c{level}"], level)
            if level < 5:
                sums[level] += enlarged(sums[level + 1], sums[level].shape[1:3])
        pyramid = {f"p{level}": self._output(sums[level], level, sizes) for level in levels}
        if self.extra_levels == "max_pool":
            pyramid["p6"] = pyramid["p5"][:, ::2, ::2]
        elif self.extra_levels == "convolution":
            pyramid["p6"] = self._output(maps["c5"], 6, sizes, stride=2)
            # RetinaNet's paper has a ReLU between; mmdetection, and so PVT's, has none.
            pyramid["p7"] = self._output(pyramid["p6"], 7, sizes, stride=2)
        return pyramid


class SingleMap(_Neck):
    """One feature map of a backbone → one of ``channels``, as in ViT-FRCNN (arXiv 2012.09958, section 3).

    A ViT has a single resolution, so its detector has a single level: a 1×1 convolution, then a 3×3 one.

    Attributes:
      channels: of the output.
      level: which map to use; 4 has stride 16, the stride of a ViT with patch size 16.
      dtype: of the computation and the output; parameters stay float32.
    """

    level: Literal[2, 3, 4, 5] = 4

    @nn.compact
    def __call__(self, maps: Maps, sizes: Int[Array, "b 2"] | None = None) -> Maps:
        """The output under its name, such as ``p4``; ``sizes`` as in ``Backbone.features``."""
        x = self._lateral(maps[f"c{self.level}"], self.level)
        return {f"p{self.level}": self._output(x, self.level, sizes)}


def _at(level: int, sizes: Int[Array, "b 2"] | None) -> Int[Array, "b 2"] | None:
    """Valid sizes at a level; the strided convolutions beyond c5 round odd sides up."""
    return None if sizes is None else -(-sizes // 2**level)


def enlarged(maps: Float[Array, "b h w c"], target: tuple[int, ...]) -> Float[Array, "b h2 w2 c"]:
    """``maps`` upsampled to ``target`` (rows, columns) by nearest neighbour, as PyTorch's ``interpolate`` does."""
    for axis, side in enumerate(target, start=1):
        source = maps.shape[axis]
        if side == 2 * source:
            # The gradient of repeat is a sum; that of a gather is a scatter, which is slower.
            maps = jnp.repeat(maps, 2, axis)
        elif side != source:
            maps = jnp.take(maps, np.arange(side) * source // side, axis, mode="clip")
    return maps
