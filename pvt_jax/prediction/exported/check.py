"""Whether an export gives what its model gives, and how long both take."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from PIL import Image

from pvt_jax.prediction.exported.function import Outputs

# Seconds that timing may take for each program, and runs at most.
_SECONDS, _RUNS = 2.0, 20


@dataclass(frozen=True)
class Comparison:
    """An export and its model on a batch of images.

    Attributes:
      difference: the greatest over all outputs; see ``difference``.
      objects: detections that were compared; None if the model gives none.
      milliseconds, model_milliseconds: median time for an image.
    """

    batch: int
    difference: float
    objects: int | None
    milliseconds: float
    model_milliseconds: float


def compare(exported: Outputs, model: Outputs, images: np.ndarray) -> Comparison:
    """Run both on ``images`` [b, h, w, 3]."""
    (found, milliseconds), (expected, model_milliseconds) = (_timed(outputs, images) for outputs in (exported, model))
    worst = max(difference(found[name], expected[name]) for name in expected)
    objects = int(expected["valid"].sum()) if "valid" in expected else None
    return Comparison(len(images), worst, objects, milliseconds / len(images), model_milliseconds / len(images))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The greatest difference of floats, relative to the largest magnitude if that is above 1; of others the share.

    Infinite if shapes or types differ, or one has a number where the other has none.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not found.size:
        return 0.0
    if not np.issubdtype(expected.dtype, np.floating):
        return float((found != expected).mean())
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return float("inf")
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale


def photographs(count: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [count, h, w, 3]: scikit-learn's two photographs, and their mirror images, turned and so on, resized."""
    from sklearn.datasets import load_sample_images

    height, width = size
    views: Iterator[np.ndarray] = (
        np.rot90(image, turns)[:, ::step]
        for turns in (0, 2, 1, 3)
        for step in (1, -1)
        for image in load_sample_images().images
    )
    resized = [np.asarray(Image.fromarray(np.ascontiguousarray(view)).resize((width, height))) for view in views]
    return np.stack([resized[index % len(resized)] for index in range(count)])


def _timed(outputs: Outputs, images: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """(what it gives, median milliseconds of a run), compiled before."""
    found = jax.block_until_ready(outputs(images))
    seconds: list[float] = []
    while len(seconds) < _RUNS and (len(seconds) < 3 or sum(seconds) < _SECONDS):
        start = time.perf_counter()
        jax.block_until_ready(outputs(images))
        seconds.append(time.perf_counter() - start)
    return {name: np.asarray(values) for name, values in found.items()}, 1000 * float(np.median(seconds))
