"""Targets of a mask head: the objects' masks as each proposal sees them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

# A share of exactly one half has to count, whatever its parts were rounded to.
_HALF = 0.5 - 1e-5


def mask_targets(
    masks: UInt8[Array, "m s s"],
    boxes: Float[Array, "m 4"],
    proposals: Float[Array, "r 4"],
    matched: Int[Array, " r"],
    output: int = 28,
) -> Float[Array, "r {output} {output}"]:
    """1 for those of ``output`` × ``output`` bins of each proposal of which its object covers at least half, else 0.

    He et al., Mask R-CNN, section 3. The share is the exact integral over the bin of a mask that is constant within
    each of its cells. Proposals and boxes without a positive width and height give 0.

    Args:
      masks: coverage, 0 … 255, of the cells of a grid that spans the object's box.
      boxes: (x1, y1, x2, y2) of the objects.
      proposals: (x1, y1, x2, y2) in the same coordinates.
      matched: the object of each proposal, 0 … m - 1.
      output: bins a side.
    """
    with jax.named_scope("mask_targets"):
        of_objects = boxes[matched]
        columns, rows = (
            _shares(of_objects[:, i], of_objects[:, i + 2], proposals[:, i], proposals[:, i + 2], len(masks[0]), output)
            for i in (0, 1)
        )
        covered = jnp.einsum(
            "rpy,ryx,rqx->rpq",
            rows,
            masks[matched].astype(jnp.float32) / 255,
            columns,
            precision=jax.lax.Precision.HIGHEST,
        )
        return (covered >= _HALF).astype(jnp.float32)


def _shares(low: Array, high: Array, start: Array, stop: Array, cells: int, bins: int) -> Float[Array, "r bins cells"]:
    """The share of each bin of [start, stop] in each cell of [low, high]."""
    bin_side = (stop - start) / bins
    # Edges of cells counted in bins from the start: differences of near numbers lose nothing.
    per_bin = jnp.where(bin_side > 0, 1 / jnp.where(bin_side > 0, bin_side, 1.0), 0.0)
    edges = ((low - start)[:, None] + (high - low)[:, None] * jnp.arange(cells + 1) / cells) * per_bin[:, None]
    number = jnp.arange(bins, dtype=jnp.float32)[:, None]
    begin, end = edges[:, None, :-1], edges[:, None, 1:]
    shares = jnp.minimum(end, number + 1) - jnp.maximum(begin, number)
    return jnp.where((bin_side > 0)[:, None, None], jnp.maximum(shares, 0.0), 0.0)
