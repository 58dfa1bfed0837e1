"""The objects of an image: boxes, classes, and masks that are decoded on demand."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# As in files: polygons [[x, y, x, y, …], …], or COCO's run lengths {"size": [h, w], "counts": list or text}; or
# bool [h, w].
Mask = list[list[float]] | dict[str, Any] | np.ndarray

# Boxes with a shorter side, in pixels, after clipping are no objects. mmdetection tests before clipping.
LEAST_SIDE = 1.0


@dataclass(frozen=True, eq=False)
class Objects:
    """n objects of one image.

    Attributes:
        boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of the image as it is stored, within it; x2 - x1 is the width.
        labels: int32 [n], class indices.
        crowd: bool [n], regions that training leaves out and evaluation ignores.
        areas: float64 [n], in pixels: of the mask if the data set has it, else of the box.
        ids: int64 [n], of the data set; unique within the image.
        masks: n masks, None for an object without one; or None if no object has one.
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
        """Returns the ``chosen`` objects: indices, bool [n] or a slice."""
        numbers = np.arange(len(self))[chosen]
        masks = None if self.masks is None else tuple(self.masks[number] for number in numbers)
        boxes, labels, crowd = self.boxes[numbers], self.labels[numbers], self.crowd[numbers]
        return Objects(boxes, labels, crowd, self.areas[numbers], self.ids[numbers], masks)


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
