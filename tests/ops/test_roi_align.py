"""RoIAlign against loops over samples written from its definition, torchvision's outputs, and its own transpose.

``roi_align_torchvision.npz`` holds 30 boxes (inside of the map, over its borders, beyond it, without area, elongated)
on a map of 20 × 26 positions, and what torchvision 0.29 makes of them with ``aligned=True``: the float32 loop of its
CPU operator (``csrc/ops/cpu/roi_align_kernel.cpp``, compiled by itself, no fused multiply-add), for 7 and 14 bins with
adaptive sampling and for 7 bins with 2 samples. For the 15 boxes whose samples all lie within the map its pure-Python
``_roi_align`` gave the same within 2e-6; it has no rule for samples further outside than that.
"""

import functools
import math
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops.roi_align import multilevel_roi_align, roi_align

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "roi_align_torchvision.npz")


def positions(low: float, high: float, side: int, *, output: int, scale: float, sampling: int):
    """Of each bin along one side the samples, as [(lower position, upper position, weight of the upper)]; exact."""
    start, stop = (Fraction(float(x)) * Fraction(scale) - Fraction(1, 2) for x in (low, high))
    count = sampling or max(math.ceil((stop - start) / output), 0)
    bins = []
    for p in range(output):
        samples = []
        for i in range(count):
            at = start + (stop - start) / output * (p + (i + Fraction(1, 2)) / count)
            if -1 <= at <= side:
                at = min(max(at, 0), side - 1)
                lower = math.floor(at)
                samples.append((lower, min(lower + 1, side - 1), float(at - lower)))
        bins.append(samples)
    return bins, count


def weights(boxes: np.ndarray, grid: tuple[int, int], **how) -> np.ndarray:
    """[r, output, output, h, w]: what every position counts in every bin, added sample by sample."""
    output = how["output"]
    weight = np.zeros((len(boxes), output, output, *grid))
    for of_box, (x1, y1, x2, y2) in zip(weight, boxes, strict=True):
        rows, down = positions(y1, y2, grid[0], **how)
        columns, across = positions(x1, x2, grid[1], **how)
        for p in range(output):
            for q in range(output):
                for top, bottom, v in rows[p]:
                    for left, right, u in columns[q]:
                        of_box[p, q, top, left] += (1 - v) * (1 - u) / (down * across)
                        of_box[p, q, top, right] += (1 - v) * u / (down * across)
                        of_box[p, q, bottom, left] += v * (1 - u) / (down * across)
                        of_box[p, q, bottom, right] += v * u / (down * across)
    return weight


def random_boxes(random: np.random.Generator, count: int, grid: tuple[int, int], stride: int) -> np.ndarray:
    """Boxes of all kinds in turn; those of half of the kinds have coordinates at which samples meet borders exactly."""
    height, width = (stride * side for side in grid)
    size = np.array([width, height, width, height])
    boxes = random.uniform(-0.4, 1.4, (count, 4)) * size
    kind = np.arange(count) % 10
    small = np.isin(kind, (1, 2, 3, 4))
    boxes[small, 2:] = boxes[small, :2] + random.uniform(0, 12 * stride, (small.sum(), 2))
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    boxes[kind == 5, 2] = boxes[kind == 5, 0] + random.uniform(1, 3, (kind == 5).sum()) * width
    boxes[kind == 5, 3] = boxes[kind == 5, 1] + random.uniform(0, 2 * stride, (kind == 5).sum())
    boxes[kind == 6, 2:] = boxes[kind == 6, :2]
    boxes[kind == 7, 2] = boxes[kind == 7, 0]
    boxes[kind == 8] += np.array([2, -1, 2, -1]) * size
    boxes[kind == 9] = 0, 0, width, height
    return np.where(kind[:, None] % 2 == 0, np.round(boxes), boxes).astype(np.float32)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("cases", "grid", "how"),
    [
        # Larger than a window in both directions, in one, in none.
        (480, (19, 23), {"output": 7, "scale": 0.25, "sampling": 0}),
        (120, (5, 40), {"output": 4, "scale": 0.125, "sampling": 0}),
        (120, (33, 17), {"output": 3, "scale": 0.25, "sampling": 0}),
        (80, (20, 9), {"output": 14, "scale": 0.5, "sampling": 0}),
        (80, (1, 1), {"output": 7, "scale": 0.25, "sampling": 0}),
        (120, (19, 23), {"output": 5, "scale": 0.25, "sampling": 3}),
    ],
)
def test_a_thousand_boxes_and_their_gradients_agree_with_loops_over_samples(cases, grid, how):
    random = np.random.default_rng(len(how) + cases + grid[0])
    align = functools.partial(roi_align, **how)
    traced = []

    @jax.jit
    def both(features, boxes, upstream):
        traced.append(features.shape)
        pooled, transpose = jax.vjp(lambda features: align(features, boxes), features)
        return pooled, transpose(upstream)[0]

    for seed in range(cases // 40):
        boxes = random_boxes(random, 40, grid, round(1 / how["scale"]))
        features, upstream = numbers(*grid, 2, seed=seed), numbers(40, how["output"], how["output"], 2, seed=seed)
        found, gradient = both(features, boxes, upstream)
        weight = weights(boxes, grid, **how)
        expected = np.einsum("rpqyx,yxc->rpqc", weight, features)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        expected = np.einsum("rpqyx,rpqc->yxc", weight, upstream)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))
    assert len(traced) == 1


