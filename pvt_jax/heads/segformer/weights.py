"""Weights of SegFormer's head: mmsegmentation's and Hugging Face's names, and published files."""

from pvt_jax.backbones.pvt_v2.weights import SEGFORMER_LICENCE
from pvt_jax.heads.base import CLASSIFIER
from pvt_jax.weight_names import POINTWISE, Dialect, HeadWeights, PublishedWeights, table

# As files have them, and as transformers 5 does in memory.
_HUGGING_FACE = {
    **{f"decode_head.{name}.#.proj": "decode_head.linear_c{A}.proj" for name in ("linear_c", "linear_projections")},
    "decode_head.linear_fuse": "decode_head.linear_fuse.conv",
    "decode_head.batch_norm": "decode_head.linear_fuse.bn",
    "decode_head.classifier": "decode_head.linear_pred",
}
# It counts levels from the coarsest. It resizes logits with the corners of both grids aligned; the reference does not,
# nor does this.
_SEGMENTATION_MODELS = {
    **{f"decoder.mlp_stage.{place}.linear": f"decode_head.linear_c{4 - place}.proj" for place in range(4)},
    "decoder.fuse_stage.0": "decode_head.linear_fuse.conv",
    "decoder.fuse_stage.1": "decode_head.linear_fuse.bn",
    "segmentation_head.0": "decode_head.linear_pred",
}


def _of_nvidia(
    size: str,
    revision: str,
    file: str = "pytorch_model.bin",
    side: int = 512,
    length: int | None = None,
    sha256: str | None = None,
) -> tuple[str, PublishedWeights]:
    page = f"https://huggingface.co/nvidia/segformer-{size}-finetuned-ade-{side}-{side}"
    url = f"{page}/resolve/{revision}/{file}"
    row = PublishedWeights(f"mit_{size}", url, SEGFORMER_LICENCE, page, length, sha256, True, "segformer")
    return f"segformer_{size}_ade", row


WEIGHTS = HeadWeights(
    mark="params/head/linear_c2/kernel",
    classifier=CLASSIFIER,
    rows=table(
        *((f"head/linear_c{level + 1}", f"decode_head.linear_c{level}.proj") for level in range(1, 5)),
        ("head/fuse", "decode_head.linear_fuse.conv", POINTWISE),
        ("head/norm", "decode_head.linear_fuse.bn"),
        ("head/classifier", "decode_head.linear_pred", POINTWISE),
    ),
    dialects=(
        Dialect("transformers", _HUGGING_FACE),
        Dialect("segmentation_models_pytorch", _SEGMENTATION_MODELS),
    ),
    # Every decoder of mmsegmentation makes this classifier. The SegFormer of 2021 then made another.
    unused="decode_head.conv_seg",
    published=dict(
        (
            _of_nvidia(
                "b0",
                "489d5cd81a0b59fab9b7ea758d3548ebe99677da",
                "model.safetensors",
                length=15_036_944,
                sha256="6ae39addd01de6b1b8bde2cf677d43a5cd733424b8d186de3f95d1c51fee23f9",
            ),
            _of_nvidia("b1", "main"),
            _of_nvidia(
                "b2",
                "de01bae28967510f9ddd496c60a969357195400c",
                sha256="187ca07bea003a5717c63d04ea90b07f33cd033c0ebf44b4b89fce5070d6c8f3",
            ),
            _of_nvidia("b5", "739f5d4692954e4a185eac280dec1ba5a7d52f1d", side=640),
        )
    ),
)
