"""Small models of every task as a run leaves them, with random weights, and the images that they are evaluated on."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.tasks import TASKS
from pvt_jax.training import workdir
from pvt_jax.training.store import CheckpointStore
from tests.helpers.command import ROOT
from tests.helpers.dense import random_variables
from tests.helpers.detection_data import write_coco
from tests.helpers.segmentation_data import write_label_folder

_BACKBONE = ("model.depths=(1,1,1,1)", "model.dims=(8,8,12,16)", "model.num_heads=(1,1,1,2)", "data.threads=2")


class Run(NamedTuple):
    """A workdir, its task with the evaluation set, and the paths of that set's images in order."""

    folder: Path
    task: Any
    variables: Any
    images: list[str]


def save_run(task_name: str, root: Path) -> Run:
    """A run of ``task_name``, "classification", "segmentation" or "detection", saved at step 3, below ``root``."""
    data, folder = root / "data", root / "run"
    config = {"classification": _classification, "segmentation": _segmentation, "detection": _detection}[task_name](
        data
    )
    task: Any = TASKS[task_name].make(config_lib.read(config))
    variables = jax.tree.map(jnp.asarray, random_variables(task.model, jnp.zeros((1, 64, 64, 3))))
    workdir.create(folder, config, task.describe_data())
    store = CheckpointStore(folder / "checkpoints")
    store.save(3, variables)
    store.close()
    source = task.eval_source
    return Run(folder, task, variables, [source.name(index) for index in range(len(source))])


def _classification(data: Path) -> Any:
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 64), (64, 48), (33, 90), (64, 64), (70, 50)]):
        for split in ("train", "val"):
            path = data / split / ("owl", "cat", "yak")[index % 3] / f"image {index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    overrides = (*_BACKBONE, "model.image_size=32", "batch_size=4", "evaluation.batch_size=4")
    return config_lib.load(f"{ROOT}/configs/folder.py:{data}", overrides)


def _segmentation(data: Path) -> Any:
    write_label_folder(data, count=2, eval_count=5, size=(48, 70), growth=29, num_classes=4)
    (data / "classes.txt").write_text("sky\nsea\nland\nship\n")
    overrides = (
        *_BACKBONE,
        *("head.channels=8", "head.neck_channels=8", "batch_size=4", "evaluation.batch_size=4"),
        *("segmentation.scale=(0,0)", "segmentation.crop_size=(64,64)", "segmentation.test_shapes=2"),
    )
    return config_lib.load(f"{ROOT}/configs/segmentation_folder.py:{data},4", overrides)


def _detection(data: Path) -> Any:
    write_coco(data, count=2, eval_count=5, size=(48, 64), growth=20)
    overrides = (
        *_BACKBONE,
        *("init.checkpoint=", "model.image_size=64", "batch_size=4", "evaluation.batch_size=4", "data.source=coco"),
        *(f"data.root={data}", "detection.short_sides=(48,)", "detection.long_side=80", "detection.test_shapes=1"),
        *("head.channels=8", "head.neck_channels=8", "head.hidden_dim=16", "head.max_detections=20"),
    )
    return config_lib.load(f"{ROOT}/configs/digits_detection.py:mask_rcnn", overrides)
