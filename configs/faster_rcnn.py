"""Faster R-CNN (arXiv 1506.01497) on any backbone, COCO: Mask R-CNN without masks; with a ViT, ViT-FRCNN.

python -m pvt_jax.main --config configs/faster_rcnn.py:pvt_small --workdir runs/faster_rcnn --config.data.root=FOLDER
python -m pvt_jax.main --config configs/faster_rcnn.py:vit_small_16 --workdir runs/vit_frcnn --config.data.root=FOLDER

FOLDER is COCO as released: annotations/instances_train2017.json, train2017/ and so on. The argument is a model of
docs/models.md; its ImageNet weights are downloaded, or set --config.init.checkpoint. After it may stand 1x, 3x or 640.
A ViT has no pyramid: its detector looks at its one map, with anchors of five sizes (arXiv 2012.09958); its schedule is
that of the pyramids, not the paper's.

Metric: AP on val2017. Nothing published with this recipe; not trained to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import coco


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    for size in ("4", "16", "32"):  # As papers write them: vit_small_16 is vit_small_patch16.
        model, comma, rest = arg.partition(",")
        if model.startswith("vit_") and model.endswith(f"_{size}"):
            arg = f"{model.removesuffix(size)}patch{size}{comma}{rest}"
    head = "vit_frcnn" if arg.startswith("vit_") else "faster_rcnn"
    return coco("configs/faster_rcnn.py", arg, head, "pvt_small", learning_rate=2e-4)
