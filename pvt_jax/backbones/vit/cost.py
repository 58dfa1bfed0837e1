"""Multiply-accumulates of ViT (arXiv 2010.11929, section 3.1)."""

from pvt_jax.backbones.formulas import Cost, attention, attention_weights, classifier, feed_forward
from pvt_jax.backbones.vit.model import VisionTransformer


def cost(model: VisionTransformer, rows: int, columns: int) -> dict[str, Cost]:
    """Cost by part: ``patch_embed``, ``blocks``, ``head``."""
    dim, patch = model.dim, model.patch_size
    rows, columns = rows // patch, columns // patch
    tokens = rows * columns + (model.pool in ("", "token"))  # the class token
    block = attention_weights(tokens, tokens, dim) + feed_forward(tokens, dim, model.mlp_ratio * dim)
    shape = (rows, columns, dim)
    return {
        "patch_embed": Cost(shape, rows * columns * (patch**2 * 3) * dim, 0),
        "blocks": Cost(shape, model.depth * block, model.depth * attention(tokens, tokens, dim)),
        "head": classifier(model, dim),
    }
