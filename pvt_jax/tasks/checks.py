"""Checks a data set before the first step, so that a wrong one is refused within seconds and not after an epoch."""

from typing import Any

from pvt_jax.errors import UserError


def check_halves(halves: dict[str, Any], num_classes: int, on_corrupt: str, check: str) -> None:
    """Checks what the halves of every dense data set have: images, and as many classes as the model, the same in both.

    Args:
        halves: the training and the evaluation source, in this order, by what a person calls them.
        num_classes: number of classes of the model.
        on_corrupt, check: values of these keys of the config's section ``data``.

    Raises:
        UserError: what is wrong, and what to do about it.
    """
    for key, value, known in (("on_corrupt", on_corrupt, ("error", "skip")), ("check", check, ("all", "sample"))):
        if value not in known:
            raise UserError(f"data.{key} is '{value}', but it is either '{known[0]}' or '{known[1]}'")
    for half, source in halves.items():
        if not len(source):
            raise UserError(f"the {half} data has no images ({source}): check its folder or split")
    train, evaluation = halves.values()
    check_same_classes(train.class_names, evaluation.class_names)
    if (count := len(train.class_names)) != num_classes:
        raise UserError(
            f"the data set has {count:,} class{'es' * (count != 1)} but model.num_classes is {num_classes}: "
            f"set --config.model.num_classes={count}"
        )


def check_same_classes(train: tuple[str, ...], evaluation: tuple[str, ...]) -> None:
    """Raises UserError unless both halves have the same classes in the same order."""
    if tuple(train) == tuple(evaluation):
        return
    differences = [
        f"only the {half} data has {', '.join(only[:5])}{f' and {len(only) - 5} more' * (len(only) > 5)}"
        for half, only in (
            ("training", sorted(set(train) - set(evaluation))),
            ("evaluation", sorted(set(evaluation) - set(train))),
        )
        if only
    ]
    raise UserError(
        "training and evaluation data name different classes: "
        + ("; ".join(differences) or "the same names in another order, so that labels differ")
        + "; give both the same list of classes"
    )
