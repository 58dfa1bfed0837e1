"""What a run has written of a checkpoint, for others to read: its recipe without paths, and what it was measured at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvt_jax import config as config_lib
from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.training import history, workdir
from pvt_jax.weights.known import KNOWN
from pvt_jax.weights.load import step_folder
from pvt_jax.weights.places import located


@dataclass(frozen=True)
class Record:
    """A checkpoint of a run.

    Attributes:
      config: of the run, without the paths in it; empty for weights of no run.
      step: of the checkpoint; None for weights of no run.
      metrics: by name, of the evaluation at that step; empty if there was none.
      initial: the name of the published weights, or the hub's, that it started from; "" for none, or files.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    initial: str = ""


def record_of(source: str | Path, *, ema: bool = False) -> Record:
    """What is known of the checkpoint that ``source`` names, as ``load_variables`` takes it.

    Raises UserError: a file of the run is damaged.
    """
    folder = workdir.folder_of(source)
    saved = history.read_config(folder) if folder is not None else {}
    if folder is None or saved.get("task") not in TASKS or "optimizer" not in saved:
        return Record()
    initial = str(saved.get("init", {}).get("checkpoint", ""))
    initial = initial if initial in KNOWN or paths.scheme(initial) == "hf" else ""
    config = config_lib.without_paths(saved)
    place = located(source)
    if not (folder / "checkpoints").is_dir():  # A folder of the hub, which was written from a run.
        return Record(config, None, {}, initial)
    step = int(step_folder(place).name)
    try:
        lines = [line for line in history.read(folder).lines if line["split"] == "eval" and line["step"] == step]
    except UserError:  # There are no lines yet.
        lines = []
    numbers = {name: value for name, value in (lines[-1] if lines else {}).items() if isinstance(value, float)}
    averaged = {name.removeprefix("ema_"): value for name, value in numbers.items() if name.startswith("ema_")}
    plain = {name: value for name, value in numbers.items() if not name.startswith("ema_")}
    return Record(config, step, averaged if ema else plain, initial)
