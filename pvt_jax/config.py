"""Load, check, document and compare configs.

A config file defines ``get_config(arg="") -> Config`` and names only what its experiment chooses; everything else has
its default. The keys are fields of dataclasses in files called ``options.py``, beside the code that reads them; any
other key is an error. A config file may also define ``complete(config)``, which sets what follows from other keys, as
the number of classes in a folder, once the command line has set its own.
"""

import ast
import difflib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from pvt_jax import config_files, fields
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig

__all__ = [
    "Config",
    "defaults",
    "differences",
    "documented",
    "get",
    "is_path",
    "load",
    "override",
    "put",
    "read",
    "recipe",
    "resolve",
    "to_json",
    "without_paths",
]

# A ConfigDict with the keys of all tasks. No type checker knows them: code that computes takes what ``read`` returns.
Config = Any


# What a config file may leave to be found in the data.
_FOUND = ("model.num_classes", "data.source")


def load(spec: str, overrides: Sequence[str] = (), run: Path | None = None) -> Config:
    """The full config of a file, with overrides from the command line applied.

    Raises UserError: the file is missing or broken, or a key or value is wrong.

    Args:
      spec: path of the config file, or the name of one that comes with pvt_jax, as ``"pvt_medium"``; with
        ``":argument"`` after it for its ``get_config(argument)``.
      overrides: strings as ``"model.name=pvt_small"``.
      run: the workdir of a run that is evaluated: what the config leaves to be found in the data is what the run found.
    """
    file = config_files.find(spec)
    chosen, complete = file.run()
    config = resolve(chosen.to_dict() if isinstance(chosen, ConfigDict) else chosen)
    for text in overrides:
        override(config, text)
    if run is not None:
        _take_found(config, run)
    if complete is not None:
        file.call(complete, config)
    read(config)
    return config


def read(config: Config) -> TaskConfig:
    """A config as the dataclass that its task reads.

    Raises UserError: a value is wrong, values do not go together, or a key was set that the task does not read.
    """
    values = config.to_dict()
    if values["task"] not in TASKS:
        raise UserError(f"unknown task {values['task']!r}: the tasks are {', '.join(TASKS)}")
    options = TASKS[values["task"]].config
    own, usual = fields.keys_of(options), _keys()
    for name, value in _leaves(values):
        known, is_open = usual.get(name), name.partition(".")[0] in _open_sections()
        if known is None and not is_open:
            raise _unknown(name)
        unread = (known is not None and name not in own) or any(f"{name}.".startswith(f"{x}.") for x in options.unread)
        if unread and (known is None or value != known.default):
            raise UserError(
                f"{name} is not read by task {values['task']!r}: leave it out, or set the task that it is for"
            )
    return fields.read(options, values)


def resolve(chosen: dict[str, Any]) -> Config:
    """``defaults()`` with the nested ``chosen`` values in place. Raises UserError for unknown keys and wrong types."""
    config = defaults()
    for key, value in _leaves(chosen):
        put(config, key, value)
    return config


def defaults() -> Config:
    """The keys of all tasks with their default values."""
    values: dict[str, Any] = {}
    for name, key in _keys().items():
        section, _, last = name.rpartition(".")
        parent = values.setdefault(section, {}) if section else values
        # The type of None cannot be told from its value.
        parent[last] = config_dict.placeholder(int) if key.default is None else key.default
    return ConfigDict(values)


class Documented(NamedTuple):
    """A key, or a section, which has no type and no default."""

    key: str
    kind: str
    default: Any
    text: str
    free: bool = False


def documented() -> list[Documented]:
    """All keys, each section before its keys: type in words, default, text, and whether a resumed run may change it."""
    rows: dict[str, Documented] = {}
    for task in TASKS.values():
        for name, section in fields.sections_of(task.config).items():
            rows.setdefault(name, Documented(name, "", None, (section.__doc__ or "").strip()))
    rows |= {name: Documented(name, key.in_words(), key.default, key.text, key.free) for name, key in _keys().items()}
    order = list(dict.fromkeys(name.partition(".")[0] for name in _keys()))
    return sorted(rows.values(), key=lambda row: order.index(row.key.partition(".")[0]))


