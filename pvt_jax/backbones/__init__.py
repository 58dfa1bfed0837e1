"""Backbones: images → logits, or a pyramid of feature maps. One folder a family, and one row here."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.pvt import cost as pvt_cost
from pvt_jax.backbones.pvt import model as pvt
from pvt_jax.backbones.pvt import weights as pvt_weights
from pvt_jax.backbones.pvt_v2 import cost as pvt_v2_cost
from pvt_jax.backbones.pvt_v2 import model as pvt_v2
from pvt_jax.backbones.pvt_v2 import weights as pvt_v2_weights
from pvt_jax.backbones.resnet import cost as resnet_cost
from pvt_jax.backbones.resnet import model as resnet
from pvt_jax.backbones.resnet import weights as resnet_weights
from pvt_jax.backbones.vit import cost as vit_cost
from pvt_jax.backbones.vit import model as vit
from pvt_jax.backbones.vit import weights as vit_weights

FAMILIES: dict[str, Family] = {
    "pvt": Family(pvt.PyramidVisionTransformer, pvt.VARIANTS, pvt_weights.WEIGHTS, pvt_cost.cost),
    "pvt_v2": Family(pvt_v2.PyramidVisionTransformerV2, pvt_v2.VARIANTS, pvt_v2_weights.WEIGHTS, pvt_v2_cost.cost),
    "vit": Family(vit.VisionTransformer, vit.VARIANTS, vit_weights.WEIGHTS, vit_cost.cost),
    "resnet": Family(resnet.ResNet, resnet.VARIANTS, resnet_weights.WEIGHTS, resnet_cost.cost),
}
