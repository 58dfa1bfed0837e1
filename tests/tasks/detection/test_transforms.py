"""Detection transforms: sizes by hand, painted rectangles against their boxes, coverage against sums over pixels."""

import math
import pickle
import re
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.data.objects import Objects
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.transforms import CROP_RANGE, DetectionEvalTransform, DetectionTrainTransform, fit

PLAIN = DetectionTrainTransform(flip_probability=0)
FLIPPED = DetectionTrainTransform(flip_probability=1)


def objects_of(boxes, labels=None, crowd=None) -> Objects:
    """Objects whose labels are their numbers unless given; ids are 100 and more."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Objects(
        boxes,
        np.arange(count, dtype=np.int32) if labels is None else np.array(labels, np.int32),
        np.zeros(count, bool) if crowd is None else np.array(crowd),
        np.ones(count),
        np.arange(100, 100 + count),
    )


def picture(height: int = 60, width: int = 83, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def painted(height: int, width: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Three filled rectangles, each in one channel, and their boxes."""
    boxes = [(20, 11, 90, 50), (300, 120, 417, 219), (5, 200, 610, 330)]
    boxes = [(x1, y1, min(x2, width), min(y2, height)) for x1, y1, x2, y2 in boxes]
    image = np.zeros((height, width, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, channel] = 255
    return image, boxes


def bounds(channel: np.ndarray) -> list[int]:
    """The box around the pixels of more than half intensity."""
    rows, columns = np.flatnonzero((channel > 127).any(axis=1)), np.flatnonzero((channel > 127).any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def strips(height: int, width: int) -> Objects:
    """One object a column, then one a row: those that are left say what of the image is seen."""
    columns = [(x, 0, x + 1, height) for x in range(width)]
    return objects_of(columns + [(0, y, width, y + 1) for y in range(height)])


def seen(result: dict, width: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is seen of an image with ``strips``."""
    labels = result["labels"][result["valid"]]
    columns, rows = labels[labels < width], labels[labels >= width] - width
    for left in (columns, rows):
        np.testing.assert_array_equal(left, np.arange(left[0], left[-1] + 1))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def covered(mask: np.ndarray, box: tuple[float, ...], side: int) -> np.ndarray:
    """The share of each cell of a grid over a box that a mask covers: the overlaps of each cell with each pixel."""
    x1, y1, x2, y2 = box
    shares = np.zeros((side, side))
    for row in range(side):
        top, bottom = y1 + (y2 - y1) * row / side, y1 + (y2 - y1) * (row + 1) / side
        for column in range(side):
            left, right = x1 + (x2 - x1) * column / side, x1 + (x2 - x1) * (column + 1) / side
            area = 0.0
            for y in range(int(top), min(int(bottom) + 1, mask.shape[0])):
                for x in range(int(left), min(int(right) + 1, mask.shape[1])):
                    height = max(min(bottom, y + 1) - max(top, y), 0)
                    area += mask[y, x] * height * max(min(right, x + 1) - max(left, x), 0)
            shares[row, column] = area / ((bottom - top) * (right - left))
    return shares


def disc(height: int, width: int, box: tuple[float, ...]) -> np.ndarray:
    """The ellipse in a box with a corner cut off, uint8 [H, W]."""
    x1, y1, x2, y2 = box
    rows, columns = np.mgrid[:height, :width] + 0.5
    down, right = (rows - (y1 + y2) / 2) / (y2 - y1), (columns - (x1 + x2) / 2) / (x2 - x1)
    return ((down**2 + right**2 <= 0.25) & (down + right < 0.3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),  # 640 · 800 / 480 = 1066.67
        ((640, 480), (800, 1333), (1067, 800)),
        ((375, 500), (800, 1333), (800, 1067)),
        ((427, 640), (800, 1333), (800, 1199)),  # 1199.06
        ((640, 427), (800, 1333), (1199, 800)),
        ((333, 500), (800, 1333), (800, 1201)),  # 1201.2
        ((360, 640), (800, 1333), (750, 1333)),  # the longer side decides: 360 · 1333 / 640 = 749.8
        ((612, 612), (800, 1333), (800, 800)),
        ((480, 640), (640, 1066), (640, 853)),
        ((426, 640), (480, 1333), (480, 721)),  # 721.1
        ((1000, 2000), (800, 1333), (667, 1333)),  # 666.5 is rounded up
        ((1, 5000), (800, 1333), (1, 1333)),  # 0.27 is rounded to nothing, where mmcv fails
    ],
)
def test_sizes_by_hand(size, limits, expected):
    assert fit(*size, *limits) == expected
    assert DetectionEvalTransform(*limits).size(*size) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.integers(0, 900))
def test_sizes_are_those_of_fractions(height, width, short_side, more):
    long_side = short_side + more
    factor = min(Fraction(long_side, max(height, width)), Fraction(short_side, min(height, width)))
    found = fit(height, width, short_side, long_side)
    assert found[0] <= long_side and found[1] <= long_side and min(found) <= short_side
    for side, new in zip((height, width), found, strict=True):
        exact = side * factor + Fraction(1, 2)
        # What is halfway may be rounded either way by floating point, where mmdetection is no better.
        assert new == max(1, math.floor(exact)) or exact.denominator == 1 and new == exact - 1


def test_the_result_is_of_fixed_shapes_and_types():
    image, objects = picture(), objects_of([(3, 4, 30, 40), (10.5, 0, 83, 60)], labels=[7, 3])
    transform = DetectionTrainTransform(mask_side=9)
    masks = {100: np.ones((60, 83), np.uint8), 101: np.ones((60, 83), np.uint8)}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        decode = lambda left: [masks[i] for i in left.ids]  # noqa: E731
        result = transform(image, objects, (160, 224), 120, 300, 5, rng, decode)
        types = {name: (array.dtype, array.shape) for name, array in result.items()}
        assert types == {
            "image": (np.uint8, (160, 224, 3)),
            "size": (np.int32, (2,)),
            "boxes": (np.float32, (5, 4)),
            "labels": (np.int32, (5,)),
            "valid": (np.bool_, (5,)),
            "masks": (np.uint8, (5, 9, 9)),
        }
        assert result["size"].tolist() == [120, 166]
        assert result["valid"].tolist() == [True, True, False, False, False]
        assert result["labels"].tolist() == [7, 3, 0, 0, 0]
        assert not result["image"][120:].any() and not result["image"][:, 166:].any()
        assert result["image"][:120, :166].all()
        assert not result["boxes"][2:].any() and not result["masks"][2:].any() and (result["masks"][:2] == 255).all()
    assert "masks" not in PLAIN(image, objects, (160, 224), 120, 300, 5, np.random.default_rng(0))


def test_the_image_is_resampled_by_opencv_and_boxes_by_the_true_ratio():
    image = picture(60, 83)
    result = PLAIN(image, objects_of([(8.3, 6, 41.5, 30)]), (128, 160), 100, 150, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(result["image"][:100, :138], cv2.resize(image, (138, 100)))
    # 83 becomes 138, not 138.33: the ratio of x is 138 / 83, of y 100 / 60.
    np.testing.assert_allclose(result["boxes"], [[13.8, 10, 69, 50]], rtol=1e-6)


def test_a_flip_by_hand():
    image = picture(60, 83)
    result = FLIPPED(image, objects_of([(8.3, 6, 41.5, 30)]), (128, 160), 100, 150, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(result["image"][:100, :138], cv2.resize(image, (138, 100))[:, ::-1])
    np.testing.assert_allclose(result["boxes"], [[69, 10, 124.2, 50]], rtol=1e-6)


def test_twice_flipped_is_as_before():
    image, boxes = picture(60, 83), [(0, 0, 83, 60), (8.25, 6, 41.5, 30), (70, 50, 83, 60)]
    once = FLIPPED(image, objects_of(boxes), (60, 83), 60, 83, 3, np.random.default_rng(0))
    twice = FLIPPED(once["image"], objects_of(once["boxes"]), (60, 83), 60, 83, 3, np.random.default_rng(0))
    assert (once["image"] != image).any() and once["boxes"].tolist() != [list(box) for box in boxes]
    np.testing.assert_array_equal(twice["image"], image)
    np.testing.assert_array_equal(twice["boxes"], np.array(boxes, np.float32))


def test_the_flip_probability():
    transform = DetectionTrainTransform(flip_probability=0.3)
    objects = objects_of([(0, 0, 1, 8)])
    image = picture(8, 8)
    results = [transform(image, objects, (8, 8), 8, 8, 1, np.random.default_rng(seed)) for seed in range(600)]
    assert np.mean([result["boxes"][0, 0] == 7 for result in results]) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(
    ("size", "short_side"), [((480, 640), 800), ((480, 640), 481), ((375, 500), 333), ((640, 427), 512)]
)
def test_boxes_lie_around_painted_pixels(size, short_side, flip):
    image, boxes = painted(*size)
    rng = np.random.default_rng(0)
    transform = DetectionTrainTransform(flip_probability=flip)
    result = transform(image, objects_of(boxes), (1344, 1344), short_side, 1333, 3, rng)
    for channel in range(3):
        np.testing.assert_allclose(result["boxes"][channel], bounds(result["image"][..., channel]), atol=0.51)


@pytest.mark.parametrize("short_side", [480, 800])
def test_boxes_lie_around_painted_pixels_of_crops(short_side):
    image, boxes = painted(480, 640)
    transform = DetectionTrainTransform(crop_probability=1)
    lost, clipped = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        result = transform(image, objects_of(boxes), (800, 1344), short_side, 1333, 3, rng)
        left = result["labels"][result["valid"]]
        lost += 3 - len(left)
        for place, label in enumerate(left):
            found, box = result["image"][..., label], result["boxes"][place]
            if (box[2:] - box[:2] > 4).all():  # of less the blurred edges make up everything
                np.testing.assert_allclose(box, bounds(found), atol=1.6)
            height, width = result["size"]
            clipped += box[0] == 0 or box[1] == 0 or box[2] == width or box[3] == height
        for label in set(range(3)) - set(left):
            assert (result["image"][..., label] > 127).sum() == 0
    assert lost > 5 and clipped > 50


def crops(height: int, width: int, count: int, shape: tuple[int, int], **options):
    """(left, top, right, bottom) in the resized image and the result, of crops before which nothing is resized."""
    transform = DetectionTrainTransform(0, 1, crop_short_sides=(min(height, width),), **options)
    image, objects = picture(height, width), strips(height, width)
    for seed in range(count):
        result = transform(image, objects, shape, 320, 533, height + width, np.random.default_rng(seed))
        yield seen(result, width), result


def test_crops_are_drawn_as_in_mmdetection():
    sides = []
    for (left, top, right, bottom), result in crops(160, 250, 400, (544, 544), crop_range=(150, 240)):
        assert 150 <= bottom - top <= 160 and 150 <= right - left <= 240
        assert tuple(result["size"]) == fit(bottom - top, right - left, 320, 533)
        sides.append((bottom - top, right - left, top / max(160 - bottom + top, 1), left / (250 - right + left)))
    heights, widths, down, across = np.array(sides).T
    assert set(heights) == set(range(150, 161))  # the whole side is the most
    assert widths.min() <= 151 and widths.max() >= 239 and widths.mean() == pytest.approx(195, abs=5)
    assert down.min() == 0 and down.max() == 1 and across.min() < 0.02 and across.max() > 0.98


def test_crops_of_small_images_are_the_image():
    for box, result in crops(100, 130, 3, (544, 544)):
        assert box == (0, 0, 130, 100) and tuple(result["size"]) == (320, 416)


def test_a_crop_is_resized_twice():
    image = picture(300, 400)
    transform = DetectionTrainTransform(0, 1, crop_short_sides=(150,), crop_range=(300, 300))
    result = transform(image, objects_of([]), (320, 448), 320, 533, 1, np.random.default_rng(0))
    expected = cv2.resize(cv2.resize(image, (200, 150)), (427, 320))
    np.testing.assert_array_equal(result["image"][:320, :427], expected)


def test_the_long_side_before_a_crop_is_limited():
    # 600 · 2000 would be too long: 1333 · 400 it is, and a crop of all rows has 400.
    transform = DetectionTrainTransform(0, 1, crop_short_sides=(600,), crop_range=(500, 500))
    result = transform(picture(300, 1000), objects_of([]), (400, 512), 400, 1333, 1, np.random.default_rng(0))
    assert result["size"].tolist() == [400, 500]


def test_the_short_side_before_a_crop_is_one_of_several():
    transform = DetectionTrainTransform(0, 1, crop_short_sides=(40, 50, 60), crop_range=(36, 36))
    widths = set()
    for seed in range(60):
        result = transform(
            picture(80, 80), objects_of([(0, 0, 80, 80)]), (36, 36), 36, 36, 1, np.random.default_rng(seed)
        )
        strip = transform(picture(80, 80), strips(80, 80), (36, 36), 36, 36, 160, np.random.default_rng(seed))
        left, _, right, _ = seen(strip, 80)
        widths.add(round((right - left) / 80 * 20))  # 36 pixels are 72, 57.6 or 48 of the image, and some strips cut
        assert result["boxes"].tolist() == [[0, 0, 36, 36]]
    assert widths == {18, 15, 12} or widths == {18, 14, 15, 12}


def test_a_turned_crop_fits_into_the_shape():
    turned = 0
    for (left, top, right, bottom), result in crops(160, 250, 100, (320, 384), crop_range=(100, 160)):
        height, width = bottom - top, right - left
        wanted = fit(height, width, 320, 533)
        assert (result["size"] <= (320, 384)).all()
        if wanted[0] <= 320 and wanted[1] <= 384:
            assert tuple(result["size"]) == wanted
        else:
            factor = min(320 / height, 384 / width)
            np.testing.assert_allclose(result["size"], [height * factor, width * factor], atol=0.51)
            assert result["size"][0] == 320 or result["size"][1] == 384
            turned += height > width
    assert turned > 20


def test_an_image_may_lose_all_its_objects():
    image = picture(100, 200)
    transform = DetectionTrainTransform(0, 1, crop_short_sides=(100,), crop_range=(60, 60), mask_side=4)
    objects = objects_of([(0, 0, 80, 50)])
    asked = []

    def decode(left: Objects) -> list[np.ndarray]:
        asked.append(left.ids.tolist())
        return [np.ones((100, 200), np.uint8)] * len(left)

    results = [transform(image, objects, (64, 64), 60, 60, 2, np.random.default_rng(s), decode) for s in range(40)]
    counts = [int(result["valid"].sum()) for result in results]
    assert 0 < sum(counts) < 40 and asked == [[100]] * sum(counts)
    for count, result in zip(counts, results, strict=True):
        assert result["boxes"].any() == result["masks"].any() == bool(count)


def test_crowd_and_objects_without_area_are_left_out():
    boxes = [(0, 0, 50, 50), (1, 1, 20, 20), (5, 5, 5, 30), (5, 5, 30, 5), (2, 2, 2.0005, 9), (2, 2, 2.002, 9)]
    objects = objects_of(boxes, crowd=[True, False, False, False, False, False])
    result = PLAIN(picture(60, 60), objects, (64, 64), 60, 60, 8, np.random.default_rng(0))
    assert result["labels"][result["valid"]].tolist() == [1, 5] and result["valid"].sum() == 2
    np.testing.assert_allclose(result["boxes"][:2], [boxes[1], boxes[5]], rtol=1e-6)


def test_boxes_are_clipped_to_the_image():
    objects = objects_of([(-5, -7, 300, 20), (59.9995, 3, 60, 9), (50, 50, 61, 61)])
    result = PLAIN(picture(60, 60), objects, (64, 64), 60, 60, 4, np.random.default_rng(0))
    assert result["boxes"].tolist() == [[0, 0, 60, 20], [50, 50, 60, 60], [0] * 4, [0] * 4]


def test_of_too_many_objects_some_are_drawn():
    objects = objects_of([(x, 0, x + 5, 20) for x in range(40)])
    drawn = []
    for seed in range(200):
        result = PLAIN(picture(60, 60), objects, (64, 64), 60, 60, 8, np.random.default_rng(seed))
        assert result["valid"].all() and (np.diff(result["labels"]) > 0).all()
        np.testing.assert_array_equal(result["boxes"][:, 0], result["labels"])
        drawn.append(result["labels"])
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert counts.min() > 15 and counts.max() < 70  # 40 each are expected


def test_images_without_objects():
    transform = DetectionTrainTransform(crop_probability=0.5, mask_side=7)

    def decode(left: Objects) -> list[np.ndarray]:
        raise AssertionError("there is nothing to decode")

    for seed in range(6):
        result = transform(picture(), objects_of([]), (96, 128), 90, 128, 3, np.random.default_rng(seed), decode)
        assert not result["valid"].any() and not result["boxes"].any() and not result["masks"].any()
        assert result["image"][:8, :8].all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_coverage_is_the_share_of_every_cell(data):
    height, width, side = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14)), data.draw(st.integers(1, 9))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    mask = mask.reshape(height, width)
    share = st.floats(0, 1).map(lambda x: round(x, 3))
    (x1, x2), (y1, y2) = (sorted(data.draw(st.tuples(share, share))) for _ in range(2))
    assume(x2 - x1 > 0.02 and y2 - y1 > 0.02)
    box = tuple(np.array([x1 * width, y1 * height, x2 * width, y2 * height], np.float32).astype(float))
    expected = 255 * covered(mask, box, side)
    # Any resize and flip: the coverage is that of the original mask.
    scale, flip = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    given_mask = data.draw(st.sampled_from([mask, mask.astype(np.uint8), np.asfortranarray(mask.astype(np.uint8))]))
    transform = DetectionTrainTransform(float(flip), mask_side=side)
    size = height * scale, width * scale
    result = transform(
        picture(height, width), objects_of([box]), size, min(size), max(size), 1, np.random.default_rng(0),
        lambda _: [given_mask],
    )  # fmt: skip
    found = result["masks"][0, :, ::-1] if flip else result["masks"][0]
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("side", [28, 112])
def test_large_and_tiny_objects_keep_their_exact_coverage(side):
    boxes = [(0, 0, 333, 250), (100.3, 20.7, 320.9, 240.1), (17.2, 11.1, 18.9, 12.2), (40, 30, 331.25, 31.5)]
    # Up to half a level is rounded; of the last one float32 leaves rows of a seventieth of a pixel some more.
    slack = (0.51, 0.51, 0.51, 0.9)
    masks = [disc(250, 333, box) for box in boxes]
    masks[3] = np.random.default_rng(0).integers(0, 2, (250, 333), dtype=np.uint8)
    objects, image = objects_of(boxes), picture(250, 333)
    for flip in (0, 1):
        transform = DetectionTrainTransform(flip, mask_side=side)
        result = transform(image, objects, (500, 666), 500, 666, 4, np.random.default_rng(0), lambda _: masks)
        for place, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
            found = result["masks"][place, :, ::-1] if flip else result["masks"][place]
            box = tuple(float(np.float32(corner)) for corner in box)
            np.testing.assert_allclose(found, 255 * covered(mask, box, side), atol=slack[place])


def test_masks_are_cropped_with_their_boxes():
    image, boxes = picture(160, 250), [(30.5, 20.25, 200.75, 150), (0, 0, 60, 60)]
    masks = [disc(160, 250, box) for box in boxes]
    hints = strips(160, 250)
    both = objects_of([*hints.boxes, *boxes], [*hints.labels, 900, 901])
    nothing = np.zeros((160, 250), np.uint8)
    for flip in (0, 1):
        transform = DetectionTrainTransform(flip, 1, crop_short_sides=(160,), crop_range=(70, 120), mask_side=14)
        clipped = 0
        for seed in range(12):
            result = transform(
                image, both, (544, 544), 320, 533, 420, np.random.default_rng(seed),
                lambda left: [masks[label - 900] if label >= 900 else nothing for label in left.labels],
            )  # fmt: skip
            hinted = {"labels": result["labels"], "valid": result["valid"] & (result["labels"] < 900)}
            left, top, right, bottom = seen(hinted, 250)
            for place in np.flatnonzero(result["labels"] >= 900):
                x1, y1, x2, y2 = boxes[result["labels"][place] - 900]
                box = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
                clipped += box != (x1, y1, x2, y2)
                found = result["masks"][place, :, ::-1] if flip else result["masks"][place]
                expected = 255 * covered(masks[result["labels"][place] - 900], box, 14)
                np.testing.assert_allclose(found, expected, atol=0.53)
                height, width = result["size"]
                ratio = np.array([width / (right - left), height / (bottom - top)] * 2)
                where = (np.array(box) - [left, top, left, top]) * ratio
                if flip:
                    where = np.array([width - where[2], where[1], width - where[0], where[3]])
                np.testing.assert_allclose(result["boxes"][place], where, rtol=1e-5, atol=1e-4)
        assert clipped > 10


def test_masks_agree_with_the_painted_pixels():
    box = (25, 15, 105, 95)
    mask = disc(120, 160, box)
    image = np.stack([mask * 255] * 3, axis=-1)
    transform = DetectionTrainTransform(0.5, 0.7, crop_short_sides=(100, 125), crop_range=(96, 150), mask_side=20)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        result = transform(image, objects_of([box]), (200, 336), 160, 333, 1, rng, lambda _: [mask])
        shares = covered(result["image"][..., 0] / 255, tuple(result["boxes"][0].tolist()), 20)
        assert np.abs(shares - result["masks"][0] / 255).mean() < 0.015


def test_the_rest_of_the_objects_keeps_its_masks():
    boxes = [(0, 0, 10, 10), (10, 0, 20, 10), (20, 0, 20, 10), (30, 0, 40, 10)]
    objects = objects_of(boxes, labels=[5, 6, 7, 8], crowd=[False, True, False, False])
    asked = []

    def decode(left: Objects) -> list[np.ndarray]:
        asked.append(left)
        return [np.full((40, 40), identity == 103, np.uint8) for identity in left.ids]

    transform = DetectionTrainTransform(0, mask_side=3)
    result = transform(picture(40, 40), objects, (40, 40), 40, 40, 3, np.random.default_rng(0), decode)
    assert [left.ids.tolist() for left in asked] == [[100, 103]] and result["labels"].tolist() == [5, 8, 0]
    assert not result["masks"][0].any() and (result["masks"][1] == 255).all() and not result["masks"][2].any()


def test_nothing_given_is_changed_and_the_same_random_numbers_give_the_same():
    image, objects = picture(70, 90), objects_of([(3, 4, 60, 50), (10, 20, 90, 70)])
    mask = disc(70, 90, (10, 20, 90, 70))
    before = image.copy(), objects.boxes.copy(), mask.copy()
    transform = pickle.loads(pickle.dumps(DetectionTrainTransform(crop_probability=0.5, mask_side=5)))
    for seed in range(6):
        first, second = (
            transform(image, objects, (96, 128), 96, 128, 3, np.random.default_rng(seed), lambda o: [mask] * len(o))
            for _ in range(2)
        )
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        first["image"][:] = 0
        first["boxes"][:] = 0
    for array, copy in zip((image, objects.boxes, mask), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_evaluation_resizes_only():
    image = picture(60, 83)
    transform = DetectionEvalTransform(100, 150)
    expected = cv2.resize(image, (138, 100))
    np.testing.assert_array_equal(transform(image), expected)
    np.testing.assert_array_equal(transform(Image.fromarray(image)), expected)
    same = DetectionEvalTransform(60, 83)(image)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.5}, "flip_probability must be in 0..1, not 1.5"),
        ({"crop_probability": -0.1}, "crop_probability must be in 0..1, not -0.1"),
        ({"crop_short_sides": ()}, "crop_short_sides must be sides of 1 or more, not ()"),
        ({"crop_range": (600, 384)}, "crop_range must be (smallest, largest) sides of 1 or more, not (600, 384)"),
        ({"crop_range": (0, 384)}, "crop_range must be (smallest, largest) sides of 1 or more, not (0, 384)"),
        ({"mask_side": -1}, "mask_side must be 0 or more, not -1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        DetectionTrainTransform(**options)


def test_what_is_no_image_and_missing_masks_are_refused():
    with pytest.raises(UserError, match=r"images must be uint8 \[H, W, 3\], not float32 \[4, 4, 3\]"):
        PLAIN(np.zeros((4, 4, 3), np.float32), objects_of([]), (4, 4), 4, 4, 1, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"images must be uint8 \[H, W, 3\], not uint8 \[4, 4\]"):
        DetectionEvalTransform(4, 4)(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="mask_side is 7, but there are no masks: give decode_masks, or set it to 0"):
        DetectionTrainTransform(mask_side=7)(picture(), objects_of([]), (60, 83), 60, 83, 1, np.random.default_rng(0))
    with pytest.raises(UserError, match="short_side must be at least 1 and at most long_side, not 800 and 640"):
        DetectionEvalTransform(800, 640)


def test_the_usual_crop_is_that_of_the_published_recipes():
    transform = DetectionTrainTransform()
    assert (
        (transform.crop_short_sides, transform.crop_range)
        == ((400, 500, 600), CROP_RANGE)
        == ((400, 500, 600), (384, 600))
    )
