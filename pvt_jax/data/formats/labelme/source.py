"""Images with shapes of labelme: a JSON beside each image. Rectangles are boxes; polygons, circles and masks are masks.

Images without a JSON are not labelled and left out; one whose JSON has no shapes is background.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pvt_jax.data.formats.class_names import NO_OBJECTS, check_classes, choose_classes, names_file, read_names
from pvt_jax.data.formats.labelme.annotations import Annotations, read_annotations, training_labels
from pvt_jax.data.formats.labelme.json_file import read_labelme
from pvt_jax.data.formats.masked_files import MaskedFiles
from pvt_jax.data.formats.object_table import RawObjects, select, tabulate
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.objects import Mask
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file
from pvt_jax.files.headers import fill_in_sizes
from pvt_jax.files.kinds import stem_of
from pvt_jax.messages import did_you_mean, escaped, escaped_name, listed, plural


class LabelmeSource(MaskedFiles):
    """The labelled images of a split, in the order of their files."""

    def read_masks(self, path: str, size: tuple[int, int]) -> dict[int, Mask | None]:
        file = read_labelme(read_file(path), path, Problems(path))
        shapes = enumerate(file.shapes if file else ())
        return {number: shape.mask(size) if shape.is_outlined else None for number, shape in shapes}


def open_labelme(request: Request) -> LabelmeSource:
    """Opens a split of a data set of labelme.

    The classes are those of the options, else those that a file of names in the root lists, else the labels of the
    training shapes, sorted. Raises UserError: a folder that is missing, empty or laid out in another way; files or
    images that are missing or not what they must be; an unknown class.
    """
    options: ObjectOptions = request.options
    root = find_root(request.root, "labelme", "images and JSON files of labelme")
    request = replace(request, root=root)
    found = read_annotations(request)
    names, known_as = _find_classes(found, request)
    check_classes(known_as, names, options.num_classes, options.class_names)
    labels = _numbers(found, names, known_as, chosen=bool(options.class_names))
    sizes = fill_in_sizes(
        [file.size for file in found.files], lambda image: os.path.join(root, found.images[image]), request.upright
    )
    shapes = [shape for file in found.files for shape in file.shapes]
    owners = np.repeat(np.arange(len(found.files)), [len(file.shapes) for file in found.files])
    places = np.concatenate([np.arange(len(file.shapes)) for file in found.files]).astype(np.int32)
    numbers = np.flatnonzero(labels >= 0)
    raw = RawObjects(
        owners=owners,
        boxes=np.array([shape.box for shape in shapes], np.float64).reshape(-1, 4),
        labels=labels,
        crowd=np.zeros(len(labels), bool),
        areas=np.full(len(labels), np.nan),
        ids=np.arange(len(labels)),
    ).take(numbers)

    def first(number: int) -> str:
        at = int(numbers[number])
        return f"a '{escaped_name(shapes[at].label)}' in {escaped(found.paths[owners[at]])}"

    left = len(labels) - len(numbers)
    notes = [*found.notes, *[f"{left:,} objects of other classes are left out"] * bool(left)]
    where = escaped(found.where)
    table, images = select(tabulate(raw, sizes, first, where), where, request, notes, found.images)
    chosen = numbers[table.places]
    return LabelmeSource(
        [os.path.join(root, found.paths[image]) for image in images],
        places[chosen],
        np.array([shapes[number].is_outlined for number in chosen.tolist()], bool),
        options.with_masks,
        root,
        [found.images[image] for image in images],
        root,
        table,
        names,
        range(1, 1 + len(names)),
        [stem_of(found.images[image]) for image in images],
    )


def class_names_of_labelme(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes; ``num_classes`` is not read. Raises UserError: as ``open_labelme``."""
    return tuple(_find_classes(read_annotations(request), request)[0])


def _find_classes(found: Annotations, request: Request) -> tuple[Sequence[str], str]:
    """Returns the names of the classes, and where they are from."""
    options: ObjectOptions = request.options
    if options.class_names:
        known = sorted(set(found.labels))
        choose_classes(escaped(found.where), known, options.class_names)
        return tuple(map(str, options.class_names)), "detection.class_names"
    if path := names_file(request.root):
        names = read_names(path)
        return tuple(names[1:] if names[0] in NO_OBJECTS else names), escaped(path)
    return training_labels(found, request)


def _numbers(found: Annotations, names: Sequence[str], known_as: str, *, chosen: bool) -> np.ndarray:
    """Returns the class of each object, int64 [n]; -1 for those that were not chosen."""
    label_of = {name: number for number, name in enumerate(names)}
    labels = found.labels
    unknown = sorted({label for label in labels if label not in label_of})
    if unknown and not chosen:
        raise UserError(
            f"shapes in {escaped(found.where)} have {plural(len(unknown), 'unknown label')}, "
            f"{listed([escaped_name(label) for label in unknown])}{did_you_mean(unknown[0], names)}: the classes are "
            f"those of {known_as}; correct them, or list all in detection.class_names"
        )
    return np.array([label_of.get(label, -1) for label in labels], np.int64)
