"""DETR (arXiv 2005.12872) on any backbone, COCO: detection without anchors and without NMS, PVT's recipe.

python -m pvt_jax.main --config configs/detr.py:pvt_small --workdir runs/detr --config.data.root=FOLDER

FOLDER is COCO as released: annotations/instances_train2017.json, train2017/ and so on. The argument is a model of
docs/models.md; its ImageNet weights are downloaded, or set --config.init.checkpoint. 50 epochs, at shorter sides from
640 to 800 pixels.

Metric: AP on val2017. Published: PVT-Small 34.7. Not trained to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import MODEL, coco, parse_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    path = "configs/detr.py"
    model, _ = parse_argument(path, arg, MODEL, "pvt_small")
    config = coco(path, model, "detr", "pvt_small", learning_rate=1e-4)
    config.epochs = 50.0
    config.detection.short_sides = tuple(range(640, 801, 32))
    config.optimizer.drop_epochs = (33,)
    config.optimizer.backbone_multiplier = 0.1
    config.optimizer.clip_norm = 0.1
    config.optimizer.warmup_steps = 0
    return config
