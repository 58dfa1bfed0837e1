"""Dialects: how others than the reference name the same tensors, and which dialect a file speaks.

A row leads from a module's name to the reference's. ``#`` stands for a number; the reference's name may use the
numbers, in order, as they are ({a}, {b}, {c}) or plus one ({A}, {B}, {C}): Hugging Face and timm count stages from 0,
the reference from 1. A pair (name, part) is one of several parts whose rows the reference keeps in one tensor, in the
order of ``_PARTS``.
"""

import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_PARTS = {"kv": 2, "qkv": 3}
Rows = Mapping[str, str | tuple[str, int]]


@dataclass(frozen=True)
class Dialect:
    """``model_prefix`` is optional in a file; ``others`` begin the names of modules that are not the backbone's."""

    name: str
    rows: Rows = field(default_factory=dict)
    model_prefix: str = ""
    others: tuple[str, ...] = ()


def _blocks(theirs: str, ours: str, rows: Rows) -> dict[str, str | tuple[str, int]]:
    """Rows below one block, with the names of the block put before both sides."""
    return {
        f"{theirs}.{key}": f"{ours}.{name}" if isinstance(name, str) else (f"{ours}.{name[0]}", name[1])
        for key, name in rows.items()
    }


_HF_PVT = {
    "encoder.patch_embeddings.#.position_embeddings": "pos_embed{A}",
    "encoder.patch_embeddings.#.cls_token": "cls_token",
    "encoder.patch_embeddings.#.projection": "patch_embed{A}.proj",
    "encoder.patch_embeddings.#.layer_norm": "patch_embed{A}.norm",
    **_blocks(
        "encoder.block.#.#",
        "block{A}.{b}",
        {
            "layer_norm_1": "norm1",
            "attention.self.query": "attn.q",
            "attention.self.key": ("attn.kv", 0),
            "attention.self.value": ("attn.kv", 1),
            "attention.self.sequence_reduction": "attn.sr",
            "attention.self.layer_norm": "attn.norm",
            "attention.output.dense": "attn.proj",
            "layer_norm_2": "norm2",
            "mlp.dense1": "mlp.fc1",
            "mlp.dense2": "mlp.fc2",
        },
    ),
    "encoder.layer_norm": "norm",
    "classifier": "head",
}

_HF_PVT_V2 = {
    "encoder.layers.#.patch_embedding.proj": "patch_embed{A}.proj",
    "encoder.layers.#.patch_embedding.layer_norm": "patch_embed{A}.norm",
    "encoder.layers.#.layer_norm": "norm{A}",
    **_blocks(
        "encoder.layers.#.blocks.#",
        "block{A}.{b}",
        {
            "layer_norm_1": "norm1",
            "attention.query": "attn.q",
            "attention.key": ("attn.kv", 0),
            "attention.value": ("attn.kv", 1),
            "attention.spatial_reduction": "attn.sr",
            "attention.layer_norm": "attn.norm",
            "attention.proj": "attn.proj",
            "layer_norm_2": "norm2",
            "mlp.dense1": "mlp.fc1",
            "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            "mlp.dense2": "mlp.fc2",
        },
    ),
    "classifier": "head",
}

# Published files have the names of transformers 4; transformers 5 renames the modules when it loads them.
_HF_SEGFORMER = {
    "encoder.patch_embeddings.#.proj": "patch_embed{A}.proj",
    "encoder.patch_embeddings.#.layer_norm": "patch_embed{A}.norm",
    "encoder.layer_norm.#": "norm{A}",
    **_blocks(
        "encoder.block.#.#",
        "block{A}.{b}",
        {
            "layer_norm_1": "norm1",
            "attention.self.query": "attn.q",
            "attention.self.key": ("attn.kv", 0),
            "attention.self.value": ("attn.kv", 1),
            "attention.self.sr": "attn.sr",
            "attention.self.layer_norm": "attn.norm",
            "attention.output.dense": "attn.proj",
            "layer_norm_2": "norm2",
            "mlp.dense1": "mlp.fc1",
            "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            "mlp.dense2": "mlp.fc2",
        },
    ),
    "classifier": "head",
}
_HF_SEGFORMER_5 = {
    "stages.#.patch_embeddings.proj": "patch_embed{A}.proj",
    "stages.#.patch_embeddings.layer_norm": "patch_embed{A}.norm",
    "stages.#.layer_norm": "norm{A}",
    **_blocks(
        "stages.#.blocks.#",
        "block{A}.{b}",
        {
            "layernorm_before": "norm1",
            "attention.q_proj": "attn.q",
            "attention.k_proj": ("attn.kv", 0),
            "attention.v_proj": ("attn.kv", 1),
            "attention.sequence_reduction.sequence_reduction": "attn.sr",
            "attention.sequence_reduction.layer_norm": "attn.norm",
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            "mlp.fc2": "mlp.fc2",
        },
    ),
    "classifier": "head",
}

