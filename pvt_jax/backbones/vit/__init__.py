"""ViT, and DeiT's weights."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.vit.cost import cost
from pvt_jax.backbones.vit.model import VARIANTS, VisionTransformer
from pvt_jax.backbones.vit.weights import WEIGHTS

FAMILY = Family(VisionTransformer, VARIANTS, WEIGHTS, cost)
