"""Transforms of images and their objects on the host: uint8 RGB [H, W, 3] and boxes → a detector's input.

They follow mmdetection 2.x, which trained the published models, with mmcv's arithmetic: imrescale's rounding of sides,
OpenCV's bilinear resizing without antialiasing. Boxes are (x1, y1, x2, y2) in continuous coordinates. Masks are not
resized with the image: each object keeps the exact coverage of a small grid over its box, from which the mask targets
of any proposal follow.

Like the other transforms they run on OpenCV's threads unless ``files.images.limit_threads`` was called in the process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from pvt_jax.data.objects import Objects
from pvt_jax.errors import UserError
from pvt_jax.tasks.images import check_rgb, fitted_size, pad_to

# Range of a crop's sides in pixels: mmdetection's absolute_range.
CROP_RANGE = (384, 600)

# Boxes with a smaller width or height, in pixels, after cropping are dropped. mmdetection drops only those of 0, but
# boxes are float32, and near 1333 a smaller side would round to 0.
_LEAST_SIDE = 1e-3

# Limit of the longer side before a crop: PVT's 3x schedules have 1333 here too, DETR's own policy 4200.
_CROP_LONG_SIDE = 1333

# The masks of objects, each bool [H, W] or uint8 of 0 and 1; see ``DetectionSource.masks``.
DecodeMasks = Callable[[Objects], Sequence[np.ndarray]]


def fit(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) of an image resized as large as its side limits allow, keeping the aspect ratio.

    As in mmdetection, the factor is min(long_side / longer, short_side / shorter); sides are int(side · factor + 0.5).
    """
    return fitted_size(height, width, (long_side, short_side))


