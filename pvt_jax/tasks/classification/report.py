"""The report of a classification."""

from typing import Any

import numpy as np
from PIL import Image

from pvt_jax.data.classes import Classes
from pvt_jax.files.images import decoded
from pvt_jax.tasks.classification.presentation import ClassificationPresentation
from pvt_jax.tasks.presentation import Picture, Prediction
from pvt_jax.tasks.report import Report
from pvt_jax.visualization import figures
from pvt_jax.visualization.panels import composed

_BINS = 15


class ClassificationReport(Report):
    """Precision, recall and F1 of each class, confusion, reliability, and the images with the highest loss."""

    columns = ("images", "precision", "recall", "f1")

    def __init__(self, task: Any, classes: Classes):
        super().__init__(task, classes)
        self._true: list[int] = []
        self._predicted: list[int] = []
        self._confidence: list[float] = []

    def add(self, record: int, example: dict[str, np.ndarray], prediction: Prediction) -> None:
        logits, label = np.asarray(prediction["logits"], np.float64), int(example["label"])
        log_shares = logits - logits.max()
        log_shares -= np.log(np.exp(log_shares).sum())
        best = int(np.argmax(log_shares))
        self._true.append(label)
        self._predicted.append(best)
        self._confidence.append(float(np.exp(log_shares[best])))
        if best != label:
            self._rank(-float(log_shares[label]), record, prediction)

    def rows(self) -> list[tuple[Any, ...]]:
        from sklearn.metrics import precision_recall_fscore_support  # takes a second, which no training needs

        labels = range(len(self._classes.names))
        scores: Any = precision_recall_fscore_support(
            self._true,
            self._predicted,
            labels=labels,
            zero_division=0.0,  # pyright: ignore[reportArgumentType]
        )
        predicted = np.bincount(self._predicted, minlength=len(labels))
        rows = []
        for label, (precision, recall, f1, images) in enumerate(zip(*scores, strict=True)):
            # Of no image, and of no prediction, there is no share.
            values = (precision if predicted[label] else None, recall if images else None, f1 if images else None)
            rows.append((int(images), *(None if value is None else round(100 * float(value), 3) for value in values)))
        return rows

    def figures(self) -> dict[str, bytes]:
        from sklearn.metrics import confusion_matrix

        counts = confusion_matrix(self._true, self._predicted, labels=range(len(self._classes.names)))
        confidence, accuracy, _ = self.reliability()
        curve = figures.curves([("this model", confidence, accuracy)], "confidence", "accuracy", diagonal=True)
        return {"confusion.png": figures.confusion(counts, self._classes.names), "reliability.png": curve}

    def reliability(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(mean confidence, accuracy) of each bin of equal width that has images, and the expected calibration error.

        Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), with 15 bins.
        """
        confidence = np.array(self._confidence)
        right = np.array(self._true) == np.array(self._predicted)
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        counts = np.bincount(bins, minlength=_BINS)
        used = counts > 0
        means = np.bincount(bins, confidence, _BINS)[used] / counts[used]
        accuracy = np.bincount(bins, right, _BINS)[used] / counts[used]
        error = float((counts[used] * np.abs(means - accuracy)).sum() / max(counts.sum(), 1))
        return means, accuracy, error

    def metrics(self) -> dict[str, float]:
        return {"calibration_error": 100.0 * self.reliability()[2]}

    def worst_picture(self, record: int, prediction: Prediction, badness: float) -> Picture:
        source = self._task.eval_source
        image = decoded(source[record]["image"], source.name(record), self._task.reading)
        true = self._classes.names[self._true_of(record)]
        presentation = ClassificationPresentation(self._classes, top_k=3, min_score=0.0)
        found = Image.fromarray(presentation.picture(image, prediction))
        return composed({f"{true}, loss {badness:.2f}": found}, [])

    def _true_of(self, record: int) -> int:
        return int(self._task.eval_source[record]["label"])
