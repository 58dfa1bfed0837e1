"""ResNet, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385): the baseline of the PVT papers.

Section 3.3 and table 1. As in torchvision, a bottleneck has its stride in the 3×3 convolution; the paper has it in the
first 1×1. Every convolution is zero-padded by half its kernel, so maps have sides ⌈side / stride⌉.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError
from pvt_jax.nn.blocks import stochastic_depth_of_stages
from pvt_jax.nn.classifier import ClassificationHead
from pvt_jax.nn.layers import normal_fan_out
from pvt_jax.nn.normalization import BatchNorm
from pvt_jax.nn.settings import check, check_stages
from pvt_jax.ops.convolution import convolve
from pvt_jax.ops.linear import matmul
from pvt_jax.ops.padding import shrunk, zero_outside

# Table 1 of the paper. All have a stem of 64 channels and stages of 64, 128, 256 and 512.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": (2, 2, 2, 2), "block": "basic"},
    "resnet34": {"depths": (3, 4, 6, 3), "block": "basic"},
    "resnet50": {"depths": (3, 4, 6, 3), "block": "bottleneck"},
    "resnet101": {"depths": (3, 4, 23, 3), "block": "bottleneck"},
}

# Output channels of a block / channels of its 3×3 convolutions.
_EXPANSIONS = {"basic": 1, "bottleneck": 4}


class Convolution(nn.Module):
    """Convolution without bias, padded by half its kernel: [b, h, w, c] → [b, ⌈h / stride⌉, ⌈w / stride⌉, dim].

    A 1×1 kernel runs as a matmul, which is faster on CPU. ``sizes`` are the input's: see ``padding.py``.
    """

    dim: int
    side: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h2 w2 dim"]:
        side, dim = self.side, self.dim
        kernel = self.param("kernel", normal_fan_out(side * side * dim), (side, side, x.shape[-1], dim))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if side == 1:
            return matmul(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        return convolve(zero_outside(x, sizes), kernel, self.stride)


class Stem(nn.Module):
    """7×7 convolution and 3×3 max pooling, both of stride 2; with a ``stride`` of 1 a 3×3 convolution (section 4.2)."""

    dim: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool, sizes: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h2 w2 dim"]:
        side, stride = (3, 1) if self.stride == 1 else (7, 2)
        x = Convolution(self.dim, side, stride, self.dtype, name="conv")(x, sizes)
        x = nn.relu(BatchNorm(self.dtype, name="norm")(x, not train))
        if self.stride == 1:
            return x
        # Zeros serve as padding of the maximum: after a ReLU they never exceed a true value.
        x = zero_outside(x, shrunk(sizes, 2))
        pad = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)


class Block(nn.Module):
    """relu(x + F(x)), F of two 3×3 convolutions ("basic") or of 1×1, 3×3 and 1×1 ("bottleneck"; paper, figure 5).

    Where F changes the shape, the shortcut is a 1×1 convolution and a norm (option B of the paper).
    """

    dim: int
    block: str
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        branch_scale: Float[Array, "b"] | None,
        sizes: Int[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """``train`` uses batch statistics; ``branch_scale`` multiplies each sample's F(x) (stochastic depth).

        ``sizes`` are the input's: see ``padding.py``.
        """
        out_dim = self.dim * _EXPANSIONS[self.block]
        sides = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[self.block]
        dims = [self.dim] * (len(sides) - 1) + [out_dim]
        shrinking = sides.index(3)

        branch, branch_sizes = x, sizes
        for i, (side, dim) in enumerate(zip(sides, dims, strict=True)):
            branch = nn.relu(branch) if i else branch
            stride = self.stride if i == shrinking else 1
            branch = Convolution(dim, side, stride, self.dtype, name=f"conv{i + 1}")(branch, branch_sizes)
            branch_sizes = shrunk(branch_sizes, stride)
            branch = BatchNorm(self.dtype, name=f"norm{i + 1}")(branch, not train)
        if branch_scale is not None:
            branch = branch * branch_scale[:, None, None, None].astype(branch.dtype)
        if self.stride != 1 or x.shape[-1] != out_dim:
            x = Convolution(out_dim, 1, self.stride, self.dtype, name="shortcut_conv")(x)
            x = BatchNorm(self.dtype, name="shortcut_norm")(x, not train)
        return nn.relu(x + branch)


class Stage(nn.Module):
    """``depth`` blocks, the first with ``stride``.

    ``remat`` recomputes each block in the backward pass, ``scan`` compiles one block for all but the first; neither
    changes the variables (``block0``, ``block1``, …) or the results.
    """

    depth: int
    dim: int
    block: str
    stride: int
    dtype: DTypeLike
    remat: bool
    scan: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        branch_scales: Float[Array, "depth b"] | None,
        sizes: Int[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """``sizes`` are the input's: see ``padding.py``."""
        settings: dict[str, Any] = {"dim": self.dim, "block": self.block, "dtype": self.dtype}
        make = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        scan = self.scan and not self.is_initializing() and self.depth > 2
        for i in range(1 if scan else self.depth):
            block = make(**settings, stride=self.stride if i == 0 else 1, name=f"block{i}")
            x = block(x, train, None if branch_scales is None else branch_scales[i], sizes)
            sizes = shrunk(sizes, self.stride) if i == 0 else sizes
        if not scan:
            return x
        return self._scan(Block(**settings, stride=1, parent=None), x, train, branch_scales, sizes)

    def _scan(
        self,
        block: Block,
        x: Float[Array, "b h w d"],
        train: bool,
        branch_scales: Float[Array, "depth b"] | None,
        sizes: Int[Array, "b 2"] | None,
    ) -> Float[Array, "b h w d"]:
        # Variables are stored per block; stacking them costs one copy of the stage's variables per step.
        names = [f"block{i}" for i in range(1, self.depth)]
        stored = {kind: [self.variables[kind][name] for name in names] for kind in ("params", "batch_stats")}
        stacked = {kind: jax.tree.map(lambda *v: jnp.stack(v), *trees) for kind, trees in stored.items()}

        def step(x: Array, inputs: tuple[Any, Array | None]) -> tuple[Any, Any]:
            variables, scale = inputs
            return block.apply(variables, x, train, scale, sizes, mutable=["batch_stats"])

        inputs = (stacked, None if branch_scales is None else branch_scales[1:])
        x, changed = jax.lax.scan(jax.checkpoint(step) if self.remat else step, x, inputs)
        for i, name in enumerate(names if train else []):
            self.put_variable("batch_stats", name, jax.tree.map(lambda v, i=i: v[i], changed["batch_stats"]))
        return x


