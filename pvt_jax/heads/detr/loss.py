"""The set prediction loss of DETR (arXiv 2005.12872, section 3.1): objects and predictions are matched one to one.

Boxes are (centre x, centre y, width, height), relative to their image. Names of dimensions in shapes: b batch,
q queries (predictions of an image), m objects, k classes; the last of k + 1 class scores is that of "no object".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.ops.box_losses import giou, l1, softmax_cross_entropy
from pvt_jax.ops.boxes import from_centres, pairwise_giou
from pvt_jax.ops.matching import hungarian


class Weights(NamedTuple):
    """What class, box and overlap weigh in the cost of a match and in the loss; "no object" among the classes."""

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
    """The prediction of each object of one image, so that all costs together are least (equation 1).

    A match costs, weighted, - the probability of the object's class, the sum of absolute differences, and - GIoU.
    No gradient goes through. What objects get that are not valid has no meaning.

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
    """(class, box, overlap) loss of a batch's predictions, weighted: equation 2, and section 3.1's bounding box loss.

    Cross-entropy is averaged by the weights of its classes; the others are divided by the number of objects in the
    batch, or 1 without any. The batch is the global one, or a part of it that is accumulated; the authors average
    cross-entropy over that of one GPU.
    """
    matched = jax.vmap(match, (0, 0, 0, 0, 0, None))(logits, boxes, target_boxes, labels, valid, weights)

    queries, background = logits.shape[1], logits.shape[2] - 1
    target = jnp.full(logits.shape[:2], background, labels.dtype)
    # What is not valid is written beyond the last query, which drops it.
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
