"""Objects in your own images: PVT v2-B0 with RetinaNet or Mask R-CNN, from weights of ImageNet.

python -m pvt_jax.main --config configs/detection_folder.py:FOLDER --workdir runs/mine
python -m pvt_jax.main --config configs/detection_folder.py:FOLDER,mask_rcnn --workdir runs/mine

FOLDER has annotations in COCO's JSON format, Pascal VOC's XML files, YOLO's text files or labelme's JSON files;
docs/your_images/detection.md has the layouts. The classes are those of the training annotations. Data without a
validation split is split by --config.data.holdout=0.2. After the folder may stand retinanet, mask_rcnn (where
objects have masks) or faster_rcnn.
Another model: --config.model.name=pvt_small --config.init.checkpoint=pvt_small; without any weights:
--config.init.checkpoint= (nothing after it).

Metric: AP on the validation images. Time: not measured; shorter sides are 640 pixels, see experiments/speed.
"""

from ml_collections import ConfigDict

from configs.common import FOLDER, parse_argument
from pvt_jax.data.formats import OBJECTS
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.options import ObjectOptions

_HEADS = ("retinanet", "mask_rcnn", "faster_rcnn")


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the folder, and the head if it is another than RetinaNet."""
    path, words = "configs/detection_folder.py", ", ".join(_HEADS)
    folder, heads = parse_argument(path, arg, FOLDER, "FOLDER", _HEADS.__contains__, words)
    return ConfigDict(
        {
            "task": "detection",
            "batch_size": 8,
            "epochs": 36.0,
            "log_every_steps": 10,
            "init": {"checkpoint": "pvt_v2_b0"},
            "model": {
                "name": "pvt_v2_b0",
                "num_classes": 0,  # As many as the folder has.
                "image_size": 224,
                "drop_path_rate": 0.1,
            },
            "head": {"name": heads[0] if heads else _HEADS[0]},
            "data": {"source": "", "root": folder},  # Its format is found.
            "detection": {"short_sides": (480, 544, 608, 640), "long_side": 1066, "test_short_side": 640},
            "optimizer": {
                "learning_rate": 1e-4,
                "base_batch_size": 8,
                "weight_decay": 0.05,
                "decayed": "all_but_norms",
                "clip_norm": 1.0,
                "schedule": "cosine",
                "warmup_epochs": 1.0,
                "warmup_learning_rate": 1e-7,
                "final_learning_rate": 1e-6,
            },
            "evaluation": {"every_epochs": 3.0, "batch_size": 8},
            "checkpoint": {"every_steps": 200},
        }
    )


def complete(config: ConfigDict) -> None:
    """Format and classes, as the folder and the keys that describe it have them."""
    detection = config.detection
    options = ObjectOptions(
        num_classes=config.model.num_classes,
        class_names=tuple(detection.class_names),
        annotations=detection.annotations,
        image_folder=detection.image_folder,
    )
    data = config.data
    if data.source and config.model.num_classes:
        return
    data.source, class_names = recognise_folder(
        OBJECTS, data.root, data.source, data.train_split, options, data.holdout
    )
    config.model.num_classes = config.model.num_classes or len(class_names)
