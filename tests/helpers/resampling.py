"""``numpy_models.bilinear`` of large maps: its loop runs once for each pair of sides."""

import functools

import numpy as np

from tests.helpers import numpy_models


@functools.cache
def matrix(source: int, target: int) -> np.ndarray:
    """What each of ``source`` positions adds to each of ``target`` positions, [target, source] in float64."""
    return numpy_models.bilinear(np.eye(source)[:, None], (target, 1))[:, 0]


def bilinear(grid: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """[h, w, c] → [*target, c], float64."""
    rows, columns = (matrix(side, int(new)) for side, new in zip(grid.shape[:2], target, strict=True))
    return np.einsum("yh,hwc,xw->yxc", rows, grid.astype(np.float64), columns, optimize=True)
