"""Images on the host: from the bytes of a file to uint8 RGB [H, W, 3].

Training decodes with OpenCV, which is faster and gives Pillow's pixels; evaluation goes through Pillow alone, as the
published accuracies did.
"""

import io
import zlib

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pvt_jax.errors import CorruptImageError

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
    that look whole go through OpenCV, and everything else is left to Pillow's verdict. Raises CorruptImageError: the
    bytes are empty, truncated or no image; ``name``, a path or record, is for the message.
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
        return to_rgb(image)
    except UnidentifiedImageError as error:
        raise _corrupt(name, "no image format is recognised") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever the bytes provoke.
        raise _corrupt(name, " ".join(str(error).split()) or type(error).__name__) from error


def decoded(image: bytes | np.ndarray, name: str) -> np.ndarray:
    """uint8 [h, w, 3] from the bytes of a file, or as it is; raises CorruptImageError."""
    return decode(image, name) if isinstance(image, bytes) else image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB without transparency; an RGB image is returned as it is."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip at 255; the high byte is what 16-bit RGB files get.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # The same colours, without Pillow's warning.
    return image.convert("RGB")


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
