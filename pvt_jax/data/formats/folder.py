"""Images in class folders: root/train/<class>/*.jpg and root/val/<class>/*.jpg, as ImageNet is usually unpacked."""

import operator
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from pvt_jax.data.files import EXTENSIONS, find_root, is_image, list_folder, read_file, scan_images
from pvt_jax.data.formats.layouts import Layout, Tree, find_layout, no_layout, split_names
from pvt_jax.data.headers import THREADS
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.data.text import did_you_mean, listed
from pvt_jax.errors import UserError

_LAYOUTS = (Layout("{split}"),)


class FolderSource:
    """The image files below ``folder/<class>/``, at any depth, ordered by class and then by path.

    Paths are kept as one byte string with the end of each, about 40 bytes an image, so that the 1.3 million of ImageNet
    are cheap to hold and to send to workers. Files are neither opened nor measured while scanning. Classes in
    ``class_names``, in the order of their labels, have no image where they have no folder. Raises UserError: a folder
    that cannot be read, or a class folder without an image.
    """

    def __init__(self, folder: str, class_names: Sequence[str]) -> None:
        present = set(list_folder(folder)[1])
        classes = [label for label, name in enumerate(class_names) if name in present]
        with ThreadPoolExecutor(THREADS) as pool:
            scanned = list(pool.map(_scan_class, [os.path.join(folder, class_names[label]) for label in classes]))
        counts = [len(lengths) for _, lengths in scanned]
        empty = [class_names[label] for label, count in zip(classes, counts, strict=True) if count == 0]
        if empty:
            raise UserError(
                f"{len(empty)} of {len(classes)} class folders in {folder} have no images "
                f"({listed(sorted(EXTENSIONS))}): {listed(empty)}; add images or remove the folders"
            )
        self._folder = folder
        self.class_names = tuple(class_names)
        self._labels = np.repeat(np.asarray(classes, np.int32), counts)
        self._paths = b"".join(paths for paths, _ in scanned)
        self._ends = np.cumsum(np.concatenate([lengths for _, lengths in scanned]), dtype=np.int64)

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
        return os.path.join(self._folder, self.class_names[self._labels[index]], path)

    def __str__(self) -> str:
        return os.path.dirname(self._folder)


def open_folder(request: Request) -> FolderSource:
    """Opens training or evaluation images; labels follow the sorted names of the training classes.

    Raises UserError: a folder that is missing, empty, unreadable or laid out in another way.
    """
    training = _find(replace(request, split="train"))
    class_names = sorted(_class_folders(training))
    if request.split == "train":
        return FolderSource(training, class_names)
    folder = _find(request)
    if unknown := sorted(set(_class_folders(folder)) - set(class_names)):
        raise UserError(
            f"{folder} has {len(unknown)} class folders that {os.path.basename(training)} has not: {listed(unknown)}"
            f"{did_you_mean(unknown[0], class_names)}; both must name the same classes"
        )
    return FolderSource(folder, class_names)


def list_classes(root: str) -> tuple[str, ...]:
    """Returns the classes of ``root``: the sorted names of the folders in its training folder.

    Raises UserError: as ``open_folder``.
    """
    return tuple(sorted(_class_folders(_find(Request("train", root=root)))))


def _find(request: Request) -> str:
    root = find_root(request.root, "folder", "train/<class>/*.jpg and val/<class>/*.jpg")
    tree = Tree(root)
    if found := find_layout(tree, _LAYOUTS, split_names(request)):
        return found[0]
    expected = [os.path.join(root, split, "<class>", "*.jpg") for split in ("train", "val")]
    way_out = f"put images into {' and '.join(expected)}, or set data.{request.split}_split"
    raise no_layout(tree, request, "images", _LAYOUTS, way_out)


def _class_folders(folder: str) -> list[str]:
    """Returns the names of the class folders in ``folder``; raises UserError when there are none."""
    files, folders = list_folder(folder)
    if not folders:
        images = sum(map(is_image, files))
        what = f"{images:,} images lie directly in it" if images else "it has no images either"
        raise UserError(
            f"no class folders in {folder}: {what}; put the images of each class in a folder of its own, "
            f"{os.path.join(folder, '<class>', '*.jpg')}"
        )
    return folders


def _scan_class(folder: str) -> tuple[bytes, np.ndarray]:
    """Lists the images below ``folder``, sorted: their relative paths in one byte string, and the length of each."""
    encoded = [os.fsencode(path) for path in scan_images(folder)]
    return b"".join(encoded), np.asarray([len(path) for path in encoded], np.int64)
