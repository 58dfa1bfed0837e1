"""PVT v2, "Improved Baselines with Pyramid Vision Transformer" (arXiv 2106.13797), and SegFormer's MiT encoders.

Three changes to PVT v1: patches overlap (section 3.3), a depthwise convolution in the feed-forward replaces v1's
position tables (3.4), and, in the variant ``_li``, attention pools its keys and values to 7×7 (3.2).
Mix Transformers (arXiv 2105.15203, section 3.1) are the same network with an MLP ratio of 4 in every stage.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.nn.blocks import Block, run_blocks, stochastic_depth_of_stages
from pvt_jax.nn.classifier import ClassificationHead
from pvt_jax.nn.layers import OverlappingPatchProjection, PatchProjection, normal_002, resize_position_embedding
from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.nn.settings import check_reductions, check_stages, table_side
from pvt_jax.ops.padding import shrunk

# Table 1 of the PVT v2 paper and table 6 of SegFormer's: what differs between the variants.
_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
_EVEN = {"mlp_ratios": (4, 4, 4, 4)}
VARIANTS: dict[str, dict[str, Any]] = {
    "pvt_v2_b0": {"depths": (2, 2, 2, 2), "dims": _NARROW},
    "pvt_v2_b1": {"depths": (2, 2, 2, 2), "dims": _WIDE},
    "pvt_v2_b2": {"depths": (3, 4, 6, 3), "dims": _WIDE},
    "pvt_v2_b2_li": {"depths": (3, 4, 6, 3), "dims": _WIDE, "linear_attention": True},
    "pvt_v2_b3": {"depths": (3, 4, 18, 3), "dims": _WIDE},
    "pvt_v2_b4": {"depths": (3, 8, 27, 3), "dims": _WIDE},
    "pvt_v2_b5": {"depths": (3, 6, 40, 3), "dims": _WIDE, **_EVEN},
    "mit_b0": {"depths": (2, 2, 2, 2), "dims": _NARROW, **_EVEN},
    "mit_b1": {"depths": (2, 2, 2, 2), "dims": _WIDE, **_EVEN},
    "mit_b2": {"depths": (3, 4, 6, 3), "dims": _WIDE, **_EVEN},
    "mit_b3": {"depths": (3, 4, 18, 3), "dims": _WIDE, **_EVEN},
    "mit_b4": {"depths": (3, 8, 27, 3), "dims": _WIDE, **_EVEN},
    "mit_b5": {"depths": (3, 6, 40, 3), "dims": _WIDE, **_EVEN},
}

# The side that linear attention pools to.
_POOLED_SIDE = 7


class Stage(nn.Module):
    """Patch embedding, ``depth`` blocks at one resolution, and a norm.

    ``table_grid`` are the rows and columns of a position table after the embedding; None: there is none.
    """

    depth: int
    dim: int
    num_heads: int
    mlp_ratio: int
    sr_ratio: int
    linear_attention: bool
    overlapping: bool
    depthwise: bool
    patch: int
    table_grid: tuple[int, int] | None
    dtype: DTypeLike
    remat: bool
    scan: bool

    @nn.compact
    def __call__(
        self,
        maps: Float[Array, "b h w c"],
        branch_scales: Float[Array, "depth 2 b"] | None,
        sizes: Int[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """``sizes`` are the input's: see ``padding.py``."""
        if self.overlapping:
            # 7 for stride 4 and 3 for stride 2 (section 3.3); 3 is also the least that overlaps.
            side = max(2 * self.patch - 1, 3)
            embed = OverlappingPatchProjection(self.dim, side, self.patch, self.dtype, name="patch_embed")
            embedded = embed(maps, sizes)
        else:
            embedded = PatchProjection(self.dim, self.patch, self.dtype, fan_out_init=True, name="patch_embed")(maps)
        sizes = shrunk(sizes, self.patch)
        batch, rows, columns, _ = embedded.shape
        x = LayerNorm(1e-5, self.dtype, name="patch_norm")(embedded.reshape(batch, rows * columns, self.dim))
        grid = (rows, columns)
        if self.table_grid is not None:
            # Not v1's name: trees of the two families are told apart by their names.
            slots = self.table_grid[0] * self.table_grid[1]
            table = self.param("position_table", normal_002, (1, slots, self.dim))
            x = x + resize_position_embedding(table, self.table_grid, grid, sizes=sizes).astype(x.dtype)
        block = partial(Block, self.dim, self.num_heads, self.mlp_ratio, self.sr_ratio, self.dtype, fan_out_init=True)
        pooled_side = _POOLED_SIDE if self.linear_attention else 0
        block = partial(block, depthwise=self.depthwise, pooled_side=pooled_side)
        x = run_blocks(self, block, self.depth, x, grid, branch_scales, sizes, remat=self.remat, scan=self.scan)
        return LayerNorm(1e-6, self.dtype, name="norm")(x).reshape(batch, rows, columns, self.dim)


