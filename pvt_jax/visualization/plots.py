"""Plots of measurements, as PNG files. matplotlib draws them, which is an extra."""

import importlib
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvt_jax.visualization.curves import plain

_MARKERS = "os^Dv<>PX*"
_DASHES = ("-", "--", "-.", ":")
# Characters that a line of the title has room for.
_TITLE = 90
# Labels of a logarithmic axis: the decades of its range up to which 2 and 5 times a power of ten stand there, too.
_DECADES = 4


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
    """Lines with bars from lowest to highest, and dotted behind each the power that ``fits`` it.

    Logarithmic axes leave out lines that are nowhere above 0.
    """
    figure, axes = _axes(title, labels)
    if log:
        axes.set(xscale="log", yscale="log")
        _label_logarithms(axes.yaxis, [y for line in shown for y in (*line.low, *line.high) if y > 0])
        ticks = sorted({x for line in shown for x in line.x})
        # Two labels in less than a fifth of a decade would overlap.
        kept = [x for i, x in enumerate(ticks) if not any(x / other < 1.25 for other in ticks[:i][-1:])]
        axes.set_xticks(kept, [f"{x:,.0f}" if x >= 1000 else f"{x:g}" for x in kept])
        axes.minorticks_off()
    for number, line in enumerate(shown):
        if log and max(line.high) <= 0:
            continue
        colour, marker = f"C{number % 10}", _MARKERS[number % len(_MARKERS)]
        below = [mean - low for mean, low in zip(line.mean, line.low, strict=True)]
        above = [high - mean for mean, high in zip(line.mean, line.high, strict=True)]
        fit = fits[number] if number < len(fits) else None
        label = plain([line.name])[0]
        # Where a solid and a dashed line lie on each other, both are seen.
        dashes = _DASHES[number % 2]
        style = {
            "color": colour,
            "marker": marker,
            "linestyle": dashes,
            "markersize": 4,
            "linewidth": 1.3,
            "zorder": 2 + number % 2,
        }
        axes.errorbar(
            line.x, line.mean, [below, above] if any(below + above) else None, label=label, capsize=2, **style
        )
        if fit is not None:
            axes.plot(line.x, [fit(x) for x in line.x], ":", color=colour, linewidth=1)
    if any(fits):
        axes.errorbar([], [], fmt=":", color="grey", linewidth=1, label="fitted power")
    return _finished(figure, axes, len(shown))


def _label_logarithms(axis: Any, values: Sequence[float]) -> None:
    """Numbers, not powers of ten, at as many places as a reader needs."""
    ticker = importlib.import_module("matplotlib.ticker")
    few = bool(values) and max(values) / min(values) <= 10**_DECADES
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    axis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1000 else f"{y:g}")


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
    """A row for each name, from above: its values and a bar at their mean."""
    figure, axes = _axes(title, (label, ""), 1.6 + 0.28 * len(values))
    for number, found in enumerate(values.values()):
        axes.plot(found, [number] * len(found), "o", color="C0", markersize=5, alpha=0.7)
        mean = sum(found) / len(found)
        axes.plot((mean, mean), (number - 0.3, number + 0.3), "-", color="black", linewidth=1.5)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(values)), plain([*values]))
    return _finished(figure, axes, 0)


def _axes(title: str, labels: tuple[str, str], height: float = 4.8) -> tuple[Any, Any]:
    figure = importlib.import_module("matplotlib.figure").Figure((7.2, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, _TITLE)]
    figure.suptitle("\n".join(lines), fontsize="medium")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    return figure, axes


def _finished(figure: Any, axes: Any, names: int) -> bytes:
    if names and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", ncols=1 + (names > 8))
    file = io.BytesIO()
    # Without a date and a version, the same numbers give the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
