"""Kinds of batches and their order: shapes by hand, every record once an epoch, the same for any hosts and workers."""

import itertools
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.data import pipeline
from pvt_jax.data.objects import Objects
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.grouping import Grouped, training_kinds
from pvt_jax.tasks.detection.transforms import DetectionTrainTransform, fit

WIDE_AND_HIGH = [(480, 640), (640, 480), (427, 640), (480, 480), (500, 375)]


def sizes_of(*sizes) -> np.ndarray:
    return np.array(sizes, np.int32)


def batches_of(order: Grouped, size: int, epoch: int = 0) -> np.ndarray:
    """[batches, size, 2] of an epoch."""
    start = epoch * len(order)
    return np.array([order[index] for index in range(start, start + len(order))]).reshape(-1, size, 2)


# Kinds


def test_kinds_by_hand():
    kinds = training_kinds(sizes_of(*WIDE_AND_HIGH), (640, 800), 1333, 8, crop=False)
    assert kinds.groups.tolist() == [0, 1, 0, 0, 1] and kinds.long_side == 1333
    assert kinds.short_sides.tolist() == [640, 800] * 3
    # 480×640 → 640×853, 800×1067; 427×640 → 640×959, 800×1199; rounded up to multiples of 32.
    wide, high = [[640, 960], [800, 1216]], [[864, 640], [1088, 800]]
    assert kinds.shapes.tolist() == [*wide, *high, *wide]
    assert kinds.shapes.dtype == kinds.short_sides.dtype == kinds.groups.dtype == np.int32


def test_kinds_are_merged_where_padding_costs_least():
    sizes = sizes_of(*WIDE_AND_HIGH)
    # 640 and 672 of a group are nearest to each other.
    kinds = training_kinds(sizes, (640, 672, 800), 1333, 4, crop=False)
    wide, high = [[672, 1024], [672, 1024], [800, 1216]], [[896, 672], [896, 672], [1088, 800]]
    assert kinds.shapes.tolist() == [*wide, *high, *wide]
    one = training_kinds(sizes, (640, 672, 800), 1333, 1, crop=False)
    assert one.shapes.tolist() == [[1088, 1216]] * 9


def test_the_rarer_group_is_merged_first():
    wide, high = (96, 128), (128, 96)
    often_wide = training_kinds(sizes_of(*[wide] * 5, high), (160, 192), 300, 3, crop=False)
    assert often_wide.shapes.tolist()[:4] == [[160, 224], [192, 256], [256, 192], [256, 192]]
    often_high = training_kinds(sizes_of(*[high] * 5, wide), (160, 192), 300, 3, crop=False)
    assert often_high.shapes.tolist()[:4] == [[192, 256], [192, 256], [224, 160], [256, 192]]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [([(128, 128)] * 3, [160, 160]), ([(96, 128)] * 3, [160, 224]), ([(128, 96), (120, 96)], [224, 160])],
)
def test_one_group_where_there_is_no_other(sizes, shape):
    kinds = training_kinds(sizes_of(*sizes), (160,), 300, 4, crop=False)
    assert kinds.shapes.tolist() == [shape] and kinds.groups.tolist() == [0] * len(sizes)
    assert kinds.short_sides.tolist() == [160]


def test_shapes_cover_crops_that_are_as_wide_or_high_as_the_group():
    # 384×600 → 800×1250, 600×384 → 1250×800
    square, both = sizes_of((640, 640)), sizes_of((640, 640), (641, 640))
    assert training_kinds(square, (800,), 1333, 4, crop=False).shapes.tolist() == [[800, 800]]
    assert training_kinds(square, (800,), 1333, 4, crop=True).shapes.tolist() == [[800, 1280]]
    kinds = training_kinds(both, (800,), 1333, 4, crop=True)
    assert kinds.shapes.tolist() == [[800, 1280], [1280, 800], [800, 1280]]
    narrower = training_kinds(square, (800,), 1333, 4, crop=True, crop_range=(400, 500))
    assert narrower.shapes.tolist() == [[800, 1024]]


def test_what_is_no_image_has_no_say():
    kinds = training_kinds(sizes_of((0, 0), (128, 96), (0, 0)), (96,), 300, 4, crop=False)
    assert kinds.shapes.tolist() == [[128, 96]] and kinds.groups.tolist() == [0, 0, 0]
    kinds = training_kinds(sizes_of((0, 0), (128, 96), (96, 128)), (96,), 300, 4, crop=False)
    assert kinds.groups.tolist() == [0, 1, 0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=12),
    st.lists(st.integers(8, 400), min_size=1, max_size=4, unique=True),
    st.integers(1, 6),
    st.booleans(),
)
def test_kinds_cover_their_images(sizes, short_sides, limit, crop):
    kinds = training_kinds(sizes_of(*sizes), short_sides, 600, limit, crop)
    groups = len(set(kinds.groups.tolist()))
    assert groups == len({height > width for height, width in sizes})
    assert len(kinds.shapes) == len(kinds.short_sides) == len(short_sides) * (3 if groups == 2 else 1)
    assert (kinds.shapes % 32 == 0).all()
    assert len(np.unique(kinds.shapes[: groups * len(short_sides)], axis=0)) <= limit
    for (height, width), group in zip(sizes, kinds.groups.tolist(), strict=True):
        for number, side in enumerate(short_sides):
            fitted = fit(height, width, side, 600)
            for each in {group, 2 if groups == 2 and group == 0 else group}:
                kind = each * len(short_sides) + number
                assert kinds.short_sides[kind] == side and (kinds.shapes[kind] >= fitted).all()


