"""Images on the host: bytes → uint8 RGB [H, W, 3] → what the model is trained or evaluated on, still uint8.

Training decodes with OpenCV, which is faster and gives Pillow's pixels; evaluation goes through Pillow alone, as the
published accuracies did. Cropping and resizing follow torchvision. Normalisation happens later, in the jitted step.
"""

import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pvt_jax.data.randaugment import IMAGENET_MEAN, INTERPOLATIONS, Fill, RandAugment
from pvt_jax.errors import CorruptImageError, UserError

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# What may follow 0xFF once pixels have begun: a stuffed zero, fill, restarts; in a progressive file tables and scans.
_PROGRESSIVE = 0xC2
_EXPECTED_IN_SCAN = np.isin(np.arange(256), [0x00, 0xFF, *range(0xD0, 0xD8)])
_EXPECTED_IN_SCANS = _EXPECTED_IN_SCAN | np.isin(np.arange(256), [0xC4, _START_OF_SCAN])


def limit_threads() -> None:
    """Keeps OpenCV to the calling thread, for this process. Cheap; the pipeline's workers are the parallelism."""
    cv2.setNumThreads(0)


def decode(data: bytes, name: str) -> np.ndarray:
    """The image in the bytes of a file, uint8 RGB [H, W, 3], for training.

    The same pixels as ``decode_pil``: an EXIF orientation is not applied, transparency is dropped. JPEG and PNG files
    that look whole go through OpenCV, and everything else is left to Pillow's verdict.

    Args:
      name: path or record, for the message.

    Raises:
      CorruptImageError: the bytes are empty, truncated or no image.
    """
    if _is_sound_jpeg(data) or _is_sound_png(data):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            image = None
        if image is not None:
            return image
    return np.array(decode_pil(data, name))


def decode_pil(data: bytes, name: str) -> Image.Image:
    """The image in the bytes of a file, RGB, for evaluation. Arguments and errors as of ``decode``."""
    if not data:
        raise _corrupt(name, "it is empty")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise _corrupt(name, "no image format is recognised") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever the bytes provoke.
        raise _corrupt(name, " ".join(str(error).split()) or type(error).__name__) from error


