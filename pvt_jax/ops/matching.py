"""Assignment of ground truth: by IoU (anchors, proposals), by sampling, and one to one (DETR)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from optax.assignment import hungarian_algorithm

from pvt_jax.errors import UserError
from pvt_jax.ops.boxes import pairwise_iou

BACKGROUND, IGNORED = -1, -2

# Replaces costs that are not finite: far above all others, yet sums with them stay exact enough.
_WORST = 1e6


class Assignment(NamedTuple):
    """The ground truth of each of n anchors.

    Attributes:
      matched: index of the anchor's object; ``BACKGROUND`` for negatives; ``IGNORED`` for those without a loss.
      iou: the anchor's largest IoU with any object; 0 without objects.
    """

    matched: Int[Array, " n"]
    iou: Float[Array, " n"]


def assign_by_iou(
    anchors: Float[Array, "n 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    *,
    positive: float,
    negative: float,
    least_positive: float,
    low_quality: bool = True,
    usable: Bool[Array, " n"] | None = None,
) -> Assignment:
    """Assignment of one image's ``valid`` boxes to anchors, by the rule of mmdetection's ``MaxIoUAssigner``.

    1. Anchors whose largest IoU is below ``negative`` are negatives; those with IoU ≥ ``positive`` are positives of
       that object (the first on ties); anchors in between are ignored.
    2. With ``low_quality`` each object whose largest IoU is at least ``least_positive`` then also takes every anchor
       with exactly this IoU, even from another object; the last such object wins.

    Anchors that are not ``usable`` are ignored and never an object's best. One difference from mmdetection: there, with
    ``least_positive=0``, an object that overlaps no anchor takes all anchors of IoU 0; here it takes none. No gradient
    flows.
    """
    anchors, boxes = jax.lax.stop_gradient((anchors, boxes))
    usable = jnp.ones(len(anchors), bool) if usable is None else usable

    def consider(best: Assignment, forced: Array, number: Array, box: Array, exists: Array) -> tuple[Assignment, Array]:
        iou = jnp.where(usable & exists, pairwise_iou(anchors, box[None])[:, 0], 0.0)
        # Recomputed in another fusion, IoUs could round differently and no longer equal their own maximum.
        iou = jax.lax.optimization_barrier(iou)
        better = iou > best.iou
        best = Assignment(jnp.where(better, number, best.matched), jnp.maximum(iou, best.iou))
        if low_quality:
            largest = iou.max(initial=0.0)
            forced = jnp.where((iou == largest) & (largest > 0) & (largest >= least_positive), number, forced)
        return best, forced

    # Object by object: memory is a few numbers per anchor, not one per pair.
    with jax.named_scope("assign_by_iou"):
        none = jnp.full(len(anchors), BACKGROUND)
        start = Assignment(none, jnp.zeros(len(anchors))), none
        objects = jnp.arange(len(boxes)), boxes, valid
        (best, forced), _ = jax.lax.scan(lambda carry, one: (consider(*carry, *one), None), start, objects)
        matched = jnp.where(best.iou < negative, BACKGROUND, jnp.where(best.iou >= positive, best.matched, IGNORED))
        matched = jnp.where(forced >= 0, forced, matched)
        return Assignment(jnp.where(usable, matched, IGNORED), best.iou)


class Sample(NamedTuple):
    """Sampled anchors: positives first, then negatives, then unused slots (not ``valid``, index 0)."""

    indices: Int[Array, " count"]
    positive: Bool[Array, " count"]
    valid: Bool[Array, " count"]


def sample(matched: Int[Array, " n"], key: PRNGKeyArray, *, count: int, positive_share: float) -> Sample:
    """``count`` of n anchors, drawn without replacement, as mmdetection's ``RandomSampler`` does.

    At most ``count · positive_share`` are positives; negatives fill the rest, as far as there are any.
    """
    of_positive, of_background = jax.random.split(key)
    positive, found = _draw(of_positive, matched >= 0, min(int(count * positive_share), len(matched)))
    background, left = _draw(of_background, matched == BACKGROUND, min(count, len(matched)))
    slots = jnp.arange(count)
    is_positive, place = slots < found, slots - found
    valid = is_positive | (place < left)
    # Either list may be empty; entries taken from beyond its end are not valid.
    from_positive = jnp.take(jnp.append(positive, 0), slots, mode="clip")
    from_background = jnp.take(jnp.append(background, 0), place, mode="clip")
    indices = jnp.where(is_positive, from_positive, from_background)
    return Sample(jnp.where(valid, indices, 0), is_positive, valid)


def _draw(key: PRNGKeyArray, among: Bool[Array, " n"], count: int) -> tuple[Int[Array, " {count}"], Int[Array, ""]]:
    """Indices of ``count`` of n entries, a random draw of those ``among`` first; and how many of these there are."""
    order = jnp.where(among, jax.random.uniform(key, among.shape), -1.0)
    return jax.lax.top_k(order, count)[1], jnp.minimum(jnp.sum(among, dtype=jnp.int32), count)


def hungarian(cost: Float[Array, "q m"], valid: Bool[Array, " m"]) -> Int[Array, " m"]:
    """Bipartite matching: a distinct query for each object, with the least total cost over ``valid`` objects.

    Padded objects get leftover queries, to be discarded. Costs that are not finite count as 1e6, so that the algorithm
    terminates for a diverged model too. No gradient flows.

    Raises:
      UserError: there are more objects than queries.
    """
    queries, objects = cost.shape
    if objects > queries:
        raise UserError(
            f"{objects} objects per image need as many queries, but the head has {queries}: set "
            f"head.num_queries={objects}"
        )
    cost = jnp.nan_to_num(jax.lax.stop_gradient(cost), nan=_WORST, posinf=_WORST, neginf=-_WORST)
    with jax.named_scope("hungarian"):
        # A padded object costs the same at every query, so it never displaces a valid one.
        rows, columns = hungarian_algorithm(jnp.where(valid, cost, 0.0))
        return jnp.zeros(objects, jnp.int32).at[columns].set(rows.astype(jnp.int32))
