"""DETR's matching and losses against SciPy's assignment in float64 NumPy, and against Hugging Face's own classes."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pvt_jax.heads.detr.loss import Weights, match, set_losses

LAYERS, BATCH, QUERIES, MOST, CLASSES = 3, 3, 8, 5, 4
WEIGHTS = Weights()


@jax.jit
def ours(logits: Any, boxes: Any, target_boxes: Any, labels: Any, valid: Any) -> Any:
    """(losses [parts, layers], the query of each object [layers, b, m])."""
    targets = target_boxes, labels, valid
    losses = jax.vmap(set_losses, (0, 0, None, None, None, None))(logits, boxes, *targets, WEIGHTS)
    by_image = jax.vmap(match, (0, 0, 0, 0, 0, None))
    matched = jax.vmap(by_image, (0, 0, None, None, None, None))(logits, boxes, *targets, WEIGHTS)
    return jnp.stack(losses), matched


def to_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Generalised IoU of two boxes."""
    (left, top, right, bottom), (x1, y1, x2, y2) = to_corners(a), to_corners(b)
    shared = max(min(right, x2) - max(left, x1), 0) * max(min(bottom, y2) - max(top, y1), 0)
    union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared
    around = (max(right, x2) - min(left, x1)) * (max(bottom, y2) - min(top, y1))
    return shared / union - (around - union) / around


def numpy_set_losses(logits: Any, boxes: Any, target_boxes: Any, labels: Any, valid: Any) -> tuple[Any, Any]:
    """((class, box, overlap) loss, [(queries, objects)] of each image) of one decoder layer."""
    exponentials = np.exp(np.asarray(logits, np.float64))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    pairs, class_sum, weight_sum, box_sum, giou_sum = [], 0.0, 0.0, 0.0, 0.0
    for b, known in enumerate(valid):
        objects = np.flatnonzero(known)
        cost = np.zeros((QUERIES, len(objects)))
        for i, j in np.ndindex(cost.shape):
            one, other = boxes[b, i].astype(np.float64), target_boxes[b, objects[j]].astype(np.float64)
            cost[i, j] = 5 * np.abs(one - other).sum() - 2 * overlap(one, other)
            cost[i, j] -= probabilities[b, i, labels[b, objects[j]]]
        queries, columns = linear_sum_assignment(cost)
        target = np.full(QUERIES, CLASSES)
        target[queries] = labels[b, objects[columns]]
        weight = np.where(target == CLASSES, 0.1, 1.0)
        class_sum -= (weight * np.log(probabilities[b, np.arange(QUERIES), target])).sum()
        weight_sum += weight.sum()
        for i, j in zip(queries, objects[columns], strict=True):
            box_sum += np.abs(boxes[b, i].astype(np.float64) - target_boxes[b, j]).sum()
            giou_sum += 1 - overlap(boxes[b, i].astype(np.float64), target_boxes[b, j].astype(np.float64))
        pairs.append((queries, objects[columns]))
    number = max(valid.sum(), 1)
    return (class_sum / weight_sum, 5 * box_sum / number, 2 * giou_sum / number), pairs


def numpy_oracle(logits: Any, boxes: Any, *targets: Any) -> tuple[np.ndarray, Any]:
    """(losses [parts, layers], pairs by layer and image)."""
    losses, pairs = zip(*(numpy_set_losses(*one, *targets) for one in zip(logits, boxes, strict=True)), strict=True)
    return np.array(losses).T, pairs


def hugging_face_oracle(logits: Any, boxes: Any, target_boxes: Any, labels: Any, valid: Any) -> tuple[np.ndarray, Any]:
    # Imported here, as it skips without PyTorch.
    from tests.helpers.oracles import torch

    module = importlib.import_module("transformers.loss.loss_for_object_detection")
    matcher = module.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = module.ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes"])
    targets = [
        {"class_labels": torch.tensor(labels[b][known]).long(), "boxes": torch.tensor(target_boxes[b][known])}
        for b, known in enumerate(valid)
    ]
    layers = [
        {"logits": torch.tensor(one), "pred_boxes": torch.tensor(other)}
        for one, other in zip(logits, boxes, strict=True)
    ]
    found = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)
    suffixes = [f"_{i}" for i in range(LAYERS - 1)] + [""]
    parts = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    losses = [[weight * float(found[name + suffix]) for suffix in suffixes] for name, weight in parts.items()]
    pairs = []
    for layer in layers:
        among = [np.flatnonzero(known) for known in valid]
        found = matcher(layer, targets)
        pairs.append([(i.numpy(), objects[j.numpy()]) for (i, j), objects in zip(found, among, strict=True)])
    return np.array(losses), pairs


