"""Per-pixel cross-entropy of a label map, from logits at a lower resolution."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from pvt_jax.ops.resize import interpolation_matrix

# Rows of pixels whose logits are in memory at a time.
_BLOCK_ROWS = 16

_Sums = tuple[Array, Array | None]


def segmentation_cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b y x"],
    ignore: int = 255,
    weights: tuple[float, ...] | None = None,
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """Sum of -log softmax(logits)_label over each image's pixels that are not ignored, and their number.

    Logits are upsampled bilinearly to the size of the labels (half-pixel centres, borders repeated), in float32.
    Pixels with label ``ignore`` are left out; other labels are 0 to k - 1. Only one block of rows is in memory at full
    resolution; the gradient of ``logits`` is computed in the forward pass. Reverse mode and first order only.
    ``weights`` are those of the k classes, by which the losses of their pixels are multiplied; the number is that of
    the pixels.
    """
    counted = jnp.sum(labels != ignore, axis=(1, 2), dtype=jnp.int32)
    return _loss(logits, labels, ignore, weights), counted


_Weights = tuple[float, ...] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _loss(logits: Array, labels: Array, ignore: int, weights: _Weights) -> Array:
    return _by_blocks(logits, labels, ignore, weights, with_gradient=False)[0]


def _forward(logits: Array, labels: Array, ignore: int, weights: _Weights) -> _Sums:
    loss, gradient = _by_blocks(logits, labels, ignore, weights, with_gradient=True)
    return loss, gradient if gradient is None else gradient.astype(logits.dtype)


def _backward(ignore: int, weights: _Weights, gradient: Array, upstream: Array) -> tuple[Array, None]:
    return (upstream[:, None, None, None] * gradient).astype(gradient.dtype), None


_loss.defvjp(_forward, _backward)


class _Blocks(NamedTuple):
    """Blocks of equally many rows of pixels, the last padded.

    Each has the first row of logits that it needs, ``start``, and the interpolation matrix from there to its pixels,
    ``rows``, 0 for padding.
    """

    start: Int[np.ndarray, " n"]
    rows: Float[np.ndarray, "n pixels logits"]


def _split(source: int, target: int) -> _Blocks:
    number = -(-target // _BLOCK_ROWS)
    height = -(-target // number)
    matrix = np.zeros((number * height, source))
    matrix[:target] = interpolation_matrix(source, target, "bilinear")
    matrix = matrix.reshape(number, height, source)
    needed = [np.flatnonzero(block.any(0)) for block in matrix]
    reach = max(int(rows[-1] - rows[0]) + 1 for rows in needed)
    start = np.array([min(int(rows[0]), source - reach) for rows in needed], np.int32)
    parts = [block[:, first : first + reach] for block, first in zip(matrix, start, strict=True)]
    return _Blocks(start, np.stack(parts).astype(np.float32))


def _by_blocks(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b y x"],
    ignore: int,
    weights: _Weights,
    with_gradient: bool,
) -> tuple[Float[Array, " b"], Float[Array, "b h w k"] | None]:
    """(loss of each image, gradient), float32."""
    (batch, height, width, classes), (label_height, label_width) = logits.shape, labels.shape[1:]
    blocks = _split(height, label_height)
    number, rows, reach = blocks.rows.shape
    columns = jnp.asarray(interpolation_matrix(width, label_width, "bilinear"), jnp.float32)
    padding = ((0, 0), (0, number * rows - label_height), (0, 0))
    padded = jnp.pad(labels, padding, constant_values=ignore).reshape(batch, number, rows, label_width)
    # A TPU would multiply float32 in bfloat16 by default.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def add(carry: _Sums, block: tuple[Array, Array, Array]) -> tuple[_Sums, None]:
        loss, gradient = carry
        start, matrix, label = block
        part = jax.lax.dynamic_slice_in_dim(logits, start, reach, axis=1).astype(jnp.float32)
        scores = product("yh,bhxk->byxk", matrix, product("xw,bhwk->bhxk", columns, part))
        counts = label != ignore
        own = label.astype(jnp.int32)[..., None] == jnp.arange(classes)
        shifted = scores - jnp.max(scores, axis=-1, keepdims=True)
        exponentials = jnp.exp(shifted)
        total = jnp.sum(exponentials, axis=-1)
        losses = jnp.log(total) - jnp.sum(jnp.where(own, shifted, 0.0), axis=-1)
        weight = None if weights is None else jnp.sum(jnp.where(own, jnp.asarray(weights, jnp.float32), 0.0), axis=-1)
        losses = losses if weight is None else losses * weight
        loss = loss + jnp.sum(jnp.where(counts, losses, 0.0), axis=(1, 2))
        if gradient is not None:
            slope = jnp.where(counts[..., None], exponentials / total[..., None] - own, 0.0)
            slope = slope if weight is None else slope * weight[..., None]
            slope = product("xw,bhxk->bhwk", columns, product("yh,byxk->bhxk", matrix, slope))
            old = jax.lax.dynamic_slice_in_dim(gradient, start, reach, axis=1)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, old + slope, start, axis=1)
        return (loss, gradient), None

    start = (jnp.zeros(batch), jnp.zeros(logits.shape) if with_gradient else None)
    inputs = (jnp.asarray(blocks.start), jnp.asarray(blocks.rows), jnp.moveaxis(padded, 1, 0))
    with jax.named_scope("segmentation_cross_entropy"):
        return jax.lax.scan(add, start, inputs)[0]
