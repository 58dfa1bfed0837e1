"""The report of a segmentation."""

from typing import Any

import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.tasks.presentation import Picture, Prediction
from pvt_jax.tasks.report import Report, percent
from pvt_jax.visualization import figures


class SegmentationReport(Report):
    """IoU, precision and recall of each class, confusion, and the images with the largest share of wrong pixels."""

    columns = ("pixels", "iou", "precision", "recall")

    def __init__(self, task: Any, classes: Classes):
        super().__init__(task, classes)
        count = len(classes.names)
        self._counts = np.zeros((count, count), np.int64)

    def add(self, record: int, example: dict[str, np.ndarray], prediction: Prediction) -> None:
        count = len(self._classes.names)
        true, predicted = example["label_map"], prediction["label_map"]
        labelled = true < count
        cells = true[labelled].astype(np.int64) * count + predicted[labelled]
        counts = np.bincount(cells, minlength=count**2).reshape(count, count)
        self._counts += counts
        if labelled.any():
            height, width = example["label_size"].tolist()
            self._rank(1.0 - np.trace(counts) / counts.sum(), record, {"label_map": predicted[:height, :width].copy()})

    def rows(self) -> list[tuple[Any, ...]]:
        right, true, predicted = np.diag(self._counts), self._counts.sum(1), self._counts.sum(0)
        return [
            (
                int(true[k]),
                percent(right[k], true[k] + predicted[k] - right[k]),
                percent(right[k], predicted[k]),
                percent(right[k], true[k]),
            )
            for k in range(len(right))
        ]

    def figures(self) -> dict[str, bytes]:
        return {"confusion.png": figures.confusion(self._counts, self._classes.names)}

    def worst_picture(self, record: int, prediction: Prediction, badness: float) -> Picture:
        return self._task.picture(record, prediction)[1]
