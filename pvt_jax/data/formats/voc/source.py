"""Images with boxes in the format of Pascal VOC: one XML file for each image.

Where they are found, see ``voc_layout.py``; what an XML file says, ``voc_xml.py``.

Pascal VOC counts from 1, and its corners lie within a box: here xmin - 1 and ymin - 1 are the left and upper edge,
xmax and ymax the right and lower one. Difficult objects are taken for crowd regions: training leaves them out, and
evaluation ignores them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from pvt_jax.data.files import EXTENSIONS, find_root, read_file, scan
from pvt_jax.data.formats.class_names import VOC_CLASSES, check_classes, names_file, read_names
from pvt_jax.data.formats.object_table import FilesSource, RawObjects, keep_labelled, select, tabulate
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.voc.layout import UNREAD, find_folders, read_lists, with_extension
from pvt_jax.data.formats.voc.xml_file import CORNERS, XmlFile, read_xml
from pvt_jax.data.headers import THREADS, image_sizes
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.data.text import did_you_mean, escaped, escaped_name, listed
from pvt_jax.errors import UserError

_NAMES = VOC_CLASSES[1:]


@dataclass(eq=False)
class _Half:
    """What the XML files of one half say, an entry for each image or each object.

    Attributes:
        where: the folder of the XML files.
        xml_files, image_folder, image_files: of the images.
        stems: their names.
        sizes: height and width of each image, (0, 0) where its XML does not say.
        owners, names, corners, difficult: of each object: the number of its image, its class, (xmin, ymin, xmax, ymax).
        unlabelled: images without XML file.
        repeated: lines of the list that name an image again.
        doubles: images of the stem of another one, where the XML file does not say which of them it is of.
    """

    where: str
    image_folder: str
    xml_files: list[str] = field(default_factory=list)
    image_files: list[str] = field(default_factory=list)
    stems: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    unlabelled: int = 0
    repeated: int = 0
    doubles: list[str] = field(default_factory=list)


def open_voc(request: Request) -> FilesSource:
    """Opens one half of a data set of Pascal VOC's format in ``root`` ("~" is expanded).

    The classes are those of ``options``, else those that a file of names in ``root`` lists, else the 20 of Pascal VOC
    if the model has as many and no others appear, else what the training objects are called, sorted.

    Raises:
        UserError: a folder that is missing, empty or laid out in another way; XML files or images that are missing or
            not what they must be; an unknown class.
    """
    options: ObjectOptions = request.options
    root = find_root(request.root, "voc", "images and XML files in the format of Pascal VOC")
    half = _read_half(root, request)
    class_names, known_as = _find_classes(root, half, request)
    check_classes(known_as, class_names, options.num_classes, options.class_names)
    labels = _labels(half, class_names, known_as, bool(options.class_names))
    sizes = np.array(half.sizes, np.int32).reshape(-1, 2)
    unknown = np.flatnonzero(~sizes.all(axis=1)).tolist()
    sizes[unknown] = image_sizes(
        len(unknown), lambda number: os.path.join(half.image_folder, half.image_files[unknown[number]])
    )
    numbers = np.flatnonzero(labels >= 0)
    corners = np.array(half.corners, np.float64).reshape(-1, 4)
    raw = RawObjects(
        owners=np.array(half.owners, np.int64),
        boxes=_boxes(corners),
        labels=labels,
        crowd=np.array(half.difficult, bool),
        areas=np.full(len(labels), np.nan),
        ids=np.arange(len(labels)),
    ).take(numbers)

    def first(number: int) -> str:
        at = int(numbers[number])
        box = ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, half.corners[at], strict=True))
        height, width = sizes[half.owners[at]]
        return f"'{half.names[at]}' in {half.xml_files[half.owners[at]]}, {box}, of {width}×{height} (width × height)"

    table = tabulate(raw, sizes, first, escaped(half.where))
    images = keep_labelled(table, escaped(half.where), SPLIT_WORDS[request.split], options.keep_empty).tolist()
    notes = [f"{half.unlabelled:,} images have no XML file and are left out"] if half.unlabelled else []
    if half.repeated:
        notes.append(f"{half.repeated:,} lines of the list name an image again and are left out")
    if half.doubles:
        notes.append(
            f"{len(half.doubles):,} images are left out, such as {escaped(half.doubles[0])}: others have the same "
            f"stem, and the XML files do not say which is meant"
        )
    if left := len(labels) - len(numbers):
        notes.append(f"{left:,} objects of other classes are left out")
    return FilesSource(
        root,
        half.image_folder,
        [half.image_files[image] for image in images],
        select(table, images, notes),
        class_names,
        tuple(range(1, 1 + len(class_names))),
        [half.stems[image] for image in images],
    )


def class_names_of_voc(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes in ``root``; ``num_classes`` is not read.

    They are those of the options, of a file of names, or what training objects are called.

    Raises:
        UserError: as ``open_voc``; or no training object is there to name one.
    """
    if request.options.class_names:
        return request.options.class_names
    if path := names_file(request.root):
        return read_names(path)
    return _names_of(_read_half(request.root, request))


def _names_of(half: _Half) -> tuple[str, ...]:
    """Returns the names of the classes that objects have, sorted; raises UserError where there is no object."""
    if not half.names:
        raise UserError(
            f"no object in the {len(half.xml_files):,} XML files of {escaped(half.where)}: annotate some, or choose "
            f"another split"
        )
    return tuple(sorted(set(half.names)))


