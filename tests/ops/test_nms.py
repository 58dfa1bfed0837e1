"""Suppression by matrices against the greedy loop, in exact arithmetic."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops import nms as nms_module
from pvt_jax.ops.nms import nms


def greedy(boxes, scores, threshold, max_outputs, labels, valid) -> list[int]:
    """The plain loop. Boxes are whole quarters of pixels, so that IoU and threshold compare as whole numbers."""
    quarters = np.round(4 * boxes.astype(np.float64)).astype(np.int64)
    fraction = Fraction(str(threshold))
    width, height = quarters[:, 2] - quarters[:, 0], quarters[:, 3] - quarters[:, 1]
    area = width * height
    alive, kept = valid.copy(), []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if not alive[i] or len(kept) == max_outputs:
            continue
        kept.append(i)
        low, high = np.maximum(quarters[:, :2], quarters[i, :2]), np.minimum(quarters[:, 2:], quarters[i, 2:])
        intersection = np.maximum(high - low, 0).prod(-1)
        union = area + area[i] - intersection
        above = intersection * fraction.denominator > fraction.numerator * union
        alive &= ~(above & (labels == labels[i]))
    return kept


def images(seed: int, count: int, n: int, num_labels: int) -> tuple[np.ndarray, ...]:
    """Crowded boxes [count, n, 4], scores, labels, valid, with all that makes suppression ambiguous."""
    rng = np.random.default_rng(seed)
    # The fewer boxes, the smaller the image, so that most of them overlap.
    place = rng.integers(0, 8 + n // 4, (count, n, 2))
    boxes = np.concatenate([place, place + rng.integers(1, 9, (count, n, 2))], axis=-1) / 1.0
    # Half of the images on quarters of pixels; a third of the boxes stand on others, a tenth has no area.
    boxes[::2] += rng.integers(-1, 2, boxes[::2].shape) / 4
    twin = rng.integers(0, n, (count, n))
    boxes = np.where(rng.random((count, n, 1)) < 0.3, np.take_along_axis(boxes, twin[..., None], 1), boxes)
    flat = rng.random((count, n)) < 0.1
    boxes[..., 2] = np.where(flat, boxes[..., 0], boxes[..., 2])
    # In a third of the images few scores, in a third of them all are equal.
    scores = rng.random((count, n)).astype(np.float32)
    scores[::3] = rng.integers(0, 4, scores[::3].shape) / 4
    scores[1::9] = 0.5
    labels = rng.integers(0, num_labels, (count, n)).astype(np.int32)
    valid = rng.random((count, n)) < rng.choice([0.3, 0.9, 1.0], (count, 1))
    valid[::20] = False
    return boxes.astype(np.float32), scores, labels, valid


def assert_greedy(found, inputs, threshold: float, max_outputs: int) -> None:
    indices, kept = map(np.asarray, found)
    assert indices.dtype == np.int32 and kept.dtype == bool and indices.shape[1:] == (max_outputs,)
    for i, (boxes, scores, labels, valid) in enumerate(zip(*inputs, strict=True)):
        expected = greedy(boxes, scores, threshold, max_outputs, labels, valid)
        np.testing.assert_array_equal(kept[i], np.arange(max_outputs) < len(expected), err_msg=str(i))
        np.testing.assert_array_equal(indices[i, kept[i]], expected, err_msg=str(i))
        np.testing.assert_array_equal(indices[i, ~kept[i]], 0)


def batched(threshold: float, max_outputs: int) -> Callable:
    return jax.jit(
        jax.vmap(
            lambda boxes, scores, labels, valid: nms(
                boxes, scores, threshold=threshold, max_outputs=max_outputs, labels=labels, valid=valid
            )
        )
    )


# 1,000 images: in one tile, in several, in a tile that is not full, with fewer boxes than outputs, with one box.
@pytest.mark.parametrize(
    ("count", "n", "tile", "max_outputs", "num_labels", "threshold"),
    [
        (200, 40, 256, 12, 3, 0.5),
        (200, 40, 8, 40, 3, 0.5),
        (100, 37, 8, 10, 1, 0.7),
        (100, 37, 16, 37, 1, 0.3),
        (100, 23, 8, 50, 2, 0.5),
        (100, 24, 8, 5, 2, 0.0),
        (50, 24, 8, 24, 2, 1.0),
        (100, 1, 256, 3, 1, 0.5),
        (50, 300, 256, 100, 5, 0.6),
    ],
)
def test_it_is_the_greedy_loop(monkeypatch, count, n, tile, max_outputs, num_labels, threshold):
    monkeypatch.setattr(nms_module, "_TILE", tile)
    inputs = images(n + max_outputs, count, n, num_labels)
    assert_greedy(batched(threshold, max_outputs)(*inputs), inputs, threshold, max_outputs)


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("with_valid", [False, True])
def test_labels_and_validity_need_not_be_given(with_labels, with_valid):
    boxes, scores, labels, valid = images(0, 20, 30, 2)
    inputs = (boxes, scores, labels if with_labels else 0 * labels, valid if with_valid else np.ones_like(valid))
    given = {"labels": labels} if with_labels else {}
    given |= {"valid": valid} if with_valid else {}
    suppress = jax.vmap(lambda boxes, scores, given: nms(boxes, scores, threshold=0.5, max_outputs=15, **given))
    assert_greedy(jax.jit(suppress)(boxes, scores, given), inputs, 0.5, 15)


def kept_of(boxes, scores=None, threshold: float = 0.5, max_outputs: int | None = None, **others) -> list[int]:
    boxes = jnp.asarray(boxes, jnp.float32)
    scores = -jnp.arange(len(boxes), dtype=jnp.float32) if scores is None else jnp.asarray(scores, jnp.float32)
    max_outputs = max_outputs or max(len(boxes), 1)
    suppress = jax.jit(partial(nms, threshold=threshold, max_outputs=max_outputs))
    indices, kept = suppress(boxes, scores, **{name: jnp.asarray(value) for name, value in others.items()})
    return indices[kept].tolist()


@pytest.mark.parametrize(
    ("threshold", "equal", "above"),
    # Of ten cells the first box holds ten; the second fewer, within it.
    [(0.5, [0, 0, 5, 1], [0, 0, 6, 1]), (0.7, [0, 0, 7, 1], [0, 0, 8, 1]), (0.3, [0, 0, 3, 1], [0, 0, 4, 1])],
)
def test_an_iou_at_the_threshold_is_kept(threshold, equal, above):
    whole = [0, 0, 10, 1]
    assert kept_of([whole, equal], threshold=threshold) == [0, 1]
    assert kept_of([whole, above], threshold=threshold) == [0]


def test_what_has_fallen_does_not_suppress():
    """0 beats 1, 1 would have beaten 2."""
    boxes = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]
    assert kept_of(boxes, threshold=0.5) == [0, 2]
    assert kept_of(boxes, [1, 3, 2], threshold=0.5) == [1]
    assert kept_of(boxes, valid=[False, True, True]) == [1]
    assert kept_of(boxes, labels=[0, 1, 0]) == [0, 1, 2]


def test_of_equal_scores_the_first_is_kept():
    boxes = [[0, 0, 4, 4]] * 3 + [[9, 9, 12, 12]] * 2
    assert kept_of(boxes, [0.5] * 5) == [0, 3]
    assert kept_of(boxes, [0.5, 0.5, 0.6, 0.1, 0.1]) == [2, 3]
    # Zero has no sign.
    assert kept_of(boxes, [-0.0, 0.0, 0.0, 0.0, 0.0]) == [0, 3]


def test_boxes_without_area_neither_fall_nor_suppress():
    assert kept_of([[2, 2, 2, 8]] * 3 + [[0, 0, 9, 9]], threshold=0.0) == [0, 1, 2, 3]


def test_invalid_boxes_are_nothing_whatever_they_hold():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [np.nan] * 4, [20, 0, 24, 4], [np.inf] * 4])
    scores = [np.inf, -np.inf, np.nan, -5.0, np.nan]
    assert kept_of(boxes, scores, valid=[False, True, False, True, False]) == [3, 1]


@pytest.mark.parametrize("n", [0, 5])
def test_an_image_without_boxes_has_none(n):
    indices, kept = nms(jnp.ones((n, 4)), jnp.ones(n), threshold=0.5, max_outputs=3, valid=jnp.zeros(n, bool))
    np.testing.assert_array_equal(indices, [0, 0, 0])
    np.testing.assert_array_equal(kept, [False] * 3)


def test_a_chain_through_all_tiles_is_settled_to_its_end():
    """Each overlaps the next alone: every second one is kept. It takes as many rounds as a tile is long."""
    x = 4.0 * np.arange(700)
    boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=-1)
    assert kept_of(boxes, threshold=0.4) == list(range(0, 700, 2))
    order = np.random.default_rng(0).permutation(700)
    assert kept_of(boxes[order], -order, threshold=0.4) == np.argsort(order)[::2].tolist()
    # It ends when it has enough.
    assert kept_of(boxes, threshold=0.4, max_outputs=130) == list(range(0, 260, 2))


def test_it_compiles_once_and_agrees_under_vmap():
    traces = []

    def suppress(boxes, scores, labels, valid):
        traces.append(boxes.shape)
        return nms(boxes, scores, threshold=0.5, max_outputs=20, labels=labels, valid=valid)

    one, inputs = jax.jit(suppress), images(7, 100, 40, 3)
    single = [one(*image) for image in zip(*inputs, strict=True)]
    assert len(traces) == 1 and one._cache_size() == 1
    many = jax.jit(jax.vmap(suppress))
    together = many(*inputs)
    for found, expected in zip(together, zip(*single, strict=True), strict=True):
        np.testing.assert_array_equal(found, np.stack(expected))
    many(*images(8, 100, 40, 3))
    assert len(traces) == 2 and many._cache_size() == 1


@pytest.mark.parametrize(("n", "max_outputs"), [(4819, 100), (4000, 1000)])
def test_no_matrix_of_all_pairs_exists(n, max_outputs):
    """As booleans they would take 16 to 23 MB. The sizes of RetinaNet's detections, and of a level of the RPN."""
    shapes = [jax.ShapeDtypeStruct((n, 4), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)]
    suppress = jax.jit(partial(nms, threshold=0.5, max_outputs=max_outputs))
    memory = suppress.lower(*shapes, labels=jax.ShapeDtypeStruct((n,), jnp.int32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4e6


def test_no_gradient_flows():
    boxes, scores, _, _ = (jnp.asarray(x[0]) for x in images(1, 1, 30, 1))

    def chosen(boxes, scores):
        indices, kept = nms(boxes, scores, threshold=0.5, max_outputs=30)
        return jnp.where(kept, boxes[indices].sum(-1), 0.0).sum()

    of_boxes, of_scores = jax.jit(jax.grad(chosen, argnums=(0, 1)))(boxes, scores)
    kept = kept_of(boxes, scores)
    expected = np.zeros((30, 4))
    expected[kept] = 1
    assert 0 < len(kept) < 30
    np.testing.assert_array_equal(of_boxes, expected)
    np.testing.assert_array_equal(of_scores, 0)
