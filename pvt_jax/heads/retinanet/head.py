"""RetinaNet, "Focal Loss for Dense Object Detection" (arXiv 1708.02002, section 4).

It follows mmdetection's ``RetinaHead``, which the PVT papers use.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.heads.base import best_detections
from pvt_jax.heads.retinanet.loss import retinanet_losses
from pvt_jax.nn.convolution import Convolution
from pvt_jax.nn.pixels import grid_of
from pvt_jax.nn.settings import check, check_counts, check_num_classes
from pvt_jax.ops.anchors import base_anchors, grid_anchors, inside_region, octave_scales
from pvt_jax.ops.boxes import clip_boxes, decode_deltas
from pvt_jax.ops.padding import Maps, zero_outside

# Initial score of every class: at 0.5 the loss of all background anchors would drown that of the objects.
_PRIOR = 0.01

normal_001 = nn.initializers.normal(0.01)


class Level(NamedTuple):
    """Predictions of one level for its n anchors; ``usable`` marks those in an image's region, None: all."""

    logits: Float[Array, "b n k"]
    deltas: Float[Array, "b n 4"]
    anchors: Float[Array, "n 4"]
    usable: Bool[Array, "b n"] | None


class RetinaNetHead(nn.Module):
    """A feature pyramid's ``p3`` … ``p7`` → boxes: logits and deltas for each anchor of each level.

    Two towers of 3×3 convolutions with ReLU, for classes and boxes, each end in a 3×3 convolution and are shared by all
    levels. Any levels will do: their names give their strides.

    Attributes:
      num_classes: without background.
      channels: of the towers.
      num_convs: convolutions per tower, without the last.
      octave_base: side of the smallest anchors at a location, in strides.
      scales_per_octave: number of anchor sides at a location, from ``octave_base`` to below its double.
      ratios: height / width of the anchors.
      positive_iou: anchors with IoU ≥ this are positives.
      negative_iou: anchors with IoU below this are negatives.
      focal_alpha: weight of positives in the focal loss; negatives have 1 - focal_alpha.
      focal_gamma: exponent of the focal loss.
      box_weight: of the box loss.
      pre_nms: best boxes per level that enter NMS.
      score_threshold: minimum score of a detection.
      nms_threshold: per-class NMS threshold (IoU).
      max_detections: per image.
      dtype: of the computation; parameters, logits and all arithmetic on boxes stay float32.
    """

    num_classes: int = 80
    channels: int = 256
    num_convs: int = 4
    octave_base: float = 4.0
    scales_per_octave: int = 3
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weight: float = 1.0
    pre_nms: int = 1000
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    dtype: DTypeLike = jnp.float32

    needs_masks: ClassVar[bool] = False

    def setup(self) -> None:
        self._check()
        tower = partial(Convolution, self.channels, normal_001, dtype=self.dtype)
        self.class_convs = [tower(name=f"class_conv{i}") for i in range(self.num_convs)]
        self.box_convs = [tower(name=f"box_conv{i}") for i in range(self.num_convs)]
        anchors = self.scales_per_octave * len(self.ratios)
        last = partial(Convolution, kernel_init=normal_001, dtype=self.dtype, out_dtype=jnp.float32)
        rare = nn.initializers.constant(-math.log((1 - _PRIOR) / _PRIOR))
        self.classifier = last(anchors * self.num_classes, bias_init=rare)
        self.regressor = last(anchors * 4)

    def losses(
        self, maps: Maps, targets: dict[str, Array], sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """``class_loss`` and ``box_loss``, weighted. Arguments: see ``DetectionModel``; ``sizes`` are not used."""
        levels = self._levels(maps, region)
        losses = retinanet_losses(
            [level.logits for level in levels],
            [level.deltas for level in levels],
            [level.anchors for level in levels],
            None if region is None else [level.usable for level in levels],  # pyright: ignore[reportArgumentType]
            targets["boxes"],
            targets["labels"],
            targets["valid"],
            positive=self.positive_iou,
            negative=self.negative_iou,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
        )
        return {**losses, "box_loss": self.box_weight * losses["box_loss"]}

    def detect(self, maps: Maps, sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None) -> dict[str, Array]:
        """Detections by descending score, as in ``DetectionModel``, with boxes clipped to the images.

        The best ``pre_nms`` pairs of anchor and class of each level enter per-class NMS, as in later versions of
        mmdetection; earlier ones ranked anchors by their best class and kept all classes of each.
        """
        axes = Level(0, 0, None, None if region is None else 0)  # pyright: ignore[reportArgumentType]
        parts = [jax.vmap(self._candidates, (axes,))(level) for level in self._levels(maps, region)]
        anchors, deltas, scores, labels = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        boxes = clip_boxes(decode_deltas(anchors, deltas), sizes[:, None])
        best = partial(best_detections, threshold=self.nms_threshold, count=self.max_detections)
        return jax.vmap(best)(boxes, scores, labels, scores > self.score_threshold)

    def _levels(self, maps: dict[str, Array], region: Array | None) -> list[Level]:
        """Predictions from the finest to the coarsest level."""
        scales = octave_scales(self.octave_base, self.scales_per_octave)
        levels = []
        for number, x in sorted((int(name[1:]), x) for name, x in maps.items()):
            stride, grid = 2**number, grid_of(x)
            base = base_anchors(stride, scales, self.ratios)
            sizes = None if region is None else -(-region // stride)
            logits = self.classifier(self._tower(self.class_convs, x, sizes))
            deltas = self.regressor(self._tower(self.box_convs, x, sizes))
            total = grid[0] * grid[1] * len(base)
            usable = None if region is None else jax.vmap(partial(inside_region, grid, len(base), stride))(region)
            levels.append(
                Level(
                    logits.reshape(x.shape[0], total, self.num_classes),
                    deltas.reshape(x.shape[0], total, 4),
                    grid_anchors(base, grid, stride),
                    usable,
                )
            )
        return levels

    def _tower(self, convolutions: Sequence[Convolution], x: Array, sizes: Array | None) -> Array:
        for convolution in convolutions:
            x = zero_outside(nn.relu(convolution(x)), sizes)
        return x

    def _candidates(self, level: Level) -> tuple[Array, Array, Array, Array]:
        """The best pairs of anchor and class of one image's level: anchors, deltas, scores and classes."""
        usable = jnp.ones(len(level.anchors), bool) if level.usable is None else level.usable
        # The best k pairs belong to the best k anchors by best class, and ranking anchors first is cheaper than ranking
        # all pairs. Anchors are put back in order, so that the first of equal pairs still comes first.
        score = jnp.where(usable, level.logits.max(axis=-1), -jnp.inf)
        anchors = jnp.sort(jax.lax.top_k(score, min(self.pre_nms, len(score)))[1])
        pairs = jnp.where(usable[anchors, None], level.logits[anchors], -jnp.inf).reshape(-1)
        best, number = jax.lax.top_k(pairs, min(self.pre_nms, len(pairs)))
        chosen = anchors[number // self.num_classes]
        return level.anchors[chosen], level.deltas[chosen], jax.nn.sigmoid(best), number % self.num_classes

    def _check(self) -> None:
        check_num_classes(self)
        check_counts(self, "channels", "scales_per_octave", "pre_nms", "max_detections")
        check(self, "a whole number of at least 0", lambda n: isinstance(n, int) and n >= 0, "num_convs")
        check(self, "above 0", lambda side: side > 0, "octave_base")
        check(self, "one or more numbers above 0", lambda values: values and min(values) > 0, "ratios")
        shares = ("focal_alpha", "score_threshold", "nms_threshold")
        check(self, "from 0 to 1", lambda share: 0 <= share <= 1, *shares)
        check(self, "at least 0", lambda value: value >= 0, "focal_gamma", "box_weight")
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise UserError(
                f"head.negative_iou must be above 0 and at most head.positive_iou, which is at most 1, but they are "
                f"{self.negative_iou} and {self.positive_iou}"
            )
