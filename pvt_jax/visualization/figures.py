"""Figures of a report, as PNG files: confusion matrices and curves. matplotlib draws them, which is an extra."""

import importlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pvt_jax.visualization.curves import plain

# More classes get no names and numbers: they could not be read.
_MOST_NAMED, _MOST_NUMBERED = 60, 20


def confusion(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """The shares of each row of ``counts`` [k, k], true classes by predicted ones; a row without counts stays empty."""
    shares = normalised_rows(counts)
    side = min(4.0 + 0.28 * len(names), 16.0)
    figure = _figure(side + 1.5, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= _MOST_NAMED:
        axes.set_xticks(range(len(names)), plain(names), rotation=90)
        axes.set_yticks(range(len(names)), plain(names))
    if len(names) <= _MOST_NUMBERED:
        for row, column in np.argwhere(shares >= 0.005).tolist():
            share = shares[row, column]
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.6 else "black")
    return _png(figure)


def curves(
    named: Sequence[tuple[str, np.ndarray, np.ndarray]], x_label: str, y_label: str, *, diagonal: bool = False
) -> bytes:
    """Curves (name, x, y) in the unit square; ``diagonal`` draws the line of equal values."""
    figure = _figure(7.0, 6.0)
    axes = figure.subplots()
    if diagonal:
        axes.plot((0, 1), (0, 1), ":", color="grey", linewidth=1)
    for number, (name, x, y) in enumerate(named):
        dashes = ("-", "--", "-.", ":")[number // 10 % 4]
        marker = "o" if len(x) <= 20 else ""
        axes.plot(x, y, dashes, color=f"C{number % 10}", marker=marker, markersize=4, label=plain([name])[0])
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    if named:
        axes.legend(loc="best", fontsize="small", ncols=1 + (len(named) > 12))
    return _png(figure)


def normalised_rows(counts: np.ndarray) -> np.ndarray:
    """Rows that sum to 1; those without counts stay 0."""
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _figure(width: float, height: float) -> Any:
    return importlib.import_module("matplotlib.figure").Figure((width, height), dpi=120, layout="constrained")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
