"""Assignment by overlap, sampling and one-to-one matching, each against NumPy or SciPy on many random cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pvt_jax.errors import UserError
from pvt_jax.ops.matching import assign_by_iou, hungarian, sample

CASES = 1000
RECIPES = {
    "retinanet": {"positive": 0.5, "negative": 0.4, "least_positive": 0.0},
    "rpn": {"positive": 0.7, "negative": 0.3, "least_positive": 0.3},
    "rcnn": {"positive": 0.5, "negative": 0.5, "least_positive": 0.5, "low_quality": False},
}


def whole_boxes(rng, *shape, side=8):
    """Boxes between whole numbers up to ``side``, so that many overlap equally; some have no area."""
    ends = np.sort(rng.integers(0, side + 1, (*shape, 2, 2)), axis=-1)
    return np.stack([ends[..., 0, 0], ends[..., 1, 0], ends[..., 0, 1], ends[..., 1, 1]], -1).astype(np.float32)


def numpy_iou(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    intersection = np.float32(max(sides[0], 0) * max(sides[1], 0))
    union = np.float32((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)
    return intersection / union if union > 0 else np.float32(0)


def numpy_assign(anchors, boxes, valid, usable, positive, negative, least_positive, low_quality=True):
    """The rule, step by step, on the boxes and anchors that there are."""
    matched, best = np.full(len(anchors), -2), np.zeros(len(anchors), np.float32)
    objects, places = np.flatnonzero(valid), np.flatnonzero(usable)
    iou = np.array([[numpy_iou(anchors[i], boxes[j]) for j in objects] for i in places], np.float32)
    iou = iou.reshape(len(places), len(objects))
    if not len(places):
        return matched, best
    if not len(objects):
        matched[places] = -1
        return matched, best
    best[places] = iou.max(axis=1)
    for i, overlaps in zip(places, iou, strict=True):
        if overlaps.max() < np.float32(negative):
            matched[i] = -1
        if overlaps.max() >= np.float32(positive):
            matched[i] = objects[overlaps.argmax()]
    if low_quality:
        for number, overlaps in zip(objects, iou.T, strict=True):
            if overlaps.max() >= np.float32(least_positive) and overlaps.max() > 0:
                matched[places[overlaps == overlaps.max()]] = number
    return matched, best


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_assigner_follows_the_rule(recipe):
    rng, settings = np.random.default_rng(0), RECIPES[recipe]
    anchors, boxes = whole_boxes(rng, CASES, 20), whole_boxes(rng, CASES, 5)
    # Empty images and images without a usable anchor are among them.
    valid = rng.random((CASES, 5)) < rng.choice([0, 0.3, 0.7, 1], (CASES, 1))
    usable = rng.random((CASES, 20)) < rng.choice([0, 0.5, 1], (CASES, 1), p=[0.1, 0.4, 0.5])
    assign = functools.partial(assign_by_iou, **settings)
    found = jax.jit(jax.vmap(lambda a, b, v, u: assign(a, b, v, usable=u)))(anchors, boxes, valid, usable)
    kinds, several = set(), 0
    for i in range(CASES):
        matched, iou = numpy_assign(anchors[i], boxes[i], valid[i], usable[i], **settings)
        np.testing.assert_array_equal(found.matched[i], matched)
        np.testing.assert_allclose(found.iou[i], iou, rtol=1e-6)
        kinds |= set(matched.tolist())
        several += len(set(matched[matched >= 0].tolist())) > 1
    # rcnn's thresholds leave nothing between them, but unusable anchors are ignored all the same.
    assert kinds == {-2, -1, 0, 1, 2, 3, 4}
    assert several > CASES // 10


def test_an_object_keeps_its_best_anchors_however_numbers_are_rounded():
    """Random fractions, whose overlaps are rounded: the largest is found again among those that it was chosen from."""
    rng = np.random.default_rng(1)
    corners = rng.random((200, 300, 2)).astype(np.float32) * 100
    anchors = np.concatenate([corners, corners + 30 * rng.random((200, 300, 2), np.float32) + 1], -1)
    boxes = anchors[:, :1] + rng.standard_normal((200, 1, 4)).astype(np.float32) / 4
    assign = functools.partial(assign_by_iou, positive=0.999, negative=0.4, least_positive=0.0)
    found = jax.jit(jax.vmap(assign))(anchors, boxes, np.ones((200, 1), bool))
    np.testing.assert_array_equal((np.asarray(found.matched) == 0).sum(axis=1), 1)
    np.testing.assert_array_equal(np.argmax(found.matched, axis=1), np.argmax(found.iou, axis=1))


def test_an_object_that_no_anchor_touches_takes_none():
    anchors = np.array([[0, 0, 4, 4], [4, 0, 8, 4]], np.float32)
    boxes = np.array([[20, 20, 24, 24], [0, 0, 4, 3]], np.float32)
    assign = jax.jit(functools.partial(assign_by_iou, positive=0.5, negative=0.4, least_positive=0.0))
    assert assign(anchors, boxes, np.array([True, True])).matched.tolist() == [1, -1]
    assert assign(anchors, boxes, np.array([True, False])).matched.tolist() == [-1, -1]
    assert assign(anchors, np.zeros((0, 4), np.float32), np.zeros(0, bool)).matched.tolist() == [-1, -1]


def test_overlaps_of_all_pairs_are_never_in_memory():
    anchors, objects, batch = 20_000, 100, 2
    shapes = [jax.ShapeDtypeStruct((batch, count, 4), jnp.float32) for count in (anchors, objects)]
    assign = jax.vmap(functools.partial(assign_by_iou, **RECIPES["retinanet"]))
    compiled = jax.jit(assign).lower(*shapes, jax.ShapeDtypeStruct((batch, objects), bool)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < batch * anchors * objects * 4 / 10


@functools.cache
def sampler(count, share):
    return jax.jit(jax.vmap(functools.partial(sample, count=count, positive_share=share)))


@pytest.mark.parametrize(("anchors", "count", "share"), [(60, 16, 0.25), (60, 16, 0.5), (6, 16, 0.5), (16, 16, 1.0)])
def test_samples_have_their_numbers(anchors, count, share):
    rng = np.random.default_rng(2)
    # From images without objects, or without background, to those with plenty.
    shares = rng.dirichlet((0.3, 0.3, 0.3), CASES).cumsum(axis=1)[:, :, None]
    kind = (rng.random((CASES, 1, anchors)) > shares[:, :2]).sum(axis=1)
    matched = np.choose(kind, [np.full(kind.shape, -2), np.full(kind.shape, -1), rng.integers(0, 9, kind.shape)])
    found = sampler(count, share)(matched.astype(np.int32), jax.random.split(jax.random.key(0), CASES))
    for one, indices, positive, valid in zip(matched, *map(np.asarray, found), strict=True):
        positives = min((one >= 0).sum(), int(count * share))
        background = min((one == -1).sum(), count - positives)
        np.testing.assert_array_equal(positive, np.arange(count) < positives)
        np.testing.assert_array_equal(valid, np.arange(count) < positives + background)
        assert (one[indices[positive]] >= 0).all()
        assert (one[indices[valid & ~positive]] == -1).all()
        assert len(set(indices[valid].tolist())) == valid.sum()
        assert not indices[~valid].any()


def test_every_anchor_is_drawn_as_often_as_others_of_its_kind():
    matched = np.repeat([3, -1, -2, 0, -1], 10).astype(np.int32)
    draws = 4000
    found = sampler(16, 0.25)(np.tile(matched, (draws, 1)), jax.random.split(jax.random.key(1), draws))
    assert np.asarray(found.valid).all()
    for kind, share in ((matched >= 0, 4 / 20), (matched == -1, 12 / 20), (matched == -2, 0)):
        times = np.bincount(np.ravel(found.indices), minlength=len(matched))[kind]
        assert np.abs(times - draws * share).max() <= 4.5 * np.sqrt(draws * share * (1 - share))
    pairs = np.zeros((50, 50))
    for indices in np.asarray(found.indices)[:, :4]:
        pairs[np.ix_(indices, indices)] += 1
    # Two positive ones come together in 4 · 3 of 20 · 19 draws: places do not depend on each other.
    together = pairs[np.ix_(matched >= 0, matched >= 0)][~np.eye(20, dtype=bool)]
    share = 12 / 380
    assert np.abs(together - draws * share).max() < 5 * np.sqrt(draws * share)


match, match_all = jax.jit(hungarian), jax.jit(jax.vmap(hungarian))


@pytest.mark.parametrize(("queries", "objects"), [(12, 7), (7, 7), (9, 1)])
@pytest.mark.parametrize("kind", ["fractions", "ties"])
def test_matching_costs_as_little_as_scipy_finds(queries, objects, kind):
    rng = np.random.default_rng(3)
    cost = rng.standard_normal((CASES, queries, objects)) if kind == "fractions" else 0
    cost = (cost + rng.integers(-2, 3, (CASES, queries, objects))).astype(np.float32)
    valid = rng.random((CASES, objects)) < rng.choice([0, 0.5, 1], (CASES, 1))
    found = np.asarray(match_all(cost, valid))
    assert found.dtype == np.int32
    for one, exists, queried in zip(cost.astype(np.float64), valid, found, strict=True):
        assert len(set(queried.tolist())) == objects
        assert queried.min() >= 0
        assert queried.max() < queries
        rows, columns = linear_sum_assignment(one[:, exists])
        least = one[:, exists][rows, columns].sum()
        assert one[queried[exists], np.flatnonzero(exists)].sum() <= least + 1e-5


def test_what_padded_objects_cost_does_not_matter():
    cost = np.random.default_rng(4).standard_normal((8, 5)).astype(np.float32)
    valid = np.array([True, False, True, False, True])
    expected = match(cost[:, valid], np.ones(3, bool))
    for padding in (-100.0, 100.0, np.nan, np.inf):
        np.testing.assert_array_equal(match(np.where(valid, cost, np.float32(padding)), valid)[valid], expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite_end(value):
    cost = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
    everywhere, somewhere = np.full_like(cost, value), cost.copy()
    somewhere[:, 1], somewhere[2, :] = value, value
    for one in (everywhere, somewhere):
        assert len(set(match(one, np.ones(4, bool)).tolist())) == 4
    if value > 0:
        # One object cannot avoid it, the others can.
        found = match(somewhere, np.ones(4, bool))
        assert not (np.asarray(found)[[0, 2, 3]] == 2).any()


def test_more_objects_than_queries_are_named():
    with pytest.raises(UserError, match="7 objects per image need as many queries, but the head has 5: set head.num_q"):
        match(np.zeros((5, 7), np.float32), np.ones(7, bool))
    assert match(np.zeros((5, 0), np.float32), np.ones(0, bool)).shape == (0,)
