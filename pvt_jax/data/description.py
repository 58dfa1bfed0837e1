"""What a run remembers of its data: the classes in the order of their labels, and where the records come from.

Files of weights carry the part of it that predictions need.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pvt_jax.messages import escaped_name, listed, plural


@dataclass(frozen=True)
class SplitDescription:
    """How many records a split has, and where they are from, in words; 0 and "" if that is not known."""

    records: int = 0
    source: str = ""


@dataclass(frozen=True)
class DataDescription:
    """The data of a run.

    Attributes:
        task, format: the names of the task and of the data format; a file of weights does not tell the second.
        class_names: label k is ``class_names[k]``.
        train, eval: the two splits; of a file of weights they are not known.
        palette: (red, green, blue) of each class in pictures, for tasks that have one.
        category_ids: what files of results call each class, for tasks that write them.
        foreign: whether the names are those of another project's file, which may spell them otherwise than the data.
    """

    task: str
    format: str
    class_names: tuple[str, ...]
    train: SplitDescription = SplitDescription()
    eval: SplitDescription = SplitDescription()
    palette: tuple[tuple[int, int, int], ...] | None = None
    category_ids: tuple[int, ...] | None = None
    foreign: bool = False

    def to_json(self) -> str:
        """As JSON text with an entry a line, which ``from_json`` reads."""
        entries = {name: value for name, value in asdict(self).items() if name != "foreign" or value}
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "DataDescription":
        """Reads what ``to_json`` wrote; entries that are not known here are left out.

        Raises ValueError, KeyError or TypeError: the text is something else.
        """
        read: dict[str, Any] = json.loads(text)
        splits = {name: SplitDescription(int(read[name]["records"]), str(read[name]["source"])) for name in _SPLITS}
        return cls(str(read["task"]), str(read["format"]), **{**_classes(read), **splits})

    def to_metadata(self) -> dict[str, str]:
        """What a file of weights says of its classes, as the text entries that safetensors has beside tensors."""
        values = {name: getattr(self, name) for name in _OF_CLASSES} | {"foreign": self.foreign or None}
        return {"task": self.task, **{name: json.dumps(value) for name, value in values.items() if value is not None}}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "DataDescription | None":
        """Reads what ``to_metadata`` wrote; None if the file is of others, who write no such entries or other ones."""
        try:
            classes = _classes({name: json.loads(metadata[name]) for name in _OF_CLASSES if name in metadata})
            return cls(task=metadata["task"], format="", **classes)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


_SPLITS = {"train": "training", "eval": "evaluation"}
_OF_CLASSES = ("class_names", "palette", "category_ids", "foreign")


def _classes(read: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``_OF_CLASSES`` from JSON. Raises ValueError, KeyError or TypeError: they are something else."""
    if not isinstance(read["class_names"], list):
        raise TypeError("class_names is no list")
    palette, ids = read.get("palette"), read.get("category_ids")
    return {
        "class_names": tuple(map(str, read["class_names"])),
        "palette": None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette),
        "category_ids": None if ids is None else tuple(map(int, ids)),
        "foreign": read.get("foreign") is True,
    }


def difference_of_classes(before: Sequence[str], now: Sequence[str]) -> str:
    """What differs between the classes that a run learned and those of the data, with both lists; "" if nothing does.

    Names count as equal in both ways of writing accents, of which macOS and Linux use one each.
    """
    old, new = (tuple(unicodedata.normalize("NFC", name) for name in names) for names in (before, now))
    if old == new:
        return ""
    kinds = (
        ("gone", [name for name in old if name not in new]),
        ("added", [name for name in new if name not in old]),
    )
    what = [f"{verb}: {_listed(names, 4)}" for verb, names in kinds if names] or ["the same in another order"]
    moved = [label for label in range(min(len(old), len(new))) if old[label] != new[label]]
    changes = [f"label {label} was '{escaped_name(old[label])}' and is '{escaped_name(new[label])}'" for label in moved]
    return (
        f"it learned {plural(len(old), 'class', 'es')} ({_listed(old)}), the data has {len(new):,} ({_listed(new)}); "
        + "; ".join([*what, *([listed(changes, 2)] if moved else [])])
    )


def difference_of_records(before: DataDescription, now: DataDescription) -> str:
    """How the numbers of records changed, in words; "" if they did not, or were not known."""
    pairs = [(word, getattr(before, name).records, getattr(now, name).records) for name, word in _SPLITS.items()]
    return ", ".join(f"{old:,} → {new:,} {word}" for word, old, new in pairs if old and old != new)


def difference_of_colours(before: DataDescription, now: DataDescription) -> str:
    """How the colours of the classes changed, in words; "" if they did not. The classes are the same."""
    pairs = zip(now.class_names, before.palette or (), now.palette or (), strict=False)
    return listed([f"'{escaped_name(name)}' was {old} and is {new}" for name, old, new in pairs if old != new], 2)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return listed([escaped_name(name) for name in names], most)
