"""PVT-Tiny on your own classes: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or valid/).

python -m pvt_jax.main --config configs/folder.py:FOLDER --workdir runs/mine

The classes are the names of the folders under train. Metric: top1 on val. From scratch, so it wants many images; the
time is that of the model, see experiments/speed. Another size of model: --config.model.name=pvt_small.
"""

from ml_collections import ConfigDict

from configs.common import FOLDER, count_classes, parse_argument, strong_augmentation


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the folder."""
    folder, _ = parse_argument("configs/folder.py", arg, FOLDER, "FOLDER")
    return ConfigDict(
        {
            "batch_size": 128,
            "epochs": 100.0,
            # As many classes as the folder has.
            "model": {"name": "pvt_tiny", "num_classes": 0, "image_size": 224},
            "data": {"source": "folder", "root": folder},
            **strong_augmentation(),
            "optimizer": {"clip_norm": 1.0},
        }
    )


def complete(config: ConfigDict) -> None:
    """The number of classes, as the folder has them."""
    count_classes(config)
