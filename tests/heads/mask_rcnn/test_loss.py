"""What two-stage detectors draw, and their losses by hand; ``test_mask_rcnn.py`` has whole images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.heads.mask_rcnn.loss import (
    Drawn,
    Sampling,
    box_losses,
    draw_anchors,
    draw_proposals,
    mask_loss,
    rpn_losses,
)

# Of a box of 10 × 10 pixels, boxes moved to the right by d have the IoU (10 - d) / (10 + d).
OBJECTS = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 0, 0]], np.float32)
VALID = np.array([True, True, False])


def moved(*distances: float) -> np.ndarray:
    return np.array([[d, 0, 10 + d, 10] for d in distances], np.float32)


anchors_drawn = jax.jit(draw_anchors, static_argnums=5)
proposals_drawn = jax.jit(draw_proposals, static_argnums=5)


def test_anchors_between_the_thresholds_and_unusable_ones_are_not_drawn():
    # IoU 0.82, 0.54, 0.25, 0, and 0.82 again with the object, of which no other may be drawn then.
    anchors, usable = moved(1, 3, 6, 20, 1), np.array([True, True, True, True, False])
    sampling = Sampling(6, 0.5, 0.7, 0.3, 0.3)
    drawn = anchors_drawn(jax.random.key(0), anchors, usable, OBJECTS, VALID, sampling)
    assert drawn.valid.tolist() == [True] * 3 + [False] * 3
    assert drawn.positive.tolist() == [True] + [False] * 5
    assert drawn.indices[0] == 0 and set(drawn.indices[1:3].tolist()) == {2, 3}
    assert drawn.matched[0] == 0
    np.testing.assert_array_equal(drawn.boxes[:3], anchors[drawn.indices[:3]])
    assert not drawn.boxes[3:].any()


@pytest.mark.parametrize("low_quality", [True, False])
def test_an_object_takes_its_best_anchor_if_that_is_good_enough(low_quality):
    """The best IoU of the first object is 0.54; the second has 0.25, which is below the least."""
    anchors = np.concatenate([moved(3, 20), OBJECTS[1:2] + 6 * np.array([1, 0, 1, 0], np.float32)])
    sampling = Sampling(4, 0.5, 0.7, 0.3, 0.3, low_quality)
    drawn = anchors_drawn(jax.random.key(0), anchors, None, OBJECTS, VALID, sampling)
    assert drawn.indices[drawn.positive].tolist() == [0] * low_quality
    assert set(drawn.indices[drawn.valid & ~drawn.positive].tolist()) == {1, 2}


def test_objects_are_among_the_regions_and_what_was_not_proposed_is_not():
    proposals, kept = moved(1, 20, 30, 0), np.array([True, True, True, False])
    sampling = Sampling(8, 0.5, 0.5, 0.5, 0.5)
    drawn = proposals_drawn(jax.random.key(0), proposals, kept, OBJECTS, VALID, sampling)
    # Both objects, and the proposal that overlaps the first; then the two that overlap none.
    assert sorted(map(tuple, drawn.boxes[:3].tolist())) == [(0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60)]
    assert sorted(map(tuple, drawn.boxes[3:5].tolist())) == [(20, 0, 30, 10), (30, 0, 40, 10)]
    assert drawn.positive.tolist() == [True] * 3 + [False] * 5
    assert drawn.valid.tolist() == [True] * 5 + [False] * 3
    expected = [1 if box[0] == 50 else 0 for box in drawn.boxes[:3].tolist()]
    assert drawn.matched[:3].tolist() == expected


def test_of_many_positive_regions_a_share_is_drawn_and_another_with_another_key():
    proposals, sampling = moved(*np.linspace(0, 3, 20), *range(20, 40)), Sampling(8, 0.25, 0.5, 0.5, 0.5)
    draw = functools.partial(proposals_drawn, proposals=proposals, kept=np.ones(40, bool), objects=OBJECTS, valid=VALID)
    runs = [draw(jax.random.key(seed), sampling=sampling) for seed in range(4)]
    assert sampling.positives == 2
    for drawn in runs:
        assert drawn.positive.tolist() == [True] * 2 + [False] * 6 and drawn.valid.all()
        assert len(set(drawn.indices.tolist())) == 8
    assert len({tuple(drawn.indices.tolist()) for drawn in runs}) == 4


def drawn_of(boxes, indices, matched, positive, valid) -> Drawn:
    return Drawn(jnp.asarray(boxes, jnp.float32), *map(jnp.asarray, (indices, matched, positive, valid)))


def test_losses_of_the_proposals_by_hand():
    """Three anchors are drawn of two images: both means divide by three."""
    logits = np.array([[0.0, 2.0, 9.0], [-1.0, 9.0, 9.0]], np.float32)
    deltas = np.full((2, 3, 4), 7.0, np.float32)
    deltas[0, 1] = [0.5, 0, 0, 0]
    drawn = drawn_of(
        [[[0, 0, 10, 10], [4, 4, 8, 8]], [[0, 0, 8, 8], [0, 0, 0, 0]]],
        [[1, 0], [0, 0]],
        [[0, 0], [0, 0]],
        [[True, False], [False, False]],
        [[True, True], [True, False]],
    )
    # The object is twice as wide as its anchor, and its centre is half the anchor's width to the right.
    objects = np.array([[[0, 0, 20, 10]], [[0, 0, 0, 0]]], np.float32)
    classes, boxes = jax.jit(rpn_losses)(logits, deltas, drawn, objects)
    expected = (np.log1p(np.exp(-2)) + np.log(2) + np.log1p(np.exp(-1))) / 3
    np.testing.assert_allclose(classes, expected, rtol=1e-6)
    np.testing.assert_allclose(boxes, np.log(2) / 3, rtol=1e-6)


def test_losses_of_the_regions_by_hand():
    """The deltas of the object's class count, divided by their deviations; background is the last class."""
    drawn = drawn_of(
        [[[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]]],
        [[0, 1, 0]],
        [[1, 0, 0]],
        [[True, False, False]],
        [[True, True, False]],
    )
    objects, labels = np.array([[[9, 9, 19, 19], [1, 0, 11, 10]]], np.float32), np.array([[0, 1]], np.int32)
    logits = np.array([[[0.0, np.log(2.0), 0.0], [0.0, 0.0, np.log(8.0)], [5.0, 0.0, 0.0]]], np.float32)
    deltas = np.full((1, 3, 2, 4), 50.0, np.float32)
    deltas[0, 0, 1] = [0.5, 0.25, 0, -1]
    classes, boxes = jax.jit(box_losses, static_argnums=5)(logits, deltas, drawn, objects, labels, (0.1, 0.1, 0.2, 0.2))
    np.testing.assert_allclose(classes, (np.log(2) + np.log(10 / 8)) / 2, rtol=1e-6)
    # The target is (0.1 / 0.1, 0, 0, 0).
    np.testing.assert_allclose(boxes, (0.5 + 0.25 + 1) / 2, rtol=1e-6)


