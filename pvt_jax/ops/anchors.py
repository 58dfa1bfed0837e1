"""Anchors in the order of mmdetection's ``AnchorGenerator``: by location, then by ratio, then by scale."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def octave_scales(base: float | int = 4, per_octave: int = 3) -> tuple[float, ...]:
    """RetinaNet's scales in units of the stride (Lin et al., ICCV 2017, section 4): base · 2^(i / per_octave)."""
    return tuple(base * 2 ** (i / per_octave) for i in range(per_octave))


def base_anchors(stride: int, scales: Sequence[float | int], ratios: Sequence[float | int]) -> Float[np.ndarray, "a 4"]:
    """The anchors of one location: (x1, y1, x2, y2) around (0, 0) in pixels, by ratio, then by scale; float32.

    Each has area (stride · scale)²; a ratio is height / width.
    """
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]
    side = stride * np.asarray(scales, np.float64)
    half = np.stack([(side / root).ravel() / 2, (side * root).ravel() / 2], axis=-1)
    return np.concatenate([-half, half], axis=-1).astype(np.float32)


def grid_anchors(
    base: Float[np.ndarray, "a 4"], grid: tuple[int, int], stride: int
) -> Float[Array, "{grid[0]}*{grid[1]}*a 4"]:
    """``base`` shifted to each location of a map of ``grid`` (rows, columns), in row-major order.

    Locations are multiples of the stride: the first is the image's corner, not the centre of the first cell.
    """
    rows, columns = (jnp.arange(count, dtype=jnp.float32) * stride for count in grid)
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    return (jnp.stack([x, y, x, y], axis=-1)[:, :, None] + base).reshape(-1, 4)


def inside_region(
    grid: tuple[int, int], num_anchors: int, stride: int, region: Int[Array, "2"]
) -> Bool[Array, "{grid[0]}*{grid[1]}*{num_anchors}"]:
    """Which anchors of ``grid_anchors`` are centred in the valid ``region`` (height, width) of pixels."""
    rows, columns = (jnp.arange(count) * stride < region[axis] for axis, count in enumerate(grid))
    return jnp.repeat((rows[:, None] & columns).ravel(), num_anchors)
