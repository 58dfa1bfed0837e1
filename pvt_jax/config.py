"""Load, check, describe and compare configs.

A config file defines ``get_config(arg="") -> Config`` and names only what its experiment chooses; everything else
comes from ``defaults()`` in ``config_keys.py``, which is also the list of all keys. A key that is not there is an
error. It may also define ``complete(config)``, which sets what follows from other keys, such as the number of classes
from a folder, once the command line has set its own.
"""

import ast
import difflib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pvt_jax.config_check import check
from pvt_jax.config_keys import FREE_ON_RESUME, Config, defaults, get, leaves
from pvt_jax.errors import UserError

__all__ = ["Config", "check", "defaults", "differences", "get", "load", "resolve", "to_json"]

# Keys under these sections beyond the listed ones are settings of the model's own module, checked when it is made.
_OPEN_SECTIONS = ("model", "head")


def load(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The full config of a file, with overrides from the command line applied.

    Args:
      spec: path of the config file, or path:argument for its ``get_config(argument)``.
      overrides: strings as ``"model.name=pvt_small"``.

    Raises:
      UserError: the file is missing or broken, or a key or value does not fit.
    """
    path, _, argument = spec.partition(":")
    try:
        file = Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"no config file {path}: there is no such user") from None
    chosen, complete = _run_config_file(file, argument)
    config = resolve(chosen.to_dict() if isinstance(chosen, ConfigDict) else chosen)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            if isinstance(_section_of(config, key).get(key.split(".")[-1]), ConfigDict):
                raise UserError(f"--config.{key} is a section: set one of its keys, as --config.{key}.KEY=VALUE")
            raise UserError(f"--config.{key} needs a value: write --config.{key}=VALUE")
        _set(config, key, text, from_text=True)
    if complete is not None:
        _call(file, complete, config)
    check(config)
    return config


def resolve(chosen: dict[str, Any]) -> Config:
    """``defaults()`` with the nested ``chosen`` values in place; unknown keys raise UserError."""
    config = defaults()
    for key, value in leaves(chosen):
        _set(config, key, value, from_text=False)
    return config


def to_json(config: Config) -> str:
    """The config as indented JSON text, keys in their order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for each key that differs and that a resumed run may not change.

    A key that a config lacks, because it was written before there was that key, has its default value.
    """
    known = dict(leaves(json.loads(to_json(defaults()))))
    before, after = known | dict(leaves(old)), known | dict(leaves(new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME):
            continue
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now:
            lines.append(f"{key}: {was if was != '' else 'empty'} → {now if now != '' else 'empty'}")
    return lines


def _set(config: Config, key: str, value: Any, *, from_text: bool) -> None:
    section, last = _section_of(config, key), key.split(".")[-1]
    if isinstance(section.get(last), ConfigDict):
        raise UserError(f"config key {key!r} is a section: set one of its keys, {', '.join(section[last])}")
    if from_text:
        value = _parse(key, value, section.get_type(last) if last in section else None)
    if key == "model.image_size" and isinstance(value, int):
        value = (value, value)
    if isinstance(value, list):
        value = tuple(value)
    # ConfigDict takes None for any key; here only keys that are None by default do.
    if value is None and last in section and get(defaults(), key) is not None:
        raise UserError(_wrong_type(key, section.get_type(last), value))
    try:
        with section.unlocked():
            section[last] = value
    except TypeError:
        raise UserError(_wrong_type(key, section.get_type(last), value)) from None


def _section_of(config: Config, key: str) -> Any:
    """The section that holds ``key``; raises UserError if neither it nor an open section knows the key."""
    section, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        is_open = depth == 1 == len(parts) - 1 and parts[0] in _OPEN_SECTIONS
        if not isinstance(section, ConfigDict) or (part not in section and not is_open):
            known = [name for name, _ in leaves(config.to_dict())]
            nearest = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise UserError(f"unknown config key {key!r}: did you mean {nearest!r}?")
        if depth < len(parts) - 1:
            section = section[part]
    return section


def _parse(key: str, text: str, kind: type | None) -> Any:
    if kind is str:
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        if kind is None:
            return text
        raise UserError(_wrong_type(key, kind, text)) from None


def _wrong_type(key: str, kind: type, value: Any) -> str:
    article = "an" if kind.__name__[0] in "aeiou" else "a"
    return f"config key {key!r} takes {article} {kind.__name__}, not {value!r}"


def _run_config_file(path: Path, argument: str) -> tuple[Any, Callable[[Config], None] | None]:
    """(what ``get_config`` gives, ``complete`` if the file has it)."""
    if not path.is_file():
        siblings = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(str(path), siblings, 1, 0.0)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"pvt_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    def chosen() -> Any:
        spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]
        return module.get_config(argument) if argument else module.get_config()

    return _call(path, chosen), getattr(module, "complete", None)


def _call(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what a config file defines, or runs; what goes wrong in it is a UserError."""
    # Configs share recipes by "from configs.common import …", from whatever folder the command is run in.
    sys.path.insert(0, str(path.resolve().parent.parent))
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config file {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
