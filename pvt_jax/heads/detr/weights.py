"""Weights of DETR: mmdetection's names."""

from pvt_jax.heads.base import CLASSIFIER
from pvt_jax.weight_names import PLAIN, POINTWISE, HeadWeights, Rows, table

_LAYER, _THEIRS = r"head/(encoder|decoder)/layer(\d+)", r"bbox_head.transformer.\1.layers.\2"

WEIGHTS = HeadWeights(
    mark="params/head/queries",
    classifier=CLASSIFIER,
    background=1,
    rows=table(
        ("head/input_proj", "bbox_head.input_proj", POINTWISE),
        ("head/queries", "bbox_head.query_embedding.weight"),
        *(
            row
            for number, attention in enumerate((f"{_LAYER}/(?:self_)?attn", f"{_LAYER}/cross_attn"))
            for theirs in (f"{_THEIRS}.attentions.{number}.attn",)
            for row in (
                (f"{attention}/proj", f"{theirs}.out_proj"),
                # PyTorch's attention keeps its first three matrices in one tensor, and their biases in another.
                *(
                    (f"{attention}/{ours}/{leaf}", f"{theirs}.in_proj_{name}", PLAIN, Rows(part, part + 1, 3))
                    for part, ours in enumerate("qkv")
                    for leaf, name in (("kernel", "weight"), ("bias", "bias"))
                ),
            )
        ),
        (f"{_LAYER}/mlp/fc1", f"{_THEIRS}.ffns.0.layers.0.0"),
        (f"{_LAYER}/mlp/fc2", f"{_THEIRS}.ffns.0.layers.1"),
        *((f"{_LAYER}/norm{number + 1}", f"{_THEIRS}.norms.{number}") for number in range(3)),
        ("head/decoder/norm", "bbox_head.transformer.decoder.post_norm"),
        ("head/classifier", "bbox_head.fc_cls"),
        ("head/box_mlp/fc0", "bbox_head.reg_ffn.layers.0.0"),
        ("head/box_mlp/fc1", "bbox_head.reg_ffn.layers.1"),
        ("head/box_mlp/fc2", "bbox_head.fc_reg"),
    ),
)
