"""Colours pixel by pixel, and where the parts of a picture stand."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from pvt_jax.errors import UserError
from pvt_jax.tasks.segmentation.pictures import colour_labels, overlay, side_by_side

# No paper, ink, edge or black among them.
PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]], np.uint8)
NAMES = ("sky", "tree", "road", "a kind of vehicle")
LABELS = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
COLOURS = [[[200, 0, 0], [0, 200, 0], [0, 0, 200]], [[200, 200, 0], [0, 0, 0], [200, 0, 0]]]


def image(height=2, width=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_every_class_has_its_colour():
    found = colour_labels(LABELS, PALETTE)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, COLOURS)
    np.testing.assert_array_equal(colour_labels(LABELS.astype(np.int64), PALETTE), COLOURS)


def test_what_has_no_class_has_a_colour_of_its_own():
    found = colour_labels(np.array([[-1, 0, 4, 255]]), PALETTE, ignored=(9, 8, 7))
    np.testing.assert_array_equal(found, [[[9, 8, 7], [200, 0, 0], [9, 8, 7], [9, 8, 7]]])


def test_colours_lie_over_the_image():
    picture = image()
    before = picture.copy()
    found = overlay(picture, LABELS, PALETTE, opacity=0.25)
    expected = np.round(0.75 * before + 0.25 * np.array(COLOURS))
    # What is not counted stays as it is.
    expected[1, 1] = before[1, 1]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(overlay(picture, LABELS, PALETTE, 0), before)


def places(picture, part):
    """(top, left) wherever ``part`` stands in ``picture``."""
    windows = sliding_window_view(picture, part.shape)[:, :, 0]
    return np.argwhere((windows == part).all((2, 3, 4))).tolist()


def enlarged(picture, factor):
    return np.kron(picture, np.ones((factor, factor, 1), np.uint8))


def example():
    truth, prediction = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    truth[5:, 10:] = 2
    prediction[7:, 8:] = 3
    return image(20, 30), truth, prediction


@pytest.mark.parametrize(("side", "factor"), [(30, 1), (59, 1), (64, 2)])
def test_panels_stand_in_a_row_with_titles_above(side, factor):
    picture, truth, prediction = example()
    found = side_by_side(picture, truth, prediction, PALETTE, NAMES, side=side)
    assert found.dtype == np.uint8
    parts = [picture, colour_labels(truth, PALETTE), colour_labels(prediction, PALETTE)]
    ((top, first),), *others = [places(found, enlarged(part, factor)) for part in parts]
    ((second_top, second),), ((third_top, third),) = others
    assert top == second_top == third_top
    assert second - first == third - second >= 30 * factor + 4
    # Between them and around is paper, above each a title.
    panel = found[top : top + 20 * factor].astype(int)
    for left in (first, second, third):
        assert (panel[:, left - 4 : left] == 255).all()
        assert (panel[:, left + 30 * factor : left + 30 * factor + 4] == 255).all()
        assert found[:top, left : left + 25].min() < 100
    assert (found[:2] == 255).all() and (found[-2:] == 255).all()


def test_without_truth_there_are_two_panels():
    picture, truth, prediction = example()
    found = side_by_side(picture, None, prediction, PALETTE, NAMES, side=64)
    assert len(places(found, enlarged(picture, 2))) == 1
    assert len(places(found, enlarged(colour_labels(prediction, PALETTE), 2))) == 1
    assert found.shape[1] < side_by_side(picture, truth, prediction, PALETTE, NAMES, side=64).shape[1]
    # Its class is in the legend no more.
    assert not (found == PALETTE[2]).all(-1).any()


def swatches(found, below):
    """(row, column) of the first full square of each colour in the legend."""
    colours = [*PALETTE, np.zeros(3, np.uint8)]
    squares = [places(found[below:], np.full((10, 10, 3), colour, np.uint8)) for colour in colours]
    return [square[0] if square else None for square in squares]


def test_the_legend_has_the_classes_that_are_shown():
    picture, truth, prediction = example()
    truth[0, 0] = 255
    found = side_by_side(picture, truth, prediction, PALETTE, NAMES, side=30)
    top = places(found, picture)[0][0]
    sky, tree, road, vehicle, ignored = swatches(found, top + 20)
    assert tree is None and sky and road and vehicle and ignored
    # Names stand to the right of the squares.
    for row, column in (sky, road, vehicle, ignored):
        name = found[top + 20 + row : top + 30 + row, column + 18 : column + 40]
        assert name.min() < 100
    truth[0, 0] = 0
    found = side_by_side(picture, truth, prediction, PALETTE, NAMES, side=30)
    assert swatches(found, top + 20)[4] is None


def test_long_legends_stay_within_the_picture():
    names = [f"a class with a name of number {k}" for k in range(40)]
    palette = np.stack([np.arange(100, 140), np.arange(40), np.arange(140, 100, -1)], -1).astype(np.uint8)
    prediction = np.arange(40, dtype=np.uint8).reshape(5, 8)
    found = side_by_side(image(5, 8), None, prediction, palette, names, side=8)
    # A square of each, beside its one pixel of the panel.
    assert all((found == colour).all(-1).sum() > 100 for colour in palette)
    # The edges are paper: nothing is cut.
    assert all((edge == 255).all() for edge in (found[:, :2], found[:, -2:], found[-2:]))


def test_large_images_are_reduced_in_their_proportions():
    picture = np.full((300, 600, 3), 77, np.uint8)
    found = side_by_side(picture, None, np.ones((300, 600), np.uint8), PALETTE, NAMES, side=100)
    for colour in (picture[0, 0], PALETTE[1]):
        assert len(places(found, np.full((50, 100, 3), colour, np.uint8))) == 1
    # Labels are not mixed on the way.
    checks = (np.indices((300, 600)).sum(0) % 2 * 3).astype(np.uint8)
    found = side_by_side(picture, None, checks, PALETTE, NAMES, side=100)
    panel = found[places(found, np.full((50, 100, 3), 77, np.uint8))[0][0] :][:50, -104:-10]
    assert {tuple(colour) for colour in panel.reshape(-1, 3).tolist()} <= {(200, 0, 0), (200, 200, 0), (255, 255, 255)}


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: colour_labels(LABELS / 2, PALETTE), "labels must be integers [height, width], but are float64 [2, 3]"),
        (lambda: colour_labels(LABELS[0], PALETTE), "labels must be integers [height, width], but are uint8 [3]"),
        (
            lambda: colour_labels(LABELS, PALETTE / 255),
            "the palette must be uint8 [classes, 3], but is float64 [4, 3]",
        ),
        (
            lambda: overlay(image() / 255, LABELS, PALETTE),
            "the image must be uint8 [height, width, 3], but is float64 [2, 3, 3]",
        ),
        (lambda: overlay(image(), LABELS, PALETTE, 1.5), "the opacity must be from 0 to 1, but is 1.5"),
        (
            lambda: overlay(image(4, 3), LABELS, PALETTE),
            "the labels of 2 × 3 pixels cannot be drawn beside an image of 4 × 3: give equal sizes",
        ),
        (
            lambda: side_by_side(image(), LABELS.T, LABELS, PALETTE, NAMES),
            "the truth of 3 × 2 pixels cannot be drawn beside an image of 2 × 3: give equal sizes",
        ),
        (
            lambda: side_by_side(image(), None, LABELS, PALETTE, NAMES[:3]),
            "there are 3 class names, but 4 colours: give one of each per class",
        ),
    ],
)
def test_wrong_arguments_are_named(call, line):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == line
