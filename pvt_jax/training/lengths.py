"""How long a run is, and its learning rate by step."""

from dataclasses import dataclass
from functools import partial

from pvt_jax.tasks.options import TaskConfig
from pvt_jax.training import optimizer as optimizers


@dataclass(frozen=True)
class Lengths:
    """Lengths of a run, in steps."""

    total: int
    warmup: int
    evaluate_every: int
    drops: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: TaskConfig, examples: int) -> "Lengths":
        """Epochs turned into steps; an epoch is the number of whole batches in the training data."""
        options = config.optimizer
        return cls(
            total=config.total_steps(examples),
            warmup=config.in_steps(options.warmup_steps, options.warmup_epochs, examples),
            evaluate_every=max(
                config.in_steps(config.evaluation.every_steps, config.evaluation.every_epochs, examples), 1
            ),
            drops=options.drop_steps or tuple(config.in_steps(None, epoch, examples) for epoch in options.drop_epochs),
        )


def schedule_of(config: TaskConfig, lengths: Lengths) -> tuple[float, optimizers.Schedule]:
    """(the peak of the learning rate, the learning rate by step) of a run of these lengths."""
    options = config.optimizer
    peak = optimizers.scaled_learning_rate(options.learning_rate, options.base_batch_size, config.batch_size)
    schedule = {
        "cosine": partial(optimizers.warmup_cosine, total_steps=lengths.total),
        "poly": partial(optimizers.warmup_poly, total_steps=lengths.total, power=options.power),
        "step": partial(optimizers.warmup_step, drops=lengths.drops, factor=options.drop_factor),
    }[options.schedule]
    return peak, schedule(peak, options.warmup_learning_rate, options.final_learning_rate, lengths.warmup)
