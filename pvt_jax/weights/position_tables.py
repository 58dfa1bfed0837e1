"""Position tables of a checkpoint, resampled for a model whose images have another size."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pvt_jax.backbones import FAMILIES
from pvt_jax.ops.resize import resize_grid
from pvt_jax.weight_names import PositionTable
from pvt_jax.weights import names

Grid = tuple[int, int]


def position_grids(
    wanted: Mapping[str, Any], image_size: Grid, source_image_size: Grid | None = None
) -> dict[str, tuple[PositionTable, Grid, Grid | None]]:
    """The position tables of a model by path, each with its grids: rows and columns.

    The first grid is that of images of ``image_size`` (height, width), which the model's tables are for, the second
    that of images of another size.
    """
    grids, grid, other, kind = {}, image_size, source_image_size, names.kind_of(wanted)
    root = "params/backbone/" if kind.dense else "params/"
    for table in FAMILIES[kind.family].weights.tables if kind.family else ():
        if root + table.path in wanted:
            steps = table.steps(wanted[root + table.patch].shape[0])
            slots = wanted[root + table.path].shape[1] - table.tokens
            step = next((step for step in steps if step(grid[0]) * step(grid[1]) == slots), steps[0])
            grid, other = (step(grid[0]), step(grid[1])), other and (step(other[0]), step(other[1]))
            grids[root + table.path] = (table, grid, other)
    return grids


def resize_tables(
    leaves: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    image_size: tuple[int, int],
    source_image_size: tuple[int, int] | None,
    native: bool,
    distilled: bool,
) -> dict[str, tuple[np.ndarray, Grid, Grid]]:
    """Tables for the model's grids by path, each with its source's grid and the model's; none whose grid is unknown."""
    found = {}
    for path, (known, target, of_source) in position_grids(wanted, image_size, source_image_size).items():
        table, shape = leaves.get(path), wanted[path].shape
        if table is None or table.ndim != 3 or table.shape[2] != shape[2]:
            continue
        if not jnp.issubdtype(table.dtype, jnp.floating):
            continue
        if distilled:
            table = np.delete(table, np.s_[known.tokens : known.tokens + 1], axis=1)  # The distillation token's slot.
        tokens = known.tokens
        source = _grid_of(table.shape[1] - tokens, target, of_source, native)
        if source is None and tokens and names.is_dense([path]):
            # mmdetection's files have no slot of a class token, which a backbone does not use.
            table = np.concatenate([np.zeros_like(table[:, :tokens]), table], axis=1)
            source = _grid_of(table.shape[1] - tokens, target, of_source, native)
        if source is None:
            continue
        if source != target:
            grid = jnp.asarray(table[:, tokens:].reshape(1, *source, shape[2]), jnp.float32)
            resampled = np.asarray(resize_grid(grid, target, known.method)).reshape(1, -1, shape[2])
            table = np.concatenate([table[:, :tokens].astype(np.float32), resampled], axis=1)
        found[path] = (table, source, target)
    return found


def _grid_of(slots: int, target: Grid, stated: Grid | None, native: bool) -> Grid | None:
    """Rows and columns of a table with so many slots; ``stated`` are those that its source states, if any."""
    side, fits = math.isqrt(max(slots, 0)), slots == target[0] * target[1]
    if stated is not None and stated[0] * stated[1] == slots:
        return stated
    if native and fits:
        return target
    if side and side * side == slots:
        return side, side
    return target if fits else None
