"""What JPEG, PNG and TIFF files say of their pixels, and whether they are whole; nothing is decoded.

Pillow's own readers of headers limit the text in a PNG and the pixels of a process, and miss what follows the pixels.
"""

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
# What may follow 0xFF once pixels have begun: a stuffed zero, fill, restarts; in a progressive file tables and scans.
_PROGRESSIVE = 0xC2
_EXPECTED_IN_SCAN = np.isin(np.arange(256), [0x00, 0xFF, *range(0xD0, 0xD8)])
_EXPECTED_IN_SCANS = _EXPECTED_IN_SCAN | np.isin(np.arange(256), [0xC4, _START_OF_SCAN])

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# All that pixels depend on. Others may be of any size, and libpng complains of them at each reading.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# EXIF data behind the pixels of a PNG is looked for in so many bytes at its end.
_TAIL = 1 << 16
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112
# TIFF's tags of where strips and tiles begin, and of how long they are.
_PARTS = ((273, 324), (279, 325))


@dataclass(frozen=True)
class Header:
    """What is known of an image without decoding it; by default, of a file that is none.

    Attributes:
        stored: (height, width) of the pixels in their order in the file.
        mode: as Pillow's, such as "RGB".
        orientation: EXIF's, 1 to 8; 1 is upright.
        format: as Pillow's, such as "JPEG".
        bits: of a sample.
    """

    stored: tuple[int, int] = (0, 0)
    mode: str = ""
    orientation: int = 1
    format: str = ""
    bits: int = 8

    def size(self, upright: bool = True) -> tuple[int, int]:
        """(height, width) of the image, turned as its orientation says unless ``upright`` is False."""
        height, width = self.stored
        return (width, height) if upright and self.orientation > 4 else self.stored


@dataclass(frozen=True)
class JpegHeader(Header):
    """Of a JPEG file, whose first scan begins at byte ``scan``."""

    progressive: bool = False
    scan: int = 0


@dataclass(frozen=True)
class TiffHeader(Header):
    """Of the first page of a TIFF file.

    Attributes:
        sample_format: 1 for unsigned and 2 for signed integers, 3 for floats.
        photometric: 0 where 0 is white, 1 where it is black, 2 for RGB; others are not distinguished here.
        end: bytes that the file needs for its pixels.
    """

    sample_format: int = 1
    photometric: int = 1
    end: int = 0


def jpeg_header(stream: BinaryIO) -> JpegHeader | None:
    """What a JPEG file says before its first scan; None where a marker is missing."""
    if stream.read(2) != b"\xff\xd8":
        return None
    size, bits, channels, orientation, progressive = (0, 0), 0, 0, 1, False
    while True:
        start = stream.read(4)
        if len(start) < 4 or start[0] != 0xFF:
            return None
        marker, length = start[1], int.from_bytes(start[2:], "big") - 2
        payload = stream.read(length if marker in _START_OF_FRAME or marker == _APP1 else 0)
        if marker in _START_OF_FRAME:
            if len(payload) < 6:
                return None
            bits, channels, progressive = payload[0], payload[5], marker == _PROGRESSIVE
            size = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
        elif payload.startswith(b"Exif\0\0") and orientation == 1:
            orientation = exif_orientation(payload)
        if (rest := length - len(payload)) > 0:
            stream.seek(rest, io.SEEK_CUR)
        if marker == _START_OF_SCAN:
            mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels, "")
            return JpegHeader(size, mode, orientation, "JPEG", bits, progressive, stream.tell()) if all(size) else None


def is_whole_jpeg(data: bytes, header: JpegHeader) -> bool:
    """Whether a JPEG has an end, and no marker that does not belong. It may still fail."""
    if not data.endswith(b"\xff\xd9"):
        return False
    expected = _EXPECTED_IN_SCANS if header.progressive else _EXPECTED_IN_SCAN
    scans = np.frombuffer(data, np.uint8)[header.scan : -2]
    return bool(expected[scans[np.flatnonzero(scans[:-1] == 0xFF) + 1]].all())


