"""Plots of measurements, as PNG files. matplotlib draws them, which is an extra."""

import importlib
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pvt_jax.visualization.curves import plain

_MARKERS = "os^Dv<>PX*"
_DASHES = ("-", "--", "-.", ":")
# Characters that a line of the title has room for.
_TITLE = 78
# Characters that all names below an axis have room for.
_NAMES = 68


@dataclass(frozen=True)
class Line:
    """A named line: its x, ascending, and mean, lowest and highest y at each."""

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def lines(
    shown: Sequence[Line],
    title: str,
    labels: tuple[str, str],
    log: bool,
    fits: Sequence[Callable[[float], float] | None] = (),
) -> bytes:
    """Lines with bars from lowest to highest, and dotted behind each the power that ``fits`` it."""
    figure, axes = _axes(title, labels)
    if log:
        axes.set(xscale="log", yscale="log")
        ticks = sorted({x for line in shown for x in line.x})
        # Two labels in less than a fifth of a decade would overlap.
        kept = [x for i, x in enumerate(ticks) if not any(x / other < 1.25 for other in ticks[:i][-1:])]
        axes.set_xticks(kept, [f"{x:,.0f}" if x >= 1000 else f"{x:g}" for x in kept])
        axes.minorticks_off()
    for number, line in enumerate(shown):
        colour, marker = f"C{number % 10}", _MARKERS[number % len(_MARKERS)]
        below = [mean - low for mean, low in zip(line.mean, line.low, strict=True)]
        above = [high - mean for mean, high in zip(line.mean, line.high, strict=True)]
        fit = fits[number] if number < len(fits) else None
        label = plain([line.name])[0]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.3, "capsize": 2}
        axes.errorbar(line.x, line.mean, [below, above], label=label, **style)
        if fit is not None:
            axes.plot(line.x, [fit(x) for x in line.x], ":", color=colour, linewidth=1)
    return _finished(figure, axes, len(shown))


def curves(shown: Sequence[Line], title: str, labels: tuple[str, str]) -> bytes:
    """Lines with a band from lowest to highest."""
    figure, axes = _axes(title, labels)
    for number, line in enumerate(shown):
        colour = f"C{number % 10}"
        dashes = _DASHES[number // 10 % len(_DASHES)]
        axes.plot(line.x, line.mean, dashes, color=colour, linewidth=1.3, label=plain([line.name])[0])
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    return _finished(figure, axes, len(shown))


def dots(values: Mapping[str, Sequence[float]], title: str, label: str) -> bytes:
    """A row of names, above each its values and a bar at their mean."""
    figure, axes = _axes(title, ("", label))
    for number, found in enumerate(values.values()):
        axes.plot([number] * len(found), found, "o", color="C0", markersize=5, alpha=0.7)
        mean = sum(found) / len(found)
        axes.plot((number - 0.25, number + 0.25), (mean, mean), "-", color="black", linewidth=1.5)
    axes.set_xlim(-0.6, len(values) - 0.4)
    lengths = [len(name) for name in values]
    # Names beside each other have the room of one each.
    crowded = any(one + other > 2 * _NAMES / len(values) for one, other in pairwise(lengths))
    axes.set_xticks(range(len(values)), plain([*values]), rotation=30 * crowded, ha="right" if crowded else "center")
    return _finished(figure, axes, 0)


def _axes(title: str, labels: tuple[str, str]) -> tuple[Any, Any]:
    figure = importlib.import_module("matplotlib.figure").Figure((7.2, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, _TITLE)]
    axes.set_title("\n".join(lines), fontsize="medium")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    return figure, axes


def _finished(figure: Any, axes: Any, names: int) -> bytes:
    if names:
        axes.legend(fontsize="small", ncols=1 + (names > 8))
    file = io.BytesIO()
    # Without a date and a version, the same numbers give the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
