"""Curves over steps, drawn by matplotlib, which is an extra: nothing else needs it."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_jax.errors import UserError


@dataclass(frozen=True)
class Panel:
    """Axes with a title and a curve for each name: (steps, values), both of the same length, or empty."""

    title: str
    curves: Sequence[tuple[str, Sequence[int], Sequence[float]]]


def check_installed(flag: str) -> None:
    """Raises UserError: matplotlib is not installed. ``flag`` is who asks."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{flag} needs matplotlib: pip install matplotlib, or leave {flag} away")


def check_file(file: Path, flag: str) -> None:
    """Raises UserError: matplotlib is not installed, or writes no such file. ``flag`` is who asks."""
    check_installed(flag)
    known = _figure().canvas.get_supported_filetypes()
    if file.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"{flag} {file} has no ending of a picture: take {file.with_suffix('.png')}")


def write(file: Path, panels: Sequence[Panel]) -> None:
    """Draw the panels side by side; a name has one colour in all of them, and stands below with it."""
    names = list(dict.fromkeys(name for panel in panels for name, _, _ in panel.curves))
    columns = 1 if max(map(len, names)) > 60 else 2
    figure = _figure(len(panels), rows=-(-len(names) // columns))
    lines: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, steps, values in panel.curves:
            # Few points are marked: a single one has no line.
            marker = "o" if len(steps) <= 20 else ""
            colour, dashes = f"C{names.index(name) % 10}", ("-", "--", "-.", ":")[names.index(name) // 10 % 4]
            (lines[name],) = axes.plot(steps, values, dashes, color=colour, marker=marker, markersize=3, linewidth=1.3)
        axes.set_title(panel.title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.legend([lines[name] for name in names], plain(names), loc="outside lower center", ncols=columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _figure(panels: int = 1, rows: int = 1) -> Any:
    figure = importlib.import_module("matplotlib.figure").Figure
    return figure((max(5.0 * panels, 6.0), 4.0 + 0.22 * rows), dpi=150, layout="constrained")


def plain(names: Sequence[str]) -> list[str]:
    """Names in which a dollar sign starts no formula; matplotlib hides those that begin with an underscore."""
    return [("\u200b" + name if name.startswith("_") else name).replace("$", r"\$") for name in names]
