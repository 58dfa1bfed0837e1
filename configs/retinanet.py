"""RetinaNet (arXiv 1708.02002) on any backbone, COCO: the detection recipe of PVT v1 and v2.

python -m pvt_jax.main --config configs/retinanet.py:pvt_small --workdir runs/retinanet --config.data.root=FOLDER

FOLDER is COCO as released: annotations/instances_train2017.json, train2017/ and so on. The argument is a model of
docs/models.md; its ImageNet weights are downloaded, or set --config.init.checkpoint. After it may stand 640 (shorter
sides of 640 pixels in place of 800) or 3x (36 epochs at many scales), as '…:pvt_small,640'.

Metric: AP on val2017. Published, 1x: PVT v1 tiny to large 36.7, 40.4, 41.9, 42.6, small at 640 38.7; PVT v2 B0 37.2,
B1 41.2, B2 44.6, B3 45.9, B4 46.1, B5 46.2; ResNet-50 36.3. Not trained to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import coco


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    config = coco("configs/retinanet.py", arg, "retinanet", "pvt_small", learning_rate=1e-4)
    if "3x" not in arg and config.model.name in ("pvt_v2_b4", "pvt_v2_b5"):
        config.batch_size = config.optimizer.base_batch_size = 8
        config.optimizer.learning_rate /= 1.4
        config.optimizer.warmup_learning_rate /= 1.4
    return config
