"""Where numbers, pictures and results go: files of the workdir, TensorBoard, and the terminal."""

import contextlib
import datetime
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import rich.console
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.training.mirror import Mirror
from pvt_jax.training.tracking import Tracker


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Importing ``module`` fails inside, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules[module]


# For one annotation tensorboardX imports PyTorch where it is installed, which takes longer than all other imports.
with _without("torch"):
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]


class MetricsWriter:
    """One JSON object a line, ``step`` and ``split`` first; and the same for TensorBoard, and for a ``tracker`` if any.

    On a resume, lines after ``start_step`` are dropped: the run will write them again. A bucket gets the files now and
    then, see ``Mirror``.
    """

    def __init__(self, workdir: Path, start_step: int, tracker: Tracker | None = None):
        self._folder, self._tracker = workdir, tracker
        with self._storage_errors():
            self._mirror = Mirror(workdir, ("metrics.jsonl",))
            folder = self._mirror.folder
            _keep_lines(folder / "metrics.jsonl", start_step)
            self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            (folder / "tensorboard").mkdir(exist_ok=True)
            # Not tensorboardX's SummaryWriter: its thread would meet a full disk where nobody can answer.
            self._board = EventsWriter(str(folder / "tensorboard" / "events"))
            # TensorBoard then hides what a killed run wrote after the checkpoint.
            log = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=log))

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append one line and flush it. Raises UserError if the disk is full."""
        with self._storage_errors():
            # JSON knows no NaN; a skipped update has one.
            finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            self._file.write(json.dumps({"step": step, "split": split, **finite}, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                scalar = summary.scalar(f"{split}/{name}", value)
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            self._board.flush()
            self._mirror.send(at_once=split == "eval")
        if self._tracker:
            self._tracker.log(step, split, metrics)

    def flush(self) -> None:
        """Have all that was written in the workdir. Raises UserError if it cannot be."""
        with self._storage_errors():
            self._mirror.send(at_once=True)

    def write_examples(self, picture: np.ndarray) -> Path:
        """A sheet of training examples, uint8 [h, w, 3], as ``examples.png``; returns its path."""
        name = "examples.png"
        with self._storage_errors():
            Image.fromarray(picture).save(self._mirror.folder / name)
        return self._folder / name

    def write_pictures(self, step: int, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
        """Pictures (name, uint8 [h, w, 3]) as PNG files in ``pictures/STEP/``, and in TensorBoard."""
        if not pictures:
            return
        folder = self._mirror.folder / "pictures" / str(step)
        with self._storage_errors():
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures:
                encoded = io.BytesIO()
                Image.fromarray(picture).save(encoded, "PNG")
                data, (height, width, _) = encoded.getvalue(), picture.shape
                (folder / f"{name}.png").write_bytes(data)
                shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
                value = Summary(value=[Summary.Value(tag=f"eval/{name}", image=shown)])
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=value))
            self._board.flush()
        if self._tracker:
            self._tracker.log_pictures(step, dict(pictures))

    def close(self) -> None:
        """Flush and close all."""
        if self._tracker:
            self._tracker.close()
        with self._storage_errors():
            self._file.close()
            self._board.close()
            self._mirror.close()

    def _storage_errors(self) -> contextlib.AbstractContextManager[None]:
        return _storage_errors("metrics", self._folder)


def write_results(workdir: Path, files: Mapping[str, bytes]) -> None:
    """Files by name in ``results/``, in place of those of an earlier evaluation. Raises UserError if the disk is full.

    A file is there in whole or not at all.
    """
    if not files:
        return
    folder = workdir / "results"
    with _storage_errors("results", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            # An evaluation beside a run writes to the same folder.
            paths.write_whole(folder / name, content, folder / f"{name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def _storage_errors(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {folder}: {(error.strerror or str(error)).lower()}. Make room or fix the "
            "permission, and run the same command again"
        ) from error


def _keep_lines(path: Path, last_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue  # The last line of a killed run may be cut short.
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


class Display:
    """Progress on stderr: a live bar on a terminal, one line a report elsewhere. Silent if not ``enabled``."""

    def __init__(self, total_steps: int, start_step: int, batch_size: int, enabled: bool):
        self._console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True, quiet=not enabled)
        self._total, self._batch_size = total_steps, batch_size
        self._bar: Progress | None = None
        if self._console.is_terminal and enabled:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("training", total=total_steps, completed=start_step)
            self._bar.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Show the training numbers of a step."""
        text = f"loss {metrics['loss']:.4f}  {metrics['images_per_second']:,.0f} images/s"
        text += f"  data wait {metrics['data_wait']:.0f} %"
        if self._bar:
            self._bar.update(self._task, description=text, completed=step)
            return
        rate = metrics["images_per_second"]
        left = (self._total - step) * self._batch_size
        eta = datetime.timedelta(seconds=round(left / rate)) if rate else "unknown"
        self.say(f"step {step}/{self._total}  {text}  learning rate {metrics['learning_rate']:.2e}  ETA {eta}")

    def close(self) -> None:
        """Take the bar down."""
        if self._bar:
            self._bar.stop()
