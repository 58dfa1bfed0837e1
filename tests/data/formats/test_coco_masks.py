"""Segmentations of COCO's format: what is a mask, and one precise line for each thing that is none."""

import time
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats.coco.masks import decode_counts, mask_problem, plain_mask
from pvt_jax.data.objects import decode_mask, run_lengths
from tests.helpers.detection_data import counts_of

SIZE = (37, 53)
TRIANGLE = [1, 2, 3, 4, 5.5, 6]
LIST = "each is a list [x, y, x, y, x, y, …] of numbers"
ONE = 'run lengths are one {"size": [height, width], "counts": …} for each object'
AGAIN = "export them again"


def random_mask(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    # From single pixels to runs of several columns, and with a first pixel of either kind.
    mask = np.repeat(random.random(SIZE[0] * SIZE[1]) < random.random(), random.integers(1, 300))
    return mask[: SIZE[0] * SIZE[1]].reshape(SIZE, order="F")


@pytest.mark.parametrize("number", range(30))
def test_compressed_counts_are_the_runs_of_the_mask(number):
    mask = random_mask(number)
    text = run_lengths(mask, SIZE)["counts"]
    found = decode_counts(text)
    assert found is not None and found.tolist() == counts_of(mask)
    assert mask_problem({"size": list(SIZE), "counts": text}) is None


@pytest.mark.parametrize("number", range(5))
def test_compressed_counts_that_are_cut_or_changed_are_refused(number):
    """Each text that is let through is decoded, to the end, by what decodes it in training."""
    random = np.random.default_rng(number)
    text = run_lengths(random_mask(number), SIZE)["counts"]
    for length in range(len(text)):
        assert mask_problem({"size": list(SIZE), "counts": text[:length]})
    passed = 0
    for _ in range(300):
        place = int(random.integers(len(text)))
        changed = text[:place] + chr(int(random.integers(40, 130))) + text[place + 1 :]
        mask = {"size": list(SIZE), "counts": changed}
        if mask_problem(mask) is None:
            passed += 1
            assert counts_of(decode_mask(mask, SIZE) > 0)[0] >= 0
    assert passed < 100


def test_by_hand():
    # 3 is one digit; 16 has no room for its sign in five bits: 16 + 32, then 0; -1 is 31.
    assert decode_counts("3")[0] == 3
    assert decode_counts(chr(48 + 16 + 32) + chr(48)).tolist() == [16]
    assert decode_counts(chr(48 + 31)).tolist() == [-1]
    # The fourth and fifth are differences to the second and third.
    assert decode_counts("12345").tolist() == [1, 2, 3, 6, 8]
    for wrong in ("", "é", "\ud800", "/", "p", "1 2", "3`", chr(111) * 7 + "0"):
        assert decode_counts(wrong) is None


@pytest.mark.parametrize(
    "mask",
    [
        [TRIANGLE],
        [TRIANGLE, [0] * 8],
        {"size": [2, 3], "counts": [1, 5]},
        {"size": [2.0, 3.0], "counts": [6]},
        {"size": [2.0, 3.0], "counts": "6"},
    ],
)
def test_masks(mask):
    assert mask_problem(mask) is None
    assert decode_mask(plain_mask(mask) or [], (2, 3)).shape == (2, 3)


def test_empty_ones():
    assert plain_mask(None) is None and plain_mask([]) is None and plain_mask({}) is None


REFUSED = [
    ("yes", "a segmentation that is neither polygons nor run lengths", "export it as one of the two"),
    (True, "a segmentation that is neither polygons nor run lengths", "export it as one of the two"),
    ([TRIANGLE, None], "a segmentation that is neither polygons nor run lengths", "export it as one of the two"),
    ([[1, 2, 3, 4]], "a polygon of less than three points", LIST),
    ([[], [1, 2, 3, 4]], "a polygon of less than three points", LIST),
    ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of an odd count of numbers", LIST),
    ([[1, 2, 3, 4, 5, float("nan")]], "a polygon with a point that is no number", LIST),
    ([TRIANGLE, [1, 2, 3, 4, 5, None]], "a polygon with a point that is no number", LIST),
    ([["1", "2", "3", "4", "5", "6"]], "a polygon with a point that is no number", LIST),
    ([[1, 2, 3, 4, 5, 1e9]], "a polygon with a point more than 100,000 pixels away", "correct it"),
    ([[1, 2, 3, 4, 5, float("-inf")]], "a polygon with a point more than 100,000 pixels away", "correct it"),
    ([[1.5, 2, 3, 4, 5, 10**400]], "a polygon with a point more than 100,000 pixels away", "correct it"),
    ([[-(10**400), 2, 3, 4, 5, 10**400]], "a polygon with a point more than 100,000 pixels away", "correct it"),
    (TRIANGLE, "a polygon that is not in a list", f"a segmentation is a list of polygons, {LIST}"),
    ([[1, 2], [3, 4], [5, 6]], "a polygon of pairs [x, y]", f"leave out the inner brackets, {LIST}"),
    ([[[1, 2], [3, 4], [5, 6]]], "a polygon of pairs [x, y]", f"leave out the inner brackets, {LIST}"),
    ([{"size": [2, 3], "counts": [6]}], "run lengths in a list", ONE),
    ({"size": [2, 3]}, "a segmentation that is neither polygons nor run lengths", "export it as one of the two"),
    ({"counts": [6]}, "a segmentation that is neither polygons nor run lengths", "export it as one of the two"),
    ({"size": ["2", "3"], "counts": [6]}, "run lengths whose size is not [height, width]", ONE),
    ({"size": [2.5, 3], "counts": [6]}, "run lengths whose size is not [height, width]", ONE),
    ({"size": [2, 3, 1], "counts": [6]}, "run lengths whose size is not [height, width]", ONE),
    ({"size": [0, 3], "counts": []}, "run lengths whose size is not [height, width]", ONE),
    ({"size": 6, "counts": [6]}, "run lengths whose size is not [height, width]", ONE),
    ({"size": [2, 3], "counts": [1, 2]}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": []}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": [8, -2]}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": [10**400]}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": [3.0, 3.0]}, "run lengths whose counts are neither whole numbers nor text", AGAIN),
    ({"size": [2, 3], "counts": None}, "run lengths whose counts are neither whole numbers nor text", AGAIN),
    ({"size": [2, 3], "counts": "5"}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": "8N"}, "run lengths that do not add up to the size of the image", AGAIN),
    ({"size": [2, 3], "counts": ""}, "run lengths whose counts are no compressed text of COCO's", AGAIN),
    ({"size": [2, 3], "counts": "0a"}, "run lengths whose counts are no compressed text of COCO's", AGAIN),
    ({"size": [2, 3], "counts": "é"}, "run lengths whose counts are no compressed text of COCO's", AGAIN),
]  # fmt: skip


@pytest.mark.parametrize("mask,what,way_out", REFUSED)
def test_refused(mask: Any, what: str, way_out: str):
    assert mask_problem(mask) == (what, way_out)


def test_fast_enough_for_all_masks_of_a_data_set():
    """200 characters take some 25 µs: 10,000 of them a quarter of a second, and here twenty times that."""
    mask = {"size": [1000, 1000], "counts": ""}
    lengths = np.random.default_rng(0).integers(20, 9000, 80).tolist()
    lengths.append(1_000_000 - sum(lengths))
    uncompressed = decode_mask({"size": [1000, 1000], "counts": lengths}, (1000, 1000))
    mask["counts"] = run_lengths(uncompressed > 0, (1000, 1000))["counts"]
    assert 180 < len(mask["counts"]) < 260
    started = time.monotonic()
    for _ in range(1000):
        assert mask_problem(mask) is None
    assert time.monotonic() - started < 0.5
