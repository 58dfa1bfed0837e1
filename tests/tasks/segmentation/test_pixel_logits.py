"""Label maps of images of many sizes against NumPy, one image at a time and all pixels at once."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.tasks.segmentation.pixel_logits import coarse_logits, mirror, pixel_logits, predicted_labels
from tests.helpers import resampling

# Of one image 32 × 64 is true, of the other all.
SIZES = np.array([[32, 64], [64, 96]], np.int32)
LABEL_SIZES = np.array([[21, 50], [37, 43]], np.int32)
LABEL_SHAPE = (37, 50)


labelled = jax.jit(predicted_labels, static_argnums=2)


@jax.jit
def labels_of(logits, sizes, label_sizes):
    """``sizes`` of each scale or None."""
    pairs = zip(logits, sizes, strict=True)
    return predicted_labels([pixel_logits(*pair) for pair in pairs], label_sizes, LABEL_SHAPE)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numpy_scores(logits, size, label_size):
    """Logits [h, w, k] of one image without padding → class scores [*label_size, k], float64."""
    height, width = size[0] // 4, size[1] // 4
    enlarged = resampling.bilinear(logits[:height, :width], tuple(size))
    return resampling.bilinear(enlarged, tuple(label_size))


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def assert_labels(found, scores):
    """The highest scores' classes, but where two are so near that rounding decides; and 0 beyond."""
    height, width = scores.shape[:2]
    best = np.sort(scores, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[:height, :width][clear], scores.argmax(-1)[clear])
    assert not found[height:].any() and not found[:, width:].any()


def test_one_scale_agrees_with_two_resamplings_in_numpy():
    logits = numbers(2, 16, 24, 5)
    found = np.asarray(labels_of([logits], [SIZES], LABEL_SIZES))
    assert found.dtype == np.uint8 and found.shape == (2, *LABEL_SHAPE)
    for i in range(2):
        assert_labels(found[i], numpy_scores(logits[i], SIZES[i], LABEL_SIZES[i]))


def test_coarse_logits_are_resampled_once():
    logits = numbers(2, 16, 24, 5)
    found = np.asarray(
        labelled([coarse_logits(jnp.asarray(logits), jnp.asarray(SIZES))], jnp.asarray(LABEL_SIZES), LABEL_SHAPE)
    )
    differs = 0
    for i in range(2):
        height, width = SIZES[i] // 4
        scores = resampling.bilinear(logits[i, :height, :width], tuple(LABEL_SIZES[i]))
        assert_labels(found[i], scores)
        differs += (scores.argmax(-1) != numpy_scores(logits[i], SIZES[i], LABEL_SIZES[i]).argmax(-1)).sum()
    assert differs > 20  # Twice is something else.


