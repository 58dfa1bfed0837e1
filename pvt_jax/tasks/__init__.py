"""Tasks: what to build, the loss of a batch, the prediction of a batch. A new task is a folder here and a row."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvt_jax.tasks.classification.options import ClassificationConfig
from pvt_jax.tasks.detection.options import DetectionConfig
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.segmentation.options import SegmentationConfig

if TYPE_CHECKING:
    from pvt_jax.tasks.task import Task


@dataclass(frozen=True)
class TaskRow:
    """A task: the keys that it reads, and its class as ``MODULE:CLASS``, which is imported on demand with jax."""

    config: type[TaskConfig]
    home: str

    def make(self, config: TaskConfig) -> "Task":
        """The task of a config of this row's class."""
        module, _, name = self.home.partition(":")
        return getattr(importlib.import_module(module), name)(config)


TASKS: dict[str, TaskRow] = {
    "classification": TaskRow(ClassificationConfig, "pvt_jax.tasks.classification.task:Classification"),
    "segmentation": TaskRow(SegmentationConfig, "pvt_jax.tasks.segmentation.task:Segmentation"),
    "detection": TaskRow(DetectionConfig, "pvt_jax.tasks.detection.task:Detection"),
}
