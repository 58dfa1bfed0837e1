"""Batch augmentations against NumPy arithmetic on the drawn values, and against their stated distributions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.tasks.classification import mixing

SEEDS = st.integers(0, 2**31 - 1)
RECIPE = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 1.0, "switch_probability": 0.5}


@functools.cache
def drawer(height: int, width: int, **options: float):
    """``draw_mix`` for many keys at once: (own [n, h, w], label_weight [n])."""
    draw = functools.partial(mixing.draw_mix, height=height, width=width, **{**RECIPE, **options})
    return jax.jit(lambda keys: jax.vmap(draw)(keys))


def draws(count: int, height: int, width: int, **options: float) -> tuple[np.ndarray, np.ndarray]:
    own, weight = drawer(height, width, **options)(jax.random.split(jax.random.key(0), count))
    return np.asarray(own), np.asarray(weight)


def kinds(own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(untouched, mixup, CutMix) of each draw, told from the values alone."""
    low, high = own.min((1, 2)), own.max((1, 2))
    untouched = low == 1
    mixup = ~untouched & (low == high) & (low > 0)
    return untouched, mixup, ~untouched & ~mixup


def box_of(outside: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the zeros in a mask; checks that they fill that box."""
    rows, columns = np.nonzero((outside == 0).any(1))[0], np.nonzero((outside == 0).any(0))[0]
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert (outside[box[0] : box[1], box[2] : box[3]] == 0).all()
    return box


# Mixup and CutMix.


@settings(max_examples=30)
@given(seed=SEEDS)
def test_a_drawn_mix_is_one_number_or_one_box_with_its_exact_share(seed):
    own, weight = (np.asarray(x)[0] for x in drawer(12, 20)(jax.random.key(seed)[None]))
    assert own.shape == (12, 20) and own.dtype == weight.dtype == np.float32
    if np.isin(own, (0.0, 1.0)).all():
        # λ is corrected: exactly the share of pixels that stay, also where the border clips the box.
        np.testing.assert_allclose(weight, np.count_nonzero(own) / own.size, rtol=1e-6)
        if (own == 0).any():
            box_of(own)
    else:
        assert 0 < weight < 1
        np.testing.assert_array_equal(own, np.full_like(own, weight))


@settings(max_examples=20)
@given(seed=SEEDS, smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_images_and_targets_agree_with_numpy(seed, smoothing):
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((4, 12, 20, 3)).astype(np.float32), rng.integers(0, 7, 4).astype(np.int32)
    mix = jax.tree.map(lambda x: x[0], mixing.Mix(*drawer(12, 20)(jax.random.key(seed)[None])))
    own, weight = np.asarray(mix.own, np.float64), float(mix.label_weight)

    mixed = mixing.mix_images(jnp.asarray(images), mix)
    targets = mixing.soft_targets(jnp.asarray(labels), 7, smoothing, mix.label_weight)
    for i in range(4):
        partner = 3 - i
        for channel in range(3):
            expected = own * images[i, :, :, channel] + (1 - own) * images[partner, :, :, channel]
            np.testing.assert_allclose(mixed[i, :, :, channel], expected, atol=1e-6)
        row = np.full(7, smoothing / 7)
        row[labels[i]] += weight * (1 - smoothing)
        row[labels[partner]] += (1 - weight) * (1 - smoothing)
        np.testing.assert_allclose(targets[i], row, atol=1e-6)
    np.testing.assert_allclose(np.sum(targets, -1), 1.0, atol=1e-6)
    assert targets.dtype == jnp.float32


def test_cutmix_copies_pixels_and_keeps_the_others():
    images = jax.random.normal(jax.random.key(0), (3, 6, 8, 3))
    own = jnp.ones((6, 8)).at[1:4, 2:7].set(0.0)
    mixed = np.asarray(mixing.mix_images(images, mixing.Mix(own, own.mean())))
    expected = np.array(images)
    expected[:, 1:4, 2:7] = np.asarray(images)[::-1, 1:4, 2:7]
    np.testing.assert_array_equal(mixed, expected)


def test_images_keep_their_type():
    images = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    mix = mixing.Mix(jnp.full((4, 4), 0.3), jnp.float32(0.3))
    assert mixing.mix_images(images, mix).dtype == jnp.bfloat16
    erased_images = jax.eval_shape(lambda x: mixing.random_erase(jax.random.key(0), x, 1.0), images)
    assert erased_images.dtype == jnp.bfloat16


def test_smoothing_gives_every_class_its_share():
    targets = mixing.soft_targets(jnp.asarray([2, 0]), 10, 0.1, jnp.float32(1.0))
    expected = np.full((2, 10), 0.01)
    expected[0, 2] = expected[1, 0] = 0.91
    np.testing.assert_allclose(targets, expected, atol=1e-7)


def test_mixup_and_cutmix_take_turns():
    count, probability, switch = 8000, 0.7, 0.25
    own, _ = draws(count, 10, 10, probability=probability, switch_probability=switch)
    untouched, mixup, cutmix = kinds(own)
    # A CutMix box of no pixel is untouched too: side √(1 - λ) below 2 of 10 pixels, so λ > 0.96.
    empty = probability * switch * 0.04
    for found, expected in (
        (mixup, probability * (1 - switch)),
        (cutmix, probability * switch - empty),
        (untouched, 1 - probability + empty),
    ):
        assert abs(found.mean() - expected) < 5 * math.sqrt(0.25 / count)


def test_probability_zero_leaves_the_batch():
    own, weight = draws(50, 6, 6, probability=0.0)
    np.testing.assert_array_equal(own, 1.0)
    np.testing.assert_array_equal(weight, 1.0)


def test_one_alpha_alone_is_always_that_one():
    # With the other's alpha at 0, switch_probability has no say.
    own, weight = draws(200, 8, 8, cutmix_alpha=0.0, switch_probability=1.0)
    assert kinds(own)[1].all()
    np.testing.assert_array_equal(own[:, 0, 0], weight)
    own, weight = draws(200, 8, 8, mixup_alpha=0.0, switch_probability=0.0)
    assert np.isin(own, (0.0, 1.0)).all() and kinds(own)[2].mean() > 0.8
    np.testing.assert_allclose(weight, own.mean((1, 2)), rtol=1e-6)


def test_both_alphas_zero_mix_nothing():
    mix = mixing.draw_mix(jax.random.key(0), 4, 6, **{**RECIPE, "mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    np.testing.assert_array_equal(mix.own, np.ones((4, 6)))
    assert float(mix.label_weight) == 1.0


def test_mixup_weights_follow_the_beta_distribution():
    count = 20_000
    _, weight = draws(count, 2, 2, cutmix_alpha=0.0)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)), fourth central moment 3 / (16 (2a + 1)(2a + 3)).
    variance = 1 / (4 * (2 * 0.8 + 1))
    fourth = 3 / (16 * 2.6 * 4.6)
    assert abs(weight.mean() - 0.5) < 5 * math.sqrt(variance / count)
    assert abs(weight.var() - variance) < 5 * math.sqrt((fourth - variance**2) / count)


def test_cutmix_weights_before_clipping_are_uniform_for_alpha_one():
    """The area of boxes that the border does not clip says what λ was drawn."""
    count, height, width = 3000, 64, 96
    own, weight = draws(count, height, width, mixup_alpha=0.0)
    # The share of own pixels can only grow by clipping: E λ = 1/2, and the clipped mean is above it.
    assert weight.mean() > 0.5 + 0.05
    sides = [box_of(mask) if (mask == 0).any() else (0, 0, 0, 0) for mask in own]
    heights = np.array([bottom - top for top, bottom, _, _ in sides])
    inside = np.array([t > 0 and b < height and left > 0 and r < width for t, b, left, r in sides])
    assert inside.sum() > 300
    # Boxes have the image's aspect, to within the evenness of both sides.
    widths = np.array([right - left for _, _, left, right in sides])
    assert np.abs(heights[inside] * width / height - widths[inside]).max() <= 2 + 2 * width / height


@settings(max_examples=60)
@given(seed=SEEDS, weight=st.floats(0.0, 1.0, width=32))
def test_a_cutmix_box_lies_around_a_pixel_and_inside_the_image(seed, weight):
    height, width = 21, 34
    outside = np.asarray(cutmix(jax.random.key(seed), jnp.float32(weight)))
    assert set(np.unique(outside)) <= {0.0, 1.0}
    side = math.sqrt(1.0 - weight)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    if min(half_height, half_width) == 0:
        assert (outside == 1).all()
        return
    top, bottom, left, right = box_of(outside)
    # Unclipped sides are exactly twice the half; a clipped one keeps at least the half that its centre guarantees.
    for low, high, half, size in ((top, bottom, half_height, height), (left, right, half_width, width)):
        if low > 0 and high < size:
            assert high - low == 2 * half
        else:
            assert half <= high - low <= 2 * half or high - low == size


cutmix = jax.jit(lambda key, weight: mixing.cutmix_mask(key, weight, 21, 34))


def test_cutmix_centres_are_uniform_over_pixels():
    count, height, width = 20_000, 5, 8
    # A box of 2 rows and 4 columns ends one row and two columns beyond its centre: the centre can be read off.
    weight = jnp.float32(1 - (2.5 / 5) ** 2)
    masks = jax.jit(jax.vmap(lambda key: mixing.cutmix_mask(key, weight, height, width)))
    covered = 1 - np.asarray(masks(jax.random.split(jax.random.key(1), count))).mean(0)
    expected = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            expected[max(row - 1, 0) : row + 1, max(column - 2, 0) : column + 2] += 1 / (height * width)
    np.testing.assert_allclose(covered, expected, atol=5 * math.sqrt(0.25 / count))


def test_a_mix_depends_on_its_key_alone():
    first, again, other = (drawer(12, 20)(jax.random.key(seed)[None]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


# Random erasing.


def erased(count: int, height: int, width: int, **options) -> np.ndarray:
    boxes = jax.jit(jax.vmap(lambda key: mixing.erase_box(key, height, width, **options)))
    return np.asarray(boxes(jax.random.split(jax.random.key(2), count)))


def test_erased_boxes_have_the_stated_area_and_aspect():
    count, side = 4000, 100
    masks = erased(count, side, side)
    sides = []
    for mask in masks:
        top, bottom, left, right = box_of(~mask)
        assert bottom - top < side and right - left < side
        sides.append((bottom - top, right - left))
    heights, widths = np.array(sides).T
    # Rounding moves each side by at most half a pixel.
    assert ((heights + 0.5) * (widths + 0.5) >= 0.02 * side**2).all()
    assert ((heights - 0.5) * (widths - 0.5) <= side**2 / 3).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all()
    assert ((heights - 0.5) / (widths + 0.5) <= 1 / 0.3).all()
    # Both ends of both ranges are reached.
    areas, aspects = heights * widths / side**2, heights / widths
    assert areas.min() < 0.025 and areas.max() > 0.32
    assert aspects.min() < 0.32 and aspects.max() > 3.1
    # The area is uniform and the aspect log-uniform, so each mean is the middle. Only the rarest boxes do not fit.
    middle, deviation = (0.02 + 1 / 3) / 2, (1 / 3 - 0.02) / math.sqrt(12)
    assert abs(areas.mean() - middle) < 5 * deviation / math.sqrt(count) + 0.003
    spread = math.log(1 / 0.3) * 2 / math.sqrt(12)
    assert abs(np.log(aspects).mean()) < 5 * spread / math.sqrt(count) + 0.01
    assert abs(np.log(aspects).std() - spread) < 0.05


def test_erased_boxes_may_touch_every_border():
    masks = erased(3000, 20, 30)
    assert masks[:, 0].any() and masks[:, -1].any() and masks[:, :, 0].any() and masks[:, :, -1].any()
    # Places are uniform: a mask and its mirror images are as likely as one another.
    mean = masks.mean(0)
    np.testing.assert_allclose(mean, mean[::-1], atol=10 * math.sqrt(0.25 / 3000))
    np.testing.assert_allclose(mean, mean[:, ::-1], atol=10 * math.sqrt(0.25 / 3000))


def test_a_box_that_fits_nowhere_erases_nothing():
    # Of an image of one row, every box is as high as the image.
    assert not erased(50, 1, 40).any()
    # Where boxes are nearly as large as the image few fit; ten attempts find one more often, as independent draws do.
    wide = {"area": (0.9, 0.9), "aspect": (0.5, 2.0)}
    once, often = (erased(2000, 60, 60, attempts=n, **wide).any((1, 2)).mean() for n in (1, 10))
    # A square of 0.9 fits while its longer side √(0.9 · aspect) stays below 1, up to rounding.
    fits = math.log(1 / 0.9) / math.log(2)
    assert abs(once - fits) < 0.05
    assert abs(often - (1 - (1 - once) ** 10)) < 0.06


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erasing_replaces_one_box_by_noise_and_nothing_else(probability):
    batch = 600
    # Far from anything that noise would hit by chance.
    images = np.random.default_rng(0).uniform(90, 100, (batch, 16, 16, 3)).astype(np.float32)
    erase = jax.jit(lambda key, x: mixing.random_erase(key, x, probability))
    found = np.asarray(erase(jax.random.key(7), images))
    changed = found != images
    # All channels of a pixel change, or none.
    assert (changed.all(-1) == changed.any(-1)).all()
    masks = changed.any(-1)
    for mask in masks[masks.any((1, 2))]:
        box_of(~mask)
    share = masks.any((1, 2)).mean()
    assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / batch) + 1e-9
    if probability:
        noise = found[masks]
        assert noise.shape[0] > 500
        assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
        assert abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.size)
        # Each pixel and channel has its own noise.
        assert len(np.unique(noise)) > 0.99 * noise.size
        assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 5 / math.sqrt(len(noise))


def test_erasing_depends_on_its_key_alone():
    images = jnp.zeros((8, 16, 16, 3))
    erase = jax.jit(lambda key: mixing.random_erase(key, images, 1.0))
    first, again, other = (erase(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # Every image draws its own box.
    assert len({np.asarray(image != 0).tobytes() for image in first}) > 4
