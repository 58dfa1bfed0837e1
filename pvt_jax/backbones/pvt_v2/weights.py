"""Weights of PVT v2 and MiT: names of whai362/PVT and others, how their files are recognised, and published files."""

from pvt_jax.backbones.pvt_names import BESIDE, BLOCK, PYRAMID, hugging_face, of_the_authors, open_mmlab
from pvt_jax.backbones.pvt_v2.model import PyramidVisionTransformerV2
from pvt_jax.weight_names import (
    BackboneWeights,
    Dialect,
    Part,
    PositionTable,
    PublishedWeights,
    Shapes,
    Sizes,
    Step,
    inside,
    stages,
    table,
)

_DEPTHWISE = {"mlp.dwconv.dwconv": "mlp.dwconv.dwconv"}
_HUGGING_FACE = {
    "encoder.layers.#.patch_embedding.proj": "patch_embed{A}.proj",
    "encoder.layers.#.patch_embedding.layer_norm": "patch_embed{A}.norm",
    "encoder.layers.#.layer_norm": "norm{A}",
    **hugging_face("encoder.layers.#.blocks.#", "query", "spatial_reduction", "proj", _DEPTHWISE),
}
# Published files have the names of transformers 4; transformers 5 renames the modules when it loads them.
_SEGFORMER = {
    "encoder.patch_embeddings.#.proj": "patch_embed{A}.proj",
    "encoder.patch_embeddings.#.layer_norm": "patch_embed{A}.norm",
    "encoder.layer_norm.#": "norm{A}",
    **hugging_face("encoder.block.#.#", "self.query", "self.sr", "output.dense", _DEPTHWISE),
}
_SEGFORMER_5 = {
    "stages.#.patch_embeddings.proj": "patch_embed{A}.proj",
    "stages.#.patch_embeddings.layer_norm": "patch_embed{A}.norm",
    "stages.#.layer_norm": "norm{A}",
    **inside(
        "stages.#.blocks.#",
        "block{A}.{b}",
        {
            "layernorm_before": "norm1",
            "attention.q_proj": "attn.q",
            "attention.k_proj": Part("attn.kv", 0, 2),
            "attention.v_proj": Part("attn.kv", 1, 2),
            "attention.sequence_reduction.sequence_reduction": "attn.sr",
            "attention.sequence_reduction.layer_norm": "attn.norm",
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            **_DEPTHWISE,
        },
    ),
    "classifier": "head",
}
_TIMM = {
    "patch_embed.proj": "patch_embed1.proj",
    "patch_embed.norm": "patch_embed1.norm",
    "stages.#.downsample.proj": "patch_embed{A}.proj",
    "stages.#.downsample.norm": "patch_embed{A}.norm",
    "stages.#.norm": "norm{A}",
    **inside(
        "stages.#.blocks.#",
        "block{A}.{b}",
        {
            "mlp.dwconv": "mlp.dwconv.dwconv",
            **{name: name for name in ("norm1", "attn.q", "attn.kv", "attn.sr", "attn.norm", "attn.proj")},
            **{name: name for name in ("norm2", "mlp.fc1", "mlp.fc2")},
        },
    ),
    "head": "head",
}
_OPEN_MMLAB = {**open_mmlab(0, {"0": "mlp.fc1", "1": "mlp.dwconv.dwconv", "4": "mlp.fc2"}), "layers.#.#": "norm{A}"}

SEGFORMER_LICENCE = "NVIDIA Source Code License for SegFormer: NON-COMMERCIAL, for research or evaluation only"


def _of_timm(model: str, revision: str, sha256: str | None = None) -> tuple[str, PublishedWeights]:
    page = f"https://huggingface.co/timm/{model}.in1k"
    url = f"{page}/resolve/{revision}/model.safetensors"
    return f"timm/{model}.in1k", PublishedWeights(model, url, "Apache-2.0", page, sha256=sha256)


def _of_nvidia(size: str, revision: str, sha256: str | None = None) -> tuple[str, PublishedWeights]:
    page = f"https://huggingface.co/nvidia/mit-{size}"
    url = f"{page}/resolve/{revision}/pytorch_model.bin"
    row = PublishedWeights(f"mit_{size}", url, SEGFORMER_LICENCE, page, sha256=sha256, non_commercial=True)
    return row.model, row


def _sizes_of_model(model: PyramidVisionTransformerV2) -> Sizes:
    return Sizes(tuple(model.depths), tuple(model.dims), (*model.mlp_ratios, int(model.linear_attention)))


