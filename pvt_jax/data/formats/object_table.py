"""The objects of a whole data set in a few arrays, and the sources built on them."""

import abc
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import alike
from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.objects import LEAST_SIDE, Objects, decode_mask
from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import read_file
from pvt_jax.messages import escaped, listed

# Pixels that a box may extend beyond its image: rounding, or counting from 1 in place of 0.
_TOLERANCE = 1.0


@dataclass(frozen=True, eq=False)
class RawObjects:
    """n objects as a data set has them, in its order.

    Attributes:
        owners: int [n], the index of each object's image.
        boxes: float64 [n, 4], (x1, y1, x2, y2), not clipped.
        labels: int [n].
        crowd: bool [n].
        areas: float64 [n], NaN for the area of the box.
        ids: int64 [n].
    """

    owners: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    ids: np.ndarray

    def take(self, chosen: np.ndarray) -> "RawObjects":
        """Returns the ``chosen`` objects, indices or bool [n]."""
        arrays = (self.owners, self.boxes, self.labels, self.crowd, self.areas, self.ids)
        return RawObjects(*(array[chosen] for array in arrays))


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The objects of all images, grouped by image.

    Attributes:
        sizes: int32 [images, 2].
        ends: int64 [images + 1]; image i has the objects ends[i] up to ends[i + 1].
        objects: all of them, without masks.
        places: int64 [n], the index of each object in the ``RawObjects``.
        notes: what a person should know of them.
    """

    sizes: np.ndarray
    ends: np.ndarray
    objects: Objects
    places: np.ndarray
    notes: tuple[str, ...]

    def of(self, index: int) -> slice:
        """Returns the range of the objects of an image."""
        return slice(int(self.ends[index]), int(self.ends[index + 1]))

    def counts(self) -> np.ndarray:
        """Objects of each image, crowd regions aside, int32 [images]."""
        before = np.concatenate([[0], np.cumsum(~self.objects.crowd)])
        return np.diff(before[self.ends]).astype(np.int32)


def tabulate(raw: RawObjects, sizes: np.ndarray, first: Callable[[int], str], where: str) -> ObjectTable:
    """Sorts objects by image and clips their boxes.

    Boxes with a side of less than a pixel after clipping are dropped; COCO itself has some. mmdetection tests the sides
    before clipping, keeps every box that overlaps with its image, and also drops objects with an area of 0. Raises
    UserError: boxes with negative sides, or wholly outside their images.

    Args:
        raw: n objects.
        sizes: int32 [images, 2], (0, 0) where unknown.
        first: describes one of the n objects, for messages.
        where: the file or folder, for messages.
    """
    boxes = raw.boxes
    known = np.all(sizes, axis=1)[raw.owners]
    bounds = np.where(known[:, None], sizes[raw.owners][:, [1, 0, 1, 0]], np.inf)
    _refuse(raw, bounds, first, where)
    clipped = np.clip(boxes, 0, bounds)
    sides = np.minimum(clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2])
    kept = _all(sides >= LEAST_SIDE)
    reach_out = int((kept & (np.abs(boxes - clipped) > _TOLERANCE).any(axis=1)).sum())
    order = np.flatnonzero(kept)
    order = order[np.argsort(raw.owners[order], kind="stable")]
    areas = np.where(np.isnan(raw.areas), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), raw.areas)
    objects = Objects(
        boxes=clipped[order].astype(np.float32),
        labels=raw.labels[order].astype(np.int32),
        crowd=raw.crowd[order].astype(bool),
        areas=areas[order],
        ids=raw.ids[order].astype(np.int64),
    )
    ends = np.searchsorted(raw.owners[order], np.arange(len(sizes) + 1))
    notes = []
    if reach_out:
        notes.append(f"{reach_out:,} box{'es' * (reach_out != 1)} extending beyond the image clipped to it")
    if less := int((~kept).sum()):
        notes.append(f"{less:,} box{'es' * (less != 1)} of less than a pixel dropped")
    return ObjectTable(sizes, ends, objects, order, tuple(notes))


def _refuse(raw: RawObjects, bounds: np.ndarray, first: Callable[[int], str], where: str) -> None:
    boxes = raw.boxes
    sides = boxes[:, 2:] - boxes[:, :2]

    def say(wrong: np.ndarray, what: str, way_out: str) -> None:
        number = int(np.flatnonzero(wrong)[0])
        raise UserError(
            escaped(
                f"{where}: {int(wrong.sum()):,} of {len(boxes):,} boxes {what}, the first is {first(number)}: {way_out}"
            )
        )

    upside_down = ~_all(sides >= 0)
    if upside_down.any():
        say(upside_down, "have a negative width or height", "swap their corners, or remove them")
    # A box without extent is dropped, wherever it is.
    outside = _all(sides >= LEAST_SIDE)
    outside &= ~_all(np.minimum(boxes[:, 2:], bounds[:, 2:]) > np.maximum(boxes[:, :2], 0))
    if outside.any():
        way_out = "correct or remove them; were the images resized after they were annotated?"
        say(outside, "are wholly outside their image", way_out)
    if len(boxes) and boxes.max() <= 1 and (sides > 0).any():
        say(np.ones(len(boxes), bool), "lie within 1 pixel", "they look like fractions: write them in pixels")


def _all(holds: np.ndarray) -> np.ndarray:
    return np.all(holds, axis=1)


def select(
    table: ObjectTable, where: str, request: Request, notes: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[ObjectTable, list[int]]:
    """Returns the table of the images to use, with more ``notes``, and their numbers.

    ``names`` are the paths of the images below the folder of the data set, by which ``holdout.py`` divides them.

    They are all, or in training those with objects or crowd regions, unless the options keep empty ones: mmdetection's
    filter counts every annotation of a class, too. It also counts boxes that were dropped here, and leaves out images
    with a side of less than 32 pixels. Raises UserError: no image has an object.
    """
    counts, split = table.counts(), SPLIT_WORDS[request.split]
    if not counts.any():
        crowd = int(table.objects.crowd.sum())
        raise UserError(
            escaped(
                f"{where}: none of the {len(counts):,} {split} images has an object"
                f"{f', only {crowd:,} crowd regions or difficult ones' * bool(crowd)}"
                f"{f' ({listed(table.notes)})' * bool(table.notes)}: annotate some, or choose another split"
            )
        )
    annotations = np.diff(table.ends)
    is_kept, divided = part_of(names, request, where) if request.holdout else (np.ones(len(counts), bool), [])
    wanted = int(is_kept.sum())
    if request.split == "train" and not request.options.keep_empty:
        is_kept &= annotations > 0
    images, objects = np.flatnonzero(is_kept).tolist(), np.repeat(is_kept, annotations)
    ends = np.concatenate([[0], np.cumsum(annotations[images])])
    found = [*table.notes, *notes, *divided] if request.split == "train" or not request.holdout else []
    if left_out := wanted - len(images):
        are = "s without objects are" if left_out != 1 else " without objects is"
        found.append(f"{left_out:,} training image{are} left out (detection.keep_empty)")
    kept = table.objects.take(objects)
    return ObjectTable(table.sizes[images], ends, kept, table.places[objects], tuple(found)), images


class TabledSource(abc.ABC):
    """Images whose objects are in a table. A subclass reads the images.

    Args:
        where: what ``str`` returns.
        table: their objects.
        class_names, category_ids: of the K classes.
        image_ids: of each image.
    """

    has_masks = False

    def __init__(
        self,
        where: str,
        table: ObjectTable,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        image_ids: Sequence[int | str],
    ) -> None:
        # Workers receive the table, and need no places.
        self._where, self._table = where, replace(table, places=table.places[:0])
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        self._image_ids = tuple(image_ids)

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> tuple[Any, Objects]:
        return self.image(index), self.objects(index)

    @abc.abstractmethod
    def image(self, index: int) -> bytes:
        """Returns the file of an image."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Returns what a person needs to find an image."""

    def objects(self, index: int) -> Objects:
        return self._table.objects.take(self._table.of(self._number(index)))

    def masks(self, index: int, objects: Objects) -> list[np.ndarray]:
        height, width = self._table.sizes[self._number(index)].tolist()
        return [decode_mask(mask if mask is not None else [], (height, width)) for mask in objects.masks or ()]

    def without_masks(self) -> int:
        return 0

    def image_id(self, index: int) -> int | str:
        return self._image_ids[self._number(index)]

    def sizes(self) -> np.ndarray:
        return self._table.sizes

    def counts(self) -> np.ndarray:
        return self._table.counts()

    def most_objects(self) -> int:
        return int(self.counts().max(initial=0))

    def notes(self) -> tuple[str, ...]:
        counts = self.counts()
        crowd = int(self._table.objects.crowd.sum())
        regions = f" and {crowd:,} crowd or difficult" * bool(crowd)
        total = f"{int(counts.sum()):,} objects{regions}, at most {int(counts.max(initial=0)):,} in an image"
        absent = np.setdiff1d(np.arange(len(self.class_names)), self._table.objects.labels[~self._table.objects.crowd])
        names = [self.class_names[label] for label in absent]
        absent_ones = [f"no object of {listed(names)}"] * bool(names)
        return (total, *self._table.notes, *absent_ones, *alike(self.class_names))

    def __str__(self) -> str:
        return escaped(self._where)

    def _number(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self._where}")
        return index


class FilesSource(TabledSource):
    """Images that are files.

    Args:
        folder: of the images.
        files: their paths below it.
        tabled: arguments of ``TabledSource``.
    """

    def __init__(self, folder: str, files: Sequence[str], *tabled: Any) -> None:
        super().__init__(*tabled)
        self.folder, self.files = folder, tuple(files)

    def path(self, index: int) -> str:
        """Returns the path of an image as the system takes it."""
        return os.path.join(self.folder, self.files[self._number(index)])

    def image(self, index: int) -> bytes:
        return read_file(self.path(index))

    def name(self, index: int) -> str:
        """Returns the path of the image of record ``index``."""
        return escaped(self.path(index))
