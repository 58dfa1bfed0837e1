"""PVT v2 and MiT."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.pvt_v2.cost import cost
from pvt_jax.backbones.pvt_v2.model import VARIANTS, PyramidVisionTransformerV2
from pvt_jax.backbones.pvt_v2.weights import WEIGHTS

FAMILY = Family(PyramidVisionTransformerV2, VARIANTS, WEIGHTS, cost)
