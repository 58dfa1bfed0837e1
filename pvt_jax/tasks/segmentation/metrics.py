"""Mean IoU and accuracies of semantic segmentation, from one confusion matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

# Label of ignored pixels.
_IGNORE = 255


def confusion_matrix(
    predictions: Integer[Array, "b h w"],
    labels: Integer[Array, "b h w"],
    num_classes: int,
    mask: Bool[Array, " b"] | Bool[Array, "b h w"] | None = None,
) -> Int[Array, "{num_classes} {num_classes}"]:
    """Pixels of each true class (rows) predicted as each class (columns), int32.

    Pixels labelled 255 and those where ``mask`` is False are ignored. Counts are exact below 2^31 pixels; add those of
    batches and hosts as int64 on the host.
    """
    labels = labels.astype(jnp.int32)
    counts = (labels != _IGNORE) & (labels < num_classes)
    if mask is not None:
        counts &= mask.reshape(*mask.shape, *(1,) * (3 - mask.ndim))
    cells = num_classes**2
    cell = labels * num_classes + predictions.astype(jnp.int32)
    cell = jnp.where(counts, cell, cells).reshape(len(cell), -1)
    # Per image, so that each device counts its own; one more cell collects ignored pixels.
    by_image = jax.vmap(lambda cell: jnp.zeros(cells + 1, jnp.int32).at[cell].add(1))(cell)
    return by_image.sum(0)[:cells].reshape(num_classes, num_classes)


def segmentation_metrics(matrix: Integer[np.ndarray, "k k"], class_names: Sequence[str]) -> dict[str, float]:
    """A confusion matrix → ``miou``, ``mean_accuracy``, ``pixel_accuracy`` and ``iou/NAME`` of each class, in percent.

    As in mmsegmentation, the mean IoU is over classes in the labels or predictions, the mean accuracy over classes in
    the labels. Without any pixel all three are 0.
    """
    matrix = np.asarray(matrix, np.int64)
    right, labelled, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    union = labelled + predicted - right
    shown = union > 0
    iou = 100.0 * right / np.maximum(union, 1)
    accuracy = 100.0 * right / np.maximum(labelled, 1)
    return {
        "miou": _mean(iou[shown]),
        "mean_accuracy": _mean(accuracy[labelled > 0]),
        "pixel_accuracy": 100.0 * float(right.sum()) / max(int(matrix.sum()), 1),
        **{f"iou/{name}": float(iou[k]) for k, name in enumerate(class_names) if shown[k]},
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
