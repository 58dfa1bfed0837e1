"""Semantic FPN (arXiv 1901.02446) on any backbone, ADE20K: the segmentation recipe of PVT v1 and v2.

python -m pvt_jax.main --config configs/semantic_fpn.py:pvt_small --workdir runs/semantic_fpn --config.data.root=FOLDER

FOLDER is ADEChallengeData2016 as released. The argument is a model of docs/models.md; its ImageNet weights are
downloaded, or set --config.init.checkpoint. 40,000 steps of 32 images, the recipe of the released code; the paper's is
'…:pvt_small,paper', 80,000 of 16.

Metric: miou on the 2,000 validation images. Published: PVT v1 tiny to large 36.6, 41.9, 43.5, 43.5 (paper: 35.7, 39.8,
41.6, 42.1); PVT v2 B0 37.2, B1 42.5, B2 45.2, B3 47.3, B4 47.9, B5 48.7; ResNet-50 36.7. Not trained to the end here
yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import MODEL, ade20k, parse_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    path, variant = "configs/semantic_fpn.py", "paper"
    model, words = parse_argument(path, arg, MODEL, "pvt_small", variant.__eq__, variant)
    config = ade20k(model, "semantic_fpn")
    config.batch_size, config.steps = (16, 80_000) if words else (32, 40_000)
    config.optimizer = {
        "learning_rate": 2e-4,
        "base_batch_size": config.batch_size,
        "weight_decay": 1e-4,
        "decayed": "all",
        "schedule": "poly",
        "power": 0.9,
        "warmup_steps": 0,
        "final_learning_rate": 0.0,
    }
    return config
