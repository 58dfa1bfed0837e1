"""Images in class folders: root/train/<class>/*.jpg and root/val/<class>/*.jpg, as ImageNet is usually unpacked."""

import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pvt_jax.data.files import EXTENSIONS, is_image, list_folder, names_in, read_file, scan_images
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.data.text import did_you_mean, listed
from pvt_jax.errors import UserError

EVAL_FOLDERS = ("val", "validation", "test")
# Network file systems answer one listing slowly and many at once quickly.
_SCAN_THREADS = 8


class FolderSource:
    """The image files below ``folder/<class>/``, at any depth, ordered by class and then by path.

    Paths are kept as one byte string with the end of each, about 40 bytes an image, so that the 1.3 million of ImageNet
    are cheap to hold and to send to workers. Files are neither opened nor measured while scanning.

    Args:
        folder: what holds the class folders.
        class_names: the classes in the order of their labels; those without a folder here have no image.

    Raises:
        UserError: a folder that cannot be read, or a class folder without an image.
    """

    def __init__(self, folder: str, class_names: tuple[str, ...]) -> None:
        present = set(list_folder(folder)[1])
        classes = [label for label, name in enumerate(class_names) if name in present]
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            scanned = list(pool.map(scan_class, [os.path.join(folder, class_names[label]) for label in classes]))
        counts = [len(lengths) for _, lengths in scanned]
        empty = [class_names[label] for label, count in zip(classes, counts, strict=True) if count == 0]
        if empty:
            raise UserError(
                f"{len(empty)} of {len(classes)} class folders in {folder} have no images "
                f"({listed(sorted(EXTENSIONS))}): {listed(empty)}; add images or remove the folders"
            )
        self._folder = folder
        self.class_names = class_names
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
    """Opens the training or the evaluation folder of ``root``; labels follow the sorted names of the training classes.

    Raises:
        UserError: a folder that is missing, empty, unreadable or laid out in another way.
    """
    root, train_folder, eval_folder = request.root, request.train_split or "train", request.eval_split
    class_names = list_classes(root, train_folder)
    root = os.path.abspath(os.path.expanduser(root))
    below = list_folder(root)[1]
    if request.split == "train":
        return FolderSource(os.path.join(root, train_folder), class_names)

    candidates = (eval_folder,) if eval_folder else EVAL_FOLDERS
    found = next((name for name in candidates if name in below), None)
    if found is None:
        raise UserError(_missing_folder(root, " or ".join(candidates), below))
    folder = os.path.join(root, found)
    unknown = sorted(set(_class_folders(folder)) - set(class_names))
    if unknown:
        raise UserError(
            f"{folder} has {len(unknown)} class folders that {train_folder} has not: {listed(unknown)}"
            f"{did_you_mean(unknown[0], class_names)}; both must name the same classes"
        )
    return FolderSource(folder, class_names)


def list_classes(root: str, train_folder: str = "train") -> tuple[str, ...]:
    """Returns the classes of ``root``: the sorted names of the folders in its training folder.

    Raises:
        UserError: as ``open_folder``.
    """
    if not root:
        raise UserError(
            "the folder source needs data.root: the folder that holds train/<class>/*.jpg and val/<class>/*.jpg"
        )
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        state = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the data folder {root} {state}: set data.root to the folder that holds train/<class>/*.jpg")
    below = list_folder(root)[1]
    if train_folder not in below:
        raise UserError(_missing_folder(root, train_folder, below))
    return tuple(sorted(_class_folders(os.path.join(root, train_folder))))


def _class_folders(folder: str) -> list[str]:
    """Returns the names of the class folders in ``folder``; raises UserError when there are none."""
    files, folders = list_folder(folder)
    if not folders:
        images = sum(is_image(name) for name in files)
        what = f"{images:,} images lie directly in it" if images else "it has no images either"
        raise UserError(
            f"no class folders in {folder}: {what}; put the images of each class in a folder of its own, "
            f"{os.path.join(folder, '<class>', '*.jpg')}"
        )
    return folders


def scan_class(folder: str) -> tuple[bytes, np.ndarray]:
    """Lists the images below ``folder``, sorted: their relative paths in one byte string, and the length of each."""
    encoded = [os.fsencode(path) for path in scan_images(folder)]
    return b"".join(encoded), np.asarray([len(path) for path in encoded], np.int64)


def in_other_case(
    root: str, place: str, is_there: Callable[[str], bool], names_of: Callable[[str], list[str]] = names_in
) -> str:
    """Returns how a path below ``root`` is spelled there, upper and lower case aside; "" if not, or if several are.

    Args:
        root: a folder.
        place: the path below it.
        is_there: whether what has been found is of the right kind.
        names_of: lists a folder.
    """
    found = ""
    for part in filter(None, place.split("/")):
        names = names_of(os.path.join(root, found))
        alike = [part] if part in names else [name for name in names if name.lower() == part.lower()]
        if len(alike) != 1:
            return ""
        found = os.path.join(found, alike[0])
    return found if is_there(os.path.join(root, found)) else ""


def _missing_folder(root: str, name: str, below: Sequence[str]) -> str:
    found = f"{root} holds {listed(sorted(below))}" if below else f"{root} holds no folder"
    return (
        f"no {name} folder in {root}: expected {os.path.join(root, 'train', '<class>', '*.jpg')} and "
        f"{os.path.join(root, 'val', '<class>', '*.jpg')}; {found}"
    )
