"""Settings of models and heads, as configs and command lines give them, against the fields of their modules."""

import difflib
import math
import numbers
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pvt_jax.errors import UserError


def types_of(module: Any) -> dict[str, Any]:
    """The type of each setting of a module: its fields, without ``parent`` and ``name``, which are Flax's."""
    hints = get_type_hints(module)
    return {field.name: hints[field.name] for field in fields(module) if field.name not in ("parent", "name")}


def checked(owner: str, section: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` in plain Python types, tuples for lists and numbers for NumPy's.

    Args:
      owner: what a person calls the module, as "head 'retinanet'".
      section: of the config that has its settings, "model" or "head".
      settings: value of each.
      known: type of each that there is.

    Raises:
      UserError: a setting is not known, or its value has another type.
    """
    for setting, value in settings.items():
        if setting not in known:
            nearest = difflib.get_close_matches(setting, known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(known)}"
            raise UserError(f"{owner} has no setting {setting!r}: {hint}")
        if not _is(value, known[setting]):
            raise UserError(f"{section}.{setting} must be {_in_words(known[setting])}, but is {value!r}")
    return {setting: _plain(value) for setting, value in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, (bool, int)) else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type of those that fields of modules have; True for types that are not known here."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str)
    if origin in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_is(one, parts[0]) for one in value)
    if origin is tuple:
        is_list = isinstance(value, (list, tuple)) and len(value) == len(parts)
        return is_list and all(map(_is, value, parts))
    return True


def _in_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if origin is Sequence:
        return "whole numbers, as (1, 2)" if parts == (int,) else "numbers, as (0.5, 1)"
    if origin is tuple:
        return f"{len(parts)} numbers"
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    return ", or ".join(dict.fromkeys(map(_in_words, parts)))


_WORDS: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a name"}