@dataclass(frozen=True)
class DetectionTrainTransform:
    """Random crop, resize, flip, pad: an image and its objects → arrays of fixed shapes.

    The crop is the second branch of DETR's policy, which the 3x schedules adopted (mmdetection's AutoAugment): the
    image is resized so that its shorter side is one of ``crop_short_sides``, then cropped at random with sides uniform
    in ``crop_range``, limited by the image. The two resizes are not merged, as the first one visibly loses detail.
    Raises UserError: a value is out of range.

    Attributes:
      flip_probability: of a horizontal flip.
      crop_probability: of the crop; 0.5 in 3x schedules, 0 in those of 12 epochs.
      crop_short_sides, crop_range: see above, in pixels.
      mask_side: side s of each object's mask grid; 0 for no masks.
    """

    flip_probability: float = 0.5
    crop_probability: float = 0.0
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = CROP_RANGE
    mask_side: int = 0

    def __post_init__(self) -> None:
        for name in ("flip_probability", "crop_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be in 0..1, not {getattr(self, name)}")
        if not self.crop_short_sides or min(self.crop_short_sides) < 1:
            raise UserError(f"crop_short_sides must be sides of 1 or more, not {self.crop_short_sides}")
        if len(self.crop_range) != 2 or not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise UserError(f"crop_range must be (smallest, largest) sides of 1 or more, not {self.crop_range}")
        if self.mask_side < 0:
            raise UserError(f"mask_side must be 0 or more, not {self.mask_side}")

    def __call__(
        self,
        image: np.ndarray,
        objects: Objects,
        shape: tuple[int, int],
        short_side: int,
        long_side: int,
        places: int,
        rng: np.random.Generator,
        decode_masks: DecodeMasks | None = None,
    ) -> dict[str, np.ndarray]:
        """New arrays, with m = ``places`` and s = ``mask_side``:

        ``image`` uint8 [*shape, 3], zero beyond its (height, width) ``size`` int32 [2]; ``boxes`` float32 [m, 4] in
        its pixels, ``labels`` int32 [m] and ``valid`` bool [m], padded with 0 at the end; if s > 0 also ``masks`` uint8
        [m, s, s], the object's coverage, 0..255, of each cell of a grid over the final box.

        Crowd regions and boxes narrower or lower than 0.001 pixels after cropping are dropped, so an image may lose all
        its objects. If more than m remain, m of them are drawn at random.

        Shapes are static, so an image that exceeds ``shape`` becomes smaller than in mmdetection. That happens where a
        crop swaps the orientation: a portrait crop of a landscape image, say. Raises UserError: ``image`` is not uint8
        [H, W, 3], or ``mask_side`` is set without ``decode_masks``.

        Args:
          shape: (rows, columns) of the result.
          short_side, long_side: see ``fit``.
          decode_masks: called once with the remaining ``objects`` if ``mask_side`` is above 0.
        """
        image = check_rgb(image)
        if self.mask_side and decode_masks is None:
            raise UserError(f"mask_side is {self.mask_side}, but there are no masks: give decode_masks, or set it to 0")
        view = _View(image)
        if rng.random() < self.crop_probability:
            self._crop(view, rng)
        view.resize(_fit_into(shape, view.size, short_side, long_side))
        if rng.random() < self.flip_probability:
            view.flip()

        boxes = view.boxes(objects.boxes)
        there = ~objects.crowd & (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(axis=1)
        kept = np.flatnonzero(there)
        if len(kept) > places:
            kept = np.sort(rng.choice(kept, places, replace=False))
        count = len(kept)
        result = {
            "image": pad_to(view.image, *shape, (0, 0, 0)),
            "size": np.array(view.size, np.int32),
            "boxes": np.zeros((places, 4), np.float32),
            "labels": np.zeros(places, np.int32),
            "valid": np.arange(places) < count,
        }
        result["boxes"][:count] = boxes[kept]
        result["labels"][:count] = objects.labels[kept]
        if self.mask_side:
            assert decode_masks is not None
            masks = result["masks"] = np.zeros((places, self.mask_side, self.mask_side), np.uint8)
            if count:
                rows, columns = view.grids(boxes[kept], self.mask_side)
                for place, mask in enumerate(decode_masks(objects.take(kept))):
                    masks[place] = _coverage(mask, rows[place], columns[place])
        return result

    def _crop(self, view: "_View", rng: np.random.Generator) -> None:
        height, width = view.size
        short_side = int(rng.choice(self.crop_short_sides))
        view.resize(fit(height, width, short_side, _CROP_LONG_SIDE))
        least, most = self.crop_range
        sides = [int(rng.integers(min(side, least), min(side, most) + 1)) for side in view.size]
        top, left = (int(rng.integers(side - crop + 1)) for side, crop in zip(view.size, sides, strict=True))
        view.crop(top, left, sides[0], sides[1])


@dataclass(frozen=True)
class DetectionEvalTransform:
    """Resize, keeping the aspect ratio: → uint8 RGB [h, w, 3]. The attributes are those of ``fit``.

    Raises UserError: a side is less than 1, or the short one more than the long one.
    """

    short_side: int
    long_side: int

    def __post_init__(self) -> None:
        if not 1 <= self.short_side <= self.long_side:
            raise UserError(
                f"short_side must be at least 1 and at most long_side, not {self.short_side} and {self.long_side}"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for an image of this size."""
        return fit(height, width, self.short_side, self.long_side)

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """A new array; raises UserError unless ``image`` is uint8 [H, W, 3] or an RGB image of Pillow."""
        image = check_rgb(np.asarray(image))
        return _resize(image, self.size(*image.shape[:2]))


class _View:
    """An image under transformation, and where the original's points are in it: (x, y) → scale · (x, y) + shift."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self._scale, self._shift = np.ones(2), np.zeros(2)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]

    def resize(self, size: tuple[int, int]) -> None:
        ratio = np.array(size[::-1]) / self.size[::-1]
        self.image = _resize(self.image, size)
        self._scale, self._shift = self._scale * ratio, self._shift * ratio

    def crop(self, top: int, left: int, height: int, width: int) -> None:
        self.image = self.image[top : top + height, left : left + width]
        self._shift = self._shift - (left, top)

    def flip(self) -> None:
        """Flip horizontally."""
        self.image = np.asarray(cv2.flip(self.image, 1))
        self._scale, self._shift = self._scale * (-1, 1), self._shift * (-1, 1) + (self.size[1], 0)

    def boxes(self, boxes: np.ndarray) -> Float64[np.ndarray, "n 4"]:
        """The original's boxes [n, 4] in current coordinates, clipped to the image."""
        corners = np.sort(boxes.reshape(-1, 2, 2) * self._scale + self._shift, axis=1)
        return np.clip(corners, 0, self.size[::-1]).reshape(-1, 4)

    def grids(self, boxes: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column borders of a grid over each box, in the original's coordinates: two float64 [n, cells + 1].

        Columns descend if the view is flipped.
        """
        corners = (boxes.reshape(-1, 2, 2) - self._shift) / self._scale
        borders = np.linspace(corners[:, 0], corners[:, 1], cells + 1, axis=-1)
        return borders[:, 1], borders[:, 0]


def _fit_into(shape: tuple[int, int], size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """As ``fit``, but within ``shape``, too."""
    height, width = fitted = fit(*size, short_side, long_side)
    if height <= shape[0] and width <= shape[1]:
        return fitted
    factor = min(shape[0] / size[0], shape[1] / size[1])
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def _coverage(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> UInt8[np.ndarray, "s s"]:
    """Coverage, 0..255 by area, of each cell of a regular grid by a mask [H, W]; see ``_View.grids``.

    The exact integral of the mask, whose pixels are squares of 0 or 1: differences of the integral image at the cell
    borders, interpolated linearly between pixels. It takes about 0.1 ms for 112 × 112 cells.
    """
    row_part, row, row_share = _locate(rows, mask.shape[0])
    column_part, column, column_share = _locate(columns, mask.shape[1])
    part = mask[row_part, column_part].view(np.uint8)
    # float32 holds integers up to 2**24 exactly; fractions are added after the large sums have cancelled.
    sums = np.asarray(cv2.integral(part, sdepth=cv2.CV_32F))
    above = sums.take(row, axis=0)
    within = sums.take(row + 1, axis=0)
    within -= above
    within *= row_share
    bands = above[1:] - above[:-1]
    bands += within[1:]
    bands -= within[:-1]
    # Transposed, so that contiguous rows are taken here, too.
    sums = np.asarray(cv2.transpose(bands))
    before = sums.take(column, axis=0)
    within = sums.take(column + 1, axis=0)
    within -= before
    within *= column_share
    before += within
    # The absolute value, as the borders of a flipped view descend.
    area = (rows[1] - rows[0]) * (columns[1] - columns[0])
    return np.asarray(cv2.transpose(cv2.convertScaleAbs(before[1:] - before[:-1], alpha=255 / area)))


def _locate(borders: np.ndarray, side: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """Along one axis: the pixels that a grid spans, each border's index among them, and its offset there [n, 1]."""
    first, last = sorted((float(borders[0]), float(borders[-1])))
    # A box may reach the image's edge, up to rounding.
    start = min(max(int(first), 0), side - 1)
    stop = min(max(math.ceil(last), start + 1), side)
    places = np.minimum(np.maximum(borders - start, 0), stop - start)
    pixel = np.minimum(places.astype(np.intp), stop - start - 1)
    return slice(start, stop), pixel, (places - pixel).astype(np.float32)[:, None]


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A new array of (height, width)."""
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))
