"""Label maps of images of many sizes, from logits at a lower resolution."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num, UInt8

from pvt_jax.ops.resize import padded_interpolation_matrix

# Rows of pixels whose logits exist at the same time.
_BLOCK_ROWS = 8

# A TPU would multiply float32 in bfloat16 by default.
_PRECISION = jax.lax.Precision.HIGHEST


@struct.dataclass
class PixelLogits:
    """Logits of every pixel that a network saw, as a product that is not multiplied out.

    The logits of pixel (y, x) are Σ_ij rows[y, i] columns[x, j] maps[i, j]. The images had y × x pixels, with padding
    beyond the (height, width) of ``sizes``. No weight is negative, and at most ``taps`` of the j have weight in
    two neighbouring columns of pixels together.
    """

    maps: Float[Array, "b i j k"]
    rows: Float[Array, "b y i"]
    columns: Float[Array, "b x j"]
    sizes: Int[Array, "b 2"]
    taps: int = struct.field(pytree_node=False)

    def mirrored(self) -> "PixelLogits":
        """Those of the images themselves, if the network saw them mirrored (see ``mirror``), or the other way round."""
        return dataclasses.replace(self, columns=mirror(self.columns[:, None], self.sizes)[:, 0])


def pixel_logits(logits: Float[Array, "b h w k"], sizes: Int[Array, "b 2"] | None = None) -> PixelLogits:
    """Logits of stride 4, enlarged bilinearly to the pixels of the images that the network saw.

    ``sizes`` holds (height, width) of each image without its padding, multiples of 4; None where there is none.
    """
    batch, height, width, _ = logits.shape
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array((4 * height, 4 * width), jnp.int32), (batch, 2))
    rows, columns = (
        padded_interpolation_matrix(sizes[:, axis] // 4, sizes[:, axis], side, 4 * side)
        for axis, side in enumerate((height, width))
    )
    return PixelLogits(logits, rows, columns, sizes, taps=3)


def predicted_labels(
    logits: Sequence[PixelLogits], label_sizes: Int[Array, "b 2"], label_shape: tuple[int, int]
) -> UInt8[Array, "b {label_shape[0]} {label_shape[1]}"]:
    """The class of every pixel of the original images, and 0 beyond them.

    As in mmsegmentation's tests: logits at the size that the network saw are resampled bilinearly to the size of the
    original image, and the highest decides; of several logits (other scales, mirrored images) the highest mean of
    softmax. Of equal classes the first is taken. The logits of all pixels never exist together.

    Args:
      logits: of the same images, at one scale or more, and of at most 256 classes. What lies beyond ``sizes`` must be
        finite.
      label_sizes: (height, width) of each original image.
      label_shape: (height, width) of the result, at least those of every original image.
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
        # The first of the highest; argmax takes three times as long on CPU.
        last = total.shape[-1] - 1
        highest = total == jnp.max(total, axis=-1, keepdims=True)
        return jnp.min(jnp.where(highest, jnp.arange(last + 1), last), axis=-1).astype(jnp.uint8)

    with jax.named_scope("predicted_labels"):
        blocks = [one.rows.reshape(len(one.rows), number, block_rows, -1) for one in sources]
        labels = jax.lax.map(predict, [jnp.moveaxis(rows, 1, 0) for rows in blocks])
        return jnp.moveaxis(labels, 0, 1).reshape(-1, number * block_rows, width)[:, :height]


def mirror(images: Num[Array, "b h w c"], sizes: Int[Array, "b 2"] | None = None) -> Num[Array, "b h w c"]:
    """Images, or maps, with left and right exchanged within their true (height, width); padding stays where it is."""
    if sizes is None:
        return images[:, :, ::-1]
    place, width = jnp.arange(images.shape[2]), sizes[:, 1:]
    source = jnp.where(place < width, width - 1 - place, place)
    return jax.vmap(lambda image, columns: image[:, columns])(images, source)


class _Resampling(NamedTuple):
    """Weights of the rows of ``maps`` in every row of pixels, and of those few columns that have any in a column."""

    rows: Float[Array, "b y i"]
    places: Int[Array, "b x t"]
    weights: Float[Array, "b x t"]


def _resampling(logits: PixelLogits, target_sizes: Int[Array, "b 2"], target: tuple[int, int]) -> _Resampling:
    """Two resamplings, to what the network saw and from there to the target, are one product of matrices."""
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
    # Not by top_k: devices would gather the whole batch for it.
    for _ in range(min(logits.taps, columns.shape[-1])):
        places.append(jnp.argmax(columns, axis=-1))
        weights.append(jnp.max(columns, axis=-1))
        columns = jnp.where(jnp.arange(columns.shape[-1]) == places[-1][..., None], 0.0, columns)
    return _Resampling(rows, jnp.stack(places, -1), jnp.stack(weights, -1))


def _picked_columns(
    part: Float[Array, "b y j k"], places: Int[Array, "b x t"], weights: Float[Array, "b x t"]
) -> Float[Array, "b y x k"]:
    """Few columns of many are picked sooner than multiplied by a matrix that is almost all zeros."""
    total = jnp.zeros(())
    for tap in range(places.shape[-1]):
        picked = jax.vmap(lambda one, columns: one[:, columns])(part, places[..., tap])
        total += picked * weights[:, None, :, tap, None]
    return total
