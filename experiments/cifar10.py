"""CIFAR-10 in two epochs on two CPU cores: what sweeps compare at small scale.

python -m pvt_jax.main --config experiments/cifar10.py --workdir runs/cifar10_short --config.data.root=FOLDER

FOLDER has train/CLASS/*.jpg and test/CLASS/*.jpg; TFDS: --config.data.source=tfds --config.data.name=cifar10.
The argument is a model, pvt_tiny if empty. All have 16 channels or so where images are largest, strides of 2, 4, 8 and
16, and no augmentation but crop and flip: in two epochs nothing is learned by heart.
"""

from ml_collections import ConfigDict

_PVT = {"dims": (16, 32, 80, 128), "patch_sizes": (2, 2, 2, 2)}


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    name = arg or "pvt_tiny"
    return ConfigDict(
        {
            "batch_size": 64,
            "epochs": 2.0,
            "log_every_steps": 50,
            "model": {
                "name": name,
                "num_classes": 10,
                "image_size": 32,
                **(_PVT if name.startswith("pvt") else {}),
            },
            "data": {"source": "folder"},
            "transform": {"crop": "padded", "pad": 4, "eval_crop_fraction": 1.0},
            "batch_transform": {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)},
            "optimizer": {
                "learning_rate": 1e-3,
                "base_batch_size": 64,
                "clip_norm": 1.0,
                "warmup_steps": 100,
                # Short runs want moments that forget sooner.
                "b2": 0.98,
            },
            "evaluation": {"every_epochs": 0.5, "batch_size": 250},
        }
    )
