"""Images with boxes in the format of Pascal VOC: one XML file for each image.

These layouts are found by themselves; {split} is train, trainval or training, and val, valid, validation or test:

- Annotations + JPEGImages (or images) with the stems in ImageSets/Main/{split}.txt, as Pascal VOC has it;
- {split}, XML files beside the images, as Roboflow exports it; {split}/Annotations + {split}/JPEGImages (or images);
  Annotations/{split} + JPEGImages/{split} (or annotations and images).

Pascal VOC counts from 1, and its corners lie within a box: here xmin - 1 and ymin - 1 are the left and upper edge,
xmax and ymax the right and lower one. Difficult objects are taken for crowd regions: training leaves them out, and
evaluation ignores them.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np

from pvt_jax.data.headers import THREADS, image_sizes, printable
from pvt_jax.data.sources import Split, did_you_mean
from pvt_jax.data.sources.class_names import VOC_CLASSES, names_file, read_names
from pvt_jax.data.sources.detection import (
    HALVES,
    DetectionOptions,
    Splits,
    check_classes,
    printable_name,
    read_file,
)
from pvt_jax.data.sources.folder import EXTENSIONS, find_root, list_folder, listed
from pvt_jax.data.sources.object_table import FilesSource, RawObjects, keep_labelled, select, tabulate
from pvt_jax.data.sources.problems import Problems
from pvt_jax.errors import UserError

_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "trainval", "training"),
    "eval": ("val", "valid", "validation", "test"),
}
# Folders of the XML files and of the images, and the list of stems where these are not split.
_LAYOUTS = (
    ("Annotations", "JPEGImages", "ImageSets/Main/{split}.txt"),
    ("Annotations", "images", "ImageSets/Main/{split}.txt"),
    ("{split}", "{split}", ""),
    ("{split}/Annotations", "{split}/JPEGImages", ""),
    ("{split}/annotations", "{split}/images", ""),
    ("Annotations/{split}", "JPEGImages/{split}", ""),
    ("annotations/{split}", "images/{split}", ""),
    ("Annotations", "JPEGImages", "{split}.txt"),
    ("annotations", "images", "{split}.txt"),
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
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


def open_voc(root: str, split: Split, splits: Splits, options: DetectionOptions) -> FilesSource:
    """Opens one half of a data set of Pascal VOC's format in ``root`` ("~" is expanded).

    The classes are those of ``options``, else those that a file of names in ``root`` lists, else the 20 of Pascal VOC
    if the model has as many and no others appear, else what the training objects are called, sorted.

    Raises:
        UserError: a folder that is missing, empty or laid out in another way; XML files or images that are missing or
            not what they must be; an unknown class.
    """
    root = find_root(root, "voc", "images and XML files in the format of Pascal VOC")
    half = _read_half(root, split, splits, options)
    class_names, known_as = _find_classes(root, half, split, splits, options)
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
        box = ", ".join(f"{name} {value:g}" for name, value in zip(_CORNERS, half.corners[at], strict=True))
        height, width = sizes[half.owners[at]]
        return f"'{half.names[at]}' in {half.xml_files[half.owners[at]]}, {box}, of {width}×{height} (width × height)"

    table = tabulate(raw, sizes, first, printable(half.where))
    images = keep_labelled(table, printable(half.where), HALVES[split], options.keep_empty).tolist()
    notes = [f"{half.unlabelled:,} images have no XML file and are left out"] if half.unlabelled else []
    if half.repeated:
        notes.append(f"{half.repeated:,} lines of the list name an image again and are left out")
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


def class_names_of_voc(root: str, splits: Splits, options: DetectionOptions) -> tuple[str, ...]:
    """Returns the names of the classes in ``root``; ``num_classes`` is not read.

    They are those of the options, of a file of names, or what training objects are called.
    """
    if options.class_names:
        return options.class_names
    if path := names_file(root):
        return read_names(path)
    return tuple(sorted(set(_read_half(root, "train", splits, options).names)))


def _boxes(corners: np.ndarray) -> np.ndarray:
    """Returns edges float64 [n, 4] of (xmin, ymin, xmax, ymax), which lie within."""
    # Of a tool that counts from 0 this has no extent, and an object of one pixel is none either.
    empty = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    return np.where(empty[:, None], corners, corners - [1, 1, 0, 0])


def _find_classes(
    root: str, half: _Half, split: Split, splits: Splits, options: DetectionOptions
) -> tuple[tuple[str, ...], str]:
    """Returns the names of the classes, and where they are from."""
    if options.class_names:
        return tuple(map(str, options.class_names)), "detection.class_names"
    if path := names_file(root):
        return read_names(path), printable(path)
    if options.num_classes == len(_NAMES) and set(half.names) <= set(_NAMES):
        return _NAMES, "Pascal VOC"
    train = half if split == "train" else _read_half(root, "train", splits, options)
    names = sorted(set(train.names))
    return tuple(names), f"{printable(train.where)} ({listed([printable_name(name) for name in names])})"


def _labels(half: _Half, class_names: Sequence[str], known_as: str, chosen: bool) -> np.ndarray:
    """Returns the number of each object's class, int64 [n]; -1 where it is none of those that were chosen."""
    label_of = {name: label for label, name in enumerate(class_names)}
    unknown = [number for number, name in enumerate(half.names) if name not in label_of]
    if unknown and not chosen:
        name = half.names[unknown[0]]
        others = sorted({half.names[number] for number in unknown})
        raise UserError(
            f"{len(unknown):,} objects in {printable(half.where)} are of {len(others)} unknown "
            f"class{'es' * (len(others) != 1)}, {listed([printable_name(other) for other in others])}"
            f"{did_you_mean(name, class_names)}: the classes are those of {known_as}; correct them, or list all in "
            f"detection.class_names"
        )
    absent = [name for name in class_names if name not in half.names]
    if chosen and len(absent) == len(class_names):
        raise UserError(
            f"no object in {printable(half.where)} is of detection.class_names ({listed(class_names)}): they are "
            f"called {listed([printable_name(name) for name in sorted(set(half.names))]) or 'nothing'}"
        )
    return np.array([label_of.get(name, -1) for name in half.names], np.int64)


