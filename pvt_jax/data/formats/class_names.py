"""Class names, from a text file beside the images or of a data set. Configs import this, so it needs only text."""

import os
import re
from collections.abc import Iterable, Sequence

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.files.text import is_comment, read_lines
from pvt_jax.messages import did_you_mean, escaped, escaped_name, listed

# Files of class names beside the folders of images; the first belongs to ADE20K.
NAMES_FILES = ("objectInfo150.txt", "classes.txt", "class_names.txt", "label_names.txt", "labels.txt")

# First lines of labelme's lists: pixels that are ignored, and the background, of which there are no objects.
_IGNORED = "__ignore__"
NO_OBJECTS = (_IGNORED, "_background_", "__background__")

# What tools call pixels that are to be ignored, in lower case.
UNLABELLED = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "unannotated", "unknown")

# Pascal VOC, the background first.
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def names_file(root: str) -> str | None:
    """Returns the path of the file of class names in ``root``, or None; raises UserError if that is no folder."""
    folder = paths.local(root, "the folder")
    if not os.path.isdir(folder):
        raise UserError(f"{escaped(root)} is not a folder: give the one that holds your images and label maps")
    files = (os.path.join(folder, name) for name in NAMES_FILES)
    return next((path for path in files if os.path.isfile(path)), None)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct names of a column of classes in their order: that of numbers, if all are some."""
    distinct = set(names)
    return tuple(sorted(distinct, key=int) if all(name.isdecimal() for name in distinct) else sorted(distinct))


def check_known(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raises UserError if a table, ``where``, has ``names`` of classes that the training data has not."""
    if unknown := sorted({*names} - {*known}):
        raise UserError(
            f"{escaped(where)} has classes that the training data has not, "
            f"{listed([escaped_name(name) for name in unknown])}{did_you_mean(unknown[0], known)}: correct them"
        )


def read_names(path: str) -> tuple[str, ...]:
    """Returns the class names in a text file, one a line; all lines may start with their numbers, counted from 0 or 1.

    Of ADE20K's table objectInfo150.txt, the first synonym in the last column. Lines that begin with "#" and a blank are
    comments. A first ``__ignore__`` is no class: labelme writes its pixels as 255, and numbers the others from 0.
    Raises UserError: the file cannot be read, is not UTF-8 or UTF-16, or names nothing.
    """
    lines = read_lines(path)
    if os.path.basename(path) == NAMES_FILES[0]:
        rows = [line.split("\t") for line in lines if line[0].isdigit()]
        return tuple(re.split("[,;]", row[-1])[0].strip() for row in rows)
    lines = [line for line in lines if not is_comment(line)]
    if not lines:
        raise UserError(
            f"{escaped(path)} is empty: write the name of a class on each line, in the order of their numbers"
        )
    if lines[0] == _IGNORED and len(lines) > 1:
        lines = lines[1:]
    if commented := next((line for line in lines if line.startswith("#") and line != "#"), None):
        raise UserError(
            escaped(
                f"{path} has a line '{commented}' that is either a comment or a class: write a blank after the # of a "
                f"comment, or number all lines, as in '0 {lines[0].lstrip('#')}'"
            )
        )
    numbered = [re.match(r"(\d+)[\s:,;]+(.*\S)", line) for line in lines]
    if all(numbered):
        found = [(int(match[1]), match[2]) for match in numbered if match]
        if [number for number, _ in found] in (list(range(len(found))), list(range(1, len(found) + 1))):
            return tuple(name for _, name in found)
    return tuple(lines)


def without_ignored(names: Sequence[str], reduce_zero_label: bool) -> tuple[str, ...]:
    """Returns the names of the classes of label maps; where 0 is ignored, without a first name that says so."""
    return tuple(names[1:] if reduce_zero_label and means_nothing(names) else names)


def means_nothing(names: Sequence[str]) -> bool:
    """Whether the first of several names is no class: what tools call pixels that nobody labelled, or the rest."""
    return len(names) > 1 and names[0].strip("_ ").lower() in (*UNLABELLED, "background")


def check_classes(where: str, names: Sequence[str], num_classes: int, chosen: Sequence[str | int]) -> None:
    """Raises UserError unless the ``names`` are distinct and as many as the model has classes."""
    known = "detection.class_names" if chosen else where
    if same := [name for label, name in enumerate(names) if name in names[:label]]:
        raise UserError(f"{known} has '{same[0]}' twice: give each class a name of its own")
    if len(names) != num_classes:
        raise UserError(
            f"{known} has {len(names):,} class{'es' * (len(names) != 1)} but model.num_classes is {num_classes}: set "
            f"--config.model.num_classes={len(names)}"
        )


def choose_classes(where: str, names: Sequence[str], wanted: Sequence[str | int]) -> list[int]:
    """Returns the indices of the ``wanted`` names, all if none is wanted; raises UserError for an unknown one."""
    for name in map(str, wanted):
        if name not in names:
            raise UserError(
                f"detection.class_names has '{name}', which is not in {where}{did_you_mean(name, names)}: it has "
                f"{listed(names, 20)}"
            )
    return [names.index(str(name)) for name in wanted] or list(range(len(names)))


def alike(names: Sequence[str]) -> list[str]:
    """Returns a note on classes whose names differ in upper and lower case or blanks alone; none if there are none."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault("".join(name.split()).casefold(), name), name) for name in names]
    found = [f"'{one}' and '{other}'" for one, other in pairs if one != other]
    return [f"{listed(found)} are classes of their own, though they are spelled alike"] * bool(found)
