"""Multiply-accumulates of ResNet (arXiv 1512.03385, table 1)."""

from pvt_jax.backbones.formulas import Cost, classifier, convolved
from pvt_jax.backbones.resnet.model import ResNet

# From the paper's figure 5, not from the model's module: what is wrong in either makes the two counts differ.
_EXPANSIONS = {"basic": 1, "bottleneck": 4}


def cost(model: ResNet, rows: int, columns: int) -> dict[str, Cost]:
    """Cost by part: ``stem``, ``stage1`` … ``stage4``, ``head``."""
    expansion = _EXPANSIONS[model.block]
    in_dim = model.dims[0]
    if model.stem_stride == 1:
        stem = rows * columns * (3 * 3 * 3) * in_dim
    else:
        rows, columns = convolved(rows, 7, 2), convolved(columns, 7, 2)
        stem = rows * columns * (7 * 7 * 3) * in_dim
        rows, columns = convolved(rows, 3, 2), convolved(columns, 3, 2)  # the maximum over 3×3
    costs = {"stem": Cost((rows, columns, in_dim), stem, 0)}
    for i, dim in enumerate(model.dims):
        out_dim, weights = dim * expansion, 0
        for j in range(model.depths[i]):
            before, stride = rows * columns, 2 if i > 0 and j == 0 else 1
            rows, columns = convolved(rows, 3, stride), convolved(columns, 3, stride)
            after = rows * columns
            if expansion == 1:
                weights += after * 9 * in_dim * dim + after * 9 * dim * out_dim
            else:
                weights += before * in_dim * dim + after * 9 * dim * dim + after * dim * out_dim
            if stride != 1 or in_dim != out_dim:
                weights += after * in_dim * out_dim  # shortcut
            in_dim = out_dim
        costs[f"stage{i + 1}"] = Cost((rows, columns, in_dim), weights, 0)
    return {**costs, "head": classifier(model, in_dim)}
