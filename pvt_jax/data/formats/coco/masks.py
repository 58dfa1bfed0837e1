"""Checks of segmentations in COCO's format: polygons or run lengths.

No mask is decoded, so that those of a whole data set can be checked before the first step. Boxes that are missing are
those of the masks.
"""

import math
import re
from typing import Any

import numpy as np

from pvt_jax.data.formats.coco.values import whole_number
from pvt_jax.data.objects import Mask, run_lengths

# Polygons are rasterised point by point along their sides: a huge one would fill the memory.
_FARTHEST = 100_000
# Characters of a number in compressed run lengths: pycocotools, with 32 bits, writes no more.
_MOST_DIGITS = 7

_POLYGON = "each is a list [x, y, x, y, x, y, …] of numbers"
_RUN_LENGTHS = 'run lengths are one {"size": [height, width], "counts": …} for each object'
_NEITHER = ("a segmentation that is neither polygons nor run lengths", "export it as one of the two")


def mask_problem(mask: Any) -> tuple[str, str] | None:
    """Returns what is wrong with a non-empty segmentation, and the way out; None if it is a mask."""
    if isinstance(mask, dict):
        return _run_lengths_problem(mask)
    if not isinstance(mask, list):
        return _NEITHER
    if all(map(_is_polygon, mask)) or (has_lines(mask) and all(map(_is_polygon, _without_lines(mask)))):
        return None
    if any(isinstance(part, dict) for part in mask):
        return "run lengths in a list", _RUN_LENGTHS
    if all(type(part) in (int, float) for part in mask):
        return "a polygon that is not in a list", f"a segmentation is a list of polygons, {_POLYGON}"
    if not all(isinstance(part, list) for part in mask):
        return _NEITHER
    if any(isinstance(value, list) for part in mask for value in part) or _are_pairs(mask):
        return "a polygon of pairs [x, y]", f"leave out the inner brackets, {_POLYGON}"
    return next((problem for part in mask if (problem := _polygon_problem(part))), _NEITHER)


def mask_size(mask: dict[str, Any]) -> tuple[int, int] | None:
    """Returns height and width of run lengths; None unless they are two positive whole numbers."""
    size = mask.get("size")
    sides = [whole_number(side) for side in size] if isinstance(size, list) else []
    height, width = sides if len(sides) == 2 else (None, None)
    return (height, width) if height is not None and width is not None and min(height, width) > 0 else None


def plain_mask(mask: Any) -> Mask | None:
    """Returns a segmentation without problems as ``decode_mask`` takes it; None for an empty one."""
    if isinstance(mask, dict) and mask:
        return {"size": [int(side) for side in mask["size"]], "counts": _plain_counts(mask["counts"])}
    return (_without_lines(mask) if mask and has_lines(mask) else mask) or None


def has_lines(mask: Any) -> bool:
    """Whether some of the polygons, but not all, have less than three points, and so no area.

    Points and lines that someone drew by mistake; mmdetection leaves them out, too.
    """
    if not isinstance(mask, list) or not all(isinstance(part, list) for part in mask):
        return False
    short = [part for part in mask if len(part) < 6]
    return 0 < len(short) < len(mask) and all(type(value) in (int, float) for part in short for value in part)


def _without_lines(mask: Any) -> list[list[float]]:
    return [part for part in mask if len(part) >= 6]


def mask_box(mask: Any) -> list[float]:
    """Returns (x, y, width, height) around a segmentation; none of these if it is empty or wrong."""
    if not mask or mask_problem(mask):
        return []
    plain = plain_mask(mask)
    if isinstance(plain, dict):
        from faster_coco_eval.core import mask as coco_masks

        found: Any = coco_masks.toBbox(run_lengths(plain, (plain["size"][0], plain["size"][1])))
        return np.asarray(found, np.float64).ravel().tolist()
    points = np.concatenate([np.asarray(part, np.float64).reshape(-1, 2) for part in plain or ()])
    corner = points.min(axis=0)
    return [*corner.tolist(), *(points.max(axis=0) - corner).tolist()]


def _plain_counts(counts: Any) -> Any:
    """Returns counts, also where a program wrote the bytes of their text as Python shows them, b'…'."""
    if isinstance(counts, str) and re.fullmatch(r"b'[^']*'|b\"[^\"]*\"", counts):
        # Of these characters COCO's text has but the backslash, which Python doubles.
        return counts[2:-1].replace("\\\\", "\\")
    return counts


def decode_counts(text: str) -> np.ndarray | None:
    """Returns the run lengths, int64, in a string of COCO's compressed form; None if it is malformed.

    Each number is written in digits of 5 bits, the lowest first, as characters from "0" on; a sixth bit says that
    another digit follows, and the highest of the last digit is the sign. From the fourth on, numbers are differences to
    the one before the last: ``rleFrString`` of pycocotools.
    """
    try:
        digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - ord("0")
    except UnicodeEncodeError:
        return None
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits < 32) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > _MOST_DIGITS:
        return None
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((digits & 31) << shifts, starts)
    numbers -= (digits[ends - 1] >> 4 & 1) << 5 * lengths
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _run_lengths_problem(mask: dict[str, Any]) -> tuple[str, str] | None:
    if "size" not in mask or "counts" not in mask:
        return _NEITHER
    size, counts = mask_size(mask), _plain_counts(mask["counts"])
    if size is None:
        return "run lengths whose size is not [height, width]", _RUN_LENGTHS
    if isinstance(counts, str):
        numbers = decode_counts(counts)
        if numbers is None:
            return "run lengths whose counts are no compressed text of COCO's", "export them again"
        pixels = size[0] * size[1]
        adds_up = numbers.min() >= 0 and numbers.max() <= pixels and numbers.sum() == pixels
    elif not isinstance(counts, list) or any(type(count) is not int for count in counts):
        return "run lengths whose counts are neither whole numbers nor text", "export them again"
    else:
        adds_up = min(counts, default=-1) >= 0 and sum(counts) == size[0] * size[1]
    return None if adds_up else ("run lengths that do not add up to the size of the image", "export them again")


def _is_polygon(points: Any) -> bool:
    # All masks of COCO pass here, so it has to be fast.
    try:
        return (
            type(points) is list
            and len(points) >= 6
            and not len(points) % 2
            and max(points) <= _FARTHEST
            and min(points) >= -_FARTHEST
            and math.isfinite(sum(points))
        )
    except (TypeError, OverflowError):
        return False


def _are_pairs(polygons: list[list[Any]]) -> bool:
    """Whether the "polygons" are the points of one."""
    return len(polygons) > 2 and all(len(polygon) == 2 for polygon in polygons)


def _polygon_problem(points: list[Any]) -> tuple[str, str] | None:
    if not all(type(value) in (int, float) and value == value for value in points):
        return "a polygon with a point that is no number", _POLYGON
    if any(abs(value) > _FARTHEST for value in points):
        return f"a polygon with a point more than {_FARTHEST:,} pixels away", "correct it"
    if len(points) % 2:
        return "a polygon of an odd count of numbers", _POLYGON
    return ("a polygon of less than three points", _POLYGON) if len(points) < 6 else None