def sample_crop(
    rng: np.random.Generator, height: int, width: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) inside an image, as torchvision's RandomResizedCrop draws it.

    The area is uniform in ``scale`` (shares of the image), the aspect width / height log-uniform in ``ratio``. If ten
    draws do not fit, it is the largest central box whose aspect is in ``ratio``.
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

    Attributes:
      image_size: (h, w) of the result.
      crop: "resized" crops a random area and aspect and resizes it (ImageNet); "padded" resizes if the size differs,
        adds ``pad`` black pixels on each side and crops back at random (CIFAR); "none" resizes, whatever the aspect.
      crop_scale, crop_ratio: see ``sample_crop``; only for "resized".
      pad: pixels; only for "padded", which needs it.
      flip_probability: of a horizontal flip.
      policy: see ``RandAugment.parse``; empty for none.
      fill: RGB in 0..255 for what RandAugment uncovers; without a policy nothing is filled.
      interpolation: "bicubic" or "bilinear", antialiased, also for RandAugment.

    Raises:
      UserError: a value is out of range, or set for another ``crop`` than the one that reads it.
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
                f"crop_scale {self.crop_scale} must rise within 0..1, crop_ratio {self.crop_ratio} be positive and rise"
            )
        if not 0 <= self.flip_probability <= 1:
            raise UserError(f"flip_probability must be in 0..1, not {self.flip_probability}")
        _ = self._randaugment  # A policy that cannot be parsed fails here, not in a worker.

    @cached_property
    def _randaugment(self) -> RandAugment | None:
        if not self.policy:
            return None
        return RandAugment.parse(self.policy, fill=self.fill, interpolation=self.interpolation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image, a new array. Raises UserError unless ``image`` is uint8 of one of the shapes above."""
        cropped = self._crop(_check_array(image), rng)
        if rng.random() < self.flip_probability:
            cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cropped = _to_rgb(cropped)
        if self._randaugment is not None:
            cropped = self._randaugment(cropped, rng)
        return np.array(cropped)

    def _crop(self, image: np.ndarray, rng: np.random.Generator) -> Image.Image:
        height, width = self.image_size
        resampling = INTERPOLATIONS[self.interpolation]
        if self.crop == "resized":
            full_height, full_width = image.shape[:2]
            box = sample_crop(rng, full_height, full_width, self.crop_scale, self.crop_ratio)
            top, left, crop_height, crop_width = box
            # Sliced first: Pillow's resize(box=) is no faster and blends in pixels from outside the box.
            image = image[top : top + crop_height, left : left + crop_width]
        resized = _resize(Image.fromarray(image), (width, height), resampling)
        if self.crop == "padded":
            top, left = (int(offset) for offset in rng.integers(-self.pad, self.pad + 1, size=2))
            resized = resized.crop((left, top, left + width, top + height))  # black outside of the image
        return resized


@dataclass(frozen=True)
class EvalTransform:
    """Resize, keeping the aspect, then the central crop, with torchvision's rounding: → uint8 RGB [h, w, 3].

    Attributes:
      image_size: (h, w) of the result.
      crop_fraction: the share of the resized image's shorter side that is kept. For a square ``image_size`` the shorter
        side is resized to int(side / crop_fraction), otherwise both sides to at least int(side / crop_fraction).
      interpolation: "bicubic" or "bilinear", antialiased.

    Raises:
      UserError: a value is out of range.
    """

    image_size: tuple[int, int]
    crop_fraction: float = 224 / 256
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        _check_size(self.image_size, self.interpolation)
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction}")

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to which an image of that size is resized before the crop."""
        least_height, least_width = (int(side / self.crop_fraction) for side in self.image_size)
        if least_height * width >= least_width * height:
            return least_height, least_height * width // height
        return least_width * height // width, least_width

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """Takes a Pillow image, or uint8 [H, W, 3], [H, W, 1] or [H, W]; raises UserError for another array."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(_check_array(image))
        height, width = self.image_size
        resized_height, resized_width = self.resized_size(image.height, image.width)
        image = _resize(image, (resized_width, resized_height), INTERPOLATIONS[self.interpolation])
        # Python rounds halves to even, and so does torchvision's crop.
        top, left = round((resized_height - height) / 2), round((resized_width - width) / 2)
        return np.array(_to_rgb(image.crop((left, top, left + width, top + height))))


def _is_sound_jpeg(data: bytes) -> bool:
    """Whether a JPEG has an end, no marker that does not belong, 8 bits, one or three channels. It may still fail.

    OpenCV takes files that Pillow refuses (some of its versions even truncated ones) and converts CMYK its own way.
    """
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        return False
    position, marker, channels, expected = 2, 0, 0, _EXPECTED_IN_SCAN
    while marker != _START_OF_SCAN:
        header = data[position : position + 10]
        if len(header) < 10 or header[0] != 0xFF:
            return False
        marker = header[1]
        if marker in _START_OF_FRAME:
            channels = header[9] if header[4] == 8 else 0
            expected = _EXPECTED_IN_SCANS if marker == _PROGRESSIVE else _EXPECTED_IN_SCAN
        position += 2 + int.from_bytes(header[2:4], "big")
    scans = np.frombuffer(data, np.uint8)[position:-2]
    follows = scans[np.flatnonzero(scans[:-1] == 0xFF) + 1]
    return channels in (1, 3) and bool(expected[follows].all())


def _is_sound_png(data: bytes) -> bool:
    """Whether a PNG has all its chunks to the end, each with the right checksum."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return False
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if view[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False


def _corrupt(name: str, reason: str) -> CorruptImageError:
    return CorruptImageError(
        f"{name}: cannot be decoded ({reason}); remove or replace the file, or pass --config.data.on_corrupt=skip"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB without transparency; an RGB image is returned as it is."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip at 255; the high byte is what 16-bit RGB files get.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # The same colours, without Pillow's warning.
    return image.convert("RGB")


def _check_array(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] or, of a grey image, [H, W]: Pillow makes it mode L, a third of the work until it becomes RGB."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or 0 in image.shape or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise UserError(f"images must be uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image


def _resize(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """To (width, height), antialiased. Palettes cannot be averaged, so anything but grey becomes RGB first."""
    if image.mode not in ("L", "RGB"):
        image = _to_rgb(image)
    return image if image.size == size else image.resize(size, resampling)


def _check_size(image_size: tuple[int, int], interpolation: str) -> None:
    if len(image_size) != 2 or min(image_size) < 1:
        raise UserError(f"image_size must be two sides (h, w) of 1 or more, not {image_size}")
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"interpolation must be one of {sorted(INTERPOLATIONS)}, not {interpolation!r}")
