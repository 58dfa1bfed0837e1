"""Hugging Face's image folders: ``metadata.jsonl`` or ``metadata.csv`` beside the images lists each and its class.

A row has the path of an image, ``file_name``, and its class, ``label``, which may be a number; other columns are not
read. Each split has a folder, or ``data.holdout`` divides one table.
"""

import csv
import json
import operator
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import check_known, sorted_names
from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.formats.layouts import Layout, NoLayoutError, Tree, about_place, find_data, no_layout
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file
from pvt_jax.files.spellings import Disk, plain_path
from pvt_jax.files.text import decode_text
from pvt_jax.messages import escaped, escaped_name

_TABLE = "metadata.jsonl|metadata.csv"
_LAYOUTS = (Layout(f"{{split}}/{_TABLE}"), Layout(f"data/{{split}}/{_TABLE}"))
_WHOLE = (Layout(_TABLE),)
# Columns of the class; the first is Hugging Face's.
_LABELS = ("label", "labels", "class", "category")

# Paths of images below the root, and what their rows call their classes.
Rows = list[tuple[str, str]]


class MetadataSource:
    """The images of a table, in its order: ``paths`` below ``root``, the class of each, and notes."""

    def __init__(
        self, root: str, paths: Sequence[str], labels: np.ndarray, class_names: Sequence[str], notes: Sequence[str]
    ) -> None:
        self._root, self._paths, self._notes = root, tuple(paths), tuple(notes)
        self.labels, self.class_names = labels, tuple(class_names)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> ClassificationRecord:
        return {"image": read_file(self.path(index)), "label": int(self.labels[operator.index(index)])}

    def path(self, index: int) -> str:
        """Returns the path of an image as the system takes it."""
        return os.path.join(self._root, self._paths[operator.index(index)])

    def name(self, index: int) -> str:
        return escaped(self.path(index))

    def notes(self) -> tuple[str, ...]:
        return self._notes

    def __str__(self) -> str:
        return escaped(self._root)


def open_metadata(request: Request) -> MetadataSource:
    """Opens a split of a Hugging Face image folder; the classes are those of the training table, sorted.

    Raises UserError: a folder or table that is missing or broken, images that are missing, or an unknown class.
    """
    root = find_root(request.root, "metadata", "train/metadata.jsonl and images")
    request = replace(request, root=root)
    table, rows, notes = _read(request)
    if request.split == "train" or request.holdout:
        names = _names(rows)
    else:
        try:
            names = _names(_read(replace(request, split="train"))[1])
        except NoLayoutError:
            if not request.learned:
                raise
            names = request.learned
    check_known(table, (label for _, label in rows), names)
    number_of = {name: number for number, name in enumerate(names)}
    labels = np.array([number_of[label] for _, label in rows], np.int32)
    paths = [path for path, _ in rows]
    chosen, divided = part_of(paths, request, escaped(table), labels)
    kept = [path for path, is_chosen in zip(paths, chosen.tolist(), strict=True) if is_chosen]
    return MetadataSource(root, kept, labels[chosen], names, [*notes, *divided])


def class_names_of_metadata(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes. Raises UserError: as ``open_metadata``."""
    root = find_root(request.root, "metadata", "train/metadata.jsonl and images")
    return _names(_read(replace(request, root=root, split="train"))[1])


def _names(rows: Rows) -> tuple[str, ...]:
    return sorted_names(label for _, label in rows)


def _read(request: Request) -> tuple[str, Rows, list[str]]:
    """Returns the path of a table, its rows, and notes."""
    tree = Tree(request.root)
    found = find_data(tree, request, _LAYOUTS, _WHOLE)
    if found is None:
        way_out = "write one, with a line {file_name, label} for each image, or set data.source=folder"
        raise no_layout(tree, request, "table of images", _LAYOUTS, way_out, whole=_WHOLE)
    path, disk = found[0], Disk()
    folder, problems, rows = os.path.dirname(path), Problems(path), []
    read = _csv_rows if path.lower().endswith(".csv") else _json_rows
    for line, row in read(path, problems):
        name = row.get("file_name")
        label = next((row[key] for key in _LABELS if row.get(key) not in (None, "")), None)
        file = disk.find(folder, plain_path(name)) if isinstance(name, str) and name else None
        if not isinstance(name, str) or not name:
            problems.add("rows have no file_name", "add it", f"line {line}")
        elif type(label) not in (str, int):
            way_out = f"add one of the columns {', '.join(_LABELS)}, a name or a number"
            problems.add("rows have no class", way_out, f"line {line}, of '{escaped_name(name)}'")
        elif file is None:
            problems.add("images are missing", "fetch them, or remove their rows", f"'{escaped_name(name)}'")
        else:
            rows.append((os.path.relpath(os.path.join(folder, file), tree.root), str(label).strip()))
    problems.check()
    if not rows:
        raise UserError(f"{escaped(path)} lists no images: write a line {{file_name, label}} for each")
    return path, rows, about_place(tree, found, request)


def _json_rows(path: str, problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(decode_text(path, read_file(path)).split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            row = line
        if isinstance(row, dict):
            found.append((number, row))
        elif row is not None:
            problems.add("lines are no JSON objects", "write each row in a line, {…}", f"line {number}")
    return found


def _csv_rows(path: str, problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(decode_text(path, read_file(path)).splitlines())
    return [(number, row) for number, row in enumerate(rows, start=2)]
