"""Training examples as the step sees them, drawn: cropped, augmented, mixed, padded, with their targets."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.data.description import DataDescription
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import BatchTransformOptions, TaskConfig
from pvt_jax.tasks.presentation import Presentation
from pvt_jax.tasks.task import Task
from pvt_jax.training.step import keys_of
from pvt_jax.visualization.panels import Picture

# What the step makes of a batch of a step, with the key of the run.
Prepare = Callable[[Any, int, jax.Array], Any]


def drawn_examples(config: TaskConfig, count: int, first_step: int = 0) -> list[tuple[str, Picture]]:
    """(target in words, picture) of ``count`` examples of the steps from ``first_step`` on, in their order.

    They are those of a run of this config on one process, to the bit. Raises UserError: there is no such data, an image
    cannot be read, or the task draws no examples.
    """
    task = TASKS[config.task].make(config)
    presentation = presentation_of(task, task.describe_data())
    prepare, key = prepared_part(task, config.batch_size), jax.random.key(config.seed)
    drawn: list[tuple[str, Picture]] = []
    batches = task.training_batches(first_step, (0, 1))
    try:
        for step, batch in enumerate(batches, start=first_step):
            batch.pop("corrupt")
            drawn += draw(prepare(batch, step, key), presentation, config.batch_transform, count - len(drawn))
            if len(drawn) == count:
                return drawn
    finally:
        batches.close()
    return drawn


def presentation_of(task: Task, data: DataDescription) -> Presentation:
    """What draws the examples of a task. Raises UserError: it draws none."""
    return task.presentation(Classes(data.class_names, data.palette, data.category_ids), top_k=3, min_score=0.0)


def prepared_part(task: Task, count: int, **options: Any) -> Prepare:
    """Up to ``count`` examples of a batch as the step sees them, compiled with ``options``.

    All of the batch is prepared, as examples may be mixed with each other.
    """

    def part(batch: Any, step: Any, key: jax.Array) -> Any:
        prepared = task.prepare(batch, keys_of(key, step)[0])
        return jax.tree.map(lambda values: values[:count], prepared)

    return jax.jit(part, **options)


def draw(
    prepared: Any, presentation: Presentation, transform: BatchTransformOptions, count: int
) -> list[tuple[str, Picture]]:
    """(target in words, picture) of up to ``count`` examples that ``prepared_part`` returned."""
    prepared = jax.tree.map(np.asarray, prepared)
    mean, std = (np.array(values, np.float32) for values in (transform.mean, transform.std))
    drawn = []
    for row in range(min(count, len(prepared["image"]))):
        example = {name: values[row] for name, values in prepared.items()}
        pixels = np.asarray(example.pop("image"), np.float32) * std + mean
        drawn.append(presentation.example(np.clip(np.round(pixels), 0, 255).astype(np.uint8), example))
    return drawn
