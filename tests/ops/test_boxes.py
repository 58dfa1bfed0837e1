"""Boxes against sets of cells, float64 arithmetic, and numbers that mmdetection publishes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pvt_jax.ops import boxes as box_ops

# One program for each shape, where single operations would be compiled one by one.
areas, to_centres, from_centres = map(jax.jit, (box_ops.areas, box_ops.to_centres, box_ops.from_centres))
paired_giou, pairwise_giou = jax.jit(box_ops.paired_giou), jax.jit(box_ops.pairwise_giou)
pairwise_iou, clip_boxes = jax.jit(box_ops.pairwise_iou), jax.jit(box_ops.clip_boxes)
encode_deltas, decode_deltas = (jax.jit(f, static_argnums=2) for f in (box_ops.encode_deltas, box_ops.decode_deltas))

CASES, SIDE = 1000, 12


def cell_boxes(seed: int, count: int) -> np.ndarray:
    """Boxes on whole numbers: some without area, some twice, some the whole, in some cases all of them empty."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, SIDE + 1, (CASES, count, 2, 2)), axis=2)
    boxes = corners.reshape(CASES, count, 4)
    boxes[rng.random((CASES, count)) < 0.05] = (0, 0, SIDE, SIDE)
    boxes[:, 1] = np.where(rng.random((CASES, 1)) < 0.3, boxes[:, 0], boxes[:, 1])
    boxes[: CASES // 50] = 0
    return boxes


def cells(boxes: np.ndarray) -> np.ndarray:
    """The cells of a grid that each box holds, as a flat set."""
    place = np.arange(SIDE)
    across = (place >= boxes[..., 0, None]) & (place < boxes[..., 2, None])
    down = (place >= boxes[..., 1, None]) & (place < boxes[..., 3, None])
    return (down[..., :, None] & across[..., None, :]).reshape(*boxes.shape[:-1], -1)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def counted(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and GIoU of all pairs by counting cells."""
    first, second = cells(a)[:, :, None], cells(b)[:, None]
    around = np.concatenate(
        [np.minimum(a[:, :, None, :2], b[:, None, :, :2]), np.maximum(a[:, :, None, 2:], b[:, None, :, 2:])], axis=-1
    )
    union, hull = (first | second).sum(-1), cells(around).sum(-1)
    iou = share((first & second).sum(-1), union)
    return iou, iou - share(hull - union, hull)


def continuous_boxes(seed: int, *shape: int, smallest: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1333, (*shape, 2))
    half = np.exp(rng.uniform(np.log(smallest), np.log(800), (*shape, 2))) / 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


def test_overlaps_count_cells():
    a, b = cell_boxes(0, 6), cell_boxes(1, 5)
    iou, giou = counted(a, b)
    # The cases are worth it: without overlap, equal, half, nested, nothing at all.
    assert all((np.abs(iou - value) < 1e-9).sum() > 30 for value in (0, 0.25, 0.5, 1)) and giou.min() < -0.9
    np.testing.assert_allclose(jax.jit(jax.vmap(pairwise_iou))(a, b), iou, rtol=1e-6, atol=0)
    np.testing.assert_allclose(jax.jit(jax.vmap(pairwise_giou))(a, b), giou, rtol=0, atol=5e-7)
    np.testing.assert_array_equal(areas(jnp.asarray(a)), cells(a).sum(-1))


def test_overlaps_do_not_depend_on_place_and_scale():
    """Pixels are continuous: a box of half a pixel is no special case."""
    a, b = cell_boxes(2, 6), cell_boxes(3, 5)
    iou, giou = counted(a, b)
    place, scale = np.array([700.3, 411.7, 700.3, 411.7]), 0.37
    moved = [(boxes * scale + place).astype(np.float32) for boxes in (a, b)]
    # Both sides of a box of area 0 may round apart, to an area of 1e-4.
    np.testing.assert_allclose(pairwise_iou(*map(jnp.asarray, moved)), iou, rtol=0, atol=2e-3)
    large = [(boxes * 101.3 + place).astype(np.float32) for boxes in (a, b)]
    np.testing.assert_allclose(pairwise_iou(*map(jnp.asarray, large)), iou, rtol=0, atol=1e-5)
    found = np.asarray(pairwise_giou(*map(jnp.asarray, large)))
    flat = (cells(a).sum(-1) == 0)[:, :, None] | (cells(b).sum(-1) == 0)[:, None]
    np.testing.assert_allclose(found[~flat], giou[~flat], rtol=0, atol=1e-5)


def test_pairs_are_the_diagonal():
    a, b = (jnp.asarray(continuous_boxes(seed, 40, smallest=0.01)) for seed in (0, 1))
    np.testing.assert_array_equal(paired_giou(a, b), jnp.diagonal(pairwise_giou(a, b)))
    np.testing.assert_array_equal(paired_giou(a[:, None], b), pairwise_giou(a, b))


def test_the_overlaps_that_mmdetection_publishes():
    """The example of its ``bbox_overlaps``."""
    a = jnp.array([[0, 0, 10, 10], [10, 10, 20, 20], [32, 32, 38, 42]], jnp.float32)
    b = jnp.array([[0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]], jnp.float32)
    np.testing.assert_array_equal(pairwise_iou(a, b), [[0.5, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = [[0.5, 0, -0.5], [-0.25, -0.05, 1], [-0.8371, -0.8766, -0.8214]]
    np.testing.assert_allclose(pairwise_giou(a, b), expected, rtol=0, atol=5e-5)


def test_no_boxes_give_no_overlaps():
    none, some = jnp.zeros((0, 4)), jnp.ones((3, 4))
    assert pairwise_iou(none, some).shape == (0, 3) and pairwise_giou(some, none).shape == (3, 0)


def test_boxes_turned_inside_out_are_empty():
    inside_out = jnp.array([[5.0, 5.0, 1.0, 1.0], [5.0, 0.0, 1.0, 9.0]])
    np.testing.assert_array_equal(areas(inside_out), 0)
    np.testing.assert_array_equal(pairwise_iou(inside_out, jnp.array([[0.0, 0.0, 9.0, 9.0]])), 0)


def test_the_gradient_of_giou_is_that_of_differences():
    a, b = (continuous_boxes(seed, 8, smallest=200.0) / 400 for seed in (0, 1))
    # Half of the pairs overlap, the others do not.
    b[:4] = a[:4] + [0.1, -0.13, 0.17, 0.07]
    b[4:] = a[4:] + 10
    total = jax.jit(lambda a, b: paired_giou(a, b).sum())
    check_grads(total, (a, b), order=1, modes=["rev"], eps=1e-3, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e4])
def test_the_gradient_of_giou_is_finite(scale):
    points = [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [2, 2, 3, 3], [1, 1, 0, 0], [0, 0, 1, 1]]
    boxes = scale * jnp.array(points, jnp.float32)
    value, gradients = jax.value_and_grad(lambda a, b: pairwise_giou(a, b).sum(), argnums=(0, 1))(boxes, boxes)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


def float64_deltas(anchors: np.ndarray, boxes: np.ndarray, std: tuple) -> np.ndarray:
    (px1, py1, px2, py2), (gx1, gy1, gx2, gy2) = (np.moveaxis(x.astype(np.float64), -1, 0) for x in (anchors, boxes))
    dx = ((gx1 + gx2) / 2 - (px1 + px2) / 2) / (px2 - px1)
    dy = ((gy1 + gy2) / 2 - (py1 + py2) / 2) / (py2 - py1)
    deltas = [dx, dy, np.log((gx2 - gx1) / (px2 - px1)), np.log((gy2 - gy1) / (py2 - py1))]
    return np.stack(deltas, axis=-1) / np.array(std)


STDS = pytest.mark.parametrize("std", [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2)])


@STDS
def test_deltas_are_those_of_float64(std):
    anchors, boxes = continuous_boxes(0, CASES, 8), continuous_boxes(1, CASES, 8)
    found = encode_deltas(anchors, boxes, std)
    # A position of 1000 is known to 6e-5, in units of a side of 1 pixel and a deviation of 0.1.
    np.testing.assert_allclose(found, float64_deltas(anchors, boxes, std), rtol=1e-5, atol=2e-3)


@STDS
def test_decoding_undoes_encoding(std):
    anchors, boxes = (continuous_boxes(seed, CASES, 8, smallest=20.0) for seed in (2, 3))
    anchors = jnp.asarray(anchors)
    back = decode_deltas(anchors, encode_deltas(anchors, jnp.asarray(boxes), std), std)
    np.testing.assert_allclose(back, boxes, rtol=0, atol=3e-3)


sides = st.floats(8, 400, width=32)
places = st.floats(-200, 1400, width=32)


@settings(max_examples=200)
@given(anchor=st.tuples(places, places, sides, sides), box=st.tuples(places, places, sides, sides))
def test_decoding_undoes_encoding_of_any_box(anchor, box):
    anchor, box = (np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], np.float32) for x, y, w, h in (anchor, box))
    np.testing.assert_allclose(back_and_forth(anchor, box), box, rtol=0, atol=5e-3)


back_and_forth = jax.jit(lambda anchor, box: decode_deltas(anchor, encode_deltas(anchor, box)))


def test_the_decoded_boxes_that_mmdetection_publishes():
    """Those of its test_delta_bbox_coder, clipped to 32 × 32."""
    anchors = jnp.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 5, 5]], jnp.float32)
    deltas = jnp.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 2, -1], [0.7, -1.9, -0.5, 0.3]], jnp.float32)
    expected = [[0, 0, 1, 1], [0.1409, 0.1409, 2.8591, 2.8591], [0, 0.3161, 4.1945, 0.6839], [5, 5, 5, 5]]
    found = clip_boxes(decode_deltas(anchors, deltas), jnp.array([32, 32]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_box_grows_and_shrinks_by_at_most_62_5():
    anchor = jnp.array([[10.0, 10.0, 20.0, 30.0]])
    for change, factor in ((100.0, 62.5), (-100.0, 1 / 62.5), (1.0, np.e)):
        found = to_centres(decode_deltas(anchor, jnp.array([[0.0, 0.0, change, change]])))
        np.testing.assert_allclose(found, [[15, 20, 10 * factor, 20 * factor]], rtol=1e-5, atol=1e-4)
    # The bound is one of the sides, after the deviation: 30 · 0.2 is above it.
    found = to_centres(decode_deltas(anchor, jnp.array([[0.0, 0.0, 30.0, 15.0]]), (0.1, 0.1, 0.2, 0.2)))
    np.testing.assert_allclose(found[0, 2:], [625, 20 * np.exp(3)], rtol=1e-5)
    # Positions have none.
    np.testing.assert_allclose(to_centres(decode_deltas(anchor, jnp.array([[50.0, -50.0, 0, 0]])))[0, :2], [515, -980])


def test_deltas_of_one_anchor_to_the_boxes_of_several_classes():
    anchors, deltas = continuous_boxes(0, 5), np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    found = decode_deltas(jnp.asarray(anchors)[:, None], jnp.asarray(deltas))
    for k in range(3):
        np.testing.assert_array_equal(found[:, k], decode_deltas(jnp.asarray(anchors), jnp.asarray(deltas[:, k])))


def test_deltas_of_padding_and_their_gradients_are_finite():
    boxes = jnp.array([[0.0, 0.0, 0.0, 0.0], [3.0, 4.0, 60.0, 50.0]])
    pairs = (jnp.repeat(boxes, 2, axis=0), jnp.tile(boxes, (2, 1)))
    deltas, gradient = jax.value_and_grad(lambda boxes: encode_deltas(pairs[0], boxes).sum())(pairs[1])
    assert np.isfinite(deltas) and np.isfinite(gradient).all()
    decoded, gradient = jax.value_and_grad(lambda d: decode_deltas(pairs[0], d).sum())(1e4 * jnp.ones((4, 4)))
    assert np.isfinite(decoded) and np.isfinite(gradient).all()


# XLA takes numbers below 1e-38 for 0.
pixels = st.floats(-2e3, 2e3, width=32, allow_subnormal=False)


@settings(max_examples=100)
@given(height=st.integers(1, 800), width=st.integers(1, 1333), box=st.tuples(*[pixels] * 4))
def test_clipped_boxes_lie_within_and_keep_what_was(height, width, box):
    box = np.array([min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])], np.float32)
    x1, y1, x2, y2 = np.asarray(clip_boxes(box, np.array([height, width], np.int32)))
    assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
    np.testing.assert_array_equal((x1, x2), [min(max(x, 0), width) for x in box[::2]])
    np.testing.assert_array_equal((y1, y2), [min(max(y, 0), height) for y in box[1::2]])


def test_images_of_a_batch_clip_to_their_own_sizes():
    boxes, sizes = continuous_boxes(0, 3, 50), np.array([[480, 640], [800, 200], [32, 1333]], np.int32)
    found = clip_boxes(jnp.asarray(boxes), jnp.asarray(sizes)[:, None])
    for one, image, size in zip(found, boxes, sizes, strict=True):
        np.testing.assert_array_equal(one, clip_boxes(jnp.asarray(image), jnp.asarray(size)))
        assert (one.max(axis=0)[2:] == size[::-1]).all()


def test_centres():
    np.testing.assert_array_equal(to_centres(jnp.array([[1.0, 2.0, 5.0, 10.0]])), [[3, 6, 4, 8]])
    np.testing.assert_array_equal(from_centres(jnp.array([[3.0, 6.0, 4.0, 8.0]])), [[1, 2, 5, 10]])
    boxes = continuous_boxes(0, CASES)
    np.testing.assert_allclose(from_centres(to_centres(jnp.asarray(boxes))), boxes, rtol=0, atol=3e-4)


def test_bfloat16_is_computed_in_float32():
    """256 and 257 are one in bfloat16."""
    deltas = jnp.array([[1 / 256, 0, 0, 0]], jnp.bfloat16)
    found = decode_deltas(jnp.array([[0.0, 0.0, 256.0, 256.0]]), deltas)
    np.testing.assert_array_equal(found, [[1, 0, 257, 256]])
    boxes = jnp.array([[0, 0, 16, 17]], jnp.bfloat16)
    assert all(f(boxes).dtype == jnp.float32 for f in (areas, to_centres, from_centres))
    np.testing.assert_array_equal(areas(boxes), 272)
    np.testing.assert_allclose(pairwise_iou(boxes, jnp.array([[0.0, 0.0, 16.0, 16.0]])), 16 / 17, rtol=1e-6)
