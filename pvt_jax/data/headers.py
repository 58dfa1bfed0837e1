"""Sizes of images from the first bytes of their files, for whole data sets."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image

# Network file systems answer one request slowly and many at once quickly.
THREADS = 8


def image_header(file: str | bytes) -> tuple[tuple[int, int], str, int]:
    """Returns (height, width), Pillow's mode and the EXIF orientation of an image, a path or encoded bytes.

    As everywhere here, the orientation is not applied; 1 is upright. Files that are no images have (0, 0), "" and 1.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            # Pillow decodes a PNG to look for EXIF data that its header lacks.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
            return (image.height, image.width), image.mode, orientation if orientation in range(1, 9) else 1
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise whatever the bytes provoke; decoding reports it.
        return (0, 0), "", 1


def fill_in_sizes(sizes: Sequence[tuple[int, int]], path: Callable[[int], str]) -> np.ndarray:
    """Returns (height, width) int32 [n, 2]: those that are given, and where they are (0, 0) those of the files."""
    filled = np.array(sizes, np.int32).reshape(-1, 2)
    unknown = np.flatnonzero(~filled.all(axis=1)).tolist()
    filled[unknown] = image_sizes(len(unknown), lambda number: path(unknown[number]))
    return filled


def image_sizes(count: int, file: Callable[[int], str | bytes]) -> np.ndarray:
    """Returns (height, width) of ``file(0)`` … ``file(count - 1)``, int32 [count, 2]; (0, 0) if it is no image."""
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(lambda index: image_header(file(index))[0], range(count)))
    return np.array(sizes, np.int32).reshape(-1, 2)
