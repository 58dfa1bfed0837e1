"""Pyramid Vision Transformer (PVT v1), "A Versatile Backbone for Dense Prediction without Convolutions".

arXiv 2102.12122, section 3 and table 1. Four stages, each a patch embedding that shrinks the map (strides 4, 8, 16
and 32 in all) and a stack of transformer blocks with spatial-reduction attention.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pvt_jax.errors import UserError
from pvt_jax.models.heads.classification import ClassificationHead
from pvt_jax.models.layers import (
    FeedForward,
    PatchProjection,
    SpatialReductionAttention,
    normal_002,
    resize_position_embedding,
    stochastic_depth_scales,
)

# Table 1 of the paper: what differs between the variants. huge_v2 is defined by the reference code alone.
_HEADS_AND_DIMS = {"dims": (64, 128, 320, 512), "num_heads": (1, 2, 5, 8)}
VARIANTS: dict[str, dict[str, tuple[int, ...]]] = {
    "pvt_tiny": {"depths": (2, 2, 2, 2), **_HEADS_AND_DIMS},
    "pvt_small": {"depths": (3, 4, 6, 3), **_HEADS_AND_DIMS},
    "pvt_medium": {"depths": (3, 4, 18, 3), **_HEADS_AND_DIMS},
    "pvt_large": {"depths": (3, 8, 27, 3), **_HEADS_AND_DIMS},
    "pvt_huge_v2": {"depths": (3, 10, 60, 3), "dims": (128, 256, 512, 768), "num_heads": (2, 4, 8, 12)},
}


class Block(nn.Module):
    """Pre-norm transformer block: x + SRA(Norm(x)), then x + FeedForward(Norm(x))."""

    dim: int
    num_heads: int
    mlp_ratio: int
    sr_ratio: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], grid: tuple[int, int], branch_scales: Float[Array, "2 b"] | None
    ) -> Float[Array, "b n c"]:
        """``branch_scales`` multiply the two residual branches of each sample (stochastic depth); None keeps both."""

        def residual(branch: Float[Array, "b n c"], index: int) -> Float[Array, "b n c"]:
            if branch_scales is None:
                return branch
            return branch * branch_scales[index, :, None, None].astype(branch.dtype)

        normed = nn.LayerNorm(1e-6, self.dtype, name="norm1")(x)
        attention = SpatialReductionAttention(self.dim, self.num_heads, self.sr_ratio, self.dtype, name="attn")
        x = x + residual(attention(normed, grid), 0)
        normed = nn.LayerNorm(1e-6, self.dtype, name="norm2")(x)
        feed_forward = FeedForward(self.dim, self.mlp_ratio * self.dim, self.dtype, name="mlp")
        return x + residual(feed_forward(normed), 1)


class Stage(nn.Module):
    """Patch embedding, position embedding and ``depth`` blocks at one resolution (paper, figure 3).

    ``remat`` recomputes each block in the backward pass, ``scan`` compiles one block for all; both leave the stored
    parameters (``block0``, ``block1``, …) and the results as they are.
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
    ) -> tuple[Float[Array, "b n d"], tuple[int, int]]:
        """Tokens of this stage, the class token (if one is given) first, and the rows and columns of their map."""
        embedded = PatchProjection(self.dim, self.patch, self.dtype, name="patch_embed")(maps)
        batch, rows, columns, _ = embedded.shape
        x = embedded.reshape(batch, rows * columns, self.dim)
        x = nn.LayerNorm(1e-5, self.dtype, name="patch_norm")(x)

        # The table keeps a slot for the class token even where a dense task uses no such token.
        slots = self.table_grid[0] * self.table_grid[1] + self.extra_tokens
        table = self.param("pos_embed", normal_002, (1, slots, self.dim))
        positions = resize_position_embedding(table[:, self.extra_tokens :], self.table_grid, (rows, columns))
        if class_token is not None:
            x = jnp.concatenate([jnp.broadcast_to(class_token, (batch, 1, self.dim)).astype(x.dtype), x], axis=1)
            positions = jnp.concatenate([table[:, : self.extra_tokens], positions], axis=1)
        x = x + positions.astype(x.dtype)
        return self._blocks(x, (rows, columns), branch_scales), (rows, columns)

    def _blocks(
        self, x: Float[Array, "b n d"], grid: tuple[int, int], branch_scales: Float[Array, "depth 2 b"] | None
    ) -> Float[Array, "b n d"]:
        settings: dict[str, Any] = {
            "dim": self.dim,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "sr_ratio": self.sr_ratio,
            "dtype": self.dtype,
        }
        if self.scan and not self.is_initializing():
            # Blocks are stored one by one; stacking them here costs one copy of the stage's parameters a step.
            stored = self.variables["params"]
            stacked = jax.tree.map(lambda *p: jnp.stack(p), *(stored[f"block{i}"] for i in range(self.depth)))
            block = Block(**settings, parent=None)

            def step(x: Array, inputs: tuple[Any, Array | None]) -> tuple[Any, None]:
                parameters, scales = inputs
                return block.apply({"params": parameters}, x, grid, scales), None

            return jax.lax.scan(jax.checkpoint(step) if self.remat else step, x, (stacked, branch_scales))[0]

        make = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.depth):
            x = make(**settings, name=f"block{i}")(x, grid, None if branch_scales is None else branch_scales[i])
        return x


