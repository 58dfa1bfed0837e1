"""Trained at one size, tested at others: tables of positions against convolutions. PVT v2, section 3.4."""

from experiments.common import CIFAR10, LEARNING_RATES, ON_CIFAR10, ON_TOYS, TOY, TOY_PVT, one_of, seeds
from pvt_jax.sweeps import Column, Dots, Evaluate, Lines, Sweep, Train

# By name: v1; v2 with tables in place of its depthwise convolutions, which is the same network but for them; and v2.
# Each is compared with the one before it, at the same size.
_TABLES = {"model.overlapping": True, "model.depthwise": False, "model.position_tables": True}
_MODELS = {"pvt": {}, "pvt_v2_tables": _TABLES, "pvt_v2": {}}
_SIDES = (16, 24, 40, 48, 64)
_OBLONG = ((32, 64), (64, 32))


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; imagenet; toy."""
    titles = {
        "cifar10": f"Trained on {ON_CIFAR10}, tested at other sizes",
        "imagenet": "Trained on ImageNet-1k, 300 epochs at 224², tested at other sizes",
        "toy": ON_TOYS,
    }
    one_of(scale, titles)
    base, sides, oblong = 32, _SIDES, _OBLONG
    if scale == "imagenet":
        base, sides, oblong = 224, (128, 160, 320, 384, 448), ((224, 448), (448, 224))
    elif scale == "toy":
        sides, oblong = (64,), ()
    arms: list = []
    before = ""
    for name, changes in _MODELS.items():
        is_v1 = name == "pvt"
        config, keys = {
            "cifar10": (CIFAR10 if is_v1 else f"{CIFAR10}:pvt_v2_b0", changes),
            "imagenet": ("pvt_tiny" if is_v1 else "pvt_v2:b1", changes),
            "toy": ("digits", {**TOY, **TOY_PVT, "model.name": "pvt_tiny" if is_v1 else "pvt_v2_b0", **changes}),
        }[scale]
        facts = {"model": name, "side": base, "size": f"{base}×{base}"}
        arms.append(Train(name, config, keys, facts=facts, against=before))
        for height, width in (*((side, side) for side in sides), *oblong):
            shown = {"model": name, "size": f"{height}×{width}"}
            square = {"side": height} if height == width else {}
            # A crop would cut the picture: half of it is not a test of positions.
            keys = {"model.image_size": (height, width), **({} if square else {"transform.eval_resize": "squash"})}
            size = f"_{height}x{width}"
            against = before and before + size
            arms.append(Evaluate(name + size, name, keys, facts={**shown, **square}, against=against))
        before = name
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        seeds=seeds(scale),
        metric="top1",
        columns=[Column("tested at", "facts.size")],
        figures=[
            Lines(
                f"top1_{scale}.png",
                "Tested at other sizes",
                "facts.side",
                "values.top1",
                "side of the test images, pixels",
                "top-1, %",
                "facts.model",
            ),
            Dots(f"all_{scale}.png", "Tested at other sizes", "values.top1", "top-1, %"),
        ],
        tuning=LEARNING_RATES if scale == "cifar10" else None,
    )
