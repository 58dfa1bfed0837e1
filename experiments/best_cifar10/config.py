"""CIFAR-10 on two CPU cores, as well as some hours allow: ``config.py:pvt_v2`` or ``config.py:resnet``.

Both cost about 43 MMACs an image and have one recipe for 30 epochs, three hours of one core: crop, flip, RandAugment,
label smoothing, AdamW with a cosine, and a moving average that is evaluated besides. Mixing and erasing are left out:
in so few epochs models of this size learn little by heart.
"""

from ml_collections import ConfigDict

from configs.common import one_of

_MODELS = {
    "pvt_v2": {"name": "pvt_v2_b0", "dims": (32, 64, 160, 256), "patch_sizes": (2, 2, 2, 2)},
    "resnet": {"name": "resnet18", "dims": (16, 32, 64, 128), "depths": (2, 3, 3, 2), "stem_stride": 1},
}


def get_config(arg: str = "pvt_v2") -> ConfigDict:
    """The experiment; the argument is the model."""
    return ConfigDict(
        {
            "batch_size": 128,
            "epochs": 30.0,
            "ema_decay": 0.9995,
            "model": {
                **_MODELS[one_of("config.py", arg, _MODELS)],
                "num_classes": 10,
                "image_size": 32,
                "drop_path_rate": 0.05,
            },
            "data": {"source": "folder"},
            "transform": {"crop": "padded", "pad": 4, "policy": "rand-m5-mstd0.5-inc1", "eval_crop_fraction": 1.0},
            "batch_transform": {
                "mean": (125.3, 123.0, 113.9),
                "std": (63.0, 62.1, 66.7),
                "label_smoothing": 0.1,
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "base_batch_size": 128,
                "clip_norm": 1.0,
                "warmup_epochs": 2.0,
            },
            "evaluation": {"every_epochs": 2.0, "batch_size": 250},
            "checkpoint": {"every_steps": 250},
        }
    )
