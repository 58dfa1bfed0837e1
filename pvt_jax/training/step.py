"""The jitted training step, the same for every task."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pvt_jax.compilation import compiler_options
from pvt_jax.ops.target import compiled_for
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.training import sharding
from pvt_jax.training.optimizer import Schedule, global_norm, joined, split
from pvt_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Objective(Protocol):
    """What a step needs of a task."""

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Augment a whole batch; every array keeps the batch as its leading axis."""
        ...

    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Metrics]:
        """(mean loss, changed collections such as ``batch_stats``, parts of the loss by name) of (a part of) a batch.

        What the config freezes runs as in evaluation.
        """
        ...


def jitted_train_step(
    config: TaskConfig,
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    abstract: TrainState,
    mesh: Mesh,
) -> Any:
    """``train_step`` as a config has it, jitted; it overwrites its state, which is placed as ``abstract`` says.

    The schedule and the key are arguments: runs that differ in learning rate, length or seed share a compiled program.
    """
    return jax.jit(
        partial(
            train_step,
            objective=objective,
            optimizer=optimizer,
            accumulation_steps=config.accumulation_steps,
            ema_decay=config.ema_decay,
            frozen=config.optimizer.frozen,
            mesh=mesh,
            kernels=config.kernels,
        ),
        donate_argnums=0,
        compiler_options=compiler_options("train", mesh.devices.flat[0].platform),
        out_shardings=(sharding.of(abstract), sharding.replicated(mesh)),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    schedule: Schedule,
    key: jax.Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    accumulation_steps: int,
    ema_decay: float,
    frozen: str = "",
    mesh: Mesh | None = None,
    kernels: bool = True,
) -> tuple[TrainState, Metrics]:
    """One update: (state, global batch, learning rate by step, key of the run) → (state, metrics), all scalars.

    Metrics: ``loss``, ``grad_norm`` (before clipping), ``learning_rate``, ``skipped`` (updates skipped so far because
    their gradient was not finite) and ``skipped_in_a_row``, besides the parts of the loss that the task names. Skipped
    updates leave everything but ``step`` as it was.
    What ``frozen`` names (see ``optimizer.split``) has no gradient and never changes, and no more does its average.
    With a ``mesh`` layers take the form that its devices run best, with ``kernels`` or without; see ``ops.target``.
    """
    prepare_key, loss_key = keys_of(key, state.step)
    batch = objective.prepare(batch, prepare_key)

    # Only what is trained is an argument of the gradient: no backward pass reaches for the rest.
    trained, fixed = split(state.params, frozen)

    def loss_of(trained: Any, batch_stats: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": joined(trained, fixed), **({"batch_stats": batch_stats} if batch_stats else {})}
        loss, changed, parts = objective.loss(variables, part, key)
        return loss, (changed.get("batch_stats", batch_stats), parts)

    def grad_of(*arguments: Any) -> Any:
        # Backward passes are traced here, outside of ``loss_of``.
        with compiled_for(mesh, kernels=kernels):
            return jax.value_and_grad(loss_of, has_aux=True)(*arguments)

    loss, batch_stats, loss_parts, grads = _of_parts(
        grad_of, trained, state.batch_stats, batch, loss_key, accumulation_steps
    )

    # The number of updates so far: skipped steps do not advance the schedule.
    learning_rate = schedule(state.step - state.opt_state.total_notfinite)
    opt_state: Any
    norm = global_norm(grads)
    # A loss that is not finite must stop the update even where its gradient happens to be.
    updates, opt_state = optimizer.update(
        grads, state.opt_state, trained, norm=norm, finite=jnp.isfinite(loss), learning_rate=learning_rate
    )
    finite = opt_state.last_finite
    updated: Any = optax.apply_updates(trained, updates)
    # Rounding would make the average of a fixed parameter drift from it.
    average, fixed_average = split(state.ema_params, frozen)
    average = jax.tree.map(
        lambda old, new: jnp.where(finite, ema_decay * old + (1.0 - ema_decay) * new, old),
        average,
        updated if state.ema_params else {},
    )
    metrics = {
        "loss": loss,
        **loss_parts,
        "grad_norm": norm,
        "learning_rate": learning_rate,
        "skipped": opt_state.total_notfinite,
        "skipped_in_a_row": opt_state.notfinite_count,
    }
    new_state = TrainState(
        step=state.step + 1,
        params=joined(updated, fixed),
        batch_stats=jax.tree.map(lambda old, new: jnp.where(finite, new, old), state.batch_stats, batch_stats),
        ema_params=joined(average, fixed_average),
        opt_state=opt_state,
    )
    return new_state, metrics


def _of_parts(
    grad_of: Callable[..., Any], trained: Any, batch_stats: Any, batch: Batch, key: jax.Array, count: int
) -> tuple[jax.Array, Any, Metrics, Any]:
    """(loss, batch statistics, parts of the loss, gradients) of a batch in ``count`` parts, one after the other.

    ``grad_of``: (trained, batch statistics, part, key) → ((loss, (batch statistics, parts of the loss)), gradients).
    """
    if count == 1:
        (loss, (batch_stats, loss_parts)), grads = grad_of(trained, batch_stats, batch, key)
        return loss, batch_stats, loss_parts, grads

    def accumulate(carry: Any, inputs: Any) -> tuple[Any, Metrics]:
        loss, batch_stats, grads = carry
        part, part_key = inputs
        (part_loss, (batch_stats, loss_parts)), part_grads = grad_of(trained, batch_stats, part, part_key)
        return (loss + part_loss, batch_stats, jax.tree.map(jnp.add, grads, part_grads)), loss_parts

    start = (jnp.zeros(()), batch_stats, jax.tree.map(jnp.zeros_like, trained))
    parts = jax.tree.map(lambda x: split_parts(x, count), batch)
    (loss, batch_stats, grads), loss_parts = jax.lax.scan(accumulate, start, (parts, jax.random.split(key, count)))
    loss, grads = jax.tree.map(lambda x: x / count, (loss, grads))
    return loss, batch_stats, jax.tree.map(lambda x: x.mean(), loss_parts), grads


def keys_of(key: jax.Array, step: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of a step of the run with this ``key``: of what is done to its batch, and of the model."""
    prepare_key, loss_key = jax.random.split(jax.random.fold_in(key, step))
    return prepare_key, loss_key


def split_parts(x: jax.Array, parts: int) -> jax.Array:
    """[b, ...] → [parts, b / parts, ...]; part j takes every ``parts``-th example from j on.

    Taken with this stride, the examples of each device stay on it.
    """
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
