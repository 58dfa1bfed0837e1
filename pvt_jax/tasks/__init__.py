"""Tasks: what to build, the loss of a batch, the prediction of a batch. ``TASKS`` is the registry."""

from pvt_jax.tasks.classification.task import Classification
from pvt_jax.tasks.detection.task import Detection
from pvt_jax.tasks.segmentation.task import Segmentation
from pvt_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "detection": Detection,
}
