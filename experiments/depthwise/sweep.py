"""PVT v2's changes to v1, one by one. PVT v2 paper (arXiv 2106.13797), section 3."""

from experiments.common import CIFAR10, LEARNING_RATES, ON_CIFAR10, ON_TOYS, SIZE, TOY, TOY_PVT, one_of, seeds
from pvt_jax.sweeps import Curves, Dots, Sweep, Train

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
    shown = {"none": _PARTS["none"], "overlapping+depthwise": {}} if scale == "toy" else _PARTS
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=[Train(name, config, {**keys, **part}) for name, part in shown.items()],
        seeds=seeds(scale),
        metric="top1",
        columns=SIZE,
        figures=[
            Dots(f"top1_{scale}.png", "Parts of PVT v2", "values.top1", "top-1, %"),
            Curves(f"loss_{scale}.png", "Parts of PVT v2", "train_loss", "training loss"),
        ],
        tuning=LEARNING_RATES if scale == "cifar10" else None,
    )
