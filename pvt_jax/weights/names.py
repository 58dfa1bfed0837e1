"""Names and layouts of parameters: from a path in our trees to the reference's name, and back.

A dense model's paths have one more part at the front, ``params/backbone/stage1/…``, beside ``neck`` and ``head``, and
its names are those of mmsegmentation and mmdetection. The family and head of a tree are read from the tree itself, so
that a model of any size has names. The rows are those of ``pvt_jax.backbones`` and ``pvt_jax.heads``.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from pvt_jax.backbones import FAMILIES
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.weight_names import NECK, PLAIN, HeadWeights, Layout, Naming, Row, Rows

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}


class Entry(NamedTuple):
    """Where a state dict keeps a leaf: the tensor, which of its rows, and the layout of a kernel."""

    name: str
    rows: Rows = Rows()
    layout: Layout = PLAIN


class Kind(NamedTuple):
    """What a tree is: keys of ``FAMILIES`` and ``HEADS`` (None: none of them), and whether it is a dense model."""

    family: str | None
    head: str | None
    dense: bool

    @property
    def head_weights(self) -> HeadWeights | None:
        """The rows of the head."""
        return HEADS[self.head].weights if self.head else None

    def entry_of(self, path: str) -> Entry | None:
        """Where the reference keeps what a tree of this kind has at ``path``; None if it has no such parameter."""
        submodel = submodel_of(path) if self.dense else "backbone"
        if submodel == "neck":
            return entry_of(path, neck_of(self.head))
        if submodel == "head":
            return entry_of(path, self.head_weights) if self.head_weights else None
        if self.family is None:
            return None
        entry = entry_of(in_backbone(path), FAMILIES[self.family].weights)
        return entry._replace(name=f"backbone.{entry.name}") if entry and self.dense else entry


def is_dense(paths: Iterable[str]) -> bool:
    """Whether a tree with these paths is that of a dense model: a backbone with a head, or with neck and head."""
    return any(path.startswith("params/backbone/") for path in paths)


def submodel_of(path: str) -> str:
    """Of a dense model's path: ``backbone``, ``neck`` or ``head``."""
    return path.split("/")[1]


def in_dense(path: str) -> str:
    """Where a dense model keeps what the backbone alone keeps at ``path``."""
    return path.replace("/", "/backbone/", 1)


def in_backbone(path: str) -> str:
    """The inverse of ``in_dense``."""
    return path.replace("/backbone/", "/", 1)


def kind_of(paths: Iterable[str]) -> Kind:
    """What a tree with these paths is."""
    have = set(paths)
    marks = {name: family.weights.mark for name, family in FAMILIES.items()}
    family = next((name for name, mark in marks.items() if mark in have or in_dense(mark) in have), None)
    heads = {name: head.weights for name, head in HEADS.items()}
    head = next((name for name, known in heads.items() if known.mark in have and known.lacks not in have), None)
    return Kind(family, head, is_dense(have))


def neck_of(head: str | None) -> Naming:
    """Names of the neck under a head, a key of ``HEADS``; the usual ones if the head is not known."""
    return HEADS[head].weights.neck if head else NECK


def compatible(one: str | None, other: str | None) -> bool:
    """Whether two heads are the same, or one has all names of the other, with the same meaning."""
    if one == other or one not in HEADS or other not in HEADS:
        return one == other
    fewer, more = sorted((HEADS[one].weights.rows, HEADS[other].weights.rows), key=len)
    return neck_of(one) == neck_of(other) and bool(fewer) and set(fewer) <= set(more)


def is_of_classifier(path: str, family: str) -> bool:
    """Whether a path in a backbone's tree belongs to what it has only to classify."""
    inner = path.partition("/")[2]
    return any(fnmatchcase(inner, pattern) for pattern in FAMILIES[family].weights.classifier)


def is_name_of_classifier(name: str, family: str) -> bool:
    """As ``is_of_classifier``, of a name in the reference."""
    weights = FAMILIES[family].weights
    for pattern in weights.classifier:
        row = _match(pattern.removesuffix("/*"), weights.rows)
        if row and (name.startswith(f"{row.name}.") if pattern.endswith("/*") else name == row.name):
            return True
    return False


def entry_of(path: str, naming: Naming) -> Entry | None:
    """Where the reference keeps what our tree has at ``path``; None if it has no such parameter."""
    inner = path.partition("/")[2]
    module, _, leaf = inner.rpartition("/")
    if row := _match(inner, naming.rows):
        return row
    row = _match(module, naming.rows) if leaf in _LEAVES else None
    return row and row._replace(name=f"{row.name}.{_LEAVES[leaf]}")


def _match(path: str, rows: tuple[Row, ...]) -> Entry | None:
    for row in rows:
        if found := re.fullmatch(row.path, path):
            return Entry(found.expand(row.name), row.rows, row.layout)
    return None


def to_leaf(tensor: np.ndarray, path: str, entry: Entry, ndim: int) -> np.ndarray:
    """A tensor of the reference in the layout of our leaf of ``ndim`` axes; bits move, and none changes."""
    if ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    start, stop, of = entry.rows
    if of > 1 and tensor.ndim and tensor.shape[0] % of == 0:
        part = tensor.shape[0] // of
        tensor = tensor[start * part : stop * part]
    return entry.layout.to_ours(tensor) if path.endswith("/kernel") else tensor


def from_leaf(leaf: np.ndarray, path: str, entry: Entry) -> np.ndarray:
    """The inverse of ``to_leaf``, except that parts are rows of the result."""
    if path.endswith("/kernel"):
        leaf = entry.layout.to_theirs(leaf)
    if path.endswith("/count"):
        leaf = leaf.astype(np.int64)
    return np.array(leaf, order="C")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts that ``flatten`` took apart."""
    return unflatten_dict(leaves, sep="/")


def to_state_dict(variables: Any) -> dict[str, np.ndarray]:
    """Variables of a model as the reference's state dict: its names, layouts and integer types, every bit kept.

    Those of a dense model get the names of mmsegmentation or mmdetection.

    Raises:
      UserError: the reference has no names for this backbone or head, or for one of its parameters.
    """
    leaves = flatten(variables)
    kind = kind_of(leaves)
    if kind.family is None:
        raise UserError(f"the reference has no names for this model: it is none of {', '.join(FAMILIES)}")
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in leaves.items():
        entry = kind.entry_of(path)
        if entry is None:
            named = ", ".join(name for name, head in HEADS.items() if head.weights.rows)
            raise UserError(
                f"the reference has no name for {path}: only a backbone with its classifier, or with one of the heads "
                f"{named}, has names. Write a folder instead of a file"
            )
        parts.setdefault(entry.name, {})[entry.rows.start] = from_leaf(np.asarray(leaf), path, entry)
    return {
        name: found[0] if len(found) == 1 else np.concatenate([found[start] for start in sorted(found)])
        for name, found in parts.items()
    }
