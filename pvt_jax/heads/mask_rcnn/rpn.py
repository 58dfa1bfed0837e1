"""Region proposal network, "Faster R-CNN" (arXiv 1506.01497, section 3.1), on a feature pyramid."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.nn.convolution import Convolution
from pvt_jax.nn.pixels import grid_of
from pvt_jax.ops.anchors import base_anchors, grid_anchors, inside_region
from pvt_jax.ops.boxes import clip_boxes, decode_deltas
from pvt_jax.ops.nms import nms
from pvt_jax.ops.padding import Maps


class Level(NamedTuple):
    """Objectness and deltas of one level for its anchors, which all images share, in the order of ``grid_anchors``.

    ``inside`` marks those in each image's region; None: all.
    """

    anchors: Float[Array, "n 4"]
    inside: Bool[Array, "b n"] | None
    logits: Float[Array, "b n"]
    deltas: Float[Array, "b n 4"]


def stride_of(name: str) -> int:
    """Stride of the level named ``p2``, ``p3``, … in pixels."""
    return 2 ** int(name[1:])


class Predictor(nn.Module):
    """Linear layer with float32 outputs, whatever ``dtype``. Weights start from N(0, ``deviation``²)."""

    dim: int
    deviation: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows d"]:
        kernel = self.param("kernel", nn.initializers.normal(self.deviation), (x.shape[-1], self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=jnp.float32)
        return y.reshape(*x.shape[:-1], self.dim) + bias


class RegionProposalNetwork(nn.Module):
    """Objectness and deltas of anchors: a 3×3 convolution with ReLU and two 1×1 ones, shared by all levels.

    Attributes:
      channels: of the 3×3 convolution.
      scales: sides of the anchors at a location, in strides.
      ratios: height / width of the anchors.
      dtype: of the computation; outputs are float32.
    """

    channels: int
    scales: Sequence[float]
    ratios: Sequence[float]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, region: Int[Array, "b 2"] | None = None) -> list[Level]:
        """Predictions from the finest to the coarsest level; discard those of anchors that are not ``inside``."""
        number = len(self.scales) * len(self.ratios)
        init = nn.initializers.normal(0.01)
        conv = Convolution(self.channels, init, dtype=self.dtype, name="conv")
        classifier = Predictor(number, 0.01, self.dtype, name="classifier")
        regressor = Predictor(4 * number, 0.01, self.dtype, name="regressor")
        levels = []
        for name, x in sorted(maps.items()):
            grid, stride = grid_of(x), stride_of(name)
            anchors = grid_anchors(base_anchors(stride, self.scales, self.ratios), grid, stride)
            inside = None if region is None else jax.vmap(partial(inside_region, grid, number, stride))(region)
            hidden = nn.relu(conv(x))
            logits, deltas = classifier(hidden), regressor(hidden)
            batch = x.shape[0]
            levels.append(Level(anchors, inside, logits.reshape(batch, -1), deltas.reshape(batch, -1, 4)))
        return levels


def joined(levels: Sequence[Level]) -> Level:
    """All levels concatenated."""
    anchors, inside, logits, deltas = zip(*levels, strict=True)
    return Level(
        jnp.concatenate(anchors),
        None if inside[0] is None else jnp.concatenate(inside, axis=1),
        jnp.concatenate(logits, axis=1),
        jnp.concatenate(deltas, axis=1),
    )


def propose(
    levels: Sequence[Level], sizes: Int[Array, "b 2"], *, per_level: int, count: int, threshold: float
) -> tuple[Float[Array, "b {count} 4"], Bool[Array, "b {count}"]]:
    """The best ``count`` proposals of each image, clipped to its size, and which are valid. No gradient flows.

    The ``per_level`` best anchors of each level are decoded, boxes without area are dropped, and NMS with IoU
    ``threshold`` runs per level.
    """
    boxes, scores, usable, numbers = [], [], [], []
    for number, level in enumerate(levels):
        logits, deltas = jax.lax.stop_gradient((level.logits, level.deltas))
        if level.inside is not None:
            logits = jnp.where(level.inside, logits, -jnp.inf)
        # Ranked by logits: the sigmoid rounds those of confident anchors to ties.
        best, places = jax.lax.top_k(logits, min(per_level, logits.shape[1]))
        deltas = jnp.take_along_axis(deltas, places[..., None], axis=1)
        boxes.append(clip_boxes(decode_deltas(level.anchors[places], deltas), sizes[:, None]))
        scores.append(best)
        usable.append((best > -jnp.inf) & (boxes[-1][..., 2:] > boxes[-1][..., :2]).all(-1))
        numbers.append(jnp.full(best.shape[1], number))

    def of_image(boxes: Array, scores: Array, usable: Array) -> tuple[Array, Array]:
        labels = jnp.concatenate(numbers)
        places, kept = nms(boxes, scores, threshold=threshold, max_outputs=count, labels=labels, valid=usable)
        return jnp.where(kept[:, None], boxes[places], 0.0), kept

    return jax.vmap(of_image)(*(jnp.concatenate(parts, axis=1) for parts in (boxes, scores, usable)))
