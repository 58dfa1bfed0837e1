"""Exported functions give what the model gives, for every head and any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax import config as config_lib
from pvt_jax.data.classes import Classes
from pvt_jax.heads import HEADS
from pvt_jax.ops.resize import resize_grid
from pvt_jax.prediction.exported import check, container
from pvt_jax.prediction.exported.function import function_of
from pvt_jax.prediction.trained import Trained
from pvt_jax.tasks import TASKS
from tests.helpers.dense import PYRAMID, random_variables
from tests.helpers.dense_toys import SETTINGS
from tests.helpers.symbolic import unchecked_signatures

# A detector pads the second to the first.
SIZE, SMALLER = (64, 96), (60, 90)


def trained(head: str = "", overrides=(), **settings):
    """A small model of a head, or a classifier, with random weights."""
    chosen = {
        "task": HEADS[head].model.task if head else "classification",
        "model": {"name": "pvt_tiny", "num_classes": 5, **PYRAMID},
        "head": {"name": head, **(SETTINGS[head][0] if head in SETTINGS else {}), **settings},
    }
    config = config_lib.resolve(chosen)
    for text in overrides:
        config_lib.override(config, text)
    config = config_lib.read(config)
    task = TASKS[config.task].make(config)
    variables = random_variables(task.model, jnp.zeros((1, *SIZE, 3)))
    return Trained(config, task, variables, Classes(tuple("abcde")), ())


def as_the_model_gives(task, variables, images):
    """Outputs by the model itself: the layers above it are not used."""
    mean, std = (np.array(getattr(task._config.batch_transform, name), np.float32) for name in ("mean", "std"))
    normalised = (images - mean) / std
    if hasattr(task.model, "needs_masks"):
        padded = np.zeros((len(images), *SIZE, 3), np.float32)
        padded[:, : SMALLER[0], : SMALLER[1]] = normalised
        return jax.jit(task.model.apply)(variables, padded, np.tile(SMALLER, (len(images), 1)).astype(np.int32))
    found = jax.jit(task.model.apply)(variables, normalised)
    if found.ndim == 2:
        return {"logits": found, "probabilities": np.exp(found) / np.exp(found).sum(-1, keepdims=True)}
    return {"logits": resize_grid(found, SIZE)}


@pytest.fixture(autouse=True)
def unchecked():
    with unchecked_signatures():
        yield


# Faster R-CNN is Mask R-CNN without its last part.
@pytest.mark.parametrize(
    "head", ["", *(name for name in HEADS if not name.endswith("_frcnn") and name != "faster_rcnn")]
)
def test_one_program_serves_every_batch(head):
    kept = {"score_threshold": 0.0, "pre_nms": 50}
    model = trained(head, **{name: value for name, value in kept.items() if head and hasattr(HEADS[head].head, name)})
    function = function_of(model, outputs=tuple(model.task.outputs))
    size = SMALLER if hasattr(model.task.model, "needs_masks") else SIZE
    program = container.make_program(function, size, ["cpu"])
    assert b".py" not in program.serialize(), "the file names folders of this machine"
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    expected = as_the_model_gives(model.task, model.variables, images)
    call = jax.jit(program.call)
    for batch in (1, 3):
        found = call(function.weights, images[:batch])
        assert found.keys() == model.task.outputs.keys()
        for name, values in expected.items():
            # The model has seen all three at a time.
            assert check.difference(np.asarray(found[name]), np.asarray(values[:batch])) < 5e-5, name
        if "label_map" in found:
            # Another batch rounds otherwise, which decides between classes of equal score: so do the program's own.
            np.testing.assert_array_equal(found["label_map"], np.asarray(found["logits"]).argmax(-1))
        assert found.keys() - expected.keys() <= {"label_map"}
    if "valid" in expected:
        assert expected["valid"].sum() > 3
