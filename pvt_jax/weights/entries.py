"""Which dictionary of a training checkpoint holds the weights, and what else there is beside it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.weights.torch_pickle import Opaque, Storage, one_line

# Where training scripts put the weights, the first that is there is taken; a moving average never is.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module")
_DEPTH = 5
# A small file can name one object so often that following every way to it would never end.
_MOST_VISITS = 200_000
_NUMPY_ARRAY = re.compile(r"numpy\.(_?core)\.multiarray\._reconstruct")


class StatedClasses(NamedTuple):
    """What a file of another project calls its classes, in the order of their labels, and their colours if it says."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None


class Weights(NamedTuple):
    """Tensors by name, lines on what else a file holds, and the classes that it names."""

    tensors: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()
    classes: StatedClasses | None = None


def choose(tree: Any, path: Path, entry: str = "") -> Weights:
    """The named tensors of what ``torch.save`` wrote.

    Of ``model``, ``state_dict``, ``model_state_dict``, ``model_state`` and ``module`` the first that holds a dictionary
    is taken; without them the largest dictionary with tensors, under whatever key. ``entry`` names another: a key, keys
    joined by dots, or how the names of the tensors begin.

    Raises:
      UserError: there are no tensors; there are several copies and none is chosen; there is no such entry; or a tensor
        is of a kind that only other code can make.
    """
    found = dict(_dictionaries(tree))
    tensors = {place: _tensors(content) for place, content in found.items()}
    sizes = {place: len(content) for place, content in tensors.items() if content}
    if not sizes:
        inside = "no dictionary"
        if isinstance(tree, dict):
            keys = ", ".join(key for key in tree if isinstance(key, str))
            inside = f"only {one_line(keys) or 'an empty dictionary'}"
        raise UserError(
            f"{path} holds no named tensors ({inside}): save the weights with torch.save(model.state_dict(), …)"
        )
    if entry:
        return Weights(_entry(entry, tensors, path), classes=_classes_of_checkpoint(tree))
    chosen = _usual(tree)
    if not chosen or chosen not in sizes:
        # Without a usual key the top level is taken as ever, unless another dictionary has more.
        chosen = max(sizes, key=lambda place: (sizes[place], place == ""))
        copies = [place for place in sizes if place and 2 * sizes[place] >= sizes[chosen]]
        if chosen and len(copies) > 1:
            raise UserError(f"{path} holds several sets of weights: {_listed(copies, sizes)}. Choose one with {_WAY}")
    _refuse_foreign(found[chosen], path)
    rivals = [place for place in sizes if place != chosen and 2 * sizes[place] >= sizes[chosen]]
    notes = [f"it also holds {_listed(rivals, sizes)}, which {_WAY} takes"] * bool(rivals)
    if others := [one_line(name, 80) for name in dict.fromkeys(_foreign_names(tree))]:
        more = f" and {len(others) - 3} more" * (len(others) > 3)
        notes.append(f"objects beside the weights, not read: {', '.join(others[:3])}{more}")
    return Weights(tensors[chosen], tuple(notes), _classes_of_checkpoint(tree))


def classes_of_config(config: Any) -> StatedClasses | None:
    """The classes that the config.json of a Hugging Face model names; None for labels that only count."""
    labels = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(labels, dict) or set(labels) != {str(label) for label in range(len(labels))}:
        return None
    names = [labels[str(label)] for label in range(len(labels))]
    counting = [f"LABEL_{label}" for label in range(len(names))]
    return None if names == counting else _stated(names)


def _classes_of_checkpoint(tree: Any) -> StatedClasses | None:
    """The classes that mmsegmentation and mmdetection keep in ``meta``: CLASSES, or since 2022 ``dataset_meta``."""
    meta = _content((_content(tree) or {}).get("meta")) or {}
    for place in (_content(meta.get("dataset_meta")) or {}, meta):
        entries = {key.lower(): value for key, value in place.items() if isinstance(key, str)}
        if (stated := _stated(entries.get("classes"), entries.get("palette"))) is not None:
            return stated
    return None


def _stated(names: Any, palette: Any = None) -> StatedClasses | None:
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        return None
    colours = _array(palette)
    rows = palette if colours is None and isinstance(palette, list | tuple) else [] if colours is None else colours
    table = [tuple(map(int, row)) for row in rows if np.shape(row) == (3,) and all(0 <= level < 256 for level in row)]
    whole = len(table) == len(names) == len(rows)
    return StatedClasses(tuple(names), tuple((r, g, b) for r, g, b in table) if whole else None)


def under(tensors: Mapping[str, np.ndarray], entry: str, path: Path) -> dict[str, np.ndarray]:
    """The tensors whose names begin with ``entry.``, without it. Raises UserError if there are none."""
    return _entry(entry, {"": dict(tensors)}, path)


_WAY = "init.entry (--entry of a command)"


def _entry(entry: str, tensors: Mapping[str, dict[str, np.ndarray]], path: Path) -> dict[str, np.ndarray]:
    if tensors.get(entry):
        return tensors[entry]
    start = f"{entry.rstrip('.')}."
    for content in tensors.values():
        if inside := {name.removeprefix(start): value for name, value in content.items() if name.startswith(start)}:
            return inside
    sizes = {place: len(content) for place, content in tensors.items() if content}
    raise UserError(
        f"{path} has no entry {one_line(entry)!r} with tensors: it has {_listed(list(sizes), sizes)}; leave it out for "
        "the usual one"
    )


