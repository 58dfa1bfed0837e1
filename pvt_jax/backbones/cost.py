"""Multiply-accumulates of every model in closed form, from the papers' formulas; ``trace.py`` counts them again.

Counted are the multiplications of matrix products and convolutions, zero padding included, and nothing else: no bias,
norm, activation, softmax or pooling, and no resampling by fixed matrices. This is the convention of the PVT papers'
tables, with the attention's own products added, which those leave out. Twice the number is about the FLOPs.
"""

from typing import NamedTuple

from flax import linen as nn

from pvt_jax.backbones.pvt.model import PyramidVisionTransformer
from pvt_jax.backbones.pvt_v2.model import PyramidVisionTransformerV2
from pvt_jax.backbones.resnet.model import ResNet
from pvt_jax.backbones.vit.model import VisionTransformer

# From the papers, not from the models' modules: what is wrong in either makes the two counts differ.
_PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # PVT v2, section 3.2: side and stride of each patch embedding
_POOLED_SIDE = 7  # PVT v2, section 3.1
_EXPANSIONS = {"basic": 1, "bottleneck": 4}  # ResNet, figure 5


class Cost(NamedTuple):
    """Of one part of a model and one image.

    output: (rows, columns, channels) of the map that it gives on, or (classes,).
    weights: products with parameters: linear maps and convolutions.
    attention: products of what was computed from the image with itself: queries · keys, and weights · values.
    """

    output: tuple[int, ...]
    weights: int
    attention: int

    @property
    def total(self) -> int:
        return self.weights + self.attention


def multiply_accumulates(model: nn.Module, height: int, width: int) -> dict[str, Cost]:
    """Cost of the classifier by part, in the order of computation, for one image of a size that ``model`` takes.

    The parts are ``stage1`` … ``stage4`` and ``head``; ResNet has a ``stem`` first, and ViT ``patch_embed`` and
    ``blocks`` in place of stages.

    Raises:
      TypeError: there is no formula for this model.
    """
    match model:
        case PyramidVisionTransformer():
            return _pvt(model, height, width)
        case PyramidVisionTransformerV2():
            return _pvt_v2(model, height, width)
        case VisionTransformer():
            return _vit(model, height, width)
        case ResNet():
            return _resnet(model, height, width)
        case _:
            raise TypeError(f"no formula for the multiply-accumulates of {type(model).__name__}")