def _boxes(corners: np.ndarray) -> np.ndarray:
    """Returns edges float64 [n, 4] of (xmin, ymin, xmax, ymax), which lie within."""
    # Of a tool that counts from 0 this has no extent, and an object of one pixel is none either.
    empty = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    return np.where(empty[:, None], corners, corners - [1, 1, 0, 0])


def _find_classes(root: str, half: _Half, request: Request) -> tuple[tuple[str, ...], str]:
    """Returns the names of the classes, and where they are from."""
    options: ObjectOptions = request.options
    if options.class_names:
        return tuple(map(str, options.class_names)), "detection.class_names"
    if path := names_file(root):
        return read_names(path), escaped(path)
    if options.num_classes == len(_NAMES) and set(half.names) <= set(_NAMES):
        return _NAMES, "Pascal VOC"
    train = half if request.split == "train" else _read_half(root, replace(request, split="train"))
    names = _names_of(train)
    return names, f"{escaped(train.where)} ({listed([escaped_name(name) for name in names])})"


def _labels(half: _Half, class_names: Sequence[str], known_as: str, chosen: bool) -> np.ndarray:
    """Returns the number of each object's class, int64 [n]; -1 where it is none of those that were chosen."""
    label_of = {name: label for label, name in enumerate(class_names)}
    unknown = [number for number, name in enumerate(half.names) if name not in label_of]
    if unknown and not chosen:
        name = half.names[unknown[0]]
        others = sorted({half.names[number] for number in unknown})
        raise UserError(
            f"{len(unknown):,} objects in {escaped(half.where)} are of {len(others)} unknown "
            f"class{'es' * (len(others) != 1)}, {listed([escaped_name(other) for other in others])}"
            f"{did_you_mean(name, class_names)}: the classes are those of {known_as}; correct them, or list all in "
            f"detection.class_names"
        )
    absent = [name for name in class_names if name not in half.names]
    if chosen and len(absent) == len(class_names):
        raise UserError(
            f"no object in {escaped(half.where)} is of detection.class_names ({listed(class_names)}): they are "
            f"called {listed([escaped_name(name) for name in sorted(set(half.names))]) or 'nothing'}"
        )
    return np.array([label_of.get(name, -1) for name in half.names], np.int64)


def _read_half(root: str, request: Request) -> _Half:
    folders = find_folders(root, request)
    half = _Half(folders.xml_folder, folders.image_folder)
    xml_files = {_stem(path): path for path in with_extension(scan(half.where, folders.nested), ("xml",))}
    half.stems = sorted(xml_files)
    if folders.lists:
        half.stems, half.repeated = read_lists(folders, xml_files.keys())
    half.xml_files = [xml_files[stem] for stem in half.stems]
    images = _Images(half.image_folder, scan(half.image_folder, folders.nested))
    problems = Problems(half.where)
    paths = [os.path.join(half.where, name) for name in half.xml_files]
    with ThreadPoolExecutor(THREADS) as pool:
        for number, data in enumerate(pool.map(read_file, paths)):
            _add(read_xml(data, half.xml_files[number], problems), number, half, problems, images)
    problems.check()
    if not folders.lists:
        half.unlabelled = len(images.by_stem.keys() - xml_files.keys() - set(map(_stem, half.image_files)))
    return half


class _Images:
    """The image files of a half.

    Args:
        folder: that they are in.
        paths: of all files there, relative to it.
    """

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self.folder = folder
        self.files = frozenset(with_extension(paths, EXTENSIONS))
        self.by_stem: dict[str, list[str]] = {}
        for path in sorted(self.files):
            self.by_stem.setdefault(_stem(path), []).append(path)
        unread = with_extension(paths, UNREAD)
        self._unread = {_stem(path): path for path in unread} | {path: path for path in unread}

    def of_stem(self, stem: str, named: str) -> list[str]:
        """Returns the paths of the images that an XML file may be of: one if its ``stem`` or ``<filename>`` says it."""
        alike = self.by_stem.get(stem, [])
        if exactly := [path for path in alike if os.path.basename(path) == os.path.basename(named)]:
            return exactly
        return alike or [path for path in _places(stem, named) if path in self.files][:1]

    def missing(self, stem: str, named: str) -> tuple[str, str, str]:
        """Returns what is wrong where an XML file has no image, the way out, and which image is meant."""
        if unread := [self._unread[path] for path in (stem, *_places(stem, named)) if path in self._unread]:
            what = f"XML files are of images in {self.folder} whose format is not read"
            return what, f"convert them to one of {', '.join(sorted(EXTENSIONS))}", unread[0]
        what, way_out = f"XML files have no image in {self.folder}", "fetch the images, or remove the XML files"
        return what, way_out, escaped_name(os.path.basename(named)) or stem


def _places(stem: str, named: str) -> list[str]:
    """Returns where the image ``named`` by an XML file may be: there, beside it, or in the folder itself."""
    last = os.path.basename(named)
    return [named, os.path.join(os.path.dirname(stem), last), last]


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _add(found: XmlFile | None, number: int, half: _Half, problems: Problems, images: _Images) -> None:
    """Adds what XML file ``number`` says to ``half``, and its image; to ``problems``, if that is missing."""
    if found is None:
        return
    stem = half.stems[number]
    chosen = images.of_stem(stem, found.image)
    if not chosen:
        what, way_out, image = images.missing(stem, found.image)
        problems.add(what, way_out, f"{half.xml_files[number]}, of image '{image}'")
        return
    half.image_files.append(chosen[0])
    half.doubles += chosen[1:]
    half.sizes.append(found.size)
    half.owners += [number] * len(found.names)
    half.names += found.names
    half.corners += found.corners
    half.difficult += found.difficult
