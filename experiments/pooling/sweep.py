"""What should the classifier read? A class token, a mean, a maximum, a spatial pyramid, or visual words."""

from experiments.common import CIFAR10, ON_CIFAR10, ON_TOYS, TOY, TOY_PVT, classifiers, one_of
from pvt_jax.sweeps import Measure, Sweep, Train

_POOLS = {
    "token": {},
    "mean": {"model.pool": "mean"},
    "max": {"model.pool": "max"},
    "pyramid": {"model.spp_levels": (1, 2)},
}
_MATCHING = "spatial_pyramid_matching.py"


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet; toy."""
    titles = {
        "cifar10": f"PVT on {ON_CIFAR10}; visual words of 5,000 images",
        "imagenet": "PVT-Tiny on ImageNet-1k, 300 epochs at 224²",
        "toy": ON_TOYS,
    }
    config, keys = {
        "cifar10": (CIFAR10, {}),
        "imagenet": ("pvt_tiny", {}),
        "toy": ("digits", {**TOY, **TOY_PVT}),
    }[one_of(scale, titles)]
    shown = {"token": {}} if scale == "toy" else _POOLS
    arms: list = [Train(name, config, {**keys, **pool}) for name, pool in shown.items()]
    if scale == "toy":
        words = (
            "{token}",
            "--images",
            "40",
            "--words",
            "8",
            "--sample",
            "500",
            "--levels",
            "1",
            "2",
            "--C",
            "1",
            "--json",
        )
        arms.append(Measure("matching", _MATCHING, words))
    elif scale == "cifar10":
        arms.append(Measure("matching", _MATCHING, ("{token}", "--map", "c3", "--json")))
        arms.append(Measure("bag_of_words", _MATCHING, ("{token}", "--map", "c3", "--levels", "1", "--json")))
        arms.append(Measure("matching_sift", _MATCHING, ("{token}", "--raw", "sift", "--step", "4", "--json")))
    return classifiers(scale, titles[scale], "What the classifier reads", arms)
