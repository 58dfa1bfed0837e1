"""Maps and variables for tests of necks, heads and dense models."""

import zlib
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from pvt_jax.backbones.base import Backbone
from pvt_jax.nn.layers import PatchProjection
from pvt_jax.nn.normalization import BatchNorm

DIMS = (8, 16, 24, 32)
# A whole model of each head, small enough to compile soon.
PYRAMID: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": DIMS, "num_heads": (1, 2, 3, 4)}


def grids(height: int, width: int, rounding: str = "down") -> dict[str, tuple[int, int]]:
    """Rows and columns of c2 … c5 of images of this size, with patches that drop what is left, or that overlap."""
    found, side = {}, (height, width)
    for level in (1, 2, 3, 4, 5):
        side = tuple(one // 2 if rounding == "down" else -(-one // 2) for one in side)
        found[f"c{level}"] = side
    return {name: found[name] for name in ("c2", "c3", "c4", "c5")}


def random_maps(height: int, width: int, rounding: str = "down", batch: int = 2, dims: Any = DIMS) -> dict[str, Any]:
    """Maps as a backbone gives them: ``dims`` channels at strides 4, 8, 16 and 32."""
    rng = np.random.default_rng(0)
    shapes = [(batch, *grid, dim) for grid, dim in zip(grids(height, width, rounding).values(), dims, strict=True)]
    return {f"c{i + 2}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def random_variables(module: Any, *inputs: Any) -> Any:
    """Variables of ``module`` drawn by their paths, so scaled that numbers stay near 1; float32."""

    def drawn(path: tuple[Any, ...], leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(leaf.shape).astype(np.float32)
        if name.endswith("['count']"):
            return np.int32(3)
        if name.endswith("['var']"):
            return np.exp(0.5 * x)
        if leaf.ndim == 1:
            return np.float32(name.endswith("['scale']")) + np.float32(0.1) * x
        return x / np.sqrt(np.prod(leaf.shape[:-1])).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(module.init, jax.random.key(0), *inputs))


class Patches(Backbone):
    """One linear map of patches for each level, with a norm if asked for: soon compiled."""

    norm: bool = False

    @nn.compact
    def _forward(self, images: Any, train: bool, classify: bool, sizes: Any = None) -> Any:
        maps = {}
        for level, dim in zip((2, 3, 4, 5), DIMS, strict=True):
            x = PatchProjection(dim, 2**level, name=f"patches{level}")(images)
            maps[f"c{level}"] = BatchNorm(name=f"norm{level}")(x, not train) if self.norm else x
        return maps
