"""Early stopping: a run ends when evaluations bring no better metric."""

import json
import math
from pathlib import Path


class EarlyStopping:
    """Counts evaluations in a row without a better value of a metric, higher is better.

    What it knows are the evaluations in ``metrics.jsonl`` up to the step at which a run goes on, so a run that was
    interrupted stops where it would have stopped.

    Args:
      metric: its name.
      patience: so many evaluations without a better value end the run; 0: none do.
      directory: the workdir.
      step: at which the run goes on.
    """

    def __init__(self, metric: str, patience: int, directory: Path, step: int):
        self._metric, self._patience = metric, patience
        self._values = _evaluations(directory / "metrics.jsonl", metric, step) if patience and step else {}

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics of an evaluation; those of a step that is known replace it."""
        self._values[step] = metrics[self._metric]

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return bool(self._patience) and self._since_best() >= self._patience

    @property
    def reason(self) -> str:
        """Why, as a line for the log."""
        best = self._best()
        return (
            f"stopped early after step {max(self._values):,}: in {self._since_best()} evaluations {self._metric} was "
            f"not above the {_number(self._values[best]):.4g} of step {best:,} (early_stopping.patience="
            f"{self._patience}); with a larger one the same command goes on"
        )

    def _best(self) -> int:
        """The first step with the highest value."""
        return max(sorted(self._values), key=lambda step: _number(self._values[step]))

    def _since_best(self) -> int:
        return sum(step > self._best() for step in self._values) if self._values else 0


def _number(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def _evaluations(path: Path, metric: str, step: int) -> dict[int, float]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            if record["split"] == "eval" and record["step"] <= step:
                found[record["step"]] = record[metric]
        except (json.JSONDecodeError, KeyError):  # The last line of a killed run may be cut short.
            continue
    return found
