"""Targets and losses of two-stage detectors, as mmdetection computes them.

"Faster R-CNN" (arXiv 1506.01497, section 3.1.2) and "Mask R-CNN" (arXiv 1703.06870, section 3). Means are over all
samples of the global batch, or of a microbatch of gradient accumulation; mmdetection's are per GPU.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pvt_jax.ops.box_losses import binary_cross_entropy, l1, softmax_cross_entropy
from pvt_jax.ops.boxes import encode_deltas
from pvt_jax.ops.matching import assign_by_iou, sample


@dataclass(frozen=True)
class Sampling:
    """How candidates (anchors or proposals) are assigned to objects and sampled; see ``assign_by_iou``.

    Attributes:
      count: candidates sampled per image.
      positive_share: largest fraction of positives among them.
      positive: candidates with IoU ≥ this are positives.
      negative: candidates with IoU below this are negatives; those in between are not sampled.
      least_positive: each object's best candidates are positives, too, if their IoU is at least this.
      low_quality: whether that last rule applies.
    """

    count: int
    positive_share: float
    positive: float
    negative: float
    least_positive: float
    low_quality: bool = True

    @property
    def positives(self) -> int:
        """Slots for positives: the first of a sample."""
        return int(self.count * self.positive_share)


class Drawn(NamedTuple):
    """The candidates sampled from an image, positives first.

    Attributes:
      boxes: of the sampled candidates; 0 where not ``valid``.
      indices: of the sampled candidates.
      matched: index of the object of each positive; to be discarded elsewhere.
      positive: True for positives, False for negatives.
      valid: False where there were too few candidates.
    """

    boxes: Float[Array, "*b r 4"]
    indices: Int[Array, "*b r"]
    matched: Int[Array, "*b r"]
    positive: Bool[Array, "*b r"]
    valid: Bool[Array, "*b r"]


def draw_anchors(
    key: PRNGKeyArray,
    anchors: Float[Array, "n 4"],
    usable: Bool[Array, " n"] | None,
    objects: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    sampling: Sampling,
) -> Drawn:
    """Sampled anchors of one image, for the region proposal network; only ``usable`` ones are drawn."""
    return _draw(key, anchors, _matched(anchors, usable, objects, valid, sampling), sampling)


def draw_proposals(
    key: PRNGKeyArray,
    proposals: Float[Array, "n 4"],
    kept: Bool[Array, " n"],
    objects: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    sampling: Sampling,
) -> Drawn:
    """Sampled regions of one image, for box and mask head: from the ground truth, then the ``kept`` proposals."""
    of_objects = jnp.where(valid, jnp.arange(len(objects)), -2)
    matched = jnp.concatenate([of_objects, _matched(proposals, kept, objects, valid, sampling)])
    return _draw(key, jnp.concatenate([objects, proposals]), matched, sampling)


def rpn_losses(
    logits: Float[Array, "b n"], deltas: Float[Array, "b n 4"], drawn: Drawn, objects: Float[Array, "b m 4"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of objectness, and L1 loss of the deltas of positives; both divided by the number of samples."""
    logits = jnp.take_along_axis(logits, drawn.indices, axis=1)
    deltas = jnp.take_along_axis(deltas, drawn.indices[..., None], axis=1)
    objectness = binary_cross_entropy(logits, drawn.positive.astype(jnp.float32))
    distance = l1(deltas, encode_deltas(drawn.boxes, _of_matched(objects, drawn)))
    return _mean(objectness, drawn.valid, drawn.valid), _mean(distance, drawn.positive, drawn.valid)


def box_losses(
    logits: Float[Array, "b r k1"],
    deltas: Float[Array, "b r k 4"],
    drawn: Drawn,
    objects: Float[Array, "b m 4"],
    labels: Int[Array, "b m"],
    std: tuple[float, float, float, float],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of k classes and background (last), and L1 loss of the deltas of positives' own class.

    Both are divided by the number of sampled regions.
    """
    labels = _of_matched(labels, drawn)
    classes = softmax_cross_entropy(logits, jnp.where(drawn.positive, labels, logits.shape[-1] - 1))
    deltas = jnp.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]
    distance = l1(deltas, encode_deltas(drawn.boxes, _of_matched(objects, drawn), std))
    return _mean(classes, drawn.valid, drawn.valid), _mean(distance, drawn.positive, drawn.valid)


def mask_loss(
    logits: Float[Array, "b r s s"], targets: Float[Array, "b r s s"], positive: Bool[Array, "b r"]
) -> Float[Array, ""]:
    """Binary cross-entropy of the masks of the objects' classes, averaged over the pixels of positives."""
    return _mean(binary_cross_entropy(logits, targets).mean((2, 3)), positive, positive)


def _matched(candidates: Array, usable: Array | None, objects: Array, valid: Array, sampling: Sampling) -> Array:
    return assign_by_iou(
        candidates,
        objects,
        valid,
        positive=sampling.positive,
        negative=sampling.negative,
        least_positive=sampling.least_positive,
        low_quality=sampling.low_quality,
        usable=usable,
    ).matched


def _draw(key: PRNGKeyArray, candidates: Array, matched: Array, sampling: Sampling) -> Drawn:
    indices, positive, valid = sample(matched, key, count=sampling.count, positive_share=sampling.positive_share)
    boxes = jnp.where(valid[:, None], candidates[indices], 0.0)
    return Drawn(boxes, indices, jnp.maximum(matched[indices], 0), positive, valid)


def _of_matched(values: Array, drawn: Drawn) -> Array:
    """``values`` [b, m, …] of the objects, gathered for the sampled candidates: [b, r, …]."""
    return jnp.take_along_axis(values, drawn.matched.reshape(*drawn.matched.shape, *(1,) * (values.ndim - 2)), axis=1)


def _mean(values: Array, counted: Array, of: Array) -> Array:
    # mmdetection adds 1 to the count for each image without positives.
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(of.sum(), 1)
