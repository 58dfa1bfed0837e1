"""What several sweeps share."""

from typing import Any

from pvt_jax.errors import UserError

# Runs that only show that a sweep works: seconds each.
TOY: dict[str, Any] = {
    "steps": 2,
    "batch_size": 8,
    "log_every_steps": 1,
    "evaluation.batch_size": 128,
}


def one_of(scale: str, scales: Any) -> str:
    """The scale, if the sweep has it. Raises UserError: it has not."""
    if scale not in scales:
        raise UserError(f"no scale {scale!r}: there are {', '.join(scales)}, as sweep.py:{next(iter(scales))}")
    return scale
