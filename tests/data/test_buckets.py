"""Buckets against a greedy search in plain loops, numbers by hand, and properties of any set of shapes."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pvt_jax.data.buckets as buckets_module
from pvt_jax.data.buckets import Buckets, batches_of, choose_buckets
from pvt_jax.errors import UserError


@st.composite
def shape_sets(draw) -> np.ndarray:
    """Shapes of one to three pairs, with repeats."""
    columns = draw(st.sampled_from([2, 4, 6]))
    row = st.lists(st.integers(1, 40), min_size=columns, max_size=columns)
    return np.array(draw(st.lists(row, min_size=1, max_size=25)), np.int32)


def cost(shape: Iterable[int]) -> float:
    """Pixels, those of the last pair at a sixteenth unless it is the only one."""
    sides = [int(side) for side in shape]
    areas = [height * width for height, width in zip(sides[0::2], sides[1::2], strict=True)]
    return areas[0] if len(areas) == 1 else sum(areas[:-1]) + areas[-1] / 16


def union(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(sides) for sides in zip(*shapes, strict=True))


def greedy(shapes: np.ndarray, limit: int) -> set[tuple[int, ...]]:
    """The pair whose union adds the least, found anew among all pairs before every merge."""
    kinds = {tuple(shape) for shape in shapes.tolist()}
    groups = [[shape for shape in map(tuple, shapes.tolist()) if shape == kind] for kind in kinds]

    def paid(group: list) -> float:
        return len(group) * cost(union(group))

    while len(groups) > limit:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        i, j = min(pairs, key=lambda p: paid(groups[p[0]] + groups[p[1]]) - paid(groups[p[0]]) - paid(groups[p[1]]))
        groups = [group for k, group in enumerate(groups) if k not in (i, j)] + [groups[i] + groups[j]]
    return {union(group) for group in groups}


def check(shapes: np.ndarray, limit: int, buckets: Buckets) -> None:
    """What every answer owes."""
    assert 1 <= len(buckets.shapes) <= limit
    assert buckets.shapes.dtype == buckets.of.dtype == np.int32 and buckets.of.shape == (len(shapes),)
    assert len({tuple(shape) for shape in buckets.shapes.tolist()}) == len(buckets.shapes)
    for number, shape in enumerate(buckets.shapes):
        members = shapes[buckets.of == number]
        assert len(members) and (members.max(axis=0) == shape).all()
    padded = sum(cost(buckets.shapes[number]) for number in buckets.of)
    assert buckets.waste == pytest.approx(1 - sum(map(cost, shapes)) / padded, abs=1e-12)
    costs = [cost(shape) for shape in buckets.shapes]
    assert costs == sorted(costs, reverse=True)


@settings(max_examples=150, deadline=None)
@given(shape_sets(), st.integers(1, 8))
def test_every_shape_is_covered_tightly_by_few_buckets(shapes, limit):
    check(shapes, limit, choose_buckets(shapes, limit))


@settings(max_examples=60, deadline=None)
@given(shape_sets())
def test_more_buckets_never_waste_more(shapes):
    wastes = [choose_buckets(shapes, limit).waste for limit in range(1, 27)]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(wastes, wastes[1:], strict=False))
    assert wastes[-1] == 0  # as many as there are shapes


@settings(max_examples=60, deadline=None)
@given(shape_sets(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_records_changes_nothing(shapes, limit, random):
    order = list(range(len(shapes)))
    random.shuffle(order)
    one, other = choose_buckets(shapes, limit), choose_buckets(shapes[order], limit)
    np.testing.assert_array_equal(one.shapes, other.shapes)
    np.testing.assert_array_equal(one.of[order], other.of)


@settings(max_examples=30, deadline=None)
@given(shape_sets())
def test_one_bucket_is_the_largest_of_every_side(shapes):
    buckets = choose_buckets(shapes, 1)
    assert buckets.shapes.tolist() == [shapes.max(axis=0).tolist()] and not buckets.of.any()


@pytest.mark.parametrize("columns", [2, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_merges_are_those_of_a_search_over_all_pairs(columns, seed):
    rng = np.random.default_rng(seed)
    shapes = rng.integers(100, 3000, (20, columns))
    shapes = shapes[rng.integers(0, 20, 40)]  # some often, some not at all
    for limit in (1, 3, 7, 12):
        buckets = choose_buckets(shapes, limit)
        assert {tuple(shape) for shape in buckets.shapes.tolist()} == greedy(shapes, limit)


def test_pairs_of_close_shapes_by_hand():
    shapes = np.array([[10, 10], [100, 100], [10, 12], [100, 104]])
    buckets = choose_buckets(shapes, 2)
    assert buckets.shapes.tolist() == [[100, 104], [10, 12]] and buckets.of.tolist() == [1, 0, 1, 0]
    assert buckets.waste == pytest.approx((20 + 400) / (2 * 120 + 2 * 10400))


def test_equal_shapes_are_one_bucket_without_waste():
    buckets = choose_buckets(np.tile([[512, 704, 600, 800]], (50, 1)), 4)
    assert buckets.shapes.tolist() == [[512, 704, 600, 800]] and not buckets.of.any() and buckets.waste == 0


def test_pixels_of_labels_count_a_sixteenth():
    # Stretching the image by 2 · 10 pixels costs more than the label map by 30 · 10, less than by 33 · 10.
    for label_side, expected in (
        (40, [[10, 10, 40, 10], [12, 10, 10, 10]]),
        (43, [[12, 10, 10, 10], [10, 10, 43, 10]]),
    ):
        shapes = np.array([[10, 10, 10, 10], [12, 10, 10, 10], [10, 10, label_side, 10]])
        found = {tuple(shape) for shape in choose_buckets(shapes, 2).shapes.tolist()}
        assert found == {tuple(shape) for shape in expected}


def test_records_that_are_met_often_are_padded_less():
    shapes = np.array([[10, 10], [12, 10], [15, 10]])
    # Alone the two smaller are closer; a hundred of the smallest would each be stretched.
    assert choose_buckets(shapes, 2).shapes.tolist() == [[15, 10], [12, 10]]
    weighted = choose_buckets(shapes, 2, np.array([100, 1, 1]))
    assert weighted.shapes.tolist() == [[15, 10], [10, 10]]
    assert weighted.waste == pytest.approx(30 / (100 * 100 + 2 * 150))
    repeated = choose_buckets(shapes[[0] * 100 + [1, 2]], 2)
    np.testing.assert_array_equal(repeated.shapes, weighted.shapes)
    assert repeated.waste == pytest.approx(weighted.waste)


def test_thousands_of_shapes_are_covered_too():
    shapes = np.random.default_rng(0).integers(200, 1500, (2600, 4))
    wastes = []
    for limit in (2, 8, 40, 2600):
        buckets = choose_buckets(shapes, limit)
        check(shapes, limit, buckets)
        wastes.append(buckets.waste)
    assert 0.7 * wastes[0] > wastes[2] and wastes[0] > wastes[1] > wastes[2] and wastes[3] == 0


def test_rounding_goes_on_until_there_are_few_enough_to_merge(monkeypatch):
    merge, counts = buckets_module._merge, []
    monkeypatch.setattr(buckets_module, "_merge", lambda *given: counts.append(len(given[0])) or merge(*given))
    shapes = np.random.default_rng(0).integers(1, 2**20, (2100, 2))
    check(shapes, 5, choose_buckets(shapes, 5))
    assert len(counts) == 1 and 100 < counts[0] <= 2000


def test_no_records_need_no_bucket():
    buckets = choose_buckets(np.zeros((0, 4), np.int32), 3)
    assert buckets.shapes.shape == (0, 4) and buckets.of.shape == (0,) and buckets.waste == 0
    assert batches_of(buckets, 4) == []


@settings(max_examples=100, deadline=None)
@given(shape_sets(), st.integers(1, 5), st.integers(1, 7), st.integers(1, 4))
def test_batches_hold_every_record_once_and_one_bucket(shapes, limit, batch_size, multiple):
    buckets = choose_buckets(shapes, limit)
    batches = batches_of(buckets, batch_size, multiple)
    assert sorted(record for batch in batches for record in batch.tolist() if record >= 0) == list(range(len(shapes)))
    numbers = []
    for batch in batches:
        assert batch_size <= len(batch) < batch_size + multiple and len(batch) % multiple == 0
        records = [record for record in batch.tolist() if record >= 0]
        assert records and batch.tolist() == records + [-1] * (len(batch) - len(records))
        (number,) = {int(buckets.of[record]) for record in records}
        numbers.append(number)
    assert numbers == sorted(numbers)
    # No bucket has more batches than it needs.
    for number in range(len(buckets.shapes)):
        assert numbers.count(number) == -(-np.count_nonzero(buckets.of == number) // len(batches[0]))


def test_batches_by_hand():
    buckets = Buckets(np.array([[64, 64], [32, 32]]), np.array([0, 1, 0, 0, 1]), 0.0)
    assert [batch.tolist() for batch in batches_of(buckets, 2)] == [[0, 2], [3, -1], [1, 4]]
    assert [batch.tolist() for batch in batches_of(buckets, 3, 2)] == [[0, 2, 3, -1], [1, 4, -1, -1]]


@pytest.mark.parametrize("limit", [0, -3])
def test_limits_are_checked(limit):
    with pytest.raises(UserError, match=f"at least 1 padded shape is needed, not {limit}"):
        choose_buckets(np.ones((2, 2), int), limit)


@pytest.mark.parametrize("shapes", [np.ones((2, 3), int), np.ones((2, 0), int), np.ones(4, int), np.zeros((2, 2), int)])
def test_shapes_are_checked(shapes):
    with pytest.raises(UserError, match="shapes must be"):
        choose_buckets(shapes, 2)


@pytest.mark.parametrize(("batch_size", "multiple"), [(0, 1), (4, 0)])
def test_sizes_of_batches_are_checked(batch_size, multiple):
    with pytest.raises(UserError, match="batches need"):
        batches_of(choose_buckets(np.ones((2, 2), int), 1), batch_size, multiple)
