"""Targets of a mask head: ground truth masks cropped to the proposals."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

# Coverage of exactly one half must count despite rounding.
_HALF = 0.5 - 1e-5


def mask_targets(
    masks: UInt8[Array, "m s s"],
    boxes: Float[Array, "m 4"],
    proposals: Float[Array, "r 4"],
    matched: Int[Array, " r"],
    output: int = 28,
) -> Float[Array, "r {output} {output}"]:
    """1 where its object covers at least half of a bin of a proposal's ``output`` × ``output`` grid, else 0.

    He et al., Mask R-CNN, section 3. Coverage is the exact integral over the bin of a mask that is constant within
    each of its cells. Proposals and boxes without positive width and height give 0.

    Args:
      masks: coverage, 0 … 255, of the cells of a grid that spans the object's box.
      boxes: (x1, y1, x2, y2) of the objects.
      proposals: (x1, y1, x2, y2) in the same coordinates.
      matched: index of each proposal's object.
      output: bins per side.
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
    """The fraction of each bin of [start, stop] that lies in each cell of [low, high]."""
    bin_side = (stop - start) / bins
    # Cell edges in units of bins from the start: differences of nearby numbers are exact.
    per_bin = jnp.where(bin_side > 0, 1 / jnp.where(bin_side > 0, bin_side, 1.0), 0.0)
    edges = ((low - start)[:, None] + (high - low)[:, None] * jnp.arange(cells + 1) / cells) * per_bin[:, None]
    number = jnp.arange(bins, dtype=jnp.float32)[:, None]
    begin, end = edges[:, None, :-1], edges[:, None, 1:]
    shares = jnp.minimum(end, number + 1) - jnp.maximum(begin, number)
    return jnp.where((bin_side > 0)[:, None, None], jnp.maximum(shares, 0.0), 0.0)
