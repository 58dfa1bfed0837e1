"""SegFormer (arXiv 2105.15203): a MiT and the all-MLP head, ADE20K or Cityscapes.

python -m pvt_jax.main --config configs/segformer.py:mit_b0 --workdir runs/segformer --config.data.root=FOLDER
python -m pvt_jax.main --config configs/segformer.py:mit_b0,cityscapes --workdir runs/city --config.data.root=FOLDER

FOLDER is ADEChallengeData2016 as released, or the folder of Cityscapes with leftImg8bit and gtFine. The argument is a
model of docs/models.md, whose ImageNet weights are downloaded (those of a MiT are for non-commercial use only), or
set --config.init.checkpoint.

Metric: miou on the validation images. Published for ADE20K, one scale (paper, table 1a): B0 37.4, B1 42.2, B2 46.5, B3
49.4, B4 50.3, B5 51.0; by MMSegmentation for its own trainings, evaluated with sides rounded up to a multiple of 32, as
here: 38.1, 41.6, 46.5, 48.5, 49.3, 50.6. Not trained to the end here yet, and its time not measured.
"""

from ml_collections import ConfigDict

from configs.common import MODEL, ade20k, parse_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    path, variant = "configs/segformer.py", "cityscapes"
    model, words = parse_argument(path, arg, MODEL, "mit_b0", variant.__eq__, variant)
    config = ade20k(model, "segformer", side=640 if model == "mit_b5" else 512)
    config.batch_size, config.steps = 16, 160_000
    if words:
        config.batch_size = 8
        config.model.num_classes = 19
        config.data.source = "cityscapes"
        config.segmentation = {
            "scale": (2048, 1024),
            "crop_size": (1024, 1024),
            "test_mode": "slide",
            "window": (1024, 1024),
            "window_stride": (768, 768),
            "loss_average": "all",
        }
    config.optimizer = {
        "learning_rate": 6e-5,
        "base_batch_size": config.batch_size,
        "weight_decay": 0.01,
        "decayed": "all_but_backbone_norms",
        "head_multiplier": 10.0,
        "schedule": "poly",
        "power": 1.0,
        "warmup_steps": 1500,
        # MMSegmentation starts at a millionth of the rate, and counts the decay from the end of the warm-up on in its
        # later versions; in its first, as here and in the paper, from the first step on.
        "warmup_learning_rate": 6e-11,
        "final_learning_rate": 0.0,
    }
    return config
