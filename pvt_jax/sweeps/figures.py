"""Pictures of the records of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pvt_jax.sweeps.results import Record, at, by_arm, number_at
from pvt_jax.sweeps.spec import Sweep
from pvt_jax.sweeps.statistics import Power, crossings, fit_power
from pvt_jax.visualization import plots
from pvt_jax.visualization.plots import Line


@dataclass(frozen=True)
class Lines:
    """A number against another one, a line for each value of a fact.

    Attributes:
      file: name of the PNG file.
      title: what is shown; the scale of the sweep stands below it.
      x, y: where records have the numbers, as ``"facts.side"`` and ``"values.macs"``. Seeds become their mean, with a
        bar from lowest to highest.
      x_label, y_label: with units.
      by: the fact that makes a line.
      factor: of y, as 1e-9.
      log: whether both axes are logarithmic.
      fit_from: fits a power to the points with x of at least this; None fits none. The exponents, with their standard
        errors, and each x at which two lines cross, become a table.
    """

    file: str
    title: str
    x: str
    y: str
    x_label: str
    y_label: str
    by: str
    factor: float = 1.0
    log: bool = False
    fit_from: float | None = None

    def draw(self, sweep: Sweep, records: Sequence[Record]) -> bytes | None:
        """The picture."""
        lines = [Line(name, *zip(*points, strict=True)) for name, points in self._points(records).items()]
        if not lines:
            return None
        fits = [self._fit(points) for points in self._points(records).values()]
        return plots.lines(lines, _title(self.title, sweep), (self.x_label, self.y_label), self.log, fits)

    def table(self, sweep: Sweep, records: Sequence[Record]) -> list[str]:
        """Exponents, and where lines cross."""
        points = self._points(records)
        fits = {name: self._fit(found) for name, found in points.items()}
        rows = [
            f"| {name} | {fit.exponent:.3f} | {fit.error:.3f} | {self._fitted(points[name])} |"
            for name, fit in fits.items()
            if fit is not None
        ]
        if not rows:
            return []
        from_on = f", fitted from {self.fit_from:,.0f} on" if self.fit_from else ""
        lines = [
            f"{self.title}: exponent of {self.x_label}{from_on}",
            "",
            "| " + self.by.removeprefix("facts.") + " | exponent | standard error | points |",
            "|---|---:|---:|---:|",
            *rows,
        ]
        crossed = []
        # A logarithm needs more than nothing.
        points = {name: line for name, line in points.items() if all(y > 0 for _, y, *_ in line)}
        for (one, first), (other, second) in combinations(points.items(), 2):
            shared = sorted({x for x, *_ in first} & {x for x, *_ in second})
            ys = [[next(y for at_x, y, *_ in line if at_x == x) for x in shared] for line in (first, second)]
            places = [
                f"{'rises above' if up else 'falls below'} {'it' if again else other} at {x:,.0f}"
                for again, (x, up) in enumerate(crossings(shared, *ys))
            ]
            if places:
                crossed.append(f"- {one} {' and '.join(places)} ({self.x_label}).")
        return [*lines, *(["", *crossed] if crossed else [])]

    def _points(self, records: Sequence[Record]) -> dict[str, list[tuple[float, float, float, float]]]:
        """(x, mean, lowest, highest) in ascending x, by the name of the line."""
        found: dict[str, dict[float, list[float]]] = {}
        for record in records:
            name, x, y = at(record, self.by), number_at(record, self.x), number_at(record, self.y)
            if name is not None and x is not None and y is not None:
                found.setdefault(str(name), {}).setdefault(x, []).append(y * self.factor)
        return {
            name: [(x, _mean(ys), min(ys), max(ys)) for x, ys in sorted(line.items())] for name, line in found.items()
        }

    def _fitted(self, points: Sequence[tuple[float, float, float, float]]) -> int:
        return sum(x >= (self.fit_from or 0) and y > 0 for x, y, *_ in points)

    def _fit(self, points: Sequence[tuple[float, float, float, float]]) -> Power | None:
        if self.fit_from is None:
            return None
        kept = [(x, y) for x, y, *_ in points if x >= self.fit_from and x > 0 and y > 0]
        return fit_power([x for x, _ in kept], [y for _, y in kept]) if kept else None


@dataclass(frozen=True)
class Dots:
    """A number of every arm: a dot for each seed, and their mean.

    Attributes:
      file, title: as of ``Lines``.
      y: where records have the number.
      y_label: with its unit.
      factor: of y.
    """

    file: str
    title: str
    y: str
    y_label: str
    factor: float = 1.0

    def draw(self, sweep: Sweep, records: Sequence[Record]) -> bytes | None:
        """The picture."""
        found = {}
        for arm, its in by_arm(records).items():
            numbers = [number for record in its if (number := number_at(record, self.y)) is not None]
            if numbers:
                found[arm] = [number * self.factor for number in numbers]
        return plots.dots(found, _title(self.title, sweep), self.y_label) if found else None

    def table(self, sweep: Sweep, records: Sequence[Record]) -> list[str]:
        """Nothing: the sweep's table has these numbers."""
        return []


@dataclass(frozen=True)
class Curves:
    """A metric of training runs over their steps: the mean of the seeds, and the band from lowest to highest.

    Attributes:
      file, title: as of ``Lines``.
      metric: its name, as ``top1``, or ``train_loss``.
      y_label: with its unit.
      smooth: how many points each one shown is the mean of: itself and its neighbours of the same seed, fewer at the
        ends. A training loss is that of a single batch, and its noise hides what arms differ by.
    """

    file: str
    title: str
    metric: str
    y_label: str
    smooth: int = 1

    def draw(self, sweep: Sweep, records: Sequence[Record]) -> bytes | None:
        """The picture."""
        lines = []
        for arm, its in by_arm(records).items():
            found: dict[float, list[float]] = {}
            for record in its:
                curves: Mapping[str, Any] = record.get("curves") or {}
                steps, values = curves.get(self.metric, ([], []))
                for step, value in zip(steps, _smoothed(values, self.smooth), strict=True):
                    found.setdefault(step, []).append(value)
            points = [(step, _mean(v), min(v), max(v)) for step, v in sorted(found.items())]
            if points:
                lines.append(Line(arm, *zip(*points, strict=True)))
        label = f"{self.y_label}, mean of {self.smooth} points" if self.smooth > 1 else self.y_label
        return plots.curves(lines, _title(self.title, sweep), ("step", label)) if lines else None

    def table(self, sweep: Sweep, records: Sequence[Record]) -> list[str]:
        """Nothing: curves are for the eye."""
        return []


def _mean(values: Sequence[float]) -> float:
    """Never beyond the values: the mean of equal ones may be rounded to another number."""
    return min(max(float(np.mean(values)), min(values)), max(values))


def _smoothed(values: Sequence[float], width: int) -> list[float]:
    """Centred means over ``width`` values, as many as there are."""
    before, after = (width - 1) // 2, width // 2
    return [float(np.mean(values[max(0, i - before) : i + after + 1])) for i in range(len(values))]


def _title(title: str, sweep: Sweep) -> str:
    return f"{title}\n{sweep.title}"
