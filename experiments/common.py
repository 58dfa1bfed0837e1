"""What several sweeps share: scales that two CPU cores can train, and one that only shows that a sweep works."""

from collections.abc import Iterable
from typing import Any

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Column, Tuning

# The scale "cifar10": the config, its words in titles, and how its arms find their learning rates.
CIFAR10 = "../cifar10.py"
ON_CIFAR10 = "CIFAR-10 at 32², two epochs"
LEARNING_RATES = Tuning((5e-4, 1e-3, 2e-3, 4e-3), (200, 400))
# A quarter of the steps of the configs of scenes.
SCENES: dict[str, Any] = {"steps": 1000, "evaluation.every_steps": 200, "log_every_steps": 50}
# Seconds each.
TOY: dict[str, Any] = {"steps": 2, "batch_size": 8, "log_every_steps": 1}
TOY_PVT: dict[str, Any] = {"model.depths": (1, 1, 1, 1), "model.dims": (8, 16, 40, 32)}
ON_TOYS = "Two steps on handwritten digits, to see that it runs"
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
