"""Images with boxes or polygons in the format of YOLO: a text file of labels for each image.

An image without a label file, or with an empty one, has no object. Polygons are masks, read when they are needed.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pvt_jax.data.formats.class_names import check_classes, choose_classes
from pvt_jax.data.formats.layouts import about_split
from pvt_jax.data.formats.masked_files import MaskedFiles
from pvt_jax.data.formats.object_table import RawObjects, select, tabulate
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.yolo.label_file import LabelFile, area, pixels, read_labels
from pvt_jax.data.formats.yolo.layout import Place, find_names, find_place, label_files, label_place
from pvt_jax.data.objects import Mask
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file
from pvt_jax.files.headers import THREADS, fill_in_sizes
from pvt_jax.messages import escaped, plural


class YoloSource(MaskedFiles):
    """The images of a split, in the order of their paths or of a list."""

    def read_masks(self, path: str, size: tuple[int, int]) -> dict[int, Mask | None]:
        # All classes are known since it was opened.
        file = read_labels(read_file(path), path, 1 << 31, Problems(path))
        return {
            line: [pixels(points, size)] if points else None
            for line, points in zip(file.lines, file.polygons, strict=True)
        }


def open_yolo(request: Request) -> YoloSource:
    """Opens a split of a data set in the format of YOLO.

    Raises UserError: a folder or list that is missing or laid out in another way; label files that are not what they
    must be, with file and line; classes that are not there.
    """
    options: ObjectOptions = request.options
    root = find_root(request.root, "yolo", "data.yaml, images and labels")
    place = find_place(root, request)
    where = escaped(place.where)
    chosen = choose_classes(where, place.names, options.class_names)
    class_names = [place.names[label] for label in chosen]
    check_classes(where, class_names, options.num_classes, options.class_names)
    paths = label_files(place.images)
    files = _read(place, paths, request)
    sizes = fill_in_sizes([(0, 0)] * len(files), place.images.__getitem__, request.upright)
    names = [os.path.relpath(path, root) if path.startswith(root + os.sep) else path for path in place.images]

    owners = np.repeat(np.arange(len(files)), [len(file.labels) for file in files])
    label_of = {label: number for number, label in enumerate(chosen)}
    labels = np.array([label_of.get(label, -1) for file in files for label in file.labels], np.int64)
    corners = np.array([box for file in files for box in file.corners], np.float64).reshape(-1, 4)
    lines = np.array([line for file in files for line in file.lines], np.int32)
    polygons = [points for file in files for points in file.polygons]
    drawn = np.array([bool(points) for points in polygons], bool)
    numbers = np.flatnonzero(labels >= 0)
    raw = RawObjects(
        owners=owners,
        boxes=corners * np.tile(sizes[owners][:, ::-1], 2),
        labels=labels,
        crowd=np.zeros(len(labels), bool),
        areas=_areas(polygons, sizes[owners]),
        ids=np.arange(len(labels)),
    ).take(numbers)

    def first(number: int) -> str:
        at = int(numbers[number])
        return f"line {lines[at]} of {escaped(str(paths[owners[at]]))}"

    notes = about_split(place.split, request)
    if left := len(labels) - len(numbers):
        notes.append(f"{left:,} objects of other classes are left out")
    if missing := sum(path is None for path in paths):
        notes.append(f"{plural(missing, 'image')} without a label file taken for background")
    if repeated := sum(file.repeated for file in files):
        notes.append(f"{plural(repeated, 'repeated line')} left out")
    table, images = select(tabulate(raw, sizes, first, where), where, request, notes, names)
    chosen_places = numbers[table.places]
    described = root, table, class_names, tuple(chosen), [os.path.splitext(names[image])[0] for image in images]
    return YoloSource(
        [paths[image] for image in images],
        lines[chosen_places],
        drawn[chosen_places],
        options.with_masks,
        root,
        [names[image] for image in images],
        *described,
    )


def class_names_of_yolo(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes; ``num_classes`` is not read. Raises UserError: nothing lists them, or no split.

    The place is looked for, too: a folder is of this format only if it is laid out so.
    """
    find_place(request.root, request)
    names = find_names(request.root, request)
    return tuple(names[label] for label in choose_classes("the data set", names, request.options.class_names))


def _read(place: Place, paths: Sequence[str | None], request: Request) -> list[LabelFile]:
    """Returns the content of the label file of each image."""
    if not any(paths):
        raise UserError(
            escaped(
                f"none of the {plural(len(paths), f'{SPLIT_WORDS[request.split]} image')} in {place.where} has a label "
                f"file: that of the first would be {label_place(place.images[0])}; put them there"
            )
        )
    problems = Problems(place.where)

    def content(path: str | None) -> bytes:
        return b"" if path is None else read_file(path)

    with ThreadPoolExecutor(THREADS) as pool:
        files = [
            read_labels(data, str(path), len(place.names), problems, place.boxes_only)
            for path, data in zip(paths, pool.map(content, paths), strict=True)
        ]
    problems.check()
    return files


def _areas(polygons: Sequence[list[float]], sizes: np.ndarray) -> np.ndarray:
    """Returns the area of each polygon in pixels, float64 [n]; NaN for a box."""
    found = [area(points) if points else np.nan for points in polygons]
    return np.array(found, np.float64) * np.prod(sizes.astype(np.float64), axis=1)
