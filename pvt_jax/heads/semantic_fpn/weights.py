"""Weights of Semantic FPN: mmsegmentation's names."""

from pvt_jax.heads.base import CLASSIFIER
from pvt_jax.weight_names import POINTWISE, HeadWeights, table

WEIGHTS = HeadWeights(
    mark="params/head/branch_p2/conv0/kernel",
    classifier=CLASSIFIER,
    rows=table(
        # Every other place of a branch is an upsampling, which has no parameters.
        *(
            (f"head/branch_p{level + 2}/{ours}{j}", f"decode_head.scale_heads.{level}.{2 * j}.{theirs}")
            for level in range(4)
            for j in range(max(level, 1))
            for ours, theirs in (("conv", "conv"), ("norm", "bn"))
        ),
        ("head/classifier", "decode_head.conv_seg", POINTWISE),
    ),
)
