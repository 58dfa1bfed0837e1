"""Which model a file looks like, by the shapes of its tensors alone."""

import math
from typing import NamedTuple

import numpy as np

from pvt_jax.backbones import FAMILIES
from pvt_jax.heads import HEADS
from pvt_jax.weight_names import HeadWeights, Shapes, Sizes
from pvt_jax.weights import names
from pvt_jax.weights.readings import readings


class Signature(NamedTuple):
    """A family, a key of ``FAMILIES``, and what the shapes of its backbone's tensors tell."""

    family: str
    sizes: Sizes

    def __str__(self) -> str:
        """The names of the models of these sizes, or the sizes."""
        named = [name for name, signature in SIGNATURES.items() if signature == self]
        return " or ".join(named) or f"a {self.family} of depths {self.sizes.depths} and dims {self.sizes.dims}"


class Recognised(NamedTuple):
    """What a file says by itself; ``num_classes`` and ``image_size`` (height, width) are None if it does not.

    ``positions`` are the slots of its first position table, without those of tokens, and the side of a patch.
    ``head`` is that of a dense model, a key of ``HEADS``; None if it has none of them.
    """

    signature: Signature
    num_classes: int | None
    image_size: tuple[int, int] | None
    positions: tuple[int, int] | None = None
    head: str | None = None

    def __str__(self) -> str:
        """The names of the models of these sizes, or the sizes, and of its head."""
        return f"{self.signature} with a {self.head} head" if self.head else str(self.signature)

    def may_be_for(self, image_size: tuple[int, int]) -> bool:
        """Whether the position table, if there is one, has a slot for each patch of images of this size."""
        if self.positions is None:
            return True
        slots, patch = self.positions
        return (image_size[0] // patch) * (image_size[1] // patch) == slots


SIGNATURES: dict[str, Signature] = {
    name: Signature(key, family.weights.sizes_of_model(family.module(num_classes=0, **settings)))
    for key, family in FAMILIES.items()
    for name, settings in family.variants.items()
}


def recognise(shapes: Shapes, *, native: bool = False) -> Recognised | None:
    """What a checkpoint with tensors of these shapes holds; None if it is no backbone known here.

    ``shapes`` are by name of any dialect, or by path in our trees if ``native``.
    """
    head, num_classes = dense_head(shapes, native=native)
    if native:
        shapes = _reference_shapes(shapes)
    best: Recognised | None = None
    for family, row in FAMILIES.items():
        linear = names.entry_of("params/head/linear/kernel", row.weights)
        for reading in readings(shapes.keys(), row.weights):
            whole = {name: shapes[parts[0]] for name, parts in reading.sources.items() if len(parts) == 1}
            sizes = row.weights.sizes_of_tensors(whole)
            if sizes and (best is None or sum(sizes.depths) > sum(best.signature.sizes.depths)):
                outputs = whole.get(linear.name) if linear else None
                positions = _positions(whole, family)
                classes = outputs[0] if outputs else None
                best = Recognised(Signature(family, sizes), classes, _image_size(positions), positions)
    return best._replace(head=head, num_classes=num_classes) if best and head else best


def dense_head(shapes: Shapes, *, native: bool = False) -> tuple[str | None, int | None]:
    """The head of a dense model with tensors of these shapes, a key of ``HEADS``, and its number of classes."""
    if native:
        head = names.kind_of(shapes).head
        return head, _num_classes(HEADS[head].weights, shapes, native=True) if head else None
    for head, row in HEADS.items():
        known = row.weights
        of_neck = names.entry_of(known.lacks, known.neck)
        paths = (known.mark, *known.classifier[:1], known.regressor)
        named = {path: entry.name for path in paths if (entry := names.entry_of(path, known))}
        for reading in readings(shapes.keys(), known) if known.mark in named else ():
            if named[known.mark] in reading.complete and not (of_neck and of_neck.name in reading.complete):
                there = {
                    path: shapes[reading.sources[name][0]] for path, name in named.items() if name in reading.sources
                }
                return head, _num_classes(known, there, native=False)
    return None, None


def _num_classes(head: HeadWeights, shapes: Shapes, native: bool) -> int | None:
    """From shapes by path, in our layout if ``native``, else in the reference's, which has outputs first."""
    classifier = shapes.get(head.classifier[0], ()) if head.classifier else ()
    axis = head.class_axis if native else 0
    if not -len(classifier) <= axis < len(classifier):
        return None
    deltas = shapes.get(head.regressor)
    return head.num_classes(classifier[axis], *([deltas[-1 if native else 0]] if deltas else []))


def _image_size(positions: tuple[int, int] | None) -> tuple[int, int] | None:
    """The side of the square images that the position table was made for."""
    slots, patch = positions or (0, 0)
    side = math.isqrt(slots)
    return (side * patch, side * patch) if side and side**2 == slots else None


def _positions(shapes: Shapes, family: str) -> tuple[int, int] | None:
    weights = FAMILIES[family].weights
    if not weights.tables:
        return None
    first = weights.tables[0]
    table, patch = (
        shapes.get(entry.name) if (entry := names.entry_of(f"params/{path}", weights)) else None
        for path in (first.path, first.patch)
    )
    if table is None or patch is None or len(table) != 3 or len(patch) != 4 or not patch[2]:
        return None
    tokens = first.tokens + any(token in shapes for token in weights.distillation)
    return max(table[1] - tokens, 0), patch[2]


def _reference_shapes(shapes: Shapes) -> Shapes:
    """Those of a tree's backbone."""
    kind = names.kind_of(shapes)
    found: dict[str, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        if (not kind.dense or names.submodel_of(path) == "backbone") and (entry := kind.entry_of(path)):
            # A view of a single number costs no memory.
            leaf = np.broadcast_to(np.float32(0), shape)
            found[entry.name] = entry.layout.to_theirs(leaf).shape if path.endswith("/kernel") else shape
    return found
