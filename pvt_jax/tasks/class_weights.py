"""Weights of classes in the loss."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.messages import escaped_name, listed


def class_weights(
    chosen: Sequence[float] | Literal["balanced"], num_classes: int, counts: Callable[[], np.ndarray]
) -> np.ndarray | None:
    """Returns the weight of each class, float32 [num_classes]; None where all are 1.

    Balanced weights are inverse to ``counts``, as scikit-learn's: their mean over what is counted is 1. A class that
    does not occur has 0. Raises UserError: another number of weights than classes, or none above 0.

    Args:
      chosen: ``loss.class_weights``.
      num_classes: of the model.
      counts: how many images, or pixels, there are of each class; only called for balanced weights.
    """
    if not len(chosen):
        return None
    if isinstance(chosen, str):
        found = np.asarray(counts(), np.float64)
        return np.divide(
            found.sum(), found * np.count_nonzero(found), out=np.zeros_like(found), where=found > 0
        ).astype(np.float32)
    if len(chosen) != num_classes:
        raise UserError(
            f"loss.class_weights has {len(chosen)} numbers but model.num_classes is {num_classes}: give one for each "
            f"class, in their order, or balanced"
        )
    if not any(chosen):
        raise UserError("loss.class_weights are all 0: give those that count a weight above 0")
    return np.asarray(chosen, np.float32)


def describe_weights(weights: np.ndarray | None, names: Sequence[str]) -> list[str]:
    """Returns a note on the weights; none if there are none."""
    if weights is None:
        return []
    pairs = [f"{escaped_name(name)} {weight:.4g}" for name, weight in zip(names, weights.tolist(), strict=True)]
    return [f"weights in the loss: {listed(pairs)} (loss.class_weights)"]
