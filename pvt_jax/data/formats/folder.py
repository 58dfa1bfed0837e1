"""Images in class folders: root/train/<class>/*.jpg and root/val/<class>/*.jpg, as ImageNet is usually unpacked.

Without folders of splits, root/<class>/*.jpg, ``data.holdout`` divides the images of each class.
"""

import copy
import itertools
import operator
import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.formats.layouts import (
    SPLIT_NAMES,
    Found,
    Layout,
    NoLayoutError,
    Tree,
    about_place,
    find_data,
    find_layout,
    no_layout,
    split_names,
)
from pvt_jax.data.formats.tools import known_tool
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import choose_images, find_root, list_folder, read_file, scan_images
from pvt_jax.files.headers import THREADS
from pvt_jax.files.kinds import Unread, is_image
from pvt_jax.files.spellings import composed
from pvt_jax.messages import did_you_mean, escaped, listed, plural

_ROOT = ("folder", "train/<class>/*.jpg and val/<class>/*.jpg")
_LAYOUTS = (Layout("{split}"),)
_WHOLE = (Layout(""),)
# Folders within each other in which classes are looked for.
_DEEPEST = 8
# Folders that hold the images, and the labels, of other tasks.
_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "data"))
_LABEL_FOLDERS = frozenset(("labels", "masks", "annotations", "segmentationclass", "segmentationclasspng"))


class _Scanned(NamedTuple):
    """The images of a class: their paths in one byte string, the length of each, and what else its folder holds.

    ``below`` is the first image if all are in further folders, else "".
    """

    paths: bytes
    lengths: np.ndarray
    unread: Unread
    below: str


