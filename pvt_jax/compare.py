"""Compare runs: ``python -m pvt_jax.compare runs/*``.

A table of their best and last numbers, and with ``--plot`` their curves. RUN is a workdir, a folder with workdirs in
it, or a pattern. Exit code 1: not all could be read.
"""

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pvt_jax import commands, paths
from pvt_jax.errors import UserError
from pvt_jax.messages import escaped, listed
from pvt_jax.training import history
from pvt_jax.training.history import History
from pvt_jax.visualization import curves
from pvt_jax.visualization.curves import Panel


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags."""
    parser = commands.Parser(prog="python -m pvt_jax.compare", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="workdir, or a folder with workdirs in it, or a pattern")
    parser.add_argument("--plot", metavar="FILE", type=commands.path("--plot"), help="draw the curves, as runs.png")
    parser.add_argument("--json", action="store_true", help="print one JSON list: a run an entry, exact numbers")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Print the table, and draw the picture."""
    flags = parse(arguments)
    if flags.plot:
        curves.check_file(flags.plot, "--plot")
    problems: list[str] = []
    runs: list[History] = []
    for folder in _folders(flags.runs, problems):
        try:
            runs.append(found := history.read(folder))
        except UserError as error:
            problems.append(str(error))
            continue
        if found.unread:
            lines = listed([*map(str, found.unread)])
            problems.append(f"{folder / history.METRICS} is damaged in line {lines}: the rest of it is shown")
    if not runs:
        raise UserError("; ".join(problems))
    for problem in problems:
        print(f"note: {escaped(problem)}", file=sys.stderr)
    rows = [_row(each) for each in runs]
    if flags.json:
        print(json.dumps(rows))
    else:
        _print_table(rows)
    if flags.plot:
        curves.write(flags.plot, _panels(runs))
        print(f"drawn in {flags.plot}", file=sys.stderr)
    return 1 if problems else 0


def _folders(words: Sequence[str], problems: list[str]) -> list[Path]:
    """The workdirs that the words name, each once; what names none is added to ``problems``."""
    found: dict[Path, Path] = {}
    for word in words:
        place = paths.local(word, "RUN")
        places = [place] if Path(place).exists() else sorted(glob.glob(place))
        folders = [folder for each in places for folder in history.find(Path(each))]
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
        if not places:
            problems.append(f"no run {word}: give workdirs, folders with workdirs in them, or a pattern")
        elif not folders:
            problems.append(f"{word} is no workdir and has none in it: one has {history.CONFIG} and {history.METRICS}")
    return list(found.values())


def _row(run: History) -> dict[str, Any]:
    curve = run.curve("eval", run.best_metric)
    best_step, best = curve.best or (None, None)
    return {
        "run": str(run.folder),
        "task": run.options.task,
        "model": run.model,
        "head": run.head,
        "step": run.step,
        "total_steps": run.total_steps,
        "metric": run.best_metric,
        "best": best,
        "best_step": best_step,
        "last": curve.last,
        "loss": run.curve("train", "loss").last,
        "images_per_second": run.images_per_second,
        "training_seconds": run.training_seconds,
    }


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("run", "task", "model"):
        table.add_column(title, overflow="fold")
    for title in ("steps", "metric", "best", "at step", "last", "loss", "images/s", "training time"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            escaped(row["run"]),
            row["task"],
            f"{row['model']} + {row['head']}" if row["head"] else row["model"],
            f"{row['step']:,} of {row['total_steps']:,}" if row["total_steps"] else f"{row['step']:,}",
            row["metric"],
            _number(row["best"], ".2f"),
            _number(row["best_step"], ",d"),
            _number(row["last"], ".2f"),
            _number(row["loss"], ".4g"),
            _number(row["images_per_second"], ",.1f"),
            _time(row["training_seconds"]),
        ]
        table.add_row(*map(Text, cells))
    console = Console(highlight=False)
    # In a file or a pipe no line is broken.
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=9999)).maximum)
    console.print(table)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _panels(runs: Sequence[History]) -> list[Panel]:
    """The training loss, and a panel for each metric that ranks one of the runs."""
    kinds = [("train", "loss", "training loss")]
    kinds += [("eval", metric, metric) for metric in dict.fromkeys(run.best_metric for run in runs)]
    panels = []
    for split, name, title in kinds:
        shown = [run for run in runs if split == "train" or run.best_metric == name]
        found = [(escaped(str(run.folder)), run.curve(split, name)) for run in shown]
        panels.append(Panel(title, [(label, curve.steps, curve.values) for label, curve in found]))
    return panels


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; bad usage and bad input become one line on stderr and exit code 2."""
    return commands.run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
