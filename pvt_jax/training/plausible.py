"""Numbers of a config that fit their keys and still cannot be meant: refused, or said before the first step."""

import math
from typing import Any

from pvt_jax.errors import UserError
from pvt_jax.tasks.options import BatchTransformOptions, TaskConfig

# A recipe's learning rate, scaled to less than this share of its batch, trains next to nothing.
_SMALL_BATCH = 1 / 16
# AdamW moves each parameter by about its learning rate, whatever the gradient.
_HIGH_RATE, _IMPOSSIBLE_RATE = 0.03, 1.0


def check_config(config: TaskConfig, *, refuse: bool = True) -> list[str]:
    """Notes on what is odd, whatever the data.

    Raises UserError: pixels or updates that no one can want. With ``refuse=False``, for a run that has already trained
    with them, those are notes, too.
    """
    notes, wrong = [], []
    try:
        notes += _notes_on_pixels(config.batch_transform)
    except UserError as error:
        wrong.append(str(error))
    wrong += _wrong_updates(config)
    if wrong and refuse:
        raise UserError(wrong[0])
    options = config.optimizer
    if options.b1**2 >= options.b2 > 0:
        notes.append(
            f"optimizer.b1={options.b1:g} with optimizer.b2={options.b2:g}: Adam is unstable unless b1² is below b2; "
            "usual are b1=0.9 and b2=0.999"
        )
    return notes + wrong


def check_schedule(config: TaskConfig, lengths: Any, peak: float, examples: int) -> list[str]:
    """Notes on learning rates and lengths that cannot be meant, each with the number and the way out.

    Args:
      lengths: a ``training.lengths.Lengths``.
      peak: the learning rate, scaled to the batch.
      examples: in the training data.
    """
    options, total = config.optimizer, lengths.total
    return list(
        filter(
            None,
            (
                _rates(config, peak),
                _warmup(config, lengths, peak),
                *_lengths(config, lengths, examples),
                _drops(options.schedule, lengths.drops, total),
                _average(config.ema_decay, total),
            ),
        )
    )


def _notes_on_pixels(options: BatchTransformOptions) -> list[str]:
    mean, std = options.mean, options.std
    # Of numbers in 0..255 with this mean, none deviate more (the inequality of Bhatia and Davis).
    too_wide = all(0 < m <= 1 and s > math.sqrt(m * (255 - m)) for m, s in zip(mean, std, strict=True))
    small_std = max(std) < 1 or (max(std) == 1 and 0 < max(mean) <= 1)
    if small_std or too_wide:
        scaled = {"mean": mean if max(mean) > 1 else _times_255(mean), "std": std if too_wide else _times_255(std)}
        keys = " ".join(f"'--config.batch_transform.{key}={_tuple(values)}'" for key, values in scaled.items())
        raise UserError(
            f"batch_transform.mean={_tuple(mean)} with batch_transform.std={_tuple(std)} is of pixels in 0..1, and "
            f"here they are in 0..255: set {keys}"
        )
    usual = BatchTransformOptions().mean
    if mean != usual and all(abs(m - u) < 1 for m, u in zip(mean, usual[::-1], strict=True)):
        return [
            f"batch_transform.mean={_tuple(mean)} looks like ImageNet's as blue, green, red; images here are red, "
            f"green, blue: set '--config.batch_transform.mean={_tuple(usual)}' unless the weights were trained so"
        ]
    if not any(mean) and set(std) == {1.0}:
        return [
            "batch_transform.mean=0 with batch_transform.std=1 leaves pixels as they are, in 0..255; for inputs in "
            "0..1 set '--config.batch_transform.std=(255,255,255)'"
        ]
    return []


def _times_255(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(255 * value, 6) for value in values)


def _tuple(values: tuple[float, ...]) -> str:
    return f"({','.join(f'{value:g}' for value in values)})"


