"""Spatial-reduction, linear or full attention? PVT v2 paper (arXiv 2106.13797), section 3.1."""

from experiments.common import CIFAR10, LEARNING_RATES, ON_CIFAR10, ON_TOYS, SIZE, TOY, TOY_PVT, one_of, seeds
from pvt_jax.sweeps import Curves, Dots, Sweep, Train

_KINDS = {
    "spatial_reduction": {},
    "linear": {"model.linear_attention": True},
    "full": {"model.sr_ratios": (1, 1, 1, 1)},
}


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet, of PVT v2-B2; toy."""
    titles = {
        "cifar10": f"PVT v2 on {ON_CIFAR10}",
        "imagenet": "PVT v2-B2 on ImageNet-1k, 300 epochs at 224²",
        "toy": ON_TOYS,
    }
    config, keys = {
        "cifar10": (f"{CIFAR10}:pvt_v2_b0", {}),
        "imagenet": ("pvt_v2:b2", {}),
        "toy": ("digits", {**TOY, **TOY_PVT, "model.name": "pvt_v2_b0"}),
    }[one_of(scale, titles)]
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=[
            Train(name, config, {**keys, **kind}) for name, kind in _KINDS.items() if scale != "toy" or name != "full"
        ],
        seeds=seeds(scale),
        metric="top1",
        columns=SIZE,
        figures=[
            Dots(f"top1_{scale}.png", "Kinds of attention", "values.top1", "top-1, %"),
            Curves(f"loss_{scale}.png", "Kinds of attention", "train_loss", "training loss"),
        ],
        tuning=LEARNING_RATES if scale == "cifar10" else None,
    )
