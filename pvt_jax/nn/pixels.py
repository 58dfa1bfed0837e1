"""What the semantic segmentation heads share."""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.nn.settings import check, check_num_classes
from pvt_jax.ops.resize import resize_grid, resize_padded


class PixelClassifier(nn.Module):
    """Dropout, then a 1×1 convolution: logits [b, h, w, num_classes], float32 whatever ``dtype``.

    ``whole_channels`` drops whole channels (PyTorch's ``Dropout2d``). Weights start from N(0, ``deviation``²).
    """

    num_classes: int
    dropout_rate: float
    dtype: DTypeLike
    whole_channels: bool
    deviation: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        check_num_classes(self)
        check(self, "at least 0 and below 1", lambda rate: 0 <= rate < 1, "dropout_rate")
        x = nn.Dropout(self.dropout_rate, (1, 2) if self.whole_channels else (), deterministic=not train)(x)
        kernel = self.param("kernel", nn.initializers.normal(self.deviation), (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        logits = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], self.num_classes) + bias


def grid_of(maps: Float[Array, "b h w c"]) -> tuple[int, int]:
    """Rows and columns of feature maps."""
    return maps.shape[1], maps.shape[2]


def resampled(
    maps: Float[Array, "b h w c"],
    target: tuple[int, int],
    sizes: Int[Array, "b 2"] | None,
    level: int,
    target_level: int,
) -> Float[Array, "b h2 w2 c"]:
    """``maps`` resized bilinearly to ``target`` (rows, columns).

    With ``sizes`` (see ``padding.py``) each image's valid region, at stride 2^``level``, is resized to its valid region
    at stride 2^``target_level``; the rest is 0.
    """
    if sizes is None:
        return resize_grid(maps, target)
    return resize_padded(maps, sizes // 2**level, sizes // 2**target_level, target)
