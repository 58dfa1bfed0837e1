"""Tasks: what to build, the loss of a batch, the prediction of a batch. ``TASKS`` is the registry."""

from pvt_jax.tasks.classification import Classification
from pvt_jax.tasks.detection import Detection
from pvt_jax.tasks.segmentation import Segmentation
from pvt_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "detection": Detection,
}
