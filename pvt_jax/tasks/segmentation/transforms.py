"""Transforms of images and label maps on the host: uint8 RGB [H, W, 3] and uint8 class indices [H, W] → model input.

They follow mmsegmentation 0.x, which trained the published models, with mmcv's arithmetic: imrescale's rounding of
sides, OpenCV's bilinear resizing without antialiasing, nearest neighbour for labels. Like the other transforms they run
on OpenCV's threads unless ``files.images.limit_threads`` was called in the process.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.files.labels import IGNORE
from pvt_jax.tasks.images import INTERPOLATIONS, Fill, Scale, check_rgb, fitted_size, pad_to

# Sides that every model's maps divide evenly, at all four strides.
MULTIPLE = 32
_CROP_TRIES = 10
_BRIGHTNESS = 32.0
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18
_HUES = 180  # OpenCV's hue is in steps of two degrees.
_LEVELS = np.arange(256, dtype=np.uint8)


def distort_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mmsegmentation's photometric distortion of uint8 RGB [h, w, 3]: four changes, each with probability 0.5.

    Brightness is shifted, contrast scaled (at random here or last), saturation scaled and hue shifted, the last two in
    an HSV round trip each. Every step rounds down to uint8, as the original does. ``image`` is not changed, but may be
    returned.
    """
    table = _LEVELS
    if rng.random() < 0.5:
        table = _linear(table, shift=rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        table = _random_contrast(table, rng)
    image = _look_up(image, table)
    if rng.random() < 0.5:
        image = _change_hsv(image, 1, _linear(_LEVELS, factor=rng.uniform(*_SATURATION)))
    if rng.random() < 0.5:
        turn = int(rng.integers(-_HUE, _HUE))  # +18 is never drawn, as in the original.
        image = _change_hsv(image, 0, ((np.arange(256) + turn) % _HUES).astype(np.uint8))
    return image if contrast_first else _look_up(image, _random_contrast(_LEVELS, rng))


@dataclass(frozen=True)
class SegmentationTrainTransform:
    """Resize, crop, flip, distort colours, pad: an image and its label map → both of ``crop_size``.

    Raises UserError: a value is out of range.

    Attributes:
      crop_size: (h, w) of the result.
      scale: the size at ratio 1; see ``fitted_size``.
      scale_range: the ratio is uniform in this range.
      largest_share: upper bound, exclusive, on the fraction of a crop's labelled pixels in its most frequent class
        (mmsegmentation's ``cat_max_ratio``). After ten rejected crops the next is accepted. 1 accepts every crop.
      flip_probability: of a horizontal flip.
      photometric: whether to apply ``distort_colours``.
      fill: RGB in 0..255 of the padding.
    """

    crop_size: tuple[int, int] = (512, 512)
    scale: Scale = (2048, 512)
    scale_range: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    flip_probability: float = 0.5
    photometric: bool = True
    fill: Fill = (0, 0, 0)

    def __post_init__(self) -> None:
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise UserError(f"crop_size must be two sides (h, w) of 1 or more, not {self.crop_size}")
        _check_scale(self.scale)
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise UserError(f"scale_range must be (smallest, largest) ratios above 0, not {self.scale_range}")
        if not 0 < self.largest_share <= 1:
            raise UserError(f"largest_share must be above 0 and at most 1, not {self.largest_share}")
        if not 0 <= self.flip_probability <= 1:
            raise UserError(f"flip_probability must be in 0..1, not {self.flip_probability}")
        if len(self.fill) != 3 or not all(0 <= level <= 255 for level in self.fill):
            raise UserError(f"fill must be RGB in 0..255, not {self.fill}")

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New arrays: image uint8 [h, w, 3], labels uint8 [h, w], and (height, width) without padding, int32 [2].

        Padding at the bottom and right is ``fill`` and IGNORE. Raises UserError unless ``image`` is uint8 [H, W, 3] and
        ``labels`` uint8 [H, W].
        """
        image = check_rgb(image)
        if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
            raise UserError(
                f"labels must be uint8 {list(image.shape[:2])} as the image, not {labels.dtype} {list(labels.shape)}; "
                "label maps must have the size of their images"
            )
        # The whole image is resized although only a crop is kept: OpenCV's fixed-point weights depend on the position,
        # so a crop resized by itself would have other pixels.
        height, width = labels.shape
        size = fitted_size(height, width, self.scale, rng.uniform(*self.scale_range))
        labels = _resize(labels, size, cv2.INTER_NEAREST)
        box = self._sample_box(labels, rng)
        image, labels = _resize(image, size, cv2.INTER_LINEAR)[box], labels[box]
        if rng.random() < self.flip_probability:
            image, labels = np.asarray(cv2.flip(image, 1)), np.asarray(cv2.flip(labels, 1))
        if self.photometric:
            image = distort_colours(image, rng)
        true_size = np.array(labels.shape, np.int32)
        return pad_to(image, *self.crop_size, self.fill), pad_to(labels, *self.crop_size, IGNORE), true_size

    def largest_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size may at most have before it is cropped."""
        return fitted_size(height, width, self.scale, self.scale_range[1])

    def _sample_box(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of a crop, smaller than ``crop_size`` where the label map is."""

        def draw() -> tuple[slice, slice]:
            spare = (max(side - crop, 0) for side, crop in zip(labels.shape, self.crop_size, strict=True))
            top, left = (int(rng.integers(offsets + 1)) for offsets in spare)
            return slice(top, top + self.crop_size[0]), slice(left, left + self.crop_size[1])

        box = draw()
        if self.largest_share < 1:
            for _ in range(_CROP_TRIES):
                if _is_varied(labels[box], self.largest_share):
                    break
                box = draw()
        return box


@dataclass(frozen=True)
class SegmentationEvalTransform:
    """Resize, keeping the aspect ratio, then stretch both sides to multiples of ``multiple``: → uint8 RGB [h, w, 3].

    This is PVTv2-Seg's AlignResize. Label maps are not resized: predictions are resized to them. Raises UserError: a
    value is out of range.

    Attributes:
      scale: see ``fitted_size``; (0, 0) keeps the image's own size, up to ``multiple``.
      ratio: factor of the scale, for multi-scale testing.
      multiple: both sides are stretched to the next multiple; 1 does not stretch.
    """

    scale: Scale = (2048, 512)
    ratio: float = 1.0
    multiple: int = 32

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not self.ratio > 0:
            raise UserError(f"ratio must be above 0, not {self.ratio}")
        if self.multiple < 1:
            raise UserError(f"multiple must be 1 or more, not {self.multiple}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result for an image of this size."""
        fitted_height, fitted_width = fitted_size(height, width, self.scale, self.ratio)
        return -(-fitted_height // self.multiple) * self.multiple, -(-fitted_width // self.multiple) * self.multiple

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """A new array; raises UserError unless ``image`` is uint8 [H, W, 3] or an RGB image of Pillow."""
        image = check_rgb(np.asarray(image))
        height, width = image.shape[:2]
        fitted = _resize(image, fitted_size(height, width, self.scale, self.ratio), cv2.INTER_LINEAR)
        return _resize(fitted, self.size(height, width), cv2.INTER_LINEAR)


@dataclass(frozen=True)
class SquashedEvalTransform:
    """Resize to one size whatever the aspect ratio, by Pillow as transformers' processors do: → uint8 RGB [h, w, 3].

    Label maps are not resized.

    Attributes:
      target: (h, w).
      ratio: factor of it, for multi-scale testing. Both sides are then rounded up to multiples of 32.
      interpolation: "bilinear" or "bicubic", antialiased.
    """

    target: tuple[int, int]
    ratio: float = 1.0
    interpolation: str = "bilinear"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result, for an image of any size."""
        rows, columns = (-(-int(side * self.ratio) // MULTIPLE) * MULTIPLE for side in self.target)
        return max(rows, MULTIPLE), max(columns, MULTIPLE)

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """A new array; raises UserError unless ``image`` is uint8 [H, W, 3] or an RGB image of Pillow."""
        image = check_rgb(np.asarray(image))
        height, width = self.size(*image.shape[:2])
        return np.array(Image.fromarray(image).resize((width, height), INTERPOLATIONS[self.interpolation]))


EvalTransform = SegmentationEvalTransform | SquashedEvalTransform


def _check_scale(scale: Scale) -> None:
    if len(scale) != 2 or not (scale[0] >= scale[1] >= 1 or tuple(scale) == (0, 0)):
        raise UserError(f"scale must be the limits (long, short) of 1 or more, or (0, 0) for none, not {scale}")


def _resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """A new array of (height, width)."""
    return np.asarray(cv2.resize(array, size[::-1], interpolation=interpolation))


def _is_varied(labels: np.ndarray, largest_share: float) -> bool:
    """Whether each class has less than ``largest_share`` (below 1) of the labelled pixels, so two or more exist."""
    # Several times as fast as NumPy's bincount, and exact up to 2**24 pixels per class.
    counts = np.asarray(cv2.calcHist([labels], [0], None, [256], [0, 256])).ravel()[:IGNORE]
    return bool(counts.max() < largest_share * counts.sum(dtype=np.float64))


def _linear(table: np.ndarray, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """uint8 levels scaled and shifted in float32, clipped and truncated."""
    return np.clip(table.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def _random_contrast(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _linear(table, factor=rng.uniform(*_CONTRAST)) if rng.random() < 0.5 else table


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The image with level i replaced by table[i]; the table is [256] or, per channel, [256, 3]."""
    if table is _LEVELS:
        return image
    return np.asarray(cv2.LUT(image, table.reshape(1, 256, -1)))


def _change_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """``table`` [256] applied to one channel of hue (0..179), saturation, value."""
    tables = np.stack([_LEVELS] * 3, axis=1)
    tables[:, channel] = table
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return np.asarray(cv2.cvtColor(_look_up(hsv, tables), cv2.COLOR_HSV2RGB))
