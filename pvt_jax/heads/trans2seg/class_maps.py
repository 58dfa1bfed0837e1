"""Trans2Seg's small convolutions on one map per class, [b, h, w, k classes, c channels], with weights shared by all.

arXiv 2101.08461, figure 4. At stride 4 the maps of all classes are more than a device should hold: 629 MB per image and
layer for 150 classes of 64 channels at 512². So classes are processed there in groups, one after another, and no
group's activations are kept.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.nn.layers import uniform_fan_in
from pvt_jax.nn.normalization import MOMENTUM, BatchNorm
from pvt_jax.nn.pixels import resampled
from pvt_jax.ops.batch_norm import EPSILON
from pvt_jax.ops.depthwise import depthwise_conv3x3
from pvt_jax.ops.linear import matmul
from pvt_jax.ops.padding import shrunk, zero_outside

# Largest group: at 512² with 64 channels 67 MB per image and layer.
CLASSES_AT_ONCE = 16


class Kernel(nn.Module):
    """Kernel of this ``shape`` with PyTorch's default initialisation, of a layer that the parent module computes."""

    shape: tuple[int, ...]
    fan_in: int

    @nn.compact
    def __call__(self) -> Float[Array, "..."]:
        return self.param("kernel", uniform_fan_in(self.fan_in), self.shape)


def depthwise(
    x: Float[Array, "b h w k c"], kernel: Float[Array, "3 3 1 c"], sizes: Int[Array, "b 2"] | None
) -> Float[Array, "b h w k c"]:
    """Depthwise 3×3 convolution of every class's map. ``sizes``: see ``padding.py``."""
    classes, channels = x.shape[-2:]
    flat = zero_outside(x.reshape(*x.shape[:3], classes * channels), sizes)
    return depthwise_conv3x3(flat, jnp.tile(kernel.astype(flat.dtype), classes)).reshape(x.shape)


def pointwise(x: Float[Array, "*rows c"], kernel: Float[Array, "c d"], dtype: DTypeLike) -> Float[Array, "*rows d"]:
    """1×1 convolution without bias."""
    x, kernel = promote_dtype(x, kernel, dtype=dtype)
    return matmul(x, kernel)


class SeparableConvolution(nn.Module):
    """A depthwise and a pointwise convolution, each with norm and ReLU."""

    dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k c"], train: bool, sizes: Int[Array, "b 2"] | None
    ) -> Float[Array, "b h w k d"]:
        channels = x.shape[-1]
        x = depthwise(x, Kernel((3, 3, 1, channels), 9, name="depthwise")(), sizes)
        x = nn.relu(BatchNorm(self.dtype, name="depthwise_norm")(x, not train))
        x = pointwise(x, Kernel((channels, self.dim), channels, name="pointwise")(), self.dtype)
        return nn.relu(BatchNorm(self.dtype, name="pointwise_norm")(x, not train))


class MemoryFusion(nn.Module):
    """``SeparableConvolution`` of the memory concatenated with the attention scores of each class.

    The memory's share is the same for all classes and is computed once: the depthwise convolution keeps channels apart,
    and the pointwise one sums over them. The only difference is that the running variance of the memory's channels is
    unbiased for the number of values, not for the number of copies.
    """

    dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        memory: Float[Array, "b h w c"],
        scores: Float[Array, "b h w k heads"],
        train: bool,
        sizes: Int[Array, "b 2"] | None,
    ) -> Float[Array, "b h w k d"]:
        fan_in = memory.shape[-1] + scores.shape[-1]
        total: Array | float = 0.0
        for name, x in (("memory", memory[:, :, :, None]), ("scores", scores)):
            channels = x.shape[-1]
            x = depthwise(x, Kernel((3, 3, 1, channels), 9, name=f"{name}_depthwise")(), sizes)
            x = nn.relu(BatchNorm(self.dtype, name=f"{name}_norm")(x, not train))
            kernel = Kernel((channels, self.dim), fan_in, name=f"{name}_pointwise")()
            total = total + pointwise(x, kernel, self.dtype)
        return nn.relu(BatchNorm(self.dtype, name="norm")(total, not train))


