"""Attention drawn over an image: where one query attends.

Attention maps come from ``model.apply(variables, images, method="attention_maps")``. Their grids are assumed to span
the image evenly: exact where the strides divide its sides, otherwise off by less than one patch. The image, at any
resolution, must be what the model saw: if it was given a crop, draw over that crop.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pvt_jax.errors import UserError
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.ops.resize import interpolation_matrix

# From no weight to the largest: black, blue, red, yellow, in equal steps of lightness (L* 0, 12, 24 … 96).
HEAT = (
    *((0, 0, 0), (6, 22, 94), (108, 8, 91), (166, 18, 75), (219, 43, 21)),
    *((235, 107, 18), (248, 155, 26), (254, 203, 60), (255, 249, 150)),
)


def attention_of_query(
    attention: AttentionMap, query: tuple[float, float] | None, image: int = 0, head: int | None = None
) -> Float[np.ndarray, "rows columns"]:
    """The attention weights of one query over the key grid, float32.

    The weights of all keys sum to 1. Where a class token is among the keys (ViT, stage 4 of PVT v1), its weight is left
    out, and the map sums to less.

    Args:
      attention: of one block.
      query: (y, x), fractions of the image's height and width from the upper left corner: the patch that holds this
        point; None for the class token.
      image: index in the batch.
      head: index of an attention head; None for the mean over all heads.

    Raises:
      UserError: the query, image or head does not exist.
    """
    images, heads = attention.weights.shape[:2]
    _check_index("image", image, images)
    if head is not None:
        _check_index("attention head", head, heads)
    if query is None and not attention.extra_tokens:
        raise UserError("these attention maps have no class token: give the query as (y, x), fractions of the picture")
    index = 0
    if query is not None:
        row, column = _cell(query, attention.query_grid)
        index = attention.extra_tokens + row * attention.query_grid[1] + column

    weights = np.asarray(attention.weights[image, :, index], np.float32)
    weights = weights.mean(0) if head is None else weights[head]
    rows, columns = attention.key_grid
    return weights[weights.size - rows * columns :].reshape(rows, columns)


def overlay_attention(
    picture: UInt8[np.ndarray, "h w 3"],
    weights: Float[np.ndarray, "rows columns"],
    query: tuple[float, float] | None = None,
    query_grid: tuple[int, int] | None = None,
    *,
    opacity: float = 0.6,
    colours: Sequence[Sequence[int]] = HEAT,
) -> UInt8[np.ndarray, "h w 3"]:
    """``picture`` with a heat map of ``weights`` over it, upsampled bilinearly and relative to the largest.

    Args:
      picture: RGB; it is not changed.
      weights: from ``attention_of_query``.
      query: the point (y, x), in fractions, whose weights these are; its patch gets a white frame. None: no frame.
      query_grid: (rows, columns) of the queries, which determine the patch; None: those of ``weights``.
      opacity: of the heat map, from 0 to 1.
      colours: RGB in 0..255, evenly spaced from weight 0 to the largest and interpolated linearly.

    Raises:
      UserError: an argument has another type, shape or range.
    """
    picture, weights, table = np.asarray(picture), np.asarray(weights), np.asarray(colours, np.float64)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise UserError(f"the picture must be uint8 [height, width, 3], but is {picture.dtype} {list(picture.shape)}")
    if weights.ndim != 2 or not weights.size:
        raise UserError(f"the weights must be [rows, columns], from attention_of_query, but are {list(weights.shape)}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError("the weights must be finite and at least 0: give those of attention_of_query")
    if not 0 <= opacity <= 1:
        raise UserError(f"the opacity must be from 0 to 1, but is {opacity}")
    if table.ndim != 2 or table.shape[1] != 3 or len(table) < 2 or not ((table >= 0) & (table <= 255)).all():
        raise UserError("the colours must be at least two rows of red, green and blue in 0..255")

    height, width, _ = picture.shape
    vertical, horizontal = (
        interpolation_matrix(old, new, "bilinear") for old, new in zip(weights.shape, (height, width), strict=True)
    )
    enlarged = vertical @ weights.astype(np.float64) @ horizontal.T
    largest = enlarged.max()
    heat = _coloured(enlarged / largest if largest > 0 else enlarged, table)
    result = np.round((1.0 - opacity) * picture + opacity * heat).astype(np.uint8)
    if query is not None:
        rows, columns = query_grid or weights.shape
        row, column = _cell(query, (rows, columns))
        spans = (row * height // rows, -(-(row + 1) * height // rows))
        _frame(result, *spans, column * width // columns, -(-(column + 1) * width // columns))
    return result


def _check_index(what: str, index: int, length: int) -> None:
    if not 0 <= index < length:
        raise UserError(f"there is no {what} {index}: the maps have {length}, counted from 0")


def _cell(query: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the cell of ``grid`` that holds a point."""
    y, x = query
    if not (0 <= y <= 1 and 0 <= x <= 1):
        raise UserError(
            f"the query ({y}, {x}) is outside the picture: give y and x as fractions of its height and width, from "
            "0 to 1"
        )
    return min(int(y * grid[0]), grid[0] - 1), min(int(x * grid[1]), grid[1] - 1)


def _coloured(values: Float[np.ndarray, "h w"], table: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "h w 3"]:
    places = np.linspace(0.0, 1.0, len(table))
    return np.stack([np.interp(values, places, channel) for channel in table.T], axis=-1)


def _frame(picture: UInt8[np.ndarray, "h w 3"], top: int, bottom: int, left: int, right: int) -> None:
    """Draw a white frame with a black edge around a box in place, clipped to the picture."""
    height, width, _ = picture.shape
    line = max(1, min(height, width) // 160)
    inside = picture[top:bottom, left:right].copy()
    for grow, colour in ((2 * line, 0), (line, 255)):
        picture[max(top - grow, 0) : bottom + grow, max(left - grow, 0) : right + grow] = colour
    picture[top:bottom, left:right] = inside
