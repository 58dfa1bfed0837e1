"""What several sweeps share: scales that two CPU cores can train, and one that only shows that a sweep works."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Arm, Column, Curves, Dots, Measure, Sweep, Train, Tuning

# The scale "cifar10": the config, its words in titles, and how its arms find their learning rates.
CIFAR10 = "../cifar10.py"
ON_CIFAR10 = "CIFAR-10 at 32², two epochs"
LEARNING_RATES = Tuning((5e-4, 1e-3, 2e-3, 4e-3), (200, 400))
# The scale of scenes: fewer steps than their configs have, position embeddings of the size that is trained on, and how
# their arms find their learning rates.
SCENES: dict[str, Any] = {
    "steps": 1000,
    "evaluation.every_steps": 200,
    "log_every_steps": 50,
    "model.image_size": 96,
}
SCENES_LEARNING_RATES = Tuning((5e-4, 1e-3, 2e-3), (400,))
# Seconds each.
TOY: dict[str, Any] = {"steps": 2, "batch_size": 8, "log_every_steps": 1}
TOY_PVT: dict[str, Any] = {"model.depths": (1, 1, 1, 1), "model.dims": (8, 16, 40, 32)}
ON_TOYS = "Two steps on handwritten digits, to see that it runs"
# A step that compiles in seconds, for the devices of this machine.
_TOY_STEP = {
    **{"model.depth": 1, "model.dim": 16, "model.num_heads": 2, "model.image_size": 32, "model.dtype": "float32"},
    **{"batch_size": 8, "data.source": "digits", "model.num_classes": 10},
    **{"batch_transform.mixup_alpha": 0, "batch_transform.cutmix_alpha": 0, "batch_transform.erase_probability": 0},
}
# What most tables of trained models show.
SIZE = (
    Column("parameters, M", "values.parameters", ".3f", 1e-6),
    Column("MMACs", "values.backbone_macs", ".2f", 1e-6),
)


def one_of(scale: str, scales: Iterable[str]) -> str:
    """The scale, if the sweep has it. Raises UserError: it has not."""
    known = list(scales)
    if scale not in known:
        raise UserError(f"no scale {scale!r}: there are {', '.join(known)}, as sweep.py:{known[0]}")
    return scale


def seeds(scale: str) -> tuple[int, ...]:
    """Three, and one for a toy."""
    return (0,) if scale == "toy" else (0, 1, 2)


def classifiers(
    scale: str, title: str, compared: str, arms: Sequence[Arm], *, baseline: str = "", columns: Sequence[Column] = SIZE
) -> Sweep:
    """Classifiers by their top-1, tuned at the scale "cifar10"; ``compared`` says in figures what they differ in."""
    return Sweep(
        title=title,
        scale=scale,
        arms=arms,
        seeds=seeds(scale),
        metric="top1",
        baseline=baseline,
        columns=columns,
        figures=[
            Dots(f"top1_{scale}.png", compared, "values.top1", "top-1, %"),
            Curves(f"loss_{scale}.png", compared, "train_loss", "training loss", smooth=5),
        ],
        tuning=LEARNING_RATES if scale == "cifar10" else None,
    )


def pvt_v2_with(scale: str, compared: str, variants: Mapping[str, Mapping[str, Any]], toys: Sequence[str]) -> Sweep:
    """PVT v2 with other settings, by the name of the arm; of the scale "toy" only the ``toys``."""
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
    names = toys if scale == "toy" else variants
    arms = [Train(name, config, {**keys, **variants[name]}) for name in names]
    return classifiers(scale, titles[scale], compared, arms)


def compiled_step(
    name: str, config: str, keys: Mapping[str, Any], facts: Mapping[str, Any], topology: str = ""
) -> Measure:
    """The training step of a config, compiled for the devices of ``topology`` and read, not run."""
    chosen = (f"--config.{key}={value}" for key, value in keys.items())
    words = ("--config", config, *chosen, "--dry_run", "--json", *(("--topology", topology) if topology else ()))
    return Measure(name, "pvt_jax.main", words, facts=facts)


def toy_step(facts: Mapping[str, Any]) -> Measure:
    """One that compiles in seconds, for the devices of this machine."""
    return compiled_step("vit", "vit:tiny_patch16", _TOY_STEP, facts)
