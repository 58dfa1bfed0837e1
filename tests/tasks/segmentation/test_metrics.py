"""Confusion matrices against a loop over pixels and scikit-learn; metrics by hand; eight devices against one."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pvt_jax.tasks.segmentation.metrics import confusion_matrix, segmentation_metrics

matrix_of = jax.jit(confusion_matrix, static_argnums=2)
NAMES = ("sky", "tree", "road", "car")


def counted(predictions, labels, classes, mask=None) -> np.ndarray:
    found = matrix_of(predictions, labels, classes, mask)
    assert found.dtype == jnp.int32
    return np.asarray(found)


def maps(shape=(3, 5, 7), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    return rng.integers(0, classes, shape).astype(np.uint8), labels


def loop(predictions, labels, classes, mask) -> np.ndarray:
    matrix = np.zeros((classes, classes), int)
    for place in np.ndindex(labels.shape):
        if labels[place] != 255 and mask[place[: mask.ndim]]:
            matrix[labels[place], predictions[place]] += 1
    return matrix


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=40)
@given(st.data())
def test_it_is_a_loop_over_pixels_and_scikit_learn_s(data):
    shape = data.draw(st.sampled_from([(1, 1, 1), (3, 5, 7)]))
    classes = data.draw(st.sampled_from([1, 4]))
    labels = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), 255])))
    predictions = data.draw(arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    mask = data.draw(arrays(bool, data.draw(st.sampled_from([shape, shape[:1]]))))
    found = counted(predictions, labels, classes, mask)
    np.testing.assert_array_equal(found, loop(predictions, labels, classes, mask))
    counts = (labels != 255) & mask.reshape(*mask.shape, *(1,) * (3 - mask.ndim))
    if counts.any():
        pair = labels[counts], predictions[counts]
        np.testing.assert_array_equal(found, sklearn.metrics.confusion_matrix(*pair, labels=range(classes)))


@settings(max_examples=40)
@given(st.data())
def test_metrics_are_those_of_sets_of_pixels_and_of_scikit_learn(data):
    shape = (2, 3, 5)
    # Often a class or two are in neither.
    present = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    labels = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([*present, 255])))
    predictions = data.draw(arrays(np.uint8, shape, elements=st.sampled_from(present)))
    found = segmentation_metrics(loop(predictions, labels, 4, np.ones(shape, bool)), NAMES)

    pixels = [place for place in np.ndindex(shape) if labels[place] != 255]
    sets = {k: ({p for p in pixels if labels[p] == k}, {p for p in pixels if predictions[p] == k}) for k in range(4)}
    iou = {NAMES[k]: 100 * len(a & b) / len(a | b) for k, (a, b) in sets.items() if a | b}
    accuracy = [100 * len(a & b) / len(a) for a, b in sets.values() if a]
    assert {key: value for key, value in found.items() if "/" in key} == {f"iou/{k}": v for k, v in iou.items()}
    assert found["miou"] == pytest.approx(np.mean(list(iou.values())) if iou else 0, abs=1e-12)
    assert found["mean_accuracy"] == pytest.approx(np.mean(accuracy) if accuracy else 0, abs=1e-12)
    if pixels:
        pair = labels[labels != 255], predictions[labels != 255]
        assert found["pixel_accuracy"] == pytest.approx(100 * sklearn.metrics.accuracy_score(*pair))
        assert found["miou"] == pytest.approx(100 * sklearn.metrics.jaccard_score(*pair, average="macro"))
        assert found["mean_accuracy"] == pytest.approx(
            100 * sklearn.metrics.recall_score(*pair, labels=np.unique(pair[0]), average="macro")
        )


def test_metrics_by_hand():
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 4, 0], [0, 0, 0, 0]])
    assert segmentation_metrics(matrix, NAMES) == {
        # A class that is only predicted has an IoU, of 0; one that never occurs has none.
        "miou": pytest.approx((100 * 3 / 6 + 0 + 100 * 4 / 6) / 3),
        "mean_accuracy": pytest.approx((75 + 100 * 4 / 6) / 2),
        "pixel_accuracy": pytest.approx(70),
        "iou/sky": pytest.approx(50),
        "iou/tree": 0,
        "iou/road": pytest.approx(100 * 4 / 6),
    }


def test_metrics_of_nothing_are_zero():
    found = segmentation_metrics(np.zeros((4, 4), np.int64), NAMES)
    assert found == {"miou": 0.0, "mean_accuracy": 0.0, "pixel_accuracy": 0.0}


def test_counts_beyond_32_bits():
    found = segmentation_metrics(np.array([[3 * 2**40, 2**40], [0, 2**40]]), ("a", "b"))
    assert (found["iou/a"], found["iou/b"], found["pixel_accuracy"]) == (75.0, 50.0, 80.0)


def test_parts_add_up_to_the_whole():
    predictions, labels = maps((8, 9, 11))
    whole = counted(predictions, labels, 4)
    parts = [counted(predictions[i : i + 2], labels[i : i + 2], 4) for i in range(0, 8, 2)]
    np.testing.assert_array_equal(sum(parts), whole)
    np.testing.assert_array_equal(whole, loop(predictions, labels, 4, np.ones(8, bool)))


def test_padding_counts_nothing_whatever_it_holds():
    """Of the last batch, images; of an image, what a bucket adds."""
    predictions, labels = maps()
    padded = functools.partial(np.pad, pad_width=((0, 2), (0, 3), (0, 4)))
    mask = padded(np.ones(labels.shape, bool))
    found = counted(padded(predictions, constant_values=3), padded(labels), 4, mask)
    np.testing.assert_array_equal(found, loop(predictions, labels, 4, np.ones(3, bool)))
    np.testing.assert_array_equal(
        counted(predictions, labels, 4, np.array([True, False, False])), counted(predictions[:1], labels[:1], 4)
    )


def test_classes_up_to_the_ignored_label():
    labels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(counted(labels, labels, 255), np.eye(255, dtype=int))


DEVICES = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.tasks.segmentation.metrics import confusion_matrix
assert jax.device_count() == 8
sharding = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
inputs = np.load(sys.argv[1])
arrays = [jax.device_put(inputs[name], sharding) for name in ("predictions", "labels", "mask")]
count = jax.jit(lambda predictions, labels, mask: confusion_matrix(predictions, labels, 4, mask))
compiled = count.lower(*arrays).compile()
# Each device counts its own images; only counts travel.
assert "all-gather" not in compiled.as_text()
np.save(sys.argv[2], compiled(*arrays))
"""


def test_eight_devices_count_what_one_does(tmp_path):
    predictions, labels = maps((16, 9, 11))
    mask = np.random.default_rng(1).random(labels.shape) < 0.8
    np.savez(tmp_path / "in.npz", predictions=predictions, labels=labels, mask=mask)
    command = [sys.executable, "-c", DEVICES, str(tmp_path / "in.npz"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(found, counted(predictions, labels, 4, mask))
    np.testing.assert_array_equal(found, loop(predictions, labels, 4, mask))
