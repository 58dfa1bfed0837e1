"""Semantic segmentation of your own images: PVT v2-B0 and Semantic FPN, from weights of ImageNet.

python -m pvt_jax.main --config configs/segmentation_folder.py:FOLDER --workdir runs/mine
python -m pvt_jax.main --config configs/segmentation_folder.py:FOLDER,CLASSES --workdir runs/mine

FOLDER has images and PNG label maps, as images/training, annotations/training, images/validation and
annotations/validation; docs/your_images/segmentation.md has the other layouts. FOLDER/classes.txt has the names of the
classes, one a line; or else CLASSES is their number. Images with JSON files of labelme: add
--config.data.source=labelme. Data without a validation split is split by --config.data.holdout=0.2.
Another model: --config.model.name=pvt_small --config.init.checkpoint=pvt_small; without any weights:
--config.init.checkpoint= (nothing after it).

Metric: miou on the validation images. Time: not measured; images are trained on at 512², see experiments/speed.
"""

from ml_collections import ConfigDict

from configs.common import FOLDER, parse_argument
from pvt_jax.data.formats.class_lists import find_class_list
from pvt_jax.data.formats.class_names import without_ignored
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the folder, and the number of classes if no file in it has their names."""
    path, words = "configs/segmentation_folder.py", "the number of classes"
    folder, count = parse_argument(path, arg, FOLDER, "FOLDER", str.isdecimal, words)
    return ConfigDict(
        {
            "task": "segmentation",
            "batch_size": 16,
            "epochs": 60.0,
            "log_every_steps": 10,
            "init": {"checkpoint": "pvt_v2_b0"},
            "model": {
                "name": "pvt_v2_b0",
                "num_classes": int(count[0]) if count else 0,  # As many as there are names.
                "image_size": 224,
                "drop_path_rate": 0.1,
            },
            "head": {"name": "semantic_fpn"},
            "data": {"source": "label_folder", "root": folder},
            "segmentation": {"scale": (2048, 512), "crop_size": (512, 512)},
            "optimizer": {
                "learning_rate": 2e-4,
                "base_batch_size": 32,
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
                "schedule": "poly",
                "power": 0.9,
                "warmup_epochs": 1.0,
                "final_learning_rate": 0.0,
            },
            "evaluation": {"every_epochs": 5.0},
            "checkpoint": {"every_steps": 200},
        }
    )


def _request(config: ConfigDict) -> Request:
    data, segmentation = config.data, config.segmentation
    names, reduce = tuple(map(str, segmentation.class_names)), segmentation.reduce_zero_label
    options = LabelMapOptions(class_names=names, reduce_zero_label=reduce)
    return Request("train", root=data.root, train_split=data.train_split, holdout=data.holdout, options=options)


def complete(config: ConfigDict) -> None:
    """The number of classes, as the config or a file in the folder names them."""
    folder, model = config.data.root, config.model
    if model.num_classes:
        return
    if config.data.source == "labelme":
        # What draws label maps brings OpenCV, which takes longer than a mistyped key should.
        from pvt_jax.data.formats.labelme.label_maps import class_names_of_labelme_maps

        model.num_classes = len(class_names_of_labelme_maps(_request(config)))
        return
    names = tuple(map(str, config.segmentation.class_names))
    if not names and (found := find_class_list(folder)):
        names = found.names
    model.num_classes = len(without_ignored(names, config.segmentation.reduce_zero_label))
    if not names:
        raise UserError(
            f"no classes.txt in {folder}: write one, with the name of a class on each line in the order of their "
            f"numbers, or give their number, as --config configs/segmentation_folder.py:{folder},11"
        )
