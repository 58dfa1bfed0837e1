"""MiT, the encoder of SegFormer (arXiv 2105.15203), on ImageNet-1k with PVT's recipe; b0, b1, b2, b3, b4 or b5.

python -m pvt_jax.main --config configs/mit.py:b2 --workdir runs/mit_b2 --config.data.root=TFDS_FOLDER

Metric: top1 on the 50,000 validation images; not reached or measured by this project yet, and no number of others is
claimed here. Time: not measured by this project yet.
"""

from ml_collections import ConfigDict

from configs.common import imagenet, one_of

SIZES = ("b0", "b1", "b2", "b3", "b4", "b5")


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the size."""
    return imagenet(f"mit_{one_of('configs/mit.py', arg, SIZES)}", drop_path_rate=0.1, clip_norm=0.0)