def png_header(stream: BinaryIO) -> Header | None:
    """What a PNG file says before its pixels, and in EXIF data at its end; None where it does not begin as one."""
    start = stream.read(33)
    if len(start) < 33 or not start.startswith(PNG_SIGNATURE + b"\0\0\0\rIHDR"):
        return None
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    bits, kind, orientation = start[24], start[25], 1
    grey = "1" if bits == 1 else "I;16" if bits == 16 else "L"
    while len(chunk := stream.read(8)) == 8:
        length, name = int.from_bytes(chunk[:4], "big"), chunk[4:]
        if name == b"IDAT":
            orientation = orientation if orientation > 1 else _orientation_in_tail(stream)
            break
        payload = stream.read(length) if name == b"eXIf" else b""
        orientation = exif_orientation(payload) if payload else orientation
        stream.seek(length - len(payload) + 4, io.SEEK_CUR)
    mode = {0: grey, 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}.get(kind, "")
    return Header((height, width), mode, orientation, "PNG", bits)


def png_pixels(data: bytes) -> bytes | None:
    """The chunks of a PNG file that its pixels depend on; None unless it has all to the end, without a wrong sum."""
    view, position, kept = memoryview(data), len(PNG_SIGNATURE), [(0, len(PNG_SIGNATURE))]
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return None
        name = view[position + 4 : position + 8]
        if name in _PIXEL_CHUNKS:
            kept.append((position, end + 4))
        position = end + 4
        if name == b"IEND":
            whole = sum(end - start for start, end in kept) == len(data)
            return data if whole else b"".join(view[start:end] for start, end in kept)
    return None


def tiff_header(stream: BinaryIO) -> TiffHeader | None:
    """What a TIFF file says of its first page; None where it does not begin as one, or is cut off before that."""
    start = stream.read(8)
    if not start.startswith(_TIFF_SIGNATURES):
        return None
    start += stream.read(8) if b"+" in start[:4] else b""  # BigTIFF
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # What is cut off is refused when it is decoded.
        tags = ImageFileDirectory_v2(start)
        stream.seek(tags.next)
        tags.load(stream)
        height, width, photometric = tags.get(257, 0), tags.get(256, 0), tags.get(262, 1)
        bits, kinds, orientation = tags.get(258, (1,)), tags.get(339, (1,)), tags.get(_ORIENTATION, 1)
        offsets, counts = (tags.get(of_strips) or tags.get(of_tiles) or () for of_strips, of_tiles in _PARTS)
        end = max((offset + count for offset, count in zip(offsets, counts, strict=False)), default=0)
    orientation = orientation if orientation in range(1, 9) else 1
    kind = kinds[0] if kinds[0] in (2, 3) else 1
    mode = {2: "RGB", 3: "P", 5: "CMYK", 6: "YCbCr"}.get(photometric, "L")
    return TiffHeader((height, width), mode, orientation, "TIFF", bits[0], kind, photometric, end)


def exif_orientation(exif: bytes) -> int:
    """The orientation in EXIF data, 1 to 8; 1 where it is missing or out of range."""
    exif = exif.removeprefix(b"Exif\0\0")
    if not exif.startswith(_TIFF_SIGNATURES[:2]):
        return 1

    def number(start: int, length: int) -> int:
        return int.from_bytes(exif[start : start + length], "little" if exif.startswith(b"I") else "big")

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(exif)), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            return value if value in range(1, 9) else 1
    return 1


def _orientation_in_tail(stream: BinaryIO) -> int:
    """The orientation in an eXIf chunk behind the pixels of a PNG file, known by its sum of the bytes; else 1."""
    here = stream.tell()
    stream.seek(max(here, stream.seek(0, io.SEEK_END) - _TAIL))
    tail = stream.read()
    name = tail.rfind(b"eXIf")
    end = name + 4 + int.from_bytes(tail[name - 4 : name], "big")
    if name < 4 or zlib.crc32(tail[name:end]) != int.from_bytes(tail[end : end + 4], "big"):
        return 1
    return exif_orientation(tail[name + 4 : end])
