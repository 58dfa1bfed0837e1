"""The report of a detection."""

from typing import Any

import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.tasks.presentation import Picture, Prediction
from pvt_jax.tasks.report import Report, percent
from pvt_jax.visualization import figures

# A detection finds an object from this IoU on, and counts in tables and confusion from this score on.
_IOU, _SCORE = 0.5, 0.3
_MOST_CURVES = 20


class DetectionReport(Report):
    """AP, precision and recall of each class, confusion with background, and the images with most errors.

    Precision, recall and confusion are of boxes with a score of at least 0.3, at an IoU of 0.5; the curves are over all
    scores. Detections in crowd regions do not count, as in COCO's evaluation.
    """

    columns = ("objects", "AP", "precision", "recall")

    def __init__(self, task: Any, classes: Classes):
        super().__init__(task, classes)
        count = len(classes.names)
        # True by found; the last row and column are background.
        self._counts = np.zeros((count + 1, count + 1), np.int64)
        self._objects = np.zeros(count, np.int64)
        self._scores: list[list[float]] = [[] for _ in classes.names]
        self._right: list[list[bool]] = [[] for _ in classes.names]

    def add(self, record: int, example: dict[str, np.ndarray], prediction: Prediction) -> None:
        objects = self._task.eval_source.objects(record)
        found = {name: prediction[name][prediction["valid"]] for name in ("boxes", "scores", "labels")}
        finite = np.isfinite(found["boxes"]).all(-1) & np.isfinite(found["scores"])
        order = np.argsort(-found["scores"][finite], kind="stable")
        boxes, scores, labels = (found[name][finite][order] for name in ("boxes", "scores", "labels"))
        there, crowd = objects.take(~objects.crowd), objects.boxes[objects.crowd]
        overlap = _iou(boxes, there.boxes)
        in_crowd = np.asarray((_share_inside(boxes, crowd) >= _IOU).any(1))
        self._objects += np.bincount(there.labels, minlength=len(self._objects))
        for label in np.unique(labels).tolist():
            mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(there.labels == label)
            matched = match(overlap[np.ix_(mine, theirs)])
            kept = (matched >= 0) | ~in_crowd[mine]
            self._scores[label] += scores[mine][kept].tolist()
            self._right[label] += (matched[kept] >= 0).tolist()
        self._rank(self._confused(overlap, scores, labels, there.labels, in_crowd), record, prediction)

    def _confused(
        self, overlap: np.ndarray, scores: np.ndarray, labels: np.ndarray, true: np.ndarray, in_crowd: np.ndarray
    ) -> float:
        """Count the confusion of an image; the number of its errors."""
        background = len(self._objects)
        shown = scores >= _SCORE
        matched = match(overlap[shown])
        counts = np.zeros_like(self._counts)
        for label, place, ignored in zip(labels[shown], matched, in_crowd[shown], strict=True):
            if place >= 0 or not ignored:
                counts[true[place] if place >= 0 else background, label] += 1
        missed = np.setdiff1d(np.arange(len(true)), matched)
        np.add.at(counts[:, background], true[missed], 1)
        self._counts += counts
        return float(counts.sum() - np.trace(counts))

    def rows(self) -> list[tuple[Any, ...]]:
        rows = []
        for k, name in enumerate(self._classes.names):
            right, scores = np.array(self._right[k], bool), np.array(self._scores[k])
            shown = scores >= _SCORE
            precision, recall = percent(right[shown].sum(), shown.sum()), percent(right[shown].sum(), self._objects[k])
            average = self.evaluated.get(f"AP/{name}")
            rows.append((int(self._objects[k]), None if average is None else round(average, 3), precision, recall))
        return rows

    def figures(self) -> dict[str, bytes]:
        names = self._classes.names
        most = [k for k in np.argsort(-self._objects, kind="stable").tolist() if self._objects[k]][:_MOST_CURVES]
        named = [(names[k], *self.precision_recall(k)) for k in most]
        return {
            "confusion.png": figures.confusion(self._counts, [*names, "background"]),
            "precision_recall.png": figures.curves(named, "recall", "precision"),
        }

    def precision_recall(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """(recall, precision) of a class, from its highest score down."""
        order = np.argsort(-np.array(self._scores[label]), kind="stable")
        right = np.cumsum(np.array(self._right[label], bool)[order])
        return right / max(int(self._objects[label]), 1), right / np.arange(1, len(order) + 1)

    def worst_picture(self, record: int, prediction: Prediction, badness: float) -> Picture:
        return self._task.picture(record, prediction)[1]


def match(overlap: np.ndarray) -> np.ndarray:
    """The object that each detection finds, -1 for none; ``overlap`` is IoU [detections, objects], best score first.

    Greedily, as COCO's evaluation does: of the objects that no better detection has found, that of the highest IoU.
    """
    free = np.ones(overlap.shape[1], bool)
    matched = np.full(len(overlap), -1)
    for row, values in enumerate(np.where(overlap >= _IOU, overlap, -1.0)):
        values = np.where(free, values, -1.0)
        if len(values) and values.max() >= 0:
            matched[row] = values.argmax()
            free[matched[row]] = False
    return matched


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def _shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    least, largest = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    return np.clip(largest - least, 0, None).prod(-1)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    shared = _shared(one.astype(np.float64), other.astype(np.float64))
    return shared / np.maximum(_areas(one)[:, None] + _areas(other)[None] - shared, 1e-9)


def _share_inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    return _shared(boxes.astype(np.float64), regions.astype(np.float64)) / np.maximum(_areas(boxes)[:, None], 1e-9)
