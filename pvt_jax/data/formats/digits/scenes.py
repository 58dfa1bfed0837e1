"""Scenes of handwritten digits over photographs, with exact label maps, boxes and masks: no download.

Digits and photographs come with scikit-learn. A scene is composed on demand from its number alone. Labels are the same
to the bit on every machine: they use NumPy's raw random bits, whose streams are frozen, integers and single IEEE
operations. Images also depend on the library that decodes the photographs.
"""

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pvt_jax.data.formats.digits.images import DigitsSource, refuse_split_names
from pvt_jax.data.records import Request, SegmentationRecord, Split
from pvt_jax.errors import UserError
from pvt_jax.files.labels import LabelEncoding

CLASS_NAMES = ("background", *(str(digit) for digit in range(10)))
_COUNTS = {"train": 32768, "eval": 256}

# Black, then ten distinct colours.
_PALETTE = (
    (0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip

_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# Of the 640 columns of a photograph the left ones are held out. Both sides show half a pagoda, or flower and leaves.
_HELD_OUT_COLUMNS = 224

_NUM_DIGITS = (2, 5)  # before those without room are dropped
# Heights of digits relative to the shorter side of the scene: 36 to 68 of 128 pixels. The largest fits with any aspect,
# shear and rotation.
_SIDES = (9 / 32, 17 / 32)
_LARGEST_ASPECT = 1.1
_LARGEST_SHEAR = 0.1
_LARGEST_TANGENT = 0.07  # of half the angle of rotation: 8 degrees
# Share of its pixels that a digit keeps under each further one.
_LEAST_VISIBLE = 0.9
# Limits of a photograph's darkest and brightest pixels, so that bright ink is visible everywhere.
_DARKEST, _BRIGHTEST = 32, 160
_TRIES = 8

_GLYPH = 8
_FINENESS = 8  # sampling points along a side of a pixel of a glyph
_MARGIN = 1  # pixels around a glyph, into which its strokes fade
_STROKE = 115  # the least strength, of 255, that belongs to a digit: there its ink is half opaque


@dataclass(frozen=True, eq=False)
class DigitScene:
    """An image of one to five digits; later ones cover earlier ones, which keep three quarters of their pixels.

    Attributes:
        image: uint8 [height, width, 3].
        label_map: uint8 [height, width], 0 for the background, else 1 + the digit.
        boxes: float32 [n, 4], (x1, y1, x2, y2), tight around the visible pixels; x2 and y2 are one past them.
        labels: int32 [n], the digits 0 … 9.
        masks: bool [n, height, width], the visible pixels of each digit; no pixel belongs to two.
    """

    image: np.ndarray
    label_map: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


class DigitScenesSource:
    """Scenes of 11 classes, the background and the digits, for segmentation.

    Training scenes have the training digits of ``DigitsSource`` over the right 416 columns of the photographs,
    evaluation scenes the held-out digits over the left 224.
    """

    def __init__(
        self, split: Split, *, height: int = 128, width: int = 128, count: int | None = None, seed: int = 0
    ) -> None:
        """Prepares the source; scenes are composed on demand. Raises UserError: no room for digits.

        Args:
            split: "train" or "eval".
            height, width: the size of every scene in pixels.
            count: how many scenes; None takes 32,768 for training and 256 for evaluation.
            seed: of the scenes.
        """
        if min(height, width) < 32:
            raise UserError(f"scenes of digits are 32 pixels or more on each side, not {height}×{width}")
        self._split: Split = split
        self._height, self._width, self._seed = height, width, seed
        self._count = _COUNTS[split] if count is None else count
        self.class_names = CLASS_NAMES
        self.palette = np.array(_PALETTE, np.uint8)
        self.encoding = LabelEncoding(num_classes=len(CLASS_NAMES))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> SegmentationRecord:
        image, owners, digits = _compose(self._split, self._number(index), self._height, self._width, self._seed)
        return {"image": image, "label_map": _label_map(owners, digits)}

    def scene(self, index: int) -> DigitScene:
        """Returns record ``index`` with the boxes and masks of its digits."""
        return digit_scene(self._split, self._number(index), height=self._height, width=self._width, seed=self._seed)

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]."""
        return np.tile(np.array([self._height, self._width], np.int32), (self._count, 1))

    def name(self, index: int) -> str:
        return f"digit_scenes/{self._split} scene {index}"

    def label_name(self, index: int) -> str:
        return f"labels of {self.name(index)}"

    def __str__(self) -> str:
        return "scenes of scikit-learn's digits over its photographs"

    def _number(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        return index


def open_digit_scenes(request: Request) -> DigitScenesSource:
    """Opens the scenes; raises UserError where a config names splits."""
    refuse_split_names("digit_scenes", request)
    return DigitScenesSource(request.split)


def digit_scene(split: Split, index: int, *, height: int = 128, width: int = 128, seed: int = 0) -> DigitScene:
    """Returns scene ``index``, from 0 on, of the digits and photographs of a split."""
    image, owners, digits = _compose(split, index, height, width, seed)
    masks = owners == np.arange(1, len(digits) + 1, dtype=np.uint8)[:, None, None]
    return DigitScene(
        image=image,
        label_map=_label_map(owners, digits),
        boxes=np.array([_tight_box(mask) for mask in masks], np.float32),
        labels=np.array(digits, np.int32),
        masks=masks,
    )


def _label_map(owners: np.ndarray, digits: list[int]) -> np.ndarray:
    return np.array([0, *(1 + digit for digit in digits)], np.uint8)[owners]


def _compose(split: Split, index: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns the image, the owner of each pixel (0, or 1 + the index of a digit), and the digits.

    Labels do not depend on the photographs, which decoders may read differently.
    """
    glyphs, glyphs_of_digit = _glyphs(split)
    of_scene, *of_digits = _draw(seed, split, index)
    fewest, most = _NUM_DIGITS
    num_digits = fewest + int(next(of_scene) * (most - fewest + 1))
    planes = _background(_photographs(split), height, width, of_scene)
    owners = np.zeros((height, width), np.uint8)
    digits: list[int] = []
    # Pixels of each digit so far: at first, and visible now.
    areas: list[tuple[int, int]] = []
    for numbers in of_digits[:num_digits]:
        digit = int(next(numbers) * 10)
        members = glyphs_of_digit[digit]
        strength = _transform(glyphs[members[int(next(numbers) * len(members))]], min(height, width), numbers)
        ink = next(numbers), next(numbers), next(numbers)
        place = _place(strength >= _STROKE, owners, areas, numbers)
        if place is not None:
            digits.append(digit)
            _paint(planes[:, *place], strength, ink)
    return np.stack(list(planes), axis=-1), owners, digits


def _draw(seed: int, split: Split, index: int) -> list[Iterator[float]]:
    """Returns random numbers in [0, 1): those of the scene, then of each possible digit."""
    # NumPy freezes the streams of raw bits; methods of a Generator may change.
    generator = np.random.PCG64(np.random.SeedSequence((seed, int(split == "eval"), index)))
    raw = generator.random_raw((1 + _NUM_DIGITS[1], 9 + 2 * _TRIES))
    return [iter(row) for row in ((raw >> 11) * 2.0**-53).tolist()]


def _between(low: float, high: float, number: float) -> float:
    return low + (high - low) * number


def _transform(glyph: np.ndarray, scene_side: int, numbers: Iterator[float]) -> np.ndarray:
    """Returns the glyph scaled, sheared and rotated: its strength uint8 [h, w] without empty rows and columns."""
    scale = scene_side * _between(*_SIDES, next(numbers)) / _GLYPH
    aspect = _between(1 / _LARGEST_ASPECT, _LARGEST_ASPECT, next(numbers))
    shear = _between(-_LARGEST_SHEAR, _LARGEST_SHEAR, next(numbers))
    tangent = _between(-_LARGEST_TANGENT, _LARGEST_TANGENT, next(numbers))
    # By the tangent of half the angle: sines may round differently on another machine.
    cosine, sine = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
    # (x, y) in the scene = rotation · shear · scaling · (x, y) in the glyph, both from the centre.
    xx, xy = cosine * scale * aspect, (cosine * shear - sine) * scale
    yx, yy = sine * scale * aspect, (sine * shear + cosine) * scale
    determinant = xx * yy - xy * yx

    reach = _GLYPH / 2 + _MARGIN
    half_width, half_height = int((abs(xx) + abs(xy)) * reach) + 1, int((abs(yx) + abs(yy)) * reach) + 1
    # Centres of pixels in halves, and positions in the glyph in 1/65536 of a sampling point.
    x = 2 * np.arange(-half_width, half_width, dtype=np.int32) + 1
    y = 2 * np.arange(-half_height, half_height, dtype=np.int32)[:, None] + 1
    unit = _FINENESS * 65536 / 2 / determinant
    columns, rows = (
        (int(by_x * unit) * x + (int(by_y * unit) * y + len(glyph) * 32768)) >> 16
        for by_x, by_y in ((yy, -xy), (-yx, xx))
    )
    last = len(glyph) - 1
    columns, rows = (np.minimum(np.maximum(points, 0), last) for points in (columns, rows))
    strength = glyph.ravel()[rows * len(glyph) + columns]
    left, top, right, bottom = _tight_box(strength > 0)
    return strength[top:bottom, left:right]


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place(
    stroke: np.ndarray, owners: np.ndarray, areas: list[tuple[int, int]], numbers: Iterator[float]
) -> tuple[slice, slice] | None:
    """Assigns the pixels of a stroke to a new owner where earlier digits keep enough; returns the place or None."""
    height, width = stroke.shape
    for _ in range(_TRIES):
        top = int(next(numbers) * (owners.shape[0] - height + 1))
        left = int(next(numbers) * (owners.shape[1] - width + 1))
        place = slice(top, top + height), slice(left, left + width)
        covered = np.bincount(owners[place][stroke], minlength=len(areas) + 1).tolist()
        left_over = [(area, visible - lost) for (area, visible), lost in zip(areas, covered[1:], strict=True)]
        if all(visible >= _LEAST_VISIBLE * area for area, visible in left_over):
            area = sum(covered)
            areas[:] = [*left_over, (area, area)]
            owners[place][stroke] = len(areas)
            return place
    return None


def _paint(planes: np.ndarray, strength: np.ndarray, numbers: Sequence[float]) -> None:
    """Paints with bright ink in a dark rim."""
    ink = [255 - int(60 * numbers[0])] * 3
    # One channel differs, so that overlapping digits differ in hue.
    ink[int(3 * numbers[1])] = 255 - int(160 * numbers[2])
    colour = np.array(ink, np.uint16)[:, None, None]
    of_ink, of_both = (table[strength] for table in _opacities())
    planes[:] = (planes * (256 - of_both) + colour * of_ink + 128) >> 8


@functools.cache
def _opacities() -> tuple[np.ndarray, np.ndarray]:
    """How opaque the ink is, and the ink with its rim, of 256, at every strength of a glyph: uint16 [256] each."""
    strength = np.arange(256)
    # Steep, as strokes of 8×8 pixels are mostly edge. The rim separates digits.
    ink = np.clip((strength - _STROKE) * 3 + 128, 0, 256)
    rim = np.minimum(strength * 3 // 2, 100)
    return ink.astype(np.uint16), np.maximum(ink, rim).astype(np.uint16)


def _background(photographs: Sequence[np.ndarray], height: int, width: int, numbers: Iterator[float]) -> np.ndarray:
    """Returns a crop of a photograph with changed brightness and contrast, resized to uint8 [3, height, width]."""
    photograph = photographs[int(next(numbers) * len(photographs))]
    _, rows, columns = photograph.shape
    # Both splits use the same scales: those that fit the held-out part.
    scale = min(rows / height, _HELD_OUT_COLUMNS / width) * _between(0.5, 1, next(numbers))
    y, y_weight = _taps(height, scale, rows, next(numbers))
    x, x_weight = _taps(width, scale, columns, next(numbers))
    if next(numbers) < 0.5:
        x, x_weight = x[::-1], x_weight[::-1]
    first, last = int(x.min()), int(x.max()) + 2
    darkest, brightest = _DARKEST * next(numbers), _BRIGHTEST - _DARKEST * next(numbers)
    planes = np.empty((3, height, width), np.uint8)
    # One at a time: temporaries stay in the CPU's cache.
    for plane, source in zip(planes, photograph[:, :, first:last], strict=True):
        resized = _blend(source[y], source[y + 1], y_weight[:, None])
        resized = _blend(resized[:, x - first], resized[:, x - first + 1], x_weight)
        contrast = (brightest - darkest) * _between(0.8, 1, next(numbers))
        plane[:] = (resized * np.uint16(contrast) + np.uint16(darkest * 256)) >> 8
    return planes


def _taps(length: int, scale: float, available: int, number: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each of ``length`` pixels, the first of two source pixels, and the weight of 256 of the second."""
    start = number * (available - length * scale)
    position = np.clip(start + (np.arange(length) + 0.5) * scale - 0.5, 0, available - 1.01)
    fixed = (position * 256).astype(np.int64)
    return fixed >> 8, (fixed & 255).astype(np.uint16)


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return ((first * (256 - weight) + second * weight + 128) >> 8).astype(np.uint8)


@functools.cache
def _photographs(split: Split) -> tuple[np.ndarray, ...]:
    """The part of each photograph that a split may see, uint8 [3, height, width]."""
    from sklearn.datasets import load_sample_image

    columns = slice(0, _HELD_OUT_COLUMNS) if split == "eval" else slice(_HELD_OUT_COLUMNS, None)
    return tuple(np.ascontiguousarray(load_sample_image(name)[:, columns].transpose(2, 0, 1)) for name in _PHOTOGRAPHS)


@functools.cache
def _glyphs(split: Split) -> tuple[np.ndarray, list[np.ndarray]]:
    """The upsampled digits of a split as strengths uint8 [n, side, side], and the indices of each digit."""
    source = DigitsSource(split)
    coarse = np.stack([np.asarray(source[index]["image"])[..., 0] for index in range(len(source))]).astype(np.int64)
    padded = np.pad(coarse, ((0, 0), (_MARGIN + 2,) * 2, (_MARGIN + 2,) * 2))
    fine = _finer(_finer(padded).transpose(0, 2, 1)).transpose(0, 2, 1)
    return np.clip(fine, 0, 255).astype(np.uint8), [np.flatnonzero(source.labels == digit) for digit in range(10)]


def _finer(images: np.ndarray) -> np.ndarray:
    """Interpolates between rows by integer cubics (Catmull & Rom 1974), without the two rows at either end."""
    length = images.shape[1] - 4
    unit = 2 * _FINENESS
    phases = []
    for phase in range(_FINENESS):
        # The fine row lies t / unit of the way from the second of four rows to the third.
        shift, t = divmod(2 * phase + 1 - _FINENESS, unit)
        taps = (
            -t * (unit - t) ** 2,
            2 * unit**3 - 5 * unit * t**2 + 3 * t**3,
            unit**2 * t + 4 * unit * t**2 - 3 * t**3,
            -(t**2) * (unit - t),
        )
        rows = [images[:, 1 + shift + k : 1 + shift + k + length] for k in range(4)]
        total = sum(tap * row for tap, row in zip(taps, rows, strict=True))
        phases.append((total + unit**3) // (2 * unit**3))
    return np.stack(phases, axis=2).reshape(len(images), length * _FINENESS, images.shape[2])
