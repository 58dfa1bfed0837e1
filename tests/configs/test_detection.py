"""The numbers of the detection configs."""

import re
from pathlib import Path
from typing import Any

import pytest

from pvt_jax import config as config_lib
from pvt_jax.models import create_model

ROOT = Path(__file__).resolve().parents[2]

# Of mmdetection's configs in the published code of PVT and PVT v2; written out, not imported.
COCO: dict[str, Any] = {
    "task": "detection",
    "batch_size": 16,
    "accumulation_steps": 1,
    "epochs": 12.0,
    "steps": None,
    "ema_decay": 0.0,
    "model.num_classes": 80,
    "model.image_size": (224, 224),
    "model.drop_path_rate": 0.1,
    "data.source": "coco",
    "transform.flip_probability": 0.5,
    "batch_transform.mean": (123.675, 116.28, 103.53),
    "batch_transform.std": (58.395, 57.12, 57.375),
    "detection.short_sides": (800,),
    "detection.long_side": 1333,
    "detection.crop_probability": 0.0,
    "detection.test_short_side": 800,
    "detection.keep_empty": False,
    "optimizer.base_batch_size": 16,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decayed": "all",
    "optimizer.clip_norm": 0.0,
    "optimizer.schedule": "step",
    "optimizer.drop_epochs": (8, 11),
    "optimizer.drop_steps": (),
    "optimizer.drop_factor": 0.1,
    "optimizer.warmup_steps": 500,
    "optimizer.final_learning_rate": 0.0,
    "optimizer.backbone_multiplier": 1.0,
    "optimizer.head_multiplier": 1.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.frozen": "",
}
# mmdetection's norm_eval and frozen_stages=1.
RESNET = {"model.drop_path_rate": 0.0, "model.frozen_norm": True, "optimizer.frozen": "stage1"}
HALF_BATCH = {"batch_size": 8, "optimizer.base_batch_size": 8}
LONG = {
    "epochs": 36.0,
    "detection.short_sides": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    "detection.crop_probability": 0.5,
    "detection.crop_short_sides": (400, 500, 600),
    "detection.crop_range": (384, 600),
    "optimizer.weight_decay": 0.05,
    "optimizer.decayed": "all_but_norms",
    "optimizer.drop_epochs": (27, 33),
}
SMALL_IMAGES = {"detection.short_sides": (640,), "detection.long_side": 1066, "detection.test_short_side": 640}
DETR = {
    "epochs": 50.0,
    "detection.short_sides": (640, 672, 704, 736, 768, 800),
    "optimizer.clip_norm": 0.1,
    "optimizer.drop_epochs": (33,),
    "optimizer.warmup_steps": 0,
    "optimizer.backbone_multiplier": 0.1,
}


def of(spec: str) -> dict[str, Any]:
    def leaves(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    return leaves(config_lib.load(str(ROOT / "configs" / spec)).to_dict(), "")


@pytest.mark.parametrize(
    ("spec", "head", "learning_rate", "recipe"),
    [
        ("retinanet.py:pvt_small", "retinanet", 1e-4, {}),
        ("retinanet.py:pvt_small,1x,800", "retinanet", 1e-4, {}),
        ("retinanet.py:pvt_small,640", "retinanet", 1e-4, SMALL_IMAGES),
        ("retinanet.py:pvt_medium", "retinanet", 1e-4, {"model.drop_path_rate": 0.0}),
        ("retinanet.py:pvt_large", "retinanet", 1e-4, {"model.drop_path_rate": 0.0}),
        ("retinanet.py:pvt_v2_b3", "retinanet", 1e-4, {}),
        ("retinanet.py:pvt_v2_b4", "retinanet", 1e-4 / 1.4, HALF_BATCH),
        ("retinanet.py:pvt_v2_b5", "retinanet", 1e-4 / 1.4, HALF_BATCH),
        ("retinanet.py:resnet50", "retinanet", 1e-4, RESNET),
        ("mask_rcnn.py:pvt_tiny", "mask_rcnn", 2e-4, {}),
        ("mask_rcnn.py:pvt_medium", "mask_rcnn", 2e-4, {"model.drop_path_rate": 0.0}),
        ("mask_rcnn.py:pvt_large", "mask_rcnn", 2e-4 / 1.4, {**HALF_BATCH, "model.drop_path_rate": 0.0}),
        ("mask_rcnn.py:pvt_v2_b5", "mask_rcnn", 2e-4 / 1.4, HALF_BATCH),
        ("mask_rcnn.py:pvt_v2_b2,3x", "mask_rcnn", 1e-4, LONG),
        # The smaller rate and batch of large models are of 1x alone.
        ("mask_rcnn.py:pvt_v2_b5,3x", "mask_rcnn", 1e-4, LONG),
        ("retinanet.py:pvt_v2_b4,3x", "retinanet", 1e-4, LONG),
        ("mask_rcnn.py:resnet50", "mask_rcnn", 2e-4, RESNET),
        ("detr.py:pvt_small", "detr", 1e-4, DETR),
    ],
)
def test_configs_are_the_recipes(spec, head, learning_rate, recipe):
    found = of(spec)
    model = re.split("[:,]", spec)[1]
    expected = {**COCO, "model.name": model, "init.checkpoint": model, "head.name": head, **recipe}
    assert {key: found.get(key) for key in expected} == expected
    assert found["optimizer.learning_rate"] == pytest.approx(learning_rate, rel=1e-12)
    # mmdetection's warmup_ratio.
    assert found["optimizer.warmup_learning_rate"] == pytest.approx(0.001 * learning_rate, rel=1e-12)
    settings = {key.removeprefix("model."): value for key, value in found.items() if key.startswith("model.")}
    create_model(settings.pop("name"), head=head, **settings)
