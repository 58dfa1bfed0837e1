"""Multiply-accumulates of PVT v2 and MiT, from the paper's formulas (arXiv 2106.13797, section 3)."""

from pvt_jax.backbones.formulas import Cost, attention, attention_weights, classifier, convolved, feed_forward
from pvt_jax.backbones.pvt_v2.model import PyramidVisionTransformerV2

# From the paper, not from the model's module: what is wrong in either makes the two counts differ.
_KERNELS = {4: 7, 2: 3, 1: 3}  # section 3.3: stride and side of a patch embedding; for other strides 2 stride - 1
_POOLED_SIDE = 7  # section 3.2


def cost(model: PyramidVisionTransformerV2, rows: int, columns: int) -> dict[str, Cost]:
    """Cost by part: ``stage1`` … ``stage4``, ``head``."""
    costs, in_dim = {}, 3
    for i, (dim, stride, ratio) in enumerate(zip(model.dims, model.patch_sizes, model.sr_ratios, strict=True)):
        if model.overlapping:
            side = _KERNELS.get(stride, 2 * stride - 1)
            rows, columns = convolved(rows, side, stride), convolved(columns, side, stride)
        else:
            side, rows, columns = stride, rows // stride, columns // stride
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
        block += feed_forward(tokens, dim, hidden)
        block += 3 * 3 * tokens * hidden if model.depthwise else 0
        costs[f"stage{i + 1}"] = Cost(
            (rows, columns, dim),
            tokens * (side**2 * in_dim) * dim + model.depths[i] * block,
            model.depths[i] * attention(tokens, keys, dim),
        )
        in_dim = dim
    return {**costs, "head": classifier(model, in_dim)}
