"""Crops, flips and RandAugment for classification, on the host: uint8 RGB in, uint8 RGB out.

Crops and resizing follow torchvision. Normalisation happens later, in the jitted step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import image_header
from pvt_jax.files.images import decode, to_rgb
from pvt_jax.tasks.classification import resizing
from pvt_jax.tasks.classification.randaugment import IMAGENET_MEAN, RandAugment
from pvt_jax.tasks.classification.resizing import Box, resize
from pvt_jax.tasks.images import INTERPOLATIONS, Fill

# Of an image's size, parts at which libjpeg decodes it at once.
_SHRINKS = (8, 4, 2)


def sample_crop(
    rng: np.random.Generator, height: int, width: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) inside an image, as torchvision's RandomResizedCrop draws it.

    Its area is uniform in ``scale`` (fractions of the image's), its aspect ratio width / height log-uniform in
    ``ratio``. If none of ten draws fits, it is the largest central box with an aspect ratio in ``ratio``.
    """
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True)
class TrainTransform:
    """Crop, resize, flip, RandAugment: uint8 [H, W, 3], [H, W, 1] or [H, W] → uint8 RGB [h, w, 3].

    Raises UserError: a value is out of range, or set for a ``crop`` that does not read it.

    Attributes:
      image_size: (h, w) of the result.
      crop: "resized" resizes a crop of random area and aspect ratio (ImageNet); "padded" resizes if the size differs,
        pads each side with ``pad`` black pixels and crops at random (CIFAR); "none" resizes and distorts.
      crop_scale, crop_ratio: see ``sample_crop``; only for "resized".
      pad: in pixels; required by "padded", and only for it.
      flip_probability: of a horizontal flip.
      policy: see ``RandAugment.parse``; empty for none.
      fill: RGB in 0..255 of pixels that RandAugment uncovers.
      interpolation: "bicubic" or "bilinear", antialiased, also for RandAugment.
      fast_resize: resize with cykooz_resizer, which has to be installed, in place of Pillow.
      reduced_decoding: ``of_file`` decodes JPEG files at a half, a quarter or an eighth of their size where the crop
        then still has the size of the result.
    """

    image_size: tuple[int, int]
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    policy: str = ""
    fill: Fill = IMAGENET_MEAN
    interpolation: str = "bicubic"
    pad: int = 0
    crop: str = "resized"
    fast_resize: bool = False
    reduced_decoding: bool = False

    def __post_init__(self) -> None:
        _check_size(self.image_size, self.interpolation)
        if self.crop not in ("resized", "padded", "none"):
            raise UserError(f'crop must be "resized", "padded" or "none", not {self.crop!r}')
        resized = TrainTransform.crop_scale, TrainTransform.crop_ratio
        if self.crop != "resized" and (tuple(self.crop_scale), tuple(self.crop_ratio)) != resized:
            raise UserError(f'crop_scale and crop_ratio are read by crop="resized" only; remove them or {self.crop!r}')
        if (self.pad > 0) != (self.crop == "padded") or self.pad < 0:
            raise UserError(f'pad is {self.pad}, crop {self.crop!r}: crop="padded" needs pad >= 1, no other reads it')
        if not (0 < self.crop_scale[0] <= self.crop_scale[1] <= 1 and 0 < self.crop_ratio[0] <= self.crop_ratio[1]):
            raise UserError(
                f"crop_scale {self.crop_scale} must be a range in 0..1, crop_ratio {self.crop_ratio} a range above 0"
            )
        if not 0 <= self.flip_probability <= 1:
            raise UserError(f"flip_probability must be in 0..1, not {self.flip_probability}")
        _ = self._randaugment  # A bad policy fails here, not in a worker.
        if self.fast_resize:
            resizing.check_installed()

    @cached_property
    def _randaugment(self) -> RandAugment | None:
        if not self.policy:
            return None
        return RandAugment.parse(self.policy, fill=self.fill, interpolation=self.interpolation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, a new array. Raises UserError unless ``image`` is uint8 of one of the shapes above."""
        image = _check_array(image)
        return self._finish(image, self._draw(rng, *image.shape[:2]), rng)

    def of_file(self, data: bytes, name: str, reading: ReadingOptions, rng: np.random.Generator) -> np.ndarray:
        """The augmented image of an encoded file: the same crop and draws as of its decoded one.

        Raises CorruptImageError and UserError, as ``decode``; ``rng`` is then as it was.
        """
        size = image_header(data).size(reading.exif_orientation) if self.reduced_decoding else (0, 0)
        if not all(size):
            return self(decode(data, name, reading), rng)
        height, width = size
        before = rng.bit_generator.state
        box = self._draw(rng, height, width)
        shrink = self._shrink(box)
        try:
            image = decode(data, name, reading, shrink)
        except (CorruptImageError, UserError):
            rng.bit_generator.state = before
            raise
        if image.shape[:2] == (-(-height // shrink), -(-width // shrink)):
            return self._finish(image, box.shrunk(shrink), rng)
        if image.shape[:2] == (height, width):
            return self._finish(image, box, rng)
        rng.bit_generator.state = before  # The header has told another size.
        return self(image, rng)

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> Box:
        if self.crop != "resized":
            return Box(0, 0, height, width)
        return Box(*sample_crop(rng, height, width, self.crop_scale, self.crop_ratio))

    def _shrink(self, box: Box) -> int:
        height, width = self.image_size
        return next((part for part in _SHRINKS if box.height >= part * height and box.width >= part * width), 1)

    def _finish(self, image: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
        height, width = self.image_size
        cropped = resizing.resized_part(image, box, (width, height), self.interpolation, fast=self.fast_resize)
        if self.crop == "padded":
            top, left = (int(offset) for offset in rng.integers(-self.pad, self.pad + 1, size=2))
            # Black outside the image.
            cropped = resizing.as_pillow(cropped).crop((left, top, left + width, top + height))
        if rng.random() < self.flip_probability:
            cropped = resizing.flipped(cropped)
        if self._randaugment is not None:
            cropped = self._randaugment(to_rgb(resizing.as_pillow(cropped)), rng)
        return resizing.as_rgb(cropped)


@dataclass(frozen=True)
class EvalTransform:
    """Resize, then centre crop, with torchvision's rounding: → uint8 RGB [h, w, 3].

    Raises UserError: a value is out of range.

    Attributes:
      image_size: (h, w) of the result.
      crop_fraction: fraction of the resized image's shorter side that the crop keeps. For a square ``image_size`` the
        shorter side becomes int(side / crop_fraction), otherwise both sides at least int(side / crop_fraction).
      interpolation: "bicubic" or "bilinear", antialiased.
      resize: "crop" keeps the aspect ratio; "squash" does not: both sides become int(side / crop_fraction).
    """

    image_size: tuple[int, int]
    crop_fraction: float = 224 / 256
    interpolation: str = "bicubic"
    resize: Literal["crop", "squash"] = "crop"

    def __post_init__(self) -> None:
        _check_size(self.image_size, self.interpolation)
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction}")

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image after resizing, before the crop."""
        least_height, least_width = (int(side / self.crop_fraction) for side in self.image_size)
        if self.resize == "squash":
            return least_height, least_width
        if least_height * width >= least_width * height:
            return least_height, least_height * width // height
        return least_width * height // width, least_width

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """The image of a Pillow image or uint8 [H, W, 3], [H, W, 1] or [H, W]; raises UserError for other arrays."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(_check_array(image))
        height, width = self.image_size
        resized_height, resized_width = self.resized_size(image.height, image.width)
        image = resize(image, (resized_width, resized_height), INTERPOLATIONS[self.interpolation])
        # Python rounds halves to even, as torchvision's crop does.
        top, left = round((resized_height - height) / 2), round((resized_width - width) / 2)
        return np.array(to_rgb(image.crop((left, top, left + width, top + height))))


def _check_array(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], or [H, W] of a grey image: in mode L Pillow has a third of the work until it becomes RGB."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or 0 in image.shape or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise UserError(f"images must be uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image


def _check_size(image_size: tuple[int, int], interpolation: str) -> None:
    if len(image_size) != 2 or min(image_size) < 1:
        raise UserError(f"image_size must be two sides (h, w) of 1 or more, not {image_size}")
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"interpolation must be one of {sorted(INTERPOLATIONS)}, not {interpolation!r}")
