"""Sliding windows against a loop over the windows of one image at a time, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.tasks.segmentation.pixel_logits import PixelLogits, mirror, predicted_labels
from pvt_jax.tasks.segmentation.sliding import sliding_logits
from tests.helpers import resampling

KERNEL = np.random.default_rng(1).standard_normal((48, 3)).astype(np.float32)


def network(windows, sizes):
    """Logits of stride 4, to which every pixel of the window adds, and padding nothing."""
    batch, height, width, _ = windows.shape
    patches = windows.reshape(batch, height // 4, 4, width // 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    maps = patches.reshape(batch, height // 4, width // 4, 48) @ KERNEL
    area = height * width if sizes is None else (sizes[:, 0] * sizes[:, 1])[:, None, None, None]
    return maps + 50 * jnp.sin(windows.sum((1, 2), keepdims=True)) * jnp.cos(area)


def numpy_network(window):
    height, width, _ = window.shape
    maps = np.zeros((height // 4, width // 4, 3))
    for y, x in np.ndindex(maps.shape[:2]):
        maps[y, x] = window[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].ravel() @ KERNEL.astype(np.float64)
    return maps + 50 * np.sin(window.sum((0, 1))) * np.cos(height * width)


def numpy_slide(image, crop, stride):
    """Mean of the enlarged logits of all windows, [h, w, 3]."""
    height, width, _ = image.shape
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    top = 0
    while True:
        bottom = min(top + crop[0], height)
        left = 0
        while True:
            right = min(left + crop[1], width)
            place = slice(max(bottom - crop[0], 0), bottom), slice(max(right - crop[1], 0), right)
            window = image[place]
            total[place] += resampling.bilinear(numpy_network(window), window.shape[:2])
            count[place] += 1
            left += stride[1]
            if right == width:
                break
        top += stride[0]
        if bottom == height:
            break
    return total / count


def pictures(sizes, shape):
    """Whole numbers, whose sums are exact: the sine of a sum that is rounded would be another one."""
    rng = np.random.default_rng(0)
    images = np.zeros((len(sizes), *shape, 3), np.float32)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:height, :width] = rng.integers(-3, 4, (height, width, 3))
    return images


@functools.partial(jax.jit, static_argnums=(2, 3))
def slide(images, sizes, crop, stride) -> PixelLogits:
    return sliding_logits(network, images, sizes, crop, stride)


labelled = jax.jit(predicted_labels, static_argnums=2)


def multiplied_out(logits):
    return np.einsum(
        "byi,bijk,bxj->byxk", *(np.asarray(x, np.float64) for x in (logits.rows, logits.maps, logits.columns))
    )


CASES = [
    # Windows that leave a remainder, in one direction or both; the last is moved back.
    ((96, 128), (64, 64), (32, 64), [(96, 128), (96, 96), (64, 128), (64, 64)]),
    ((128, 96), (96, 64), (64, 32), [(128, 96), (96, 96), (128, 64)]),
    # Smaller than a window in one direction or both, also the padded images.
    ((96, 64), (64, 96), (32, 64), [(96, 64), (32, 32), (64, 32), (32, 64)]),
    ((64, 64), (96, 96), (96, 32), [(64, 64), (32, 64)]),
    # Three windows and more over a pixel.
    ((32, 160), (32, 96), (32, 32), [(32, 160), (32, 128), (32, 64)]),
]


@pytest.mark.parametrize(("shape", "crop", "stride", "sizes"), CASES)
def test_every_image_gets_the_mean_of_its_own_windows(shape, crop, stride, sizes):
    images = pictures(sizes, shape)
    logits = slide(images, np.array(sizes, np.int32), crop, stride)
    pixels = multiplied_out(logits)
    label_sizes = np.array(sizes, np.int32) * 2 // 3
    labels = labelled([logits], label_sizes, shape)
    for found, label, image, (height, width), size in zip(pixels, labels, images, sizes, label_sizes, strict=True):
        expected = numpy_slide(image[:height, :width].astype(np.float64), crop, stride)
        np.testing.assert_allclose(found[:height, :width], expected, rtol=0, atol=2e-4)
        assert not found[height:].any() and not found[:, width:].any()
        # ``taps`` holds all columns that have weight.
        scores = resampling.bilinear(expected, tuple(size))
        best = np.sort(scores, axis=-1)
        clear = best[..., -1] - best[..., -2] > 1e-3
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(np.asarray(label)[: size[0], : size[1]][clear], scores.argmax(-1)[clear])


def test_without_padding_sizes_need_not_be_given():
    images = pictures([(96, 128)], (96, 128))
    found = multiplied_out(slide(images, None, (64, 64), (32, 64)))
    np.testing.assert_allclose(found[0], numpy_slide(images[0].astype(np.float64), (64, 64), (32, 64)), atol=2e-4)


def test_mirrored_images_slide_too():
    """Windows of the mirrored image stand elsewhere: only mirroring the pixels back is right."""
    sizes = np.array([(64, 160), (32, 128)], np.int32)
    images = pictures(sizes, (64, 160))
    seen = mirror(jnp.asarray(images), jnp.asarray(sizes))
    found = multiplied_out(slide(seen, sizes, (32, 96), (32, 64)).mirrored())
    for one, image, (height, width) in zip(found, images, sizes, strict=True):
        expected = numpy_slide(image[:height, :width][:, ::-1].astype(np.float64), (32, 96), (32, 64))[:, ::-1]
        np.testing.assert_allclose(one[:height, :width], expected, rtol=0, atol=2e-4)
        assert not one[:, width:].any()


@pytest.mark.parametrize(
    ("crop", "stride", "line"),
    [
        ((64, 64), (32, 40), "a sliding window of width 64 cannot move by 40"),
        ((65, 64), (32, 32), "a sliding window of height 65 cannot move by 32"),
        ((64, 64), (96, 64), "a sliding window of height 64 cannot move by 96"),
        ((64, 64), (64, 0), "a sliding window of width 64 cannot move by 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(crop, stride, line):
    with pytest.raises(UserError) as error:
        sliding_logits(network, jnp.zeros((1, 64, 64, 3)), None, crop, stride)
    assert str(error.value) == f"{line}: choose multiples of 32, the stride at most the window"


def test_one_window_runs_at_a_time():
    """Six windows, of which the network is compiled for one."""
    seen = []

    def noting(windows, sizes):
        seen.append((windows.shape, sizes.shape))
        return network(windows, sizes)

    shapes = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32), jax.ShapeDtypeStruct((2, 2), jnp.int32)
    logits = jax.eval_shape(lambda x, y: sliding_logits(noting, x, y, (64, 96), (32, 32)).maps, *shapes)
    assert seen == [((2, 64, 96, 3), (2, 2))]
    assert logits.shape == (2, 3 * 16, 2 * 24, 3)
