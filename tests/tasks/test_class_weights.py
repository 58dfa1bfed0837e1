"""Weights of classes: what they are, and what they do to the losses."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.class_weights import class_weights, describe_weights
from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy
from pvt_jax.tasks.segmentation.pixel_counts import count_pixels
from tests.helpers.command import ROOT
from tests.helpers.segmentation_data import write_label_folder


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(4), [7, 1, 30, 12])
    found = class_weights("balanced", 4, lambda: np.bincount(labels))
    assert found is not None and found.dtype == np.float32
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(4), y=labels), rtol=1e-6)
    assert abs(found[labels].mean() - 1) < 1e-6
    absent = class_weights("balanced", 3, lambda: np.array([2, 0, 6]))
    np.testing.assert_allclose(absent, [2, 0, 2 / 3], rtol=1e-6)
    assert class_weights((), 4, lambda: pytest.fail("counted")) is None
    assert describe_weights(absent, ("a", "b", "c")) == ["weights in the loss: a 2, b 0, c 0.6667 (loss.class_weights)"]


def test_refused():
    with pytest.raises(UserError, match="has 2 numbers but model.num_classes is 3: give one for each class, in their"):
        class_weights((1.0, 2.0), 3, lambda: np.ones(3))
    with pytest.raises(UserError, match="are all 0: give those that count a weight above 0"):
        class_weights((0.0, 0.0), 2, lambda: np.ones(2))


def of_digits(*overrides):
    config = config_lib.load(str(ROOT / "configs/digits.py"), ["model.depths=(1,1,1,1)", *overrides])
    return TASKS["classification"].make(config_lib.read(config))


def test_targets_of_a_classifier():
    """The loss is that of ``torch.nn.CrossEntropyLoss(weight)`` on soft targets: -Σ w t log p, averaged over images."""
    weights = (0.5, 2.0, *[1.0] * 8)
    images, key = jnp.zeros((3, 32, 32, 3), jnp.uint8), jax.random.key(0)
    batch = {"image": images, "label": jnp.array([0, 1, 5])}
    plain = of_digits("batch_transform.label_smoothing=0.1").prepare(batch, key)["target"]
    task = of_digits("batch_transform.label_smoothing=0.1", f"loss.class_weights={weights}")
    np.testing.assert_allclose(task.prepare(batch, key)["target"], plain * np.array(weights), rtol=1e-6)
    assert task.prepare_training()[0].startswith("weights in the loss: 0 0.5, 1 2, 2 1")


def test_counts_of_a_classifier():
    task = of_digits("loss.class_weights=balanced", "data.sampler=balanced")
    source = task.train_source
    expected = compute_class_weight("balanced", classes=np.arange(10), y=source.labels)
    np.testing.assert_allclose(task._class_weights, expected, rtol=1e-6)
    assert task.prepare_training()[0] == "classes are drawn equally often (data.sampler)"
    task.train_source = SimpleNamespace(labels=None)
    with pytest.raises(UserError, match="data.sampler=balanced needs the labels of all images before the first step"):
        task.prepare_training()


def test_pixels_of_label_maps(tmp_path):
    written = write_label_folder(tmp_path, count=5, num_classes=4)
    folder = f"{ROOT / 'configs/segmentation_folder.py'}:{tmp_path},4"
    config = config_lib.load(folder, ["init.checkpoint=", "loss.class_weights=balanced"])
    task = TASKS["segmentation"].make(config_lib.read(config))
    pixels = np.concatenate([one.ravel() for one in written["train"]])
    counts = np.bincount(pixels[pixels != 255], minlength=4)
    assert count_pixels(task.train_source, config_lib.read(config).data, skip=False).tolist() == counts.tolist()
    assert task.prepare_training()[0].startswith("weights in the loss: class 0 ")
    np.testing.assert_allclose(task._class_weights, counts.sum() / (4 * counts), rtol=1e-6)
    # Evaluation needs none, and reads no label map for them.
    other = TASKS["segmentation"].make(replace(config_lib.read(config)))
    assert "_class_weights" not in vars(other)


def test_loss_and_gradient_of_a_segmenter():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)
    labels = rng.integers(0, 3, (2, 4, 4))
    labels[0, :2, 1] = 255
    weights = np.array([0.5, 0.0, 3.0], np.float32)

    def expected(logits):
        # Of the same size, so that nothing is resized.
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), np.where(labels == 255, 0, labels)[..., None], -1)
        kept = jnp.where(labels == 255, 0.0, weights[np.where(labels == 255, 0, labels)])
        return (losses[..., 0] * kept).sum((1, 2))

    def found(logits):
        return segmentation_cross_entropy(logits, jnp.asarray(labels), weights=tuple(weights.tolist()))[0]

    np.testing.assert_allclose(found(logits), expected(logits), rtol=1e-5)
    slopes = [jax.grad(lambda x, f=f: (f(x) * jnp.array([1.0, 2.0])).sum())(logits) for f in (found, expected)]
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)
    counts = segmentation_cross_entropy(logits, jnp.asarray(labels), weights=(1.0, 1.0, 1.0))[1]
    assert counts.tolist() == [14, 16]
