"""The objects of a whole data set as a few arrays; and the source of files that has them."""

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pvt_jax.data.files import read_file
from pvt_jax.data.formats.ground_truth import describe_ground_truth
from pvt_jax.data.objects import LEAST_SIDE, Objects, decode_mask
from pvt_jax.data.text import escaped, listed
from pvt_jax.errors import UserError

# Pixels. What numbers in a file are rounded by, or counted from 0 and not from 1, is no box that reaches out.
_TOLERANCE = 1.0


@dataclass(frozen=True, eq=False)
class RawObjects:
    """n objects as a data set has them, in its order.

    Attributes:
        owners: int [n], the number of each one's image.
        boxes: float64 [n, 4], (x1, y1, x2, y2), wherever they are.
        labels: int [n].
        crowd: bool [n].
        areas: float64 [n], NaN for that of the box.
        ids: int64 [n].
    """

    owners: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    ids: np.ndarray

    def take(self, chosen: np.ndarray) -> "RawObjects":
        """Returns those that ``chosen`` says, numbers or bool [n]."""
        arrays = (self.owners, self.boxes, self.labels, self.crowd, self.areas, self.ids)
        return RawObjects(*(array[chosen] for array in arrays))


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The objects of all images, those of each in a row.

    Attributes:
        sizes: int32 [images, 2].
        ends: int64 [images + 1], where the objects of each image start, and end.
        objects: all of them, without masks.
        places: int64 [n], which of the objects that the table was made of each one was.
        notes: what a person should know of them.
    """

    sizes: np.ndarray
    ends: np.ndarray
    objects: Objects
    places: np.ndarray
    notes: tuple[str, ...]

    def of(self, index: int) -> slice:
        """Returns where the objects of an image are."""
        return slice(int(self.ends[index]), int(self.ends[index + 1]))

    def counts(self) -> np.ndarray:
        """How many objects each image has, crowd regions aside, int32 [images]."""
        before = np.concatenate([[0], np.cumsum(~self.objects.crowd)])
        return np.diff(before[self.ends]).astype(np.int32)


def tabulate(raw: RawObjects, sizes: np.ndarray, first: Callable[[int], str], where: str) -> ObjectTable:
    """Puts objects in the order of their images, and their boxes into them.

    Boxes that reach out of their image are clipped. What is then less than a pixel wide or high is left out: COCO
    itself has such boxes. mmdetection tests the sides before clipping, keeps of the others all that overlap with the
    image at all, and leaves out those with an area of 0, too.

    Args:
        raw: n objects.
        sizes: int32 [images, 2], (0, 0) where none is known.
        first: returns what a person needs to find one of the n.
        where: what a message starts with, a file or folder.

    Raises:
        UserError: boxes that are upside down, or wholly out of their images.
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
        notes.append(f"{reach_out:,} box{'es' * (reach_out != 1)} reaching out of the picture clipped to it")
    if less := int((~kept).sum()):
        notes.append(f"{less:,} box{'es' * (less != 1)} of less than a pixel left out")
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
        say(upside_down, "have a negative width or height", "exchange their corners, or remove them")
    # A box without an extent is left out, wherever it is.
    outside = _all(sides >= LEAST_SIDE)
    outside &= ~_all(np.minimum(boxes[:, 2:], bounds[:, 2:]) > np.maximum(boxes[:, :2], 0))
    if outside.any():
        way_out = "correct or remove them; were the images resized after they were annotated?"
        say(outside, "are wholly outside of their picture", way_out)
    if len(boxes) and boxes.max() <= 1 and (sides > 0).any():
        say(np.ones(len(boxes), bool), "lie within 1 pixel", "they look like fractions: write them in pixels")


def _all(holds: np.ndarray) -> np.ndarray:
    return np.all(holds, axis=1)


def keep_labelled(table: ObjectTable, where: str, half: str, keep_empty: bool) -> np.ndarray:
    """Returns the numbers of the images to use: all, or in training those that have objects, unless ``keep_empty``.

    Raises:
        UserError: no image has an object.
    """
    counts = table.counts()
    if not counts.any():
        crowd = int(table.objects.crowd.sum())
        raise UserError(
            escaped(
                f"{where}: none of the {len(counts):,} {half} images has an object"
                f"{f', only {crowd:,} crowd regions or difficult ones' * bool(crowd)}"
                f"{f' ({listed(table.notes)})' * bool(table.notes)}: annotate some, or choose "
                f"another split"
            )
        )
    return np.flatnonzero(counts) if half == "training" and not keep_empty else np.arange(len(counts))


def select(table: ObjectTable, images: Sequence[int], notes: Sequence[str] = ()) -> ObjectTable:
    """Returns the table of some of its images, all that have objects among them, and with more ``notes``."""
    counts = np.diff(table.ends)
    chosen = np.repeat(np.isin(np.arange(len(counts)), images), counts)
    ends = np.concatenate([[0], np.cumsum(counts[list(images)])])
    found = [*table.notes, *notes]
    if left_out := len(counts) - len(images):
        are = "s without objects are" if left_out != 1 else " without objects is"
        found.append(f"{left_out:,} training image{are} left out (detection.keep_empty)")
    return ObjectTable(table.sizes[list(images)], ends, table.objects.take(chosen), table.places[chosen], tuple(found))


class TabledSource:
    """Images whose objects are in a table; who inherits says where the images and masks are.

    Args:
        where: what ``str`` says.
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
        # Each worker is sent the table: without what only who makes it needs.
        self._where, self._table = where, replace(table, places=table.places[:0])
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        self._image_ids = tuple(image_ids)

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> tuple[Any, Objects]:
        return self.record(index)

    def record(self, index: int) -> tuple[Any, Objects]:
        return self.image(index), self.objects(index)

    def image(self, index: int) -> bytes:
        raise NotImplementedError

    def name(self, index: int) -> str:
        raise NotImplementedError

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
        return (total, *self._table.notes, *([f"no object of {listed(names)}"] if names else []))

    def ground_truth(self) -> dict[str, Any]:
        return describe_ground_truth(self)

    def __str__(self) -> str:
        return escaped(self._where)

    def _number(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self._where}")
        return index


class FilesSource(TabledSource):
    """Images that are files, ``files`` below ``folder``; the other arguments are those of ``TabledSource``."""

    def __init__(
        self,
        where: str,
        folder: str,
        files: Sequence[str],
        table: ObjectTable,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        image_ids: Sequence[int | str],
    ) -> None:
        super().__init__(where, table, class_names, category_ids, image_ids)
        self.folder, self.files = folder, tuple(files)

    def path(self, index: int) -> str:
        """Returns the path of an image as the system takes it."""
        return os.path.join(self.folder, self.files[self._number(index)])

    def image(self, index: int) -> bytes:
        return read_file(self.path(index))

    def name(self, index: int) -> str:
        """Returns the path of the image of record ``index``."""
        return escaped(self.path(index))
