"""PVT-Tiny on CIFAR-10 from scratch, at its own 32×32 pixels.

python -m pvt_jax.main --config configs/cifar10.py --workdir runs/cifar10
python -m pvt_jax.main --config configs/cifar10.py:FOLDER --workdir runs/cifar10

The first reads TFDS; the second a folder with train/CLASS/*.jpg and test/CLASS/*.jpg.
Metric: top1 on the 10,000 test images. Meant for a GPU; not trained to the end by this project yet.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the folder of images, empty for TFDS."""
    return ConfigDict(
        {
            "batch_size": 512,
            "epochs": 300.0,
            "model": {
                "name": "pvt_tiny",
                "num_classes": 10,
                "image_size": 32,
                # The first stage keeps every pixel: strides 1, 2, 4 and 8 in place of 4, 8, 16 and 32.
                "patch_sizes": (1, 2, 2, 2),
                "drop_path_rate": 0.1,
                "dtype": "bfloat16",
            },
            "data": {"source": "folder", "root": arg} if arg else {"source": "tfds", "name": "cifar10"},
            "transform": {"crop": "padded", "pad": 4, "policy": "rand-m9-mstd0.5-inc1", "eval_crop_fraction": 1.0},
            "batch_transform": {
                "mean": (125.3, 123.0, 113.9),
                "std": (63.0, 62.1, 66.7),
                "mixup_alpha": 0.8,
                "cutmix_alpha": 1.0,
                "label_smoothing": 0.1,
                "erase_probability": 0.25,
            },
            "optimizer": {"learning_rate": 1e-3, "base_batch_size": 512, "clip_norm": 1.0, "warmup_epochs": 10.0},
            "evaluation": {"every_epochs": 5.0},
        }
    )
