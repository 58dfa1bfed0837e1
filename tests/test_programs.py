"""Programs on random images: their batches are those of training, and they compute what training and prediction do."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax import config as config_lib
from pvt_jax import programs
from pvt_jax.backbones import cost
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.detection.random_objects import random_objects
from pvt_jax.trace import function_products
from pvt_jax.training import sharding
from pvt_jax.training.lengths import Lengths, schedule_of
from tests.helpers.command import ROOT

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
RETINANET = {"head.channels": 8, "head.neck_channels": 8, "head.num_convs": 1, "detection.max_objects": 3}


def toy(head: str = "", size: int = 32, **settings) -> programs.Subject:
    return programs.subject("resnet18", head, image_size=(size, size), num_classes=3, settings={**TINY, **settings})


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("digits.py", []),
        ("digits_segmentation.py", []),
        ("digits_detection.py:mask_rcnn", ["detection.max_objects=4"]),
    ],
)
def test_random_batches_are_like_those_of_training(config, overrides):
    overrides = ["batch_size=2", "data.threads=1", "init.checkpoint=", *overrides]
    options = config_lib.read(config_lib.load(str(ROOT / "configs" / config), overrides))
    batches = TASKS[options.task].make(options).training_batches(0, (0, 1))
    real = next(batches)
    batches.close()
    real.pop("corrupt")

    task = TASKS[options.task].make(options)
    height, width = real["image"].shape[1:3]
    task.use_random_images((height, width))
    random = task.random_batch(jax.random.key(0), 2)
    assert {key: (x.shape, x.dtype) for key, x in random.items()} == {
        key: (x.shape, x.dtype) for key, x in real.items()
    }
    assert len(np.unique(random["image"])) == 256
    if "size" in random:
        assert random["size"].tolist() == [[height, width]] * 2
    for name in {"label", "label_map", "labels"} & random.keys():
        assert set(np.unique(random[name])) <= set(range(options.model.num_classes))


def test_random_objects_are_inside_their_images():
    size = jnp.array([[100, 200], [40, 30]])
    found = random_objects(jax.random.key(0), size, count=50, num_classes=4, mask_side=6)
    x1, y1, x2, y2 = np.moveaxis(np.asarray(found["boxes"]), -1, 0)
    height, width = np.asarray(size, float)[:, 0, None], np.asarray(size, float)[:, 1, None]
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
    for sides in ((x2 - x1) / width, (y2 - y1) / height):
        assert (sides > 0.099).all() and (sides < 0.351).all() and sides.max() - sides.min() > 0.2
    assert found["valid"].all() and set(np.unique(found["labels"])) == {0, 1, 2, 3}
    assert found["masks"].shape == (2, 50, 6, 6) and (found["masks"] == 255).all()
    assert "masks" not in random_objects(jax.random.key(0), size, 1, 4, mask_side=0)


def test_inference_is_the_model_on_normalised_images():
    subject = toy()
    program = programs.program(subject, "infer", 2)
    variables, images = program.make()
    assert images.shape == (2, 32, 32, 3) and images.dtype == jnp.uint8
    found = program.function(variables, images)
    expected: Any = subject.task.model.apply(variables, subject.task.normalise(images))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert program.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_training_goes_on_from_step_to_step():
    program = programs.program(toy(), "train", 2)
    compiled = program.function.lower(*program.abstract).compile()
    step = program.runner(compiled)
    results = [step() for _ in range(3)]
    assert [int(metrics["skipped"]) for _, metrics in results] == [0, 0, 0]
    assert int(results[-1][0].step) == 3
    losses = [float(metrics["loss"]) for _, metrics in results]
    # The same two images at each step.
    assert losses[0] > losses[1] > losses[2]
    found = programs.allocated(compiled)
    assert found is not None
    # All of the state but its number of the last update takes the place of the old one.
    state, *rest = (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in program.abstract)
    assert state < found["outputs"] + 64 and found["arguments"] <= state + sum(rest) < found["arguments"] + 64
    assert found["total"] == found["arguments"] + found["outputs"] - found["aliased"] + found["temporary"]


def test_runs_that_differ_in_rate_length_and_seed_share_a_program():
    """Another learning rate needs no new program; another kind of schedule does."""
    texts = []
    for keys in (
        {"seed": 0, "learning_rate": 1e-3, "steps": 10, "warmup_steps": 0, "schedule": "cosine"},
        {"seed": 7, "learning_rate": 2e-2, "steps": 99, "warmup_steps": 5, "schedule": "cosine"},
        {"seed": 7, "learning_rate": 2e-2, "steps": 99, "warmup_steps": 5, "schedule": "poly"},
    ):
        seed, steps = keys.pop("seed"), keys.pop("steps")
        config = toy(**{f"optimizer.{name}": value for name, value in keys.items()}).config
        subject = programs.of_config(dataclasses.replace(config, seed=seed, steps=steps), (32, 32))
        schedule = schedule_of(subject.config, Lengths.of(subject.config, 8))[1]
        program = programs.training(subject, 2, sharding.make_mesh(1), schedule)
        texts.append(program.function.lower(*program.abstract).as_text())
    assert texts[0] == texts[1] != texts[2]
    # What a run hands over is of the same types.
    assert program.function.lower(*program.make()).as_text() == texts[2]


@pytest.mark.parametrize(
    ("head", "size", "settings", "parts"),
    [
        ("segformer", 32, {"head.channels": 8}, set()),
        ("retinanet", 64, RETINANET, {"class_loss", "box_loss"}),
    ],
)
def test_training_has_the_loss_of_its_task(head, size, settings, parts):
    """Nothing is compiled: end-to-end tests train these heads, by the same step."""
    program = programs.program(toy(head, size, **settings), "train", 2)
    state, metrics = jax.eval_shape(program.function, *program.abstract)
    usual = {"loss", "grad_norm", "learning_rate", "skipped", "skipped_in_a_row"}
    assert set(metrics) == usual | parts
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), program.abstract[0]
    )


def test_nothing_is_masked_where_images_fill_their_batch():
    """50×70 is a batch of 64×96, as in training: the padding is less than a multiple of 32."""
    subject = programs.subject(
        "resnet18", "retinanet", image_size=(50, 70), num_classes=3, settings={**TINY, **RETINANET}
    )
    batch = programs.program(subject, "train", 2).abstract[1]
    assert batch["image"].shape == (2, 64, 96, 3) and batch["boxes"].shape == (2, 3, 4)
    assert subject.task._trained_padded is False  # pyright: ignore[reportAttributeAccessIssue]


def test_counts_are_those_of_the_formulas():
    subject = toy()
    by_formula = sum(part.total for part in cost.multiply_accumulates(subject.task.model, 32, 32).values())
    for mode in ("infer", "train"):
        program = programs.program(subject, mode, 2)
        products = function_products(program.forward, *program.forward_inputs)
        assert products.weights + products.attention == 2 * by_formula, mode


def test_defaults_are_those_of_the_task():
    sizes = {"": (224, 224), "semantic_fpn": (512, 512), "retinanet": (800, 1333)}
    for (head, size), classes in zip(sizes.items(), (1000, 150, 80), strict=True):
        subject = programs.subject("pvt_tiny", head)
        assert subject.size == size and subject.config.model.num_classes == classes
        # The tables of a dense model are those of its pre-training.
        assert subject.config.model.image_size == (224, 224)
    assert programs.subject("pvt_tiny", image_size=(64, 96)).config.model.image_size == (64, 96)


def test_settings_are_of_the_model_or_of_a_section():
    subject = programs.subject(
        "pvt_tiny", "segformer", settings={"drop_path_rate": 0.3, "head.channels": 12, "optimizer.frozen": "backbone"}
    )
    assert subject.task.model.backbone.drop_path_rate == 0.3  # pyright: ignore[reportAttributeAccessIssue]
    assert subject.task.model.head.channels == 12  # pyright: ignore[reportAttributeAccessIssue]
    assert subject.config.optimizer.frozen == "backbone"


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"unknown model 'pvt_tiniest': did you mean 'pvt_tiny'\?"):
        programs.subject("pvt_tiniest")
    with pytest.raises(UserError, match=r"unknown head 'retina': did you mean 'retinanet'\?"):
        programs.subject("pvt_tiny", "retina")
    with pytest.raises(UserError, match="has no setting 'depth'"):
        programs.subject("pvt_tiny", settings={"depth": 3})
    with pytest.raises(UserError, match="whose sides are multiples of 32, not 33×64"):
        programs.subject("pvt_tiny", "segformer", image_size=(33, 64))
    with pytest.raises(UserError, match="an image of 31×31 is too small"):
        programs.program(programs.subject("pvt_tiny", image_size=(31, 31)), "infer", 1)
