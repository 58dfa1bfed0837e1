"""Where the numbers go: ``metrics.jsonl``, TensorBoard, and the terminal."""

import datetime
import json
import os
from pathlib import Path

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from pvt_jax.errors import UserError


class MetricsWriter:
    """One JSON object a line, ``step`` and ``split`` first, and the same numbers as TensorBoard scalars.

    On a resume, lines after ``start_step`` are dropped: the run will write them again.
    """

    def __init__(self, workdir: Path, start_step: int):
        path = workdir / "metrics.jsonl"
        _keep_lines(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append one line and flush it. Raises UserError if the disk is full."""
        try:
            self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._file.name}: {error.strerror}. Make room and run again") from error
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


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
