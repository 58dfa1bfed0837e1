"""Dialects: how others than the reference name the same tensors, and which dialect a file speaks.

A row leads from a module's name to the reference's. ``#`` stands for a number (the last may be written out); the
reference's name may use the numbers, in order, as they are ({a}, {b}, {c}) or plus one ({A}, {B}, {C}): Hugging Face
and timm count stages from 0, the reference from 1. A pair (name, part) is one of several parts whose rows the reference
keeps in one tensor, in the order of ``_PARTS``. A ``Split`` is the other way round: one tensor whose rows are those of
several of the reference.
"""

import re
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_PARTS = {"kv": 2, "qkv": 3}


class Rows(NamedTuple):
    """Which of ``of`` equal parts of a tensor's rows."""

    start: int
    stop: int
    of: int


class Split(NamedTuple):
    """Names of the reference with their rows."""

    parts: tuple[tuple[str, Rows], ...]


Place = str | tuple[str, int] | Split
Table = Mapping[str, Place]


@dataclass(frozen=True)
class Dialect:
    """``model_prefix`` is optional in a file; ``others`` begin the names of modules that are not the backbone's."""

    name: str
    rows: Table = field(default_factory=dict)
    model_prefix: str = ""
    others: tuple[str, ...] = ()


def _blocks(theirs: str, ours: str, rows: Table) -> dict[str, Place]:
    """Rows below one block, with the names of the block put before both sides."""

    def inside(place: Place) -> Place:
        if isinstance(place, str):
            return f"{ours}.{place}"
        if isinstance(place, Split):
            return Split(tuple((f"{ours}.{name}", rows) for name, rows in place.parts))
        return f"{ours}.{place[0]}", place[1]

    return {f"{theirs}.{key}": inside(place) for key, place in rows.items()}


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

# Its own writing of MiT: a stage is [embedding, blocks, norm], and MLPs are convolutions of side 1.
_MMSEG_MIT = {
    "layers.#.#.projection": "patch_embed{A}.proj",
    "layers.#.#.norm": "patch_embed{A}.norm",
    "layers.#.#": "norm{A}",
    **_blocks(
        "layers.#.#.#",
        "block{A}.{c}",
        {
            "norm1": "norm1",
            **{
                f"attn.attn.in_proj_{leaf}": Split(
                    ((f"attn.q.{leaf}", Rows(0, 1, 3)), (f"attn.kv.{leaf}", Rows(1, 3, 3)))
                )
                for leaf in ("weight", "bias")
            },
            "attn.attn.out_proj": "attn.proj",
            "attn.sr": "attn.sr",
            "attn.norm": "attn.norm",
            "norm2": "norm2",
            # The other places hold what has no parameters.
            "ffn.layers.0": "mlp.fc1",
            "ffn.layers.1": "mlp.dwconv.dwconv",
            "ffn.layers.4": "mlp.fc2",
        },
    ),
}

