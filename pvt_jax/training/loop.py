"""The one training loop."""

import collections
import contextlib
import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pvt_jax import config as config_lib
from pvt_jax import paths
from pvt_jax.config import Config
from pvt_jax.errors import UserError
from pvt_jax.messages import plural, waiting
from pvt_jax.training import pace, profiling, sharding, tracking, workdir
from pvt_jax.training.build import Run, build, read_initial
from pvt_jax.training.distributed import say
from pvt_jax.training.evaluate import Evaluator, Result, evaluate, headline
from pvt_jax.training.examples import draw, prepared_part, presentation_of
from pvt_jax.training.history import DIVERGED
from pvt_jax.training.introduction import introduction, summary
from pvt_jax.training.kernels import check_kernels
from pvt_jax.training.lock import Lock, lock_of
from pvt_jax.training.preemption import Preemption
from pvt_jax.training.state import TrainState
from pvt_jax.training.step import jitted_train_step
from pvt_jax.training.stopping import EarlyStopping
from pvt_jax.training.store import CheckpointStore
from pvt_jax.training.tracking import Tracker
from pvt_jax.training.writer import Display, MetricsWriter, write_results
from pvt_jax.visualization.panels import sheet

__all__ = ["Result", "evaluate", "train"]

# Steps that may run ahead of the host: enough to keep a device busy, few enough to notice trouble soon.
_IN_FLIGHT = 2
# How many of the first batch are drawn.
_EXAMPLES = 16
_COMPILING = "compiling the first step, which may take minutes"


def train(config: Config, directory: Path | str, *, extend: bool = False, quiet: bool = False) -> Result:
    """Train as ``config`` says, in ``directory``; run again, it goes on where its last checkpoint stands.

    It may run in any thread; in another than the main one no signals are handled. Raises UserError: bad input, another
    process that trains there, or gradients that are not finite too many times in a row.

    Args:
      config: a full config, see ``pvt_jax.config``.
      directory: the workdir; made if it does not exist.
      extend: the run in ``directory`` may be shorter than ``config`` says, and is then trained on.
      quiet: show nothing on stderr.
    """
    directory = paths.workdir(directory, "the workdir")
    try:
        with lock_of(directory, _silent if quiet else say) as lock:
            return _train(config, directory, lock, extend, quiet)
    except RuntimeError as error:
        if threading.main_thread().is_alive() or "shutdown" not in str(error):
            raise
        raise UserError(
            "the main thread has ended, after which Python starts no more threads: let it wait for the thread that "
            "trains, as with thread.join(), and start again to go on from the last checkpoint"
        ) from error


def _train(config: Config, directory: Path, lock: Lock, extend: bool, quiet: bool) -> Result:
    # Of several processes of a run the first one holds the lock for all.
    first_process = jax.process_index() == 0
    if first_process:
        tracking.check(config.tracking)
    if first_process and directory.is_dir():
        lock.take()
    workdir.check(directory, config, extend=extend)
    past = workdir.past(directory)
    told = _silent if quiet else say
    with waiting("looking at the data and the weights", told):
        run = build(config_lib.read(config), resumes=past is not None, past=past, say=None if quiet else say)
    if past is not None:
        past.check_length(run.config, run.lengths, run.description.train.records)
    profiling.check_window(run.config.profile_steps, run.lengths.total)
    check_kernels(run.config, run.mesh, told)
    # Made only now, so that a run that never began does not claim the folder.
    if first_process:
        workdir.make(directory)
        if lock.take() and workdir.has_checkpoint(directory):
            raise UserError(f"another process has just trained in {directory}: start again to go on from there")
        workdir.create(directory, config, run.description, run.task.held_out())
        workdir.write_summary(directory, summary(run))
    store = run.open_store(directory)
    try:
        with Preemption() as preemption:
            with waiting("reading the checkpoint", told):
                state, loaded = run.restore(store), ""
            if state is None:
                # What looked like a checkpoint may be none.
                initial = run.initial or read_initial(run.config, run.task)
                with waiting("compiling the first parameters", told):
                    state, loaded = run.first_state(initial), initial.report
                # The weights on the host have had their use.
                run, initial = dataclasses.replace(run, initial=None), None
            trainer = _Trainer(run, store, directory, state, quiet)
            changes = past.changes(run.config, run.lengths, run.description, trainer.step) if past else []
            trainer.introduce(loaded, changes)
            try:
                return trainer.go(preemption)
            finally:
                trainer.close()
    finally:
        store.close()


