"""Boxes as (x1, y1, x2, y2) in continuous pixels: a box from 0 to 1 is one pixel wide. float32 throughout."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Fast R-CNN's bound on the log scaling of a side, which keeps exp finite.
_LARGEST_CHANGE = math.log(1000 / 16)
# Lower bound of sides in pixels: padded boxes are all 0, and their deltas must be finite.
_SHORTEST = 1e-6
# Areas up to this count as 0: gradients divide by their squares, which must not underflow in float32.
_SMALLEST_AREA = 1e-18


def areas(boxes: Num[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Areas in square pixels; 0 for a box with x2 < x1 or y2 < y1."""
    boxes = boxes.astype(jnp.float32)
    return _area(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Num[Array, "*b n 4"], b: Num[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """IoU of each of n boxes with each of m; 0 where the union is empty."""
    intersection, union = _overlap(a[..., :, None, :], b[..., None, :, :])
    return _ratio(intersection, union)


def pairwise_giou(a: Num[Array, "*b n 4"], b: Num[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """``paired_giou`` of each of n boxes with each of m."""
    return paired_giou(a[..., :, None, :], b[..., None, :, :])


def paired_giou(a: Num[Array, "*#b 4"], b: Num[Array, "*#b 4"]) -> Float[Array, "*#b"]:
    """Generalised IoU, -1 to 1, of boxes that broadcast (Rezatofighi et al., CVPR 2019, algorithm 1).

    This is IoU minus the fraction of the enclosing box that neither covers. Gradients are finite for any two boxes:
    fractions of empty boxes are 0.
    """
    intersection, union = _overlap(a, b)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    width = jnp.maximum(a[..., 2], b[..., 2]) - jnp.minimum(a[..., 0], b[..., 0])
    height = jnp.maximum(a[..., 3], b[..., 3]) - jnp.minimum(a[..., 1], b[..., 1])
    around = _area(width, height)
    return _ratio(intersection, union) - _ratio(around - union, around)


def encode_deltas(
    anchors: Num[Array, "*#b 4"], boxes: Num[Array, "*#b 4"], std: Sequence[float | int] = (1, 1, 1, 1)
) -> Float[Array, "*#b 4"]:
    """R-CNN's (dx, dy, dw, dh) from anchors to boxes (Girshick et al., CVPR 2014, appendix C), divided by ``std``.

    Always finite: sides are clipped to at least 1e-6 pixels.
    """
    centre, side = _centre_and_side(anchors)
    target_centre, target_side = _centre_and_side(boxes)
    side, target_side = jnp.maximum(side, _SHORTEST), jnp.maximum(target_side, _SHORTEST)
    deltas = jnp.concatenate([(target_centre - centre) / side, jnp.log(target_side / side)], axis=-1)
    return deltas / jnp.array(std, jnp.float32)


def decode_deltas(
    anchors: Num[Array, "*#b 4"], deltas: Float[Array, "*#b 4"], std: Sequence[float | int] = (1, 1, 1, 1)
) -> Float[Array, "*#b 4"]:
    """The inverse of ``encode_deltas``; dw and dh are clipped to ± ln(1000 / 16). Boxes may leave the image."""
    deltas = deltas.astype(jnp.float32) * jnp.array(std, jnp.float32)
    centre, side = _centre_and_side(anchors)
    centre = centre + deltas[..., :2] * side
    side = side * jnp.exp(jnp.clip(deltas[..., 2:], -_LARGEST_CHANGE, _LARGEST_CHANGE))
    return jnp.concatenate([centre - side / 2, centre + side / 2], axis=-1)


def clip_boxes(boxes: Num[Array, "*#b 4"], size: Num[Array, "*#b 2"]) -> Float[Array, "*#b 4"]:
    """Boxes clipped to an image of ``size`` (height, width); leading axes broadcast.

    For boxes [b, n, 4] of b images pass ``sizes[:, None]``.
    """
    width_height = size[..., ::-1].astype(jnp.float32)
    return jnp.clip(boxes.astype(jnp.float32), 0.0, jnp.concatenate([width_height, width_height], axis=-1))


def to_centres(boxes: Num[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x1, y1, x2, y2) → (centre x, centre y, width, height)."""
    return jnp.concatenate(_centre_and_side(boxes), axis=-1)


def from_centres(boxes: Num[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(centre x, centre y, width, height) → (x1, y1, x2, y2)."""
    boxes = boxes.astype(jnp.float32)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _area(width: Array, height: Array) -> Array:
    return jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)


def _centre_and_side(boxes: Array) -> tuple[Array, Array]:
    boxes = boxes.astype(jnp.float32)
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def _overlap(a: Array, b: Array) -> tuple[Array, Array]:
    """Areas of intersection and union."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    # One coordinate at a time: XLA fuses these, but would write pairs of corners to memory.
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    intersection = _area(width, height)
    return intersection, areas(a) + areas(b) - intersection


def _ratio(part: Array, whole: Array) -> Array:
    # The inner where keeps the gradient finite, the outer one the value.
    exists = whole > _SMALLEST_AREA
    return jnp.where(exists, part / jnp.where(exists, whole, 1.0), 0.0)