@pytest.mark.parametrize(("name", "output", "sampling"), [("seven", 7, 0), ("fourteen", 14, 0), ("two_samples", 7, 2)])
def test_it_is_torchvision_s(name, output, sampling):
    expected = GOLDEN[name]
    align = jax.jit(functools.partial(roi_align, output=output, scale=0.25, sampling=sampling))
    found = align(GOLDEN["features"], GOLDEN["boxes"][: len(expected)])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_borders_by_hand():
    # One bin with one sample, at the middle of the box less half a position: at x here.
    features = jnp.asarray([[1.0, 2.0, 4.0]])[..., None]
    x = jnp.asarray([0.0, 0.5, 1.75, 2.0, -0.5, -1.0, -1.0625, 2.5, 3.0, 3.0625])
    boxes = jnp.stack([x, jnp.zeros(10), x + 1, jnp.ones(10)], axis=-1)
    found = jax.jit(functools.partial(roi_align, output=1, scale=1.0))(features, boxes)
    # Up to one position beyond the border it is repeated, and what is exactly there still counts.
    np.testing.assert_array_equal(found.ravel(), [1.0, 1.5, 3.5, 4.0, 1.0, 1.0, 0.0, 4.0, 4.0, 0.0])


def test_three_samples_of_a_bin_and_no_fourth():
    # A side of 21 positions in 7 bins: divided by a rounded reciprocal it would take four samples of a bin.
    features = jnp.zeros((1, 30, 1)).at[0, 1].set(3.0)
    align = jax.jit(functools.partial(roi_align, output=7, scale=1.0))
    found = align(features, jnp.asarray([[0.0, 0.0, 21.0, 1.0]]))
    np.testing.assert_allclose(found[0, 3, :, 0], [1.0, 0, 0, 0, 0, 0, 0], atol=1e-6)