class FolderSource:
    """The image files below ``folder/<class>/``, at any depth, ordered by class and then by path.

    Paths are kept as one byte string with the end of each, about 40 bytes an image, so that the 1.3 million of ImageNet
    are cheap to hold and to send to workers. Files with a known ending are neither opened nor measured while scanning.
    Accents in names of folders may be encoded in another way than in ``class_names``.

    Args:
        root: what ``str`` returns.
        folder: of the class folders.
        class_names: in the order of their labels; those that have no folder have no image.
        notes: what is known of the folder.

    Raises UserError: a folder that cannot be read, or a class folder without an image.
    """

    def __init__(self, root: str, folder: str, class_names: Sequence[str], notes: Sequence[str] = ()) -> None:
        present = {composed(name): name for name in list_folder(folder).folders}
        classes = [label for label, name in enumerate(class_names) if composed(name) in present]
        self._folders = tuple(present.get(composed(name), "") for name in class_names)
        with ThreadPoolExecutor(THREADS) as pool:
            scanned = list(pool.map(_scan_class, [os.path.join(folder, self._folders[label]) for label in classes]))
        counts = [len(one.lengths) for one in scanned]
        unread = _unread_beside(folder)
        for one in scanned:
            unread.update(one.unread)
        if empty := [class_names[label] for label, count in zip(classes, counts, strict=True) if count == 0]:
            held = Unread()
            for one in scanned:
                if not len(one.lengths):
                    held.update(one.unread)
            raise UserError(
                escaped(
                    f"{len(empty)} of {len(classes)} class folders in {folder} have no images: {listed(empty)}"
                    f"{f' (they hold {held})' * bool(held)}; add images or remove the folders"
                )
            )
        self._root, self._folder = root, folder
        self.class_names = tuple(class_names)
        self._labels = np.repeat(np.asarray(classes, np.int32), counts)
        self._paths = b"".join(one.paths for one in scanned)
        self._ends = np.cumsum(np.concatenate([one.lengths for one in scanned]), dtype=np.int64)
        self._notes = (*notes, *unread.note(len(self), folder), *self._on_depth(classes, scanned))

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> ClassificationRecord:
        return {"image": read_file(self.name(index)), "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Returns the path of the file of record ``index``."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self._folder}")
        start = int(self._ends[index - 1]) if index else 0
        path = os.fsdecode(self._paths[start : int(self._ends[index])])
        return os.path.join(self._folder, self._folders[self._labels[index]], path)

    def path(self, index: int) -> str:
        """Returns the same, as the system takes it."""
        return self.name(index)

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the folders: files that are not read, and classes in further folders."""
        return self._notes

    def part(self, request: Request) -> "FolderSource":
        """Returns the images of the wanted split, if ``request.holdout`` divides those of the folder."""
        if not request.holdout:
            return self
        names = [os.path.relpath(self.path(index), self._root) for index in range(len(self))]
        chosen, notes = part_of(names, request, str(self), self._labels)
        part = copy.copy(self)
        starts = np.concatenate([[0], self._ends[:-1]])
        spans = zip(starts[chosen].tolist(), self._ends[chosen].tolist(), strict=True)
        part._paths = b"".join(self._paths[start:end] for start, end in spans)
        part._ends = np.cumsum((self._ends - starts)[chosen], dtype=np.int64)
        part._labels = self._labels[chosen]
        part._notes = (*self._notes, *notes) if request.split == "train" else ()
        return part

    def __str__(self) -> str:
        return escaped(self._root)

    def _on_depth(self, classes: Sequence[int], scanned: Sequence[_Scanned]) -> list[str]:
        """Returns a note on classes that may be groups of classes; none if there are none."""
        names = [self.class_names[label] for label in classes]
        below = [os.path.join(name, one.below) for name, one in zip(names, scanned, strict=True) if one.below]
        if not below:
            return []
        first = escaped(os.path.dirname(below[0]))
        return [
            f"{len(below)} of {plural(len(classes), 'class folder')} have their images in further folders, such as "
            f"{first}, which are no classes of their own"
        ]


def open_folder(request: Request) -> FolderSource:
    """Opens training or evaluation images; labels follow the sorted names of the training classes.

    Raises UserError: a folder that is missing, empty, unreadable or laid out in another way, or has one class alone.
    """
    root = find_root(request.root, *_ROOT)
    request = replace(request, root=root)
    try:
        training, class_names = _training(request)
        known_as = os.path.basename(training[0])
    except NoLayoutError:
        if request.split == "train" or not request.learned:
            raise
        training, class_names, known_as = None, request.learned, "the run"
    found = training if training and (request.split == "train" or request.holdout) else _find(request)
    known = set(map(composed, class_names))
    if unknown := sorted(name for name in _class_folders(found[0]) if composed(name) not in known):
        raise UserError(
            escaped(
                f"{found[0]} has {plural(len(unknown), 'class folder')} that {known_as} has not: "
                f"{listed(unknown)}{did_you_mean(unknown[0], class_names)}; both must name the same classes"
            )
        )
    return FolderSource(root, found[0], class_names, about_place(Tree(root), found, request)).part(request)


def list_classes(request: Request) -> tuple[str, ...]:
    """Returns the classes of a data set: the sorted names of the folders in its training folder.

    Raises UserError: as ``open_folder``.
    """
    return tuple(_training(replace(request, root=find_root(request.root, *_ROOT)))[1])


def _training(request: Request) -> tuple[Found, list[str]]:
    """Returns where the training data is, and its classes, sorted."""
    request = replace(request, split="train")
    found = _find(request)
    names = sorted(_class_folders(found[0]))
    kinds = [name.lower() for name in names]
    if len(names) == 1:
        raise _one_class(found, names[0], request)
    if set(kinds) <= _IMAGE_FOLDERS | _LABEL_FOLDERS and not _LABEL_FOLDERS.isdisjoint(kinds):
        raise UserError(
            escaped(
                f"{found[0]} holds {listed(names)}, which look like the images and labels of another task and not like "
                f"classes: train a segmenter or a detector, or give the classes other names"
            )
        )
    return found, names


def _one_class(found: Found, name: str, request: Request) -> UserError:
    """Returns the error for a data set of one class, which may be one folder too many above the classes."""
    inside, depth = os.path.join(found[0], name), 1
    # Links may form a cycle.
    while len(below := list_folder(inside).folders) == 1 and depth < _DEEPEST:
        inside, depth = os.path.join(inside, below[0]), depth + 1
    beside = _unread_beside(found[0])
    holds = f" (beside it {beside})" * bool(beside)
    problem = f"{found[0]} has one class folder, {name}{holds}, and one class alone leaves nothing to learn"
    if not below:
        return UserError(escaped(f"{problem}: put images of other classes into folders beside it"))
    deeper = os.path.relpath(inside, found[0])
    keys = [("train", found)]
    if evaluation := find_layout(Tree(request.root), _LAYOUTS, split_names(replace(request, split="eval"))):
        keys += [("eval", evaluation)] * os.path.isdir(os.path.join(evaluation[0], deeper))
    flags = [f"--config.data.{key}_split={shlex.quote(os.path.join(place.split, deeper))}" for key, place in keys]
    return UserError(
        escaped(
            f"{problem}: if the classes are {listed(sorted(below))} in {inside}, add {' '.join(flags)}; if not, put "
            f"images of other classes into folders beside it"
        )
    )


def _find(request: Request) -> Found:
    tree = Tree(request.root)
    if found := find_data(tree, request, _LAYOUTS, _WHOLE, _is_divided_or_classes):
        return found
    expected = [os.path.join(tree.root, split, "<class>", "*.jpg") for split in ("train", "val")]
    way_out = f"put images into {' and '.join(expected)}, or set data.{request.split}_split"
    raise no_layout(tree, request, "images", _LAYOUTS, way_out, whole=_WHOLE, accepts=_is_divided_or_classes)


def _is_divided_or_classes(found: Found) -> bool:
    """Whether a folder is that of a split, or holds folders that look like classes."""
    if found.split:
        return True
    folders = list_folder(found[0]).folders
    kinds = {name.lower() for name in folders}
    is_other = not kinds.isdisjoint(itertools.chain(*SPLIT_NAMES.values())) or not kinds.isdisjoint(_LABEL_FOLDERS)
    return len(folders) > 1 and not is_other and any(map(_holds_images, (os.path.join(found[0], x) for x in folders)))


def _holds_images(folder: str) -> bool:
    """Whether an image is in a folder or in the first folders below it, by the endings of names."""
    for _ in range(_DEEPEST):
        files, folders, *_ = list_folder(folder)
        if any(map(is_image, files)):
            return True
        if not folders:
            break
        folder = os.path.join(folder, min(folders))
    return False


def _class_folders(folder: str) -> list[str]:
    """Returns the names of the class folders in ``folder``; raises UserError where there is none, or a broken link."""
    listing = list_folder(folder)
    if links := sorted(name for name in listing.broken if "." not in name):
        raise UserError(
            escaped(
                f"{folder} has {plural(len(links), 'broken link')}, {listed(links)}: if these are classes, put their "
                f"folders back; if not, remove the links"
            )
        )
    if not listing.folders:
        beside = _unread_beside(folder)
        what = f"it holds {beside}" if beside else "it has no images either"
        own = os.path.join(folder, "<class>", "*.jpg")
        # A table lies beside the images or above them.
        table = known_tool(folder, None) or known_tool(os.path.dirname(folder), None)
        way_out = table or f"put the images of each class in a folder of its own, {own}"
        raise UserError(escaped(f"no class folders in {folder}: {what}; {way_out}"))
    alike: dict[str, str] = {}
    for name in sorted(listing.folders):
        if (other := alike.setdefault(composed(name), name)) != name:
            raise UserError(
                escaped(f"{folder} has two class folders {other} whose accents are encoded differently: join them")
            )
    return listing.folders


def _unread_beside(folder: str) -> Unread:
    """Counts what is beside the class folders, where nothing is read."""
    listing = list_folder(folder)
    images, unread, _ = choose_images(folder, listing.files)
    unread.add("image{s} in no class folder", len(images))
    unread.add_left_out(listing.broken, listing.hidden)
    return unread


def _scan_class(folder: str) -> _Scanned:
    images = scan_images(folder)
    encoded = [os.fsencode(path) for path in images.paths]
    below = images.paths[0] if images.paths and all(os.path.dirname(path) for path in images.paths) else ""
    return _Scanned(b"".join(encoded), np.asarray([len(path) for path in encoded], np.int32), images.unread, below)
