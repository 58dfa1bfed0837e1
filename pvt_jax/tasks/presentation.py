"""What a person gets of predictions: fields of JSON lines, files, rows of a table, pictures; and of examples."""

import abc
from typing import Any

import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.visualization.panels import Picture

# What ``Task.evaluate`` predicts for one image, by name, without the axis of the batch.
Prediction = dict[str, np.ndarray]


class Presentation(abc.ABC):
    """Predictions of one task, image by image.

    Attributes:
      columns: of a table with a row an image; empty for no table.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, classes: Classes, *, top_k: int, min_score: float):
        """``top_k``: labels of an image, best first. ``min_score``: the least that is drawn of objects."""
        self._classes, self._top_k, self._min_score = classes, top_k, min_score

    @abc.abstractmethod
    def fields(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, Any]:
        """What was predicted for an image of ``size`` (height, width), as plain values of JSON."""

    @abc.abstractmethod
    def picture(self, image: Picture, prediction: Prediction) -> Picture:
        """The image, uint8 [h, w, 3], with what was predicted."""

    @abc.abstractmethod
    def example(self, image: Picture, target: Prediction) -> tuple[str, Picture]:
        """(target in words, the image with it drawn) of one example of ``Task.prepare``.

        ``image`` is uint8 [h, w, 3], ``target`` what the batch holds besides.
        """

    def files(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, bytes]:
        """PNG files by the name of the field that refers to each."""
        return {}

    def row(self, fields: dict[str, Any]) -> tuple[Any, ...]:
        """The values of ``columns`` from ``fields``."""
        return ()
