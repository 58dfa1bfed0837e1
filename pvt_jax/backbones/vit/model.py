"""Vision Transformer (ViT, arXiv 2010.11929) in DeiT's sizes (arXiv 2012.12877): the columnar baseline of PVT.

One resolution and one width from the first block to the last. The PVT paper has baselines with patches of 4, 16 and
32 (arXiv 2102.12122, section 5.4).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError
from pvt_jax.nn.blocks import Block, run_blocks, stochastic_depth_of_stages
from pvt_jax.nn.classifier import ClassificationHead
from pvt_jax.nn.layers import PatchProjection, normal_002, resize_position_embedding
from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.nn.settings import check, check_counts, table_side
from pvt_jax.ops.padding import Maps, shrunk
from pvt_jax.ops.resize import resize_padded

# Table 1 of DeiT; "small" has no counterpart in ViT's own table.
_SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
VARIANTS: dict[str, dict[str, Any]] = {
    f"vit_{size}_patch{patch}": {"depth": 12, "dim": dim, "num_heads": num_heads, "patch_size": patch}
    for size, (dim, num_heads) in _SIZES.items()
    for patch in (4, 16, 32)
}


class VisionTransformer(Backbone):
    """ViT: images [b, h, w, 3] (float, normalised) → logits, or a pyramid of feature maps with ``features``.

    ``features`` resizes the last block's map, after the final norm and without class token, to strides 4, 8, 16 and 32
    ("Toward Transformer-Based Object Detection", arXiv 2012.09958), all with ``dim`` channels, so that every head can
    use this backbone. ``num_classes=0`` keeps the class token, which the patches attend to, and the final norm, which
    comes before the maps.

    Attributes:
      depth, dim, num_heads, mlp_ratio: blocks, their channels, attention heads, hidden / model channels.
      patch_size: side of a patch; pixels beyond the last whole patch are dropped.
    """

    depth: int
    dim: int
    num_heads: int
    patch_size: int
    mlp_ratio: int = 4

    # ``resize_grid`` resamples the position table.
    parts = (
        (r"patch_embed|pos_embed|cls_token|resize_grid", "patch_embed"),
        (r"block\d+|Block", "blocks"),
        *Backbone.parts,
    )

    @nn.compact
    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        batch, height, width, _ = images.shape
        check_counts(self, "depth", "dim", "num_heads", "patch_size", "mlp_ratio", section="model")
        heads = f"a multiple of model.num_heads, {self.num_heads}"
        check(self, heads, lambda dim: dim % self.num_heads == 0, "dim", section="model")
        least = self.patch_size if classify else max(self.patch_size, 32)
        if min(height, width) < least:
            raise UserError(f"an image of {height}×{width} is too small: both sides must be at least {least}")
        embedded = PatchProjection(self.dim, self.patch_size, self.dtype, name="patch_embed")(images.astype(self.dtype))
        grid = (embedded.shape[1], embedded.shape[2])
        class_token = self.param("cls_token", normal_002, (1, 1, self.dim)) if self._has_token else None
        side = table_side(self.image_size, self.patch_size)
        table_grid = (side[0] // self.patch_size, side[1] // self.patch_size)
        table = self.param("pos_embed", normal_002, (1, 1 + table_grid[0] * table_grid[1], self.dim))
        true_grid = shrunk(sizes, self.patch_size)
        positions = resize_position_embedding(table[:, 1:], table_grid, grid, "bicubic", true_grid)
        x = embedded.reshape(batch, grid[0] * grid[1], self.dim) + positions.astype(self.dtype)
        if class_token is not None:
            token = jnp.broadcast_to(class_token + table[:, :1], (batch, 1, self.dim)).astype(self.dtype)
            x = jnp.concatenate([token, x], axis=1)

        block = partial(Block, self.dim, self.num_heads, self.mlp_ratio, 1, self.dtype)
        scales = stochastic_depth_of_stages(self, self.drop_path_rate if train else 0.0, [self.depth], batch)[0]
        x = run_blocks(self, block, self.depth, x, grid, scales, true_grid, remat=self.remat, scan=self.scan)
        x = LayerNorm(1e-6, self.dtype, name="norm")(x)

        maps = x[:, int(self._has_token) :].reshape(batch, *grid, self.dim)
        if self._ends_with_maps(classify):
            return _resampled(maps, height, width, true_grid, sizes)
        read = ClassificationHead(self.num_classes, self.spp_levels, self.pool, name="head")
        logits = read(maps, x[:, 0] if self._has_token else None)
        return logits if classify else _resampled(maps, height, width, true_grid, sizes)


def _resampled(
    maps: Float[Array, "b h w c"],
    height: int,
    width: int,
    true_grid: Int[Array, "b 2"] | None,
    sizes: Int[Array, "b 2"] | None,
) -> Maps:
    """``maps`` resized to strides 4, 8, 16 and 32, antialiased, so that no patch is skipped."""

    def resized(target: tuple[int, int], stride: int) -> Float[Array, "b _h _w c"]:
        if true_grid is None or sizes is None:
            shape = (maps.shape[0], *target, maps.shape[3])
            return jax.image.resize(maps, shape, "linear", antialias=True)
        return resize_padded(maps, true_grid, sizes // stride, target, "triangle")

    return {f"c{level}": resized((height >> level, width >> level), 2**level) for level in (2, 3, 4, 5)}
