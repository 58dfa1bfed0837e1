"""Accuracy against a ranking written out in NumPy: ties, scores that are not numbers, padding, merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.tasks.classification.metrics import classification_metrics, classification_sums

sums_of = jax.jit(classification_sums)


def sums(logits, labels, mask=None) -> dict[str, float]:
    logits = np.asarray(logits, np.float32)
    mask = np.ones(len(logits), bool) if mask is None else np.asarray(mask, bool)
    found = sums_of(logits, np.asarray(labels, np.int32), mask)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in found.values())
    return {name: float(value) for name, value in found.items()}


def numpy_sums(logits, labels, mask) -> dict[str, float]:
    """The classes in the order of their scores, of equal ones the lower number first."""
    total = {"loss": 0.0, "top1": 0.0, "top5": 0.0, "count": 0.0}
    for scores, label, counts in zip(np.asarray(logits, np.float64), labels, mask, strict=True):
        if not counts:
            continue
        order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
        total["count"] += 1
        total["top1"] += label in order[:1]
        total["top5"] += label in order[:5]
        total["loss"] += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]
    return total


@settings(max_examples=60)
@given(st.data())
def test_agrees_with_numpy_also_for_ties(data):
    classes = data.draw(st.sampled_from([2, 4, 9]))
    # Few distinct scores make ties common.
    scores = st.lists(st.integers(-2, 2), min_size=classes, max_size=classes)
    logits = np.array(data.draw(st.lists(scores, min_size=6, max_size=6)), np.float32)
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=6, max_size=6)), np.int32)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    found, expected = sums(logits, labels, mask), numpy_sums(logits, labels, mask)
    for name in ("top1", "top5", "count"):
        assert found[name] == expected[name]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5, abs=1e-6)


def test_equal_scores_are_right_for_the_first_classes_alone():
    found = sums(np.zeros((10, 10)), np.arange(10))
    assert (found["top1"], found["top5"], found["count"]) == (1, 5, 10)


def test_the_boundary_of_the_first_five():
    logits = np.tile(np.arange(8, 0, -1.0), (8, 1))
    found = [sums(logits[k : k + 1], [k]) for k in range(8)]
    assert [f["top1"] for f in found] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert [f["top5"] for f in found] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_fewer_than_five_classes_are_all_among_the_first_five():
    found = sums([[3, 2, 1], [3, 2, 1]], [2, 0])
    assert (found["top1"], found["top5"]) == (1, 2)


@pytest.mark.parametrize("classes", [8, 3])
@pytest.mark.parametrize("place", [0, 1])
def test_scores_that_are_not_numbers_are_wrong(place, classes):
    logits = np.zeros((2, classes))
    logits[:, 0] = 5.0
    logits[0, place] = np.nan
    found = sums(logits, [0, 0])
    assert (found["top1"], found["top5"], found["count"]) == (1, 1, 2)
    assert np.isnan(found["loss"])


def test_infinite_scores_rank_as_the_highest():
    found = sums([[0.0, np.inf, 1.0], [0.0, np.inf, 1.0]], [1, 2])
    assert found["top1"] == 1


def test_padding_counts_nothing_whatever_it_holds():
    logits = np.array([[0.0, 2.0], [np.nan, np.nan], [np.inf, -np.inf], [9.0, 0.0]])
    found = sums(logits, [1, 0, 1, 0], [True, False, False, False])
    assert found == {"top1": 1, "top5": 1, "count": 1, "loss": pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-6)}


def test_merged_sums_of_padded_batches_equal_the_whole():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((23, 7)).astype(np.float32), rng.integers(0, 7, 23)
    padded, targets = np.zeros((24, 7), np.float32), np.zeros(24, np.int32)
    padded[:23], targets[:23] = logits, labels
    merged = dict.fromkeys(("loss", "top1", "top5", "count"), 0.0)
    for part in range(0, 24, 8):
        for name, value in sums(
            padded[part : part + 8], targets[part : part + 8], np.arange(part, part + 8) < 23
        ).items():
            merged[name] += value
    found, expected = classification_metrics(merged), numpy_sums(logits, labels, np.ones(23))
    assert found["top1"] == pytest.approx(100 * expected["top1"] / 23)
    assert found["top5"] == pytest.approx(100 * expected["top5"] / 23)
    assert found["loss"] == pytest.approx(expected["loss"] / 23, rel=1e-5)


def test_metrics_are_percent_and_mean():
    found = classification_metrics({"loss": 6.0, "top1": 1.0, "top5": 3.0, "count": 4.0})
    assert found == {"loss": 1.5, "top1": 25.0, "top5": 75.0}


def test_metrics_of_nothing_are_zero():
    assert classification_metrics({"loss": 0.0, "top1": 0.0, "top5": 0.0, "count": 0.0}) == {
        "loss": 0.0,
        "top1": 0.0,
        "top5": 0.0,
    }
