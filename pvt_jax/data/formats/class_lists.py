"""Lists of the classes of label maps that tools write beside them: names, and colours or values where they say them.

Besides plain lists of names, see ``class_names.py``, these are CVAT's ``labelmap.txt``, whose lines are
``name:red,green,blue:parts:actions``, and Roboflow's ``_classes.csv``, whose lines are ``value, name``. Both may be in
the folder of a split. Configs import this, so it needs only text.
"""

import csv
import os
import re
from dataclasses import dataclass

from pvt_jax.data.formats.class_names import UNLABELLED, names_file, read_names
from pvt_jax.data.formats.layouts import SPLIT_NAMES
from pvt_jax.data.options import Colour
from pvt_jax.errors import UserError
from pvt_jax.files.folders import names_in, read_file
from pvt_jax.files.text import decode_text, is_comment, read_lines
from pvt_jax.messages import escaped

_COLOURED, _VALUED = "labelmap.txt", "_classes.csv"


@dataclass(frozen=True)
class ClassList:
    """The classes of label maps.

    Attributes:
        path: of the file.
        names: of the classes, in their order.
        colours: of the classes, then of pixels to ignore; () if the file says none.
        values: what label maps store for each class; () if that is its number.
    """

    path: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    values: tuple[int, ...] = ()


def find_class_list(root: str) -> ClassList | None:
    """Returns the classes that a file in the folder ``root`` lists; None if there is none.

    Raises UserError: ``root`` is no folder; a file that cannot be read; or files of several splits that differ.
    """
    if path := names_file(root):
        return ClassList(path, read_names(path))
    root = os.path.expanduser(root)
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    folders = ["", *sorted(name for name in names_in(root) if name.lower() in splits)]
    for name, read in ((_COLOURED, _read_coloured), (_VALUED, _read_valued)):
        paths = [os.path.join(root, folder, name) for folder in folders]
        found = [read(path) for path in paths if os.path.isfile(path)]
        for one in found[1:]:
            if (one.names, one.colours, one.values) != (found[0].names, found[0].colours, found[0].values):
                raise UserError(
                    f"{escaped(found[0].path)} and {escaped(one.path)} differ: list the same classes in both"
                )
        if found:
            return found[0]
    return None


def _read_coloured(path: str) -> ClassList:
    rows = [line.split(":") for line in read_lines(path) if not is_comment(line)]
    # TensorFlow's files of this name have names alone.
    if not rows or not all(len(row) > 1 and re.fullmatch(r"\s*(\d+\s*,\s*\d+\s*,\s*\d+\s*)?", row[1]) for row in rows):
        return ClassList(path, read_names(path))
    is_class = [row[0].strip().lower() not in UNLABELLED for row in rows]
    order = [number for number in range(len(rows)) if is_class[number]]
    names = tuple(rows[number][0].strip() for number in order)
    if not all(row[1].strip() for row in rows):
        return ClassList(path, names)
    order += [number for number in range(len(rows)) if not is_class[number]]
    return ClassList(path, names, tuple(_colour(rows[number][1]) for number in order))


def _colour(text: str) -> Colour:
    red, green, blue = (int(value) for value in text.split(","))
    return red, green, blue


def _read_valued(path: str) -> ClassList:
    rows = list(csv.reader(decode_text(path, read_file(path)).splitlines(), skipinitialspace=True))
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    found: dict[int, str] = {}
    # Above them are the titles of the columns.
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not row[0].isdecimal() or not row[1] or int(row[0]) in found:
            raise UserError(
                f"line {number} of {escaped(path)} is '{escaped(', '.join(row))}': write a value of the label maps and "
                f"the name of its class, each value once"
            )
        found[int(row[0])] = row[1]
    if not found:
        raise UserError(f"{escaped(path)} lists no classes: export it again")
    values = tuple(sorted(found))
    is_numbered = values == tuple(range(len(values)))
    return ClassList(path, tuple(found[value] for value in values), values=() if is_numbered else values)
