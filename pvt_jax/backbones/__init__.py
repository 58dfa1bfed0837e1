"""Backbones: images → class logits, or a pyramid of feature maps. One folder a family, and one row here."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.pvt import FAMILY as PVT
from pvt_jax.backbones.pvt_v2 import FAMILY as PVT_V2
from pvt_jax.backbones.resnet import FAMILY as RESNET
from pvt_jax.backbones.vit import FAMILY as VIT

FAMILIES: dict[str, Family] = {"pvt": PVT, "pvt_v2": PVT_V2, "vit": VIT, "resnet": RESNET}