class PyramidVisionTransformerV2(Backbone):
    """PVT v2 and MiT: images [b, h, w, 3] (float, normalised) → logits, or a pyramid of maps with ``features``.

    The classifier reads the mean of the last map. All maps come after their stage's norm, in classification and dense
    tasks alike. Sides that a stride does not divide round up, or down if patches do not overlap.

    Each of v2's changes to v1 can be undone alone, which is not in the paper's tables. Without position tables and
    depthwise convolution, zero padding of overlapping patches is all that tells positions apart.

    Attributes:
      depths, dims, num_heads: blocks, channels and attention heads per stage.
      mlp_ratios, sr_ratios: hidden / model channels of the feed-forward; spatial reduction of keys and values.
      linear_attention: pool keys and values to 7×7 in every stage, instead of reducing them by ``sr_ratios``.
      patch_sizes: downsampling of each stage.
      overlapping: patches overlap, in convolutions with kernels of 2 · stride - 1; False: as in v1.
      depthwise: the feed-forward has a depthwise convolution; False: as in v1.
      position_tables: add a learnt table after each patch embedding, for images of ``image_size``, as v1 does.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    num_heads: Sequence[int] = (1, 2, 5, 8)
    mlp_ratios: Sequence[int] = (8, 8, 4, 4)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    linear_attention: bool = False
    patch_sizes: Sequence[int] = (4, 2, 2, 2)
    overlapping: bool = True
    depthwise: bool = True
    position_tables: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(accumulate(self.patch_sizes, mul))

    @nn.compact
    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        check_stages(self, "depths", "dims", "num_heads", "mlp_ratios", "sr_ratios", "patch_sizes")
        _, height, width, _ = images.shape
        ratios = (1, 1, 1, 1) if self.linear_attention else self.sr_ratios
        check_reductions(height, width, self.patch_sizes, ratios, round_up=self.overlapping)
        scales = stochastic_depth_of_stages(self, self.drop_path_rate if train else 0.0, self.depths, images.shape[0])

        pyramid, x, grids = {}, images.astype(self.dtype), self._table_grids()
        for i, (patch, grid) in enumerate(zip(self.patch_sizes, grids, strict=True)):
            x = pyramid[f"c{i + 2}"] = Stage(
                depth=self.depths[i],
                dim=self.dims[i],
                num_heads=self.num_heads[i],
                mlp_ratio=self.mlp_ratios[i],
                sr_ratio=self.sr_ratios[i],
                linear_attention=self.linear_attention,
                overlapping=self.overlapping,
                depthwise=self.depthwise,
                patch=patch,
                table_grid=grid,
                dtype=self.dtype,
                remat=self.remat,
                scan=self.scan,
                name=f"stage{i + 1}",
            )(x, scales[i], sizes)
            sizes = shrunk(sizes, patch)
        if self._ends_with_maps(classify):
            return pyramid
        logits = ClassificationHead(self.num_classes, self.spp_levels, self.pool, name="head")(x)
        return logits if classify else pyramid

    def _table_grids(self) -> list[tuple[int, int] | None]:
        if not self.position_tables:
            return [None] * 4
        rows, columns = table_side(self.image_size, math.prod(self.patch_sizes))
        grids: list[tuple[int, int] | None] = []
        for patch in self.patch_sizes:
            above = patch - 1 if self.overlapping else 0
            rows, columns = (rows + above) // patch, (columns + above) // patch
            grids.append((rows, columns))
        return grids
