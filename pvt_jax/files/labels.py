"""Label maps: from the values that a data set stores to class indices 0 … K-1, with 255 for ignored pixels."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pvt_jax.data.options import IGNORE, Colour
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import image_header
from pvt_jax.files.images import oriented, pillow_image, reason_of

# Values that a grey pixel of a PNG can have.
_STORABLE = 1 << 16
# Formats that are always lossless; WebP files may be, without a mark of it.
_LOSSLESS = ("PNG", "BMP", "DIB", "GIF", "PPM")
# TIFF says how it is compressed; in words of Pillow.
_LOSSLESS_IN_TIFF = (
    "raw", "packbits", "tiff_ccitt", "group3", "group4", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma",
    "zstd",
)  # fmt: skip


@dataclass(frozen=True)
class LabelEncoding:
    """How a data set's label maps encode classes.

    Palette images are read as indices, never as colours, but for GIF. RGB images with three equal channels are grey
    images. Raises UserError: settings that contradict each other or are out of range.

    Attributes:
        num_classes: K, at most 255.
        ignore_labels: stored values that become 255.
        reduce_zero_label: the stored 0 becomes 255, and any other v is class v - 1.
        mapping: stored value → class; excludes ``reduce_zero_label`` and has precedence over ``ignore_labels``.
        colours: of RGB-coded label maps; ``colours[k]`` is class k, further ones become 255. If all are grey, they also
            decode grey images, such as black and white masks with 0 and 255.
    """

    num_classes: int
    ignore_labels: tuple[int, ...] = (IGNORE,)
    reduce_zero_label: bool = False
    mapping: Mapping[int, int] | None = None
    colours: tuple[Colour, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= IGNORE:
            raise UserError(f"label maps have 1 to {IGNORE} classes, not {self.num_classes}: set model.num_classes")
        for value in (*self.ignore_labels, *(self.mapping or ())):
            if not isinstance(value, int) or not 0 <= value < _STORABLE:
                raise UserError(
                    f"segmentation.ignore_labels are values in the label files, 0 to {_STORABLE - 1}, not {value!r}"
                )
        if self.mapping is not None:
            if self.reduce_zero_label:
                raise UserError("reduce_zero_label is for labels that are numbered from 1: a mapping needs none")
            if outside := [label for label in self.mapping.values() if not 0 <= label < self.num_classes]:
                raise UserError(f"a mapping of labels gives class {outside[0]}, outside 0…{self.num_classes - 1}")
        if self.colours is not None:
            _check_colours(self.colours)
            if len(self.colours) < self.num_classes:
                raise UserError(
                    f"segmentation.palette has {len(self.colours)} colours for {self.num_classes} classes: give one "
                    f"for each, and after them those of pixels to ignore"
                )

    def decode(self, data: bytes | np.ndarray, name: str, upright: bool = True) -> np.ndarray:
        """Classes uint8 [h, w], 255 where ignored, of an image file's bytes, or of an array of stored values.

        Messages say ``name``, a path or record. ``upright``: whether an EXIF orientation is applied.

        Raises:
            CorruptImageError: the bytes are no image.
            UserError: a value or colour that is no label of this data set, or a format that loses what was saved.
        """
        stored, are_classes = self._read(data, name, upright)
        if are_classes:
            return stored
        if unknown := self._unknown(_present(stored)):
            raise UserError(f"{name}: {self.describe(unknown)}")
        return cv2.LUT(stored, self._table[:256]) if stored.dtype == np.uint8 else self._table[stored]

    def inspect(self, data: bytes | np.ndarray, name: str, upright: bool = True) -> "Contents":
        """The contents of a label map. Arguments and errors as of ``decode``, but unknown values are returned."""
        stored, are_classes = self._read(data, name, upright)
        values = _present(stored)
        height, width = stored.shape
        if are_classes:
            return Contents((height, width), frozenset(values) - {IGNORE}, (), ())
        known = {int(self._table[value]) for value in values if 0 <= value < _STORABLE}
        return Contents((height, width), frozenset(known - {IGNORE}), values, self._unknown(values))

    def describe(self, unknown: Sequence[int]) -> str:
        """Describes what is wrong with the sorted ``unknown`` values of a data set, and what to do."""
        ignored = f" (ignored: {', '.join(map(str, self.ignore_labels))})" if self.ignore_labels else ""
        if self.mapping is not None:
            return (
                f"label {worst(unknown)} is none of the {len(self.mapping)} known ones{ignored}: correct the label maps"
            )
        first = int(self.reduce_zero_label)
        classes, last = self.num_classes, self.num_classes - 1 + first
        ignoring = f"--config.segmentation.ignore_labels='{(*self.ignore_labels, *unknown)}'".replace(" ", "")
        beyond = [value for value in unknown if value != IGNORE]
        if not beyond:
            ways = f"255 usually marks pixels to ignore: set {ignoring}"
        elif beyond == [classes] and not first:
            ways = (
                f"if labels count from 1, and 0 is unlabelled, set --config.segmentation.reduce_zero_label=True; if "
                f"{classes} is a class, --config.model.num_classes={classes + 1}; if it is unlabelled, {ignoring}"
            )
        elif beyond[-1] < IGNORE and beyond[0] >= 0:
            ways = f"if they are classes, set --config.model.num_classes={beyond[-1] + 1 - first}"
            ways += f"; if they are unlabelled, {ignoring}" if len(unknown) <= 4 else ""
        else:
            ways = "renumber the labels"
        return f"label {worst(unknown)} is outside {first}…{last}{ignored}: {ways}"

    def _unknown(self, values: Sequence[int]) -> tuple[int, ...]:
        return tuple(value for value in values if not 0 <= value < _STORABLE or not self._known[value])

    def _read(self, data: bytes | np.ndarray, name: str, upright: bool) -> tuple[np.ndarray, bool]:
        """Returns stored values, integers [h, w], and False; or classes, uint8 [h, w], and True."""
        stored, are_levels = (data, False) if isinstance(data, np.ndarray) else _stored_values(data, name, upright)
        by_level = are_levels and self._are_colours_grey and stored.dtype in (np.uint8, np.bool_)
        if stored.dtype == np.bool_:
            stored = stored * np.uint8(255 if by_level else 1)
        if stored.ndim == 3 and stored.shape[2] <= 2:
            stored = np.ascontiguousarray(stored[..., 0])  # a second channel is opacity
        is_map = stored.ndim == 2 and np.issubdtype(stored.dtype, np.integer)
        is_coloured = stored.ndim == 3 and stored.shape[2] in (3, 4) and stored.dtype == np.uint8
        if not (is_map or is_coloured) or 0 in stored.shape:
            raise UserError(f"{name} is {stored.dtype} {list(stored.shape)}, but a label map is integer [h, w]")
        if stored.ndim == 2:
            return (self._from_colours(_code(stored, stored, stored), name), True) if by_level else (stored, False)
        red, green, blue = (stored[..., channel] for channel in range(3))
        if self.colours is not None:
            return self._from_colours(_code(red, green, blue), name), True
        if np.array_equal(red, green) and np.array_equal(red, blue):
            return np.ascontiguousarray(red), False
        raise UserError(
            f"{name} is RGB-coded: give the colours of the classes in their order, as --config.segmentation.palette="
            f"'((0,0,0),(128,0,0))', or save the class numbers as grey PNGs"
        )

    def _from_colours(self, codes: np.ndarray, name: str) -> np.ndarray:
        found = _colour_table(self.colours or (), self.num_classes)[codes]
        if not found.all():
            row, column = (int(index) for index in np.argwhere(found == 0)[0])
            code = int(codes[row, column])
            raise UserError(
                f"{name}: colour {(code >> 16, code >> 8 & 255, code & 255)}, at row {row} and column {column}, is "
                f"none of the {len(self.colours or ())} in segmentation.palette: add it there, after those of the "
                f"classes if its pixels are to be ignored, or save the label maps without smoothing"
            )
        return (found - 1).astype(np.uint8)

    @functools.cached_property
    def _are_colours_grey(self) -> bool:
        return self.colours is not None and all(red == green == blue for red, green, blue in self.colours)

    @functools.cached_property
    def _known(self) -> np.ndarray:
        """Whether a stored value is a label or ignored, bool [65536]."""
        known = self._table != IGNORE
        known[list(self.ignore_labels)] = True
        known[0] |= self.reduce_zero_label
        return known

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The class of each stored value, uint8 [65536]."""
        table = np.full(_STORABLE, IGNORE, np.uint8)
        if self.mapping is not None:
            table[list(self.mapping)] = list(self.mapping.values())
        else:
            first = int(self.reduce_zero_label)
            table[first : first + self.num_classes] = np.arange(self.num_classes)
            table[list(self.ignore_labels)] = IGNORE
        return table