def test_the_loss_of_masks_is_the_mean_over_the_pixels_of_positive_regions():
    logits = np.zeros((2, 2, 2, 2), np.float32)
    logits[1, 0] = [[3, -3], [3, 3]]
    targets = np.zeros_like(logits)
    targets[1, 0] = [[1, 0], [0, 1]]
    positive = np.array([[True, False], [True, False]])
    wrong, right = np.log1p(np.exp(3)), np.log1p(np.exp(-3))
    found = jax.jit(mask_loss)(logits, targets, positive)
    np.testing.assert_allclose(found, (np.log(2) + (3 * right + wrong) / 4) / 2, rtol=1e-6)


def test_where_nothing_is_drawn_losses_and_gradients_are_0():
    nothing = drawn_of(np.zeros((1, 2, 4)), np.zeros((1, 2), int), np.zeros((1, 2), int), *np.zeros((2, 1, 2), bool))
    objects, labels = jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), jnp.int32)

    def total(numbers):
        logits, deltas, classes, class_deltas, masks = numbers
        parts = (
            *rpn_losses(logits, deltas, nothing, objects),
            *box_losses(classes, class_deltas, nothing, objects, labels, (0.1, 0.1, 0.2, 0.2)),
            mask_loss(masks, jnp.zeros_like(masks), nothing.positive),
        )
        return sum(parts)

    shapes = ((1, 3), (1, 3, 4), (1, 2, 4), (1, 2, 3, 4), (1, 2, 28, 28))
    value, gradients = jax.jit(jax.value_and_grad(total))([jnp.full(shape, 40.0) for shape in shapes])
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)
