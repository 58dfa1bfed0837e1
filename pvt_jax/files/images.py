"""Images on the host: from the bytes of a file to uint8 RGB [H, W, 3], the same for training, checks and evaluation.

A file is known by its content, not by its name. Whole 8-bit JPEG and PNG files go through OpenCV, which is faster than
Pillow and gives its pixels; files with more than 8 bits go through OpenCV, too, as Pillow drops the lower ones; Pillow
reads all others. Of several frames or pages the first is read.

Transparency is dropped, and what it hid is seen, as by torchvision and OpenCV. An EXIF orientation is applied, as by
browsers, label tools, OpenCV, mmcv and detectron2, but not by torchvision and TFDS, which published accuracies on
ImageNet come from; ``data.exif_orientation=False`` does as these.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.containers import Header, JpegHeader, TiffHeader, is_whole_jpeg, png_pixels
from pvt_jax.files.headers import image_header, open_image, quiet
from pvt_jax.files.kinds import content_of
from pvt_jax.files.values import DeepValues, Spread, deep_values

# OpenCV's limit.
_MOST_PIXELS = 1 << 30
# Bits that OpenCV reads as they are, for each of TIFF's sample formats.
_READ_BY_OPENCV = {1: (10, 12, 14, 16), 2: (8, 16, 32), 3: (32, 64)}
# OpenCV's flags for a part of the size, which libjpeg computes from a part of the frequencies. Those called COLOR are
# these with the flag of blue before red.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# For each orientation: whether rows and columns are exchanged, and what is flipped then, so that an image is upright.
_TURNS = {
    2: (False, np.fliplr),
    3: (False, lambda image: image[::-1, ::-1]),
    4: (False, np.flipud),
    5: (True, lambda image: image),
    6: (True, np.fliplr),
    7: (True, lambda image: image[::-1, ::-1]),
    8: (True, np.flipud),
}
_INVERSE = {6: 8, 8: 6}


@dataclass(frozen=True)
class Traits:
    """What is unusual in an image that can be decoded.

    Attributes:
        orientation: EXIF's, 1 for upright.
        is_transparent: whether a pixel is.
        has_frames: whether it has several frames or pages.
        spread: of values of more than 8 bits.
    """

    orientation: int = 1
    is_transparent: bool = False
    has_frames: bool = False
    spread: Spread | None = None


def limit_threads() -> None:
    """Keeps OpenCV to the calling thread, for this process. Cheap; the pipeline's workers are the parallelism."""
    cv2.setNumThreads(0)


def decode(data: bytes, name: str, options: ReadingOptions | None = None, shrink: int = 1) -> np.ndarray:
    """The image in the bytes of a file, uint8 RGB [H, W, 3], contiguous.

    Messages say ``name``, a path or record. With ``shrink`` 2, 4 or 8, a usual JPEG file is decoded at that part of its
    size, each side rounded up; all others have their size: those that Pillow reads, and turned ones whose sides
    ``shrink`` does not divide, as the part of a pixel would come first.

    Raises:
        CorruptImageError: the bytes are empty, truncated, no image, or too large an image.
        UserError: values of more than 8 bits whose range is neither known nor given.
    """
    options = options or ReadingOptions()
    header, image = _read(data, name, shrink)
    if isinstance(image, DeepValues):
        image = _eight_bits(image, options, name)
    return np.ascontiguousarray(oriented(image, header, options.exif_orientation))


def decoded(image: bytes | np.ndarray, name: str, options: ReadingOptions | None = None) -> np.ndarray:
    """uint8 [h, w, 3] from the bytes of a file, or as it is; raises as ``decode``."""
    return decode(image, name, options) if isinstance(image, bytes) else image


def inspect(data: bytes, name: str) -> Traits:
    """What is unusual in an image that ``decode`` reads, or would if it knew a range; raises CorruptImageError."""
    header, image = _read(data, name)
    return Traits(header.orientation, *_layers(data, header), image.spread() if isinstance(image, DeepValues) else None)


def oriented(image: np.ndarray, header: Header, upright: bool = True) -> np.ndarray:
    """A view of what Pillow or OpenCV read, [h, w] or [h, w, c], upright or as it is stored."""
    orientation = header.orientation
    if header.format == "TIFF":  # Both have turned it.
        orientation = 1 if upright else _INVERSE.get(orientation, orientation)
    elif not upright:
        orientation = 1
    if orientation == 1:
        return image
    exchanged, flipped = _TURNS[orientation]
    return flipped(image.swapaxes(0, 1) if exchanged else image)


def pillow_image(data: bytes, header: Header) -> Image.Image:
    """Pillow's image of a file, not decoded yet. It raises whatever the bytes provoke."""
    if not data:
        raise ValueError("it is empty")
    if header.format == "PNG":
        # Text of over a million characters is refused by Pillow, and of no use here.
        data = png_pixels(data) or data
    try:
        return open_image(io.BytesIO(data), header.format)
    except UnidentifiedImageError as error:
        content = content_of(data)
        raise ValueError(f"it is {content}" if content else "no image format is recognised") from error