class PyramidVisionTransformer(nn.Module):
    """PVT v1: images [b, h, w, 3] (float, normalised) → class scores, or a pyramid of maps with ``features``.

    Attributes:
      num_classes: classes of the classifier.
      depths, dims, num_heads: blocks, channels and attention heads of each stage.
      mlp_ratios, sr_ratios: hidden over model channels of the feed-forward; side reduction of keys and values.
      patch_sizes: how much each stage shrinks the map.
      image_size: side, or (height, width), of the images that the position tables are made for; other sizes resample.
      drop_path_rate: stochastic depth rate of the last block, used when ``train`` is True.
      dtype: type of the computation; parameters, softmax, normalisation and class scores stay float32.
      remat, scan: see ``Stage``.
    """

    num_classes: int
    depths: Sequence[int]
    dims: Sequence[int]
    num_heads: Sequence[int]
    mlp_ratios: Sequence[int] = (8, 8, 4, 4)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    patch_sizes: Sequence[int] = (4, 2, 2, 2)
    image_size: int | Sequence[int] = 224
    drop_path_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b k"]:
        """Class scores [b, num_classes], float32. ``train=True`` needs ``rngs={"dropout": key}``."""
        return self._forward(images, train=train, classify=True)

    def features(self, images: Float[Array, "b h w 3"], train: bool = False) -> dict[str, Float[Array, "b _h _w _c"]]:
        """The pyramid for dense tasks: maps ``c2``, ``c3``, ``c4``, ``c5`` at strides 4, 8, 16 and 32.

        As the reference's dense backbone: without the class token and without the final norm.
        """
        return self._forward(images, train=train, classify=False)

    @nn.compact
    def _forward(self, images: Array, train: bool, classify: bool) -> Any:
        batch, height, width, _ = images.shape
        self._check_settings()
        self._check_side(height, width)
        scales = [None] * 4
        if train and self.drop_path_rate > 0:
            drawn = stochastic_depth_scales(self.make_rng("dropout"), self.drop_path_rate, sum(self.depths), batch)
            scales = jnp.split(drawn, [sum(self.depths[:i]) for i in (1, 2, 3)])
        # Created even when unused, so that the parameters are the same however the model is first called.
        class_token = self.param("cls_token", normal_002, (1, 1, self.dims[3]))
        norm = nn.LayerNorm(1e-6, self.dtype, name="norm")
        head = ClassificationHead(self.num_classes, name="head")

        side = (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
        pyramid, x, tokens = {}, images.astype(self.dtype), None
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
            tokens, grid = stage(x, class_token if last and classify else None, scales[i])
            if not (last and classify):
                x = tokens.reshape(batch, *grid, self.dims[i])
                pyramid[f"c{i + 2}"] = x
        if not classify and not self.is_initializing():
            return pyramid
        logits = head(norm(tokens)[:, 0])
        return logits if classify else pyramid

    def _check_settings(self) -> None:
        for name in ("depths", "dims", "num_heads", "mlp_ratios", "sr_ratios", "patch_sizes"):
            value = getattr(self, name)
            sizes = list(value) if isinstance(value, Sequence) else []
            if len(sizes) != 4 or not all(isinstance(size, int) and size > 0 for size in sizes):
                raise UserError(f"model.{name} must be four whole numbers above 0, one a stage, but is {value}")
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            if dim % heads:
                raise UserError(f"model.dims must be multiples of model.num_heads, but {dim} is none of {heads}")

    def _check_side(self, height: int, width: int) -> None:
        smallest = 1
        for i, patch in enumerate(self.patch_sizes):
            stride = smallest * patch
            if min(height, width) // stride < self.sr_ratios[i]:
                raise UserError(
                    f"an image of {height}×{width} is too small: stage {i + 1} has stride {stride} and reduces its map "
                    f"by {self.sr_ratios[i]} for attention, so both sides must be at least {stride * self.sr_ratios[i]}"
                )
            smallest = stride
