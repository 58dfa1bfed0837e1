"""Fine-tuning on your own classes: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or valid/).

python -m pvt_jax.main --config configs/finetune.py:FOLDER --config.init.checkpoint=WEIGHTS --workdir runs/mine

WEIGHTS is anything that docs/weights.md names. They must be of the model in the config, PVT v2-B0; for others add
--config.model.name=pvt_tiny and so on. The classifier is new.
Metric: top1 on val. Time: not measured by this project yet.

The learning rate is that of DeiT (arXiv 2012.12877), 5e-4 · batch / 512, with a tenth of its epochs and mild
augmentation. optimizer.layer_decay 0.9 suits all depths, and 0.75 the networks of 8 to 12 blocks on few images.
"""

from ml_collections import ConfigDict

from configs.common import FOLDER, count_classes, parse_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the folder."""
    folder, _ = parse_argument("configs/finetune.py", arg, FOLDER, "FOLDER")
    return ConfigDict(
        {
            "batch_size": 64,
            "epochs": 30.0,
            "log_every_steps": 10,
            "model": {
                "name": "pvt_v2_b0",
                "num_classes": 0,  # As many as the folder has.
                "image_size": 224,
                "drop_path_rate": 0.1,
            },
            "data": {"source": "folder", "root": folder},
            # The pre-training has seen small crops; here most of the object should be in sight.
            "transform": {"crop_scale": (0.35, 1.0)},
            "batch_transform": {"label_smoothing": 0.1},
            "optimizer": {
                "learning_rate": 5e-4,
                "base_batch_size": 512,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
                "warmup_epochs": 3.0,
                "warmup_learning_rate": 1e-7,
                "final_learning_rate": 1e-6,
                "layer_decay": 0.9,
            },
        }
    )


def complete(config: ConfigDict) -> None:
    """The number of classes, as the folder has them."""
    count_classes(config)
