"""Pyramid Vision Transformer (PVT v1), "A Versatile Backbone for Dense Prediction without Convolutions".

arXiv 2102.12122, section 3 and table 1. Four stages, each a patch embedding that downsamples (to strides 4, 8, 16 and
32) and a stack of transformer blocks with spatial-reduction attention.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError
from pvt_jax.nn.blocks import Block, run_blocks, stochastic_depth_of_stages
from pvt_jax.nn.classifier import ClassificationHead
from pvt_jax.nn.layers import PatchProjection, normal_002, resize_position_embedding
from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.nn.settings import check_reductions, check_stages, table_side
from pvt_jax.ops.padding import shrunk

# Table 1 of the paper: what differs between the variants. huge_v2 is defined by the reference code alone.
_HEADS_AND_DIMS = {"dims": (64, 128, 320, 512), "num_heads": (1, 2, 5, 8)}
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    "pvt_tiny": {"depths": (2, 2, 2, 2), **_HEADS_AND_DIMS},
    "pvt_small": {"depths": (3, 4, 6, 3), **_HEADS_AND_DIMS},
    "pvt_medium": {"depths": (3, 4, 18, 3), **_HEADS_AND_DIMS},
    "pvt_large": {"depths": (3, 8, 27, 3), **_HEADS_AND_DIMS},
    "pvt_huge_v2": {"depths": (3, 10, 60, 3), "dims": (128, 256, 512, 768), "num_heads": (2, 4, 8, 12)},
}


class Stage(nn.Module):
    """Patch embedding, position embedding and ``depth`` blocks at one resolution (figure 3).

    ``remat`` and ``scan``: see ``run_blocks``.
    """

    depth: int
    dim: int
    num_heads: int
    mlp_ratio: int
    sr_ratio: int
    patch: int
    table_grid: tuple[int, int]
    extra_tokens: int
    dtype: DTypeLike
    remat: bool
    scan: bool

    @nn.compact
    def __call__(
        self,
        maps: Float[Array, "b h w c"],
        class_token: Float[Array, "1 1 d"] | None,
        branch_scales: Float[Array, "depth 2 b"] | None,
        sizes: Int[Array, "b 2"] | None = None,
    ) -> tuple[Float[Array, "b n d"], tuple[int, int]]:
        """The stage's tokens, after the class token if given, and their grid (rows, columns).

        ``sizes`` are the input's: see ``padding.py``.
        """
        sizes = shrunk(sizes, self.patch)
        embedded = PatchProjection(self.dim, self.patch, self.dtype, name="patch_embed")(maps)
        batch, rows, columns, _ = embedded.shape
        x = embedded.reshape(batch, rows * columns, self.dim)
        x = LayerNorm(1e-5, self.dtype, name="patch_norm")(x)

        # The table keeps the class token's slot even in dense tasks, which have no such token.
        slots = self.table_grid[0] * self.table_grid[1] + self.extra_tokens
        table = self.param("pos_embed", normal_002, (1, slots, self.dim))
        grid = (rows, columns)
        positions = resize_position_embedding(table[:, self.extra_tokens :], self.table_grid, grid, sizes=sizes)
        if class_token is not None:
            x = jnp.concatenate([jnp.broadcast_to(class_token, (batch, 1, self.dim)).astype(x.dtype), x], axis=1)
            positions = jnp.concatenate([table[:, : self.extra_tokens], positions], axis=1)
        x = x + positions.astype(x.dtype)
        block = partial(Block, self.dim, self.num_heads, self.mlp_ratio, self.sr_ratio, self.dtype)
        x = run_blocks(self, block, self.depth, x, grid, branch_scales, sizes, remat=self.remat, scan=self.scan)
        return x, grid


class PyramidVisionTransformer(Backbone):
    """PVT v1: images [b, h, w, 3] (float, normalised) → logits, or a pyramid of feature maps with ``features``.

    The pyramid is that of the reference's dense backbone: without class token and final norm, which ``num_classes=0``
    does not make. The last position table keeps the token's slot.

    Attributes:
      depths, dims, num_heads: blocks, channels and attention heads per stage.
      mlp_ratios, sr_ratios: hidden / model channels of the feed-forward; spatial reduction of keys and values.
      patch_sizes: downsampling of each stage.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    num_heads: Sequence[int]
    mlp_ratios: Sequence[int] = (8, 8, 4, 4)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    patch_sizes: Sequence[int] = (4, 2, 2, 2)

    parts = (*Backbone.parts, (r"cls_token", "stage4"))

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(accumulate(self.patch_sizes, mul))

    @nn.compact
    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        batch, height, width, _ = images.shape
        check_stages(self, "depths", "dims", "num_heads", "mlp_ratios", "sr_ratios", "patch_sizes")
        if self.sr_ratios[3] != 1 and self._has_token:
            raise UserError(
                f"model.sr_ratios must end in 1, as the last stage holds the class token, but is {self.sr_ratios}"
            )
        check_reductions(height, width, self.patch_sizes, self.sr_ratios)
        scales = stochastic_depth_of_stages(self, self.drop_path_rate if train else 0.0, self.depths, batch)
        class_token = None
        if self.num_classes != 0 and self._has_token:
            class_token = self.param("cls_token", normal_002, (1, 1, self.dims[3]))

        side = table_side(self.image_size, math.prod(self.patch_sizes))
        pyramid, x, tokens, grid = {}, images.astype(self.dtype), None, (0, 0)
        for i in range(4):
            side = (side[0] // self.patch_sizes[i], side[1] // self.patch_sizes[i])
            last = i == 3
            stage = Stage(
                depth=self.depths[i],
                dim=self.dims[i],
                num_heads=self.num_heads[i],
                mlp_ratio=self.mlp_ratios[i],
                sr_ratio=self.sr_ratios[i],
                patch=self.patch_sizes[i],
                table_grid=side,
                extra_tokens=int(last),
                dtype=self.dtype,
                remat=self.remat,
                scan=self.scan,
                name=f"stage{i + 1}",
            )
            tokens, grid = stage(x, class_token if last and classify else None, scales[i], sizes)
            sizes = shrunk(sizes, self.patch_sizes[i])
            if not (last and classify):
                x = tokens.reshape(batch, *grid, self.dims[i])
                pyramid[f"c{i + 2}"] = x
        if self._ends_with_maps(classify):
            return pyramid
        tokens = LayerNorm(1e-6, self.dtype, name="norm")(tokens)
        maps = tokens[:, -grid[0] * grid[1] :].reshape(batch, *grid, self.dims[3])
        read = ClassificationHead(self.num_classes, self.spp_levels, self.pool, name="head")
        logits = read(maps, tokens[:, 0] if self._has_token else None)
        return logits if classify else pyramid
