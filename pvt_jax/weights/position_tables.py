"""Position tables of a checkpoint, resampled for a model whose images have another size."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pvt_jax.ops.resize import resize_grid
from pvt_jax.weights import names


def position_grids(wanted: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Rows and columns of each position table of a model for images of this (height, width)."""
    grids, (rows, columns) = {}, image_size
    root = "params/backbone/" if names.is_dense(wanted) else "params/"
    for stage in ("", "stage1/", "stage2/", "stage3/", "stage4/"):
        if f"{root}{stage}pos_embed" in wanted:
            patch = wanted[f"{root}{stage}patch_embed/kernel"].shape[0]
            rows, columns = rows // patch, columns // patch
            grids[f"{root}{stage}pos_embed"] = (rows, columns)
    return grids


def resize_tables(
    leaves: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    grids: Mapping[str, tuple[int, int]],
    source_grids: Mapping[str, tuple[int, int]],
    native: bool,
    distilled: bool,
) -> dict[str, tuple[np.ndarray, tuple[int, int]]]:
    """Position tables of the model's grids, each with its own grid; without those of which that cannot be told."""
    found = {}
    for path, target in grids.items():
        table, shape = leaves.get(path), wanted[path].shape
        if (
            table is None
            or table.ndim != 3
            or table.shape[2] != shape[2]
            or not jnp.issubdtype(table.dtype, jnp.floating)
        ):
            continue
        if distilled:
            table = np.delete(table, np.s_[1:2], axis=1)  # The slot of the distillation token.
        extra = shape[1] - target[0] * target[1]
        source = _grid_of(table.shape[1] - extra, target, source_grids.get(path), native)
        if source is None and extra and path.startswith("params/backbone/"):
            # mmdetection's files have no slot of a class token, which a backbone makes no use of.
            table = np.concatenate([np.zeros_like(table[:, :extra]), table], axis=1)
            source = _grid_of(table.shape[1] - extra, target, source_grids.get(path), native)
        if source is None:
            continue
        if source != target:
            # The slot of a class token stands first and is left as it is. Each as its reference does it.
            method = "bilinear" if "/stage" in path else "bicubic"
            grid = jnp.asarray(table[:, extra:].reshape(1, *source, shape[2]), jnp.float32)
            resampled = np.asarray(resize_grid(grid, target, method)).reshape(1, -1, shape[2])
            table = np.concatenate([table[:, :extra].astype(np.float32), resampled], axis=1)
        found[path] = (table, source)
    return found


def _grid_of(
    slots: int, target: tuple[int, int], known: tuple[int, int] | None, native: bool
) -> tuple[int, int] | None:
    """Rows and columns of a table with so many slots; ``known`` are those that its source states, if any."""
    side, fits = math.isqrt(max(slots, 0)), slots == target[0] * target[1]
    if known is not None and known[0] * known[1] == slots:
        return known
    if native and fits:
        return target
    if side and side * side == slots:
        return side, side
    return target if fits else None