def _wrong_updates(config: TaskConfig) -> list[str]:
    options, wrong = config.optimizer, []
    peak = options.learning_rate * config.batch_size / options.base_batch_size
    if peak >= _IMPOSSIBLE_RATE:
        wrong.append(
            f"the peak learning rate is {peak:.3g} ({options.learning_rate:g} at a batch of {options.base_batch_size}, "
            f"scaled to {config.batch_size}), and AdamW moves each parameter by about that much at each step: set "
            "--config.optimizer.learning_rate lower, as 1e-3"
        )
    elif peak * options.weight_decay >= 1:
        wrong.append(
            f"optimizer.weight_decay={options.weight_decay:g} times the peak learning rate of {peak:.3g} takes away "
            "all of a parameter at each step: set --config.optimizer.weight_decay lower, as 0.05"
        )
    if not options.backbone_multiplier and not options.head_multiplier:
        wrong.append(
            "optimizer.backbone_multiplier=0 with optimizer.head_multiplier=0 trains nothing: set one of them above 0"
        )
    return wrong


def _rates(config: TaskConfig, peak: float) -> str:
    options, batch = config.optimizer, config.batch_size
    if peak > _HIGH_RATE:
        return (
            f"the peak learning rate is {peak:.3g}, which is high for AdamW: set --config.optimizer.learning_rate lower"
        )
    scaled, ways = f"{options.learning_rate:g} at a batch of {options.base_batch_size}, scaled to {batch}", ""
    if batch < options.base_batch_size * _SMALL_BATCH:
        # The rate that grows with the root of the batch.
        base = round(math.sqrt(batch * options.base_batch_size))
        rate = options.learning_rate * batch / base
        parts = options.base_batch_size // 8 // batch
        ways = f"set --config.optimizer.base_batch_size={base} for {rate:.3g}"
        if parts > 1:
            ways += f", or take larger batches, as --config.batch_size={batch * parts} "
            ways += f"--config.accumulation_steps={config.accumulation_steps * parts} with the same memory"
    floors = {key: getattr(options, key) for key in ("warmup_learning_rate", "final_learning_rate")}
    above = [f"optimizer.{key}={value:g}" for key, value in floors.items() if value > peak]
    if not ways and above:
        ways = "set it lower"
    if not ways:
        return ""
    reason = f", below {' and '.join(above)}" if above else ", too little to learn from"
    return f"the peak learning rate is only {peak:.3g} ({scaled}){reason}: {ways}"


def _warmup(config: TaskConfig, lengths: Any, peak: float) -> str:
    warmup, total, options = lengths.warmup, lengths.total, config.optimizer
    if not 0 < total <= warmup:
        return ""
    last = options.warmup_learning_rate + (peak - options.warmup_learning_rate) * (total - 1) / warmup
    asked = f"warmup_steps={warmup}" if options.warmup_steps is not None else f"warmup_epochs={options.warmup_epochs:g}"
    return (
        f"the warm-up of {_steps(warmup)} (optimizer.{asked}) is not over when the run of {_steps(total)} is: its last "
        f"learning rate is {last:.2e}, and the peak of {peak:.3g} is never reached. For a run this short set "
        f"--config.optimizer.warmup_steps={total // 10}"
    )


def _lengths(config: TaskConfig, lengths: Any, examples: int) -> list[str]:
    notes = []
    if config.batch_size > examples:
        notes.append(
            f"batch_size={config.batch_size} is more than the {examples:,} training images: every batch repeats some. "
            f"Set --config.batch_size={examples} or less"
        )
    asked = config.epochs * max(examples // config.batch_size, 1)
    if config.steps is None and asked < 0.5:
        notes.append(f"epochs={config.epochs:g} is {asked:.2g} of a step: one is taken")
    return notes


def _drops(schedule: str, drops: tuple[int, ...], total: int) -> str:
    late = [drop for drop in drops if drop >= total]
    if schedule != "step" or not late:
        return ""
    which = "every drop" if len(late) == len(drops) else f"{len(late)} of {len(drops)} drops"
    return (
        f"{which} of the learning rate (step {', '.join(map(str, late))}) comes after the run of {_steps(total)}: set "
        "optimizer.drop_epochs to epochs within it"
    )


def _average(decay: float, total: int) -> str:
    left = decay**total
    if left <= 0.5:
        return ""
    return (
        f"ema_decay={decay:g} averages over about {1 / (1 - decay):,.0f} steps, and the run has {total:,}: to "
        f"{100 * left:.0f} % the average stays what it began with. Set "
        f"--config.ema_decay={max(1 - 10 / total, 0):.3g} or less"
    )


def _steps(number: int) -> str:
    return f"{number:,} step{'s' * (number != 1)}"
