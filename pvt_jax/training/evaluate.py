"""Evaluation: of a state, and of what a workdir has saved."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pvt_jax import config as config_lib
from pvt_jax import paths
from pvt_jax.compilation import compiler_options
from pvt_jax.config import Config
from pvt_jax.data.classes import Classes
from pvt_jax.errors import UserError
from pvt_jax.ops.target import for_devices
from pvt_jax.tasks.report import Report
from pvt_jax.tasks.task import Results, Task
from pvt_jax.training import sharding, workdir
from pvt_jax.training.build import Run, build
from pvt_jax.training.distributed import gather, say
from pvt_jax.training.reports import check_report, write_report
from pvt_jax.training.state import TrainState
from pvt_jax.training.writer import write_results

# What a checkpoint must agree on with the config that evaluates it.
_COMPARED = ("task", "model.", "head.", "ema_decay", "optimizer.frozen", "batch_transform.mean", "batch_transform.std")


@dataclass(frozen=True)
class Result:
    """How a run ended: the last step, the last evaluation (empty if none), and the signal that stopped it, if any."""

    step: int
    metrics: dict[str, float]
    stopped_by: int | None = None

    @property
    def headline(self) -> str:
        """The metrics as text."""
        return headline(self.metrics)

    @property
    def exit_code(self) -> int:
        """0, or 128 + the number of the signal that stopped the run: 143 for SIGTERM."""
        return 0 if self.stopped_by is None else 128 + self.stopped_by

    @property
    def stop_reason(self) -> str:
        """The signal's name."""
        return "" if self.stopped_by is None else signal.Signals(self.stopped_by).name


def headline(metrics: dict[str, float]) -> str:
    """The metrics as text, without details, which have a slash in their names, as those of each class."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if "/" not in name)


def evaluate(
    config: Config, directory: Path | str, step: int | str = "latest", report: Path | str | None = None
) -> Result:
    """Evaluate a checkpoint of the run in ``directory``: the ``"latest"``, the ``"best"``, or that of a step number.

    While there is none, ``"latest"`` and 0 are what a run would start from: the weights in ``init.checkpoint``. Raises
    UserError: bad input, or no such checkpoint.

    ``report`` is a folder that gets ``metrics.json``, ``per_class.csv``, figures, and the worst images in ``worst/``.
    """
    if report is not None:
        report = Path(paths.local(report, "the folder of the report"))
        check_report(report)
    directory, options = paths.workdir(directory, "the workdir"), config_lib.read(config)
    if options.init.checkpoint and step in ("latest", 0) and not workdir.has_checkpoint(directory):
        run = build(options, training=False, say=say)
        assert run.initial is not None
        # A classifier that was replaced explains a bad number.
        say(run.initial.report)
        for note in run.notes:
            say(f"note: {note}")
        return Result(0, _metrics_of(run, run.first_state(run.initial), directory, report))
    workdir.read_config(directory)
    workdir.check(directory, config, only=_COMPARED)
    past = workdir.past(directory)
    if past is not None:
        past.check_held_out(options)
    run = build(options, training=False, resumes=True, past=past, say=say)
    if past is not None and run.task.train_source is None:
        past.check_apart(options)
        say(run.data)
    for line in past.changed_data(run.description) if past else ():
        say(line)
    store = run.open_store(directory, read_only=True)
    try:
        wanted = step if isinstance(step, int) else None
        if step == "best":
            wanted = store.best(run.task.best_metric)
            if wanted is None:
                raise UserError(f"no checkpoint in {directory} was saved with an evaluation: give --step latest")
        if wanted is not None and wanted not in store.steps():
            raise UserError(f"no checkpoint of step {wanted} in {directory}: there are {store.steps()}")
        state = run.restore(store, wanted, training=False)
    finally:
        store.close()
    if state is None:
        raise UserError(f"no checkpoint in {directory}: train first")
    return Result(int(state.step), _metrics_of(run, state, directory, report))


def _metrics_of(run: Run, state: TrainState, directory: Path, place: Path | None) -> dict[str, float]:
    report = None
    if place is not None:
        data = run.description
        report = run.task.report(Classes(data.class_names, data.palette, data.category_ids))
    found = Evaluator(run.task, run.mesh, run.config.evaluation.pictures, report)(state)
    if found and jax.process_index() == 0:
        write_results(directory, found.files)
    if found and report is not None and place is not None:
        write_report(place, report, {"step": int(state.step), **found.metrics})
    return found.metrics if found else {}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: metrics by name; and pictures (name, uint8 [h, w, 3]) on the first process alone.

    ``files`` are by name with an ending, as ``detections.json``.
    """

    metrics: dict[str, float]
    pictures: list[tuple[str, np.ndarray]]
    files: dict[str, bytes]


