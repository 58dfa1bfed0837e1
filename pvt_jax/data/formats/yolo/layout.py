"""Where the images and label files of a data set of YOLO are.

With a ``data.yaml`` the images of a split are those of the folders and lists that it names. Its paths are often those
of another machine: they are looked for below the data set by their last parts, too. Without one there are known
layouts, and the names of the classes in a list. Labels are in a folder ``labels`` where ``images`` is in the path of
an image, as Ultralytics has it, or beside the image.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pvt_jax.data.formats.class_names import names_file, read_names
from pvt_jax.data.formats.layouts import (
    HOLD_OUT,
    VALIDATION,
    Found,
    Layout,
    NoLayoutError,
    Tree,
    find_data,
    names_in_turn,
    no_layout,
    refuse_holdout,
    split_names,
)
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.tools import tool_of
from pvt_jax.data.formats.yolo.yaml_file import YamlFile, find_yaml
from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import names_in, read_file, scan_images
from pvt_jax.files.spellings import Disk, plain_path
from pvt_jax.files.text import file_names, is_comment
from pvt_jax.messages import escaped, escaped_name

_LAYOUTS = (Layout("images/{split}"), Layout("{split}/images"), Layout("{split}"))
# Data that is not divided; the second is CVAT's.
_WHOLE = (Layout("images"), Layout("obj_train_data"), Layout(""))
# Lists of names of Darknet, CVAT and Roboflow.
_NAMES = ("obj.names", "_darknet.labels", "train/_darknet.labels")
# Of paths of other machines these parts alone say nothing.
_COMMON = ("images", "labels", "data", "dataset", "datasets")
# Files by which a folder is judged.
_MOST_JUDGED = 20


@dataclass(frozen=True)
class Place:
    """Where a split is.

    Attributes:
        where: the file or folder that describes it.
        split: what the data set calls it; "" if it is not divided.
        images: absolute paths.
        names: of the classes.
        boxes_only: whether key points follow the boxes.
    """

    where: str
    split: str
    images: list[str]
    names: tuple[str, ...]
    boxes_only: bool


def is_yolo(root: str) -> bool:
    """Whether a folder looks like a data set of YOLO."""
    try:
        if find_yaml(root):
            return True
    except UserError:  # It is said where no other format is there.
        return True
    found = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(".txt") and found < _MOST_JUDGED:
                found += 1
                tool = tool_of(os.path.join(folder, name))
                if tool and not tool.objects:
                    return True
    return False


def find_names(root: str, request: Request) -> tuple[str, ...]:
    """Returns the names of the classes. Raises UserError: nothing lists them."""
    if yaml := _yaml(root, request):
        return yaml.names
    path = names_file(root) or next((path for path in (os.path.join(root, x) for x in _NAMES) if _is_file(path)), None)
    if path is None:
        raise NoLayoutError(
            f"{escaped(root)} has labels of YOLO, but nothing names their classes: write data.yaml with the keys "
            f"train, val and names, or classes.txt with a name on each line, in the order of their numbers"
        )
    return read_names(path)


def find_place(root: str, request: Request) -> Place:
    """Returns where a split of the data set is, before it is divided.

    Raises UserError: it is nowhere; lists that name what is not there; validation data beside data to be divided.
    """
    names, yaml = find_names(root, request), _yaml(root, request)
    if yaml is None:
        return _without_yaml(root, request, names)
    finder = _Finder(root, yaml)
    if request.holdout and (name := finder.first(VALIDATION)):
        refuse_holdout(request, Found(_LAYOUTS[0], name, ((f"{name} in {yaml.path}",),)))
    for some in names_in_turn(split_names(request.place)):
        if name := finder.first(some):
            return Place(yaml.path, name, finder.images(name), names, yaml.boxes_only)
    if request.takes_whole and (found := find_data(Tree(root), request, (), _WHOLE, _has_labels)):
        return Place(root, "", _images_in(found[0]), names, yaml.boxes_only)
    raise _not_named(request, yaml, finder)


def label_files(images: Sequence[str]) -> list[str | None]:
    """Returns the path of the label file of each image; None for one without."""
    disk, folders = Disk(), {}
    found: list[str | None] = []
    for image in images:
        folder, name = os.path.split(image)
        if folder not in folders:
            folders[folder] = _label_folder(folder)
        label = disk.find(folders[folder], os.path.splitext(name)[0] + ".txt")
        found.append(None if label is None else os.path.join(folders[folder], label))
    return found


def label_place(image: str) -> str:
    """Returns where the label file of an image is looked for."""
    return os.path.join(_label_folder(os.path.dirname(image)), os.path.splitext(os.path.basename(image))[0] + ".txt")


def _yaml(root: str, request: Request) -> YamlFile | None:
    return find_yaml(root, request.options.annotations)


def _without_yaml(root: str, request: Request, names: tuple[str, ...]) -> Place:
    tree = Tree(root)
    found = find_data(tree, request, _LAYOUTS, _WHOLE, _has_labels)
    if not found:
        way_out = f"set data.{request.split}_split, or write data.yaml with the keys train, val and names"
        what = "images with labels of YOLO"
        raise no_layout(tree, request, what, _LAYOUTS, way_out, whole=_WHOLE, accepts=_has_labels)
    return Place(root, found.split, _images_in(found[0]), names, False)


def _not_named(request: Request, yaml: YamlFile, finder: "_Finder") -> NoLayoutError:
    names = [name for name in split_names(request.place) if name in yaml.entries]
    key = names[0] if names else (request.split_name or {"train": "train", "eval": "val"}[request.place.split])
    what = f"{key} is {', '.join(yaml.entries[key])}, which is not there" if names else f"it has no key {key}"
    way_out = f"correct {key}, relative to {os.path.dirname(yaml.path)}"
    if request.split == "eval" and not request.takes_whole and finder.first(split_names(Request("train"))):
        way_out = f"{HOLD_OUT}, or {way_out}"
    return NoLayoutError(escaped(f"no {SPLIT_WORDS[request.split]} images by {yaml.path}: {what}; {way_out}"))


def _has_labels(found: Found) -> bool:
    """Whether a folder has images, and one of the first has a label file."""
    return any(label_files(_images_in(found[0])[:_MOST_JUDGED]))


def _images_in(folder: str) -> list[str]:
    return [os.path.join(folder, path) for path in scan_images(folder).paths]


def _label_folder(folder: str) -> str:
    """Returns the folder of the label files of the images in ``folder``."""
    parts = folder.split(os.sep)
    places = [number for number, part in enumerate(parts) if part.lower() == "images"]
    for label in ("labels", "Labels", "LABELS") if places else ():
        apart = os.sep.join([*parts[: places[-1]], label, *parts[places[-1] + 1 :]])
        if any(name.lower().endswith(".txt") for name in names_in(apart)):
            return apart
    return folder


def _is_file(path: str) -> bool:
    return os.path.isfile(path)


class _Finder:
    """Finds what a description names."""

    def __init__(self, root: str, yaml: YamlFile) -> None:
        self._root, self._yaml, self._disk = root, yaml, Disk()
        here = os.path.dirname(yaml.path)
        self._bases = [os.path.join(here, _plain(yaml.base)), here, root]
        self._folders: dict[str, str | None] = {}

    def first(self, names: Sequence[str]) -> str:
        """Returns the first of the ``names`` whose folders and lists are all there; "" if there is none."""
        return next(
            (name for name in names if name in self._yaml.entries and all(map(self._place, self._yaml.entries[name]))),
            "",
        )

    def images(self, name: str) -> list[str]:
        """Returns the absolute paths of the images of a split, each once; raises UserError for missing ones."""
        found: dict[str, None] = {}
        for entry in self._yaml.entries[name]:
            place = self._place(entry) or ""
            found |= dict.fromkeys(_images_in(place) if os.path.isdir(place) else self._listed(place))
        if not found:
            entries = ", ".join(self._yaml.entries[name])
            raise UserError(escaped(f"{self._yaml.path}: {name}, {entries}, has no images: correct it"))
        return list(found)

    def _listed(self, path: str) -> Iterator[str]:
        problems, here = Problems(path), os.path.dirname(path)
        for line in file_names(path, read_file(path)):
            if is_comment(line):
                continue
            head, tail = os.path.split(_plain(line))
            if head not in self._folders:
                self._folders[head] = self._find(head, [here, *self._bases]) if head else here
            folder = self._folders[head]
            name = None if folder is None else self._disk.find(folder, tail)
            if folder is None or name is None:
                problems.add("images of the list are missing", "fetch them, or correct the list", escaped_name(line))
            else:
                yield os.path.join(folder, name)
        problems.check()

    def _place(self, entry: str) -> str | None:
        return self._find(_plain(entry), self._bases)

    def _find(self, place: str, bases: Sequence[str]) -> str | None:
        """Returns the absolute path of what a description calls ``place``; None if it is nowhere."""
        parts = [part for part in place.split("/") if part not in ("", ".", "..")]
        choices = [os.path.join(base, place) for base in bases]
        # Roboflow writes ../train/images for what is beside the file.
        choices += [os.path.join(base, *parts) for base in bases]
        # Of the paths of another machine the last parts hold.
        ends = [parts[start:] for start in range(1, len(parts))]
        choices += [os.path.join(self._root, *end) for end in ends if len(end) > 1 or end[0].lower() not in _COMMON]
        return next((os.path.normpath(path) for path in choices if os.path.exists(path)), None)


def _plain(path: str) -> str:
    """Returns a path with slashes, and without the letter of a drive of Windows."""
    return re.sub(r"^[A-Za-z]:(?=/)", "", plain_path(path))
