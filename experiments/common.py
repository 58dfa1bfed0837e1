"""What several sweeps share: scales that two CPU cores can train, and one that only shows that a sweep works."""

from collections.abc import Iterable
from typing import Any

from pvt_jax.errors import UserError

# The handwritten digits at 64²: stages of 16, 8, 4 and 2 tokens a side, 15 epochs.
DIGITS: dict[str, Any] = {"model.image_size": (64, 64), "epochs": 15.0, "evaluation.every_epochs": 5.0}
# A quarter of the steps of the configs of scenes.
SCENES: dict[str, Any] = {"steps": 1000, "evaluation.every_steps": 500, "init.checkpoint": ""}
# Seconds each.
TOY: dict[str, Any] = {"steps": 2, "batch_size": 8, "log_every_steps": 1}
TOY_PVT: dict[str, Any] = {"model.depths": (1, 1, 1, 1), "model.dims": (8, 16, 40, 32)}


def one_of(scale: str, scales: Iterable[str]) -> str:
    """The scale, if the sweep has it. Raises UserError: it has not."""
    known = list(scales)
    if scale not in known:
        raise UserError(f"no scale {scale!r}: there are {', '.join(known)}, as sweep.py:{known[0]}")
    return scale
