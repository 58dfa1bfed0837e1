"""PVT on scikit-learn's handwritten digits: real images, no download.

python -m pvt_jax.main --config configs/digits.py --workdir runs/digits
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    if arg:
        raise ValueError(f"configs/digits.py takes no argument, but got {arg!r}")
    return ConfigDict(
        {
            "batch_size": 64,
            "epochs": 40.0,
            "log_every_steps": 22,
            "model": {"name": "pvt_tiny", "num_classes": 10, "image_size": 32, "drop_path_rate": 0.1},
            "data": {"source": "digits"},
            "transform": {"crop": "padded", "pad": 4, "flip_probability": 0.0, "eval_crop_fraction": 1.0},
            "batch_transform": {"mean": (78.0, 78.0, 78.0), "std": (90.0, 90.0, 90.0), "label_smoothing": 0.1},
            "optimizer": {"learning_rate": 5e-4, "base_batch_size": 64, "clip_norm": 1.0},
            "evaluation": {"every_epochs": 10.0},
        }
    )
