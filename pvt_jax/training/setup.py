"""What a run is made of before its first step: its length, its task on the mesh, optimizer, state and evaluator."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvt_jax.compilation import compiler_options
from pvt_jax.config import Config
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.task import Results
from pvt_jax.training import optimizer as optimizers
from pvt_jax.training import sharding
from pvt_jax.training.distributed import gather
from pvt_jax.training.state import TrainState
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights.load import read_variables


@dataclass(frozen=True)
class Schedule:
    """Lengths of a run, in steps."""

    total: int
    warmup: int
    evaluate_every: int
    drops: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Config, examples: int) -> "Schedule":
        """Epochs turned into steps; an epoch of a set is the number of whole batches in it."""
        per_epoch = max(examples // config.batch_size, 1)
        options = config.optimizer

        def length(steps: int | None, epochs: float) -> int:
            return steps if steps is not None else round(epochs * per_epoch)

        return cls(
            total=max(length(config.steps, config.epochs), 1),
            warmup=length(options.warmup_steps, options.warmup_epochs),
            evaluate_every=max(length(config.evaluation.every_steps, config.evaluation.every_epochs), 1),
            drops=tuple(options.drop_steps) or tuple(round(epoch * per_epoch) for epoch in options.drop_epochs),
        )


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: metrics by name; and pictures (name, uint8 [h, w, 3]) on the first process alone.

    ``files`` are by name with an ending, as ``detections.json``.
    """

    metrics: dict[str, float]
    pictures: list[tuple[str, np.ndarray]]
    files: dict[str, bytes]


