"""PVT and Semantic FPN on scenes of real handwritten digits over photographs: no download, minutes on a CPU.

python -m pvt_jax.main --config configs/digits_segmentation.py --workdir runs/digits_segmentation

The scenes are made at run time of what scikit-learn ships, their label maps are exact: ten digits and the background.
It may start from the backbone of a digits classifier (configs/digits.py): --config.init.checkpoint=runs/digits

Metric: miou on the 256 held-out scenes, 72.2 %. Time: 11 minutes on two CPU cores, compilation and four evaluations
included.
"""

from ml_collections import ConfigDict

from configs.common import no_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    no_argument("configs/digits_segmentation.py", arg)
    return ConfigDict(
        {
            "task": "segmentation",
            "batch_size": 8,
            "steps": 4000,
            "log_every_steps": 100,
            "model": {
                "name": "pvt_tiny",
                # The backbone of configs/digits.py.
                "dims": (32, 64, 160, 256),
                "num_classes": 11,
                "image_size": 32,
                "drop_path_rate": 0.0,
            },
            "head": {"name": "semantic_fpn", "channels": 64, "neck_channels": 64},
            # What is made here needs no check.
            "data": {"source": "digit_scenes", "check": "sample"},
            # A mirrored digit is none.
            "transform": {"flip_probability": 0.0},
            "batch_transform": {"mean": (96.0, 96.0, 91.0), "std": (63.0, 58.0, 62.0)},
            # Scenes of 128² are seen at 96², for speed; they vary in light, size and ink by themselves.
            "segmentation": {
                "scale": (96, 96),
                "scale_range": (1.0, 1.0),
                "crop_size": (96, 96),
                "largest_share": 1.0,
                "photometric": False,
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "base_batch_size": 8,
                "clip_norm": 1.0,
                # Short runs want moments that forget sooner.
                "b2": 0.98,
                "weight_decay": 0.05,
                "schedule": "poly",
                "power": 0.9,
                "warmup_steps": 100,
                "final_learning_rate": 0.0,
            },
            "evaluation": {"every_steps": 1000},
            "checkpoint": {"every_steps": 250},
        }
    )
