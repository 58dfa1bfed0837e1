"""What a run has written into its workdir, read without jax: its config, its data in words, and its metrics."""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_jax import paths
from pvt_jax.data.description import DataDescription
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.training.options import RunOptions

CONFIG, DATA, METRICS, SUMMARY = "config.json", "data.json", "metrics.jsonl", "summary.json"
# How the error begins of a run that diverged.
DIVERGED = "the gradient was not finite"


def read_config(workdir: Path) -> dict:
    """The config that the run in ``workdir`` was started with, as plain dicts."""
    path = workdir / CONFIG
    try:
        return json.loads(paths.read_text(path))
    except FileNotFoundError:
        raise UserError(f"no config.json in {workdir}: this is not the --workdir of a run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def read_data(workdir: Path) -> DataDescription | None:
    """The classes and the data of the run in ``workdir``, from its ``data.json``.

    None for the run of an older version, which has no such file. Raises UserError: the file is damaged.
    """
    path = workdir / DATA
    try:
        return DataDescription.from_json(paths.read_text(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or remove it to have it written anew by "
            "the next start, which then compares no classes"
        ) from error


def read_summary(workdir: Path) -> dict[str, Any]:
    """The size of the run in ``workdir``, and what it last ran on; see ``introduction.summary``.

    Raises UserError: there is none, as in the run of an older version, or it is damaged.
    """
    path = workdir / SUMMARY
    try:
        return json.loads(paths.read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): start the run again, which writes it") from error


@dataclass(frozen=True)
class Curve:
    """Values of a metric by step, in ascending steps; those that are not finite are left out."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float | None:
        """None if there is none; so is the best, which is the first of equals."""
        return self.values[-1] if self.values else None

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, value) of the highest value."""
        return max(zip(self.steps, self.values, strict=True), key=lambda point: point[1], default=None)


@dataclass(frozen=True)
class History:
    """A run as its files tell it.

    Attributes:
      options: the keys of its length and batch.
      model, head: their names; a classifier has no head.
      best_metric: the name of the metric that ranks its checkpoints, higher is better.
      total_steps: None if the run did not write how many examples it has.
      lines: of ``metrics.jsonl``, each with ``step`` and ``split``.
      unread: the numbers of lines before the last one that could not be read, from 1.
    """

    folder: Path
    options: RunOptions
    model: str
    head: str
    best_metric: str
    total_steps: int | None
    lines: tuple[dict[str, Any], ...]
    unread: tuple[int, ...]

    @property
    def step(self) -> int:
        """The last one that was written."""
        return max(line["step"] for line in self.lines)

    def curve(self, split: str, metric: str) -> Curve:
        """A metric of ``"train"`` or ``"eval"``."""
        found = [(line["step"], _number(line.get(metric))) for line in self.lines if line["split"] == split]
        points = sorted((step, value) for step, value in found if value is not None)
        return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))

    @property
    def images_per_second(self) -> float | None:
        """The median of the training lines; the first of a start, which is mostly compilation, has none."""
        rates = [rate for rate in self.curve("train", "images_per_second").values if rate > 0]
        return statistics.median(rates) if rates else None

    @property
    def training_seconds(self) -> float | None:
        """What the steps took, by the rate of each line, or the median where it has none: without compilation,
        evaluations and pauses."""
        usual, seconds, before = self.images_per_second, 0.0, 0
        if usual is None:
            return None
        for line in self.lines:
            if line["split"] == "train" and line["step"] > before:
                rate = max(_number(line.get("images_per_second")) or 0.0, 0.0)
                seconds += (line["step"] - before) * self.options.batch_size / (rate or usual)
                before = line["step"]
        return seconds


def read(folder: Path) -> History:
    """The run in ``folder``. A last line that was cut short, as a kill leaves it, is passed over.

    Raises UserError: it is not the workdir of a run, or a file of it is damaged, or it has no metrics yet.
    """
    config = read_config(folder)
    try:
        options = RunOptions(**{name: config[name] for name in ("task", "batch_size", "epochs", "steps")})
        model, head = str(config["model"]["name"]), str(config.get("head", {}).get("name", ""))
        metric = TASKS[options.task].config.best_metric
        data = read_data(folder)
        known = options.steps is not None or data is not None
        total = options.total_steps(data.train.records if data else 0) if known else None
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{folder / CONFIG} is not the config of a training run ({type(error).__name__}: {error}): give its workdir"
        ) from error
    lines, unread = _read_lines(folder / METRICS)
    if not lines:
        raise UserError(f"{folder} has no metrics yet: the first are written after log_every_steps steps")
    return History(folder, options, model, head, metric, total, lines, unread)


def find(place: Path) -> Sequence[Path]:
    """The workdirs that ``place`` names: it is one, or a file in one, or has some below it. Sorted; empty if none."""
    if place.name in (CONFIG, METRICS) and place.is_file():
        place = place.parent
    if any((place / name).is_file() for name in (CONFIG, METRICS)):
        return [place]
    found = []
    for folder, below, files in os.walk(place):
        if METRICS in files:
            found.append(Path(folder))
            below.clear()
    return sorted(found)


def _read_lines(path: Path) -> tuple[tuple[dict[str, Any], ...], tuple[int, ...]]:
    """(lines, numbers of those before the last that could not be read). No file is an empty one."""
    try:
        texts = path.read_bytes().splitlines()
    except FileNotFoundError:
        texts = []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    lines, unread = [], []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            line["step"], line["split"] = int(line["step"]), str(line["split"])
            lines.append(line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if text.strip() and number < len(texts):
                unread.append(number)
    return tuple(lines), tuple(unread)


def _number(value: Any) -> float | None:
    """None for what is not a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None
