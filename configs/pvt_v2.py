"""PVT v2 on ImageNet-1k, the full recipe of the paper (arXiv 2106.13797); b0, b1, b2, b2_li, b3, b4 or b5.

python -m pvt_jax.main --config configs/pvt_v2.py:b2 --workdir runs/pvt_v2_b2 --config.data.root=TFDS_FOLDER

Metric: top1 on the 50,000 validation images; the paper reports 70.5 % for b0, 78.7 b1, 82.0 b2, 82.1 b2_li, 83.1 b3,
83.6 b4 and 83.8 b5. Time: not measured by this project yet.
"""

from ml_collections import ConfigDict

from configs.common import imagenet, one_of

# Rate of stochastic depth and largest norm of the gradient (0 clips nothing), by size.
SIZES: dict[str, tuple[float, float]] = {
    "b0": (0.1, 0.0),
    "b1": (0.1, 0.0),
    "b2": (0.1, 0.0),
    "b2_li": (0.1, 0.0),
    "b3": (0.3, 1.0),
    "b4": (0.3, 1.0),
    "b5": (0.3, 1.0),
}


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the size."""
    drop_path_rate, clip_norm = SIZES[one_of("configs/pvt_v2.py", arg, SIZES)]
    return imagenet(f"pvt_v2_{arg}", drop_path_rate, clip_norm)
