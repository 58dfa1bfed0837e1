"""ResNet (arXiv 1512.03385) on ImageNet-1k, as the PVT paper trains it for comparison; 18, 34, 50 or 101.

python -m pvt_jax.main --config configs/resnet.py:50 --workdir runs/resnet50 --config.data.root=TFDS_FOLDER

This is PVT's recipe (that of DeiT, AdamW for 300 epochs), not the 90 epochs of SGD that ResNet was published with.
Metric: top1 on the 50,000 validation images; the PVT paper (arXiv 2102.12122, table 2) reports 68.5 % for 18, 78.5 for
50 and 79.8 for 101, and 69.8, 76.1 and 77.4 with ResNet's own recipe; it has no 34. It does not say whether it drops
branches of ResNets; this config drops none. Time: not measured by this project yet.
"""

from ml_collections import ConfigDict

from configs.common import imagenet, one_of

SIZES = ("18", "34", "50", "101")


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the number of layers, as "50" or "resnet50"."""
    size = one_of("configs/resnet.py", arg.removeprefix("resnet"), SIZES)
    return imagenet(f"resnet{size}", drop_path_rate=0.0, clip_norm=0.0)
