"""Shears and translations along an axis with Pillow's bicubic filter, pixel for pixel, in less than half of its time.

Pillow interpolates in two dimensions, whatever the transform. Where every row, or every column, moves as a whole, the
result of the other direction is the pixel itself, and four taps of a row are left, which NumPy does for all rows. All
is computed in Pillow's order in float64, so that its truncation to integers has the same result.
"""

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from pvt_jax.tasks.images import Fill

# So many rows at once stay in the cache.
_ROWS = 112
# Nearer to a whole pixel than this, rounding may move one pixel of a row otherwise than its neighbours.
_NEAR = 1e-6


def moved(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image | None:
    """RGB → as ``image.transform`` with AFFINE, BICUBIC and ``fillcolor``; None unless it moves rows, or columns."""
    a, b, c, d, e, f = matrix
    # Shear or translation, not both: Pillow would add the two in another order.
    if (a, d, e, f) == (1, 0, 1, 0) and 0 in (b, c):
        offsets, is_vertical = b * (np.arange(image.height) + 0.5) + c, False
    elif (a, b, c, e) == (1, 0, 0, 1) and 0 in (d, f):
        offsets, is_vertical = d * (np.arange(image.width) + 0.5) + f, True
    else:
        return None
    rest = np.abs(offsets - np.rint(offsets))
    if not ((rest == 0) | (rest > _NEAR)).all():
        return None
    pixels = np.asarray(image)
    if not is_vertical:
        return Image.fromarray(_move_rows(pixels, offsets, fill))
    return Image.fromarray(cv2.transpose(_move_rows(cv2.transpose(pixels), offsets, fill)))


def _move_rows(pixels: np.ndarray, offsets: np.ndarray, fill: Fill) -> np.ndarray:
    """uint8 [h, w, 3] whose row y at x is that of ``pixels`` at x + ``offsets[y]``, and ``fill`` beyond its ends.

    ``offsets`` [h] are float64.
    """
    height, width, _ = pixels.shape
    whole = np.floor(offsets)
    # Beyond its width a row is all fill.
    margin = min(int(np.abs(offsets).max()) + 4, width + 4)
    first = margin + np.clip(whole.astype(np.int64) - 1, -margin, margin - 3)
    starts = np.arange(height) * (width + 2 * margin) + first
    channels = []
    for channel in cv2.split(pixels):
        padded = cv2.copyMakeBorder(channel, 0, 0, margin, margin, cv2.BORDER_REPLICATE)
        channels.append(sliding_window_view(padded.reshape(-1), width + 3))
    moved = [np.full((height, width), value, np.uint8) for value in fill]
    columns = np.arange(width, dtype=np.float64)
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        offset = offsets[rows, None]
        # Columns that a pixel of at least one of these rows is moved to.
        left = min(max(int(-0.5 - offset.max()), 0), width)
        right = max(min(int(np.ceil(width - 0.5 - offset.min())) + 1, width), left)
        at = columns[left:right] + 0.5 + offset
        is_inside = ((at >= 0) & (at < width)).view(np.uint8)
        rest = at - 0.5 - (columns[left:right] + whole[rows, None])
        for channel, result, value in zip(channels, moved, fill, strict=True):
            # One array for each tap: NumPy is three times as fast where rows have no gaps between them.
            taps = [channel[starts[rows], left + tap : right + tap].astype(np.int16) for tap in range(4)]
            result[rows, left:right] = _cubic(taps, rest) * is_inside + value * (1 - is_inside)
    return np.asarray(cv2.merge(moved))


def _cubic(taps: list[np.ndarray], rest: np.ndarray) -> np.ndarray:
    """Pillow's polynomial, its ``BICUBIC``, as uint8; four taps as int16, and ``rest`` in 0..1, all [r, n]."""
    before, here, after, beyond = taps
    # The integers are exact in any order; what follows is not.
    fall = before - here
    fourth = beyond - after - fall
    values = rest * fourth.astype(np.float64)
    values += (fall - fourth).astype(np.float64)
    values *= rest
    values += (after - before).astype(np.float64)
    values *= rest
    values += here.astype(np.float64)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