def to_json(config: Config) -> str:
    """The config as indented JSON text, keys in their order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for each key that differs and that a resumed run may not change.

    A key that a config lacks, because it was written before there was that key, has its default value.
    """
    known = dict(_leaves(json.loads(to_json(defaults()))))
    before, after = known | dict(_leaves(old)), known | dict(_leaves(new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, "absent"), after.get(name, "absent")
        if was != now and not (name in known and _keys()[name].free):
            lines.append(f"{name}: {was if was != '' else 'empty'} → {now if now != '' else 'empty'}")
    return lines


def without_paths(saved: dict[str, Any]) -> dict[str, Any]:
    """A config as plain dicts, without the paths on a machine in it."""
    keys = _keys()

    def kept(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            name: kept(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else ("" if prefix + name in keys and keys[prefix + name].path else value)
            for name, value in tree.items()
        }

    return kept(saved, "")


def recipe(saved: dict[str, Any]) -> dict[str, Any]:
    """What a run computes, by dotted key: what has another value than the default, its length, batch and rate.

    Keys that a resumed run may change are left out: they say where and how it computes.
    """
    known, keys = dict(_leaves(json.loads(to_json(defaults())))), _keys()
    shown = ("batch_size", "optimizer.learning_rate", "optimizer.base_batch_size", "optimizer.weight_decay")
    length, other = ("epochs", "steps") if saved.get("steps") is None else ("steps", "epochs")
    found = {name: value for name, value in _leaves(saved) if name != other}
    changed = {name for name, value in found.items() if value != known.get(name, "absent")}
    free = {name for name in changed if name in keys and keys[name].free}
    return {name: value for name, value in found.items() if name in (changed - free) | {length, *shown}}


def get(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def is_path(name: str) -> bool:
    """Whether the key of that name is of a path on a machine."""
    return name in _keys() and bool(_keys()[name].path)


@cache
def _keys() -> dict[str, fields.Key]:
    """The keys of all tasks by dotted name; where tasks share a section, the keys that any of them reads."""
    found: dict[str, fields.Key] = {}
    for task in TASKS.values():
        found |= fields.keys_of(task.config)
    return found


@cache
def _open_sections() -> set[str]:
    """Sections that take further keys."""
    return {
        name
        for task in TASKS.values()
        for name, section in fields.sections_of(task.config).items()
        if fields.is_open(section)
    }


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def override(config: Config, assignment: str) -> None:
    """Set a key by text such as ``"model.name=pvt_small"``. Raises UserError: no such key, or a wrong type."""
    key, equals, text = assignment.partition("=")
    if not equals:
        if isinstance(_section_of(config, key).get(key.split(".")[-1]), ConfigDict):
            raise UserError(f"--config.{key} is a section: set one of its keys, as --config.{key}.KEY=VALUE")
        raise UserError(f"--config.{key} needs a value: write --config.{key}=VALUE")
    put(config, key, _parse(text, _keys().get(key)))


def put(config: Config, name: str, value: Any) -> None:
    """Set a key by its dotted name. Raises UserError: no such key, or a wrong type."""
    section, last, key = _section_of(config, name), name.split(".")[-1], _keys().get(name)
    if isinstance(section.get(last), ConfigDict):
        raise UserError(f"config key {name!r} is a section: set one of its keys, {', '.join(section[last])}")
    with section.ignore_type():
        section[last] = fields.plain(value) if key is None else key.checked(name, value, limits=False)


def _section_of(config: Config, key: str) -> Any:
    """The section that holds ``key``; raises UserError if neither it nor an open section knows the key."""
    section, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        is_open = depth == 1 == len(parts) - 1 and parts[0] in _open_sections()
        if not isinstance(section, ConfigDict) or (part not in section and not is_open):
            raise _unknown(key)
        if depth < len(parts) - 1:
            section = section[part]
    return section


def _unknown(key: str) -> UserError:
    nearest = difflib.get_close_matches(key, _keys(), 1, 0.0)[0]
    return UserError(f"unknown config key {key!r}: did you mean {nearest!r}?")


def _parse(text: str, key: fields.Key | None) -> Any:
    """A value from the command line; text stays text where the key takes it, or where nothing else can be read."""
    if key is not None and isinstance(key.default, str):
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return text


def _take_found(config: Config, run: Path) -> None:
    try:
        theirs = json.loads((run / "config.json").read_text(encoding="utf-8"))
        found = {name: value for name, value in _leaves(theirs) if name in _FOUND}
    except (OSError, ValueError, AttributeError):  # Who reads the run says what is wrong with it.
        return
    for name, value in found.items():
        if not get(config, name):
            put(config, name, value)
