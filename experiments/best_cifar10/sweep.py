"""How well does a PVT do on CIFAR-10 without a GPU, and a ResNet that costs as much?"""

from experiments.common import ON_TOYS, SIZE, TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Column, Curves, Sweep, Train


def get_sweep(scale: str = "cpu") -> Sweep:
    """Scales: cpu, hours on two cores; gpu, the recipe of configs/cifar10.py; toy."""
    titles = {
        "cpu": "CIFAR-10 at 32², 30 epochs, one run of each",
        "gpu": "PVT-Tiny on CIFAR-10 at 32², 300 epochs",
        "toy": ON_TOYS,
    }
    arms = {
        "cpu": [Train("pvt_v2", "./config.py:pvt_v2"), Train("resnet", "./config.py:resnet")],
        "gpu": [Train("pvt_tiny", "cifar10")],
        "toy": [Train("pvt_v2", "digits", {**TOY, **TOY_PVT, "model.name": "pvt_v2_b0"})],
    }[one_of(scale, titles)]
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        seeds=(0,),
        metric="top1",
        columns=[
            *SIZE,
            Column("top-1 of the moving average", "values.ema_top1"),
            Column("hours", "values.training_seconds", ".1f", 1 / 3600),
        ],
        figures=[Curves(f"curves_{scale}.png", "Top-1 on the 10,000 test images", "top1", "top-1, %")],
    )
