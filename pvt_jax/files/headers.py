"""Sizes and orientations of images from the first bytes of their files, for whole data sets."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pvt_jax.files.containers import Header, exif_orientation, jpeg_header, png_header, tiff_header

# Network file systems answer one request slowly and many at once quickly.
THREADS = 8
_PLUGINS: Mapping[str, Callable[[BinaryIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
}


class Oriented(NamedTuple):
    """Sizes (height, width) int32 [n, 2], (0, 0) of what is no image, and EXIF orientations int8 [n]."""

    sizes: np.ndarray
    orientations: np.ndarray


def image_header(file: str | bytes) -> Header:
    """Returns the header of an image, a path or encoded bytes; of what is no image the size is (0, 0)."""
    try:
        if isinstance(file, bytes):
            return _header(io.BytesIO(file))
        with open(file, "rb") as stream:
            return _header(stream)
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise whatever the bytes provoke; decoding reports it.
        return Header()


def fill_in_sizes(sizes: Sequence[tuple[int, int]], path: Callable[[int], str], upright: bool) -> np.ndarray:
    """Returns (height, width) int32 [n, 2]: those that are given, and where they are (0, 0) those of the files."""
    filled = np.array(sizes, np.int32).reshape(-1, 2)
    unknown = np.flatnonzero(~filled.all(axis=1)).tolist()
    filled[unknown] = oriented_sizes(len(unknown), lambda number: path(unknown[number]), upright).sizes
    return filled


def oriented_sizes(count: int, file: Callable[[int], str | bytes], upright: bool) -> Oriented:
    """Returns what the headers of ``file(0)`` … ``file(count - 1)`` say; see ``Header.size`` for ``upright``."""
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(lambda index: image_header(file(index)), range(count)))
    sizes = np.array([header.size(upright) for header in headers], np.int32).reshape(-1, 2)
    return Oriented(sizes, np.array([header.orientation for header in headers], np.int8))


def open_image(stream: BinaryIO, format: str = "") -> Image.Image:
    """Pillow's image of a stream, without the limit of pixels that a process has where the format is known.

    It raises whatever the bytes provoke; for PostScript, on which Pillow runs another program, UnidentifiedImageError.
    """
    with quiet():
        image = _PLUGINS[format](stream) if format in _PLUGINS else Image.open(stream)
    if image.format == "EPS":
        raise UnidentifiedImageError("PostScript is a program")
    return image


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings of large images, and of damage before it raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _header(stream: BinaryIO) -> Header:
    for read in (jpeg_header, png_header, tiff_header):
        if header := read(stream):
            return header
        stream.seek(0)
    with open_image(stream) as image:
        orientation = exif_orientation(image.info.get("exif", b""))
        return Header((image.height, image.width), image.mode, orientation, image.format or "")
