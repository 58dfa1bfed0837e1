"""ViT on ImageNet-1k, the recipe of DeiT (arXiv 2012.12877); tiny, small or base with _patch4, _patch16 or _patch32.

python -m pvt_jax.main --config configs/vit.py:small_patch16 --workdir runs/vit_small --config.data.root=TFDS_FOLDER

Metric: top1 on the 50,000 validation images; the paper reports 72.2 % for tiny_patch16, 79.8 small_patch16 and 81.8
base_patch16 (without distillation). Time: not measured by this project yet.
"""

from ml_collections import ConfigDict

from configs.common import imagenet, one_of

SIZES = tuple(f"{size}_patch{patch}" for size in ("tiny", "small", "base") for patch in (4, 16, 32))


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; ``arg`` is the size and the patch."""
    return imagenet(f"vit_{one_of('configs/vit.py', arg, SIZES)}", drop_path_rate=0.1, clip_norm=0.0)
