"""Is a pyramid better than a column at equal MACs? PVT paper (arXiv 2102.12122), ablation study."""

from experiments.common import (
    CIFAR10,
    LEARNING_RATES,
    ON_CIFAR10,
    ON_TOYS,
    SCENES,
    SCENES_LEARNING_RATES,
    SIZE,
    TOY,
    TOY_PVT,
    one_of,
    seeds,
)
from pvt_jax.sweeps import Column, Curves, Dots, Lines, Measure, Sweep, Train

# (patch, channels, blocks, heads) that cost as many MACs as the PVT of that scale. A patch of 4, 16 or 32 pixels is at
# 224² what one of 2, 8 or 16 pixels is on CIFAR-10, where the strides of the PVT are halved.
_CIFAR10 = ((2, 24, 2, 3), (4, 34, 8, 2), (8, 75, 8, 3), (16, 141, 8, 3))
_SCENES = ((4, 45, 2, 3), (16, 150, 8, 3), (32, 288, 8, 3))
_DENSE = {"segmentation": ("Semantic FPN", "miou", "mIoU, %"), "detection": ("RetinaNet", "AP", "AP")}
_SIDES = (224, 320, 448, 640, 800)


def get_sweep(scale: str = "cifar10") -> Sweep:
    """Scales: cifar10; segmentation and detection, on scenes of digits; memory, of training at many sizes; toy."""
    titles = {
        "cifar10": f"ViT and PVT of equal MACs on {ON_CIFAR10}",
        **{
            task: f"{head} on ViT and PVT of equal MACs, 1,000 steps on scenes of digits at 96²"
            for task, (head, _, _) in _DENSE.items()
        },
        "memory": "Memory of a training step with two images, float32, counted",
        "toy": ON_TOYS,
    }
    if one_of(scale, titles) == "memory":
        return _memory(titles[scale])
    metric, label = _DENSE[scale][1:] if scale in _DENSE else ("top1", "top-1, %")
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=_arms(scale),
        seeds=seeds(scale),
        metric=metric,
        columns=[Column("patch", "facts.patch", ".0f"), *SIZE],
        figures=[
            Dots(f"{metric}_{scale}.png", "Pyramid or column", f"values.{metric}", label),
            Curves(f"curves_{scale}.png", "Pyramid or column", metric, label),
        ],
        tuning={"cifar10": LEARNING_RATES, "toy": None}.get(scale, SCENES_LEARNING_RATES),
    )


def _arms(scale: str) -> list[Train]:
    if scale == "toy":
        keys = {**TOY, "init.checkpoint": ""}
        return [
            Train("pvt", "digits_segmentation", {**keys, **TOY_PVT}),
            _columnar("./config.py:segmentation", keys, (16, 12, 1, 3)),
        ]
    if scale == "cifar10":
        return [Train("pvt", CIFAR10), *(_columnar(f"{CIFAR10}:vit_tiny_patch16", {}, size) for size in _CIFAR10)]
    keys = {**SCENES, "init.checkpoint": ""}
    return [Train("pvt", f"digits_{scale}", keys), *(_columnar(f"./config.py:{scale}", keys, size) for size in _SCENES)]


def _columnar(config: str, keys: dict, size: tuple[int, int, int, int]) -> Train:
    names = ("model.patch_size", "model.dim", "model.depth", "model.num_heads")
    return Train(
        f"vit_patch{size[0]}", config, {**keys, **dict(zip(names, size, strict=True))}, facts={"patch": size[0]}
    )


def _memory(title: str) -> Sweep:
    arms = []
    for model in ("pvt_small", "vit_small_patch4", "vit_small_patch16", "vit_small_patch32"):
        for side in _SIDES:
            words = [model, "--image_size", str(side), "--batch_size", "2", "--json"]
            arms.append(Measure(f"{model}_{side}", "pvt_jax.summary", words, facts={"model": model, "side": side}))
    total = "values.memory.total"
    return Sweep(
        title=title,
        scale="memory",
        arms=arms,
        columns=[
            Column("side", "facts.side", ".0f"),
            Column("GMACs", "values.macs", ".1f", 1e-9),
            Column("activations, GiB", "values.memory.activations", ".2f", 2**-30),
            Column("total, GiB", total, ".2f", 2**-30),
        ],
        figures=[
            Lines(
                "memory.png",
                "Memory of a training step",
                "facts.side",
                total,
                "side of the image, pixels",
                "GiB",
                "facts.model",
                2**-30,
                log=True,
            )
        ],
    )
