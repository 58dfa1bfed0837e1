"""PVT-Tiny on ImageNet-1k, the full recipe of the paper.

python -m pvt_jax.main --config configs/pvt_tiny.py --workdir runs/pvt_tiny --config.data.root=TFDS_FOLDER

Metric: top1 on the 50,000 validation images; the paper reports 75.1 %. Time: not measured by this project yet.
"""

from ml_collections import ConfigDict

from configs.common import imagenet, no_argument


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    no_argument("configs/pvt_tiny.py", arg)
    return imagenet("pvt_tiny", drop_path_rate=0.1, clip_norm=0.0)
