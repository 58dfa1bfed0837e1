"""Checks of the settings of backbones and heads; what fails is a UserError that names the setting in a config."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from pvt_jax.errors import UserError


def check(module: nn.Module, rule: str, holds: Callable[[Any], bool], *names: str, section: str = "head") -> None:
    """Raise UserError unless the settings ``names`` of ``module`` follow a rule, which is also given in words."""
    for name in names:
        value = getattr(module, name)
        if not holds(value):
            raise UserError(f"{section}.{name} must be {rule}, but is {value}")


def check_counts(module: nn.Module, *names: str, section: str = "head") -> None:
    """Raise UserError unless the settings are positive integers."""
    check(module, "a whole number above 0", _is_count, *names, section=section)


def check_num_classes(module: nn.Module) -> None:
    """Raise UserError unless there is a class."""
    check(module, "above 0", lambda number: number > 0, "num_classes", section="model")


def check_stages(module: nn.Module, *names: str) -> None:
    """Raise UserError unless each setting has four positive integers, one per stage, and heads divide channels."""
    rule = "four whole numbers above 0, one per stage"
    check(module, rule, lambda values: are_counts(values) and len(values) == 4, *names, section="model")
    for dim, heads in zip(module.dims, getattr(module, "num_heads", (1, 1, 1, 1)), strict=True):
        if dim % heads:
            raise UserError(f"model.dims must be multiples of model.num_heads, but {dim} is not a multiple of {heads}")


def check_reductions(
    height: int, width: int, patches: Sequence[int], sr_ratios: Sequence[int], *, round_up: bool = False
) -> None:
    """Raise UserError for an image too small for a stage's spatial reduction.

    ``patches`` are the factors by which the stages downsample; sides that they do not divide round down or up.
    """
    stride = 1
    for i, (patch, ratio) in enumerate(zip(patches, sr_ratios, strict=True)):
        stride *= patch
        least = stride * (ratio - 1) + 1 if round_up else stride * ratio
        if min(height, width) < least:
            raise UserError(
                f"an image of {height}×{width} is too small: stage {i + 1} has stride {stride} and reduces its map "
                f"by {ratio} for attention, so both sides must be at least {least}"
            )


def table_side(image_size: int | Sequence[int], stride: int, section: str = "model") -> tuple[int, int]:
    """(height, width) of the images that position tables are for, both at least ``stride``.

    Raises:
      UserError: ``image_size`` is neither one side nor two, or too small.
    """
    sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= stride for side in sides):
        raise UserError(
            f"{section}.image_size must be a side of at least {stride}, or (height, width), but is {image_size}"
        )
    return sides[0], sides[1]


def are_counts(values: Any) -> bool:
    """Whether a value is a list of positive integers."""
    return isinstance(values, Sequence) and all(map(_is_count, values))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0
