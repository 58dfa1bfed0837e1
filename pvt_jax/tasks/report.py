"""What an evaluation found, for a person: a table of classes, figures, and the images that went worst."""

import abc
import csv
import heapq
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.tasks.presentation import Prediction
from pvt_jax.visualization.panels import Picture

_WORST = 16


class Report(abc.ABC):
    """Collects the images of an evaluation, one by one.

    Attributes:
      columns: of the table of classes, after label and name.
      evaluated: the metrics of the evaluation, known at its end.
    """

    columns: tuple[str, ...]

    def __init__(self, task: Any, classes: Classes):
        """``task`` is evaluated; its ``eval_source`` has the images."""
        self._task, self._classes = task, classes
        # A heap of (badness, -number, prediction): of equal ones the first stays.
        self._worst: list[Any] = []
        self.evaluated: dict[str, float] = {}

    @abc.abstractmethod
    def add(self, record: int, example: dict[str, np.ndarray], prediction: Prediction) -> None:
        """One image: its number, its arrays in the batch, and what was predicted."""

    @abc.abstractmethod
    def rows(self) -> list[tuple[Any, ...]]:
        """The values of ``columns`` for each class."""

    @abc.abstractmethod
    def figures(self) -> dict[str, bytes]:
        """PNG files by name."""

    @abc.abstractmethod
    def worst_picture(self, record: int, prediction: Prediction, badness: float) -> Picture:
        """An image with its truth and what was predicted."""

    def metrics(self) -> dict[str, float]:
        """Further numbers by name."""
        return {}

    def files(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, bytes | Picture]]:
        """(name, content) of every file; pictures are uint8 [h, w, 3]. ``metrics`` are those of the evaluation."""
        self.evaluated = dict(metrics)
        yield "metrics.json", (json.dumps({**metrics, **self.metrics()}, indent=2) + "\n").encode()
        yield "per_class.csv", self._table()
        yield from self.figures().items()
        for place, (badness, record, prediction) in enumerate(self.worst()):
            name = f"worst/{place:02d}_{record:06d}_{badness:.3f}.png"
            yield name, self.worst_picture(record, prediction, badness)

    def worst(self) -> list[tuple[float, int, Prediction]]:
        """(badness, number, prediction) of the worst images, the worst first."""
        return [(badness, -record, found) for badness, record, found in sorted(self._worst, key=_place, reverse=True)]

    def _rank(self, badness: float, record: int, prediction: Prediction) -> None:
        """Remember an image if it is one of the worst; one without fault never is."""
        if badness > 0:
            entry = (badness, -record, prediction)
            if len(self._worst) < _WORST:
                heapq.heappush(self._worst, _Entry(entry))
            elif _place(self._worst[0]) < _place(entry):
                heapq.heapreplace(self._worst, _Entry(entry))

    def _table(self) -> bytes:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("label", "name", *self.columns))
        for label, (name, values) in enumerate(zip(self._classes.names, self.rows(), strict=True)):
            table.writerow((label, name, *("" if value is None else value for value in values)))
        return text.getvalue().encode()


class _Entry(tuple):
    """Ordered by badness, then by number: arrays are not compared."""

    def __lt__(self, other: Any) -> bool:
        return _place(self) < _place(other)


def _place(entry: Sequence[Any]) -> tuple[float, int]:
    return entry[0], entry[1]


def percent(part: float, whole: float) -> float | None:
    """``part`` of ``whole`` in percent; None of nothing."""
    return round(100.0 * float(part) / float(whole), 3) if whole else None
