"""The description of a data set of YOLO, as Ultralytics defines it: ``data.yaml``."""

import os
from dataclasses import dataclass
from typing import Any

import yaml

from pvt_jax.errors import UserError
from pvt_jax.files.folders import names_in, read_file
from pvt_jax.files.text import decode_text
from pvt_jax.messages import escaped, listed

_ENDINGS = (".yaml", ".yml")
# The likelier first.
_NAMES = ("data", "dataset")
_KEYS = {"train", "val", "valid", "validation", "test"}


@dataclass(frozen=True)
class YamlFile:
    """A description.

    Attributes:
        path: of the file; "" for a data set that has none.
        base: folder that paths are relative to, as the file says; "" if it says none.
        entries: for each split folders and lists of images, as they are written.
        names: of the classes.
        boxes_only: whether key points follow the boxes.
    """

    path: str
    base: str
    entries: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    boxes_only: bool = False


def find_yaml(root: str, chosen: str = "") -> YamlFile | None:
    """Returns the description of a data set in ``root``, or None.

    Raises UserError: a file that cannot be used, or several that could be meant. ``chosen`` is the one that the config
    names.
    """
    paths = [os.path.join(root, name) for name in sorted(names_in(root)) if name.lower().endswith(_ENDINGS)]
    if chosen:
        paths = [os.path.join(root, chosen)]
    # Other programs have settings in files of this kind.
    found = {path: content for path in paths if (content := _load(path)) is not None and _describes(content)}
    usual = [path for name in _NAMES for path in found if os.path.splitext(os.path.basename(path))[0].lower() == name]
    if not usual and len(found) > 1:
        names = [os.path.relpath(path, root) for path in found]
        raise UserError(
            f"{escaped(root)} has several descriptions of data, {escaped(listed(names))}: name one, as "
            f"--config.detection.annotations={escaped(names[0])}"
        )
    path = next(iter([*usual, *found]), None)
    return None if path is None else _read(path, found[path])


def _load(path: str) -> Any:
    """Returns what is in a file, all scalars as text: "no" may be a class, and is not False."""
    text = decode_text(path, read_file(path))
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "no YAML"
        raise UserError(f"{escaped(path)} cannot be read{where} ({escaped(str(problem))}): correct it") from error
    except RecursionError as error:
        raise UserError(f"{escaped(path)} is nested too deeply: correct it") from error


def _describes(content: Any) -> bool:
    return isinstance(content, dict) and bool({"names", "nc"} & content.keys()) and bool(_KEYS & content.keys())


def _read(path: str, content: dict[str, Any]) -> YamlFile:
    base = content.get("path") or ""
    entries = {}
    for name, value in content.items():
        values = value if isinstance(value, list) else [value]
        if name not in ("names", "path") and all(isinstance(one, str) and one for one in values) and values:
            entries[str(name)] = tuple(values)
    if not isinstance(base, str):
        raise UserError(f"{escaped(path)}: path must be a folder, but is {escaped(str(base)[:60])}: correct it")
    return YamlFile(path, base, entries, _names(path, content), bool(content.get("kpt_shape")))


def _names(path: str, content: dict[str, Any]) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        numbers = sorted((int(number), number) for number in names if str(number).isdecimal())
        if len(numbers) != len(names) or [number for number, _ in numbers] != list(range(len(names))):
            raise UserError(f"{escaped(path)}: names must number the classes 0, 1, 2, … without gaps: correct them")
        names = [names[number] for _, number in numbers]
    if names is None and str(count).isdecimal():
        names = [f"class {number}" for number in range(int(str(count)))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{escaped(path)}: names must list the classes, as names: [cat, dog]: correct it")
    if count and str(count) != str(len(names)):
        raise UserError(
            f"{escaped(path)}: nc is {escaped(str(count)[:20])}, but names has {len(names)} classes: correct one"
        )
    return tuple(" ".join(name.split()) for name in names)