def test_of_several_scales_the_mean_of_softmax_decides():
    scales = [numbers(2, 16, 24, 5, seed=1), 4 * numbers(2, 8, 16, 5, seed=2), 0.5 * numbers(2, 24, 24, 5, seed=3)]
    sizes = [SIZES, SIZES // 2, np.array([[96, 64], [32, 96]], np.int32)]
    found = np.asarray(labels_of(scales, sizes, LABEL_SIZES))
    for i in range(2):
        scores = [numpy_scores(one[i], size[i], LABEL_SIZES[i]) for one, size in zip(scales, sizes, strict=True)]
        mean = np.mean([softmax(one) for one in scores], axis=0)
        # Means of logits would decide otherwise.
        assert (mean.argmax(-1) != np.mean(scores, axis=0).argmax(-1)).mean() > 0.05
        assert_labels(found[i], mean)


def test_without_padding_sizes_need_not_be_given():
    logits = numbers(2, 16, 24, 5)
    whole = np.array([[64, 96]] * 2, np.int32)
    expected = labels_of([logits], [whole], LABEL_SIZES)
    np.testing.assert_array_equal(labels_of([logits], [None], LABEL_SIZES), expected)


multiples = st.tuples(st.integers(1, 2), st.integers(1, 3)).map(lambda size: (32 * size[0], 32 * size[1]))
lengths = st.tuples(st.integers(1, 37), st.integers(1, 50))


@settings(max_examples=12)
@given(sizes=st.tuples(multiples, multiples), label_sizes=st.tuples(lengths, lengths))
def test_one_program_serves_all_sizes(sizes, label_sizes):
    """Sizes are arguments of it; what lies beyond them does not matter."""
    logits = numbers(2, 16, 24, 5)
    padded = logits.copy()
    for i, (height, width) in enumerate(sizes):
        padded[i, height // 4 :] = 1e4
        padded[i, :, width // 4 :] = -1e4
    found = labels_of([padded], [np.array(sizes, np.int32)], np.array(label_sizes, np.int32))
    for i in range(2):
        scores = numpy_scores(logits[i], sizes[i], label_sizes[i])
        height, width = label_sizes[i]
        best = np.sort(scores, axis=-1)
        # The label that is found may be lower than the best by no more than rounding.
        labels = np.asarray(found[i])[:height, :width]
        chosen = np.take_along_axis(scores, labels[..., None].astype(int), -1)[..., 0]
        assert (best[..., -1] - chosen < 1e-5).all()


@pytest.mark.parametrize("scales", [1, 2])
def test_of_equal_classes_the_first_is_taken(scales):
    logits = np.zeros((1, 2, 2, 4), np.float32)
    logits[..., 1:3] = 1
    size = jnp.array([[8, 8]])
    found = predicted_labels([pixel_logits(jnp.asarray(logits), size)] * scales, size, (8, 8))
    np.testing.assert_array_equal(found, 1)


def test_bfloat16_logits_are_resampled_in_float32():
    # Between 256 and 257 bfloat16 has nothing.
    logits = jnp.asarray(np.array([[256, 0], [0, 258]]).reshape(1, 1, 2, 2), jnp.bfloat16)
    size = jnp.array([[4, 8]])
    (row,) = np.asarray(predicted_labels([pixel_logits(logits, size)], size, (4, 8)))[:, 0]
    expected = resampling.bilinear(np.array([[[256.0, 0], [0, 258]]]), (4, 8)).argmax(-1)[0]
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("padded", [False, True])
def test_a_mirrored_network_gives_the_same_labels(padded):
    """Mirroring the images, then the logits of the mirrored images back, changes nothing but for rounding."""
    logits, label_sizes = numbers(2, 16, 24, 5), jnp.asarray(LABEL_SIZES)
    sizes = jnp.asarray(SIZES) if padded else None
    seen_mirrored = mirror(jnp.asarray(logits), None if sizes is None else sizes // 4)
    straight = labels_of([logits], [sizes], label_sizes)
    back = labelled([pixel_logits(seen_mirrored, sizes).mirrored()], label_sizes, LABEL_SHAPE)
    assert (np.asarray(back) != np.asarray(straight)).mean() < 1e-3
    wrong = labelled([pixel_logits(seen_mirrored, sizes)], label_sizes, LABEL_SHAPE)
    assert (np.asarray(wrong) != np.asarray(straight)).mean() > 0.1


def test_mirrors_stand_in_the_true_region():
    images = numbers(3, 4, 6, 2)
    sizes = np.array([[4, 6], [2, 5], [1, 1]], np.int32)
    expected = images.copy()
    for image, source, (_, width) in zip(expected, images, sizes, strict=True):
        for x in range(width):
            image[:, x] = source[:, width - 1 - x]
    np.testing.assert_array_equal(mirror(jnp.asarray(images), jnp.asarray(sizes)), expected)
    np.testing.assert_array_equal(mirror(jnp.asarray(images)), images[:, :, ::-1])
    counted = np.arange(72, dtype=np.uint8).reshape(1, 4, 6, 3)
    np.testing.assert_array_equal(
        mirror(jnp.asarray(counted), jnp.asarray([[4, 4]])), counted[:, :, [3, 2, 1, 0, 4, 5]]
    )


def test_the_logits_of_all_pixels_never_exist():
    """Of 256 × 256 pixels in 150 classes they would take 39 MB an image."""
    shapes = (jax.ShapeDtypeStruct((1, 64, 64, 150), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.int32))
    predict = jax.jit(lambda x, y: predicted_labels([pixel_logits(x, y)], y, (256, 256)))
    memory = predict.lower(*shapes).compile().memory_analysis()
    # A block of 8 rows is a thirty-second; there are its logits, and those of each column that has weight.
    assert memory.temp_size_in_bytes < 6 / 32 * 256 * 256 * 150 * 4


def test_eight_devices_predict_what_one_does(tmp_path):
    script = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.tasks.segmentation.pixel_logits import mirror, pixel_logits, predicted_labels
assert jax.device_count() == 8
sharding = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
inputs = np.load(sys.argv[1])
arrays = [jax.device_put(inputs[name], sharding) for name in ("logits", "sizes", "label_sizes")]
@jax.jit
def predict(logits, sizes, label_sizes):
    both = [pixel_logits(logits, sizes), pixel_logits(mirror(logits, sizes // 4), sizes)]
    return predicted_labels(both, label_sizes, (37, 50))
compiled = predict.lower(*arrays).compile()
labels = compiled(*arrays)
assert labels.sharding.is_equivalent_to(sharding, 3)
text = compiled.as_text()
moved = [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in text]
assert not moved, moved
np.save(sys.argv[2], labels)
"""
    logits = numbers(8, 16, 24, 5)
    sizes, label_sizes = np.tile(SIZES, (4, 1)), np.tile(LABEL_SIZES, (4, 1))
    np.savez(tmp_path / "in.npz", logits=logits, sizes=sizes, label_sizes=label_sizes)
    command = [sys.executable, "-c", script, str(tmp_path / "in.npz"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    mirrored = mirror(jnp.asarray(logits), jnp.asarray(sizes) // 4)
    expected = labels_of([logits, mirrored], [sizes, sizes], label_sizes)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
