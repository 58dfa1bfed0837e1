"""Dialects: how others than the reference name the same tensors. ``readings`` tells which of them a file speaks.

A row leads from a module's name to the reference's. ``#`` stands for a number (the last may be written out); the
reference's name may use the numbers, in order, as they are ({a}, {b}, {c}), plus one ({A}, {B}, {C}) or less one
({a-1}, {b-1}, {c-1}): Hugging Face and timm count stages from 0, the reference from 1. A pair (name, part) is one of
several parts whose rows the reference keeps in one tensor, in the order of ``PARTS``. A ``Split`` is the other way
round: one tensor whose rows are those of several of the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

PARTS = {"kv": 2, "qkv": 3}


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


def _open_mmlab(block: int, hidden: Mapping[str, str]) -> dict[str, Place]:
    """A stage is [embedding, blocks, norm], and MLPs are convolutions of side 1; ``block`` is where blocks begin."""
    return {
        "layers.#.#.projection": "patch_embed{A}.proj",
        "layers.#.#.norm": "patch_embed{A}.norm",
        **_blocks(
            "layers.#.#.#",
            "block{A}.{c}" if block == 0 else f"block{{A}}.{{c-{block}}}",
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
                **{f"ffn.layers.{place}": name for place, name in hidden.items()},
            },
        ),
    }


# mmsegmentation's own writing of MiT, and mmdetection's of both generations of PVT. Of the first the position table is
# the first of the blocks.
_MMDET_PVT = {
    **_open_mmlab(1, {"0": "mlp.fc1", "3": "mlp.fc2"}),
    "layers.#.#.#.pos_embed": "pos_embed{A}",
}
_MM_PVT_V2 = {
    **_open_mmlab(0, {"0": "mlp.fc1", "1": "mlp.dwconv.dwconv", "4": "mlp.fc2"}),
    "layers.#.#": "norm{A}",
}

# The same head as Hugging Face's files name it, and as transformers 5 does in memory.
_HF_SEGFORMER_HEAD = {
    **{f"decode_head.{name}.#.proj": "decode_head.linear_c{A}.proj" for name in ("linear_c", "linear_projections")},
    "decode_head.linear_fuse": "decode_head.linear_fuse.conv",
    "decode_head.batch_norm": "decode_head.linear_fuse.bn",
    "decode_head.classifier": "decode_head.linear_pred",
}

REFERENCE = Dialect("reference")
DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "pvt": (REFERENCE, Dialect("transformers", _HF_PVT, "pvt."), Dialect("mmdetection PVT", _MMDET_PVT)),
    "pvt_v2": (
        REFERENCE,
        Dialect("timm", _TIMM_PVT_V2),
        Dialect("transformers", _HF_PVT_V2, "pvt_v2."),
        Dialect("transformers SegFormer", _HF_SEGFORMER, "segformer.", ("decode_head.",)),
        Dialect("transformers 5 SegFormer", _HF_SEGFORMER_5, "segformer.", ("decode_head.",)),
        Dialect("mmsegmentation MiT and mmdetection PVT v2", _MM_PVT_V2),
    ),
    # timm's names are the reference names of this family, and torchvision's (which timm shares) those of the next.
    "vit": (
        REFERENCE,
        *(Dialect("transformers", _HF_VIT, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
        *(Dialect("transformers 5", _HF_VIT_5, prefix, ("pooler.",)) for prefix in ("vit.", "deit.")),
    ),
    "resnet": (REFERENCE, Dialect("transformers", _HF_RESNET, "resnet.")),
}

# The names of necks and of heads (``NECKS``, ``HEADS`` of ``dense_names.py``) by others than mmsegmentation and
# mmdetection, whose are the reference.
HEAD_DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "segformer": (REFERENCE, Dialect("transformers", _HF_SEGFORMER_HEAD)),
}
