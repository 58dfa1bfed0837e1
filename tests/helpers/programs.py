"""Runs of one config in this process share their compiled programs: tracing each anew takes most of their time.

A run in a process of its own makes its own, so there it shows that a resumed run makes the same ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from pvt_jax.tasks.task import Task
from pvt_jax.training import build, evaluate, loop, step


def task_of(function: Any) -> Task | None:
    """The task that a step, an evaluation or the making of a state is of."""
    if isinstance(function, functools.partial):
        candidates = [*function.args, *function.keywords.values()]
    else:
        candidates = [getattr(function, "__self__", None)]
    return next((found for found in candidates if isinstance(found, Task)), None)


def key_of(function: Any, task: Task) -> tuple[str, ...]:
    """All that a program depends on, for runs on the same data.

    What it does, and the config without what only the host reads and what is an argument.
    """
    name = getattr(function, "func", function).__qualname__
    config: Any = task._config
    data = dataclasses.replace(config.data, root="")
    host = ("init", "evaluation", "checkpoint", "log_every_steps", "max_skipped_in_a_row", "profile_steps")
    rest = dict.fromkeys((*host, "seed", "steps", "epochs"))
    rates = dict.fromkeys(("learning_rate", "warmup_learning_rate", "final_learning_rate"), 0.0)
    lengths = dict.fromkeys(("warmup_steps", "warmup_epochs"))
    optimizer = dataclasses.replace(config.optimizer, **rates, **lengths)
    return name, type(task).__name__, repr(dataclasses.replace(config, data=data, optimizer=optimizer, **rest))


class Shared:
    """``jax`` for the modules of training, with ``jit`` and ``eval_shape`` that remember."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, ...], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(jax, name)

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def jit(self, function: Any, **options: Any) -> Any:
        task = task_of(function)
        if task is None:
            return jax.jit(function, **options)
        return self._once(("jit", *key_of(function, task), repr(options)), lambda: jax.jit(function, **options))

    def eval_shape(self, function: Any, *arguments: Any) -> Any:
        task = task_of(function)
        if task is None:
            return jax.eval_shape(function, *arguments)
        shapes = repr(jax.tree.map(jax.typeof, arguments))
        key = ("shape", *key_of(function, task), shapes)
        return self._once(key, lambda: jax.eval_shape(function, *arguments))


def share_programs(patch: pytest.MonkeyPatch) -> None:
    """Until ``patch`` is undone."""
    shared = Shared()
    for module in (build, evaluate, loop, step):
        patch.setattr(module, "jax", shared)


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """While the tests of a module run."""
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield
