"""Types of the rows that say what the parameters of a backbone or head are called, here and in the files of others.

Each family and each head keeps its rows in its own ``weights.py``; ``pvt_jax.weights`` reads them. A path is
``COLLECTION/MODULE/…/LEAF``, such as ``params/stage1/block0/attn/q/kernel``. The reference is the code whose state dict
names a family goes by.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


class Rows(NamedTuple):
    """Parts ``start`` to ``stop`` of ``of`` equal parts of a tensor's rows."""

    start: int = 0
    stop: int = 1
    of: int = 1


@dataclass(frozen=True)
class Layout:
    """How a kernel changes between the reference's axes and ours. The two functions are inverses of each other.

    ``to_ours`` passes on tensors of a shape that it cannot change: the merge reports them.
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _moved(matrix: tuple[int, ...], convolution: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    axes = {2: matrix, 4: convolution}
    return lambda kernel: kernel.transpose(axes[kernel.ndim]) if kernel.ndim in axes else kernel


# Linear maps [out, in] and convolutions [out, in, rows, columns] ↔ [in, out] and [rows, columns, in, out].
PLAIN = Layout(_moved((1, 0), (2, 3, 1, 0)), _moved((1, 0), (3, 2, 0, 1)))
# PyTorch's transposed convolutions have [in, out, rows, columns].
TRANSPOSED = Layout(_moved((1, 0), (2, 3, 0, 1)), _moved((1, 0), (2, 3, 0, 1)))
# A 1×1 convolution there, a linear map here. Files may hold linear maps as either, whatever their layout.
POINTWISE = Layout(PLAIN.to_ours, lambda kernel: PLAIN.to_theirs(kernel)[:, :, None, None])


class Row(NamedTuple):
    """A module or parameter: pattern of its path without the collection → name in the reference's state dict.

    ``name`` may use the groups of the pattern. ``layout`` is that of its kernel, ``rows`` those that it has of the
    reference's tensor. The first row that matches a whole path, or else a path without its leaf, counts.
    """

    path: str
    name: str
    layout: Layout = PLAIN
    rows: Rows = Rows()


def table(*rows: tuple[Any, ...]) -> tuple[Row, ...]:
    """Rows from the values of their fields."""
    return tuple(Row(*row) for row in rows)


# How others than the reference name the same tensors.


class Part(NamedTuple):
    """The tensor ``name`` of the reference joins the rows of ``of`` tensors, of which this is the one at ``number``."""

    name: str
    number: int
    of: int


class Split(NamedTuple):
    """A tensor whose rows are those of several tensors of the reference."""

    parts: tuple[tuple[str, Rows], ...]


Place = str | Part | Split


@dataclass(frozen=True)
class Dialect:
    """Module or tensor → the reference's name.

    ``#`` in a key stands for a number (the last, or all, may be written out). The reference's name may use the numbers
    in order as they are ({a}, {b}, {c}), plus one ({A}, {B}, {C}) or minus one ({a-1}, {b-1}, {c-1}): Hugging Face and
    timm count stages from 0, PVT from 1. ``model_prefix`` is optional in a file; ``others`` begin the names of modules
    that are not the backbone's.
    """

    name: str
    places: Mapping[str, Place] = field(default_factory=dict)
    model_prefix: str = ""
    others: tuple[str, ...] = ()


def inside(theirs: str, ours: str, places: Mapping[str, Place]) -> dict[str, Place]:
    """``places`` of one block, with the names of the block put before both sides."""

    def prefixed(place: Place) -> Place:
        if isinstance(place, Split):
            return Split(tuple((f"{ours}.{name}", rows) for name, rows in place.parts))
        return place._replace(name=f"{ours}.{place.name}") if isinstance(place, Part) else f"{ours}.{place}"

    return {f"{theirs}.{key}": prefixed(place) for key, place in places.items()}


# What a backbone and a head say of their weights.


@dataclass(frozen=True)
class PublishedWeights:
    """A published file. ``sha256`` is the whole hash or, where no more is published, its first eight digits.

    ``head`` is the name of a dense model's head; empty for a classifier.
    """

    model: str
    url: str
    licence: str
    source: str
    size: int | None = None
    sha256: str | None = None
    non_commercial: bool = False
    head: str = ""


class Sizes(NamedTuple):
    """Blocks and channels of each stage, and whatever else the shapes of a family's tensors tell apart."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    detail: tuple[int, ...] = ()


class Step(NamedTuple):
    """How a patch embedding makes a side smaller: by ``stride``, rounded up or down."""

    stride: int
    round_up: bool = False

    def __call__(self, side: int) -> int:
        return (side + (self.stride - 1) * self.round_up) // self.stride