@dataclass(frozen=True)
class Contents:
    """What a label map contains.

    Attributes:
        size: height and width.
        classes: of its pixels.
        values: the stored values, sorted; empty where colours are stored.
        unknown: the values that are no label.
    """

    size: tuple[int, int]
    classes: frozenset[int]
    values: tuple[int, ...]
    unknown: tuple[int, ...]


def worst(unknown: Sequence[int]) -> int:
    """Returns the ``unknown`` value that ``LabelEncoding.describe`` names: the largest, 255 last."""
    return max(unknown, key=lambda value: (value != IGNORE, value))


def distinct_colours(count: int) -> np.ndarray:
    """``count`` ≤ 255 colours, uint8 [count, 3], none of them black: Pascal VOC's for 1, 2, 3, …

    Bits of the number go to red, green and blue in turn, from the highest place down.
    """
    numbers = np.arange(1, count + 1)[:, None]
    bits = numbers >> np.arange(8) & 1
    places = 0x80 >> np.arange(8) // 3
    return np.stack([(bits * places)[:, channel::3].sum(axis=1) for channel in range(3)], axis=1).astype(np.uint8)


def _check_colours(colours: Sequence[Any]) -> None:
    """Raises UserError unless all ``colours`` are different triples in 0…255."""
    seen: dict[Colour, int] = {}
    for number, colour in enumerate(colours):
        is_triple = isinstance(colour, tuple) and len(colour) == 3
        if not is_triple or not all(isinstance(channel, int) and 0 <= channel <= 255 for channel in colour):
            raise UserError(f"colour {number} of segmentation.palette is {colour}: write (red, green, blue) in 0…255")
        if colour in seen:
            raise UserError(
                f"colours {seen[colour]} and {number} of segmentation.palette are both {colour}: make them differ"
            )
        seen[colour] = number


