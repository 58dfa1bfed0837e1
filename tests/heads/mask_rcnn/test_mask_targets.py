"""Targets of a mask head against loops that integrate coverage, and numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.heads.mask_rcnn.mask_targets import mask_targets

targets = jax.jit(mask_targets, static_argnames="output")


def covered_share(mask: np.ndarray, box: np.ndarray, region: tuple[float, float, float, float]) -> float:
    """Share of a region that a mask of coverages on a grid over its box covers: cell by cell, in float64."""
    left, top, right, bottom = region
    cell_width, cell_height = (box[2] - box[0]) / mask.shape[1], (box[3] - box[1]) / mask.shape[0]
    area = 0.0
    for row, coverages in enumerate(mask):
        y = box[1] + row * cell_height
        height = min(bottom, y + cell_height) - max(top, y)
        if height > 0:
            for column, coverage in enumerate(coverages):
                x = box[0] + column * cell_width
                width = min(right, x + cell_width) - max(left, x)
                area += max(width, 0.0) * height * coverage / 255.0
    return area / ((right - left) * (bottom - top))


def boxes_with_area(random: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    corners = random.uniform(low, high, (count, 2))
    return np.concatenate([corners, corners + random.uniform(2, 50, (count, 2))], axis=1).astype(np.float32)


def test_a_thousand_proposals_agree_with_loops_over_cells():
    random = np.random.default_rng(0)
    ones = undecided = 0
    for round_ in range(10):
        # Masks of soft and of hard edges; objects of which one has no area, and one covers nothing.
        masks = random.integers(0, 256, (5, 7, 7), np.uint8)
        masks[:3] = np.where(masks[:3] > 100, 255, 0)
        masks[3] = 0
        boxes = boxes_with_area(random, 5, 0, 60)
        boxes[4, 2 + round_ % 2] = boxes[4, round_ % 2]
        matched = random.integers(0, 5, 100, np.int32)
        # Near their object, as those that train are, and anywhere.
        proposals = boxes_with_area(random, 100, -20, 80)
        near = boxes[matched[:70]] + random.uniform(-6, 6, (70, 4))
        proposals[:70] = np.where(np.all(near[:, 2:] - near[:, :2] > 1, axis=1, keepdims=True), near, proposals[:70])
        found = targets(masks, boxes, proposals, matched, output=4)
        assert found.dtype == jnp.float32 and found.shape == (100, 4, 4)
        for i, (x1, y1, x2, y2) in enumerate(proposals.astype(np.float64)):
            x, y = np.linspace(x1, x2, 5), np.linspace(y1, y2, 5)
            for p in range(4):
                for q in range(4):
                    region = (x[q], y[p], x[q + 1], y[p + 1])
                    share = covered_share(masks[matched[i]], boxes[matched[i]].astype(np.float64), region)
                    # Where rounding decides, either is right.
                    if abs(share - 0.5) > 1e-4:
                        assert found[i, p, q] == (share >= 0.5), (round_, i, p, q, share)
                    else:
                        undecided += 1
                    ones += share >= 0.5
    assert ones > 2000 and undecided < 10


def test_the_box_itself_as_proposal_gives_its_mask():
    mask = np.random.default_rng(1).integers(0, 256, (2, 28, 28), np.uint8)
    boxes = np.array([[3.3, 100.7, 47.1, 1033.9], [-5.5, 0.1, 7.3, 9.9]], np.float32)
    found = targets(mask, boxes, boxes[::-1], np.array([1, 0], np.int32))
    np.testing.assert_array_equal(found, mask[::-1] >= 128)


def test_exactly_one_half_counts():
    # Columns of cells covered in turn; every bin of the lower resolution holds one of each.
    stripes = np.zeros((1, 56, 56), np.uint8)
    stripes[:, :, ::2] = 255
    proposals = boxes_with_area(np.random.default_rng(2), 50, 0, 800)
    for box in proposals:
        found = targets(stripes, box[None], box[None], np.zeros(1, np.int32))
        np.testing.assert_array_equal(found, np.ones((1, 28, 28)))
    # A little less of each covered cell, and none counts.
    assert not targets(stripes - stripes // 255, proposals[:1], proposals[:1], np.zeros(1, np.int32)).any()


def test_beyond_the_box_there_is_nothing():
    full = np.full((1, 8, 8), 255, np.uint8)
    box = np.array([[10.0, 20.0, 20.0, 40.0]], np.float32)
    proposals = np.array(
        [
            [10, 20, 20, 40],  # the box
            [5, 20, 25, 40],  # wider: a quarter of it to either side
            [12, 25, 14, 30],  # within
            [30, 20, 40, 40],  # beside
            [20, 20, 30, 40],  # touching
            [0, 0, 40, 80],  # around
        ],
        np.float32,
    )
    found = np.asarray(targets(full, box, proposals, np.zeros(6, np.int32), output=4))
    columns = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    rows = np.array([[1, 1, 1, 1]] * 5 + [[0, 1, 0, 0]])
    np.testing.assert_array_equal(found, rows[:, :, None] * columns[:, None, :])


@pytest.mark.parametrize("axis", [0, 1])
def test_without_area_there_is_nothing(axis):
    full = np.full((2, 8, 8), 255, np.uint8)
    flat = np.array([[10.0, 10.0, 20.0, 20.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    flat[0, axis + 2] = flat[0, axis]
    box = np.array([[10.0, 10.0, 20.0, 20.0]] * 2, np.float32)
    matched = np.arange(2, dtype=np.int32)
    # A proposal without area, and one turned inside out; then objects without.
    inside_out = flat.copy()
    inside_out[1] = 20, 20, 10, 10
    assert not targets(full, box, inside_out, matched, output=4).any()
    assert not targets(full, flat, box, matched, output=4).any()


def test_vmap_is_a_loop():
    random = np.random.default_rng(3)
    masks = random.integers(0, 256, (3, 4, 9, 9), np.uint8)
    boxes = np.stack([boxes_with_area(random, 4, 0, 60) for _ in range(3)])
    proposals = np.stack([boxes_with_area(random, 20, -10, 60) for _ in range(3)])
    matched = random.integers(0, 4, (3, 20), np.int32)
    found = jax.jit(jax.vmap(lambda *x: mask_targets(*x, output=5)))(masks, boxes, proposals, matched)
    for i in range(3):
        np.testing.assert_array_equal(found[i], targets(masks[i], boxes[i], proposals[i], matched[i], output=5))