def _sizes_of_tensors(shapes: Shapes) -> Sizes | None:
    depths, dims = stages(BLOCK, shapes)
    if not all(depths) or "block1.0.mlp.dwconv.dwconv.weight" not in shapes:
        return None
    hidden = [(shapes.get(f"block{stage}.0.mlp.fc1.weight") or (0,))[0] for stage in range(1, 5)]
    ratios = [wide // dim for wide, dim in zip(hidden, dims, strict=True)]
    # Only linear attention reduces the last stage.
    return Sizes(depths, dims, (*ratios, int("block4.0.attn.sr.weight" in shapes)))


def _steps(side: int) -> tuple[Step, ...]:
    """Patches overlap or not; the least kernel that overlaps is that of stride 2 and of stride 1."""
    return Step(side), Step((side + 1) // 2, round_up=True), Step(1)


WEIGHTS = BackboneWeights(
    # Every variant has it; v1 has no norm after a stage.
    mark="params/stage1/norm/scale",
    rows=(
        *table((r"stage(\d)/block(\d+)/mlp/dwconv", r"block\1.\2.mlp.dwconv.dwconv"), (r"stage(\d)/norm", r"norm\1")),
        *PYRAMID,
    ),
    dialects=(
        Dialect("timm", _TIMM),
        Dialect("transformers", _HUGGING_FACE, "pvt_v2."),
        Dialect("transformers SegFormer", _SEGFORMER, "segformer.", ("decode_head.",)),
        Dialect("transformers 5 SegFormer", _SEGFORMER_5, "segformer.", ("decode_head.",)),
        Dialect("mmsegmentation MiT and mmdetection PVT v2", _OPEN_MMLAB),
    ),
    beside=BESIDE,
    sizes_of_model=_sizes_of_model,
    sizes_of_tensors=_sizes_of_tensors,
    # They have no name by the reference, which has no such tables.
    tables=tuple(
        PositionTable(f"stage{stage}/position_table", f"stage{stage}/patch_embed/kernel", "bilinear", steps=_steps)
        for stage in (1, 2, 3, 4)
    ),
    published=dict(
        (
            *map(of_the_authors, ("pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2_li", "pvt_v2_b3", "pvt_v2_b4", "pvt_v2_b5")),
            of_the_authors("pvt_v2_b2", "80711cd1b37ffba12bec6c7a2a7c54efe2315ed635e6d2055fd51c3e909ede4d"),
            _of_timm(
                "pvt_v2_b0",
                "49dc8313e71a48d663725f72de23fcffffd09485",
                "d0927f8c963fa7ae1ca6cd459449a076a954c561245ca6025103fceffd2df34c",
            ),
            _of_timm(
                "pvt_v2_b1",
                "13157087b0d5eb03c71042dc512737e9d42bc741",
                "0cb38d3df58e50bb591e99ded2a1a2a02bc807415e9bed4d4076428239112caa",
            ),
            _of_timm(
                "pvt_v2_b2",
                "250d713d8bfcb761737d55c1abac06294f95f41d",
                "0bff520d64b91bdbb35f2b5bff2b62d35a9d9c6d6a5056e683f1e7ce556d0e5e",
            ),
            _of_timm("pvt_v2_b2_li", "c7eccd600341a422ce089acd2ad5870b67e6ec7d"),
            _of_timm("pvt_v2_b3", "main"),
            _of_timm("pvt_v2_b4", "main"),
            _of_timm(
                "pvt_v2_b5",
                "b18cbdbb9509cc98b2529f64662eb23c218f9978",
                "070ea6f6e2b9c06fa8dc9ba943c04d5fb74df01f2cb328d95ae65c94c304176b",
            ),
            _of_nvidia(
                "b0",
                "80983a413c30d36a39c20203974ae7807835e2b4",
                "4af8348c2a802bf76115d34797ff5ce1d9f110bb8593c22d9b66d8bd7fa227fc",
            ),
            _of_nvidia(
                "b1",
                "13ddceec4e8bdf401e7cd7acf5aebc526222518c",
                "980b86b60db37b1b1528086f6c53d253d879e9e09ebe07397b40fd275738a3bf",
            ),
            _of_nvidia(
                "b2",
                "3bb39e8739149c3777d0325349b2a6c32c6413db",
                "4500b5665471b593e6757e15bcca5034f433fe3902fe8ec2b7230774a57f264f",
            ),
            _of_nvidia("b3", "0e0522cf0515903a0d35abc5adc9df78a25fde7c"),
            _of_nvidia(
                "b4",
                "3844ddaa13d9ce98816bacb904688a5284f164af",
                "1cddf0f9ed0b7f1639a8f5e339c177673685df3e2e3c9575a649eb15bcf68a55",
            ),
            _of_nvidia(
                "b5",
                "40357155205b036cf11b61f132d53d2f8861f170",
                "a389c0a604458fa205446fd08a2c01b74e6591a5da3e77de668c6ca5cbf75356",
            ),
        )
    ),
)
