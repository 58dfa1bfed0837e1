"""Multiply-accumulates of PVT v1, from the paper's formulas (arXiv 2102.12122, section 3)."""

from pvt_jax.backbones.formulas import Cost, attention, attention_weights, classifier, feed_forward
from pvt_jax.backbones.pvt.model import PyramidVisionTransformer


def cost(model: PyramidVisionTransformer, rows: int, columns: int) -> dict[str, Cost]:
    """Cost by part: ``stage1`` … ``stage4``, ``head``."""
    costs, in_dim = {}, 3
    for i, (dim, patch, ratio) in enumerate(zip(model.dims, model.patch_sizes, model.sr_ratios, strict=True)):
        rows, columns = rows // patch, columns // patch
        tokens = rows * columns + (i == 3 and model.pool in ("", "token"))  # the class token
        keys = (rows // ratio) * (columns // ratio) if ratio > 1 else tokens
        block = attention_weights(tokens, keys, dim)
        block += keys * (ratio * dim) * (ratio * dim) if ratio > 1 else 0  # reduction
        block += feed_forward(tokens, dim, model.mlp_ratios[i] * dim)
        costs[f"stage{i + 1}"] = Cost(
            (rows, columns, dim),
            rows * columns * (patch**2 * in_dim) * dim + model.depths[i] * block,
            model.depths[i] * attention(tokens, keys, dim),
        )
        in_dim = dim
    return {**costs, "head": classifier(model, in_dim)}
