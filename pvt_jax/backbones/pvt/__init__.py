"""PVT v1."""

from pvt_jax.backbones.base import Family
from pvt_jax.backbones.pvt.cost import cost
from pvt_jax.backbones.pvt.model import VARIANTS, PyramidVisionTransformer
from pvt_jax.backbones.pvt.weights import WEIGHTS

FAMILY = Family(PyramidVisionTransformer, VARIANTS, WEIGHTS, cost)