def _pvt(model: PyramidVisionTransformer, rows: int, columns: int) -> dict[str, Cost]:
    costs, in_dim = {}, 3
    for i, (dim, patch, ratio) in enumerate(zip(model.dims, model.patch_sizes, model.sr_ratios, strict=True)):
        rows, columns = rows // patch, columns // patch
        tokens = rows * columns + (i == 3)  # the class token
        keys = (rows // ratio) * (columns // ratio) if ratio > 1 else tokens
        block = _attention_weights(tokens, keys, dim)
        block += keys * (ratio * dim) * (ratio * dim) if ratio > 1 else 0  # reduction
        block += _feed_forward(tokens, dim, model.mlp_ratios[i] * dim)
        costs[f"stage{i + 1}"] = Cost(
            (rows, columns, dim),
            rows * columns * (patch**2 * in_dim) * dim + model.depths[i] * block,
            model.depths[i] * _attention(tokens, keys, dim),
        )
        in_dim = dim
    return {**costs, "head": _head(model, in_dim)}


def _pvt_v2(model: PyramidVisionTransformerV2, rows: int, columns: int) -> dict[str, Cost]:
    costs, in_dim = {}, 3
    for i, (dim, (side, stride), ratio) in enumerate(zip(model.dims, _PATCHES, model.sr_ratios, strict=True)):
        rows, columns = _convolved(rows, side, stride), _convolved(columns, side, stride)
        tokens, hidden = rows * columns, model.mlp_ratios[i] * dim
        if model.linear_attention:
            # The map is pooled to a fixed side, then goes through a 1×1 convolution.
            keys, reduction = _POOLED_SIDE**2, _POOLED_SIDE**2 * dim * dim
        elif ratio > 1:
            keys = (rows // ratio) * (columns // ratio)
            reduction = keys * (ratio * dim) * (ratio * dim)
        else:
            keys, reduction = tokens, 0
        block = _attention_weights(tokens, keys, dim) + reduction
        block += _feed_forward(tokens, dim, hidden) + 3 * 3 * tokens * hidden  # with a depthwise convolution
        costs[f"stage{i + 1}"] = Cost(
            (rows, columns, dim),
            tokens * (side**2 * in_dim) * dim + model.depths[i] * block,
            model.depths[i] * _attention(tokens, keys, dim),
        )
        in_dim = dim
    return {**costs, "head": _head(model, in_dim)}


def _vit(model: VisionTransformer, rows: int, columns: int) -> dict[str, Cost]:
    dim, patch = model.dim, model.patch_size
    rows, columns = rows // patch, columns // patch
    tokens = rows * columns + 1
    block = _attention_weights(tokens, tokens, dim) + _feed_forward(tokens, dim, model.mlp_ratio * dim)
    shape = (rows, columns, dim)
    return {
        "patch_embed": Cost(shape, rows * columns * (patch**2 * 3) * dim, 0),
        "blocks": Cost(shape, model.depth * block, model.depth * _attention(tokens, tokens, dim)),
        "head": _head(model, dim),
    }


def _resnet(model: ResNet, rows: int, columns: int) -> dict[str, Cost]:
    expansion = _EXPANSIONS[model.block]
    rows, columns, in_dim = _convolved(rows, 7, 2), _convolved(columns, 7, 2), model.dims[0]
    stem = rows * columns * (7 * 7 * 3) * in_dim
    rows, columns = _convolved(rows, 3, 2), _convolved(columns, 3, 2)  # the maximum over 3×3
    costs = {"stem": Cost((rows, columns, in_dim), stem, 0)}
    for i, dim in enumerate(model.dims):
        out_dim, weights = dim * expansion, 0
        for j in range(model.depths[i]):
            before, stride = rows * columns, 2 if i > 0 and j == 0 else 1
            rows, columns = _convolved(rows, 3, stride), _convolved(columns, 3, stride)
            after = rows * columns
            if expansion == 1:
                weights += after * 9 * in_dim * dim + after * 9 * dim * out_dim
            else:
                weights += before * in_dim * dim + after * 9 * dim * dim + after * dim * out_dim
            if stride != 1 or in_dim != out_dim:
                weights += after * in_dim * out_dim  # shortcut
            in_dim = out_dim
        costs[f"stage{i + 1}"] = Cost((rows, columns, in_dim), weights, 0)
    return {**costs, "head": _head(model, in_dim)}


def _convolved(size: int, side: int, stride: int) -> int:
    """Positions of a convolution or pooling that pads by half its ``side``."""
    return (size + 2 * (side // 2) - side) // stride + 1


def _attention_weights(tokens: int, keys: int, dim: int) -> int:
    """Queries, keys and values, and the output's linear map."""
    return tokens * dim * dim + keys * dim * (2 * dim) + tokens * dim * dim


def _attention(tokens: int, keys: int, dim: int) -> int:
    """Queries · keys and weights · values; the number of heads does not matter."""
    return 2 * tokens * keys * dim


def _feed_forward(tokens: int, dim: int, hidden: int) -> int:
    return 2 * tokens * dim * hidden


def _head(model: PyramidVisionTransformer | PyramidVisionTransformerV2 | VisionTransformer | ResNet, dim: int) -> Cost:
    cells = sum(level**2 for level in model.spp_levels) if model.spp_levels else 1
    return Cost((model.num_classes,), cells * dim * model.num_classes, 0)
