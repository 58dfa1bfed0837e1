"""Pixelwise cross-entropy against NumPy in float64, whose logits exist at every pixel; its memory; its devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy
from tests.helpers import resampling

losses = jax.jit(segmentation_cross_entropy, static_argnames="ignore")


@jax.jit
def gradient(logits, labels, weights):
    return jax.grad(lambda x: (weights * segmentation_cross_entropy(x, labels)[0]).sum())(logits)


def example(source, target, classes=5, batch=2, ignored=0.2, seed=0):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((batch, *source, classes)).astype(np.float32)
    labels = rng.integers(0, classes, (batch, *target)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = 255
    return logits, labels


def numpy_loss(logits, labels, ignore=255):
    """([b] losses, [b] counts, [b, h, w, k] gradients)."""
    sums, counts, gradients = [], [], []
    for grid, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        rows, columns = (resampling.matrix(*sides) for sides in zip(grid.shape[:2], label.shape, strict=True))
        pixels = resampling.bilinear(grid, label.shape)
        slopes, total = np.zeros_like(pixels), 0.0
        for y, x in np.argwhere(label != ignore):
            shifted = pixels[y, x] - pixels[y, x].max()
            softmax = np.exp(shifted) / np.exp(shifted).sum()
            total -= np.log(softmax[label[y, x]])
            slopes[y, x] = softmax - np.eye(len(softmax))[label[y, x]]
        sums.append(total)
        counts.append((label != ignore).sum())
        gradients.append(np.einsum("yh,yxk,xw->hwk", rows, slopes, columns))
    return np.array(sums), np.array(counts), np.array(gradients)


SIZES = [
    ((4, 6), (16, 24)),
    ((9, 5), (36, 20)),  # 36 rows are three blocks of 12
    ((10, 3), (37, 13)),  # the third block of 13 has padding
    ((5, 7), (33, 7)),
    ((3, 4), (3, 4)),
    ((20, 9), (7, 5)),
    ((40, 4), (18, 16)),  # blocks of few rows that reach over many
    ((1, 1), (17, 2)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_value_and_gradient_agree_with_numpy(source, target):
    logits, labels = example(source, target)
    expected, counts, slopes = numpy_loss(logits, labels)
    found, found_counts = losses(logits, labels)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    np.testing.assert_array_equal(found_counts, counts)
    weights = np.array([1.0, -0.5], np.float32)
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(
        gradient(logits, labels, weights), weights[:, None, None, None] * slopes, rtol=0, atol=2e-6 * scale
    )


def test_the_logits_of_equal_classes_cost_the_logarithm_of_their_number():
    labels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    found, counts = losses(np.full((1, 2, 2, 150), 7, np.float32), labels)
    assert counts.tolist() == [64]
    np.testing.assert_allclose(found, 64 * np.log(150), rtol=1e-6)


def test_an_image_without_labels_costs_nothing():
    logits, labels = example((4, 4), (16, 16))
    labels[1] = 255
    sums, counts = losses(logits, labels)
    assert (sums[1], counts[1]) == (0, 0)
    assert sums[0] > 0 and counts[0] == (labels[0] != 255).sum()
    slopes = gradient(logits, labels, np.ones(2, np.float32))
    np.testing.assert_array_equal(slopes[1], 0.0)
    assert np.abs(slopes[0]).max() > 0


def test_another_ignored_label_and_wide_integers():
    logits, labels = example((4, 4), (16, 16), ignored=0)
    labels = labels.astype(np.int32)
    labels[:, :5] = -1
    expected, counts, _ = numpy_loss(logits, labels, ignore=-1)
    sums, found_counts = losses(logits, labels, ignore=-1)
    np.testing.assert_allclose(sums, expected, rtol=2e-6)
    np.testing.assert_array_equal(found_counts, counts)


def test_labels_beyond_the_classes_and_huge_logits_stay_finite():
    logits, labels = example((4, 4), (16, 16))
    labels[:, 3:6] = 200
    for one in (logits, 1e30 * logits):
        sums, slopes = losses(one, labels)[0], gradient(one, labels, np.ones(2, np.float32))
        assert np.isfinite(sums).all() and np.isfinite(slopes).all()


def test_bfloat16_logits_are_computed_in_float32():
    logits, labels = example((4, 6), (16, 24))
    halves = jnp.asarray(logits, jnp.bfloat16)
    expected, _, slopes = numpy_loss(np.asarray(halves, np.float32), labels)
    found = losses(halves, labels)[0]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    found = gradient(halves, labels, np.ones(2, np.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), slopes, rtol=2**-8, atol=1e-5)


def test_the_logits_of_all_pixels_never_exist():
    """Of 256 × 256 pixels in 150 classes they would take 39 MB an image."""
    shapes = (jax.ShapeDtypeStruct((1, 64, 64, 150), jnp.float32), jax.ShapeDtypeStruct((1, 256, 256), jnp.uint8))
    step = jax.jit(jax.value_and_grad(lambda x, y: segmentation_cross_entropy(x, y)[0].sum()))
    memory = step.lower(*shapes).compile().memory_analysis()
    whole = 256 * 256 * 150 * 4
    # A block of 16 rows is a sixteenth; there are its logits, its slopes, and parts of them at four rows.
    assert memory.temp_size_in_bytes < 3.5 / 16 * whole


def test_eight_devices_keep_their_images(tmp_path):
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy
assert jax.device_count() == 8
sharding = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
inputs = np.load(sys.argv[1])
logits, labels = (jax.device_put(inputs[name], sharding) for name in ("logits", "labels"))
@jax.jit
def both(logits, labels):
    (_, sums), slopes = jax.value_and_grad(lambda x: (lambda s: (s.sum(), s))(segmentation_cross_entropy(x, labels)[0]),
                                           has_aux=True)(logits)
    return sums, slopes
compiled = both.lower(logits, labels).compile()
sums, slopes = compiled(logits, labels)
assert sums.sharding.is_equivalent_to(sharding, 1) and slopes.sharding.is_equivalent_to(sharding, 4)
text = compiled.as_text()
assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in text]
np.savez(sys.argv[2], sums=sums, slopes=slopes)
"""
    logits, labels = example((10, 5), (37, 20), batch=8)
    np.savez(tmp_path / "in.npz", logits=logits, labels=labels)
    command = [sys.executable, "-c", script, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["sums"], losses(logits, labels)[0], rtol=1e-6)
        np.testing.assert_allclose(found["slopes"], gradient(logits, labels, np.ones(8, np.float32)), atol=1e-5)