def reason_of(error: Exception) -> str:
    """What to say of an error of Pillow."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, Pillow's limit: divide or resize it"
    return " ".join(str(error).split()) or type(error).__name__


def _read(data: bytes, name: str, shrink: int = 1) -> tuple[Header, np.ndarray | DeepValues]:
    """Returns the header of an image, and its pixels as Pillow or OpenCV read them, uint8 RGB [h, w, 3] or deeper."""
    header = image_header(data)
    height, width = header.stored
    try:
        if height * width > _MOST_PIXELS:
            raise ValueError(
                f"{height:,} × {width:,} pixels are over the limit of {_MOST_PIXELS:,}: divide or resize it"
            )
        by_opencv = _read_by_opencv(data, header, shrink)
        return header, by_opencv if by_opencv is not None else _read_by_pillow(data, header)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever the bytes provoke.
        reason = f"cannot be decoded ({reason_of(error)})"
        raise CorruptImageError(
            f"{name}: {reason}; remove or replace the file, or pass --config.data.on_corrupt=skip", reason
        ) from error


def _read_by_opencv(data: bytes, header: Header, shrink: int) -> np.ndarray | DeepValues | None:
    """Returns the pixels of what OpenCV is left; None for other files, those that look damaged, and where it fails.

    OpenCV takes files that Pillow refuses (some of its versions even truncated ones) and converts CMYK its own way.
    """
    is_deep = header.bits > 8
    if isinstance(header, JpegHeader):
        is_readable = not is_deep and header.mode in ("L", "RGB") and is_whole_jpeg(data, header)
    elif isinstance(header, TiffHeader):
        is_deep |= header.sample_format != 1
        is_readable = is_deep and header.photometric <= 2 and header.end <= len(data)
        is_readable &= header.bits in _READ_BY_OPENCV.get(header.sample_format, ())
    else:
        pixels = png_pixels(data) if header.format == "PNG" else None
        is_readable, data = pixels is not None, pixels or b""
    if not is_readable:
        return None
    flags = cv2.IMREAD_UNCHANGED if is_deep else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if isinstance(header, JpegHeader) and (header.orientation == 1 or not any(side % shrink for side in header.stored)):
        flags |= _REDUCED.get(shrink, 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if image is None or not is_deep:
        return image
    # Blue comes first, opacity last, and a grey image has one channel or none.
    image = image if image.ndim == 2 else image[..., 2::-1] if image.shape[2] >= 3 else image[..., 0]
    if header.bits in (10, 12, 14):
        image = np.asarray(image, np.uint16) >> 16 - header.bits
    return deep_values(image, header.bits, isinstance(header, TiffHeader) and not header.photometric)


def _read_by_pillow(data: bytes, header: Header) -> np.ndarray | DeepValues:
    image = pillow_image(data, header)
    with quiet():
        image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # It scales these to 16 bits.
        return deep_values(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        return deep_values(np.asarray(image))
    if header.bits > 8 and getattr(header, "photometric", 0) <= 2:
        raise ValueError(
            f"it is damaged, or has its {header.bits} bits in an unusual order"
        )  # Pillow drops half of them.
    return np.array(to_rgb(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB without transparency, of an image of 8 bits or less; an RGB image is returned as it is."""
    if image.mode == "RGB":
        return image
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # The same colours, without Pillow's warning.
    if image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])  # Colours were multiplied with opacity.
    return image.convert("RGB")


def _eight_bits(image: DeepValues, options: ReadingOptions, name: str) -> np.ndarray:
    """Returns uint8 [h, w, 3]; raises UserError where the range of the values is not known."""
    try:
        steps = image.to_bytes(options.value_range)
    except ValueError as error:
        spread = image.spread()
        raise UserError(
            f"{name} has {spread.kind}, {spread.lowest:,} … {spread.highest:,}, and nothing says which values are "
            f"black and white: set --config.data.value_range='({spread.lowest},{spread.highest})'"
        ) from error
    return steps if steps.ndim == 3 else np.repeat(steps[..., None], 3, axis=2)


def _layers(data: bytes, header: Header) -> tuple[bool, bool]:
    """Returns whether a pixel is transparent, and whether there are several frames or pages."""
    try:
        image = pillow_image(data, header)
        has_frames = getattr(image, "n_frames", 1) > 1 or 0 <= data.find(b"acTL") < data.find(b"IDAT")
        if not image.has_transparency_data:
            return False, has_frames
        opacity = np.asarray(image.convert("RGBA").getchannel("A"))
        return bool((opacity < 255).any()), has_frames
    except MemoryError:
        raise
    except Exception:  # Pillow does not read all that OpenCV reads.
        return False, False
