"""The second stage of a detector: box head and mask head on RoIAlign features.

"Mask R-CNN" (arXiv 1703.06870, section 3 and figure 4, right).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.heads.mask_rcnn.rpn import Predictor, stride_of
from pvt_jax.nn.convolution import Convolution
from pvt_jax.nn.layers import Parameters, normal_fan_out
from pvt_jax.ops.boxes import clip_boxes, decode_deltas
from pvt_jax.ops.padding import Maps
from pvt_jax.ops.roi_align import multilevel_roi_align

xavier_uniform = nn.initializers.xavier_uniform()


def region_features(
    maps: Maps, boxes: Float[Array, "b r 4"], valid: Bool[Array, "b r"], *, side: int, finest_scale: float
) -> Float[Array, "b r {side} {side} c"]:
    """RoIAlign features of each box from the level for its size; 0 where it is not ``valid``."""
    strides = tuple(stride_of(name) for name in maps)

    def of_image(maps: tuple[Array, ...], boxes: Array, valid: Array) -> Array:
        return multilevel_roi_align(maps, boxes, output=side, strides=strides, finest_scale=finest_scale, valid=valid)

    return jax.vmap(of_image)(tuple(maps.values()), boxes, valid)


def border_repeated(maps: Maps, region: Int[Array, "b 2"] | None) -> Maps:
    """Maps with the last row and column of each image's region repeated once beyond it.

    RoIAlign then samples the border of a region as it would the border of a map.
    """
    if region is None:
        return maps
    repeated = {}
    for name, x in maps.items():
        ends = -(-region // stride_of(name))
        for axis in (1, 2):
            end = ends[:, axis - 1, None, None, None]
            last = jnp.take_along_axis(x, end - 1, axis)
            place = jnp.arange(x.shape[axis]).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
            x = jnp.where(place == end, last, x)
        repeated[name] = x
    return repeated


class BoxHead(nn.Module):
    """Logits, background last, and per-class deltas: two hidden layers, then a linear layer for each."""

    num_classes: int
    hidden_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b r s s c"]) -> tuple[Float[Array, "b r k1"], Float[Array, "b r k 4"]]:
        b, r = features.shape[:2]
        x = features.reshape(b * r, -1)
        for j in (0, 1):
            x = nn.relu(nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=xavier_uniform, name=f"fc{j}")(x))
        logits = Predictor(self.num_classes + 1, 0.01, self.dtype, name="classifier")(x)
        deltas = Predictor(4 * self.num_classes, 0.001, self.dtype, name="regressor")(x)
        return logits.reshape(b, r, -1), deltas.reshape(b, r, self.num_classes, 4)


class MaskHead(nn.Module):
    """Mask logits at twice the features' side: four convolutions, a transposed one, and a 1×1 convolution to classes.

    Of the last, only the channel of each region's label is computed.
    """

    num_classes: int
    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b r s s c"], labels: Int[Array, "b r"]
    ) -> Float[Array, "b r {2*features.shape[2]} {2*features.shape[2]}"]:
        b, r, side, _, dim = features.shape
        x = features.reshape(b * r, side, side, dim)
        init = normal_fan_out(9 * self.channels)
        for j in range(4):
            x = nn.relu(Convolution(self.channels, init, dtype=self.dtype, name=f"conv{j}")(x))
        # PyTorch takes the fan of a transposed convolution from its input channels; here both are the same.
        shape = (2, 2, self.channels, self.channels)
        init = normal_fan_out(4 * self.channels)
        kernel, bias = promote_dtype(*Parameters(shape, init, name="upsample")(), dtype=self.dtype)
        x = nn.relu(jnp.einsum("nijc,uvcd->nijuvd", x, kernel) + bias)
        init = normal_fan_out(self.num_classes)
        kernel, bias = Parameters((self.channels, self.num_classes), init, name="classifier")()
        labels = labels.reshape(-1)
        kernel = kernel.T[labels].astype(x.dtype)
        logits = jnp.einsum("nijuvd,nd->nijuv", x, kernel, preferred_element_type=jnp.float32)
        logits = logits + bias[labels][:, None, None, None, None]
        # The 2×2 pixels of each position are interleaved here, where there is one channel, not many.
        return logits.transpose(0, 1, 3, 2, 4).reshape(b, r, 2 * side, 2 * side)


def candidates(
    proposals: Float[Array, "r 4"],
    kept: Bool[Array, " r"],
    logits: Float[Array, "r k1"],
    deltas: Float[Array, "r k 4"],
    size: Int[Array, "2"],
    *,
    std: tuple[float, float, float, float],
    score_threshold: float,
) -> tuple[Float[Array, "n 4"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Boxes, scores and labels of all pairs of proposal and class of one image, and which are valid."""
    scores = jax.nn.softmax(logits)[:, :-1]
    boxes = clip_boxes(decode_deltas(proposals[:, None], deltas, std), size).reshape(-1, 4)
    labels = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape).ravel()
    return boxes, scores.ravel(), labels, (kept[:, None] & (scores > score_threshold)).ravel()