def _listed(places: list[str], sizes: Mapping[str, int]) -> str:
    shown = [f"{one_line(place, 80) or 'the top level'} ({sizes[place]} tensors)" for place in places[:6]]
    return ", ".join(shown) + f" and {len(places) - 6} more" * (len(places) > 6)


def _usual(tree: Any) -> str:
    """The dictionary that the usual keys lead to; the top level without them."""
    place: list[str] = []
    for _ in range(len(_WRAPPERS)):
        content = _content(tree)
        key = next((key for key in _WRAPPERS if content and _content(content.get(key)) is not None), None)
        if key is None or content is None:
            break
        place, tree = [*place, key], content[key]
    return ".".join(place)


def _dictionaries(tree: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary by its place, the outermost first; each once."""
    level: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()
    for _ in range(_DEPTH):
        following = []
        for place, value in level:
            content = _content(value)
            if content is None or id(value) in seen:
                continue
            seen.add(id(value))
            yield place, content
            following += [
                (f"{place}.{key}" if place else key, inner) for key, inner in content.items() if isinstance(key, str)
            ]
        level = following


def _content(value: Any) -> Mapping[Any, Any] | None:
    """The entries of a dictionary, or of an object that is one; the state dict of a module that was saved whole."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Opaque):
        return None
    if isinstance(value.state, dict) and {"_parameters", "_modules"} <= value.state.keys():
        return _state_dict(value)
    return value.entries or None


def _state_dict(module: Opaque) -> dict[str, Any]:
    """Parameters and buffers of a module by name, as its own ``state_dict()`` gives them."""
    result: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = [("", module)]
    visits = 0
    while rest:
        prefix, inner = rest.pop()
        visits += 1
        if visits > _MOST_VISITS or prefix.count(".") > 100:
            raise UserError("the modules of a weight file hold each other without end: save its state_dict() instead")
        state = inner.state if isinstance(inner, Opaque) and isinstance(inner.state, dict) else {}
        passing = state.get("_non_persistent_buffers_set")
        passing = passing.arguments[0] if isinstance(passing, Opaque) and passing.arguments else ()
        for group in ("_parameters", "_buffers"):
            for name, value in (_content(state.get(group)) or {}).items():
                if isinstance(name, str) and not (group == "_buffers" and name in passing):
                    result[prefix + name] = value
        modules = (_content(state.get("_modules")) or {}).items()
        rest += [(f"{prefix}{name}.", value) for name, value in modules if isinstance(name, str)][::-1]
    return result


def _tensors(content: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    found = ((name, _array(value)) for name, value in content.items() if isinstance(name, str))
    return {name: array for name, array in found if array is not None}


def _array(value: Any) -> np.ndarray | None:
    """A tensor, or an array of NumPy's that was pickled; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, Opaque) or not _NUMPY_ARRAY.fullmatch(value.name):
        return None
    try:
        _, shape, kind, columns_first, data = value.state
        letters, order = kind.arguments[0], kind.state[1]
        if isinstance(data, Opaque):  # Protocol 2 has no bytes.
            data = data.arguments[0].encode("latin1")
        if not re.fullmatch(r"[fiu][1248]|b1", letters) or order not in "<|":
            return None
        return np.frombuffer(data, np.dtype(letters)).reshape(shape, order="F" if columns_first else "C")
    except (TypeError, ValueError, IndexError, AttributeError, KeyError):
        return None


def _refuse_foreign(content: Mapping[Any, Any], path: Path) -> None:
    """Raise UserError if one of the entries is made of tensors by code that is not here."""
    for name, value in content.items():
        if isinstance(value, Opaque) and not value.entries and _array(value) is None and _has_numbers(value.arguments):
            raise UserError(
                f"{path} holds {one_line(str(name), 80)} as {one_line(value.name, 80)}, which only the code that wrote "
                "it can turn into numbers: save plain tensors with torch.save(model.state_dict(), …) or as .safetensors"
            )


def _has_numbers(value: Any, depth: int = 3) -> bool:
    if isinstance(value, tuple | list) and depth:
        return any(_has_numbers(item, depth - 1) for item in value[:64])
    return isinstance(value, np.ndarray | Storage)


def _foreign_names(tree: Any) -> Iterator[str]:
    """Names of the objects of other packages than NumPy and PyTorch, in what is beside the weights."""
    rest, seen, visits = [tree], set(), 0
    while rest and visits < _MOST_VISITS:
        value = rest.pop()
        visits += 1
        if isinstance(value, np.ndarray | str | bytes | int | float | None) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Opaque):
            if not value.name.startswith(_KNOWN_PACKAGES) and "." in value.name:
                yield value.name
            else:
                rest += [value.arguments]
        elif isinstance(value, dict):
            rest += list(value.values())[::-1]
        elif isinstance(value, tuple | list):
            rest += list(value)[:1000]


_KNOWN_PACKAGES = (
    *(
        "torch.",
        "numpy.",
        "collections.",
        "argparse.",
        "builtins.",
        "__builtin__.",
        "pathlib.",
        "_codecs.",
        "datetime.",
    ),
    *("decimal.", "fractions.", "types.", "uuid.", "time.", "zoneinfo.", "_io.", "copyreg.", "copy_reg.", "typing."),
)
