"""What is reported of a checkpoint: where its tensors went, or why it is refused."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from pvt_jax.backbones import FAMILIES
from pvt_jax.weights import names, readings, signatures
from pvt_jax.weights.torch_pickle import one_line

_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """Where a checkpoint went. Parameters are named by path (``params/norm/scale``), tensors as in the file.

    Attributes:
      source: what was read, in words. dialect: whose names it has.
      matched: parameters taken from the source, including resized ones.
      missing: parameters that it lacks. They keep their initial values, as ``wrong_shape`` and ``replaced`` do.
      unexpected: its tensors that the model has no place for.
      wrong_shape: (parameter, shape in the source, shape in the model).
      replaced: parameters of the classifier, whose number of classes or inputs differs, and of whatever else there is
        per class; as ``wrong_shape``.
      resized: (position table, rows and columns in the source, rows and columns in the model).
      ignored: its tensors that belong to modules that the model does not have, such as a classifier, or the neck and
        head of a detector.
      initialised: the submodels (neck, head) of a dense model that start from random values because the source is a
        backbone; all of their paths are missing.
      classes: if a dense model's classifier was replaced, the numbers of classes in the source and in the model, where
        both are known.
      class_axis: axis of the classes in the first of ``replaced``.
      converted: dtypes other than float32 that numbers were converted from, each with its number of tensors.
      notes: on what else the source holds.
    """

    source: str
    dialect: str
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    replaced: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    resized: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...] = ()
    ignored: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    classes: tuple[int, int] | None = None
    class_axis: int = -1
    converted: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether every parameter came from the source as it is."""
        return not any((self.missing, self.unexpected, self.wrong_shape, self.replaced, self.resized))

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.matched)} parameters loaded"]
        if self.converted:
            parts.append("to float32 from " + ", ".join(f"{name} ({n})" for name, n in self.converted.items()))
        if self.resized:
            sizes = (f"{_last(path)} {old[0]}×{old[1]} → {new[0]}×{new[1]}" for path, old, new in self.resized)
            parts.append("position tables resized: " + ", ".join(sizes))
        if self.replaced:
            parts.append(self._new_classifier())
        if self.initialised:
            parts.append(f"a backbone; {' and '.join(self.initialised)} newly initialised")
        if lacking := [path for path in self.missing if names.submodel_of(path) not in self.initialised]:
            parts.append(f"not in the file, newly initialised: {few(lacking)}")
        if self.wrong_shape:
            parts.append(f"of another shape, newly initialised: {few(shapes_lines(self.wrong_shape))}")
        if self.unexpected:
            parts.append(f"in the file and unused: {few(self.unexpected)}")
        if self.ignored:
            modules = Counter(_module(name) for name in self.ignored)
            parts.append(f"of other modules, unused: {few([f'{name} ({n})' for name, n in modules.items()])}")
        return f"{self.source} ({self.dialect}): {'; '.join([*parts, *self.notes])}"

    def _new_classifier(self) -> str:
        (_, old, new), axis = self.replaced[0], self.class_axis
        what = "classes" if np.delete(old, axis).tolist() == np.delete(new, axis).tolist() else "inputs and classes"
        shapes = f"{old[axis]} → {new[axis]}" if what == "classes" else f"{old} → {new}"
        if self.classes and what == "classes":
            # There may be outputs per anchor, and one for the background.
            shapes = f"{self.classes[0]} → {self.classes[1]}"
        modules = dict.fromkeys(_last(path).rpartition("/")[0] for path, _, _ in self.replaced)
        started = "a new classifier" if len(modules) == 1 else f"new {', '.join(modules)}"
        return f"{started}, randomly initialised, for other {what} ({shapes})"


def not_finite(leaves: Mapping[str, np.ndarray]) -> list[str]:
    """The names of arrays with NaN or infinity, each with how many of its numbers are."""
    found = []
    for name, leaf in leaves.items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not (finite := np.isfinite(leaf)).all():
            found.append(f"{name} ({leaf.size - np.count_nonzero(finite):,} of {leaf.size:,} numbers)")
    return found


def not_finite_refusal(source: str, found: Sequence[str]) -> str:
    """Why weights with the arrays ``found`` are refused, and the way out, in one line."""
    where = f"{len(found)} tensor{'s' * (len(found) != 1)}: {few(found)}"
    return (
        f"{source} has NaN or infinity in {where}. The run that wrote it diverged, or its numbers overflowed in half "
        "precision: use an earlier checkpoint of it, or other weights"
    )


def shapes_lines(problems: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> list[str]:
    """A line for each (parameter, shape found, shape here)."""
    return [f"{path} is {found}, here {here}" for path, found, here in problems]


def few(items: Sequence[str]) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(one_line(item, 100) for item in items[:_SHOWN]) + more


def _last(path: str) -> str:
    return path.removeprefix("params/")


def _module(name: str) -> str:
    """The first module of a file's name, or of a tree's path without the collection."""
    modules = name.split("/")[1:] if "/" in name else name.split(".")
    # A head that holds heads says too little.
    nested = len(modules) > 1 and all(module.endswith("_head") for module in modules[:2])
    return ".".join(modules[: 1 + nested])


def refusal(
    source: str,
    problems: Mapping[str, Sequence[str]],
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    native: bool,
    distilled: bool,
) -> str:
    """Why a checkpoint is refused, and the way out, in one line.

    ``problems`` lists what is wrong by kind, ``tensors`` are those of the checkpoint (by our paths if ``native``),
    ``wanted`` the leaves of the model; ``distilled``: the checkpoint has a second token, as a distilled DeiT.
    """
    kinds = "; ".join(f"{len(items)} {kind}: {few(items)}" for kind, items in problems.items() if items)
    text = f"{source} does not hold this model: {kinds}"
    if distilled:
        return (
            f"{text}. It is distilled: no model here has its second token, which takes part in attention. Use weights "
            "that are not distilled, or list these tensors in allow_unexpected to start from the rest"
        )
    here, there = (
        signatures.recognise({name: tuple(leaf.shape) for name, leaf in leaves.items()}, native=paths)
        for leaves, paths in ((wanted, True), (tensors, native))
    )
    exceptions = "list the exceptions in allow_missing and allow_unexpected"
    if names.is_dense(wanted):
        exceptions = (
            f"{exceptions}; allow_missing=['neck/*', 'head/*'] with allow_unexpected=['neck/*', 'head/*'] loads the "
            "backbone alone"
        )
        known = there is not None and there.head
        if not native and not known and (foreign := readings.foreign_head(tensors)):
            return f"{text}. Its head is {foreign}, which no model here has: {exceptions}"
    other_head = there is not None and there.head and (here is None or there.head != here.head)
    if there is not None and (other_head or here is None or there.signature != here.signature):
        return f"{text}. It looks like {there}: create that model, or {exceptions}"
    family = None if native or names.is_dense(wanted) else names.kind_of(wanted).family
    if family and [kind for kind, items in problems.items() if items] == ["missing"]:
        patterns = FAMILIES[family].weights.classifier
        if all(names.is_of_classifier(path, family) for path in problems["missing"]):
            return f"{text}. It has no classifier: to start from a new one, give allow_missing={list(patterns)}"
    if native:
        return f"{text}. Create the model with the name and settings in the run's config.json, or {exceptions}"
    return f"{text}. Use another file, or {exceptions}"
