"""Images with boxes in the format of Pascal VOC: one XML file for each image.

Pascal VOC counts from 1, and its corners lie within a box: xmin - 1 and ymin - 1 are the left and upper edge, xmax and
ymax the right and lower one. Difficult objects become crowd regions: training leaves them out, evaluation ignores them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np

from pvt_jax.data.formats.class_names import NO_OBJECTS, VOC_CLASSES, check_classes, names_file, read_names
from pvt_jax.data.formats.layouts import NoLayoutError, about_split
from pvt_jax.data.formats.object_table import FilesSource, RawObjects, select, tabulate
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.voc.layout import find_folders, read_lists, with_extension
from pvt_jax.data.formats.voc.xml_file import CORNERS, XmlFile, read_xml
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import choose_images, find_root, read_file, scan
from pvt_jax.files.headers import THREADS, fill_in_sizes
from pvt_jax.files.kinds import UNREAD, ending_of, stem_of
from pvt_jax.files.spellings import Names, composed
from pvt_jax.messages import did_you_mean, escaped, escaped_name, listed

_NAMES = VOC_CLASSES[1:]


@dataclass(eq=False)
class _Annotations:
    """What the XML files of a split contain, an entry for each image or each object.

    Attributes:
        where: the folder of the XML files.
        stems, xml_files, image_files: of the images, files relative to their folders.
        sizes: height and width of each image, (0, 0) where its XML lacks them.
        owners: int64 [n], the image of each object.
        names, difficult: of each object, its class and whether it is difficult.
        corners: float64 [n, 4], (xmin, ymin, xmax, ymax).
        notes: what a person should know of the files.
    """

    where: str
    image_folder: str
    stems: list[str]
    xml_files: list[str]
    image_files: list[str]
    sizes: list[tuple[int, int]]
    owners: np.ndarray
    names: list[str]
    difficult: list[bool]
    corners: np.ndarray
    notes: list[str]


def open_voc(request: Request) -> FilesSource:
    """Opens a split of a data set in the format of Pascal VOC.

    The classes are those of the options, else those that a file of names in the root lists, else the 20 of Pascal VOC
    if the model has as many and no others appear, else the names of training objects, sorted. Raises UserError: a
    folder that is missing, empty or laid out in another way; XML files or images that are missing or not what they must
    be; an unknown class.
    """
    options: ObjectOptions = request.options
    root = find_root(request.root, "voc", "images and XML files in the format of Pascal VOC")
    found = _read(root, request)
    class_names, known_as = _find_classes(root, found, request)
    check_classes(known_as, class_names, options.num_classes, options.class_names)
    labels = _labels(found, class_names, known_as, bool(options.class_names))
    paths = [os.path.join(found.image_folder, file) for file in found.image_files]
    sizes = fill_in_sizes(found.sizes, paths.__getitem__, request.upright)
    numbers = np.flatnonzero(labels >= 0)
    raw = RawObjects(
        owners=found.owners,
        boxes=_boxes(found.corners),
        labels=labels,
        crowd=np.array(found.difficult, bool),
        areas=np.full(len(labels), np.nan),
        ids=np.arange(len(labels)),
    ).take(numbers)

    def first(number: int) -> str:
        at = int(numbers[number])
        image = int(found.owners[at])
        box = ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, found.corners[at], strict=True))
        height, width = sizes[image]
        return f"'{found.names[at]}' in {found.xml_files[image]}, {box}, of {width}×{height} (width × height)"

    left = len(labels) - len(numbers)
    notes = [*found.notes, *[f"{left:,} objects of other classes are left out"] * bool(left)]
    where, names = escaped(found.where), [os.path.relpath(path, root) for path in paths]
    table, images = select(tabulate(raw, sizes, first, where), where, request, notes, names)
    image_files, stems = ([names[image] for image in images] for names in (found.image_files, found.stems))
    category_ids = range(1, 1 + len(class_names))
    return FilesSource(found.image_folder, image_files, root, table, class_names, category_ids, stems)


def class_names_of_voc(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes; ``num_classes`` is not read.

    They are those of the options, of a file of names, or of the training objects. Raises UserError: as ``open_voc``; or
    no training object is there to name one.
    """
    if request.options.class_names:
        return request.options.class_names
    if path := names_file(request.root):
        return _of_objects(read_names(path))
    return _names_of(_read(request.root, request))


