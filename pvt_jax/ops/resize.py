"""Resizing of feature maps by two matrices, one per axis: matmuls on every device.

``resize_grid`` builds them from static shapes, ``resize_padded`` from traced sizes, one per sample.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def resize_grid(
    grid: Float[Array, "*b h w c"], target: tuple[int, int], method: Literal["bilinear", "bicubic"] = "bilinear"
) -> Float[Array, "*b h2 w2 c"]:
    """Maps resized to ``target`` (rows, columns), in their own dtype; computed in float32.

    As PyTorch's ``interpolate(align_corners=False, antialias=False)``: half-pixel centres, repeated borders, bicubic
    with a = -0.75. ``jax.image.resize`` instead antialiases when it shrinks, and its bicubic has a = -0.5.
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
    """Weights [target, source] of interpolation along one axis, float64; each row sums to 1."""
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if method == "bilinear":
            centre = max(centre, 0.0)
        left = int(np.floor(centre))
        for tap, weight in _TAPS[method].items():
            matrix[i, min(max(left + tap, 0), source - 1)] += weight(abs(centre - left - tap))
    return matrix


def resize_padded(
    maps: Float[Array, "b h w c"],
    source_sizes: Int[Array, "b 2"],
    target_sizes: Int[Array, "b 2"],
    target: tuple[int, int],
    method: Literal["bilinear", "bicubic", "triangle"] = "bilinear",
) -> Float[Array, "b h2 w2 c"]:
    """Each map's valid region resized to its own size, in maps of ``target`` (rows, columns).

    The upper left ``target_sizes`` (rows, columns) of each result equal ``resize_grid`` of the upper left
    ``source_sizes`` of the map; the rest is 0. Sizes may be traced: one program serves them all. Source padding is
    discarded, but must be finite. See ``padded_interpolation_matrix`` for the methods.
    """
    with jax.named_scope("resize_padded"):
        rows, columns = (
            padded_interpolation_matrix(source_sizes[:, side], target_sizes[:, side], maps.shape[1 + side], new, method)
            for side, new in enumerate(target)
        )
        precision = jax.lax.Precision.HIGHEST
        resized = jnp.einsum("byh,bhwc,bxw->byxc", rows, maps.astype(jnp.float32), columns, precision=precision)
        return resized.astype(maps.dtype)


def padded_interpolation_matrix(
    source_size: Int[Array, " b"],
    target_size: Int[Array, " b"],
    source: int,
    target: int,
    method: Literal["bilinear", "bicubic", "triangle"] = "bilinear",
) -> Float[Array, "b {target} {source}"]:
    """Weights [b, target, source] of interpolation along one axis, for valid regions of each sample's own sizes.

    Rows within the target size sum to 1 over positions within the source size; other rows are 0. "bilinear" and
    "bicubic" are those of ``interpolation_matrix``; "triangle" antialiases when it shrinks, as ``jax.image.resize``
    with "linear" does. float32, each weight within 1e-6: centres are computed in integers, exact for sides up to
    32767. In float32 the centre of pixel 2000 would be off by 1e-4.
    """
    size = jnp.maximum(source_size, 1)[:, None, None]
    new_size = jnp.maximum(target_size, 1)[:, None, None]
    # Padding rows repeat the last row, so that every number stays finite and small.
    t, s = jnp.minimum(jnp.arange(target)[:, None], new_size - 1), jnp.arange(source)
    # 2 new_size times the centre (t + ½) size / new_size - ½.
    centre = (2 * t + 1) * size - new_size
    if method == "triangle":
        distance = jnp.abs(centre - 2 * s * new_size) / (2 * jnp.maximum(size, new_size))
        matrix = jnp.where(s < size, jnp.maximum(1.0 - distance, 0.0), 0.0)
        matrix = matrix / matrix.sum(-1, keepdims=True)
    else:
        centre = jnp.maximum(centre, 0) if method == "bilinear" else centre
        left = centre // (2 * new_size)
        fraction = (centre - 2 * new_size * left) / (2 * new_size)
        matrix = jnp.zeros((1, 1, source), jnp.float32)
        for tap, weight in _TAPS[method].items():
            position = jnp.clip(left + tap, 0, size - 1)
            matrix += jnp.where(position == s, weight(jnp.abs(fraction - tap)), 0.0)
    return jnp.where(jnp.arange(target)[:, None] < target_size[:, None, None], matrix, 0.0)


def _linear(distance: Any) -> Any:
    return 1.0 - distance


# Keys' cubic convolution kernel, IEEE Trans. ASSP 29(6), 1981, with PyTorch's a: distances up to 1, and from 1 to 2.
_A = -0.75


def _cubic_near(x: Any) -> Any:
    return (_A + 2) * x**3 - (_A + 3) * x**2 + 1


def _cubic_far(x: Any) -> Any:
    return _A * (x - 1) * (x - 2) ** 2


# Neighbours, relative to the position left of a centre, and their weight as a function of the distance to it.
_TAPS = {
    "bilinear": {0: _linear, 1: _linear},
    "bicubic": {-1: _cubic_far, 0: _cubic_near, 1: _cubic_near, 2: _cubic_far},
}