@functools.lru_cache(maxsize=2)
def _colour_table(colours: tuple[Colour, ...], num_classes: int) -> np.ndarray:
    """1 + the class (255: ignored) of each colour's code, 0 for unknown colours, int16 [2 ** 24].

    Of these 32 MiB only what is touched takes memory; not kept in the encoding, which is sent to worker processes.
    """
    table = np.zeros(1 << 24, np.int16)
    classes = np.full(len(colours), IGNORE, np.int16)
    classes[:num_classes] = np.arange(num_classes)
    table[_code(*np.array(colours, np.uint8).T)] = 1 + classes
    return table


def _code(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue.astype(np.int32)


def _present(stored: np.ndarray) -> tuple[int, ...]:
    """The values in an array, sorted."""
    if stored.dtype == np.uint8:
        return tuple(np.flatnonzero(cv2.calcHist([stored], [0], None, [256], [0, 256])).tolist())
    return tuple(np.unique(stored).tolist())


def _stored_values(data: bytes, name: str, upright: bool) -> tuple[np.ndarray, bool]:
    """Returns palette indices, grey levels or colours of a file, and whether they are not indices."""
    header = image_header(data)
    try:
        image = pillow_image(data, header)
        if image.format not in _LOSSLESS and image.info.get("compression") not in _LOSSLESS_IN_TIFF:
            raise UserError(
                f"{name} is a {image.format} image, whose compression may change labels: save label maps as PNG"
            )
        image.load()
        # Writers of GIF renumber palettes, each file's in its own way, so that its indices mean nothing.
        stored = np.asarray(image.convert("RGB") if image.format == "GIF" else image)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever the bytes provoke.
        raise CorruptImageError(
            f"{name}: the label map cannot be decoded ({reason_of(error)}); repair it, remove it together with its "
            f"image, or pass --config.data.on_corrupt=skip"
        ) from error
    # Pillow stretches 2 and 4 bits to 0…255.
    if image.mode == "L" and header.bits in (2, 4):
        stored = stored // np.uint8(255 // (2**header.bits - 1))
    return np.ascontiguousarray(oriented(stored, header, upright)), image.mode != "P" or image.format == "GIF"
