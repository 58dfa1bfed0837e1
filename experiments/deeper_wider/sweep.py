"""Is a deeper or a wider PVT better at equal parameters? PVT paper (arXiv 2102.12122), ablation study."""

from experiments.common import CIFAR10, ON_CIFAR10, ON_TOYS, TOY, TOY_PVT, classifiers, one_of
from pvt_jax.sweeps import Sweep, Train

# Three blocks more in the third stage, or 1.25 times the channels.
_BASE = {"model.depths": (1, 1, 2, 1)}
_DEEPER = {"model.depths": (1, 1, 5, 1)}
_WIDER = {"model.depths": (1, 1, 2, 1), "model.dims": (20, 40, 100, 160)}


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet, the paper's own models; toy."""
    titles = {
        "cifar10": f"PVT on {ON_CIFAR10}",
        "imagenet": "PVT on ImageNet-1k, 300 epochs at 224²",
        "toy": ON_TOYS,
    }
    if one_of(scale, titles) == "imagenet":
        # The paper has 1.4 times the channels of PVT-Small, which heads must divide.
        wide = {"model.dims": (90, 180, 450, 720)}
        arms = [Train("base", "pvt_small"), Train("deeper", "pvt_medium"), Train("wider", "pvt_small", wide)]
    elif scale == "cifar10":
        arms = [Train("base", CIFAR10, _BASE), Train("deeper", CIFAR10, _DEEPER), Train("wider", CIFAR10, _WIDER)]
    else:
        deeper = {**TOY, **TOY_PVT, "model.depths": (1, 1, 2, 1)}
        arms = [Train("base", "digits", {**TOY, **TOY_PVT}), Train("deeper", "digits", deeper)]
    return classifiers(scale, titles[scale], "Deeper or wider", arms, baseline="deeper")
