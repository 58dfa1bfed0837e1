"""Segmentation transforms against loops and formulas written out: mmcv's rounding, colorsys, the order of the draws."""

import colorsys
import math
import pickle
import re
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.tasks.images import fitted_size, pad_to
from pvt_jax.tasks.segmentation.transforms import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    SquashedEvalTransform,
    distort_colours,
)

OWN = (0, 0)  # the image's own size


def picture(height: int = 60, width: int = 83, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse) + rng.integers(-9, 10, (height, width, 1)), 0, 255).astype(np.uint8)


def label_map(height: int = 60, width: int = 83, seed: int = 0, block: int = 9) -> np.ndarray:
    """Blocks of 12 classes, some ignored."""
    values = np.random.default_rng(seed).choice([*range(12), 255], (height // block + 1, width // block + 1))
    return np.kron(values, np.ones((block, block)))[:height, :width].astype(np.uint8)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image that holds the row and the column of every pixel, and labels that agree with it; sides up to 250."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows ^ columns], axis=-1), (rows * 7 + columns * 3) % 250


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel by pixel: half-pixel centres, borders repeated, no antialiasing."""
    result = np.zeros((height, width, image.shape[2]))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


def nearest_sources(source: int, target: int) -> list[set[int]]:
    """The position that each new one is taken from; two where the exact one lies on a border, which may be rounded."""
    positions = [Fraction(index * source, target) for index in range(target)]
    return [{int(p), int(p) - 1 if p.denominator == 1 and p > 0 else int(p)} for p in positions]


@pytest.mark.parametrize(
    ("size", "scale", "ratio", "expected"),
    [
        ((512, 683), (2048, 512), 1.0, (512, 683)),
        ((600, 800), (2048, 512), 1.0, (512, 683)),  # 800 · 512 / 600 = 682.67
        ((683, 512), (2048, 512), 1.0, (683, 512)),  # the limits are of the longer and shorter side, not of w and h
        ((300, 3000), (2048, 512), 1.0, (205, 2048)),  # the longer side decides: 300 · 2048 / 3000 = 204.8
        ((512, 683), (2048, 512), 0.5, (256, 342)),  # 341.5 is rounded up
        ((512, 685), (2048, 512), 0.5, (256, 343)),  # and so is 342.5, which Python rounds to even
        ((685, 512), (2048, 512), 0.5, (343, 256)),
        ((512, 683), (2048, 512), 0.7731, (395, 527)),  # limits 1583 and 395, cut off: 683 · 395 / 512 = 526.9
        ((1024, 2048), (2048, 1024), 1.75, (1792, 3584)),
        ((37, 91), OWN, 1.0, (37, 91)),
        ((5, 9), OWN, 0.5, (2, 4)),  # limits 2 and 4: factor 0.4, 3.6 is rounded up
        ((1, 5000), (2048, 512), 1.0, (1, 2048)),  # 0.41 is rounded to nothing, where mmcv fails
        ((3, 2), OWN, 0.1, (1, 1)),
    ],
)
def test_sizes_by_hand(size, scale, ratio, expected):
    assert fitted_size(size[0], size[1], scale, ratio) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 2048), st.integers(1, 2048))
def test_sizes_fit_touch_a_limit_and_keep_the_aspect(height, width, one, other):
    long, short = max(one, other), min(one, other)
    fitted = fitted_size(height, width, (long, short))
    factor = min(Fraction(long, max(height, width)), Fraction(short, min(height, width)))
    for side, found in zip((height, width), fitted, strict=True):
        assert abs(found - side * factor) <= Fraction(1, 2) + Fraction(1, 10**6) or found == 1
    assert max(fitted) <= long and min(fitted) <= short
    assert max(fitted) == long or min(fitted) == short


RESIZES = [
    ((60, 83), 1.0),
    ((60, 83), 0.5),
    ((60, 83), 0.77),
    ((60, 83), 1.6),
    ((31, 20), 1.9),
    ((30, 40), 2.0),
    ((9, 70), 1.3),
]


@pytest.mark.parametrize(("size", "ratio"), RESIZES)
def test_image_and_labels_are_resized_together_and_padded(size, ratio):
    image, labels = picture(*size), label_map(*size)
    transform = SegmentationTrainTransform(
        (190, 400), (300, 60), (ratio, ratio), flip_probability=0, photometric=False, fill=(7, 8, 9)
    )
    found, found_labels, true_size = transform(image, labels, np.random.default_rng(0))
    height, width = fitted_size(size[0], size[1], (300, 60), ratio)
    assert true_size.dtype == np.int32 and true_size.tolist() == [height, width]
    assert found.shape == (190, 400, 3) and found_labels.shape == (190, 400)
    # OpenCV weighs in steps of 1/2048.
    assert np.abs(found[:height, :width] - bilinear(image, height, width)).max() <= 1
    rows, columns = nearest_sources(size[0], height), nearest_sources(size[1], width)
    for y in range(height):
        for x in range(width):
            assert found_labels[y, x] in {labels[row, column] for row in rows[y] for column in columns[x]}
    assert (found[height:] == (7, 8, 9)).all() and (found[:, width:] == (7, 8, 9)).all()
    assert (found_labels[height:] == 255).all() and (found_labels[:, width:] == 255).all()


def test_padding_is_black_unless_told():
    transform = SegmentationTrainTransform((8, 8), OWN, (1, 1))
    found = transform(np.full((3, 5, 3), 200, np.uint8), np.zeros((3, 5), np.uint8), np.random.default_rng(3))[0]
    assert (found[3:] == 0).all() and (found[:, 5:] == 0).all() and (found[:3, :5] > 0).all()


@pytest.mark.parametrize("crop", [(20, 30), (20, 200), (90, 30), (50, 70), (51, 71), (1, 1)])
def test_crops_are_windows_of_both_at_every_offset(crop):
    image, labels = coordinates(50, 70)
    transform = SegmentationTrainTransform(crop, OWN, (1, 1), 1.0, flip_probability=0, photometric=False)
    rng = np.random.default_rng(0)
    height, width = min(crop[0], 50), min(crop[1], 70)
    tops, lefts = [], []
    for _ in range(600):
        found, found_labels, true_size = transform(image, labels, rng)
        top, left = int(found[0, 0, 0]), int(found[0, 0, 1])
        assert true_size.tolist() == [height, width]
        np.testing.assert_array_equal(found[:height, :width], image[top : top + height, left : left + width])
        np.testing.assert_array_equal(found_labels[:height, :width], labels[top : top + height, left : left + width])
        assert (found_labels[height:] == 255).all() and (found_labels[:, width:] == 255).all()
        tops.append(top)
        lefts.append(left)
    # Uniform on 0 … spare: mean spare / 2, variance ((spare + 1)² − 1) / 12; within 4.5 deviations of the mean.
    for offsets, spare in ((tops, 50 - height), (lefts, 70 - width)):
        deviation = math.sqrt(((spare + 1) ** 2 - 1) / 12 / len(offsets))
        assert abs(np.mean(offsets) - spare / 2) <= 4.5 * deviation
        assert min(offsets) <= spare * 0.05 and max(offsets) >= spare * 0.95


def reference_crop(labels: np.ndarray, crop: tuple[int, int], share: float, rng: np.random.Generator):
    """Top and left, counting pixels in a loop: ten crops are judged, the eleventh is taken as it is."""
    for attempt in range(11):
        top = int(rng.integers(max(labels.shape[0] - crop[0], 0) + 1))
        left = int(rng.integers(max(labels.shape[1] - crop[1], 0) + 1))
        counts: dict[int, int] = {}
        for label in labels[top : top + crop[0], left : left + crop[1]].reshape(-1).tolist():
            if label != 255:
                counts[label] = counts.get(label, 0) + 1
        if attempt == 10 or (len(counts) > 1 and Fraction(max(counts.values()), sum(counts.values())) < share):
            return top, left, attempt
    raise AssertionError


def one_speck(height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[20:26, 30:36] = 3
    return labels


def mostly_ignored(height: int, width: int) -> np.ndarray:
    labels = np.full((height, width), 255, np.uint8)
    labels[::5, ::9], labels[2::5, ::7] = 1, 2
    return labels


LABELS = {
    "blocks": label_map(40, 55, block=16),
    "one_class": np.zeros((40, 55), np.uint8),
    "one_class_and_ignored": np.where(np.arange(55) < 20, 255, np.zeros((40, 55))).astype(np.uint8),
    "all_ignored": np.full((40, 55), 255, np.uint8),
    "one_speck": one_speck(40, 55),
    "mostly_ignored": mostly_ignored(40, 55),
    "halves": np.where(np.arange(55) < 27, 4, np.full((40, 55), 254)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("crop", [(12, 14), (12, 80), (64, 64)])
def test_crops_are_drawn_until_no_class_prevails(kind, crop):
    labels = LABELS[kind]
    image = coordinates(*labels.shape)[0]
    attempts = set()
    for seed in range(15):
        for share in (0.5, 0.75):
            rng, replay = np.random.default_rng(seed), np.random.default_rng(seed)
            transform = SegmentationTrainTransform(crop, OWN, (1, 1), share, 0, photometric=False)
            found = transform(image, labels, rng)[0]
            assert replay.uniform(1, 1) == 1
            top, left, attempt = reference_crop(labels, crop, share, replay)
            assert tuple(found[0, 0, :2]) == (top, left)
            replay.random()  # the flip: the draws before it were as many
            assert rng.bit_generator.state == replay.bit_generator.state
            attempts.add(attempt)
    if kind in ("one_class", "one_class_and_ignored", "all_ignored"):
        assert attempts == {10}
    if crop == (12, 14) and kind in ("blocks", "halves"):
        assert len(attempts) > 3


def test_a_share_of_exactly_the_limit_is_refused_as_in_the_reference():
    labels = np.zeros((4, 4), np.uint8)
    labels[0] = 1  # 12 of 16 pixels are class 0
    for share, draws in ((0.75, 11), (0.7501, 1)):
        rng, replay = np.random.default_rng(0), np.random.default_rng(0)
        transform = SegmentationTrainTransform((2**6, 2**6), OWN, (1, 1), share, 0, photometric=False)
        transform(np.zeros((4, 4, 3), np.uint8), labels, rng)
        replay.uniform()
        for _ in range(draws):
            replay.integers(1)
            replay.integers(1)
        replay.random()
        assert rng.bit_generator.state == replay.bit_generator.state


def test_the_limit_of_a_class_is_met_where_crops_that_meet_it_are_common():
    labels = label_map(100, 100, block=10, seed=4)
    image = coordinates(100, 100)[0]
    transform = SegmentationTrainTransform((24, 24), OWN, (1, 1), 0.5)
    for seed in range(60):
        found = transform(image, labels, np.random.default_rng(seed))[1]
        counts = np.unique(found[found != 255], return_counts=True)[1]
        assert len(counts) > 1 and counts.max() < 0.5 * counts.sum()


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (1.0, 200, 200), (0.25, 25, 75)])
def test_a_flip_turns_image_and_labels(probability, least, most):
    image, labels = coordinates(16, 24)
    transform = SegmentationTrainTransform((20, 20), OWN, (1, 1), 1.0, probability, photometric=False)
    flips = 0
    for seed in range(200):
        found, found_labels, _ = transform(image, labels, np.random.default_rng(seed))
        flipped = bool(found[0, 0, 1] > found[0, 1, 1])
        flips += flipped
        left = int(found[0, 19 if flipped else 0, 1])
        order = slice(None, None, -1 if flipped else 1)
        np.testing.assert_array_equal(found[:16], image[:, left : left + 20][:, order])
        np.testing.assert_array_equal(found_labels[:16], labels[:, left : left + 20][:, order])
        assert (found[16:] == 0).all() and (found_labels[16:] == 255).all()
    assert least <= flips <= most


def draw_changes(rng: np.random.Generator) -> list[tuple[str, float]]:
    """What is changed and by how much, in order."""
    changes = []
    if rng.random() < 0.5:
        changes.append(("brightness", rng.uniform(-32, 32)))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        changes.append(("contrast", rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        changes.append(("saturation", rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        changes.append(("hue", rng.integers(-18, 18)))
    if not contrast_first and rng.random() < 0.5:
        changes.append(("contrast", rng.uniform(0.5, 1.5)))
    return changes


def cut(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0), 255).astype(np.uint8)


def test_colours_are_distorted_as_by_arithmetic_on_pixels_of_bgr():
    """mmsegmentation's images are BGR: the same changes there, in float32 on every pixel, give the same pixels."""
    image = picture(40, 50)
    kinds = set()
    for seed in range(80):
        expected = image[..., ::-1].copy()
        for kind, amount in draw_changes(np.random.default_rng(seed)):
            kinds.add(kind)
            if kind == "brightness":
                expected = cut(expected.astype(np.float32) + np.float32(amount))
            elif kind == "contrast":
                expected = cut(expected.astype(np.float32) * np.float32(amount))
            else:
                hsv = cv2.cvtColor(expected, cv2.COLOR_BGR2HSV)
                hue, saturation, value = np.moveaxis(hsv, -1, 0)
                if kind == "saturation":
                    saturation = cut(saturation.astype(np.float32) * np.float32(amount))
                else:
                    hue = ((hue.astype(int) + amount) % 180).astype(np.uint8)
                expected = cv2.cvtColor(np.stack([hue, saturation, value], axis=-1), cv2.COLOR_HSV2BGR)
        actual = distort_colours(image, np.random.default_rng(seed))
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, expected[..., ::-1])
    assert kinds == {"brightness", "contrast", "saturation", "hue"}


def reference_hsv(pixel: list[int], kind: str, amount: float) -> list[int]:
    """One change by the standard library's colours, hue kept in steps of 2° and saturation of 1/255."""
    red, green, blue = (level / 255 for level in pixel)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hue, saturation = round(hue * 180) % 180, round(saturation * 255)
    if kind == "saturation":
        saturation = int(min(saturation * amount, 255))
    else:
        hue = (hue + amount) % 180
    return [round(255 * level) for level in colorsys.hsv_to_rgb(hue / 180, saturation / 255, value)]


def test_colours_are_distorted_as_by_the_standard_library():
    image = np.random.default_rng(5).integers(0, 256, (14, 15, 3), dtype=np.uint8)
    differences = []
    for seed in range(60):
        actual = distort_colours(image, np.random.default_rng(seed))
        changes = draw_changes(np.random.default_rng(seed))
        for row, column in np.ndindex(14, 15):
            pixel = image[row, column].tolist()
            for kind, amount in changes:
                if kind == "brightness":
                    pixel = [int(min(max(level + amount, 0), 255)) for level in pixel]
                elif kind == "contrast":
                    pixel = [int(min(level * amount, 255)) for level in pixel]
                else:
                    pixel = reference_hsv(pixel, kind, float(amount))
            differences.append(np.abs(actual[row, column].astype(int) - pixel).max())
    # A hue on the border between two steps may be rounded either way, and a step is 255 · 2° / 60° = 8.5 levels, which
    # a contrast of up to 1.5 follows.
    assert np.mean(np.array(differences) <= 2) > 0.98
    assert max(differences) <= 13


def test_each_distortion_comes_half_of_the_time_within_its_range():
    # A grey pixel has no hue and no saturation; on a pixel with G = B only a turned hue parts the two.
    image = np.array([[[128, 128, 128], [180, 100, 100]]], np.uint8)
    grey, turned, hues = [], 0, []
    for seed in range(3000):
        (r, g, b), coloured = distort_colours(image, np.random.default_rng(seed))[0].tolist()
        assert r == g == b
        grey.append(r)
        turned += coloured[1] != coloured[2]
        hues.append(colorsys.rgb_to_hsv(*coloured)[0] * 180)
    # Neither brightness nor contrast: a quarter, and the few that hit 128 again.
    assert 0.22 < np.mean(np.array(grey) == 128) < 0.29
    assert min(grey) >= int((128 - 32) * 0.5) and max(grey) <= (128 + 32) * 1.5
    assert min(grey) < 60 and max(grey) > 220
    # A hue is turned by one of 36 steps, of which one is none.
    assert abs(turned / 3000 - 0.5 * 35 / 36) < 0.04
    signed = [hue - 180 if hue > 90 else hue for hue in hues]
    assert -20.5 <= min(signed) <= -16 and 15 <= max(signed) <= 19.5
    assert abs(np.mean(signed) + 0.25) < 1  # half the time the mean −0.5 of −18 … 17


def test_ratios_are_uniform_in_their_range():
    image, labels = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    transform = SegmentationTrainTransform((300, 300), (400, 100), (0.5, 2.0), photometric=False)
    sides = [int(transform(image, labels, np.random.default_rng(seed))[2][0]) for seed in range(400)]
    assert 50 <= min(sides) <= 53 and 197 <= max(sides) <= 200
    # A deviation of 150 / √12 = 43 pixels, of the mean of 400: 2.2. int() takes half a pixel off.
    assert abs(np.mean(sides) - 124.5) < 9
    assert abs(np.mean(np.array(sides) < 87) - 0.25) < 0.09


def test_it_leaves_its_arguments_and_repeats_with_the_seed():
    image, labels = picture(), label_map()
    image.flags.writeable = labels.flags.writeable = False
    transform = SegmentationTrainTransform((48, 40), (120, 60))
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform and hash(copy) == hash(transform)
    results = [transform(image, labels, np.random.default_rng(seed)) for seed in range(10)]
    assert len({found.tobytes() for found, _, _ in results}) == 10
    for seed, arrays in enumerate(results):
        for array, again in zip(arrays, copy(image, labels, np.random.default_rng(seed)), strict=True):
            np.testing.assert_array_equal(array, again)
            assert array.flags.writeable and array.flags.c_contiguous and array.base is None


def test_nothing_of_a_result_is_shared_with_the_arguments():
    image, labels = picture(32, 32), label_map(32, 32)
    transform = SegmentationTrainTransform((32, 32), OWN, (1, 1), 1.0, 0.0, photometric=False)
    found, found_labels, _ = transform(image, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(found, image)
    assert not np.shares_memory(found, image) and not np.shares_memory(found_labels, labels)
    evaluated = SegmentationEvalTransform(OWN)(image)
    np.testing.assert_array_equal(evaluated, image)
    assert not np.shares_memory(evaluated, image)


def test_views_give_what_their_copies_give():
    image, labels = picture()[::-1, ::2], label_map()[::-1, ::2]
    transform = SegmentationTrainTransform((48, 40), (120, 60))
    for seed in range(5):
        of_views = transform(image, labels, np.random.default_rng(seed))
        of_copies = transform(image.copy(), labels.copy(), np.random.default_rng(seed))
        for one, other in zip(of_views, of_copies, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(SegmentationEvalTransform()(image), SegmentationEvalTransform()(image.copy()))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000), st.integers(1, 40), st.integers(1, 40))
def test_any_size_works_and_labels_gain_no_value_but_255(height, width, seed, crop_height, crop_width):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 3, 77, 254], (height, width)).astype(np.uint8)
    transform = SegmentationTrainTransform((crop_height, crop_width), (80, 20))
    found, found_labels, true_size = transform(picture(height, width), labels, rng)
    assert found.shape == (crop_height, crop_width, 3) and found_labels.shape == (crop_height, crop_width)
    assert (true_size >= 1).all() and (true_size <= (crop_height, crop_width)).all()
    kept = found_labels[: true_size[0], : true_size[1]]
    assert set(kept.reshape(-1).tolist()) <= set(labels.reshape(-1).tolist())
    assert np.count_nonzero(found_labels == 255) == crop_height * crop_width - kept.size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop_size": (0, 32)}, "crop_size"),
        ({"crop_size": (32,)}, "crop_size"),
        ({"scale": (512, 2048)}, "scale must be the limits"),
        ({"scale": (512, 0)}, "scale must be the limits"),
        ({"scale": (2048, 1024, 512)}, "scale must be the limits"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
        ({"scale_range": (0.0, 0.5)}, "scale_range"),
        ({"scale_range": (1.0,)}, "scale_range"),
        ({"largest_share": 0.0}, "largest_share"),
        ({"largest_share": 75}, "largest_share"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"fill": (0, 0, 256)}, "fill"),
        ({"fill": (0, 0)}, "fill"),
    ],
)
def test_options_of_training_are_checked(options, words):
    with pytest.raises(UserError, match=words) as caught:
        SegmentationTrainTransform(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"scale": (512, 2048)}, "scale"), ({"ratio": 0.0}, "ratio"), ({"multiple": 0}, "multiple")],
)
def test_options_of_evaluation_are_checked(options, words):
    with pytest.raises(UserError, match=words):
        SegmentationEvalTransform(**options)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 4), (0, 4, 3)])