class ResNet(Backbone):
    """ResNet: images [b, h, w, 3] (float, normalised) → logits, or a pyramid of feature maps with ``features``.

    Unless ``frozen_norm``, training updates the batch norm statistics: ``apply(..., train=True)`` needs
    ``mutable=["batch_stats"]``, and a key only for stochastic depth.

    Attributes:
      depths, dims: blocks per stage, and channels of their 3×3 convolutions; the stem has those of stage 1.
      stem_stride: 4; or 1, for images as small as CIFAR's, so that stages have strides of 1, 2, 4 and 8.
      block: "basic", or "bottleneck", whose output has four times the channels of its 3×3 convolution.
      frozen_norm: training normalises with the running statistics and does not update them, for detection and
        fine-tuning on small batches. Scales and biases of the norms are still trained.
    """

    depths: Sequence[int]
    block: str
    dims: Sequence[int] = (64, 128, 256, 512)
    frozen_norm: bool = False
    stem_stride: int = 4

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.stem_stride * 2**i for i in range(4))

    @nn.compact
    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        check_stages(self, "dims", "depths")
        if self.block not in _EXPANSIONS:
            raise UserError(f"model.block must be one of {', '.join(_EXPANSIONS)}, but is {self.block!r}")
        check(self, "4 or 1", lambda stride: stride in (4, 1), "stem_stride", section="model")
        rate = self.drop_path_rate if train else 0.0
        scales = stochastic_depth_of_stages(self, rate, self.depths, images.shape[0])
        update = train and not self.frozen_norm

        stem = Stem(self.dims[0], self.stem_stride, self.dtype, name="stem")
        pyramid, x = {}, stem(images.astype(self.dtype), update, sizes)
        sizes = shrunk(sizes, self.stem_stride)
        for i, drawn in enumerate(scales):
            stage = Stage(
                depth=self.depths[i],
                dim=self.dims[i],
                block=self.block,
                stride=1 if i == 0 else 2,
                dtype=self.dtype,
                remat=self.remat,
                scan=self.scan,
                name=f"stage{i + 1}",
            )
            # Drawn in pairs, as transformer blocks have two residual branches; these have one.
            x = pyramid[f"c{i + 2}"] = stage(x, update, None if drawn is None else drawn[:, 0], sizes)
            sizes = shrunk(sizes, stage.stride)
        if self._ends_with_maps(classify):
            return pyramid
        logits = ClassificationHead(self.num_classes, self.spp_levels, self.pool, name="head")(x)
        return logits if classify else pyramid