def _of_objects(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of a list without a background that comes first."""
    return tuple(names[1:] if names[0] in NO_OBJECTS else names)


def _names_of(found: _Annotations) -> tuple[str, ...]:
    """Returns the names of the classes that objects have, sorted; raises UserError where there is no object."""
    if not found.names:
        raise UserError(
            f"no object in the {len(found.xml_files):,} XML files of {escaped(found.where)}: annotate some, or choose "
            f"another split"
        )
    return tuple(sorted(set(found.names)))


def _boxes(corners: np.ndarray) -> np.ndarray:
    """Returns the edges, float64 [n, 4], of corner pixels (xmin, ymin, xmax, ymax)."""
    # Empty boxes stay empty: of a tool that counts from 0, or a single pixel.
    empty = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    return np.where(empty[:, None], corners, corners - [1, 1, 0, 0])


def _find_classes(root: str, found: _Annotations, request: Request) -> tuple[tuple[str, ...], str]:
    """Returns the names of the classes, and where they are from."""
    options: ObjectOptions = request.options
    if options.class_names:
        return tuple(map(str, options.class_names)), "detection.class_names"
    if path := names_file(root):
        names = read_names(path)
        return names if len(names) == options.num_classes else _of_objects(names), escaped(path)
    if options.num_classes == len(_NAMES) and set(found.names) <= set(_NAMES):
        return _NAMES, "Pascal VOC"
    if request.split == "train" or request.holdout:
        train = found
    else:
        try:
            train = _read(root, replace(request, split="train"))
        except NoLayoutError:
            if not request.learned:
                raise
            return request.learned, f"the run ({listed([escaped_name(name) for name in request.learned])})"
    names = _names_of(train)
    return names, f"{escaped(train.where)} ({listed([escaped_name(name) for name in names])})"


def _labels(found: _Annotations, class_names: Sequence[str], known_as: str, chosen: bool) -> np.ndarray:
    """Returns the class index of each object, int64 [n]; -1 for classes that were not chosen."""
    label_of = {name: label for label, name in enumerate(class_names)}
    unknown = [number for number, name in enumerate(found.names) if name not in label_of]
    if unknown and not chosen:
        name = found.names[unknown[0]]
        others = sorted({found.names[number] for number in unknown})
        raise UserError(
            f"{len(unknown):,} objects in {escaped(found.where)} are of {len(others)} unknown "
            f"class{'es' * (len(others) != 1)}, {listed([escaped_name(other) for other in others])}"
            f"{did_you_mean(name, class_names)}: the classes are those of {known_as}; correct them, or list all in "
            f"detection.class_names"
        )
    absent = [name for name in class_names if name not in found.names]
    if chosen and len(absent) == len(class_names):
        raise UserError(
            f"no object in {escaped(found.where)} is of detection.class_names ({listed(class_names)}): they are "
            f"called {listed([escaped_name(name) for name in sorted(set(found.names))]) or 'nothing'}"
        )
    return np.array([label_of.get(name, -1) for name in found.names], np.int64)


def _read(root: str, request: Request) -> _Annotations:
    folders, nested = find_folders(root, request)
    where, image_folder, has_lists = folders[0], folders[1], len(folders.places) > 2
    xml_files = {_stem(path): path for path in with_extension(scan(where, nested), ("xml",))}
    stems, repeated = read_lists(folders, xml_files.keys()) if has_lists else (sorted(xml_files), 0)
    images, problems = _Images(image_folder, scan(image_folder, nested)), Problems(where)
    files: list[XmlFile] = []
    image_files, doubles, elsewhere = [], [], []
    of_image: dict[str, list[str]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(lambda stem: read_file(os.path.join(where, xml_files[stem])), stems)
        for stem, data in zip(stems, contents, strict=True):
            if file := read_xml(data, xml_files[stem], problems):
                files.append(file)
                if chosen := images.of_stem(stem, file.images):
                    image_files.append(chosen[0])
                    of_image.setdefault(chosen[0], []).append(xml_files[stem])
                    doubles += chosen[1:]
                    elsewhere += [stem] * images.names_another(chosen[0], stem, file.images)
                else:
                    what, way_out, image = images.missing(stem, file.images)
                    problems.add(what, way_out, f"{xml_files[stem]}, of image '{image}'")
    for image, named_by in of_image.items():
        if len(named_by) > 1:
            way_out = "give each image one, or correct <filename>"
            problems.add("images have several XML files", way_out, f"{escaped(image)}, of {listed(named_by)}")
    problems.check()
    unlabelled = set() if has_lists else images.by_stem.keys() - xml_files.keys() - set(map(_stem, image_files))
    notes = about_split(folders.split, request)
    notes += [f"{len(unlabelled):,} images have no XML file and are left out"] * bool(unlabelled)
    notes += [f"{repeated:,} lines of the list name an image again and are left out"] * bool(repeated)
    notes += images.others.note(len(images.files), image_folder, but=("json", "txt", "xml"))
    if elsewhere:
        notes.append(
            f"{len(elsewhere):,} XML files name another image than that of their own name, which is taken, such as "
            f"{escaped(xml_files[elsewhere[0]])}"
        )
    if doubles:
        notes.append(
            f"{len(doubles):,} images are left out, such as {escaped(doubles[0])}: others have the same stem, and the "
            f"XML files do not say which is meant"
        )
    return _Annotations(
        where=where,
        image_folder=image_folder,
        stems=stems,
        xml_files=[xml_files[stem] for stem in stems],
        image_files=image_files,
        sizes=[file.size for file in files],
        owners=np.repeat(np.arange(len(files)), [len(file.names) for file in files]),
        names=[name for file in files for name in file.names],
        difficult=[difficult for file in files for difficult in file.difficult],
        corners=np.array([corners for file in files for corners in file.corners], np.float64).reshape(-1, 4),
        notes=notes,
    )


class _Images:
    """The image files of a split: ``paths`` of all files in ``folder``, relative to it."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self.folder = folder
        found, self.others, _ = choose_images(folder, paths)
        self.files = frozenset(found)
        self.by_stem: dict[str, list[str]] = {}
        for path in sorted(self.files):
            self.by_stem.setdefault(_stem(path), []).append(path)
        self._stems, self._paths = Names(self.by_stem), Names(self.files)
        unread = with_extension(paths, UNREAD)
        self._unread = {_stem(path): path for path in unread} | {path: path for path in unread}

    def of_stem(self, stem: str, named: Sequence[str]) -> list[str]:
        """Returns the paths of images that may belong to an XML file: one if its stem or a name in it identifies it."""
        alike = self.by_stem.get(self._stems.find(stem) or "", [])
        lasts = [composed(os.path.basename(name)) for name in named]
        exactly = [path for last in lasts for path in alike if composed(os.path.basename(path)) == last]
        return exactly[:1] or alike or self._of_names(stem, named)[:1]

    def names_another(self, chosen: str, stem: str, named: Sequence[str]) -> bool:
        """Whether the first name in an XML file is that of another image than the ``chosen`` one."""
        return bool(self._of_names(stem, named[:1])) and chosen not in self._of_names(stem, named[:1])

    def missing(self, stem: str, named: Sequence[str]) -> tuple[str, str, str]:
        """Describes a missing image: what is wrong, the way out, and which image is meant."""
        if unread := [self._unread[path] for path in (stem, *_places(stem, named)) if path in self._unread]:
            what = f"XML files are of images in {self.folder} whose format is not read"
            return what, UNREAD[ending_of(unread[0])].format(formats="JPEG or PNG"), unread[0]
        what, way_out = f"XML files have no image in {self.folder}", "fetch the images, or remove the XML files"
        return what, way_out, escaped_name(os.path.basename(next(iter(named), ""))) or stem

    def _of_names(self, stem: str, named: Sequence[str]) -> list[str]:
        return [path for path in map(self._paths.find, _places(stem, named)) if path is not None]


def _places(stem: str, named: Sequence[str]) -> list[str]:
    """Returns where the image ``named`` by an XML file may be: there, beside it, or in the folder itself."""
    beside = os.path.dirname(stem)
    names = dict.fromkeys(other for name in named for other in (name, unquote(name)))
    places = [(name, os.path.join(beside, os.path.basename(name)), os.path.basename(name)) for name in names]
    return [path for paths in places for path in paths]


def _stem(path: str) -> str:
    return stem_of(path)
