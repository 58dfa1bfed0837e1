"""The set prediction loss of DETR (arXiv 2005.12872, section 3.1): bipartite matching of objects and predictions.

Boxes are (centre x, centre y, width, height), relative to their image. Shapes: b batch, q queries (predictions of an
image), m objects, k classes; the last of k + 1 logits is "no object".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.ops.box_losses import giou, l1, softmax_cross_entropy
from pvt_jax.ops.boxes import from_centres, pairwise_giou
from pvt_jax.ops.matching import hungarian


class Weights(NamedTuple):
    """Weights of class, box and GIoU in matching cost and loss, and of "no object" in the classification loss."""

    label: float = 1.0
    box: float = 5.0
    giou: float = 2.0
    background: float = 0.1


def match(
    logits: Float[Array, "q k1"],
    boxes: Float[Array, "q 4"],
    target_boxes: Float[Array, "m 4"],
    labels: Int[Array, " m"],
    valid: Bool[Array, " m"],
    weights: Weights,
) -> Int[Array, " m"]:
    """The prediction matched to each object of one image, at the least total cost (equation 1).

    The cost is the weighted sum of - probability of the object's class, L1 distance and - GIoU. No gradient flows.
    Matches of objects that are not ``valid`` are to be discarded.

    Raises:
      UserError: there are more objects than predictions.
    """
    distance = jnp.abs(boxes[:, None] - target_boxes).sum(-1)
    overlap = pairwise_giou(from_centres(boxes), from_centres(target_boxes))
    probability = jax.nn.softmax(logits.astype(jnp.float32))[:, labels]
    return hungarian(weights.box * distance - weights.giou * overlap - weights.label * probability, valid)


def set_losses(
    logits: Float[Array, "b q k1"],
    boxes: Float[Array, "b q 4"],
    target_boxes: Float[Array, "b m 4"],
    labels: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
    weights: Weights,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Weighted (class, box, GIoU) losses of a batch: equation 2, and the bounding box loss of section 3.1.

    Cross-entropy is a weighted mean; the others are divided by the number of objects in the batch, at least 1. The
    batch is the global one, or a microbatch of gradient accumulation; the authors average cross-entropy per GPU.
    """
    matched = jax.vmap(match, (0, 0, 0, 0, 0, None))(logits, boxes, target_boxes, labels, valid, weights)

    queries, background = logits.shape[1], logits.shape[2] - 1
    target = jnp.full(logits.shape[:2], background, labels.dtype)
    # Objects that are not valid are written beyond the last query, and so dropped.
    target = jax.vmap(lambda one, at, new: one.at[at].set(new, mode="drop"))(
        target, jnp.where(valid, matched, queries), labels
    )
    weight = jnp.where(target == background, weights.background, 1.0)
    label_loss = jnp.sum(weight * softmax_cross_entropy(logits, target)) / jnp.sum(weight)

    predicted = jnp.take_along_axis(boxes, matched[..., None], axis=1)
    number = jnp.maximum(jnp.sum(valid), 1)
    box_loss = jnp.sum(jnp.where(valid, l1(predicted, target_boxes), 0.0)) / number
    overlap = giou(from_centres(predicted), from_centres(target_boxes))
    giou_loss = jnp.sum(jnp.where(valid, overlap, 0.0)) / number
    return weights.label * label_loss, weights.box * box_loss, weights.giou * giou_loss