# DeiT's names are ViT's under another prefix. dist_token and head_dist are timm's names for what only distillation has.
_HF_VIT_FRAME = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
}
_HF_VIT = {
    **_HF_VIT_FRAME,
    **_blocks(
        "encoder.layer.#",
        "blocks.{a}",
        {
            "layernorm_before": "norm1",
            "attention.attention.query": ("attn.qkv", 0),
            "attention.attention.key": ("attn.qkv", 1),
            "attention.attention.value": ("attn.qkv", 2),
            "attention.output.dense": "attn.proj",
            "layernorm_after": "norm2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
    ),
}
_HF_VIT_5 = {
    **_HF_VIT_FRAME,
    **_blocks(
        "layers.#",
        "blocks.{a}",
        {
            "layernorm_before": "norm1",
            "attention.q_proj": ("attn.qkv", 0),
            "attention.k_proj": ("attn.qkv", 1),
            "attention.v_proj": ("attn.qkv", 2),
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        },
    ),
}

_HF_RESNET = {
    "embedder.embedder.convolution": "conv1",
    "embedder.embedder.normalization": "bn1",
    "encoder.stages.#.layers.#.shortcut.convolution": "layer{A}.{b}.downsample.0",
    "encoder.stages.#.layers.#.shortcut.normalization": "layer{A}.{b}.downsample.1",
    "encoder.stages.#.layers.#.layer.#.convolution": "layer{A}.{b}.conv{C}",
    "encoder.stages.#.layers.#.layer.#.normalization": "layer{A}.{b}.bn{C}",
    "classifier.#": "fc",
}

_TIMM_PVT_V2 = {
    "patch_embed.proj": "patch_embed1.proj",
    "patch_embed.norm": "patch_embed1.norm",
    "stages.#.downsample.proj": "patch_embed{A}.proj",
    "stages.#.downsample.norm": "patch_embed{A}.norm",
    "stages.#.norm": "norm{A}",
    **_blocks(
        "stages.#.blocks.#",
        "block{A}.{b}",
        {
            "mlp.dwconv": "mlp.dwconv.dwconv",
            **{
                same: same
                for same in (
                    *("norm1", "attn.q", "attn.kv", "attn.sr", "attn.norm", "attn.proj"),
                    *("norm2", "mlp.fc1", "mlp.fc2"),
                )
            },
        },
    ),
    "head": "head",
}

_REFERENCE = Dialect("reference")
DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "pvt": (_REFERENCE, Dialect("transformers", _HF_PVT, "pvt.")),
    "pvt_v2": (
        _REFERENCE,
        Dialect("timm", _TIMM_PVT_V2),
        Dialect("transformers", _HF_PVT_V2, "pvt_v2."),
        Dialect("transformers SegFormer", _HF_SEGFORMER, "segformer.", ("decode_head.",)),
        Dialect("transformers 5 SegFormer", _HF_SEGFORMER_5, "segformer.", ("decode_head.",)),
    ),
    # timm's names are the reference names of this family, and torchvision's (which timm shares) those of the next.
    "vit": (
        _REFERENCE,
        *(Dialect("transformers", _HF_VIT, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
        *(Dialect("transformers 5", _HF_VIT_5, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
    ),
    "resnet": (_REFERENCE, Dialect("transformers", _HF_RESNET, "resnet.")),
}

# Put before names by nn.DataParallel, detectors and segmenters, trainers, and the mm* self-supervised methods.
_WRAPPERS = ("module.", "backbone.", "model.", "encoder.")


@dataclass(frozen=True)
class Reading:
    """A file's tensors under one dialect, once a ``prefix`` is taken away.

    Attributes:
      sources: reference name → the file's tensors whose rows make it up, in order; those of incomplete ones too.
      complete: reference names all of whose parts are there.
      ignored: the file's tensors that belong to other modules, as the neck and head of a detector.
    """

    dialect: str
    prefix: str
    sources: dict[str, tuple[str, ...]]
    complete: frozenset[str]
    ignored: tuple[str, ...]

    @property
    def described(self) -> str:
        """The dialect, and the prefix if there is one."""
        return f"{self.dialect} names" + (f" under {self.prefix}" if self.prefix else "")


def best_readings(names: Collection[str], wanted: Collection[str], family: str) -> list[Reading]:
    """The reading of a file's tensor names that covers most of the ``wanted`` reference names, the plainest first.

    Those after it cover as many with other tensors, under another prefix or names: the file holds several copies.
    """
    wanted = set(wanted)
    covered = [(reading, wanted & reading.complete) for reading in readings(names, family)]
    most = max(len(names) for _, names in covered)
    best = [next(reading for reading, names in covered if len(names) == most)]
    for reading, names in covered:
        others = not any(reading.sources.get(name) == kept.sources.get(name) for name in names for kept in best)
        if names and len(names) == most and others:
            best.append(reading)
    return best


def readings(names: Collection[str], family: str) -> Iterator[Reading]:
    """Every way to read the names as those of a ``family``, the plainest first."""
    for prefix in _prefixes(names):
        inside = [name for name in names if name.startswith(prefix)]
        outside = tuple(name for name in names if not name.startswith(prefix))
        for dialect in DIALECTS[family]:
            yield _read(dialect, prefix, inside, outside)


class _Target(NamedTuple):
    name: str
    part: int = 0
    parts: int = 1


def _read(dialect: Dialect, prefix: str, inside: Iterable[str], outside: tuple[str, ...]) -> Reading:
    parts: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    ignored = list(outside)
    for name in inside:
        bare = name.removeprefix(prefix).removeprefix(dialect.model_prefix)
        if dialect.others and bare.startswith(dialect.others):
            ignored.append(name)
        elif target := _target(bare, dialect):
            parts.setdefault(target.name, {})[target.part] = name
            counts[target.name] = target.parts
    return Reading(
        dialect.name,
        prefix,
        {name: tuple(found[part] for part in sorted(found)) for name, found in parts.items()},
        frozenset(name for name, found in parts.items() if len(found) == counts[name]),
        tuple(ignored),
    )


def _target(name: str, dialect: Dialect) -> _Target | None:
    if not dialect.rows:
        return _Target(name)
    words = name.split(".")
    numbers = [int(word) for word in words if _is_number(word)]
    words = ["#" if _is_number(word) else word for word in words]
    module, leaf, row = ".".join(words), "", dialect.rows.get(".".join(words))
    if row is None:
        module, leaf = ".".join(words[:-1]), f".{words[-1]}"
        row = dialect.rows.get(module)
    if row is None:
        return None
    values = dict(zip(string.ascii_lowercase, numbers, strict=False))
    values |= {letter.upper(): number + 1 for letter, number in values.items()}
    if isinstance(row, str):
        return _Target(row.format(**values) + leaf)
    return _Target(row[0].format(**values) + leaf, row[1], _PARTS[row[0].rpartition(".")[2]])


def _is_number(word: str) -> bool:
    # Other digits, as ², are no numbers, and no model has a million blocks.
    return word.isascii() and word.isdigit() and len(word) < 6


def _prefixes(names: Collection[str]) -> list[str]:
    found = [""]
    for prefix in found:  # Grows while it is read: wrappers stand inside wrappers.
        longer = (prefix + wrapper for wrapper in _WRAPPERS if prefix.count(".") < 3)
        found += [new for new in longer if any(name.startswith(new) for name in names)]
    return found
