"""Names and layouts of parameters: from a path in our trees to the reference's name, and back.

A path is ``COLLECTION/MODULE/…/LEAF``, as ``params/stage1/block0/attn/q/kernel``. The reference names are those of
whai362/PVT (PVT v1 and v2, which MiT shares), of timm (ViT) and of torchvision (ResNet). A dense model has a part more
at the front of a path, ``params/backbone/stage1/…``, beside ``neck`` and ``head``, and the names of mmsegmentation and
mmdetection. Which family and head a tree belongs to is read from the tree itself, so that a model of any size has
names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.weights.dense_names import HEADS, NECKS

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}

# What both generations of PVT share. The first row that matches a whole path, or else a path without its leaf, counts.
_PYRAMID = (
    (r"stage(\d)/patch_embed", r"patch_embed\1.proj"),
    (r"stage(\d)/patch_norm", r"patch_embed\1.norm"),
    (r"stage(\d)/block(\d+)/(norm\d)", r"block\1.\2.\3"),
    (r"stage(\d)/block(\d+)/attn/(q|kv|sr|proj)", r"block\1.\2.attn.\3"),
    (r"stage(\d)/block(\d+)/attn/sr_norm", r"block\1.\2.attn.norm"),
    (r"stage(\d)/block(\d+)/mlp/(fc\d)", r"block\1.\2.mlp.\3"),
    (r"head/linear", r"head"),
)
TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "pvt": (
        (r"stage(\d)/pos_embed", r"pos_embed\1"),
        (r"cls_token", r"cls_token"),
        (r"norm", r"norm"),
        *_PYRAMID,
    ),
    "pvt_v2": (
        (r"stage(\d)/block(\d+)/mlp/dwconv", r"block\1.\2.mlp.dwconv.dwconv"),
        (r"stage(\d)/norm", r"norm\1"),
        *_PYRAMID,
    ),
    "vit": (
        (r"cls_token", r"cls_token"),
        (r"pos_embed", r"pos_embed"),
        (r"patch_embed", r"patch_embed.proj"),
        (r"block(\d+)/attn/(?:q|kv)", r"blocks.\1.attn.qkv"),
        (r"block(\d+)/attn/proj", r"blocks.\1.attn.proj"),
        (r"block(\d+)/(norm\d)", r"blocks.\1.\2"),
        (r"block(\d+)/mlp/(fc\d)", r"blocks.\1.mlp.\2"),
        (r"norm", r"norm"),
        (r"head/linear", r"head"),
    ),
    "resnet": (
        (r"stem/conv", r"conv1"),
        (r"stem/norm", r"bn1"),
        (r"stage(\d)/block(\d+)/conv(\d)", r"layer\1.\2.conv\3"),
        (r"stage(\d)/block(\d+)/norm(\d)", r"layer\1.\2.bn\3"),
        (r"stage(\d)/block(\d+)/shortcut_conv", r"layer\1.\2.downsample.0"),
        (r"stage(\d)/block(\d+)/shortcut_norm", r"layer\1.\2.downsample.1"),
        (r"head/linear", r"fc"),
    ),
}

# Linear maps here, convolutions of side 1 there.
_POINTWISE = re.compile(
    r"params/(neck/lateral_c\d|head/(fuse|input_proj|rpn/(classifier|regressor)|mask/classifier))/kernel"
)
# Other heads' are linear maps, or convolutions of side 3, in both.
_HEADS_WITH_POINTWISE_CLASSIFIER = ("semantic_fpn", "segformer")
# Reads what RoIAlign gives: rows, columns and channels here, channels, rows and columns there.
_AFTER_ROI_ALIGN = "params/head/box/fc0/kernel"
_ROI_CELLS = 7 * 7
# A transposed convolution: PyTorch keeps its inputs first.
_TRANSPOSED = "params/head/mask/upsample/kernel"

# Begin the reference names of what a backbone without classifier lacks.
_CLASSIFIER = {
    "pvt": ("head.", "norm.", "cls_token"),
    "pvt_v2": ("head.",),
    "vit": ("head.",),
    "resnet": ("fc.",),
}

# The path that only this family has.
_MARKS = {
    "pvt": "params/stage1/pos_embed",
    "pvt_v2": "params/stage1/block0/mlp/dwconv/kernel",
    "vit": "params/block0/attn/q/kernel",
    "resnet": "params/stem/conv/kernel",
}


class Entry(NamedTuple):
    """A leaf's place in a state dict: the tensor, and which of ``of`` equal parts of its rows (start, stop)."""

    name: str
    start: int = 0
    stop: int = 1
    of: int = 1


def is_dense(paths: Iterable[str]) -> bool:
    """Whether a tree with these paths is that of a dense model: a backbone with a head, or with neck and head."""
    return any(path.startswith("params/backbone/") for path in paths)


def part_of(path: str) -> str:
    """Of a dense model's path: ``backbone``, ``neck`` or ``head``."""
    return path.split("/")[1]


def in_dense(path: str) -> str:
    """Where a dense model has what a model of the backbone alone has at ``path``."""
    return path.replace("/", "/backbone/", 1)


def in_backbone(path: str) -> str:
    """The inverse of ``in_dense``."""
    return path.replace("/backbone/", "/", 1)


def family_of(paths: Iterable[str]) -> str | None:
    """The family (a key of ``TABLES``) that a tree with these paths, or its backbone, belongs to; None if to none."""
    have = set(paths)
    return next((family for family, mark in _MARKS.items() if mark in have or in_dense(mark) in have), None)


def head_of(paths: Iterable[str]) -> str | None:
    """The head (a key of ``HEADS``) of a dense model with these paths; None if it is none of them."""
    have = set(paths)
    return next((name for name, head in HEADS.items() if head.mark in have and head.lacks not in have), None)


