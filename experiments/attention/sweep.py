"""Spatial-reduction, linear or full attention? PVT v2 paper (arXiv 2106.13797), section 3.2."""

from experiments.common import pvt_v2_with
from pvt_jax.sweeps import Sweep

_KINDS = {
    "spatial_reduction": {},
    "linear": {"model.linear_attention": True},
    "full": {"model.sr_ratios": (1, 1, 1, 1)},
}


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet, of PVT v2-B2; toy."""
    return pvt_v2_with(scale, "Kinds of attention", _KINDS, ("spatial_reduction", "linear"))
