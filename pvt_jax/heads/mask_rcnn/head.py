"""Mask R-CNN (arXiv 1703.06870) and, without masks, Faster R-CNN (arXiv 1506.01497), as in mmdetection.

The PVT papers use mmdetection's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.heads.base import best_detections
from pvt_jax.heads.mask_rcnn.loss import (
    Drawn,
    Sampling,
    box_losses,
    draw_anchors,
    draw_proposals,
    mask_loss,
    rpn_losses,
)
from pvt_jax.heads.mask_rcnn.mask_targets import mask_targets
from pvt_jax.heads.mask_rcnn.regions import BoxHead, MaskHead, border_repeated, candidates, region_features
from pvt_jax.heads.mask_rcnn.rpn import Level, RegionProposalNetwork, joined, propose
from pvt_jax.nn.settings import check, check_counts, check_num_classes
from pvt_jax.ops.padding import Maps
from pvt_jax.ops.used_slots import loss_of_used_slots

# Sides of the RoIAlign features of the box and mask heads; a mask has twice the side.
_BOX_SIDE, _MASK_SIDE = 7, 14
# Coarser levels only give proposals.
_LAST_LEVEL = "p5"


class MaskRCNNHead(nn.Module):
    """A feature pyramid → boxes, and a mask for each.

    The region proposal network reads all levels, whose names give their strides. The box and mask heads read RoIAlign
    features of the proposals from the levels up to ``p5``.

    Attributes:
      num_classes: without background.
      masks: False makes it Faster R-CNN, without masks.
      channels: of the convolutions of the region proposal network and the mask head.
      hidden_dim: of the box head's two hidden layers.
      anchor_scales: sides of the anchors at a location, in strides.
      anchor_ratios: height / width of the anchors.
      rpn_positive_iou: anchors with IoU ≥ this are positives.
      rpn_negative_iou: anchors with IoU below this are negatives.
      rpn_least_iou: each object's best anchors are positives, too, if their IoU is at least this.
      rpn_samples: anchors sampled per image.
      rpn_positive_share: largest fraction of positives among them.
      rpn_nms_threshold: NMS threshold (IoU) of proposals, per level.
      train_pre_nms: best proposals per level that enter NMS, in training.
      train_proposals: proposals per image that NMS keeps, over all levels.
      pre_nms: as ``train_pre_nms``, in evaluation.
      proposals: as ``train_proposals``, in evaluation.
      positive_iou: proposals with IoU ≥ this are positives, the others negatives.
      samples: proposals sampled per image.
      positive_share: largest fraction of positives among them; only positives train the mask head.
      box_std: divides the box head's regression targets.
      finest_scale: regions with √area below twice this, in pixels, are read from the finest level.
      score_threshold: minimum score of a detection.
      nms_threshold: per-class NMS threshold (IoU).
      max_detections: per image.
      dtype: of the computation; parameters, logits and all arithmetic on boxes stay float32.
    """

    num_classes: int = 80
    masks: bool = True
    channels: int = 256
    hidden_dim: int = 1024
    anchor_scales: Sequence[int | float] = (8,)
    anchor_ratios: Sequence[int | float] = (0.5, 1, 2)
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_least_iou: float = 0.3
    rpn_samples: int = 256
    rpn_positive_share: float = 0.5
    rpn_nms_threshold: float = 0.7
    train_pre_nms: int = 2000
    train_proposals: int = 1000
    pre_nms: int = 1000
    proposals: int = 1000
    positive_iou: float = 0.5
    samples: int = 512
    positive_share: float = 0.25
    box_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    finest_scale: float = 56.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    dtype: DTypeLike = jnp.float32

    @property
    def needs_masks(self) -> bool:
        """Whether training needs ground truth masks."""
        return self.masks

    def setup(self) -> None:
        self._check()
        scales, ratios = (tuple(map(float, values)) for values in (self.anchor_scales, self.anchor_ratios))
        self.rpn = RegionProposalNetwork(self.channels, scales, ratios, self.dtype)
        self.box = BoxHead(self.num_classes, self.hidden_dim, self.dtype)
        if self.masks:
            self.mask = MaskHead(self.num_classes, self.channels, self.dtype)

    def losses(
        self, maps: Maps, targets: dict[str, Array], sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """``rpn_class_loss``, ``rpn_box_loss``, ``class_loss``, ``box_loss`` and, with masks, ``mask_loss``.

        Needs ``rngs={"sample": key}``. Arguments: see ``DetectionModel``.
        """
        objects, labels, valid = targets["boxes"].astype(jnp.float32), targets["labels"], targets["valid"]
        # One key per image, so that its draw does not depend on how the batch is sharded.
        keys = [jax.random.split(key, len(sizes)) for key in jax.random.split(self.make_rng("sample"))]

        levels = self.rpn(maps, region)
        predicted = joined(levels)
        draw = jax.vmap(partial(draw_anchors, sampling=self._anchor_sampling), (0, None, 0, 0, 0))
        drawn = draw(keys[0], predicted.anchors, predicted.inside, objects, valid)
        rpn_class_loss, rpn_box_loss = rpn_losses(predicted.logits, predicted.deltas, drawn, objects)

        proposals, kept = self._propose(levels, sizes, self.train_pre_nms, self.train_proposals)
        drawn = jax.vmap(partial(draw_proposals, sampling=self._region_sampling))(
            keys[1], proposals, kept, objects, valid
        )
        maps = _read_by_regions(maps, region)
        logits, deltas = self.box(self._features(maps, drawn.boxes, drawn.valid, _BOX_SIDE))
        class_loss, box_loss = box_losses(logits, deltas, drawn, objects, labels, self.box_std)
        losses = {
            "rpn_class_loss": rpn_class_loss,
            "rpn_box_loss": rpn_box_loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
        }
        if self.masks:
            drawn = jax.tree.map(lambda x: x[:, : self._region_sampling.positives], drawn)
            features = self._features(maps, drawn.boxes, drawn.positive, _MASK_SIDE)
            # Branches cannot call a bound module.
            mask_head, weights = self.mask.unbind()
            of_objects = targets["masks"], objects, labels

            def of_slots(weights: Any, features: Array, drawn: Drawn, of_objects: tuple[Array, ...]) -> Array:
                masks, objects, labels = of_objects
                logits: Any = mask_head.apply(weights, features, jnp.take_along_axis(labels, drawn.matched, axis=1))
                shapes = jax.vmap(partial(mask_targets, output=2 * _MASK_SIDE))(
                    masks, objects, drawn.boxes, drawn.matched
                )
                return mask_loss(logits, shapes, drawn.positive)

            used = drawn.positive.sum(1, dtype=jnp.int32).max()
            losses["mask_loss"] = loss_of_used_slots(of_slots, used, weights, features, drawn, of_objects)
        return losses

    def detect(self, maps: Maps, sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None) -> dict[str, Array]:
        """Detections by descending score, as in ``DetectionModel``, with boxes clipped to the images.

        ``masks`` float32 [b, n, 28, 28] are predicted for the final boxes and their classes.
        """
        proposals, kept = self._propose(self.rpn(maps, region), sizes, self.pre_nms, self.proposals)
        maps = _read_by_regions(maps, region)
        logits, deltas = self.box(self._features(maps, proposals, kept, _BOX_SIDE))
        pairs = jax.vmap(partial(candidates, std=self.box_std, score_threshold=self.score_threshold))
        best = jax.vmap(partial(best_detections, threshold=self.nms_threshold, count=self.max_detections))
        found = best(*pairs(proposals, kept, logits, deltas, sizes))
        if self.masks:
            features = self._features(maps, found["boxes"], found["valid"], _MASK_SIDE)
            masks = jax.nn.sigmoid(self.mask(features, found["labels"]))
            found["masks"] = jnp.where(found["valid"][..., None, None], masks, 0.0)
        return found

    def _propose(self, levels: list[Level], sizes: Array, per_level: int, count: int) -> tuple[Array, Array]:
        return propose(levels, sizes, per_level=per_level, count=count, threshold=self.rpn_nms_threshold)

    def _features(self, maps: dict[str, Array], boxes: Array, valid: Array, side: int) -> Array:
        return region_features(maps, boxes, valid, side=side, finest_scale=self.finest_scale)

    @property
    def _anchor_sampling(self) -> Sampling:
        return Sampling(
            self.rpn_samples, self.rpn_positive_share, self.rpn_positive_iou, self.rpn_negative_iou, self.rpn_least_iou
        )

    @property
    def _region_sampling(self) -> Sampling:
        iou = self.positive_iou
        # In mmdetection low-quality matches are on for Mask R-CNN and off for Faster R-CNN.
        return Sampling(self.samples, self.positive_share, iou, iou, iou, low_quality=self.masks)

    def _check(self) -> None:
        check_num_classes(self)
        check_counts(self, "channels", "hidden_dim", "rpn_samples", "samples", "max_detections")
        check_counts(self, "train_pre_nms", "train_proposals", "pre_nms", "proposals")
        shares = ("rpn_positive_share", "positive_share", "rpn_nms_threshold", "nms_threshold", "score_threshold")
        overlaps = ("rpn_positive_iou", "rpn_negative_iou", "rpn_least_iou", "positive_iou")
        check(self, "from 0 to 1", lambda value: 0 <= value <= 1, *shares, *overlaps)
        numbers = ("anchor_scales", "anchor_ratios", "box_std")
        check(self, "one or more numbers above 0", lambda values: values and min(values) > 0, *numbers)
        check(self, "above 0", lambda side: side > 0, "finest_scale")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise UserError(
                "head.rpn_negative_iou must be at most head.rpn_positive_iou, but they are "
                f"{self.rpn_negative_iou} and {self.rpn_positive_iou}"
            )
        if self.masks and self._region_sampling.positives < 1:
            raise UserError(
                "head.samples times head.positive_share must be 1 or more to train masks, but they are "
                f"{self.samples} and {self.positive_share}"
            )


def _read_by_regions(maps: dict[str, Array], region: Array | None) -> dict[str, Array]:
    """The levels that RoIAlign reads, with the border of each valid region repeated."""
    return border_repeated({name: maps[name] for name in sorted(maps) if name <= _LAST_LEVEL}, region)