@pytest.fixture(scope="module")
def pyramid() -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Maps of strides 4, 8, 16 of three images, and 20 boxes each; those of the second are all elongated."""
    maps = tuple(jnp.asarray(numbers(3, side, side + 5, 4, seed=side)) for side in (40, 20, 10))
    random = np.random.default_rng(1)
    boxes = np.stack([random_boxes(random, 20, (40, 45), 4) for _ in range(3)])
    boxes[1] = random.uniform(0, 40, (20, 1)) + np.array([0, 0, 150, 3])
    return maps, jnp.asarray(boxes)


@jax.jit
def on_pyramid(maps, boxes, upstream):
    pooled, transpose = jax.vjp(
        lambda maps: multilevel_roi_align(maps, boxes, output=5, strides=(4, 8, 16), finest_scale=20.0), maps
    )
    return pooled, transpose(upstream)[0]


def test_vmap_is_a_loop(pyramid):
    maps, boxes = pyramid
    upstream = numbers(3, 20, 5, 5, 4)
    found, gradients = jax.jit(jax.vmap(on_pyramid))(maps, boxes, upstream)
    for i in range(3):
        one, gradient = on_pyramid(tuple(m[i] for m in maps), boxes[i], upstream[i])
        np.testing.assert_allclose(found[i], one, rtol=0, atol=1e-6)
        for g, h in zip(gradients, gradient, strict=True):
            np.testing.assert_allclose(g[i], h, rtol=0, atol=1e-5)


def test_vmap_over_some_arguments_and_twice(pyramid):
    (*_, last), boxes = pyramid
    align = functools.partial(roi_align, output=3, scale=0.0625)

    def squares(align):
        def total(maps, boxes):
            pooled = align(maps, boxes)
            return (pooled**2).sum(), pooled

        return jax.jit(jax.grad(total, has_aux=True))

    # Every map with every set of boxes: a map gets the sum of the gradients of all sets.
    gradients, pairs = squares(jax.vmap(jax.vmap(align, (None, 0)), (0, None)))(last[:2], boxes)
    assert pairs.shape == (2, 3, 20, 3, 3, 4)
    single = squares(align)
    for i in range(2):
        one_by_one = [single(last[i], of_image) for of_image in boxes]
        np.testing.assert_allclose(pairs[i], np.stack([pooled for _, pooled in one_by_one]), rtol=0, atol=1e-6)
        np.testing.assert_allclose(gradients[i], sum(gradient for gradient, _ in one_by_one), rtol=0, atol=1e-4)


def test_every_box_is_on_the_level_of_its_size(pyramid):
    # Maps that hold the number of their level, and the threshold sizes of the paper: 112, 224, 448 a side.
    maps = tuple(jnp.full((side, side, 1), level + 1.0) for level, side in enumerate((256, 128, 64, 32)))
    sides = jnp.asarray([1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 1000.0, 500.0, 0.0, 784.0, 784.0])
    # Of elongated boxes it is the area that counts: 784 × 16 is 112².
    heights = sides.at[10:].set([16.0, 15.9])
    valid = jnp.arange(12) != 8
    boxes = jnp.stack([jnp.zeros(12), jnp.zeros(12), sides, heights], axis=-1)
    align = jax.jit(functools.partial(multilevel_roi_align, output=2, strides=(4, 8, 16, 32)))
    found = align(maps, boxes, valid=valid)
    assert found.shape == (12, 2, 2, 1)
    np.testing.assert_allclose(found[:, 0, 0, 0], [1, 1, 2, 2, 3, 3, 4, 4, 0, 0, 2, 1], atol=1e-6)
    np.testing.assert_allclose(found.min((1, 2, 3)), found.max((1, 2, 3)), atol=1e-6)

    maps, boxes = pyramid
    maps, boxes = tuple(np.asarray(m[0]) for m in maps), np.asarray(boxes[0])
    found, _ = on_pyramid(maps, boxes, numbers(20, 5, 5, 4))
    side = np.sqrt(np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0))
    level = np.clip(np.floor(np.log2(side / 20.0 + 1e-6)), 0, 2)
    assert set(level) == {0, 1, 2}
    for i, one in enumerate(maps):
        expected = np.einsum(
            "rpqyx,yxc->rpqc",
            weights(boxes[level == i], one.shape[:2], output=5, scale=1 / (4 << i), sampling=0),
            one,
        )
        np.testing.assert_allclose(found[level == i], expected, rtol=0, atol=2e-5)


def test_maps_and_strides_are_as_many(pyramid):
    maps = tuple(m[0] for m in pyramid[0])
    with pytest.raises(ValueError, match="zip"):
        multilevel_roi_align(maps, jnp.zeros((2, 4)), output=2, strides=(4, 8))


def test_no_boxes(pyramid):
    maps, _ = pyramid
    align = functools.partial(multilevel_roi_align, output=7, strides=(4, 8, 16))
    none = jnp.zeros((3, 0, 4))
    assert jax.vmap(align)(maps, none).shape == (3, 0, 7, 7, 4)
    gradients = jax.grad(lambda maps: jax.vmap(align)(maps, none).sum())(maps)
    assert all((g == 0).all() and g.shape == m.shape for g, m in zip(gradients, maps, strict=True))
    # Boxes, but none that counts: nothing is pooled, and nothing is NaN.
    one = tuple(m[0] for m in maps)
    boxes, nobody = jnp.asarray([[0.0, 0.0, 9.0, 9.0], [jnp.nan] * 4]), jnp.zeros(2, bool)
    value, gradients = jax.jit(jax.value_and_grad(lambda maps: align(maps, boxes, valid=nobody).sum()))(one)
    assert value == 0 and all((g == 0).all() for g in gradients)


def test_no_gradient_flows_to_boxes(pyramid):
    (*_, last), boxes = pyramid
    align = functools.partial(roi_align, output=3, scale=0.0625)
    gradient = jax.jit(jax.grad(lambda boxes: align(last[0], boxes).sum()))(boxes[0])
    assert gradient.shape == (20, 4) and (gradient == 0).all()


def test_bfloat16_is_summed_in_float32(pyramid):
    (first, *_), boxes = pyramid
    features, boxes = jnp.asarray(first[0], jnp.bfloat16), boxes[0]
    upstream = jnp.asarray(numbers(20, 3, 3, 4), jnp.bfloat16)

    @jax.jit
    def both(features, upstream):
        pooled, transpose = jax.vjp(lambda one: roi_align(one, boxes, output=3, scale=0.25), features)
        return pooled, *transpose(upstream)

    for found, exact in zip(
        both(features, upstream), both(*(x.astype("f") for x in (features, upstream))), strict=True
    ):
        assert found.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
        # Half a unit in the last place of 8 bits: rounded once.
        np.testing.assert_allclose(found.astype("f"), exact, rtol=2**-8, atol=1e-6)


def test_nothing_is_as_large_as_boxes_times_map():
    features, boxes = jax.ShapeDtypeStruct((64, 64, 8), "float32"), jax.ShapeDtypeStruct((512, 4), "float32")

    def loss(features, boxes):
        return (roi_align(features, boxes, output=7, scale=0.25) ** 2).sum()

    memory = jax.jit(jax.grad(loss)).lower(features, boxes).compile().memory_analysis()
    # That would be 64 MiB for one channel of boxes times map; the output itself is 0.8 MiB.
    assert memory is not None and memory.temp_size_in_bytes < 5 * 2**20