class Evaluator:
    """A function from a state to what it reaches on the whole evaluation set; EMA metrics get the prefix ``ema_``.

    Up to ``pictures`` examples, evenly spaced in the task's order, are drawn as the parameters predict them, not their
    average. So is what ``report`` collects.
    """

    def __init__(self, task: Task, mesh: Mesh, pictures: int, report: Report | None = None):
        self._task, self._mesh, self._pictures, self._report = task, mesh, pictures, report
        self._block = sharding.host_block()
        self._batch_sharding = sharding.batch_sharding(mesh)
        self._step = jax.jit(
            for_devices(task.evaluate, mesh),
            out_shardings=(sharding.replicated(mesh), self._batch_sharding),
            compiler_options=compiler_options("infer"),
        )

    def __call__(self, state: TrainState, stop: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """None once ``stop``, which is asked before each batch, returns True."""
        variables = {"": state.variables()}
        if state.ema_params:
            variables["ema_"] = state.variables(ema=True)
        sums: dict[str, Any] = {prefix: {} for prefix in variables}
        results = {prefix: self._task.results() for prefix in variables}
        pictures, corrupt, seen = [], 0, 0
        drawn = self._drawn_numbers() if jax.process_index() == 0 else set()
        for batch in self._task.evaluation_batches(self._block, self._mesh.size):
            if stop():
                return None
            corrupt += int(batch.pop("corrupt").sum())
            records = batch.pop("record")
            on_device = sharding.to_devices(batch, self._batch_sharding)
            for prefix, values in variables.items():
                found, predictions = self._step(values, on_device)
                _add(sums[prefix], found)
                _collect(results[prefix], records, batch["mask"], predictions)
                if not prefix and self._report is not None:
                    _add_to(self._report, records, batch, predictions)
                if not prefix and drawn:
                    examples = enumerate(np.flatnonzero(records >= 0).tolist(), start=seen)
                    here = [row for number, row in examples if number in drawn and batch["mask"][row]]
                    pictures += self._draw(records, here, predictions)
            seen += int((records >= 0).sum())
        metrics, files = {}, {}
        for prefix, total in sums.items():
            found = self._task.metrics(total)
            if (result := results[prefix]) is not None:
                result.merge(gather(result.to_bytes()) if self._block[1] > 1 else [])
                found |= result.metrics()
                files |= {prefix + name: content for name, content in result.files().items()}
            metrics |= {prefix + name: value for name, value in found.items()}
        return Evaluation({**metrics, **({"corrupt_images": corrupt} if corrupt else {})}, pictures, files)

    def _drawn_numbers(self) -> set[int]:
        """Which of the evaluation examples that this process sees are drawn, counted without padding.

        It has at least its share of them: batches are filled up at their ends, and its block is the first.
        """
        here = len(self._task.eval_source) // self._block[1]
        return set(np.linspace(0, max(here - 1, 0), self._pictures).astype(int).tolist())

    def _draw(self, records: np.ndarray, rows: list[int], predictions: Any) -> list[tuple[str, np.ndarray]]:
        if not rows:
            return []
        local = jax.tree.map(sharding.local_rows, predictions)
        drawn = (self._task.picture(int(records[row]), jax.tree.map(lambda x, row=row: x[row], local)) for row in rows)
        return [picture for picture in drawn if picture is not None]


def _collect(results: Results | None, records: np.ndarray, mask: np.ndarray, predictions: Any) -> None:
    """Hand on what was predicted for the records of this process that there are."""
    if results is not None:
        rows = np.flatnonzero((records >= 0) & mask)
        local = jax.tree.map(sharding.local_rows, predictions)
        results.add(records[rows], jax.tree.map(lambda x: x[rows], local))


def _add_to(report: Report, records: np.ndarray, batch: dict[str, np.ndarray], predictions: Any) -> None:
    local = jax.tree.map(sharding.local_rows, predictions)
    for row in np.flatnonzero((records >= 0) & batch["mask"]).tolist():
        example = {name: values[row] for name, values in batch.items()}
        report.add(int(records[row]), example, jax.tree.map(lambda x, row=row: x[row], local))


def _add(total: dict[str, Any], found: dict[str, jax.Array]) -> None:
    """Add in float64, in which counts of pixels stay exact up to 2^53."""
    for name, value in found.items():
        total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
