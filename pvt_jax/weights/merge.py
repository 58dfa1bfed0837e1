"""The strict merge of a file's tensors into a model's variables, and the report of what went where.

Whatever a checkpoint is, an Orbax tree or a state dict of any dialect, it goes through ``merge``. Everything must fit:
what does not is one error that names it, but for the exceptions that the caller lists. Two things are fitted instead
of refused, and said: a classifier of other classes starts anew, and position tables of another grid are resampled. A
dense model may also start from a backbone, without exceptions listed: its neck and head start anew, and that is said.
So may a Faster R-CNN from a Mask R-CNN, whose masks it leaves out.
"""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.weights import names, readings, signatures
from pvt_jax.weights.dense_names import HEADS
from pvt_jax.weights.position_tables import position_grids, resize_tables
from pvt_jax.weights.report import LoadReport, few, refusal, shapes_lines

# What depends on the number of classes, of a backbone and of dense heads; a new head's own is a row here. If the first
# of a row has another shape, the others are of no use either.
_CLASSIFIERS = (
    ("params/head/linear/kernel", "params/head/linear/bias"),
    ("params/head/classifier/kernel", "params/head/classifier/bias"),
    ("params/head/class_queries",),
    tuple(
        f"params/head/{module}/{leaf}"
        for module in ("box/classifier", "box/regressor", "mask/classifier")
        for leaf in ("kernel", "bias")
    ),
)
# timm's names, and those of Hugging Face.
_DISTILLED = ("dist_token", "distillation_token")


