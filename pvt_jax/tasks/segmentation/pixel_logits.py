"""Predicted label maps of images of many sizes, from logits at a lower resolution."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num, UInt8

from pvt_jax.ops.resize import padded_interpolation_matrix, resize_grid

# Rows of pixels whose logits are in memory at a time.
_BLOCK_ROWS = 8

# A TPU would multiply float32 in bfloat16 by default.
_PRECISION = jax.lax.Precision.HIGHEST


@struct.dataclass
class PixelLogits:
    """Per-pixel logits, mostly at the network's input resolution, kept as factors.

    The logits of pixel (y, x) are Σ_ij rows[y, i] columns[x, j] maps[i, j]. There are y × x pixels, of which
    ``sizes`` (height, width) are valid. Weights are not negative, and any two neighbouring columns of pixels together
    have at most ``taps`` of the j with weight.
    """

    maps: Float[Array, "b i j k"]
    rows: Float[Array, "b y i"]
    columns: Float[Array, "b x j"]
    sizes: Int[Array, "b 2"]
    taps: int = struct.field(pytree_node=False)

    def mirrored(self) -> "PixelLogits":
        """The logits of the mirrored images (see ``mirror``)."""
        return dataclasses.replace(self, columns=mirror(self.columns[:, None], self.sizes)[:, 0])


def pixel_logits(logits: Float[Array, "b h w k"], sizes: Int[Array, "b 2"] | None = None) -> PixelLogits:
    """Logits at stride 4, upsampled bilinearly to the network's input resolution.

    ``sizes`` are the (height, width) of each image without padding, multiples of 4; None: no padding.
    """
    _, height, width, _ = logits.shape
    sizes = _sizes_of(logits, sizes)
    rows, columns = (
        padded_interpolation_matrix(sizes[:, axis] // 4, sizes[:, axis], side, 4 * side)
        for axis, side in enumerate((height, width))
    )
    return PixelLogits(logits, rows, columns, sizes, taps=3)


def coarse_logits(logits: Float[Array, "b h w k"], sizes: Int[Array, "b 2"] | None = None) -> PixelLogits:
    """Logits at stride 4 as they are: ``predicted_labels`` resizes them in one step, as transformers does.

    For ``sizes`` see ``pixel_logits``.
    """
    batch, height, width, _ = logits.shape
    rows, columns = (jnp.broadcast_to(jnp.eye(side), (batch, side, side)) for side in (height, width))
    return PixelLogits(logits, rows, columns, _sizes_of(logits, sizes) // 4, taps=2)


def predicted_labels(
    logits: Sequence[PixelLogits], label_sizes: Int[Array, "b 2"], label_shape: tuple[int, int]
) -> UInt8[Array, "b {label_shape[0]} {label_shape[1]}"]:
    """The predicted class of every pixel of the original images; 0 in the padding.

    As in mmsegmentation's testing, logits at the network's input size are resized bilinearly to the original image's
    size before the argmax; several predictions (other scales, mirrored images) are averaged after softmax. The first
    class wins ties. Full-resolution logits are in memory for one block of rows at a time.

    Args:
      logits: of the same images at one or more scales, of at most 256 classes. Padding is discarded, but must be
        finite.
      label_sizes: (height, width) of each original image.
      label_shape: (height, width) of the result, at least the largest of ``label_sizes``.
    """
    height, width = label_shape
    number = -(-height // _BLOCK_ROWS)
    block_rows = -(-height // number)
    sources = [_resampling(one, label_sizes, (number * block_rows, width)) for one in logits]

    def predict(rows: list[Array]) -> Array:
        scores = [
            _picked_columns(
                jnp.einsum("byi,bijk->byjk", part, one.maps.astype(jnp.float32), precision=_PRECISION), *taps
            )
            for part, one, (_, *taps) in zip(rows, logits, sources, strict=True)
        ]
        total = scores[0] if len(scores) == 1 else functools.reduce(jnp.add, map(jax.nn.softmax, scores))
        # The first of the highest: argmax takes three times as long on CPU.
        last = total.shape[-1] - 1
        highest = total == jnp.max(total, axis=-1, keepdims=True)
        return jnp.min(jnp.where(highest, jnp.arange(last + 1), last), axis=-1).astype(jnp.uint8)

    with jax.named_scope("predicted_labels"):
        blocks = [one.rows.reshape(one.rows.shape[0], number, block_rows, -1) for one in sources]
        labels = jax.lax.map(predict, [jnp.moveaxis(rows, 1, 0) for rows in blocks])
        return jnp.moveaxis(labels, 0, 1).reshape(-1, number * block_rows, width)[:, :height]


def full_logits(
    logits: Sequence[Float[Array, "b h w k"]], shape: tuple[int, int]
) -> Float[Array, "b {shape[0]} {shape[1]} k"]:
    """Logits at stride 4 of images without padding, upsampled bilinearly to the network's input, then to ``shape``.

    All of them are in memory, float32. Of several views they are logarithms of the mean probabilities.
    """
    resized = [resize_grid(resize_grid(one, (4 * one.shape[1], 4 * one.shape[2])), shape) for one in logits]
    if len(resized) == 1:
        return resized[0]
    return jnp.log(functools.reduce(jnp.add, map(jax.nn.softmax, resized)) / len(resized))


def mirror(images: Num[Array, "b h w c"], sizes: Int[Array, "b 2"] | None = None) -> Num[Array, "b h w c"]:
    """Images or feature maps flipped left to right within ``sizes`` (height, width); padding stays in place."""
    if sizes is None:
        return images[:, :, ::-1]
    place, width = jnp.arange(images.shape[2]), sizes[:, 1:]
    source = jnp.where(place < width, width - 1 - place, place)
    return jax.vmap(lambda image, columns: image[:, columns])(images, source)


def _sizes_of(logits: Array, sizes: Array | None) -> Array:
    """(height, width) of each image without padding, of logits at stride 4."""
    if sizes is not None:
        return sizes
    batch, height, width, _ = logits.shape
    return jnp.broadcast_to(jnp.array((4 * height, 4 * width), jnp.int32), (batch, 2))


class _Resampling(NamedTuple):
    """Weights from ``maps`` to pixels: a matrix for rows; for columns, the few that have weight in each."""

    rows: Float[Array, "b y i"]
    places: Int[Array, "b x t"]
    weights: Float[Array, "b x t"]


def _resampling(logits: PixelLogits, target_sizes: Int[Array, "b 2"], target: tuple[int, int]) -> _Resampling:
    """Upsampling to the network's input and resizing to the target, merged into one product of matrices."""
    rows, columns = (
        jnp.einsum(
            "bty,byi->bti",
            padded_interpolation_matrix(logits.sizes[:, axis], target_sizes[:, axis], first.shape[1], target[axis]),
            first,
            precision=_PRECISION,
        )
        for axis, first in enumerate((logits.rows, logits.columns))
    )
    places, weights = [], []
    # Not by top_k, for which devices would gather the whole batch.
    for _ in range(min(logits.taps, columns.shape[-1])):
        places.append(jnp.argmax(columns, axis=-1))
        weights.append(jnp.max(columns, axis=-1))
        columns = jnp.where(jnp.arange(columns.shape[-1]) == places[-1][..., None], 0.0, columns)
    return _Resampling(rows, jnp.stack(places, -1), jnp.stack(weights, -1))


def _picked_columns(
    part: Float[Array, "b y j k"], places: Int[Array, "b x t"], weights: Float[Array, "b x t"]
) -> Float[Array, "b y x k"]:
    """The weighted sum of a few gathered columns, which is faster than a matrix of almost all zeros."""
    total = jnp.zeros(())
    for tap in range(places.shape[-1]):
        picked = jax.vmap(lambda one, columns: one[:, columns])(part, places[..., tap])
        total += picked * weights[:, None, :, tap, None]
    return total
