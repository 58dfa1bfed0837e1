"""The strict merge of a file's tensors into a model's variables, and the report of what went where.

Every checkpoint, an Orbax tree or a state dict of any dialect, goes through ``merge``. Everything must match: whatever
does not is reported in one error, except what the caller allows. Two mismatches are resolved and reported: a classifier
of other classes is newly initialised, and position tables of another grid are resampled. A dense model may also start
from a backbone: its neck and head are then newly initialised, which is reported. A head may start from one that has
all of its names and more, as Faster R-CNN from Mask R-CNN.
"""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pvt_jax.backbones import FAMILIES
from pvt_jax.errors import UserError
from pvt_jax.weight_names import Naming
from pvt_jax.weights import names, readings, signatures
from pvt_jax.weights.position_tables import resize_tables
from pvt_jax.weights.report import LoadReport, few, not_finite, not_finite_refusal, refusal, shapes_lines

# A backbone's own classifier; those of heads are in their rows. If the first has another shape, all are replaced.
_CLASSIFIER = ("params/head/linear/kernel", "params/head/linear/bias")


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
      image_size, source_image_size: (height, width) that the position tables of model and source are for; the source's
        grid is taken to be square if its size is unknown.
      allow_missing: ``fnmatch`` patterns of paths, with or without the collection (``head/*``), of parameters that may
        be missing or have another shape.
      allow_unexpected: patterns of the source's tensors that may stay unused: names in a file, or paths as above. The
        neck and heads of a file of others are also ``neck/*`` and ``head/*``.

    Returns:
      The leaves, float32 (counts int32), without those to be initialised; and the report.

    Raises:
      UserError: something does not match and is not among the exceptions, or a number is NaN or infinite.
    """
    wanted: dict[str, Any] = names.flatten(expected)
    kind = names.kind_of(wanted)
    given = _Given(tensors, wanted, kind, source, allow_unexpected)
    found = _find_native(given) if native else _find(given)
    tokens = FAMILIES[kind.family].weights.distillation if kind.family else ()
    distilled = any(name.rpartition(".")[2] in tokens for name in found.unexpected)
    with np.errstate(over="ignore"):  # Reported below, by name.
        tables = resize_tables(found.leaves, wanted, image_size, source_image_size, native, distilled)
    converted = Counter(
        str(value.dtype)
        for path, value in found.leaves.items()
        if value.dtype != wanted[path].dtype and jnp.issubdtype(value.dtype, jnp.floating)
    )
    classifier = kind.head_weights.classifier if kind.head_weights else _CLASSIFIER
    matched = _match(found.leaves, wanted, {path: table for path, (table, *_) in tables.items()}, classifier)
    # The backbone first: to miss it is worse.
    missing = sorted(
        wanted.keys() - found.leaves.keys(), key=lambda path: (not path.startswith("params/backbone/"), path)
    )
    report = LoadReport(
        source=source,
        dialect=found.dialect,
        matched=tuple(path for path in wanted if path in matched.leaves),
        missing=tuple(missing),
        unexpected=found.unexpected,
        wrong_shape=tuple(matched.wrong_shape),
        replaced=tuple(matched.replaced),
        resized=tuple((path, old, new) for path, (_, old, new) in tables.items() if old != new),
        ignored=found.ignored,
        initialised=found.initialised,
        classes=_classes(tensors, wanted, native) if matched.replaced else None,
        class_axis=kind.head_weights.class_axis if kind.head_weights else -1,
        converted=dict(sorted(converted.items())),
    )
    problems = _problems(report, matched, allow_missing, allow_unexpected)
    if any(problems.values()):
        raise UserError(refusal(source, problems, tensors, wanted, native, distilled))
    if not_finite(matched.leaves):
        unused = {*found.unexpected, *found.ignored}
        used = {name: tensor for name, tensor in tensors.items() if name not in unused}
        raise UserError(not_finite_refusal(source, not_finite(used)))
    return matched.leaves, report


_Problem = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Matched:
    """Leaves of the model's types and shapes; the other lists have the paths that are not among them."""

    leaves: dict[str, np.ndarray] = field(default_factory=dict)
    wrong_shape: list[_Problem] = field(default_factory=list)
    wrong_type: list[str] = field(default_factory=list)
    too_large: list[str] = field(default_factory=list)
    replaced: list[_Problem] = field(default_factory=list)


def _problems(
    report: LoadReport, matched: _Matched, allow_missing: Sequence[str], allow_unexpected: Sequence[str]
) -> dict[str, list[str]]:
    """What is not among the exceptions, by the kind of problem; the lists are empty where there is none."""
    return {
        "missing": [
            path
            for path in report.missing
            if names.submodel_of(path) not in report.initialised and not _optional(path, allow_missing)
        ],
        "unexpected": [name for name in report.unexpected if not _unused(name, allow_unexpected)],
        "of another shape": shapes_lines(line for line in matched.wrong_shape if not _optional(line[0], allow_missing)),
        "of another type": matched.wrong_type,
        "with numbers too large for float32": matched.too_large,
    }


def _match(
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    resized: Mapping[str, np.ndarray],
    classifier: tuple[str, ...],
) -> _Matched:
    """What of ``found``, with ``resized`` in place of some, has the model's types and shapes."""
    matched = _Matched()
    for path, original in found.items():
        here, value = wanted[path], resized.get(path, original)
        if not _fits_type(value, here):
            matched.wrong_type.append(f"{path} is {value.dtype}, here {np.dtype(here.dtype)}")
        elif value.shape != tuple(here.shape):
            matched.wrong_shape.append((path, value.shape, tuple(here.shape)))
        elif _overflows(original, here.dtype):
            matched.too_large.append(path)
        else:
            matched.leaves[path] = value.astype(here.dtype, copy=False)
    if any(path == classifier[0] for path, *_ in matched.wrong_shape if classifier):
        # With other inputs the bias may still match, but what it was trained with is gone.
        there = [path for path in classifier if path in found]
        matched.replaced.extend((path, found[path].shape, tuple(wanted[path].shape)) for path in there)
        matched.wrong_shape[:] = [problem for problem in matched.wrong_shape if problem[0] not in there]
        for path in there:
            matched.leaves.pop(path, None)
    return matched


@dataclass(frozen=True)
class _Found:
    dialect: str
    leaves: dict[str, np.ndarray]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    initialised: tuple[str, ...] = ()


def _classes(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], native: bool) -> tuple[int, int] | None:
    """Classes of the source's dense head and of the model's, if both tell and they differ."""
    there, here = (
        signatures.dense_head({name: tuple(leaf.shape) for name, leaf in leaves.items()}, native=paths)[1]
        for leaves, paths in ((tensors, native), (wanted, True))
    )
    return (there, here) if there and here and there != here else None


class _Given(NamedTuple):
    """Arguments of ``merge``, and the model's kind."""

    tensors: Mapping[str, np.ndarray]
    wanted: Mapping[str, Any]
    here: names.Kind
    source: str
    allow_unexpected: Sequence[str]


def _find_native(given: _Given) -> _Found:
    tensors, wanted, here, _, allow_unexpected = given
    there = names.kind_of(tensors)
    places: dict[str, str] = {}  # Paths there by paths here.
    unexpected, ignored = [], []
    for path in tensors:
        place = names.in_backbone(path) if there.dense and not here.dense else path
        place = names.in_dense(path) if here.dense and not there.dense else place
        if place != path or here.dense == there.dense:
            places[place] = path
        else:
            ignored.append(path)  # The neck and head beside a backbone that is taken out.
    compatible = names.compatible(here.head, there.head)
    if here.dense and there.dense and not compatible:
        # Paths of different heads may agree by chance, such as those of the classifier.
        other_neck = names.neck_of(there.head) != names.neck_of(here.head)
        for place, path in list(places.items()):
            submodel = names.submodel_of(path)
            left_out = other_neck or _unused(path, allow_unexpected)
            if submodel == "head" or (submodel == "neck" and left_out):
                unexpected.append(places.pop(place))
    for place, path in places.items():
        if place not in wanted:
            lacks_classifier = _lacks_classifier(wanted) and not there.dense
            of_classifier = lacks_classifier and there.family and names.is_of_classifier(path, there.family)
            # A module that a compatible head has and the model's does not.
            entry = there.entry_of(path) if here.head_weights and compatible else None
            of_other = here.head_weights and entry and here.head_weights.ignores(entry.name)
            (ignored if of_classifier or of_other else unexpected).append(path)
    leaves = {place: tensors[places[place]] for place in wanted if place in places}
    initialised = _beside_backbone(wanted) if here.dense and not there.dense else ()
    return _Found("pvt_jax names", leaves, tuple(unexpected), tuple(ignored), initialised)


def _lacks_classifier(wanted: Collection[str]) -> bool:
    return names.is_dense(wanted) or _CLASSIFIER[0] not in wanted


def _beside_backbone(wanted: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({names.submodel_of(path) for path in wanted} - {"backbone"}, reverse=True))


def _find(given: _Given) -> _Found:
    tensors, wanted, here, source, _ = given
    if here.family is None:
        raise UserError(
            f"{source} is a state dict, and this model is none of {', '.join(FAMILIES)}: load an Orbax checkpoint"
        )
    weights = FAMILIES[here.family].weights
    backbone = {
        path: names.entry_of(names.in_backbone(path), weights)
        for path in wanted
        if not here.dense or names.submodel_of(path) == "backbone"
    }
    reading, leaves, used = _read_as(given, weights, backbone, tensors.keys())
    classifier = set()
    if _lacks_classifier(wanted):
        for name, parts in reading.sources.items():
            if names.is_name_of_classifier(name, here.family):
                classifier.update(part for part in parts if part not in used)
    ignored = [name for name in tensors if name in classifier or name in reading.ignored]
    initialised: tuple[str, ...] = ()
    if here.dense and not any(readings.dense_part(name) for name in tensors):
        initialised = _beside_backbone(wanted)
    elif here.dense:
        more, others, skipped = _find_neck_and_head(given, used)
        leaves |= more
        used |= others
        ignored = [name for name in ignored if name not in used and not readings.dense_part(name)] + skipped
    used |= set(ignored)
    unexpected = tuple(name for name in tensors if name not in used)
    return _Found(reading.described, leaves, unexpected, tuple(ignored), initialised)


def _find_neck_and_head(given: _Given, used: Collection[str]) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    """Leaves of neck and head, the names that they are made of, and the names of the module that is ignored."""
    tensors, wanted, here, _, allow_unexpected = given
    head, _ = signatures.dense_head({name: tensor.shape for name, tensor in tensors.items()})
    compatible = head is not None and names.compatible(here.head, head)
    leaves: dict[str, np.ndarray] = {}
    taken: set[str] = set()
    for submodel, naming in (("neck", names.neck_of(here.head)), ("head", here.head_weights)):
        # The same names mean something else in other heads, as the classifier's, and other levels in other necks.
        if naming is None or (not compatible and (submodel == "head" or (head and names.neck_of(head) != naming))):
            continue
        entries = {path: names.entry_of(path, naming) for path in wanted if names.submodel_of(path) == submodel}
        left = {name for name in tensors if name in used or (not compatible and _unused(name, allow_unexpected))}
        rest = [name for name in tensors if name not in left | taken]
        _, found, of = _read_as(given, naming, entries, rest)
        # The levels of an unknown head's neck are told by the channels of each.
        if compatible or all(path in found and found[path].shape == tuple(wanted[path].shape) for path in entries):
            leaves |= found
            taken |= of
    skipped = [name for name in tensors if here.head_weights and compatible and here.head_weights.ignores(name)]
    return leaves, taken, [name for name in skipped if name not in taken and name not in used]


def _read_as(
    given: _Given, naming: Naming, entries: Mapping[str, names.Entry | None], found: Collection[str]
) -> tuple[readings.Reading, dict[str, np.ndarray], set[str]]:
    """How the names ``found`` are read as those of ``naming``, its leaves, and the names that they are made of."""
    known = {path: entry for path, entry in entries.items() if entry}
    expected = {entry.name for entry in known.values()}
    reading = _the_reading(given, readings.best_readings(found, expected, naming))
    whole = {name: _join(given, reading, name) for name in reading.complete & expected}
    leaves = {
        path: names.to_leaf(whole[entry.name], path, entry, len(given.wanted[path].shape))
        for path, entry in known.items()
        if entry.name in whole
    }
    return reading, leaves, {part for name in whole for part in reading.sources[name]}


def _the_reading(given: _Given, candidates: Sequence[readings.Reading]) -> readings.Reading:
    """The one of several that cover as much: the caller leaves out the others, or they hold the same numbers."""

    def parts(reading: readings.Reading) -> Iterable[str]:
        return (part for found in reading.sources.values() for part in found)

    left_out = [all(_unused(part, given.allow_unexpected) for part in parts(reading)) for reading in candidates]
    kept = [reading for reading, left in zip(candidates, left_out, strict=True) if not left]
    first, *others = kept or candidates[:1]
    for other in others:
        same = (
            np.array_equal(given.tensors[a], given.tensors[b])
            for name in first.complete & other.complete
            for a, b in zip(first.sources[name], other.sources[name], strict=False)
        )
        if not all(same):
            prefix = other.prefix or first.prefix
            example = f", such as '{prefix}*'" if prefix else ""
            raise UserError(
                f"{given.source} holds this model twice, with different numbers: {first.described}, and "
                f"{other.described}; list those to leave out in allow_unexpected{example}"
            )
    return first


def _join(given: _Given, reading: readings.Reading, name: str) -> np.ndarray:
    parts = reading.sources[name]
    arrays = [given.tensors[part] for part in parts]
    if rows := reading.rows.get(name):
        length = len(arrays[0]) // rows.of if arrays[0].ndim else 0
        return arrays[0][rows.start * length : rows.stop * length] if arrays[0].ndim else arrays[0]
    if len(arrays) == 1:
        return arrays[0]
    if any(not array.ndim or array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        shapes = few([f"{part} is {given.tensors[part].shape}" for part in parts])
        raise UserError(
            f"{given.source} does not hold this model: parts of one tensor do not match ({shapes}). Use another"
        )
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
