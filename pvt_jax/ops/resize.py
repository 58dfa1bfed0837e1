"""Resampling of maps by two fixed matrices, one a side, built from the shapes: matmuls on every device."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_grid(
    grid: Float[Array, "*b h w c"], target: tuple[int, int], method: Literal["bilinear", "bicubic"] = "bilinear"
) -> Float[Array, "*b h2 w2 c"]:
    """Maps resampled to ``target`` (rows, columns), in their own dtype; computed in float32.

    As PyTorch's ``interpolate(align_corners=False, antialias=False)``: half-pixel centres, borders repeated, bicubic
    with a = -0.75. ``jax.image.resize`` smooths when it shrinks, and its bicubic has a = -0.5.
    """
    height, width = grid.shape[-3:-1]
    if (height, width) == target:
        return grid
    with jax.named_scope("resize_grid"):
        # A TPU would multiply float32 in bfloat16 by default.
        rows, columns = (
            jnp.asarray(interpolation_matrix(old, new, method), jnp.float32)
            for old, new in zip((height, width), target, strict=True)
        )
        precision = jax.lax.Precision.HIGHEST
        resized = jnp.einsum("yh,...hwc,xw->...yxc", rows, grid.astype(jnp.float32), columns, precision=precision)
        return resized.astype(grid.dtype)


def interpolation_matrix(source: int, target: int, method: Literal["bilinear", "bicubic"]) -> Float[np.ndarray, "t s"]:
    """Weights of ``source`` positions in each of ``target`` positions along one side; each row sums to 1. float64."""
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if method == "bilinear":
            centre = max(centre, 0.0)
        left = int(np.floor(centre))
        taps = _LINEAR_TAPS if method == "bilinear" else _CUBIC_TAPS
        for tap in taps:
            weight = _linear(centre - left - tap) if method == "bilinear" else _cubic(centre - left - tap)
            matrix[i, min(max(left + tap, 0), source - 1)] += weight
    return matrix


_LINEAR_TAPS, _CUBIC_TAPS = (0, 1), (-1, 0, 1, 2)


def _linear(distance: float) -> float:
    return 1.0 - abs(distance)


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys' convolution kernel, IEEE Trans. ASSP 29(6), 1981, with PyTorch's a."""
    x = abs(distance)
    if x <= 1.0:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
