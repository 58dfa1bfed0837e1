"""Readings: which dialect the names of a file are in, and what each of its tensors is."""

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pvt_jax.heads.foreign import FOREIGN_HEADS
from pvt_jax.weight_names import Dialect, Naming, Part, Rows, Split

# Prefixes that are tried, those of most names first: copies of a model, and whatever else is in a file.
_MOST_PREFIXES = 8


@dataclass(frozen=True)
class Reading:
    """A file's tensors in one dialect, without a ``prefix`` of their names.

    Attributes:
      sources: reference name → the file's tensors whose rows make it up, in order; incomplete ones included.
      rows: reference name → which rows of its one tensor it is, if not all.
      complete: reference names all of whose parts are there.
      ignored: the file's tensors that belong to other modules, such as the neck and head of a detector.
    """

    dialect: str
    prefix: str
    sources: dict[str, tuple[str, ...]]
    complete: frozenset[str]
    ignored: tuple[str, ...]
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The dialect, and the prefix if there is one."""
        return f"{self.dialect} names" + (f" under {self.prefix}" if self.prefix else "")


def best_readings(names: Collection[str], wanted: Collection[str], naming: Naming) -> list[Reading]:
    """The reading of a file's names that covers most of the ``wanted`` reference names, the plainest first.

    Further ones cover as many with other tensors, under another prefix or dialect: the file holds several copies.
    """
    wanted = set(wanted)
    covered = [(reading, wanted & reading.complete) for reading in readings(names, naming)]
    most = max(len(names) for _, names in covered)
    best = [next(reading for reading, names in covered if len(names) == most)]
    for reading, names in covered:
        others = not any(reading.sources.get(name) == kept.sources.get(name) for name in names for kept in best)
        if names and len(names) == most and others:
            best.append(reading)
    return best


def readings(names: Collection[str], naming: Naming) -> Iterator[Reading]:
    """Every way to read a file's names as those of a backbone, neck or head, the plainest first."""
    for prefix in _prefixes(names, naming):
        inside = [name for name in names if name.startswith(prefix)]
        outside = tuple(name for name in names if not name.startswith(prefix))
        beside = Dialect("", naming.beside, _around(prefix))
        for dialect in (Dialect("reference"), *naming.dialects):
            yield _read(dialect, prefix, inside, outside, beside)


# Modules of detectors and segmenters beside the backbone, except auxiliary heads, which only training uses.
_DENSE = re.compile(r"(?:^|\.)(neck|(?!auxiliary_)\w+_head)\.")


def dense_part(name: str) -> str | None:
    """The neck or head of a detector or segmenter that a file's tensor belongs to; None if it belongs to neither."""
    found = _DENSE.search(name)
    return found[1] if found else None


def foreign_head(names: Iterable[str]) -> str | None:
    """Whose head a file has that no model here has, in words; None if it has no such head."""
    names = tuple(names)
    for start, words in FOREIGN_HEADS.items():
        if any((module := _DENSE.search(name)) and name[module.start(1) :].startswith(start) for name in names):
            return words
    return None


class _Target(NamedTuple):
    name: str
    part: int = 0
    parts: int = 1
    rows: Rows | None = None


def _around(prefix: str) -> str:
    """What of a prefix is before the module ``backbone``; all of it if it has none."""
    words = prefix.split(".")
    return "".join(f"{word}." for word in words[: words.index("backbone")]) if "backbone" in words else prefix


def _read(dialect: Dialect, prefix: str, inside: Iterable[str], outside: tuple[str, ...], beside: Dialect) -> Reading:
    parts: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    rows: dict[str, Rows] = {}
    ignored = []

    def take(name: str, targets: Iterable[_Target]) -> None:
        for target in targets:
            parts.setdefault(target.name, {})[target.part] = name
            counts[target.name] = target.parts
            if target.rows:
                rows[target.name] = target.rows

    def of_classifier(name: str) -> tuple[_Target, ...]:
        starts = beside.places and name.startswith(beside.model_prefix)
        return _targets(_plain(name.removeprefix(beside.model_prefix)), beside) if starts else ()

    for name in outside:
        if found := of_classifier(name):
            take(name, found)
        else:
            ignored.append(name)
    for name in inside:
        bare = _plain(name.removeprefix(prefix)).removeprefix(dialect.model_prefix)
        if dialect.others and bare.startswith(dialect.others):
            ignored.append(name)
        else:
            take(name, of_classifier(name) or _targets(bare, dialect))
    return Reading(
        dialect.name,
        prefix,
        {name: tuple(found[part] for part in sorted(found)) for name, found in parts.items()},
        frozenset(name for name, found in parts.items() if len(found) == counts[name]),
        tuple(ignored),
        rows,
    )


def _plain(name: str) -> str:
    """A name without the modules that PyTorch puts between others, ``_orig_mod``, ``_fsdp_wrapped_module`` and so on.

    Nor does it begin with a number in a word: timm's feature extractors call ``stages.0`` ``stages_0``.
    """
    if "_" not in name:
        return name
    name = ".".join(word for word in name.split(".") if not word.startswith("_"))
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name)


def _targets(name: str, dialect: Dialect) -> tuple[_Target, ...]:
    if not dialect.places:
        return (_Target(name),)
    words = name.split(".")
    numbers = [int(word) for word in words if _is_number(word)]
    general = ["#" if _is_number(word) else word for word in words]
    leaf, place = "", dialect.places.get(".".join(general))
    if place is None and len(words) > 1:
        leaf, module = f".{words[-1]}", general[:-1]
        spellings = (module, [*module[:-1], words[-2]], words[:-1])
        place = next((dialect.places[key] for key in map(".".join, spellings) if key in dialect.places), None)
    if place is None:
        return ()
    values: dict[str, Any] = dict(zip(string.ascii_lowercase, numbers, strict=False))
    values |= {
        name: other
        for letter, number in values.items()
        for name, other in ((letter.upper(), number + 1), (f"{letter}-1", number - 1))
    }
    if isinstance(place, Split):
        return tuple(_Target(name.format(**values) + leaf, rows=rows) for name, rows in place.parts)
    if isinstance(place, Part):
        return (_Target(place.name.format(**values) + leaf, place.number, place.of),)
    return (_Target(place.format(**values) + leaf),)


def _is_number(word: str) -> bool:
    # Other digits, such as ², are no numbers, and no model has a million blocks.
    return word.isascii() and word.isdigit() and len(word) < 6


def _prefixes(names: Collection[str], naming: Naming) -> list[str]:
    """Every beginning of names after which one of the dialects may follow, the shortest first; "" is always there.

    Trainers and users put modules into attributes of any name, and those into others.
    """
    starts = _first_words(naming)
    found: Counter[str] = Counter()
    for name in names:
        words = name.split(".")
        for place, word in enumerate(words):
            if place and _general(word) in starts:
                found[".".join(words[:place]) + "."] += 1
    kept = [prefix for prefix, _ in found.most_common(_MOST_PREFIXES)]
    return ["", *sorted(kept, key=lambda prefix: prefix.count("."))]


def _first_words(naming: Naming) -> set[str]:
    """The first words of what the reference and the dialects call tensors, without the numbers at their ends."""
    rows = {row.name.partition(".")[0] for row in naming.rows}
    others = {
        name.partition(".")[0]
        for dialect in naming.dialects
        for name in (*dialect.places, dialect.model_prefix)
        if name
    }
    return {_general(re.sub(r"\\\d", "0", word)) for word in rows | others}


def _general(word: str) -> str:
    return re.sub(r"_?\d+$", "", word)
