"""Multiply-accumulates of PVT v2 and MiT, from the paper's formulas (arXiv 2106.13797, section 3)."""

from pvt_jax.backbones.formulas import Cost, attention, attention_weights, classifier, convolved, feed_forward
from pvt_jax.backbones.pvt_v2.model import PyramidVisionTransformerV2

# From the paper, not from the model's module: what is wrong in either makes the two counts differ.
_PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # section 3.2: side and stride of each patch embedding
_POOLED_SIDE = 7  # section 3.1


def cost(model: PyramidVisionTransformerV2, rows: int, columns: int) -> dict[str, Cost]:
    """Cost by part: ``stage1`` … ``stage4``, ``head``."""
    costs, in_dim = {}, 3
    for i, (dim, (side, stride), ratio) in enumerate(zip(model.dims, _PATCHES, model.sr_ratios, strict=True)):
        rows, columns = convolved(rows, side, stride), convolved(columns, side, stride)
        tokens, hidden = rows * columns, model.mlp_ratios[i] * dim
        if model.linear_attention:
            # The map is pooled to a fixed side, then goes through a 1×1 convolution.
            keys, reduction = _POOLED_SIDE**2, _POOLED_SIDE**2 * dim * dim
        elif ratio > 1:
            keys = (rows // ratio) * (columns // ratio)
            reduction = keys * (ratio * dim) * (ratio * dim)
        else:
            keys, reduction = tokens, 0
        block = attention_weights(tokens, keys, dim) + reduction
        block += feed_forward(tokens, dim, hidden) + 3 * 3 * tokens * hidden  # with a depthwise convolution
        costs[f"stage{i + 1}"] = Cost(
            (rows, columns, dim),
            tokens * (side**2 * in_dim) * dim + model.depths[i] * block,
            model.depths[i] * attention(tokens, keys, dim),
        )
        in_dim = dim
    return {**costs, "head": classifier(model, in_dim)}
