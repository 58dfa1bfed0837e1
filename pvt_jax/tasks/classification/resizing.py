"""Resizing a part of an image on the host: by Pillow, or by cykooz_resizer in SIMD instructions.

Both have the same filters. The second one rounds its weights to fewer bits, and differs in the last ones of a pixel.
"""

import importlib.util
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.files.images import to_rgb
from pvt_jax.tasks.images import INTERPOLATIONS

# As cykooz_resizer calls them.
_FILTERS = {"bilinear": "bilinear", "bicubic": "catmull_rom"}
_PACKAGE = "cykooz_resizer"


AnyImage = Image.Image | np.ndarray


class Box(NamedTuple):
    """A part of an image, in pixels; of an image that was decoded at a part of its size, also in fractions."""

    top: float
    left: float
    height: float
    width: float

    def shrunk(self, factor: int) -> "Box":
        """The same part of an image that is smaller by ``factor``."""
        return Box(*(side / factor for side in self))


def check_installed() -> None:
    """Raises UserError: cykooz_resizer is not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:
        raise UserError(f"transform.fast_resize=True needs the package {_PACKAGE}: pip install {_PACKAGE}")


def resize(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, box: Any = None) -> Image.Image:
    """Resize to (width, height), antialiased. Palettes cannot be averaged: all but grey images become RGB first."""
    if image.mode not in ("L", "RGB"):
        image = to_rgb(image)
    return image if image.size == size and box is None else image.resize(size, resampling, box)


def resized_part(image: np.ndarray, box: Box, size: tuple[int, int], interpolation: str, *, fast: bool) -> AnyImage:
    """A part of uint8 [H, W] or [H, W, 3], resized to (width, height) and antialiased: grey or RGB.

    It is Pillow's or NumPy's, as the library gives it: each change between the two copies.
    """
    top, left = math.floor(box.top), math.floor(box.left)
    # Sliced first: Pillow's resize(box=) is no faster and mixes in pixels from outside the box.
    part = image[top : math.ceil(box.top + box.height), left : math.ceil(box.left + box.width)]
    inner = (box.left - left, box.top - top, box.left - left + box.width, box.top - top + box.height)
    whole = inner == (0, 0, part.shape[1], part.shape[0])
    if not fast:
        return resize(Image.fromarray(part), size, INTERPOLATIONS[interpolation], None if whole else inner)
    return (
        part if whole and part.shape[1::-1] == size else _by_simd(part, None if whole else inner, size, interpolation)
    )


def flipped(image: AnyImage) -> AnyImage:
    """Its mirror image, left to right."""
    if isinstance(image, np.ndarray):
        return np.asarray(cv2.flip(image, 1))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def as_pillow(image: AnyImage) -> Image.Image:
    """Of Pillow, grey or RGB."""
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def as_rgb(image: AnyImage) -> np.ndarray:
    """A new array, uint8 RGB [h, w, 3]."""
    if not isinstance(image, np.ndarray):
        return np.array(to_rgb(image))
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()


def _by_simd(image: np.ndarray, box: tuple[float, ...] | None, size: tuple[int, int], interpolation: str) -> np.ndarray:
    library: Any = importlib.import_module(_PACKAGE)
    kind = library.PixelType.U8 if image.ndim == 2 else library.PixelType.U8x3
    filter_type = getattr(library.FilterType, _FILTERS[interpolation])
    options = library.ResizeOptions(resize_alg=library.ResizeAlg.convolution(filter_type), use_alpha=False)
    if box is not None:
        left, top, right, bottom = box
        options.crop_box = library.CropBox(left, top, right - left, bottom - top)
    source = library.ImageData(image.shape[1], image.shape[0], kind, image.tobytes())
    target = library.ImageData(*size, kind)
    library.Resizer().resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size[1], size[0], *image.shape[2:])