class Setup:
    """What training and evaluation both need: the task on the mesh, and the abstract state."""

    def __init__(self, config: Config, *, training: bool = True):
        if config.task not in TASKS:
            raise UserError(f"unknown task {config.task!r}: the tasks are {', '.join(TASKS)}")
        self.config = config
        self.task = TASKS[config.task](config)
        self.mesh = sharding.make_mesh(config.mesh.fsdp)
        if training:
            sharding.check_batch(config.batch_size, self.mesh, config.accumulation_steps)
        self.block = sharding.host_block()
        self.batch_sharding = sharding.batch_sharding(self.mesh)
        self.loaded: Any = None
        # Settings that no model can have are refused here, before anyone looks at the data.
        self._variables = jax.eval_shape(self.task.init, jax.random.key(config.seed))

    def prepare_state(self, schedule: Schedule) -> None:
        """Define optimizer and state; nothing is computed yet."""
        options = self.config.optimizer
        self.peak_learning_rate = optimizers.scaled_learning_rate(
            options.learning_rate, options.base_batch_size, self.config.batch_size
        )
        make = {
            "cosine": partial(optimizers.warmup_cosine, total_steps=schedule.total),
            "poly": partial(optimizers.warmup_poly, total_steps=schedule.total, power=options.power),
            "step": partial(optimizers.warmup_step, drops=schedule.drops, factor=options.drop_factor),
        }[options.schedule]
        self.learning_rate = make(
            self.peak_learning_rate, options.warmup_learning_rate, options.final_learning_rate, schedule.warmup
        )
        self.optimizer = optimizers.adamw(
            self.learning_rate,
            b1=options.b1,
            b2=options.b2,
            eps=options.eps,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
            decayed=options.decayed,
            layer_decay=options.layer_decay,
            multipliers={"backbone": options.backbone_multiplier, "head": options.head_multiplier},
        )

        def initial(variables: Any = None) -> TrainState:
            if variables is None:
                variables = self.task.init(jax.random.key(self.config.seed))
            else:
                # On CPU the given arrays may be NumPy's own memory, and a train step overwrites its state.
                variables = jax.tree.map(jnp.copy, variables)
            return TrainState.create(variables, self.optimizer, ema=self.config.ema_decay > 0, frozen=options.frozen)

        self.initial = initial
        abstract = jax.eval_shape(initial, self._variables)
        self.state_sharding = sharding.state_sharding(abstract, self.mesh)
        self.abstract: TrainState = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            self.state_sharding,
        )

    def read_initial(self) -> str:
        """Read what ``init.checkpoint`` names, if anything; a text that says what of it is used. UserError if unusable.

        Every process reads the file; ``initialise`` lays the arrays out on the mesh.
        """
        options, optimizer = self.config.init, self.config.optimizer
        if not options.checkpoint and optimizer.frozen:
            raise UserError(
                f"optimizer.frozen={optimizer.frozen} keeps random parameters: give init.checkpoint, or train all with "
                "--config.optimizer.frozen= (nothing after it)"
            )
        if not options.checkpoint:
            return "init.checkpoint is empty: starting from random parameters" if optimizer.layer_decay < 1 else ""
        variables, report = read_variables(
            options.checkpoint,
            self.task.model,
            ema=options.ema,
            allow_missing=options.allow_missing,
            allow_unexpected=options.allow_unexpected,
            key=jax.random.key(self.config.seed),
        )
        # Kept on the host: the parameters may be too large for one device.
        self.loaded = jax.tree.map(np.asarray, variables)
        return report.summary()

    def initialise(self) -> TrainState:
        """The state before the first step, on the mesh: random, or what ``read_initial`` read."""
        options = compiler_options("init")
        if self.loaded is None:
            return jax.jit(self.initial, out_shardings=self.state_sharding, compiler_options=options)()

        def place(leaf: jax.ShapeDtypeStruct, value: np.ndarray) -> jax.Array:
            value = value.astype(leaf.dtype, copy=False)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

        variables = jax.tree.map(place, self.abstract.variables(), self.loaded)
        self.loaded = None
        return jax.jit(self.initial, out_shardings=self.state_sharding, compiler_options=options)(variables)

    def open_store(self, directory: Path, *, read_only: bool = False) -> CheckpointStore:
        """The checkpoints of the run in ``directory``."""
        options = self.config.checkpoint
        return CheckpointStore(
            directory / "checkpoints",
            keep=options.keep,
            keep_best=options.keep_best,
            best_metric=self.task.best_metric,
            read_only=read_only,
        )

    def restore(self, store: CheckpointStore, step: int | None = None) -> TrainState | None:
        """The state of the newest whole checkpoint (or of ``step``), on this mesh; None if there is none."""
        found = store.restore(self.abstract.to_items(), step)
        if found is None:
            return None
        state = self.abstract.from_items(*found)
        return state.replace(step=jax.device_put(state.step, sharding.replicated(self.mesh)))

    def evaluator(self) -> Callable[..., Evaluation | None]:
        """A function from a state to what the whole evaluation set says; EMA metrics get the prefix ``ema_``.

        Its argument ``stop`` is asked before each batch; once it says so there is no result, but None. Pictures are of
        examples evenly spaced in the task's order, as the parameters themselves, not their average, see them.
        """
        step = jax.jit(
            self.task.evaluate,
            out_shardings=(sharding.replicated(self.mesh), self.batch_sharding),
            compiler_options=compiler_options("infer"),
        )

        def evaluate(state: TrainState, stop: Callable[[], bool] = lambda: False) -> Evaluation | None:
            variables = {"": state.variables()}
            if state.ema_params:
                variables["ema_"] = state.variables(ema=True)
            sums: dict[str, Any] = {prefix: {} for prefix in variables}
            results = {prefix: self.task.results() for prefix in variables}
            pictures, corrupt, seen = [], 0, 0
            drawn = self._drawn_numbers() if jax.process_index() == 0 else set()
            for batch in self.task.evaluation_batches(self.block, self.mesh.size):
                if stop():
                    return None
                corrupt += int(batch.pop("corrupt").sum())
                records = batch.pop("record")
                on_device = sharding.to_devices(batch, self.batch_sharding)
                for prefix, values in variables.items():
                    found, predictions = step(values, on_device)
                    _add(sums[prefix], found)
                    _collect(results[prefix], records, batch["mask"], predictions)
                    if not prefix and drawn:
                        examples = enumerate(np.flatnonzero(records >= 0).tolist(), start=seen)
                        here = [row for number, row in examples if number in drawn and batch["mask"][row]]
                        pictures += self._draw(records, here, predictions)
                seen += int((records >= 0).sum())
            metrics, files = {}, {}
            for prefix, total in sums.items():
                found = self.task.metrics(total)
                if (result := results[prefix]) is not None:
                    result.merge(gather(result.to_bytes()) if self.block[1] > 1 else [])
                    found |= result.metrics()
                    files |= {prefix + name: content for name, content in result.files().items()}
                metrics |= {prefix + name: value for name, value in found.items()}
            return Evaluation({**metrics, **({"corrupt_images": corrupt} if corrupt else {})}, pictures, files)

        return evaluate

    def _drawn_numbers(self) -> set[int]:
        """Which of the evaluation examples that this process sees are drawn, counted without padding.

        It has at least its share of them: batches are filled up at their ends, and its block is the first.
        """
        here = len(self.task.eval_source) // self.block[1]
        return set(np.linspace(0, max(here - 1, 0), self.config.evaluation.pictures).astype(int).tolist())

    def _draw(self, records: np.ndarray, rows: list[int], predictions: Any) -> list[tuple[str, np.ndarray]]:
        if not rows:
            return []
        local = jax.tree.map(sharding.local_rows, predictions)
        drawn = (self.task.picture(int(records[row]), jax.tree.map(lambda x, row=row: x[row], local)) for row in rows)
        return [picture for picture in drawn if picture is not None]


def _collect(results: Results | None, records: np.ndarray, mask: np.ndarray, predictions: Any) -> None:
    """Hand on what was predicted for the records of this process that there are."""
    if results is not None:
        rows = np.flatnonzero((records >= 0) & mask)
        local = jax.tree.map(sharding.local_rows, predictions)
        results.add(records[rows], jax.tree.map(lambda x: x[rows], local))


def _add(total: dict[str, Any], found: dict[str, jax.Array]) -> None:
    """Add in float64, in which counts of pixels stay exact up to 2^53."""
    for name, value in found.items():
        total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
