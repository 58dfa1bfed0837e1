"""What the transforms of several tasks do with images on the host."""

from typing import Any

import cv2
import numpy as np
from PIL import Image

from pvt_jax.errors import UserError

Fill = tuple[int, int, int]
# (long, short): limits of the longer and the shorter side; (0, 0) for those of the image.
Scale = tuple[int, int]

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def fitted_size(height: int, width: int, scale: Scale, ratio: float = 1.0) -> tuple[int, int]:
    """(height, width) of an image made as large as ``scale`` × ``ratio`` allows, its aspect kept, as mmcv rounds it.

    No side becomes less than 1, where mmcv would fail.
    """
    limits = [int(side * ratio) for side in (scale if any(scale) else (height, width))]
    factor = min(max(limits) / max(height, width), min(limits) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def pad_to(array: np.ndarray, height: int, width: int, fill: int | Fill) -> np.ndarray:
    """A copy of [h, w] or [h, w, 3] with ``fill`` below and to the right, up to that size; no side may be larger."""
    below, right = height - array.shape[0], width - array.shape[1]
    return np.asarray(cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill))


def check_rgb(image: np.ndarray) -> np.ndarray:
    """``image``, if it is uint8 RGB [H, W, 3]; raises UserError for another array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(f"images must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image


def check_source_array(image: np.ndarray, name: str) -> None:
    """Raises UserError unless an image that is no file is uint8 [H, W, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        shape = ", ".join(map(str, image.shape))
        raise UserError(f"{name} is {image.dtype} [{shape}], but an image is uint8 [H, W, 3]: convert it in its source")


def place(arrays: dict[str, Any], name: str, size_name: str, value: np.ndarray) -> None:
    """Put ``value`` into the upper left of ``arrays[name]``, and its (height, width) into ``arrays[size_name]``."""
    arrays[name][: value.shape[0], : value.shape[1]] = value
    arrays[size_name] = np.array(value.shape[:2], np.int32)