class Prediction(nn.Module):
    """One logit per class and position: upsampling, plus ``fine``, ``SeparableConvolution``, a 1×1 convolution.

    In training each norm first needs the moments over all classes. So every group is computed up to the first norm,
    again up to the second, and again to its logits, and each of these once more in the backward pass.
    """

    dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w k c"],
        fine: Float[Array, "b h4 w4 c"],
        train: bool,
        sizes: Int[Array, "b 2"] | None,
    ) -> Float[Array, "b h4 w4 k"]:
        """Logits, float32. ``sizes``: see ``Backbone.features``."""
        channels = x.shape[-1]
        first = Kernel((3, 3, 1, channels), 9, name="depthwise")()
        second = Kernel((channels, self.dim), channels, name="pointwise")()
        third = Kernel((self.dim, 1), self.dim, name="score")()
        bias = self.param("score_bias", uniform_fan_in(self.dim), (1,))
        fine = fine[:, :, :, None]

        def smoothed(maps: Array) -> Array:
            flat = maps.reshape(*maps.shape[:3], -1)
            # Half-pixel centres; the reference aligns corners.
            flat = resampled(flat, (fine.shape[1], fine.shape[2]), sizes, 5, 2)
            return depthwise(flat.reshape(*fine.shape[:3], -1, channels) + fine, first, shrunk(sizes, 4))

        groups = Groups.of(x)
        norm1 = GroupedNorm(self.dtype, name="depthwise_norm")(channels, groups.moments(smoothed) if train else None)

        def mixed(maps: Array) -> Array:
            return pointwise(nn.relu(norm1(smoothed(maps))), second, self.dtype)

        norm2 = GroupedNorm(self.dtype, name="pointwise_norm")(self.dim, groups.moments(mixed) if train else None)

        def scored(maps: Array) -> Array:
            x, kernel = promote_dtype(nn.relu(norm2(mixed(maps))), third, dtype=self.dtype)
            return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)[..., 0] + bias

        return groups.joined(groups.map(scored))


class Moments(NamedTuple):
    """Mean and biased variance of each channel, and the number of values they are over; float32."""

    mean: Float[Array, " c"]
    var: Float[Array, " c"]
    values: Float[Array, ""]


class GroupedNorm(nn.Module):
    """``BatchNorm`` for values that are never in memory together; the variables are the same."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, dim: int, moments: Moments | None) -> Callable[[Array], Array]:
        """The norm with these moments, which update the running statistics; None: with the running statistics."""
        scale = self.param("scale", nn.initializers.ones, (dim,))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (dim,), jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        used = (mean.value, var.value) if moments is None else (moments.mean, moments.var)
        if moments is not None and not self.is_initializing():
            unbiased = moments.var * (moments.values / (moments.values - 1))
            mean.value += MOMENTUM * (moments.mean - mean.value)
            var.value += MOMENTUM * (unbiased - var.value)
            count.value += 1
        centre, factor = used[0], scale * jax.lax.rsqrt(used[1] + EPSILON)
        return lambda x: ((x.astype(jnp.float32) - centre) * factor + bias).astype(self.dtype)


class Groups(NamedTuple):
    """Maps [groups, b, h, w, k, c] of all classes in equal groups; the last one's padding is not ``present``."""

    maps: Float[Array, "groups b h w k c"]
    present: Bool[Array, "groups k"]
    classes: int

    @classmethod
    def of(cls, x: Float[Array, "b h w k c"]) -> "Groups":
        *shape, classes, channels = x.shape
        number = math.ceil(classes / CLASSES_AT_ONCE)
        size = math.ceil(classes / number)
        x = jnp.pad(x, ((0, 0),) * 3 + ((0, number * size - classes), (0, 0)))
        maps = jnp.moveaxis(x.reshape(*shape, number, size, channels), 3, 0)
        return cls(maps, (jnp.arange(number * size) < classes).reshape(number, size), classes)

    def map(self, function: Callable[..., Any]) -> Any:
        """``function(maps)`` of each group, stacked."""
        return _one_by_one(function, self.maps)

    def joined(self, scores: Float[Array, "groups b h w k"]) -> Float[Array, "b h w _k"]:
        """Logits of all classes in order, without padding."""
        return jnp.moveaxis(scores, 0, -2).reshape(*scores.shape[1:4], -1)[..., : self.classes]

    def moments(self, function: Callable[[Array], Array]) -> Moments:
        """Moments over all classes of the maps that ``function`` gives.

        Squares are of distances to each group's own mean, so that values far from 0 do not cancel.
        """

        def of_group(group: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            maps = function(group[0]).astype(jnp.float32)
            weights = group[1][:, None].astype(jnp.float32)
            values = weights.sum() * math.prod(maps.shape[:3])
            mean = (maps * weights).sum((0, 1, 2, 3)) / values
            return values, mean, (jnp.square(maps - mean) * weights).sum((0, 1, 2, 3))

        values, means, squares = _one_by_one(of_group, (self.maps, self.present))
        total, share = values.sum(), (values / values.sum())[:, None]
        mean = (share * means).sum(0)
        return Moments(mean, squares.sum(0) / total + (share * jnp.square(means - mean)).sum(0), total)


def _one_by_one(function: Callable[..., Any], groups: Any) -> Any:
    # Inside a loop XLA cannot merge a computation with its recomputation, so CSE need not be prevented.
    return jax.lax.map(jax.checkpoint(function, prevent_cse=False), groups)