def test_whole_images_are_as_large_as_the_recipe_says():
    """The transform makes no image smaller to fit into its kind's shape, unless it is cropped."""
    sizes = sizes_of((30, 47), (47, 30), (31, 31), (20, 61), (64, 17))
    kinds = training_kinds(sizes, (40, 48), 80, 2, crop=False)
    empty = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0), np.zeros(0))
    for (height, width), group in zip(sizes.tolist(), kinds.groups.tolist(), strict=True):
        # Of batches of both groups only the wide ones: high ones are fitted into their shapes.
        for kind in [2 * group, 2 * group + 1, *([] if group else [4, 5])]:
            shape, side = tuple(kinds.shapes[kind].tolist()), int(kinds.short_sides[kind])
            image, rng = np.ones((height, width, 3), np.uint8), np.random.default_rng(0)
            result = DetectionTrainTransform()(image, empty, shape, side, kinds.long_side, 1, rng)
            assert tuple(result["size"]) == fit(height, width, side, 80) and result["image"].shape[:2] == shape


@pytest.mark.parametrize(
    ("sizes", "short_sides", "shapes", "message"),
    [
        ([(0, 0)], (40,), 4, "there is no image to train on"),
        ([(9, 9)], (), 4, "short_sides () must be 1 or more, and at most long_side, 80"),
        ([(9, 9)], (40, 0), 4, "short_sides (40, 0) must be 1 or more, and at most long_side, 80"),
        ([(9, 9)], (40, 81), 4, "short_sides (40, 81) must be 1 or more, and at most long_side, 80"),
        ([(9, 9)], (40,), 0, "at least 1 padded shape is needed, not 0"),
    ],
)
def test_kinds_of_nothing_are_refused(sizes, short_sides, shapes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        training_kinds(sizes_of(*sizes), short_sides, 80, shapes, crop=False)


# Order


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**6),
)
def test_an_epoch_has_every_record_in_batches_of_one_kind(groups, size, scales, seed, epoch):
    groups = np.array(groups)
    order = Grouped(groups, size, scales, seed)
    assert len(order) == -(-len(groups) // size) * size
    batches = batches_of(order, size, epoch)
    assert batches.dtype == np.int32
    counts = np.bincount(batches[..., 0].ravel(), minlength=len(groups))
    assert len(counts) == len(groups) and counts.min() >= 1
    assert (counts - 1).sum() == len(order) - len(groups) < size
    whole = np.zeros(groups.max() + 1, int)
    for records, kinds in batches.transpose(0, 2, 1):
        group, scale = divmod(kinds[0], scales)
        assert (kinds == kinds[0]).all() and 0 <= scale < scales
        members = set(groups[records].tolist())
        assert members == {group} if len(members) == 1 else group == groups.max() + 1
        if len(members) == 1:
            whole[group] += 1
    assert (whole >= np.bincount(groups) // size).all()
    # Batches of several groups are what is left over, less than a batch of each.
    present = len(set(groups.tolist()))
    assert len(batches) - whole.sum() <= (present if present > 1 else 0)


def test_a_batch_repeats_no_record_if_there_are_enough():
    for ones in range(1, 30):
        groups = np.array([0] * 13 + [1] * ones)
        for epoch in range(4):
            for records, _ in batches_of(Grouped(groups, 8, 1, 0), 8, epoch).transpose(0, 2, 1):
                assert len(set(records.tolist())) == 8


def test_fewer_records_than_a_batch():
    batches = batches_of(Grouped(np.array([0, 1, 1]), 8, 2, 0), 8)
    assert batches.shape == (1, 8, 2) and set(batches[0, :, 0].tolist()) == {0, 1, 2}
    assert set(batches[0, :, 1].tolist()) <= {4, 5}


def test_epochs_and_seeds_differ_and_are_the_same_again():
    groups = np.arange(60) % 3 // 2
    order = Grouped(groups, 5, 3, 7)
    epochs = [batches_of(order, 5, epoch) for epoch in range(4)]
    for one, other in itertools.combinations(epochs, 2):
        assert (one[..., 0] != other[..., 0]).mean() > 0.8
    assert (batches_of(Grouped(groups, 5, 3, 8), 5) != epochs[0]).any()
    # A new one asked for its last epoch first.
    again = Grouped(groups, 5, 3, 7)
    for epoch in reversed(range(4)):
        np.testing.assert_array_equal(batches_of(again, 5, epoch), epochs[epoch])
    assert again[10**12].shape == (2,)


def test_records_and_scales_are_drawn_evenly():
    order = Grouped(np.arange(26) % 2, 4, 3, 0)
    batches = np.concatenate([batches_of(order, 4, epoch) for epoch in range(600)])
    scales = np.bincount(batches[:, 0, 1] % 3) / len(batches)
    np.testing.assert_allclose(scales, 1 / 3, atol=0.03)
    # Seven batches of 26 records: two are repeated in each epoch, and one or two of each group share a batch.
    shares = np.bincount(batches[..., 0].ravel()) / 600
    np.testing.assert_allclose(shares, 28 / 26, atol=0.06)
    mixed = batches[batches[:, 0, 1] // 3 == 2][..., 0]
    np.testing.assert_allclose(np.bincount(mixed.ravel()) / mixed.size, 1 / 26, atol=0.012)
    first = batches.reshape(600, -1, 2)[:, 0, 0]
    assert np.bincount(first, minlength=26).min() > 8  # 23 are expected


def test_elements_are_their_own_arrays():
    order = Grouped(np.zeros(6, int), 2, 1, 0)
    element = order[3]
    before = element.copy()
    element[:] = -1
    np.testing.assert_array_equal(order[3], before)


def test_it_is_a_data_set_of_grain():
    order = Grouped(np.arange(20) % 2, 4, 2, 1)
    expected = np.concatenate([batches_of(order, 4, epoch).reshape(-1, 2) for epoch in range(3)])
    assert isinstance(order, grain.MapDataset)
    np.testing.assert_array_equal(np.array(list(order[4:12:2])), expected[4:12:2])
    endless = order.repeat(None).batch(4)
    for number in (0, 3, 7, 14):
        np.testing.assert_array_equal(endless[number], expected[4 * number : 4 * number + 4])


def test_two_epochs_are_kept_and_made_once(monkeypatch):
    made = []
    make = Grouped._order
    monkeypatch.setattr(Grouped, "_order", lambda self, epoch: made.append(epoch) or make(self, epoch))
    order = Grouped(np.arange(3000) % 2, 8, 3, 0)
    length = len(order)
    # Threads that read ahead are in two epochs at once.
    indices = [index for near in range(0, length, 2) for index in (near, length + near)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(order.__getitem__, indices))
    assert sorted(made) == [0, 1] and len(order._epochs) == 2
    for epoch in (0, 1):
        np.testing.assert_array_equal(found[epoch::2], make(order, epoch)[::2])
    _ = order[2 * length], order[length]
    assert made[2:] == [2] and sorted(order._epochs) == [1, 2]


def test_it_is_sent_to_workers_without_its_epochs():
    order = Grouped(np.arange(3000) % 2, 8, 3, 5)
    small = len(pickle.dumps(order))
    expected = batches_of(order, 8, 3)
    assert len(pickle.dumps(order)) == small < 3000 * 4 + 2000
    np.testing.assert_array_equal(batches_of(pickle.loads(pickle.dumps(order)), 8, 3), expected)


@pytest.mark.parametrize(
    ("groups", "size", "scales", "message"),
    [
        ([], 4, 1, "batches need records of 1 or more, not 0"),
        ([0], 0, 1, "batches need batch_size of 1 or more, not 0"),
        ([0], 4, 0, "batches need num_scales of 1 or more, not 0"),
    ],
)
def test_an_order_of_nothing_is_refused(groups, size, scales, message):
    with pytest.raises(UserError, match=message):
        Grouped(np.array(groups, int), size, scales, 0)


class Numbers:
    """Records that are their own numbers."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> int:
        return index

    def name(self, index: int) -> str:
        return str(index)


def example(source, index, kind, rng):
    """Shapes differ by kind: a batch of several could not be put together."""
    return {"record": np.int32(source[index]), "pixels": np.zeros(kind + 1), "draw": rng.integers(1 << 30)}


def order_of(seed: int) -> Grouped:
    return Grouped(np.arange(22) % 3 // 2, 4, 2, seed)


def test_hosts_workers_and_a_resume_change_nothing():
    load = partial(pipeline.training_batches, Numbers(), example, batch_size=4, seed=9, order=order_of)

    def take(count, **options):
        batches = load(**{"loading": pipeline.Loading(threads=2), **options})
        taken = list(itertools.islice(batches, count))
        batches.close()
        return taken

    def check(found, expected):
        for one, other in zip(found, expected, strict=True):
            for name in ("record", "pixels", "draw"):
                np.testing.assert_array_equal(one[name], other[name])

    whole = take(15)  # two epochs and a half, six batches each
    assert set(np.concatenate([batch["record"] for batch in whole[6:12]]).tolist()) == set(range(22))
    assert len({batch["pixels"].shape for batch in whole}) > 3
    check(take(4, start_step=11), whole[11:])
    check(take(15, loading=pipeline.Loading(workers=1, threads=2)), whole)
    hosts = [take(15, block=(host, 2)) for host in range(2)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*hosts, strict=True)]
    check(joined, whole)