# The same head as Hugging Face's files name it, and as transformers 5 does in memory.
_HF_SEGFORMER_HEAD = {
    **{f"decode_head.{name}.#.proj": "decode_head.linear_c{A}.proj" for name in ("linear_c", "linear_projections")},
    "decode_head.linear_fuse": "decode_head.linear_fuse.conv",
    "decode_head.batch_norm": "decode_head.linear_fuse.bn",
    "decode_head.classifier": "decode_head.linear_pred",
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
        Dialect("mmsegmentation MiT", _MMSEG_MIT),
    ),
    # timm's names are the reference names of this family, and torchvision's (which timm shares) those of the next.
    "vit": (
        _REFERENCE,
        *(Dialect("transformers", _HF_VIT, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
        *(Dialect("transformers 5", _HF_VIT_5, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
    ),
    "resnet": (_REFERENCE, Dialect("transformers", _HF_RESNET, "resnet.")),
}

# The names of necks and of heads (``names.HEADS``), for which mmsegmentation's are the reference.
HEAD_DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "neck": (_REFERENCE,),
    "semantic_fpn": (_REFERENCE,),
    "segformer": (_REFERENCE, Dialect("transformers", _HF_SEGFORMER_HEAD)),
}

# Put before names by nn.DataParallel, detectors and segmenters, trainers, and the mm* self-supervised methods.
_WRAPPERS = ("module.", "backbone.", "model.", "encoder.")


@dataclass(frozen=True)
class Reading:
    """A file's tensors under one dialect, once a ``prefix`` is taken away.

    Attributes:
      sources: reference name → the file's tensors whose rows make it up, in order; those of incomplete ones too.
      rows: reference name → which rows of its one tensor it is, if not all.
      complete: reference names all of whose parts are there.
      ignored: the file's tensors that belong to other modules, as the neck and head of a detector.
    """

    dialect: str
    prefix: str
    sources: dict[str, tuple[str, ...]]
    complete: frozenset[str]
    ignored: tuple[str, ...]
    rows: Mapping[str, Rows] = field(default_factory=dict)

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
    """Every way to read the names as those of a ``family``, or of a head, the plainest first."""
    spoken = HEAD_DIALECTS[family] if family in HEAD_DIALECTS else DIALECTS[family]
    for prefix in _prefixes(names):
        inside = [name for name in names if name.startswith(prefix)]
        outside = tuple(name for name in names if not name.startswith(prefix))
        for dialect in spoken:
            yield _read(dialect, prefix, inside, outside)


# Modules of detectors and segmenters beside the backbone, but for auxiliary heads, which are for training alone.
_DENSE = re.compile(r"(?:(?:module|model)\.)*(neck|(?!auxiliary_)\w+_head)\.")


def dense_part(name: str) -> str | None:
    """Of a file's tensor that belongs to the neck or a head of a detector or segmenter, the name of that module."""
    found = _DENSE.match(name)
    return found[1] if found else None


# Heads that are known by a tensor of theirs and that no model here has.
_FOREIGN_HEADS = {
    "decode_head.fusion_conv.": "mmsegmentation's own head of SegFormer, with a norm for every level",
    "bbox_head.": "a detector's",
    "rpn_head.": "a detector's",
}


def foreign_head(names: Iterable[str]) -> str | None:
    """In words, whose head a file has that no model here has; None if it has no such head."""
    names = tuple(names)
    for start, words in _FOREIGN_HEADS.items():
        if any((module := _DENSE.match(name)) and name[module.start(1) :].startswith(start) for name in names):
            return words
    return None


class _Target(NamedTuple):
    name: str
    part: int = 0
    parts: int = 1
    rows: Rows | None = None


def _read(dialect: Dialect, prefix: str, inside: Iterable[str], outside: tuple[str, ...]) -> Reading:
    parts: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    rows: dict[str, Rows] = {}
    ignored = list(outside)
    for name in inside:
        bare = name.removeprefix(prefix).removeprefix(dialect.model_prefix)
        if dialect.others and bare.startswith(dialect.others):
            ignored.append(name)
            continue
        for target in _targets(bare, dialect):
            parts.setdefault(target.name, {})[target.part] = name
            counts[target.name] = target.parts
            if target.rows:
                rows[target.name] = target.rows
    return Reading(
        dialect.name,
        prefix,
        {name: tuple(found[part] for part in sorted(found)) for name, found in parts.items()},
        frozenset(name for name, found in parts.items() if len(found) == counts[name]),
        tuple(ignored),
        rows,
    )


def _targets(name: str, dialect: Dialect) -> tuple[_Target, ...]:
    if not dialect.rows:
        return (_Target(name),)
    words = name.split(".")
    numbers = [int(word) for word in words if _is_number(word)]
    general = ["#" if _is_number(word) else word for word in words]
    leaf, row = "", dialect.rows.get(".".join(general))
    if row is None and len(words) > 1:
        leaf, module = f".{words[-1]}", general[:-1]
        row = dialect.rows.get(".".join(module)) or dialect.rows.get(".".join([*module[:-1], words[-2]]))
    if row is None:
        return ()
    values: dict[str, Any] = dict(zip(string.ascii_lowercase, numbers, strict=False))
    values |= {letter.upper(): number + 1 for letter, number in values.items()}
    if isinstance(row, Split):
        return tuple(_Target(name.format(**values) + leaf, rows=rows) for name, rows in row.parts)
    if isinstance(row, str):
        return (_Target(row.format(**values) + leaf),)
    return (_Target(row[0].format(**values) + leaf, row[1], _PARTS[row[0].rpartition(".")[2]]),)


def _is_number(word: str) -> bool:
    # Other digits, as ², are no numbers, and no model has a million blocks.
    return word.isascii() and word.isdigit() and len(word) < 6


def _prefixes(names: Collection[str]) -> list[str]:
    found = [""]
    for prefix in found:  # Grows while it is read: wrappers stand inside wrappers.
        longer = (prefix + wrapper for wrapper in _WRAPPERS if prefix.count(".") < 3)
        found += [new for new in longer if any(name.startswith(new) for name in names)]
    return found