def neck_of(head: str | None) -> str:
    """Which of ``NECKS`` names the neck under a head, a key of ``HEADS``."""
    return HEADS[head].neck if head else "neck"


def akin(one: str | None, other: str | None) -> bool:
    """Whether two heads are the same, or one has all the names of the other, which then mean the same."""
    if one == other or one not in HEADS or other not in HEADS:
        return one == other
    fewer, more = sorted((HEADS[one].rows, HEADS[other].rows), key=len)
    return neck_of(one) == neck_of(other) and bool(fewer) and set(fewer) <= set(more)


def is_of_classifier(name: str, family: str) -> bool:
    """Whether a reference name is of what a backbone has only to classify."""
    return name.startswith(_CLASSIFIER[family])


def entry_of(path: str, family: str) -> Entry | None:
    """Where the reference keeps what our tree has at ``path``; None if it has no such parameter.

    ``family`` is a key of ``TABLES``, or one of ``NECKS`` or ``HEADS`` for paths in these parts of a dense model.
    """
    rows = NECKS.get(family) or (HEADS[family].rows if family in HEADS else TABLES[family])
    inner = path.partition("/")[2]
    module, _, leaf = inner.rpartition("/")
    name = _match(inner, rows)
    if name is None and leaf in _LEAVES and (name := _match(module, rows)) is not None:
        name = f"{name}.{_LEAVES[leaf]}"
    if name is None:
        return None
    if family == "vit" and ".attn.qkv." in name:  # Rows are queries, then keys, then values.
        return Entry(name, 0, 1, 3) if module.endswith("/q") else Entry(name, 1, 3, 3)
    if ".attn.in_proj_" in name:
        part = "qkv".index(module[-1])
        return Entry(name, part, part + 1, 3)
    return Entry(name)


def reference_entry(path: str, family: str, head: str | None, dense: bool) -> Entry | None:
    """As ``entry_of``, of any path of a tree, dense or not."""
    if not dense:
        return entry_of(path, family)
    if part_of(path) == "neck":
        return entry_of(path, neck_of(head))
    if part_of(path) == "head":
        return entry_of(path, head) if head else None
    entry = entry_of(in_backbone(path), family)
    return entry and entry._replace(name=f"backbone.{entry.name}")


def _match(path: str, rows: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, name in rows:
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    return None


def to_leaf(tensor: np.ndarray, path: str, entry: Entry, ndim: int) -> np.ndarray:
    """A tensor of the reference in the layout of our leaf of ``ndim`` axes; its bits are moved, none is changed."""
    if ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if entry.of > 1 and tensor.ndim and tensor.shape[0] % entry.of == 0:
        part = tensor.shape[0] // entry.of
        tensor = tensor[entry.start * part : entry.stop * part]
    if path == _AFTER_ROI_ALIGN and tensor.ndim == 2 and tensor.shape[1] % _ROI_CELLS == 0:
        outputs, inputs = tensor.shape
        return tensor.reshape(outputs, -1, _ROI_CELLS).transpose(2, 1, 0).reshape(inputs, outputs)
    if path.endswith("/kernel"):
        if tensor.ndim == 2:
            return tensor.T
        if tensor.ndim == 4:
            return tensor.transpose(2, 3, 0, 1) if path == _TRANSPOSED else tensor.transpose(2, 3, 1, 0)
    return tensor


def from_leaf(leaf: np.ndarray, path: str, head: str | None = None) -> np.ndarray:
    """The inverse of ``to_leaf`` in a tree with this head, but for the parts, which are rows of the result."""
    if path == _AFTER_ROI_ALIGN:
        inputs, outputs = leaf.shape
        leaf = leaf.reshape(_ROI_CELLS, -1, outputs).transpose(2, 1, 0).reshape(outputs, inputs)
    elif path == _TRANSPOSED:
        leaf = leaf.transpose(2, 3, 0, 1)
    elif path.endswith("/kernel"):
        leaf = leaf.T if leaf.ndim == 2 else leaf.transpose(3, 2, 0, 1)
    of_classes = head in _HEADS_WITH_POINTWISE_CLASSIFIER and path == "params/head/classifier/kernel"
    if of_classes or _POINTWISE.fullmatch(path):
        leaf = leaf[:, :, None, None]
    if path.endswith("/count"):
        leaf = leaf.astype(np.int64)
    return np.array(leaf, order="C")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts that ``flatten`` took apart."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, last = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def to_state_dict(variables: Any) -> dict[str, np.ndarray]:
    """Variables of a model as the reference's state dict: its names, layouts and integer types, every bit kept.

    Those of a dense model get the names of mmsegmentation or mmdetection.

    Raises:
      UserError: the reference has no names for this backbone or head, or a parameter has none.
    """
    leaves = flatten(variables)
    family, head, dense = family_of(leaves), head_of(leaves), is_dense(leaves)
    if family is None:
        raise UserError(f"the reference has no names for this model: none of {', '.join(TABLES)} has its parameters")
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in leaves.items():
        entry = reference_entry(path, family, head, dense)
        if entry is None:
            named = ", ".join(name for name, head in HEADS.items() if head.rows)
            raise UserError(
                f"the reference has no name for {path}: only a backbone with its classifier, or with one of the heads "
                f"{named}, has names. Write a folder in place of a file"
            )
        parts.setdefault(entry.name, {})[entry.start] = from_leaf(np.asarray(leaf), path, head)
    return {
        name: found[0] if len(found) == 1 else np.concatenate([found[start] for start in sorted(found)])
        for name, found in parts.items()
    }
