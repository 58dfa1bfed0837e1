"""Names and layouts of parameters: from a path in our trees to the reference's name, and back.

A path is ``COLLECTION/MODULE/…/LEAF``, as ``params/stage1/block0/attn/q/kernel``. The reference names are those of
whai362/PVT (PVT v1 and v2, which MiT shares), of timm (ViT) and of torchvision (ResNet). Which family a tree belongs
to is read from the tree itself, so that a model of any size has names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pvt_jax.errors import UserError

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


def family_of(paths: Iterable[str]) -> str | None:
    """The family (a key of ``TABLES``) that a tree with these paths belongs to; None if it is none of them."""
    have = set(paths)
    return next((family for family, mark in _MARKS.items() if mark in have), None)


def entry_of(path: str, family: str) -> Entry | None:
    """Where the reference keeps what our tree has at ``path``; None if it has no such parameter."""
    inner = path.partition("/")[2]
    module, _, leaf = inner.rpartition("/")
    name = _match(inner, family)
    if name is None and leaf in _LEAVES and (name := _match(module, family)) is not None:
        name = f"{name}.{_LEAVES[leaf]}"
    if name is None:
        return None
    if family == "vit" and ".attn.qkv." in name:  # Rows are queries, then keys, then values.
        return Entry(name, 0, 1, 3) if module.endswith("/q") else Entry(name, 1, 3, 3)
    return Entry(name)


def _match(path: str, family: str) -> str | None:
    for pattern, name in TABLES[family]:
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    return None


def to_leaf(tensor: np.ndarray, path: str, entry: Entry) -> np.ndarray:
    """A tensor of the reference in the layout of our leaf; its bits are moved, none is changed."""
    if entry.of > 1 and tensor.ndim and tensor.shape[0] % entry.of == 0:
        part = tensor.shape[0] // entry.of
        tensor = tensor[entry.start * part : entry.stop * part]
    if path.endswith("/kernel"):
        if tensor.ndim == 2:
            return tensor.T
        if tensor.ndim == 4:
            return tensor.transpose(2, 3, 1, 0)
    return tensor


def from_leaf(leaf: np.ndarray, path: str) -> np.ndarray:
    """The inverse of ``to_leaf``, but for the parts, which are rows of the result."""
    if path.endswith("/kernel"):
        leaf = leaf.T if leaf.ndim == 2 else leaf.transpose(3, 2, 0, 1)
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

    Raises:
      UserError: the tree is not that of a backbone with its classifier, or a parameter has no name in the reference.
    """
    leaves = flatten(variables)
    family = family_of(leaves)
    if family is None:
        raise UserError(f"the reference has no names for this model: none of {', '.join(TABLES)} has its parameters")
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in leaves.items():
        entry = entry_of(path, family)
        if entry is None:
            raise UserError(f"the reference has no name for {path}: only a backbone with its classifier has names")
        parts.setdefault(entry.name, {})[entry.start] = from_leaf(np.asarray(leaf), path)
    return {
        name: found[0] if len(found) == 1 else np.concatenate([found[start] for start in sorted(found)])
        for name, found in parts.items()
    }
