"""Mask R-CNN (arXiv 1703.06870) on any backbone, COCO: boxes and masks, the recipe of PVT v1 and v2.

python -m pvt_jax.main --config configs/mask_rcnn.py:pvt_small --workdir runs/mask_rcnn --config.data.root=FOLDER

FOLDER is COCO as released: annotations/instances_train2017.json, train2017/ and so on. The argument is a model of
docs/models.md; its ImageNet weights are downloaded, or set --config.init.checkpoint. After it may stand 3x (36 epochs
at many scales, as PVT v2 has it) or 640 (shorter sides of 640 pixels in place of 800), as '…:pvt_v2_b2,3x'.

Metric: AP and mask_AP on val2017. Published, 1x: PVT v1 tiny to large 36.7 / 35.1, 40.4 / 37.8, 42.0 / 39.0, 42.9 /
39.5; PVT v2 B0 38.2 / 36.2, B1 41.8 / 38.8, B2 45.3 / 41.2, B3 47.0 / 42.5, B4 47.5 / 42.7, B5 47.4 / 42.5; ResNet-50
38.0 / 34.4; 3x, B2: 47.8 / 43.1. Not trained to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import coco


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    config = coco("configs/mask_rcnn.py", arg, "mask_rcnn", "pvt_small", learning_rate=2e-4)
    if "3x" not in arg and config.model.name in ("pvt_large", "pvt_v2_b4", "pvt_v2_b5"):
        config.batch_size = config.optimizer.base_batch_size = 8
        config.optimizer.learning_rate /= 1.4
        config.optimizer.warmup_learning_rate /= 1.4
    return config
