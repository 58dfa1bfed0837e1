"""Weights of RetinaNet: mmdetection's names and published files."""

from pvt_jax.heads.base import CLASSIFIER
from pvt_jax.weight_names import HeadWeights, PublishedWeights, feature_pyramid_names, table


def _of_mmdetection(model: str, theirs: str, run: str) -> tuple[str, PublishedWeights]:
    # All norms there have an epsilon of 1e-6; here, as the authors have it, those of embeddings and reduced maps 1e-5.
    name = f"retinanet_{theirs}_fpn_1x_coco"
    row = PublishedWeights(
        model,
        f"https://download.openmmlab.com/mmdetection/v2.0/pvt/{name}/{name}_{run}.pth",
        "Apache-2.0",
        "mmdetection's model zoo, https://github.com/open-mmlab/mmdetection/tree/v2.28.2/configs/pvt",
        sha256=run.rpartition("-")[2],
        head="retinanet",
    )
    return f"retinanet_{model}_coco", row


WEIGHTS = HeadWeights(
    # Not a tower: the heads of others have them too.
    mark="params/head/regressor/kernel",
    classifier=CLASSIFIER,
    regressor="params/head/regressor/kernel",
    rows=table(
        (r"head/class_conv(\d)", r"bbox_head.cls_convs.\1.conv"),
        (r"head/box_conv(\d)", r"bbox_head.reg_convs.\1.conv"),
        (r"head/classifier", r"bbox_head.retina_cls"),
        (r"head/regressor", r"bbox_head.retina_reg"),
    ),
    neck=feature_pyramid_names(3),
    published=dict(
        (
            _of_mmdetection("pvt_tiny", "pvt-t", "20210831_103110-17b566bd"),
            _of_mmdetection("pvt_small", "pvt-s", "20210906_142921-b6c94a5b"),
            _of_mmdetection("pvt_medium", "pvt-m", "20210831_103243-55effa1b"),
            _of_mmdetection("pvt_v2_b0", "pvtv2-b0", "20210831_103157-13e9aabe"),
            _of_mmdetection("pvt_v2_b1", "pvtv2-b1", "20210831_103318-7e169a7d"),
            _of_mmdetection("pvt_v2_b2", "pvtv2-b2", "20210901_174843-529f0b9a"),
            _of_mmdetection("pvt_v2_b3", "pvtv2-b3", "20210903_151512-8357deff"),
            _of_mmdetection("pvt_v2_b4", "pvtv2-b4", "20210901_170151-83795c86"),
            _of_mmdetection("pvt_v2_b5", "pvtv2-b5", "20210902_201800-3420eb57"),
        )
    ),
)
