"""Which box is learnt where: by overlap (anchors, proposals), by sampling, and one to one (DETR)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from optax.assignment import hungarian_algorithm

from pvt_jax.errors import UserError
from pvt_jax.ops.boxes import pairwise_iou

BACKGROUND, IGNORED = -1, -2

# Stands for costs that are not finite: far above all others, and still exact enough to add to them.
_WORST = 1e6


class Assignment(NamedTuple):
    """What each of n anchors has to find.

    Attributes:
      matched: number of its object; or ``BACKGROUND``; or ``IGNORED``: nothing is learnt there.
      iou: of the anchor with the object that it overlaps most; 0 without objects.
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
    """Each anchor's object, by the rule of mmdetection's ``MaxIoUAssigner``; of an image's ``valid`` boxes.

    1. An anchor whose largest IoU is below ``negative`` is background, from ``positive`` on it takes that object (of
       equal ones the first); between the two it is ignored.
    2. With ``low_quality`` each object whose largest IoU is at least ``least_positive`` then takes all anchors that
       have exactly this IoU, from other objects too; the last object has the last word.

    Anchors that are not ``usable`` are ignored, and no object's best. One difference: in mmdetection an object that no
    anchor touches takes, with ``least_positive=0``, all that do not touch it; here it takes none. No gradient flows.
    """
    anchors, boxes = jax.lax.stop_gradient((anchors, boxes))
    usable = jnp.ones(len(anchors), bool) if usable is None else usable

    def consider(best: Assignment, forced: Array, number: Array, box: Array, exists: Array) -> tuple[Assignment, Array]:
        iou = jnp.where(usable & exists, pairwise_iou(anchors, box[None])[:, 0], 0.0)
        # The same numbers for all that follows: computed anew in another kernel they could be rounded differently, and
        # an object's best anchor not be found again.
        iou = jax.lax.optimization_barrier(iou)
        better = iou > best.iou
        best = Assignment(jnp.where(better, number, best.matched), jnp.maximum(iou, best.iou))
        if low_quality:
            largest = iou.max(initial=0.0)
            forced = jnp.where((iou == largest) & (largest > 0) & (largest >= least_positive), number, forced)
        return best, forced

    # Object by object, so that what takes memory are a few numbers an anchor and not one for each pair.
    with jax.named_scope("assign_by_iou"):
        none = jnp.full(len(anchors), BACKGROUND)
        start = Assignment(none, jnp.zeros(len(anchors))), none
        objects = jnp.arange(len(boxes)), boxes, valid
        (best, forced), _ = jax.lax.scan(lambda carry, one: (consider(*carry, *one), None), start, objects)
        matched = jnp.where(best.iou < negative, BACKGROUND, jnp.where(best.iou >= positive, best.matched, IGNORED))
        matched = jnp.where(forced >= 0, forced, matched)
        return Assignment(jnp.where(usable, matched, IGNORED), best.iou)


class Sample(NamedTuple):
    """Anchors to learn from: the positive ones first, then background, then what is not ``valid``, with index 0."""

    indices: Int[Array, " count"]
    positive: Bool[Array, " count"]
    valid: Bool[Array, " count"]


def sample(matched: Int[Array, " n"], key: PRNGKeyArray, *, count: int, positive_share: float) -> Sample:
    """``count`` of n anchors, drawn without replacement: mmdetection's ``RandomSampler``.

    At most ``count · positive_share`` of them have an object; background fills up what is left, as far as there is any.
    """
    of_positive, of_background = jax.random.split(key)
    positive, found = _draw(of_positive, matched >= 0, min(int(count * positive_share), len(matched)))
    background, left = _draw(of_background, matched == BACKGROUND, min(count, len(matched)))
    slots = jnp.arange(count)
    is_positive, place = slots < found, slots - found
    valid = is_positive | (place < left)
    # Either list may be empty; what is taken from beyond their ends is not valid.
    from_positive = jnp.take(jnp.append(positive, 0), slots, mode="clip")
    from_background = jnp.take(jnp.append(background, 0), place, mode="clip")
    indices = jnp.where(is_positive, from_positive, from_background)
    return Sample(jnp.where(valid, indices, 0), is_positive, valid)


def _draw(key: PRNGKeyArray, among: Bool[Array, " n"], count: int) -> tuple[Int[Array, " {count}"], Int[Array, ""]]:
    """``count`` of n places, those ``among`` which to draw first; and how many of them these are."""
    order = jnp.where(among, jax.random.uniform(key, among.shape), -1.0)
    return jax.lax.top_k(order, count)[1], jnp.minimum(jnp.sum(among, dtype=jnp.int32), count)


def hungarian(cost: Float[Array, "q m"], valid: Bool[Array, " m"]) -> Int[Array, " m"]:
    """The query of each object, all different, such that the sum of the costs of ``valid`` objects is smallest.

    Padded objects get queries that are left; they have no meaning. Costs that are not finite count as 1e6, so that it
    ends for a model that has diverged, too. No gradient flows.

    Raises:
      UserError: there are more objects than queries.
    """
    queries, objects = cost.shape
    if objects > queries:
        raise UserError(
            f"{objects} objects an image need as many queries, but the head has {queries}: set "
            f"head.num_queries={objects}"
        )
    cost = jnp.nan_to_num(jax.lax.stop_gradient(cost), nan=_WORST, posinf=_WORST, neginf=-_WORST)
    with jax.named_scope("hungarian"):
        # Equal everywhere, a padded object takes no query that another one would pay for.
        rows, columns = hungarian_algorithm(jnp.where(valid, cost, 0.0))
        return jnp.zeros(objects, jnp.int32).at[columns].set(rows.astype(jnp.int32))
