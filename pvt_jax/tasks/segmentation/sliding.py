"""Sliding window inference on images of many sizes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.ops.resize import padded_interpolation_matrix
from pvt_jax.tasks.segmentation.pixel_logits import PixelLogits

# The largest stride of a pyramid.
_MULTIPLE = 32


def sliding_logits(
    apply: Callable[[Array, Array | None], Array],
    images: Float[Array, "b h w c"],
    sizes: Int[Array, "b 2"] | None,
    crop: tuple[int, int],
    stride: tuple[int, int],
) -> PixelLogits:
    """Each pixel's mean logits over all windows that contain it, upsampled bilinearly within each window.

    As in mmsegmentation's ``slide_inference``, windows start at multiples of the stride, the last one ends with the
    image, and an image smaller than the window is a window itself. Upsampled logits are never stored: the mean over a
    grid of windows is exactly a product of one matrix per axis. Raises UserError: ``crop`` or ``stride`` is not a
    multiple of 32, or the windows leave gaps.

    Args:
      apply: (windows [b, y, x, c], their (height, width) without padding [b, 2] or None) → logits
        [b, y / 4, x / 4, k]. It runs on one window of all images at a time.
      images: zero in the padding; both sides are multiples of 32.
      sizes: (height, width) of each image without padding, multiples of 32; None: no padding.
      crop: (height, width) of the window.
      stride: (down, right) from one window to the next.
    """
    check_windows(crop, stride)
    batch, *shape, channels = images.shape
    true = jnp.broadcast_to(jnp.array(shape, jnp.int32), (batch, 2)) if sizes is None else sizes
    down, across = (_windows(true[:, axis], shape[axis], crop[axis], stride[axis]) for axis in (0, 1))
    window_sizes = None if sizes is None else jnp.stack([down.size, across.size], axis=-1)

    def of_window(start: tuple[Array, Array]) -> Array:
        def cut(image: Array, top: Array, left: Array) -> Array:
            return jax.lax.dynamic_slice(image, (top, left, 0), (down.side, across.side, channels))

        return apply(jax.vmap(cut)(images, *start), window_sizes)

    with jax.named_scope("sliding_logits"):
        grid = (len(down.start), len(across.start))
        starts = (jnp.repeat(down.start, grid[1], axis=0), jnp.tile(across.start, (grid[0], 1)))
        logits = jax.lax.map(of_window, starts)
        # The logits of all windows, side by side, are one large map.
        logits = logits.reshape(*grid, *logits.shape[1:]).transpose(2, 0, 3, 1, 4, 5)
        maps = logits.reshape(batch, grid[0] * logits.shape[2], grid[1] * logits.shape[4], -1)
        taps = 3 * min(grid[1], crop[1] // stride[1] + 2)
        return PixelLogits(maps, _mean(down, shape[0]), _mean(across, shape[1]), true, taps)


def check_windows(crop: tuple[int, int], stride: tuple[int, int]) -> None:
    """Raise UserError unless windows ``crop`` (height, width) can move by ``stride``; see ``sliding_logits``."""
    for axis, name in enumerate(("height", "width")):
        if crop[axis] % _MULTIPLE or stride[axis] % _MULTIPLE or not 0 < stride[axis] <= crop[axis]:
            raise UserError(
                f"a sliding window of {name} {crop[axis]} cannot move by {stride[axis]}: choose multiples of "
                f"{_MULTIPLE}, the stride at most the window"
            )


class _Windows(NamedTuple):
    """The windows of every image along one axis.

    Attributes:
      side: of a window in pixels, with padding.
      size: without padding.
      start: first pixel of each window, for the n windows of the longest image.
      used: whether the image has this window.
    """

    side: int
    size: Int[Array, " b"]
    start: Int[Array, "n b"]
    used: Bool[Array, "n b"]


def _windows(image_size: Int[Array, " b"], image_side: int, crop: int, stride: int) -> _Windows:
    side = min(crop, image_side)
    size = jnp.minimum(image_size, side)
    number = jnp.arange(-(-(image_side - side) // stride) + 1)[:, None]
    start = jnp.minimum(number * stride, image_size - size)
    return _Windows(side, size, start, (number == 0) | ((number - 1) * stride < image_size - size))


def _mean(windows: _Windows, image_side: int) -> Float[Array, "b {image_side} j"]:
    """Weights of the logits of all windows, concatenated, in each pixel's mean."""
    side = windows.side
    enlarged = padded_interpolation_matrix(windows.size // 4, windows.size, side // 4, side)
    place = jnp.arange(image_side)[:, None] - windows.start.T[:, None]
    holds = (place >= 0) & (place < windows.size[:, None, None]) & windows.used.T[:, None]
    weights = jax.vmap(lambda one, places: one[places])(enlarged, jnp.clip(place, 0, side - 1))
    count = jnp.maximum(holds.sum(-1), 1)[..., None, None]
    return jnp.where(holds[..., None], weights / count, 0.0).reshape(len(weights), image_side, -1)
