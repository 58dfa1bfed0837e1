"""PVT v2's changes to v1, one by one. PVT v2 paper (arXiv 2106.13797), section 3."""

from experiments.common import pvt_v2_with
from pvt_jax.sweeps import Sweep

_V1 = {"model.overlapping": False, "model.depthwise": False, "model.position_tables": True}
# Added one after the other, in the order of the paper; then each alone is taken out of v2.
_PARTS = {
    "none": _V1,
    "overlapping": {**_V1, "model.overlapping": True},
    "overlapping+depthwise": {},
    "overlapping+depthwise+linear": {"model.linear_attention": True},
    "depthwise_alone": {"model.overlapping": False},
    "without_positions": {"model.depthwise": False},
}


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet, of PVT v2-B2; toy."""
    return pvt_v2_with(scale, "Parts of PVT v2", _PARTS, ("none", "overlapping+depthwise"))
