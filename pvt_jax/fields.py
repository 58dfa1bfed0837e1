"""Typed fields: keys of a config, and attributes of modules that a config may set.

A section of a config is a frozen dataclass of class ``Options``. Default, type, limits and documentation of a key stand
in one place, its field, which ``key`` makes.
"""

import difflib
import math
import numbers
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pvt_jax import paths
from pvt_jax.errors import UserError


@dataclass(frozen=True)
class Options:
    """A section of a config."""

    def validate(self) -> None:
        """Raise UserError for values that do not go together."""


_PATHS = {"local": paths.local, "data": paths.data, "weights": paths.weights}


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
      default: its value where no one sets it.
      text: its documentation.
      above, at_least, below, at_most: limits of its number, or of each of its numbers.
      nonempty: whether a list needs an entry.
      free: whether a run that resumes may change it: it says where and how a run computes, not what.
      square: whether one number stands for (height, width).
      path: of a path, in which ``~`` is the home folder, what it may be besides on this machine; see ``paths``.
      kind: its type.
    """

    default: Any
    text: str
    above: int | float | None = None
    at_least: int | float | None = None
    below: int | float | None = None
    at_most: int | float | None = None
    nonempty: bool = False
    free: bool = False
    square: bool = False
    path: Literal["", "local", "data", "weights"] = ""
    kind: Any = None

    def checked(self, name: str, value: Any, *, limits: bool = True) -> Any:
        """The value in plain Python types, as this key holds it.

        Raises UserError: the key, called ``name``, does not take it; without ``limits`` only its type matters.
        """
        value = plain(value)
        if self.square and _is(value, int):
            value = (value, value)
        if self.kind is float and _is(value, int):
            value = float(value)
        if not _is(value, self.kind) or (limits and (not self._within(value) or (self.nonempty and not value))):
            raise UserError(f"{name} must be {self.in_words()}, but is {value!r}")
        return _PATHS[self.path](value, name) if self.path else value

    def in_words(self) -> str:
        """The type and the limits, as ``"a number from 0 to 1"``."""
        low = f"above {self.above:g}" if self.above is not None else ""
        low = f"of at least {self.at_least:g}" if self.at_least is not None else low
        high = f"below {self.below:g}" if self.below is not None else ""
        high = f"at most {self.at_most:g}" if self.at_most is not None else high
        if self.at_least is not None and self.at_most is not None:
            limits = f" from {self.at_least:g} to {self.at_most:g}"
        else:
            limits = f" {' and '.join(filter(None, (low, high)))}" * bool(low or high)
        return ("one or more " if self.nonempty else "") + _in_words(self.kind, limits)

    def _within(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(self._within, value))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        return not (
            (self.above is not None and value <= self.above)
            or (self.at_least is not None and value < self.at_least)
            or (self.below is not None and value >= self.below)
            or (self.at_most is not None and value > self.at_most)
        )


def key(default: Any, text: str, **rules: Any) -> Any:
    """A field of ``Options`` that is a key; ``rules`` are the further attributes of ``Key``."""
    return field(default=default, metadata={"key": Key(default, text, **rules)})


def section(options: type[Options], *, free: bool = False) -> Any:
    """A field of ``Options`` that is a section in it; ``free`` goes for all its keys."""
    return field(default_factory=options, metadata={"section": options, "free": free})


def further() -> Any:
    """A field of ``Options`` that takes what else stands in its section, by key, to be checked by who reads it."""
    return field(default_factory=dict, metadata={"further": True})


@cache
def keys_of(options: type[Options]) -> dict[str, Key]:
    """The keys of a section, and those of sections in it by their dotted names, in order."""
    hints, found = get_type_hints(options), {}
    for one in fields(options):
        if "key" in one.metadata:
            found[one.name] = replace(one.metadata["key"], kind=hints[one.name])
        for name, inner in keys_of(one.metadata["section"]).items() if "section" in one.metadata else ():
            found[f"{one.name}.{name}"] = replace(inner, free=inner.free or one.metadata["free"])
    return found


def sections_of(options: type[Options]) -> dict[str, type[Options]]:
    """The sections in a section by name."""
    return {one.name: one.metadata["section"] for one in fields(options) if "section" in one.metadata}


def is_open(options: type[Options]) -> bool:
    """Whether a section takes further keys."""
    return any("further" in one.metadata for one in fields(options))


Section = TypeVar("Section", bound=Options)


def read(options: type[Section], values: Mapping[str, Any], prefix: str = "") -> Section:
    """A section from nested values, all of them given; keys that it does not have are passed over.

    Raises UserError: a value does not fit its key, or values do not go together. ``prefix`` stands before a key's name.
    """
    keys, chosen = keys_of(options), {}
    for one in fields(options):
        if "section" in one.metadata:
            chosen[one.name] = read(one.metadata["section"], values[one.name], f"{prefix}{one.name}.")
        elif "further" in one.metadata:
            chosen[one.name] = {name: value for name, value in values.items() if name not in keys}
        elif one.name in keys:
            chosen[one.name] = keys[one.name].checked(prefix + one.name, values[one.name])
    result = options(**chosen)
    result.validate()
    return result


def types_of(module: Any) -> dict[str, Any]:
    """The type of each setting of a module: its fields, without ``parent`` and ``name``, which are Flax's."""
    hints = get_type_hints(module)
    return {one.name: hints[one.name] for one in fields(module) if one.name not in ("parent", "name")}


def checked(owner: str, section: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` in plain Python types: tuples for lists, and no numbers of NumPy's.

    Raises UserError: a setting is not known, or its value has another type.

    Args:
      owner: what a person calls the module, as "head 'retinanet'".
      section: of the config that has its settings, "model" or "head".
      settings: value of each.
      known: type of each that there is.
    """
    for setting, value in settings.items():
        if setting not in known:
            nearest = difflib.get_close_matches(setting, known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(known)}"
            raise UserError(f"{owner} has no setting {setting!r}: {hint}")
        if not _is(value, known[setting]):
            raise UserError(f"{section}.{setting} must be {_in_words(known[setting])}, but is {value!r}")
    return {setting: plain(value) for setting, value in settings.items()}


def plain(value: Any) -> Any:
    """A value without lists and NumPy's numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, (bool, int)) else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type that fields have; True for types that are not known here."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is bool or kind is str:
        return isinstance(value, kind)
    if kind is types.NoneType:
        return value is None
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if origin in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (Sequence, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is Sequence or parts[-1] is ...:
            return all(_is(one, parts[0]) for one in value)
        return len(value) == len(parts) and all(map(_is, value, parts))
    return True


def _in_words(kind: Any, limits: str = "") -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind] + limits * (kind in (int, float))
    if origin is Literal:
        return f"one of {', '.join(str(part) or 'empty' for part in parts)}"
    if origin is Sequence or parts[-1] is ...:
        return f"{_plural(parts[0])}{limits}, as {_EXAMPLES.get(parts[0], (0.5, 1))}"
    if origin is tuple:
        return f"{len(parts)} {_plural(parts[0])}{limits}"
    return ", or ".join(dict.fromkeys(_in_words(part, limits) for part in parts))


def _plural(kind: Any) -> str:
    return {int: "whole numbers", str: "names", str | int: "names", tuple: "tuples"}.get(kind, "numbers")


_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    types.NoneType: "None",
}
_EXAMPLES: dict[Any, Any] = {int: (1, 2), str: ("a", "b"), str | int: ("a", "b"), tuple: ((0, 0, 0), (255, 0, 0))}