def _read_half(root: str, split: Split, splits: Splits, options: DetectionOptions) -> _Half:
    xml_folder, image_folder, stems_file = _find_layout(root, split, splits, options)
    xml_folder, image_folder = (os.path.normpath(os.path.join(root, path)) for path in (xml_folder, image_folder))
    half = _Half(xml_folder, image_folder)
    xml_files = {os.path.splitext(name)[0]: name for name in _files(xml_folder, ("xml",))}
    images = _files(image_folder, EXTENSIONS)
    by_stem = {os.path.splitext(name)[0]: name for name in images}
    if stems_file:
        path = os.path.join(root, stems_file)
        listed_stems = _read_stems(path)
        half.stems = list(dict.fromkeys(listed_stems))
        half.repeated = len(listed_stems) - len(half.stems)
        if missing := [stem for stem in half.stems if stem not in xml_files]:
            with_ending = os.path.splitext(missing[0])[0] in xml_files
            way_out = "write them without extension" if with_ending else "add them, or correct the list"
            raise UserError(
                printable(
                    f"{path} lists {len(missing):,} images that have no XML file in {xml_folder}: "
                    f"{listed(missing, 3)}; {way_out}"
                )
            )
    else:
        half.stems = sorted(xml_files)
        half.unlabelled = len(by_stem.keys() - xml_files.keys())
    if not half.stems:
        raise UserError(f"no XML files in {printable(xml_folder)}: put one there for each image")
    half.xml_files = [xml_files[stem] for stem in half.stems]
    problems = Problems(xml_folder)
    paths = [os.path.join(xml_folder, name) for name in half.xml_files]
    with ThreadPoolExecutor(THREADS) as pool:
        for number, data in enumerate(pool.map(read_file, paths)):
            _read_xml(data, number, half, problems, by_stem, set(images))
    problems.check()
    return half


def _files(folder: str, extensions: Sequence[str] | frozenset[str]) -> list[str]:
    return sorted(name for name in list_folder(folder)[0] if name.rpartition(".")[2].lower() in extensions)


