"""RetinaNet's loss (arXiv 1708.02002, section 4; mmdetection's ``RetinaHead``)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.ops.box_losses import l1, sigmoid_focal
from pvt_jax.ops.boxes import encode_deltas
from pvt_jax.ops.matching import BACKGROUND, IGNORED, assign_by_iou


def retinanet_losses(
    logits: Sequence[Float[Array, "b _n k"]],
    deltas: Sequence[Float[Array, "b _n 4"]],
    anchors: Sequence[Float[Array, "_n 4"]],
    usable: Sequence[Bool[Array, "b _n"]] | None,
    boxes: Float[Array, "b m 4"],
    labels: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
    *,
    positive: float,
    negative: float,
    alpha: float,
    gamma: float,
) -> dict[str, Float[Array, ""]]:
    """``class_loss`` and ``box_loss`` of a batch, each a sum over anchors divided by the number of positives.

    ``logits``, ``deltas``, ``anchors`` and ``usable`` (None: all) have one entry per level. The focal loss is over all
    anchors except ignored ones, L1 over positives. Two differences from mmdetection: it counts at least one positive
    per image, here it is at least one per batch (the same unless an image has no objects); and it normalises per GPU,
    two images in the published recipes, and averages over GPUs, here over the global batch or a microbatch of gradient
    accumulation.
    """
    assign = partial(assign_by_iou, positive=positive, negative=negative, least_positive=0.0)
    all_anchors = jnp.concatenate(anchors)
    all_usable = None if usable is None else jnp.concatenate(usable, axis=1)
    matched = jax.vmap(lambda b, v, u: assign(all_anchors, b, v, usable=u).matched)(boxes, valid, all_usable)
    found = matched >= 0
    total, number = jnp.maximum(jnp.sum(found), 1), jnp.maximum(matched, 0)

    # Anchors without an object get themselves as target, which keeps deltas finite; their loss is masked.
    own = jnp.where(found[..., None], jnp.take_along_axis(boxes, number[..., None], axis=1), all_anchors)
    box_loss = jnp.sum(jnp.where(found, l1(jnp.concatenate(deltas, axis=1), encode_deltas(all_anchors, own)), 0.0))

    # Level by level, so that the logits of all levels are never concatenated.
    label = jnp.where(found, jnp.take_along_axis(labels, number, axis=1), BACKGROUND)
    class_loss, first = jnp.zeros(()), 0
    for one in logits:
        here = slice(first, first + one.shape[1])
        focal = sigmoid_focal(one, label[:, here], alpha=alpha, gamma=gamma)
        class_loss += jnp.sum(jnp.where(matched[:, here] == IGNORED, 0.0, focal))
        first += one.shape[1]
    return {"class_loss": class_loss / total, "box_loss": box_loss / total}
