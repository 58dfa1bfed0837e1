"""Greedy non-maximum suppression, exact, by matrices of static shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.ops.boxes import pairwise_iou

# Boxes decided at a time.
_TILE = 256


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    threshold: float,
    max_outputs: int,
    labels: Int[Array, " n"] | None = None,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " {max_outputs}"], Bool[Array, " {max_outputs}"]]:
    """Greedy NMS: the kept boxes by descending score; of equal scores the lower index comes first.

    A box is suppressed by a kept box of the same label whose IoU with it is above ``threshold``; boxes without area
    never are. No gradient flows.

    Boxes are decided in tiles by descending score. A tile first drops boxes that overlap one kept so far; the rest are
    kept at the fixed point of "no kept box before me overlaps me". Each round settles one more link of every chain of
    overlaps, so a few rounds give exactly the greedy result. It stops once ``max_outputs`` boxes are kept.

    Args:
      labels: class of each box, for per-class NMS; None: class-agnostic.
      valid: the boxes to consider; None: all.

    Returns:
      Indices of kept boxes, padded with 0, and a mask of those that are real.
    """
    count = len(boxes)
    if count == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    tile = min(_TILE, count)
    tiles = -(-count // tile)
    with jax.named_scope("nms"):
        boxes, scores = jax.lax.stop_gradient((boxes, scores))
        labels = jnp.zeros(count, jnp.int32) if labels is None else labels
        valid = jnp.ones(count, bool) if valid is None else valid
        order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
        boxes, labels, valid = (
            jnp.pad(x[order], [(0, tiles * tile - count)] + [(0, 0)] * (x.ndim - 1)) for x in (boxes, labels, valid)
        )
        used = jnp.max(jnp.where(valid, jnp.arange(tiles * tile), -1), initial=-1) // tile + 1

        def overlaps(a: Array, b: Array) -> Array:
            return (pairwise_iou(boxes[a], boxes[b]) > threshold) & (labels[a][:, None] == labels[b])

        def decide(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            number, places, found = state
            here = number * tile + jnp.arange(tile)
            beaten = overlaps(here, places) & (jnp.arange(max_outputs) < found)
            kept = _keep(valid[here] & ~beaten.any(axis=1), jnp.tril(overlaps(here, here), -1))
            slots = jnp.where(kept, found + jnp.cumsum(kept) - 1, max_outputs)
            return number + 1, places.at[slots].set(here, mode="drop"), found + kept.sum()

        def unfinished(state: tuple[Array, Array, Array]) -> Array:
            number, _, found = state
            return (number < used) & (found < max_outputs)

        start = (jnp.int32(0), jnp.zeros(max_outputs, jnp.int32), jnp.int32(0))
        _, places, found = jax.lax.while_loop(unfinished, decide, start)
        kept = jnp.arange(max_outputs) < found
        return jnp.where(kept, order.astype(jnp.int32)[places], 0), kept


def _keep(candidates: Bool[Array, " t"], overlaps: Bool[Array, "t t"]) -> Bool[Array, " t"]:
    """The candidates that no earlier kept one overlaps; row i of ``overlaps`` marks the boxes before i."""

    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = state
        return candidates & ~(overlaps & kept).any(axis=1), kept

    return jax.lax.while_loop(lambda state: (state[0] != state[1]).any(), settle, settle((candidates, candidates)))[0]
