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
from pvt_jax.nn.padding import zero_outside

xavier_uniform = nn.initializers.xavier_uniform()


class FeaturePyramid(nn.Module):
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

    channels: int = 256
    first_level: Literal[2, 3] = 2
    extra_levels: Literal["none", "max_pool", "convolution"] = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: dict[str, Float[Array, "b _h _w _c"]], sizes: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, "b _h _w _d"]]:
        """The pyramid. With ``sizes``, as in ``Backbone.features``, outputs are 0 in the padding."""
        _check_channels(self.channels)
        levels = range(self.first_level, 6)
        sums: dict[int, Array] = {}
        for level in reversed(levels):
            sums[level] = _lateral(maps[f"c{level}"], level, self.channels, self.dtype)
            if level < 5:
                sums[level] += enlarged(sums[level + 1], sums[level].shape[1:3])
        pyramid = {f"p{level}": _output(sums[level], level, self.channels, self.dtype, sizes) for level in levels}
        if self.extra_levels == "max_pool":
            pyramid["p6"] = pyramid["p5"][:, ::2, ::2]
        elif self.extra_levels == "convolution":
            pyramid["p6"] = _output(maps["c5"], 6, self.channels, self.dtype, sizes, stride=2)
            # RetinaNet's paper has a ReLU between; mmdetection, and so PVT's, has none.
            pyramid["p7"] = _output(pyramid["p6"], 7, self.channels, self.dtype, sizes, stride=2)
        return pyramid


class SingleMap(nn.Module):
    """One feature map of a backbone → one of ``channels``, as in ViT-FRCNN (arXiv 2012.09958, section 3).

    A ViT has a single resolution, so its detector has a single level: a 1×1 convolution, then a 3×3 one.

    Attributes:
      channels: of the output.
      level: which map to use; 4 has stride 16, the stride of a ViT with patch size 16.
      dtype: of the computation and the output; parameters stay float32.
    """

    channels: int = 256
    level: Literal[2, 3, 4, 5] = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: dict[str, Float[Array, "b _h _w _c"]], sizes: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, "b _h _w _d"]]:
        """The output under its name, such as ``p4``; ``sizes`` as in ``Backbone.features``."""
        _check_channels(self.channels)
        x = _lateral(maps[f"c{self.level}"], self.level, self.channels, self.dtype)
        return {f"p{self.level}": _output(x, self.level, self.channels, self.dtype, sizes)}


def _lateral(maps: Float[Array, "b h w c"], level: int, channels: int, dtype: DTypeLike) -> Float[Array, "b h w d"]:
    linear = nn.Dense(channels, dtype=dtype, kernel_init=xavier_uniform, name=f"lateral_c{level}")
    return linear(maps.reshape(-1, maps.shape[-1])).reshape(*maps.shape[:-1], channels)


def _output(
    x: Float[Array, "b h w c"],
    level: int,
    channels: int,
    dtype: DTypeLike,
    sizes: Int[Array, "b 2"] | None,
    stride: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    convolution = nn.Conv(
        channels, (3, 3), stride, padding=1, dtype=dtype, kernel_init=xavier_uniform, name=f"output_p{level}"
    )
    # The convolution must see zero padding at the image's border, where biases have left other values.
    x = zero_outside(x, _at(level - 1 if stride == 2 else level, sizes))
    return zero_outside(convolution(x), _at(level, sizes))


def _check_channels(channels: int) -> None:
    if not isinstance(channels, int) or channels < 1:
        raise UserError(f"head.neck_channels must be a whole number above 0, but is {channels}")


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
