"""Shears and translations against Pillow's own transform, pixel for pixel."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.tasks.classification import shifts

FILL = (120, 7, 201)
SIDES = st.integers(1, 40) | st.sampled_from([111, 112, 113, 230])


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Noise between black and white, where the filter overshoots, with areas of one colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (height, width, 3))
    pixels[height // 2 :, : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def by_pillow(image, matrix):
    kind, resampling = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return np.asarray(image.transform(image.size, kind, matrix, resampling, fillcolor=FILL))


@settings(max_examples=80)
@given(SIDES, SIDES, st.integers(0, 2**32), st.floats(-1.5, 1.5), st.sampled_from(["x", "y"]), st.booleans())
@example(224, 224, 0, 0.3, "x", True)
@example(1, 230, 0, -1.0, "y", False)
@example(7, 5, 1, 0.0, "x", True)
@example(7, 5, 1, 0.5, "y", False)
def test_every_shear_and_translation_is_that_of_pillow(height, width, seed, amount, axis, is_shear):
    image = picture(height, width, seed)
    side = width if axis == "x" else height
    first = (amount, 0.0) if is_shear else (0.0, amount * side)
    matrix = (1, *first, 0, 1, 0) if axis == "x" else (1, 0, 0, first[0], 1, first[1])
    moved = shifts.moved(image, matrix, FILL)
    if moved is not None:
        assert moved.mode == "RGB" and moved.size == image.size
        np.testing.assert_array_equal(np.asarray(moved), by_pillow(image, matrix))
    else:  # Offsets next to whole numbers, which are drawn only on purpose.
        slope, offset = first
        across = height if axis == "x" else width
        offsets = slope * (np.arange(across) + 0.5) + offset
        assert 0 < np.abs(offsets - np.rint(offsets)).min() < 1e-6 or np.abs(offsets - np.rint(offsets)).max() < 1e-6


@pytest.mark.parametrize("pixels", [0, 1, -3, 17, 500, -500, 0.5])
def test_whole_and_half_pixels_are_exact(pixels):
    image = picture(9, 17, 3)
    for matrix in ((1, 0, pixels, 0, 1, 0), (1, 0, 0, 0, 1, pixels)):
        moved = shifts.moved(image, matrix, FILL)
        assert moved is not None
        np.testing.assert_array_equal(np.asarray(moved), by_pillow(image, matrix))


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0.1, 2.0, 0, 1, 0),  # A shear and a translation.
        (1, 0.1, 0, 0.1, 1, 0),
        (2, 0, 0, 0, 1, 0),
        (1, 0, 3 + 1e-9, 0, 1, 0),  # Rounding decides which pixel it is.
        (1, 0, 0, 0, 1, 3 - 1e-9),
    ],
)
def test_other_transforms_are_left_to_pillow(matrix):
    assert shifts.moved(picture(5, 6, 0), matrix, FILL) is None
