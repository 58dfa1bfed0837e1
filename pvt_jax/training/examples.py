"""Training examples as the step sees them, drawn: cropped, augmented, mixed, padded, with their targets."""

import jax
import numpy as np

from pvt_jax.data.classes import Classes
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.task import Task
from pvt_jax.training.step import keys_of
from pvt_jax.visualization.panels import Picture


def drawn_examples(config: TaskConfig, count: int, first_step: int = 0) -> list[tuple[str, Picture]]:
    """(target in words, picture) of ``count`` examples of the steps from ``first_step`` on, in their order.

    They are those of a run of this config on one process, to the bit. Raises UserError: there is no such data, an image
    cannot be read, or the task draws no examples.
    """
    task = TASKS[config.task].make(config)
    presentation = task.presentation(_classes(task), top_k=3, min_score=0.0)
    prepare = jax.jit(task.prepare)
    mean, std = (np.array(values, np.float32) for values in (config.batch_transform.mean, config.batch_transform.std))
    drawn: list[tuple[str, Picture]] = []
    batches = task.training_batches(first_step, (0, 1))
    try:
        for step, batch in enumerate(batches, start=first_step):
            batch.pop("corrupt")
            prepared = jax.tree.map(np.asarray, prepare(batch, keys_of(config.seed, step)[0]))
            for row in range(min(count - len(drawn), len(prepared["image"]))):
                example = {name: values[row] for name, values in prepared.items()}
                pixels = np.asarray(example.pop("image"), np.float32) * std + mean
                image = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
                drawn.append(presentation.example(image, example))
            if len(drawn) == count:
                return drawn
    finally:
        batches.close()
    return drawn


def _classes(task: Task) -> Classes:
    data = task.describe_data()
    return Classes(data.class_names, data.palette, data.category_ids)
