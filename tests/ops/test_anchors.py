"""Anchors against the numbers of mmdetection's tests (test_anchor.py of v2) and against loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops.anchors import base_anchors, grid_anchors, inside_region, octave_scales

RATIOS = (0.5, 1.0, 2.0)
# RetinaNet's at stride 8, by ratio, then by scale; at the other strides they are twice as large each time.
RETINANET = np.array(
    [
        [-22.6274, -11.3137, 22.6274, 11.3137],
        [-28.5088, -14.2544, 28.5088, 14.2544],
        [-35.9188, -17.9594, 35.9188, 17.9594],
        [-16.0000, -16.0000, 16.0000, 16.0000],
        [-20.1587, -20.1587, 20.1587, 20.1587],
        [-25.3984, -25.3984, 25.3984, 25.3984],
        [-11.3137, -22.6274, 11.3137, 22.6274],
        [-14.2544, -28.5088, 14.2544, 28.5088],
        [-17.9594, -35.9188, 17.9594, 35.9188],
    ]
)
# Its last at stride 128.
RETINANET_LAST = [-287.3503, -574.7006, 287.3503, 574.7006]


@pytest.mark.parametrize("stride", [8, 16, 32, 64, 128])
def test_retinanet_s_anchors(stride):
    found = base_anchors(stride, octave_scales(), RATIOS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, RETINANET * stride / 8, rtol=1e-5, atol=1e-4 * stride / 16)
    if stride == 128:
        np.testing.assert_allclose(found[-1], RETINANET_LAST, rtol=0, atol=5e-5)


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_the_rpn_s_anchors(stride):
    """Scale 8 at stride 4 is RetinaNet's scale 4 at stride 8: the first of each ratio."""
    found = base_anchors(stride, (8,), RATIOS)
    np.testing.assert_allclose(found, RETINANET[::3] * stride / 4, rtol=1e-5, atol=1e-4 * stride / 8)


@pytest.mark.parametrize(("stride", "side"), [(8, 16), (16, 32), (32, 64), (64, 128), (128, 256)])
def test_one_square_anchor(stride, side):
    np.testing.assert_array_equal(base_anchors(stride, [4], [1.0]), [[-side, -side, side, side]])


def test_octaves():
    np.testing.assert_allclose(octave_scales(), [4, 5.0397, 6.3496], rtol=1e-5)
    np.testing.assert_allclose(octave_scales(2, 2), [2, 2.8284], rtol=1e-5)


def test_any_anchor_has_its_area_and_its_ratio():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        stride = int(rng.integers(1, 200))
        scales, ratios = (np.exp(rng.uniform(-2, 2, rng.integers(1, 5))) for _ in range(2))
        found = base_anchors(stride, tuple(scales), tuple(ratios)).astype(np.float64)
        width, height = (found[:, 2:] - found[:, :2]).T.reshape(2, len(ratios), len(scales))
        np.testing.assert_array_equal(found[:, :2], -found[:, 2:])
        np.testing.assert_allclose(height / width, np.broadcast_to(ratios[:, None], width.shape), rtol=1e-5)
        np.testing.assert_allclose(np.sqrt(width * height), np.broadcast_to(stride * scales, width.shape), rtol=1e-5)


def test_two_by_two():
    """mmdetection's test_strides: base size 10, stride 10."""
    found = grid_anchors(np.array([[-5, -5, 5, 5]], np.float32), (2, 2), 10)
    np.testing.assert_array_equal(found, [[-5, -5, 5, 5], [5, -5, 15, 5], [-5, 5, 5, 15], [5, 5, 15, 15]])
    # And the example of its docstring: base size 9, stride 16.
    found = grid_anchors(np.array([[-4.5, -4.5, 4.5, 4.5]], np.float32), (2, 2), 16)
    expected = [[-4.5, -4.5, 4.5, 4.5], [11.5, -4.5, 20.5, 4.5], [-4.5, 11.5, 4.5, 20.5], [11.5, 11.5, 20.5, 20.5]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("size", "grids", "counts"),
    [
        ((640, 640), [(80, 80), (40, 40), (20, 20), (10, 10), (5, 5)], [57600, 14400, 3600, 900, 225]),
        ((800, 1216), [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)], [136800, 34200, 8550, 2223, 630]),
    ],
)
def test_the_counts_that_mmdetection_publishes(size, grids, counts):
    for grid, count, stride in zip(grids, counts, (8, 16, 32, 64, 128), strict=True):
        base = base_anchors(stride, octave_scales(), RATIOS)
        anchors = jax.eval_shape(partial(grid_anchors, base, grid, stride))
        assert anchors.shape == (count, 4) and anchors.dtype == jnp.float32
        # A map that is larger has as many inside.
        for shape in (grid, (grid[0] + 1, grid[1] + 2)):
            inside = jax.jit(partial(inside_region, shape, 9, stride))(np.array(size, np.int32))
            assert inside.sum() == count


GRIDS = pytest.mark.parametrize(("grid", "num_anchors", "stride"), [((5, 7), 3, 32), ((1, 9), 1, 4), ((13, 6), 9, 128)])


@GRIDS
def test_each_anchor_stands_where_its_number_says(grid, num_anchors, stride):
    base = np.random.default_rng(0).normal(size=(num_anchors, 4)).astype(np.float32)
    found = np.asarray(jax.jit(lambda: grid_anchors(base, grid, stride))())
    assert len(found) == grid[0] * grid[1] * num_anchors
    for row in range(grid[0]):
        for column in range(grid[1]):
            for i in range(num_anchors):
                x, y = column * stride, row * stride
                number = (row * grid[1] + column) * num_anchors + i
                np.testing.assert_allclose(found[number], base[i] + [x, y, x, y], rtol=1e-6)


@GRIDS
def test_anchors_beyond_the_region_are_outside(grid, num_anchors, stride):
    """mmdetection's valid flags of images padded to a common shape: ceil(side / stride) locations count."""
    rng = np.random.default_rng(0)
    regions = rng.integers(0, np.array(grid) * stride + 40, (1000, 2)).astype(np.int32)
    regions[0], regions[1] = 0, (stride, stride)
    regions[2] = stride + 1
    found = jax.jit(jax.vmap(lambda region: inside_region(grid, num_anchors, stride, region)))(regions)
    for (height, width), one in zip(regions, np.asarray(found), strict=True):
        expected = np.zeros((*grid, num_anchors), bool)
        expected[: int(np.ceil(height / stride)), : int(np.ceil(width / stride))] = True
        np.testing.assert_array_equal(one, expected.ravel())