def merge(
    tensors: Mapping[str, np.ndarray],
    expected: Any,
    *,
    source: str,
    native: bool = False,
    image_size: tuple[int, int] = (224, 224),
    source_image_size: tuple[int, int] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Leaves of a model by path, from the tensors of a checkpoint.

    Args:
      tensors: by the names of any dialect, or by our paths if ``native``.
      expected: the model's variables, as ``jax.eval_shape(model.init, …)`` describes them.
      source: what the tensors were read from, for messages.
      image_size, source_image_size: (height, width) of the model's and of the source's position tables; the source's
        grid is taken to be square if its size is not known.
      allow_missing: patterns as of ``fnmatch`` of paths, with or without the collection (``head/*``), of parameters
        that need not be there, or that may have another shape.
      allow_unexpected: patterns of the file's tensors that may stay unused: names of a file, or paths as above. The
        neck and heads of a file of others are also ``neck/*`` and ``head/*``.

    Returns:
      The leaves, float32 (counts int32), without those that have to be initialised; and the report.

    Raises:
      UserError: something does not fit and is not among the exceptions.
    """
    wanted: dict[str, Any] = names.flatten(expected)
    find = _find_native if native else _find
    found = find(tensors, wanted, source, allow_unexpected)
    distilled = any(name.rpartition(".")[2] in _DISTILLED for name in found.unexpected)
    grids = position_grids(wanted, image_size)
    source_grids = position_grids(wanted, source_image_size) if source_image_size else {}
    with np.errstate(over="ignore"):  # Told below, by name.
        resized = resize_tables(found.leaves, wanted, grids, source_grids, native, distilled)
    converted = Counter(
        str(value.dtype)
        for path, value in found.leaves.items()
        if value.dtype != wanted[path].dtype and jnp.issubdtype(value.dtype, jnp.floating)
    )

    fitted = _fit(found.leaves, wanted, {path: table for path, (table, _) in resized.items()})
    # The backbone first: that it is missing is worse.
    missing = sorted(
        wanted.keys() - found.leaves.keys(), key=lambda path: (not path.startswith("params/backbone/"), path)
    )
    report = LoadReport(
        source=source,
        dialect=found.dialect,
        matched=tuple(path for path in wanted if path in fitted.leaves),
        missing=tuple(missing),
        unexpected=found.unexpected,
        wrong_shape=tuple(fitted.wrong_shape),
        replaced=tuple(fitted.replaced),
        resized=tuple((path, old, grids[path]) for path, (_, old) in resized.items() if old != grids[path]),
        ignored=found.ignored,
        anew=found.anew,
        classes=_classes(tensors, wanted, native) if fitted.replaced else None,
        converted=dict(sorted(converted.items())),
    )
    problems = {
        "missing": [
            path for path in missing if names.part_of(path) not in found.anew and not _optional(path, allow_missing)
        ],
        "unexpected": [name for name in found.unexpected if not _unused(name, allow_unexpected)],
        "of another shape": shapes_lines(line for line in fitted.wrong_shape if not _optional(line[0], allow_missing)),
        "of another type": fitted.wrong_type,
        "with numbers too large for float32": fitted.too_large,
    }
    if any(problems.values()):
        raise UserError(refusal(source, problems, tensors, wanted, native, distilled))
    return fitted.leaves, report


_Problem = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Fitted:
    """Leaves of the model's types and shapes; the other lists have the paths that are not among them."""

    leaves: dict[str, np.ndarray] = field(default_factory=dict)
    wrong_shape: list[_Problem] = field(default_factory=list)
    wrong_type: list[str] = field(default_factory=list)
    too_large: list[str] = field(default_factory=list)
    replaced: list[_Problem] = field(default_factory=list)


def _fit(found: Mapping[str, np.ndarray], wanted: Mapping[str, Any], resized: Mapping[str, np.ndarray]) -> _Fitted:
    """What of ``found``, with ``resized`` in place of some, goes into the model as it is."""
    fitted = _Fitted()
    for path, original in found.items():
        here, value = wanted[path], resized.get(path, original)
        if not _fits_type(value, here):
            fitted.wrong_type.append(f"{path} is {value.dtype}, here {np.dtype(here.dtype)}")
        elif value.shape != tuple(here.shape):
            fitted.wrong_shape.append((path, value.shape, tuple(here.shape)))
        elif _overflows(original, here.dtype):
            fitted.too_large.append(path)
        else:
            fitted.leaves[path] = value.astype(here.dtype, copy=False)
    shapes_differ = {path for path, _, _ in fitted.wrong_shape}
    for classifier in _CLASSIFIERS:
        if classifier[0] in shapes_differ:
            # With other inputs the bias may fit, but what it was trained with is gone.
            there = [path for path in classifier if path in found]
            fitted.replaced.extend((path, found[path].shape, tuple(wanted[path].shape)) for path in there)
            fitted.wrong_shape[:] = [problem for problem in fitted.wrong_shape if problem[0] not in there]
            for path in there:
                fitted.leaves.pop(path, None)
    return fitted


@dataclass(frozen=True)
class _Found:
    dialect: str
    leaves: dict[str, np.ndarray]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    anew: tuple[str, ...] = ()


def _classes(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], native: bool) -> tuple[int, int] | None:
    """Classes of the source's dense head and of the model's, if both tell and they differ."""
    there, here = (
        signatures.dense_head({name: tuple(leaf.shape) for name, leaf in leaves.items()}, native=paths)[1]
        for leaves, paths in ((tensors, native), (wanted, True))
    )
    return (there, here) if there and here and there != here else None


def _find_native(
    tensors: Mapping[str, np.ndarray], wanted: Collection[str], source: str, allow_unexpected: Sequence[str]
) -> _Found:
    dense_here, dense_there = names.is_dense(wanted), names.is_dense(tensors)
    there: dict[str, str] = {}  # By path here.
    unexpected, ignored = [], []
    for path in tensors:
        place = names.in_backbone(path) if dense_there and not dense_here else path
        place = names.in_dense(path) if dense_here and not dense_there else place
        if place != path or dense_here == dense_there:
            there[place] = path
        else:
            ignored.append(path)  # The neck and head beside a backbone that is taken out.
    here, head = names.head_of(wanted), names.head_of(tensors)
    akin = names.akin(here, head)
    if dense_here and dense_there and not akin:
        # Paths of different heads may agree by chance, as those of the classifier.
        for place, path in list(there.items()):
            part = names.part_of(path)
            other_neck = names.neck_of(head) != names.neck_of(here) or _unused(path, allow_unexpected)
            if part == "head" or (part == "neck" and other_neck):
                unexpected.append(there.pop(place))
    family = names.family_of(tensors)
    for place, path in there.items():
        if place not in wanted:
            entry = None
            if family and _lacks_classifier(wanted) and not dense_there:
                entry = names.entry_of(path, family)
            of_classifier = family and entry and names.is_of_classifier(entry.name, family)
            # A module of an akin head's that the model's has not.
            beyond = names.entry_of(path, head) if here and head and akin and names.part_of(path) == "head" else None
            of_other = here and beyond and HEADS[here].takes_no_part(beyond.name)
            (ignored if of_classifier or of_other else unexpected).append(path)
    leaves = {place: tensors[there[place]] for place in wanted if place in there}
    anew = _others_than_backbone(wanted) if dense_here and not dense_there else ()
    return _Found("pvt_jax names", leaves, tuple(unexpected), tuple(ignored), anew)


def _lacks_classifier(wanted: Collection[str]) -> bool:
    return names.is_dense(wanted) or "params/head/linear/kernel" not in wanted


def _others_than_backbone(wanted: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({names.part_of(path) for path in wanted} - {"backbone"}, reverse=True))


def _find(
    tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], source: str, allow_unexpected: Sequence[str]
) -> _Found:
    family = names.family_of(wanted)
    if family is None:
        raise UserError(f"{source} has names of a PVT, ViT or ResNet, and this model is none: load an Orbax checkpoint")
    dense = names.is_dense(wanted)
    backbone = {
        path: names.entry_of(names.in_backbone(path) if dense else path, family)
        for path in wanted
        if not dense or names.part_of(path) == "backbone"
    }
    reading, leaves, used = _read_as(family, backbone, tensors.keys(), tensors, wanted, source, allow_unexpected)
    classifier = set()
    if _lacks_classifier(wanted):
        for name, parts in reading.sources.items():
            if names.is_of_classifier(name, family):
                classifier.update(part for part in parts if part not in used)
    ignored = [name for name in tensors if name in classifier or name in reading.ignored]
    anew: tuple[str, ...] = ()
    if dense and not any(readings.dense_part(name) for name in tensors):
        anew = _others_than_backbone(wanted)
    elif dense:
        more, others, no_part = _find_beside(tensors, wanted, used, source, allow_unexpected)
        leaves |= more
        used |= others
        ignored = [name for name in ignored if name not in used and not readings.dense_part(name)] + no_part
    used |= set(ignored)
    unexpected = tuple(name for name in tensors if name not in used)
    return _Found(reading.described, leaves, unexpected, tuple(ignored), anew)


def _find_beside(
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    used: Collection[str],
    source: str,
    allow_unexpected: Sequence[str],
) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    """Leaves of the neck and the head, the names that they are made of, and the names of what takes no part."""
    here = names.head_of(wanted)
    head, _ = signatures.dense_head({name: tensor.shape for name, tensor in tensors.items()})
    akin = head is not None and names.akin(here, head)
    leaves: dict[str, np.ndarray] = {}
    taken: set[str] = set()
    for part, naming in (("neck", names.neck_of(here)), ("head", here)):
        # The same names stand for other things in other heads, as the classifier's, and for other levels in necks.
        if naming is None or (not akin and (part == "head" or (head and names.neck_of(head) != naming))):
            continue
        entries = {path: names.entry_of(path, naming) for path in wanted if names.part_of(path) == part}
        left = {name for name in tensors if name in used or (not akin and _unused(name, allow_unexpected))}
        rest = [name for name in tensors if name not in left | taken]
        _, found, of = _read_as(naming, entries, rest, tensors, wanted, source, allow_unexpected)
        # Of which levels the neck of a head is that is not known here, the channels of each tell.
        if akin or all(path in found and found[path].shape == tuple(wanted[path].shape) for path in entries):
            leaves |= found
            taken |= of
    no_part = [name for name in tensors if here and akin and HEADS[here].takes_no_part(name)]
    return leaves, taken, [name for name in no_part if name not in taken and name not in used]


def _read_as(
    family: str,
    entries: Mapping[str, names.Entry | None],
    found: Collection[str],
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    source: str,
    allow_unexpected: Sequence[str],
) -> tuple[readings.Reading, dict[str, np.ndarray], set[str]]:
    """How the names ``found`` are read as those of a family or head, its leaves, and the names they are made of."""
    known = {path: entry for path, entry in entries.items() if entry}
    expected = {entry.name for entry in known.values()}
    reading = _the_reading(readings.best_readings(found, expected, family), tensors, source, allow_unexpected)
    whole = {name: _join(tensors, reading, name, source) for name in reading.complete & expected}
    leaves = {
        path: names.to_leaf(whole[entry.name], path, entry, len(wanted[path].shape))
        for path, entry in known.items()
        if entry.name in whole
    }
    return reading, leaves, {part for name in whole for part in reading.sources[name]}


def _the_reading(
    candidates: Sequence[readings.Reading],
    tensors: Mapping[str, np.ndarray],
    source: str,
    allow_unexpected: Sequence[str],
) -> readings.Reading:
    """The one of several that cover as much: the others are left out by the caller, or have the same numbers."""

    def parts(reading: readings.Reading) -> Iterable[str]:
        return (part for found in reading.sources.values() for part in found)

    kept = [
        reading for reading in candidates if not all(_unused(part, allow_unexpected) for part in parts(reading))
    ] or candidates[:1]
    first, *others = kept
    for other in others:
        same = (
            np.array_equal(tensors[a], tensors[b])
            for name in first.complete & other.complete
            for a, b in zip(first.sources[name], other.sources[name], strict=False)
        )
        if not all(same):
            prefix = other.prefix or first.prefix
            example = f", as '{prefix}*'" if prefix else ""
            raise UserError(
                f"{source} holds this model twice, with other numbers: {first.described}, and {other.described}; list "
                f"those to leave out in allow_unexpected{example}"
            )
    return first


def _join(tensors: Mapping[str, np.ndarray], reading: readings.Reading, name: str, source: str) -> np.ndarray:
    parts = reading.sources[name]
    arrays = [tensors[part] for part in parts]
    if rows := reading.rows.get(name):
        length = len(arrays[0]) // rows.of if arrays[0].ndim else 0
        return arrays[0][rows.start * length : rows.stop * length] if arrays[0].ndim else arrays[0]
    if len(arrays) == 1:
        return arrays[0]
    if any(not array.ndim or array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        shapes = few([f"{part} is {tensors[part].shape}" for part in parts])
        raise UserError(f"{source} does not hold this model: parts of one tensor do not fit ({shapes}). Take another")
    return np.concatenate(arrays)


def _fits_type(value: np.ndarray, here: Any) -> bool:
    if jnp.issubdtype(here.dtype, jnp.floating):
        return bool(jnp.issubdtype(value.dtype, jnp.floating))
    limits = np.iinfo(here.dtype)
    return np.issubdtype(value.dtype, np.integer) and bool(((value >= limits.min) & (value <= limits.max)).all())


def _overflows(value: np.ndarray, dtype: Any) -> bool:
    """Whether a finite number becomes infinite in this type."""
    if not jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.itemsize <= np.dtype(dtype).itemsize:
        return False
    with np.errstate(over="ignore"):
        return bool((np.isinf(value.astype(dtype)) & np.isfinite(value)).any())


def _optional(path: str, allowed: Sequence[str]) -> bool:
    # Files from before PyTorch 0.4.1 do not count batches; nothing but the count depends on it.
    return path.endswith("/count") or _matches(path, allowed) or _matches(path.partition("/")[2], allowed)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _unused(name: str, allowed: Sequence[str]) -> bool:
    """Whether a tensor of a file or a path of a tree may stay unused."""
    part = readings.dense_part(name)
    alias = f"{'neck' if part == 'neck' else 'head'}/{name}" if part else name.partition("/")[2]
    return _matches(name, allowed) or (bool(alias) and _matches(alias, allowed))