def test_images_are_checked(shape):
    image, labels, rng = np.zeros(shape, np.uint8), np.zeros(shape[:2], np.uint8), np.random.default_rng(0)
    with pytest.raises(UserError, match=re.escape(f"uint8 {list(shape)}")):
        SegmentationTrainTransform()(image, labels, rng)
    with pytest.raises(UserError, match=re.escape(f"uint8 {list(shape)}")):
        SegmentationEvalTransform()(image)
    with pytest.raises(UserError, match="float32"):
        SegmentationEvalTransform()(np.zeros((4, 4, 3), np.float32))


@pytest.mark.parametrize("labels", [np.zeros((4, 5), np.uint8), np.zeros((4, 6, 1), np.uint8), np.zeros((4, 6), int)])
def test_labels_that_do_not_fit_their_image_are_errors(labels):
    found = f"{labels.dtype} {list(labels.shape)}"
    with pytest.raises(UserError, match=re.escape(f"labels must be uint8 [4, 6] as the image, not {found}")):
        SegmentationTrainTransform()(np.zeros((4, 6, 3), np.uint8), labels, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("size", "transform", "expected"),
    [
        ((512, 683), SegmentationEvalTransform(), (512, 704)),
        ((600, 800), SegmentationEvalTransform(), (512, 704)),
        ((300, 3000), SegmentationEvalTransform(), (224, 2048)),  # 205 × 2048
        ((512, 683), SegmentationEvalTransform(ratio=0.5), (256, 352)),  # 256 × 342
        ((512, 683), SegmentationEvalTransform(ratio=0.5, multiple=1), (256, 342)),
        ((65, 96), SegmentationEvalTransform(OWN), (96, 96)),
        ((1024, 2048), SegmentationEvalTransform(OWN), (1024, 2048)),
        ((1024, 2048), SegmentationEvalTransform((2048, 1024), multiple=1), (1024, 2048)),
        ((100, 200), SegmentationEvalTransform(OWN, 1.25, 16), (128, 256)),  # 125 × 250
    ],
)
def test_evaluation_sizes_by_hand(size, transform, expected):
    assert transform.size(*size) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([(64, 48), OWN]), st.sampled_from([1, 8, 32]))
