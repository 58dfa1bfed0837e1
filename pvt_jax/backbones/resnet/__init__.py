"""ResNet."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.resnet.cost import cost
from pvt_jax.backbones.resnet.model import VARIANTS, ResNet
from pvt_jax.backbones.resnet.weights import WEIGHTS

FAMILY = Family(ResNet, VARIANTS, WEIGHTS, cost)