def _read_xml(
    data: bytes, number: int, half: _Half, problems: Problems, by_stem: dict[str, str], images: set[str]
) -> None:
    """Adds what an XML file says to ``half``, and what is wrong with it to ``problems``."""
    file = half.xml_files[number]
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if wrong := _not_utf8(data):
            way_out = "save them as UTF-8, or declare their encoding in their first line"
            problems.add("XML files are not UTF-8", way_out, f"{file} ({wrong})")
        else:
            problems.add("XML files cannot be read", "correct them, or export them again", f"{file} ({error})")
        return
    stem = half.stems[number]
    named = os.path.basename((tree.findtext("filename") or "").strip().replace("\\", "/"))
    image = named if named in images and os.path.splitext(named)[0] == stem else by_stem.get(stem)
    image = image or (named if named in images else None)
    if image is None:
        what, way_out = f"XML files have no image in {half.image_folder}", "fetch the images, or remove the XML files"
        problems.add(what, way_out, f"{file}, of image '{printable_name(named) or stem}'")
        return
    half.image_files.append(image)
    half.sizes.append(_size(tree))
    for element in tree.findall("object"):
        name = " ".join((element.findtext("name") or "").split())
        box = element.find("bndbox")
        corners = [_number(None if box is None else box.findtext(corner)) for corner in _CORNERS]
        if not name:
            problems.add("objects have no name", "add it", f"in {file}")
        elif not all(map(math.isfinite, corners)):
            way_out = f"they are {', '.join(_CORNERS)}"
            problems.add("objects have no bndbox of four numbers", way_out, f"'{printable_name(name)}' in {file}")
        else:
            half.owners.append(number)
            half.names.append(name)
            half.corners.append(corners)
            half.difficult.append((element.findtext("difficult") or "").strip() == "1")


def _size(tree: ElementTree.Element) -> tuple[int, int]:
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    is_known = height >= 1 and width >= 1
    return (int(height), int(width)) if is_known else (0, 0)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _not_utf8(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"byte 0x{data[error.start]:02X} in line {data.count(10, 0, error.start) + 1}"
    return ""


def _read_stems(path: str) -> list[str]:
    """Returns the stems in a list, a line each; the 1 or -1 that may follow a stem is not read."""
    stems = [os.fsdecode(line.split()[0]) for line in read_file(path).splitlines() if line.strip()]
    if not stems:
        raise UserError(f"{printable(path)} is empty: write the names of images there, without extension, a line each")
    return stems


def _find_layout(root: str, split: Split, splits: Splits, options: DetectionOptions) -> tuple[str, str, str]:
    names = (splits[split],) if splits[split] else _SPLIT_NAMES[split]
    layouts = _LAYOUTS
    if options.annotations or options.image_folder:
        xml_folder = options.annotations or options.image_folder
        image_folder = options.image_folder or options.annotations
        lists = ("",) if "{split}" in xml_folder else ("ImageSets/Main/{split}.txt", "{split}.txt")
        layouts = tuple((xml_folder, image_folder, stems) for stems in lists)
    for layout in layouts:
        for name in names:
            xml_folder, image_folder, stems = (path.replace("{split}", name) for path in layout)
            if _is_in(root, xml_folder, image_folder, stems):
                return xml_folder, image_folder, stems
    below = sorted(list_folder(root)[1])
    looked_for = "; ".join(" + ".join(dict.fromkeys(path for path in layout if path)) for layout in layouts)
    key = {"train": "train_split", "eval": "eval_split"}[split]
    way_out = f"set data.{key}, or detection.annotations and image_folder, such as 'xml/{{split}}' and 'img/{{split}}'"
    if not splits[split] and layouts is _LAYOUTS:
        way_out = _about_halves(root, below, names[0]) or way_out
    nested = [os.path.join(folder, name) for folder in below for name in ("", *_folders(os.path.join(root, folder)))]
    nested = [folder for folder in nested if os.path.isdir(os.path.join(root, folder, "Annotations"))]
    if len(nested) == 1 and os.path.basename(nested[0].rstrip("/")) not in names:
        way_out = f"did you mean --config.data.root={os.path.normpath(os.path.join(root, nested[0]))}?"
    raise UserError(
        printable(
            f"no {HALVES[split]} images with XML files in {root}: looked for {looked_for}, with {' or '.join(names)} "
            f"for {{split}}; it holds {listed(below) or 'no folder'}; {way_out}"
        )
    )


def _about_halves(root: str, below: Sequence[str], name: str) -> str:
    """Returns the way out where there are XML files that are not divided into training and evaluation, else ""."""
    if "Annotations" in below and ("JPEGImages" in below or "images" in below):
        return f"write the names of its images, without extension, into ImageSets/Main/{name}.txt, a line each"
    if _files(root, ("xml",)):
        return "put XML files and images into two folders there, train and valid"
    return ""


def _folders(folder: str) -> list[str]:
    return sorted(list_folder(folder)[1])


def _is_in(root: str, xml_folder: str, image_folder: str, stems: str) -> bool:
    folders = [os.path.join(root, path) for path in (xml_folder, image_folder)]
    if not all(map(os.path.isdir, folders)) or (stems and not os.path.isfile(os.path.join(root, stems))):
        return False
    return bool(_files(folders[0], ("xml",)))
