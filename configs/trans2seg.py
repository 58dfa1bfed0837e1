"""Trans2Seg (arXiv 2101.08461) on a PVT, ADE20K: segmentation without convolutions in the backbone and the decoder.

python -m pvt_jax.main --config configs/trans2seg.py:pvt_small --workdir runs/trans2seg --config.data.root=FOLDER

FOLDER is ADEChallengeData2016 as released. The argument is a model of docs/models.md, whose ImageNet weights are
downloaded, or set --config.init.checkpoint.

Metric: miou on the 2,000 validation images; the paper of PVT (arXiv 2102.12122) reports 42.6 for pvt_small. Not trained
to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import MODEL, ade20k, parse_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    model, _ = parse_argument("configs/trans2seg.py", arg, MODEL, "pvt_small")
    config = ade20k(model, "trans2seg")
    # The papers do not say how it was trained on ADE20K; this is the recipe of PVT's Semantic FPN in the paper.
    config.batch_size, config.steps = 16, 80_000
    config.optimizer = {
        "learning_rate": 1e-4,
        "base_batch_size": 16,
        "weight_decay": 1e-4,
        "decayed": "all",
        "schedule": "poly",
        "power": 0.9,
        "warmup_steps": 0,
        "final_learning_rate": 0.0,
    }
    return config
