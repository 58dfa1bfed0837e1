"""Instance masks: pasting a mask head's small grid into the image, and COCO run-length encoding (RLE)."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float


class RunLengths(TypedDict):
    """A mask as COCO's compressed RLE: ``size`` (height, width) and ``counts``."""

    size: list[int]
    counts: str


def paste_mask(
    probabilities: Float[np.ndarray, "rows columns"],
    box: Float[np.ndarray, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "{height} {width}"]:
    """The image-sized mask of one box, as mmdetection's and detectron2's ``_do_paste_mask`` make it.

    Probabilities are sampled bilinearly at pixel centres, with zeros around the grid; pixels at ``threshold`` or above
    belong to the mask.

    Args:
      probabilities: on a grid that spans the box.
      box: (x1, y1, x2, y2) in image pixels; may reach beyond the image. Without area the mask is empty.
      height, width: of the image.
      threshold: above 0.
    """
    mask = np.zeros((height, width), bool)
    top, left, part = _pasted(probabilities, box, height, width, threshold)
    mask[top : top + part.shape[1], left : left + part.shape[0]] = part.T
    return mask


def encode(mask: Bool[np.ndarray, "h w"]) -> RunLengths:
    """A mask as compressed RLE in column-major order: the same text as pycocotools writes."""
    height, width = mask.shape
    return {"size": [height, width], "counts": _compressed([_run_lengths(0, 0, mask.T, height, width)])[0]}


def paste_and_encode(
    probabilities: Float[np.ndarray, "n rows columns"],
    boxes: Float[np.ndarray, "n 4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> list[RunLengths]:
    """``encode(paste_mask(…))`` of all detections of an image, at a cost that grows with their boxes alone."""
    runs = [
        _run_lengths(*_pasted(grid, box, height, width, threshold), height, width)
        for grid, box in zip(probabilities, boxes, strict=True)
    ]
    return [{"size": [height, width], "counts": counts} for counts in _compressed(runs)]


def _pasted(
    probabilities: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float
) -> tuple[int, int, np.ndarray]:
    """(top, left, mask [w, h]) of the part of the image where the mask may be nonzero."""
    rows, columns = probabilities.shape
    x1, y1, x2, y2 = (float(side) for side in box)
    top, row, down = _places(y1, y2, rows, height)
    left, column, across = _places(x1, x2, columns, width)
    # Not as matrix products: the threads of a BLAS cost more than they bring.
    grid = np.pad(probabilities.astype(np.float32).T, 1)
    by_row = grid[:, row] + down * (grid[:, row + 1] - grid[:, row])
    rise, missing = by_row[1:] - by_row[:-1], threshold - by_row
    return top, left, across[:, None] * rise[column] >= missing[column]


def _places(start: float, end: float, cells: int, pixels: int) -> tuple[int, np.ndarray, np.ndarray]:
    """(first pixel, cell before each pixel's centre, fraction of the way to the next cell) of the pixels in reach.

    Cell 0 is the zero padding before the first.
    """
    if not end > start:
        return 0, np.zeros(0, int), np.zeros(0, np.float32)
    # The outermost cells fade to 0 half a cell beyond the box.
    reach = (end - start) / cells / 2
    # Clipped before conversion to integers: a box may be far outside.
    first = int(np.ceil(np.clip(start - reach - 0.5, 0, pixels)))
    last = int(np.floor(np.clip(end + reach - 0.5, -1, pixels - 1)))
    places = (np.arange(first, last + 1) + 0.5 - start) / (end - start) * cells + 0.5
    cell = np.clip(np.floor(places).astype(int), 0, cells)
    return first, cell, (places - cell).astype(np.float32)


def _run_lengths(top: int, left: int, part: np.ndarray, height: int, width: int) -> np.ndarray:
    """Lengths of an image's alternating runs of 0 and 1 in column-major order; it is 0 outside ``part`` [w, h]."""
    columns, rows = part.shape
    # Changes within each zero-padded column: at even indices a run of 1 starts, at odd ones it ends.
    padded = np.zeros((columns, rows + 2), bool)
    padded[:, 1:-1] = part
    places = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    column, row = np.divmod(places, rows + 1)
    changes = (left + column) * height + top + row
    # Runs that end where the next starts are merged: they reached the bottom of their column.
    starts, ends = changes[::2], changes[1::2]
    apart = ends[:-1] != starts[1:]
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    changes = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(changes, prepend=0, append=height * width)
    return lengths[:-1] if len(changes) and not lengths[-1] else lengths


def _compressed(runs: Sequence[np.ndarray]) -> list[str]:
    """COCO's text for run lengths: differences from the last but one, in digits of five bits, lowest first.

    A sixth bit marks that more digits follow; the fifth bit of the last one is the sign. The first three lengths are
    written as they are.
    """
    if not runs:
        return []
    lengths = [len(run) for run in runs]
    place = np.concatenate([np.arange(length) for length in lengths])
    values = np.concatenate(runs)
    values = values - np.where(place > 2, np.roll(values, 2), 0)
    # As many digits as the largest value and its sign need.
    shifted = values[:, None] >> np.arange(0, int(np.abs(values).max()).bit_length() + 1, 5)
    digits = shifted & 31
    # No more digits are needed once the bits above are copies of the sign.
    more = shifted >> 5 != -(digits >> 4)
    used = np.ones_like(more)
    used[:, 1:] = np.logical_and.accumulate(more, axis=1)[:, :-1]
    characters = (digits + 32 * more + 48).astype(np.uint8)
    text = characters[used].tobytes().decode("ascii")
    ends = np.cumsum(used.sum(1))[np.cumsum(lengths) - 1].tolist()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