def test_evaluation_has_the_size_it_says(height, width, scale, multiple):
    transform = SegmentationEvalTransform(scale, multiple=multiple)
    found = transform(picture(height, width))
    assert found.shape == (*transform.size(height, width), 3) and found.dtype == np.uint8
    assert found.shape[0] % multiple == 0 and found.shape[1] % multiple == 0 and found.flags.writeable


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squashed_to_a_size_by_pillow(interpolation):
    image, resampling = picture(60, 83), getattr(Image.Resampling, interpolation.upper())
    for transform, size in (
        (SquashedEvalTransform((64, 32), interpolation=interpolation), (64, 32)),
        (SquashedEvalTransform((64, 33), 0.75, interpolation), (64, 32)),  # 48 × 24
        (SquashedEvalTransform((64, 32), 0.1, interpolation), (32, 32)),
    ):
        assert transform.size(60, 83) == size
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], resampling))
        np.testing.assert_array_equal(transform(image), expected)


@pytest.mark.parametrize("size", [(60, 83), (83, 60), (20, 90), (48, 64)])
def test_evaluation_is_two_resizes(size):
    image = picture(*size)
    transform = SegmentationEvalTransform((100, 40))
    once = bilinear(image, *fitted_size(size[0], size[1], (100, 40)))
    expected = bilinear(np.rint(once), *transform.size(*size))
    assert np.abs(transform(image) - expected).max() <= 2
    np.testing.assert_array_equal(transform(Image.fromarray(image)), transform(image))
    unaligned = SegmentationEvalTransform((100, 40), multiple=1)(image)
    assert np.abs(unaligned - once).max() <= 1


def test_padding_leaves_the_array_and_adds_below_and_to_the_right():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = [[0, 1, 2, 9, 9], [3, 4, 5, 9, 9], [9, 9, 9, 9, 9]]
    assert pad_to(array, 3, 5, 9).tolist() == expected
    coloured = pad_to(np.zeros((1, 1, 3), np.uint8), 1, 2, (1, 2, 3))
    assert coloured.tolist() == [[[0, 0, 0], [1, 2, 3]]]
