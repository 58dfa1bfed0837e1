"""Sizes of images from the first bytes of their files, for whole data sets."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image

# Network file systems answer one request slowly and many at once quickly.
THREADS = 8


def image_header(file: str | bytes) -> tuple[tuple[int, int], str]:
    """Returns (height, width) and Pillow's mode of the image in a path or in encoded bytes; (0, 0) and "" of none.

    As everywhere here, an EXIF orientation is not applied.
    """
    size, mode, _ = _read_header(file)
    return size, mode


def size_and_orientation(file: str | bytes) -> tuple[tuple[int, int], int]:
    """Returns (height, width) as ``image_header`` does, and the EXIF orientation: 1, upright, where there is none."""
    size, _, orientation = _read_header(file)
    return size, orientation


def _read_header(file: str | bytes) -> tuple[tuple[int, int], str, int]:
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            # Asked for what it has not, a PNG would be decoded.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
            return (image.height, image.width), image.mode, orientation if orientation in range(1, 9) else 1
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise whatever the bytes provoke; decoding will tell it.
        return (0, 0), "", 1


def image_sizes(count: int, file: Callable[[int], str | bytes]) -> np.ndarray:
    """Returns (height, width) of ``file(0)`` … ``file(count - 1)``, int32 [count, 2]; (0, 0) of what is no image."""
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(lambda index: image_header(file(index))[0], range(count)))
    return np.array(sizes, np.int32).reshape(-1, 2)