def _silent(text: str) -> None:
    pass


class _Trainer:
    """One process's part of a run, from its first step to its last."""

    def __init__(self, run: Run, store: CheckpointStore, directory: Path, state: TrainState, quiet: bool):
        self.run, self.store, self.state = run, store, state
        self.directory = directory
        self.config = config = run.config
        self.step = self.saved_step = int(state.step)
        self.metrics: dict[str, float] = {}
        self.corrupt = 0
        self.stopping = EarlyStopping(run.task.best_metric, config.early_stopping.patience, directory, self.step)
        main_process = jax.process_index() == 0
        tracker = self._tracker() if main_process and config.tracking else None
        self.writer = MetricsWriter(directory, self.step, tracker) if main_process else None
        self.display = Display(run.lengths.total, self.step, config.batch_size, enabled=main_process and not quiet)
        self.evaluator = Evaluator(run.task, run.mesh, config.evaluation.pictures)
        self.batch_sharding = sharding.batch_sharding(run.mesh)
        self.train_step = jitted_train_step(config, run.task, run.optimizer, run.abstract, run.mesh)
        schedule_and_key = run.learning_rate, jax.random.key(config.seed)
        self.learning_rate, self.key = sharding.copied(schedule_and_key, run.mesh)
        self.pending: collections.deque[tuple[int, Any]] = collections.deque()
        self.pace = pace.Pace(config.batch_size)

    def _tracker(self) -> Tracker:
        service, project = self.config.tracking, self.config.tracking_project
        described = workdir.read_config(self.directory)
        return Tracker(service, project, self.directory, described, lambda text: self.display.say(text))

    def introduce(self, loaded: str, changes: list[str]) -> None:
        """Say what is about to happen: what was ``loaded``, what the run is, and what has changed since it began."""
        config = self.config
        for text in (*filter(None, [loaded]), *introduction(self.run), *changes):
            self.display.say(text)
        for note in self.run.notes:
            self.display.say(f"note: {note}")
        if self.step:
            unread = "; init.checkpoint is not read again" if config.init.checkpoint else ""
            self.display.say(f"resuming after step {self.step}{unread}")

    def go(self, preemption: Preemption) -> Result:
        """Run to the last step, or to a signal."""
        self.preemption = preemption
        say = self.display.say
        profiler = profiling.Profiler(
            self.config.profile_steps,
            self.directory,
            self.step,
            drain=self._drain,
            written=lambda: self.pace.begin(self.step),
            say=say,
        )
        if self.step and self._evaluation_due() and not self.store.has_metrics(self.step):
            self._evaluate()  # The run stopped between this step and its evaluation.
        batches, first = self.run.task.training_batches(self.step, sharding.host_block()), True
        try:
            while self.step < self.run.lengths.total and not self.stopping.is_over:
                if preemption.requested(self.step):
                    self._drain()
                    self._save()
                    self.store.wait()
                    return Result(self.step, self.metrics, preemption.signal_number)
                with profiler.step(self.step + 1):
                    with waiting("waiting for the first batch", say) if first else contextlib.nullcontext():
                        batch = self.pace.next_batch(batches)
                    with waiting(_COMPILING, say) if first else contextlib.nullcontext():
                        self._advance(batch)
                first = False
                self._after_step()
        except UserError:
            # What was computed is good; only what should come next is not. Of several processes the others may not know
            # of the trouble, and saving needs all: there the last checkpoint has to do.
            if jax.process_count() == 1:
                with contextlib.suppress(UserError):  # The numbers in flight may tell of the same trouble.
                    self._drain()
                self._save()
                self.store.wait()
            raise
        finally:
            profiler.close()
            batches.close()
        self.store.wait()
        if self.stopping.is_over and self.step < self.run.lengths.total:
            self.display.say(self.stopping.reason)
        if not self.metrics and preemption.signal_number is not None:  # It cut the last evaluation off.
            return Result(self.step, self.metrics, preemption.signal_number)
        if not self.metrics:  # Nothing was left to do.
            found = self.evaluator(self.state)
            self.metrics = found.metrics if found else {}
        return Result(self.step, self.metrics)

    def close(self) -> None:
        """Close files and the display."""
        self.pace.close()
        self.display.close()
        if self.writer:
            self.writer.close()

    def _advance(self, batch: dict[str, np.ndarray]) -> None:
        self.corrupt += int(batch.pop("corrupt").sum())
        on_device = sharding.to_devices(batch, self.batch_sharding)
        if self.step == 0:
            self._show_examples(on_device)
        self.state, metrics = self.train_step(self.state, on_device, self.learning_rate, self.key)
        self.step += 1
        self.pace.handed_over(metrics)
        self.pending.append((self.step, metrics))
        while len(self.pending) > _IN_FLIGHT:
            self._take()

    def _show_examples(self, batch: dict[str, jax.Array]) -> None:
        """Draw the first batch as the step sees it, once a run; all processes take part in preparing it."""
        run = self.run
        try:
            presentation = presentation_of(run.task, run.description)
        except UserError:  # The task draws nothing.
            return
        prepare = prepared_part(run.task, _EXAMPLES, out_shardings=sharding.replicated(run.mesh))
        prepared = prepare(batch, 0, self.key)
        if not self.writer:
            return
        path = self.writer.write_examples(sheet(draw(prepared, presentation, run.config.batch_transform, _EXAMPLES)))
        self.display.say(f"{path} shows examples of the first batch as the model sees them")

    def _after_step(self) -> None:
        options = self.config.checkpoint
        if self._evaluation_due():
            self._drain()
            self._save(self._evaluate())
        elif self.step % options.every_steps == 0:
            self._drain()
            self._save()

    def _take(self) -> None:
        """Look at the numbers of the oldest step in flight; waits for it."""
        step, on_device = self.pending.popleft()
        metrics = {name: float(value) for name, value in on_device.items()}
        self.display.advance(step)
        self.pace.begin_once(step)  # The first step is mostly compilation.
        in_a_row = int(metrics.pop("skipped_in_a_row"))
        if in_a_row >= self.config.max_skipped_in_a_row:
            raise UserError(
                f"{DIVERGED} in {in_a_row} updates in a row, up to step {step}; the saved parameters "
                "are those from before. Start in another --workdir with a lower optimizer.learning_rate, "
                "optimizer.clip_norm=1.0 or model.dtype=float32"
            )
        if step % self.config.log_every_steps and step != self.run.lengths.total:
            return
        metrics |= self.pace.line(step) | ({"corrupt_images": self.corrupt} if self.corrupt else {})
        self._write(step, "train", metrics)
        self.display.report(step, metrics)
        if (share := self.pace.trouble()) is not None:
            self.display.say(pace.slow_data(share, self.config))

    def _drain(self) -> None:
        while self.pending:
            self._take()

    def _evaluation_due(self) -> bool:
        return self.step % self.run.lengths.evaluate_every == 0 or self.step == self.run.lengths.total

    def _evaluate(self) -> dict[str, float] | None:
        """Metrics of this step, written and shown; None if a signal came in between: the time left is for saving."""
        with waiting(f"evaluating {plural(len(self.run.task.eval_source), 'image')}", self.display.say):
            found = self.evaluator(self.state, lambda: self.preemption.signal_number is not None)
        self.metrics = found.metrics if found else {}
        if found is None:
            return None
        # Pictures first: if the disk is full, the resumed run evaluates this step again and writes its one line.
        if self.writer:
            self.writer.write_pictures(self.step, found.pictures)
            write_results(self.directory, found.files)
        self._write(self.step, "eval", found.metrics)
        self.stopping.add(self.step, found.metrics)
        self.display.say(f"step {self.step}: {headline(found.metrics)}")
        self.pace.begin(self.step)
        return found.metrics

    def _write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        if self.writer:
            self.writer.write(step, split, metrics)

    def _save(self, metrics: dict[str, float] | None = None) -> None:
        if self.step != self.saved_step:
            # A run that is killed goes on after this step, and its lines up to here are needed.
            if self.writer:
                self.writer.flush()
            self.store.save(self.step, self.state.to_items(), metrics)
            self.saved_step = self.step