def side_of_kernel(side: int) -> tuple[Step, ...]:
    """The step of patches that do not overlap."""
    return (Step(side),)


class PositionTable(NamedTuple):
    """A table [1, tokens + rows · columns, dim] of the positions that a patch embedding makes.

    Attributes:
      path, patch: of the table and of the embedding's kernel, without the collection.
      method: how the reference resamples it, as ``resize_grid`` names it.
      tokens: slots before the grid, of class tokens.
      steps: side of the embedding's kernel → the steps that it may have; of several the table's slots tell which.
    """

    path: str
    patch: str
    method: Literal["bilinear", "bicubic"]
    tokens: int = 0
    steps: Callable[[int], tuple[Step, ...]] = side_of_kernel


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Names of parameters: by the reference, and in the dialects of others. Without rows no such file can be read.

    ``beside`` are places, as of a ``Dialect``, of what a file in any of them has beside the prefix ``backbone.``.
    """

    rows: tuple[Row, ...] = ()
    dialects: tuple[Dialect, ...] = ()
    beside: Mapping[str, Place] = field(default_factory=dict)


def feature_pyramid_names(finest: int) -> Naming:
    """The mm* libraries' names of a feature pyramid whose finest map is of level ``finest``."""
    levels = [(level, level - finest) for level in range(finest, 8)]
    return Naming(
        rows=table(
            *((f"neck/lateral_c{ours}", f"neck.lateral_convs.{theirs}.conv", POINTWISE) for ours, theirs in levels),
            *((f"neck/output_p{ours}", f"neck.fpn_convs.{theirs}.conv") for ours, theirs in levels),
        )
    )


NECK = feature_pyramid_names(2)


@dataclass(frozen=True, kw_only=True)
class BackboneWeights(Naming):
    """What a family says of its weights.

    Attributes:
      mark: the path that only trees of this family have.
      classifier: patterns, as of ``fnmatch``, of the paths without collection that only a classifier has.
      sizes_of_model: sizes of a module of the family.
      sizes_of_tensors: sizes by shapes of tensors by the reference's names; None if they are not of this family.
      tables: position tables, from the image on: the embedding of each makes the grid smaller.
      distillation: last words of the names of a second token, which no model here has, in files of distilled models.
      published: files by the names under which they are known.
    """

    mark: str
    classifier: tuple[str, ...] = ("head/linear/*",)
    sizes_of_model: Callable[[Any], Sizes]
    sizes_of_tensors: Callable[[Shapes], Sizes | None]
    tables: tuple[PositionTable, ...] = ()
    distillation: tuple[str, ...] = ()
    published: Mapping[str, PublishedWeights] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HeadWeights(Naming):
    """What a head says of its weights.

    Attributes:
      mark: the path that only trees with this head have; its name is also what only files of such a head have.
      lacks: a path that another head with the same mark has and this one does not.
      classifier: paths of what depends on the number of classes; if the first has another shape, all are replaced.
      class_axis: axis of the classes in the first of them.
      background: outputs of the classifier that are no class.
      regressor: where there are classes for each of several anchors, the path of the box deltas of all anchors.
      unused: a module of those files, or of files of a head with all names of this one, that is ignored.
      neck: names of the neck under it, if it has one.
      published: as of a backbone.
    """

    mark: str
    lacks: str = ""
    classifier: tuple[str, ...] = ()
    class_axis: int = -1
    background: int = 0
    regressor: str = ""
    unused: str = ""
    neck: Naming = NECK
    published: Mapping[str, PublishedWeights] = field(default_factory=dict)

    def num_classes(self, outputs: int, deltas: int = 4) -> int:
        """Classes of a classifier with so many outputs, beside a regressor with so many ``deltas``."""
        return outputs // max(deltas // 4, 1) - self.background

    def ignores(self, name: str) -> bool:
        """Whether a file's tensor belongs to the unused module."""
        return bool(self.unused) and f".{self.unused}." in f".{name}"


# Reading sizes from shapes.


def count(pattern: str, shapes: Shapes, start: int = 0) -> int:
    """How many of the names ``pattern.format(start)``, ``pattern.format(start + 1)``, … there are without a gap."""
    number = 0
    while pattern.format(number + start) in shapes:
        number += 1
    return number


def stages(pattern: str, shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depths and dims of four stages; ``pattern.format(stage, block)`` names a tensor whose rows are a block's dim."""
    depths = tuple(count(pattern.replace("{}", str(stage), 1), shapes) for stage in range(1, 5))
    return depths, tuple((shapes.get(pattern.format(stage, 0)) or (0,))[0] for stage in range(1, 5))
