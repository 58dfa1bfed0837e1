"""The objects of an image: boxes, classes, and masks that are decoded when they are asked for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# As files have it: polygons [[x, y, x, y, …], …], or COCO's run lengths {"size": [h, w], "counts": list or text}; or
# bool [h, w].
Mask = list[list[float]] | dict[str, Any] | np.ndarray

# Boxes that have less on a side, after clipping, are no objects. mmdetection tests the sides before clipping.
LEAST_SIDE = 1.0


@dataclass(frozen=True, eq=False)
class Objects:
    """n objects of one image.

    Attributes:
        boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of the image as it is stored, within it; x2 - x1 is the width.
        labels: int32 [n], numbers of classes.
        crowd: bool [n], regions that training leaves out and evaluation ignores.
        areas: float64 [n], in pixels: of the mask where the data set says so, else of the box.
        ids: int64 [n], what the data set calls them; unique within the image.
        masks: n of them, None where an object has none; or None where no object has one.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    ids: np.ndarray
    masks: tuple[Mask | None, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray | slice) -> "Objects":
        """Returns those that ``chosen`` says: numbers of objects, bool [n] or a range."""
        numbers = np.arange(len(self))[chosen]
        masks = None if self.masks is None else tuple(self.masks[number] for number in numbers)
        return Objects(
            boxes=self.boxes[numbers],
            labels=self.labels[numbers],
            crowd=self.crowd[numbers],
            areas=self.areas[numbers],
            ids=self.ids[numbers],
            masks=masks,
        )


def decode_mask(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """Returns uint8 [height, width], 1 where the object is; polygons are filled exactly as pycocotools does."""
    if isinstance(mask, np.ndarray):
        return mask.astype(np.uint8)
    from faster_coco_eval.core import mask as coco_masks

    return np.ascontiguousarray(coco_masks.decode(run_lengths(mask, size)))


def run_lengths(mask: Mask, size: tuple[int, int]) -> dict[str, Any]:
    """Returns a mask of an image of ``size`` (height, width) as COCO's compressed run lengths, "counts" as text."""
    from faster_coco_eval.core import mask as coco_masks

    height, width = size
    found: Any
    if isinstance(mask, np.ndarray):
        found = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    elif isinstance(mask, dict):
        found = coco_masks.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    elif mask:
        parts: Any = coco_masks.frPyObjects(mask, height, width)
        found = coco_masks.merge(parts)
    else:
        found = coco_masks.encode(np.zeros(size, np.uint8, order="F"))
    counts = found["counts"]
    return {"size": [height, width], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