def example(seed: int, counts: Any = None) -> tuple[np.ndarray, ...]:
    """(logits, boxes, target boxes, labels, valid); objects are anywhere among the padding, which is not zero."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, MOST + 1, BATCH) if counts is None else counts
    logits = 2 * rng.standard_normal((LAYERS, BATCH, QUERIES, CLASSES + 1))
    boxes = rng.uniform(0.05, 0.95, (LAYERS, BATCH, QUERIES, 4))
    target_boxes = rng.uniform(0.05, 0.95, (BATCH, MOST, 4))
    labels = rng.integers(0, CLASSES, (BATCH, MOST)).astype(np.int32)
    valid = np.stack([rng.permutation(np.arange(MOST) < count) for count in counts])
    return *(x.astype(np.float32) for x in (logits, boxes, target_boxes)), labels, valid


def tied(seed: int) -> tuple[np.ndarray, ...]:
    """Queries come twice, and so do objects."""
    logits, boxes, target_boxes, labels, valid = example(seed, (MOST, 2, 1))
    for x in (logits, boxes):
        x[:, :, 4:] = x[:, :, :4]
    for x in (target_boxes, labels):
        x[:, 2:4] = x[:, :2]
    return logits, boxes, target_boxes, labels, valid


BOTH = pytest.mark.parametrize("oracle", [numpy_oracle, hugging_face_oracle], ids=["SciPy", "Hugging Face"])


@BOTH
def test_matches_and_losses_of_all_layers(oracle):
    """Some of the images have no object, some batches none at all, and some as many as fit."""
    cases = [example(seed) for seed in range(100)]
    cases += [example(1000, (0, 0, 0)), example(1001, (MOST, MOST, MOST)), example(1002, (0, MOST, 0))]
    assert sum(not case[-1].any(1).all() for case in cases) > 20
    for case in cases:
        expected, pairs = oracle(*case)
        losses, matched = ours(*case)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
        for layer, images in zip(np.asarray(matched), pairs, strict=True):
            for found, (queries, objects) in zip(layer, images, strict=True):
                np.testing.assert_array_equal(found[objects], queries)


@BOTH
def test_losses_where_matches_tie(oracle):
    for seed in range(30):
        case = tied(seed)
        losses, matched = ours(*case)
        np.testing.assert_allclose(losses, oracle(*case)[0], rtol=1e-5, atol=1e-6)
        for layer in np.asarray(matched):
            for found, known in zip(layer, case[-1], strict=True):
                assert len(set(found[known])) == known.sum()


def test_an_example_done_by_hand():
    """Of two predictions the second is nearer to the object, though the first is surer of its class."""
    logits = np.log(np.array([[[0.7, 0.2, 0.1], [0.2, 0.1, 0.7]]], np.float32))
    boxes = np.array([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.35, 0.5, 0.5]]], np.float32)
    targets = np.array([[[0.25, 0.25, 0.5, 0.5]]], np.float32), np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
    losses = jax.jit(set_losses)
    found = losses(logits, boxes, *targets, WEIGHTS)
    # L1 is 0.1; 0.2 of 0.3 is shared, and nothing else lies between.
    expected = (-0.1 * np.log(0.1) - np.log(0.2)) / 1.1, 5 * 0.1, 2 * (1 - 0.2 / 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = losses(logits, boxes, *targets, WEIGHTS._replace(label=100.0))
    np.testing.assert_allclose(found[1:], [5 * 0.5, 2 * (1 - 1 / 7 + 2 / 9)], rtol=1e-5)


@functools.cache
def gradient() -> Any:
    def total(logits: Any, boxes: Any, target_boxes: Any, labels: Any, valid: Any) -> Any:
        return sum(set_losses(logits[0], boxes[0], target_boxes, labels, valid, WEIGHTS))

    return jax.jit(jax.value_and_grad(total, (0, 1)))


@pytest.mark.parametrize("number", [MOST, 0])
def test_a_batch_without_objects_teaches_that_there_are_none(number):
    case = example(0, (0, 0, 0))
    case = *case[:2], *(x[:, :number] for x in case[2:])
    if number:
        case[2][:] = 0
    loss, (logits, boxes) = gradient()(*case)
    assert np.isfinite(loss) and float(loss) > 0
    np.testing.assert_array_equal(boxes, 0)
    # All that falls is the score of "no object", under descent: it rises.
    assert (np.asarray(logits)[0, ..., -1] < 0).all() and (np.asarray(logits)[0, ..., :-1] > 0).all()


def test_gradients_are_those_of_the_matched_predictions():
    case = example(3, (2, 0, MOST))
    _, (_, boxes) = gradient()(*case)
    _, pairs = numpy_oracle(*case)
    moved = np.abs(np.asarray(boxes)[0]).max(-1) > 0
    expected = np.zeros_like(moved)
    for b, (queries, _) in enumerate(pairs[0]):
        expected[b, queries] = True
    np.testing.assert_array_equal(moved, expected)


def test_predictions_that_are_not_finite_end_in_a_loss_that_says_so():
    case = example(0, (2, 2, 2))
    case[0][:] = np.nan
    losses, _ = ours(*case)
    assert np.isnan(losses[0]).all() and np.isfinite(losses[1:]).all()
