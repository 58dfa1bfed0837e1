"""Weights of ViT: names of timm and others, how its files are recognised, and DeiT's published files."""

from collections.abc import Mapping, Sequence

from pvt_jax.weight_names import (
    PLAIN,
    BackboneWeights,
    Dialect,
    Part,
    Place,
    PositionTable,
    PublishedWeights,
    Rows,
    Shapes,
    Sizes,
    count,
    inside,
    table,
)


def _hugging_face(blocks: str, projections: Sequence[str], others: Mapping[str, Place]) -> dict[str, Place]:
    # DeiT's names are ViT's under another prefix. dist_token and head_dist are timm's names for what only distilled
    # models have.
    return {
        "embeddings.cls_token": "cls_token",
        "embeddings.distillation_token": "dist_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
        "classifier": "head",
        "cls_classifier": "head",
        "distillation_classifier": "head_dist",
        **inside(
            blocks,
            "blocks.{a}",
            {
                "layernorm_before": "norm1",
                **{f"attention.{name}": Part("attn.qkv", number, 3) for number, name in enumerate(projections)},
                "layernorm_after": "norm2",
                **others,
            },
        ),
    }


_HUGGING_FACE = _hugging_face(
    "encoder.layer.#",
    ("attention.query", "attention.key", "attention.value"),
    {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"},
)
# Published files have the names of transformers 4; transformers 5 renames the modules when it loads them.
_HUGGING_FACE_5 = _hugging_face(
    "layers.#",
    ("q_proj", "k_proj", "v_proj"),
    {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
)


# mmpretrain's, and with attn.attn mmsegmentation's.
_OPEN_MMLAB: dict[str, Place] = {
    **{name: name for name in ("cls_token", "pos_embed", "dist_token")},
    "patch_embed.projection": "patch_embed.proj",
    "ln1": "norm",
    **inside(
        "layers.#",
        "blocks.{a}",
        {
            "ln1": "norm1",
            "attn.qkv": "attn.qkv",
            "attn.attn.in_proj_weight": "attn.qkv.weight",
            "attn.attn.in_proj_bias": "attn.qkv.bias",
            "attn.proj": "attn.proj",
            "attn.attn.out_proj": "attn.proj",
            "ln2": "norm2",
            "ffn.layers.#.#": "mlp.fc1",
            "ffn.layers.#": "mlp.fc2",
        },
    ),
}


def _deit(size: str, sha256: str) -> PublishedWeights:
    return PublishedWeights(
        f"vit_{size}_patch16",
        f"https://dl.fbaipublicfiles.com/deit/deit_{size}_patch16_224-{sha256[:8]}.pth",
        "Apache-2.0",
        "https://github.com/facebookresearch/deit/blob/main/README_deit.md",
        sha256=sha256,
    )


def _sizes_of_tensors(shapes: Shapes) -> Sizes | None:
    patch, depth = shapes.get("patch_embed.proj.weight", ()), count("blocks.{}.norm1.weight", shapes)
    if len(patch) != 4 or not depth or "cls_token" not in shapes:
        return None
    return Sizes((depth,), (patch[0],), (patch[2],))


WEIGHTS = BackboneWeights(
    mark="params/block0/attn/q/kernel",
    rows=table(
        (r"cls_token", r"cls_token"),
        (r"pos_embed", r"pos_embed"),
        (r"patch_embed", r"patch_embed.proj"),
        (r"block(\d+)/attn/q", r"blocks.\1.attn.qkv", PLAIN, Rows(0, 1, 3)),
        (r"block(\d+)/attn/kv", r"blocks.\1.attn.qkv", PLAIN, Rows(1, 3, 3)),
        (r"block(\d+)/attn/proj", r"blocks.\1.attn.proj"),
        (r"block(\d+)/(norm\d)", r"blocks.\1.\2"),
        (r"block(\d+)/mlp/(fc\d)", r"blocks.\1.mlp.\2"),
        (r"norm", r"norm"),
        (r"head/linear", r"head"),
    ),
    dialects=(
        *(
            Dialect(name, places, prefix, ("pooler.",))
            for name, places in (("transformers", _HUGGING_FACE), ("transformers 5", _HUGGING_FACE_5))
            for prefix in ("vit.", "deit.")
        ),
        Dialect("mmpretrain and mmsegmentation ViT", _OPEN_MMLAB),
    ),
    # mmpretrain's classifiers.
    beside={"head.fc": "head", "head.layers.head": "head", "head.layers.head_dist": "head_dist"},
    sizes_of_model=lambda model: Sizes((model.depth,), (model.dim,), (model.patch_size,)),
    sizes_of_tensors=_sizes_of_tensors,
    tables=(PositionTable("pos_embed", "patch_embed/kernel", "bicubic", tokens=1),),
    distillation=("dist_token", "distillation_token"),
    published={
        "deit_tiny": _deit("tiny", "a1311bcf4f24e3c95adaa75535db67bc4412d95535b98f7c1dfd1164dda41c97"),
        "deit_small": _deit("small", "cd65a155"),
        "deit_base": _deit("base", "b5f2ef4d"),
    },
)
