"""Where lines, masks and texts of detections stand, and in which colours."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.pictures import Instances, colour_of_class, draw_detections, side_by_side

NAMES = ("cat", "dog", "kite", "a kind of vehicle", "tree", "house")


def image(height=120, width=160):
    """No colour of a class among its own."""
    return np.random.default_rng(0).integers(60, 80, (height, width, 3)).astype(np.uint8)


def drawn(boxes, labels, scores=None, masks=None, picture=None, names=NAMES, **settings):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = None if scores is None else np.array(scores, np.float32)
    picture = image() if picture is None else picture
    settings = {"side": max(picture.shape)} | settings
    return draw_detections(picture, boxes, np.array(labels, np.int32), names, scores, masks, **settings)


def is_class(picture, number):
    return (picture == colour_of_class(number)).all(-1)


def test_classes_have_colours_that_differ_and_are_bright():
    colours = np.array([colour_of_class(k) for k in range(80)])
    assert ((colours >= 0) & (colours <= 255)).all()
    assert (colours @ [0.299, 0.587, 0.114] > 90).all()
    distances = np.abs(colours[:, None] - colours).max(-1) + 999 * np.eye(80, dtype=int)
    assert distances.min() > 5
    assert distances[:10, :10].min() > 40
    # Of neighbours, more.
    assert np.diagonal(distances, 1).min() > 80


def test_a_box_has_its_first_and_last_pixels_as_lines():
    picture = image()
    before = picture.copy()
    found = drawn([[40, 50, 100, 90]], [2], picture=picture)
    np.testing.assert_array_equal(picture, before)
    assert found.dtype == np.uint8 and found.shape == picture.shape
    expected = np.zeros((120, 160), bool)
    expected[50:90, 40:100] = True
    expected[52:88, 42:98] = False
    coloured = is_class(found, 2)
    np.testing.assert_array_equal(coloured[50:], expected[50:])
    # Within is the image, and the text stands above the box.
    np.testing.assert_array_equal(found[52:88, 42:98], picture[52:88, 42:98])
    rows, columns = np.nonzero(coloured[:50])
    assert rows.min() > 30 and columns.min() == 40 and columns.max() < 80 and rows.size > 100
    assert (found[91:] == picture[91:]).all() and (found[:30] == picture[:30]).all()


def test_small_images_are_enlarged_first():
    found = drawn([[2, 3, 20, 16]], [1], picture=image(20, 30), side=640)
    factor = 21
    assert found.shape == (20 * factor, 30 * factor, 3)
    coloured = is_class(found, 1)
    assert coloured[15 * factor :, 10 * factor].nonzero()[0].tolist() == [factor - 2, factor - 1]
    assert coloured[8 * factor].nonzero()[0].tolist() == [
        2 * factor,
        2 * factor + 1,
        20 * factor - 2,
        20 * factor - 1,
    ]
    inside = found[4 * factor : 15 * factor, 3 * factor : 19 * factor]
    np.testing.assert_array_equal(inside, np.kron(image(20, 30)[4:15, 3:19], np.ones((factor, factor, 1), np.uint8)))


def test_large_images_are_reduced():
    mask = np.zeros((300, 600), bool)
    mask[100:200, 300:500] = True
    found = drawn([[300, 100, 500, 200]], [0], masks=[mask], picture=np.full((300, 600, 3), 70, np.uint8), side=200)
    assert found.shape == (100, 200, 3)
    coloured = is_class(found, 0)
    assert coloured[66:, 120].nonzero()[0].tolist() == [0] and coloured[50].nonzero()[0].tolist() == [
        100,
        101,
        165,
        166,
    ]
    assert (found[50, 110] == np.round(0.55 * 70 + 0.45 * np.array(colour_of_class(0)))).all()


def test_masks_are_thin_inside_and_full_along_their_outline():
    picture, mask = image(), np.zeros((120, 160), bool)
    mask[60:80, 50:80] = True
    mask[70:80, 70:80] = False
    found = drawn([[40, 50, 100, 90]], [4], masks=[mask], picture=picture)
    # What is more than two steps from the outside, along rows and columns.
    steps = np.abs(np.argwhere(mask)[:, None] - np.argwhere(~mask)).sum(-1).min(-1)
    inside = np.zeros_like(mask)
    inside[tuple(np.argwhere(mask)[steps > 2].T)] = True
    assert 100 < inside.sum() < mask.sum() - 100
    for row, column in np.argwhere(inside):
        mixed = np.round(0.55 * picture[row, column] + 0.45 * np.array(colour_of_class(4)))
        np.testing.assert_array_equal(found[row, column], mixed)
    part = slice(53, 87), slice(43, 97)
    np.testing.assert_array_equal(is_class(found, 4)[part], (mask & ~inside)[part])
    np.testing.assert_array_equal(found[part][~mask[part]], picture[part][~mask[part]])
    plain = drawn([[40, 50, 100, 90]], [4], masks=np.zeros((1, 120, 160), bool), picture=picture)
    np.testing.assert_array_equal(plain, drawn([[40, 50, 100, 90]], [4], picture=picture))


@pytest.mark.parametrize(("scores", "above"), [((0.9, 0.4), 0), ((0.4, 0.9), 1), ((0.5, 0.5), 0), (None, 1)])
def test_higher_scores_lie_above_and_without_scores_small_boxes(scores, above):
    crossing = [[20, 40, 140, 80], [60, 30, 100, 100]]
    found = drawn(crossing, [0, 1], scores)
    assert is_class(found, above)[78:80, 60:62].all()
    # Masks as well.
    masks = np.ones((2, 120, 160), bool)
    found = drawn(crossing, [0, 1], scores, masks)
    first, second = (np.array(colour_of_class(k)) for k in (1 - above, above))
    mixed = np.round(0.55 * image()[60, 80] + 0.45 * first)
    np.testing.assert_array_equal(found[60, 80], np.round(0.55 * mixed + 0.45 * second))


def test_low_scores_are_left_out():
    sure, unsure = [20, 40, 60, 80], [70, 30, 100, 100]
    masks = np.ones((2, 120, 160), bool)
    found = drawn([unsure, sure], [1, 2], [0.29, 0.8], masks)
    np.testing.assert_array_equal(found, drawn([sure], [2], [0.8], masks[:1]))
    found = drawn([unsure, sure], [1, 2], [0.29, 0.8], masks, score_threshold=0.2)
    assert is_class(found, 1).sum() > 200
    np.testing.assert_array_equal(drawn([unsure], [1], [0.1]), image())
    np.testing.assert_array_equal(drawn([], []), image())
    # A model whose numbers are none has found nothing.
    for boxes, scores in (([[np.nan] * 4], [0.9]), ([[0, 0, np.inf, 5]], None), ([unsure], [np.nan])):
        np.testing.assert_array_equal(drawn(boxes, [1], scores), image())


def test_scores_are_written():
    box = [20, 40, 60, 80]
    assert is_class(drawn([box], [1], [0.8]), 1).sum() > is_class(drawn([box], [1]), 1).sum() + 100
    assert (drawn([box], [1], [0.81]) != drawn([box], [1], [0.82])).any()


def text_area(picture, number, box):
    """How many pixels have the colour beside the lines of the box."""
    coloured = is_class(picture, number)
    left, top, right, bottom = np.clip(box, 0, (160, 120, 160, 120))
    frame = np.zeros_like(coloured)
    frame[top:bottom, left:right] = True
    frame[top + 2 : bottom - 2, left + 2 : right - 2] = False
    return (coloured & ~frame).sum()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 160, 120), (0, 0, 9, 9), (150, 0, 160, 9), (0, 110, 9, 120), (150, 110, 160, 120), (-50, -50, 300, 300)],
)
def test_texts_stay_inside_the_picture(box):
    middle = (75, 55, 85, 65)
    expected = text_area(drawn([middle], [1], [0.87]), 1, middle)
    # Of the text and its ground nothing is lost but what the lines of the box share.
    assert expected * 0.75 < text_area(drawn([box], [1], [0.87]), 1, box) <= expected + 36


def test_long_texts_are_cut_to_the_width():
    found = drawn([[5, 30, 30, 60]], [0], names=["x" * 300], picture=image(80, 60))
    rows, columns = np.nonzero(is_class(found, 0)[:29])
    assert rows.size > 100 and columns.max() - columns.min() <= 60


def test_texts_of_one_place_do_not_cover_each_other():
    box = [60, 40, 100, 80]
    alone = [text_area(drawn([box], [k], [0.9]), k, box) for k in (0, 1, 2)]
    found = drawn([box] * 3, [0, 1, 2], [0.9, 0.8, 0.7])
    assert all(text_area(found, k, box) > 0.75 * area for k, area in enumerate(alone))
    # Of very many the surest is read, and some are left out.
    many = drawn([box] * 60, [1, 2, *[0] * 58], [0.99, 0.98, *np.linspace(0.4, 0.6, 58)])
    assert text_area(many, 1, box) > 0.5 * alone[1] and text_area(many, 2, box) > 0.5 * alone[2]
    assert (many[:15] == image()[:15]).all()


def test_boxes_outside_are_drawn_at_the_edge():
    found = drawn([[-30, -30, -20, -20], [500, 500, 600, 600], [50, 50, 50, 50]], [0, 1, 2])
    assert found.shape == (120, 160, 3)
    assert is_class(found, 0).any() and is_class(found, 1).any() and is_class(found, 2).any()


# Truth and prediction.


def example():
    mask = np.zeros((40, 60), bool)
    mask[12:30, 12:50] = True
    truth = Instances(np.array([[10, 10, 50, 30]], np.float32), np.array([3]), None, mask[None])
    boxes = np.array([[12, 10, 50, 33], [1, 1, 30, 30]], np.float32)
    return truth, Instances(boxes, np.array([5, 0]), np.array([0.6, 0.1], np.float32), [mask, mask])


def places(picture, part):
    """(top, left) wherever ``part`` stands in ``picture``."""
    windows = sliding_window_view(picture, part.shape)[:, :, 0]
    return [
        (int(row), int(column))
        for row, column in np.argwhere((windows[..., 0, 0, :] == part[0, 0]).all(-1))
        if (windows[row, column] == part).all()
    ]


def test_truth_and_prediction_stand_side_by_side():
    truth, prediction = example()
    found = side_by_side(image(40, 60), truth, prediction, NAMES, side=130)
    parts = [
        draw_detections(image(40, 60), part.boxes, part.labels, NAMES, part.scores, part.masks, side=130)
        for part in (truth, prediction)
    ]
    assert parts[0].shape == (80, 120, 3)
    ((top, left),), ((second_top, second),) = (places(found, part) for part in parts)
    assert top == second_top and second - left >= 124
    # Titles above; below, colours of the classes that are seen, the unsure one's aside.
    assert all(found[:top, start : start + 40].min() < 100 for start in (left, second))
    legend = found[top + 80 :]
    assert is_class(legend, 3).sum() > 100 and is_class(legend, 5).sum() > 100
    assert not is_class(found, 0).any()
    # The whole can be drawn lower.
    assert is_class(side_by_side(image(40, 60), truth, prediction, NAMES, 130, 0.05), 0).any()


def test_without_truth_there_is_one_panel():
    truth, prediction = example()
    found = side_by_side(image(40, 60), None, prediction, NAMES, side=130)
    assert found.shape[1] < 150
    assert not is_class(found, 3).any() and is_class(found, 5).any()


def test_the_title_says_that_nothing_is_sure():
    truth, prediction = example()
    none = Instances(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, np.float32))
    pictures = [
        side_by_side(image(40, 60), truth, part, NAMES, 240, threshold)
        for part, threshold in ((prediction, 0.9), (none, 0.9))
    ]
    # Beside the same panels.
    assert pictures[0].shape == pictures[1].shape
    np.testing.assert_array_equal(pictures[0][30:], pictures[1][30:])
    assert (pictures[0][:30] < 128).sum() > (pictures[1][:30] < 128).sum() + 50


BOX, LABEL = np.array([[1, 2, 30, 40]], np.float32), np.array([0])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: draw_detections(image() / 255, BOX, LABEL, NAMES),
            "the image must be uint8 [height, width, 3], but is float64 [120, 160, 3]",
        ),
        (
            lambda: draw_detections(image(), BOX[0], LABEL, NAMES),
            "boxes must be [1, 4] for 1 labels, but are [4]",
        ),
        (
            lambda: draw_detections(image(), BOX, LABEL, NAMES, np.array([0.5, 0.5])),
            "there are 2 scores for 1 labels: give as many of each",
        ),
        (
            lambda: draw_detections(image(), BOX, LABEL, NAMES, None, []),
            "there are 0 masks for 1 labels: give as many of each",
        ),
        (
            lambda: draw_detections(image(), BOX, LABEL + 6, NAMES),
            "class 6 has no name: there are 6 class names",
        ),
        (
            lambda: draw_detections(image(), BOX, LABEL, NAMES, None, np.ones((1, 28, 28), bool)),
            "a mask of 28 × 28 pixels cannot be drawn over an image of 120 × 160: give equal sizes",
        ),
    ],
)
def test_wrong_arguments_are_named(call, line):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == line
