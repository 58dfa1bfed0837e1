"""Everything a run needs before its first step, from its config."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from pvt_jax import environment
from pvt_jax.compilation import compiler_options, trim_after_compiling
from pvt_jax.data.description import DataDescription, difference_of_classes
from pvt_jax.data.formats import check_root
from pvt_jax.errors import UserError
from pvt_jax.messages import plural
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.task import Task
from pvt_jax.training import distributed, plausible, sharding, workdir
from pvt_jax.training import optimizer as optimizers
from pvt_jax.training.lengths import Lengths, schedule_of
from pvt_jax.training.resume import Past
from pvt_jax.training.state import TrainState
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import names
from pvt_jax.weights.load import read_variables
from pvt_jax.weights.report import few, not_finite, not_finite_refusal


@dataclass(frozen=True, eq=False)
class Initial:
    """What a new run starts from: variables on the host, None for random ones; and a line that says what was loaded."""

    variables: Any
    report: str


@dataclass(frozen=True, eq=False)
class Run:
    """A run that could start.

    Attributes:
      data: a line that describes the data.
      description: what a run remembers of it.
      learning_rate: by step; its highest is ``peak_learning_rate``.
      abstract: the state, with ``jax.ShapeDtypeStruct`` and a sharding at each leaf.
      initial: None for a run that resumes.
      notes: lines on what is odd in the config.
    """

    config: TaskConfig
    task: Task
    mesh: Mesh
    data: str
    description: DataDescription
    lengths: Lengths
    peak_learning_rate: float
    learning_rate: optimizers.Schedule
    optimizer: optax.GradientTransformationExtraArgs
    abstract: TrainState
    initial: Initial | None
    notes: tuple[str, ...] = ()

    @property
    def state_sharding(self) -> Any:
        """Per leaf of the state."""
        return sharding.of(self.abstract)

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

    def restore(self, store: CheckpointStore, step: int | None = None, *, training: bool = True) -> TrainState | None:
        """The state of the newest whole checkpoint, or of ``step``, on this mesh; None if there is none.

        Raises UserError: it does not fit, or has NaN or infinity in its weights or, for ``training``, in the moments
        of its optimizer.
        """
        found = store.restore(self.abstract.to_items(), step)
        if found is None:
            return None
        place, items = store.directory / str(found[0]), dict(found[1])
        moments = {"opt_state": items.pop("opt_state")}
        if broken := _not_finite(items):
            raise UserError(not_finite_refusal(f"checkpoint {place}", broken))
        if training and (broken := _not_finite(moments)):
            raise UserError(_moments_refusal(place, broken, [other for other in store.steps() if other < found[0]]))
        state = self.abstract.from_items(*found)
        return state.replace(step=jax.device_put(state.step, sharding.replicated(self.mesh)))

    def first_state(self, initial: Initial) -> TrainState:
        """The state before the first step, on the mesh."""
        create = state_maker(self.config, self.task, self.optimizer, self.abstract)
        key = jax.random.key(self.config.seed)
        if initial.variables is None:
            return create(key)

        def place(leaf: jax.ShapeDtypeStruct, value: np.ndarray) -> jax.Array:
            value = value.astype(leaf.dtype, copy=False)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

        return create(key, jax.tree.map(place, self.abstract.variables(), initial.variables))


def build(
    config: TaskConfig,
    *,
    resumes: bool = False,
    past: Past | None = None,
    training: bool = True,
    say: Callable[[str], None] | None = None,
) -> Run:
    """The run of a config; nothing is computed yet.

    Raises UserError: bad input. Settings that no model can have are refused before any file is read, and weights are
    read before the data, which may take long to check.

    Args:
      config: see ``pvt_jax.config.read``.
      resumes: ``init.checkpoint`` is not read: the state comes from a checkpoint of the run.
      past: what the run was, if its data has to have the same classes.
      training: whether batches have to be shared equally by the devices.
      say: takes lines on the progress of checking the data.
    """
    trim_after_compiling()
    check_root(config.data.source, config.data.root)
    notes = plausible.check_config(config, refuse=not resumes)
    task = TASKS[config.task].make(config)
    if past is not None and not training:
        task.learned = past.data
    mesh = sharding.make_mesh(config.mesh.fsdp)
    device = mesh.devices.flat[0]
    if config.model.dtype == "bfloat16" and environment.lacks_bfloat16(device):
        notes.append(environment.bfloat16_note(device))
    if training:
        sharding.check_batch(config.batch_size, mesh, config.accumulation_steps)
    variables = jax.eval_shape(task.init, jax.random.key(config.seed))
    initial = None if resumes else read_initial(config, task)
    description = task.describe_data()
    if past is not None:
        past.check_classes(description)
    if initial is not None:
        initial = _compared(initial, config, description, training)
    data = "; ".join([task.validate_data(say), *(task.prepare_training(say) if training else ())])

    examples = description.train.records
    lengths = Lengths.of(config, examples)
    peak, learning_rate = schedule_of(config, lengths)
    if training:
        notes += plausible.check_schedule(config, lengths, peak, examples)
    optimizer = optimizers.adamw(config.optimizer)
    abstract = abstract_state(config, task, optimizer, mesh, variables)
    return Run(
        config, task, mesh, data, description, lengths, peak, learning_rate, optimizer, abstract, initial, tuple(notes)
    )


def abstract_state(
    config: TaskConfig, task: Task, optimizer: optax.GradientTransformationExtraArgs, mesh: Mesh, variables: Any
) -> TrainState:
    """The state of a run on ``mesh``: shapes, types and shardings, from ``variables`` or their shapes and types."""
    abstract = jax.eval_shape(partial(_create_state, config, task, optimizer), jax.random.key(0), variables)
    return sharding.placed(abstract, sharding.state_sharding(abstract, mesh))


def state_maker(
    config: TaskConfig, task: Task, optimizer: optax.GradientTransformationExtraArgs, abstract: TrainState
) -> Callable[..., TrainState]:
    """A jitted function from a key and variables, random ones if there are none, to the state before the first step."""
    return jax.jit(
        partial(_create_state, config, task, optimizer),
        out_shardings=sharding.of(abstract),
        compiler_options=compiler_options("init"),
    )


def _not_finite(trees: Any) -> list[str]:
    return not_finite({path: distributed.whole(leaf) for path, leaf in names.flatten(trees).items()})


def _moments_refusal(place: Path, broken: Sequence[str], earlier: Sequence[int]) -> str:
    """Why a run cannot go on with its moments, and the way out; ``earlier`` are the steps of checkpoints before it."""
    before = f"move that folder away to go on from step {max(earlier)}, or " if earlier else ""
    return (
        f"checkpoint {place} has NaN or infinity in the optimizer's moments, {plural(len(broken), 'array')}: "
        f"{few(broken)}. The next step would spread it to the weights: {before}start in another --workdir with "
        f"--config.init.checkpoint={place}, which takes the weights and new moments"
    )


def read_initial(config: TaskConfig, task: Task) -> Initial:
    """Read what ``init.checkpoint`` names, if anything, on every process. Raises UserError if it cannot be used."""
    options, frozen = config.init, config.optimizer.frozen
    if not options.checkpoint and frozen:
        raise UserError(
            f"optimizer.frozen={frozen} keeps random parameters: give init.checkpoint, or train all with "
            "--config.optimizer.frozen= (nothing after it)"
        )
    if not options.checkpoint:
        fine_tuning = config.optimizer.layer_decay < 1
        return Initial(None, "init.checkpoint is empty: starting from random parameters" * fine_tuning)
    variables, report = read_variables(
        options.checkpoint,
        task.model,
        ema=options.ema,
        entry=options.entry,
        allow_missing=options.allow_missing,
        allow_unexpected=options.allow_unexpected,
        key=jax.random.key(config.seed),
    )
    # Kept on the host: the parameters may be too large for one device.
    return Initial(jax.tree.map(np.asarray, variables), report.summary())


def _compared(initial: Initial, config: TaskConfig, data: DataDescription, training: bool) -> Initial:
    """``initial``, with a word on classes that its run knew by other names, or in another order, in its report.

    Raises UserError: they are to be evaluated, where the labels would be wrong.
    """
    theirs = workdir.data_of_weights(config.init.checkpoint) if config.init.checkpoint else None
    # Another number has no part in it: that classifier is replaced.
    if (
        theirs is None
        or theirs.foreign
        or theirs.task != config.task
        or len(theirs.class_names) != len(data.class_names)
    ):
        return initial
    what = difference_of_classes(theirs.class_names, data.class_names)
    if what and not training:
        raise UserError(
            f"the data has other classes than the run of init.checkpoint, {config.init.checkpoint}: {what}. Give data "
            "with its classes in their order"
        )
    note = f"{initial.report}; init.checkpoint is of a run with other classes: {what}"
    return Initial(initial.variables, note) if what else initial


def _create_state(
    config: TaskConfig,
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    key: jax.Array,
    variables: Any = None,
) -> TrainState:
    if variables is None:
        variables = task.init(key)
    else:
        # On CPU the given arrays may be NumPy's own memory, and a train step overwrites its state.
        variables = jax.tree.map(jnp.copy, variables)
    return TrainState.create(variables, optimizer, ema=config.ema_decay > 0, frozen=config.optimizer.frozen)
