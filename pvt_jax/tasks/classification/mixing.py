"""Augmentations of a whole batch, in the jitted step: mixup, CutMix, label smoothing and random erasing.

They follow the DeiT recipe, with which PVT trains: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) with one
draw per batch and the flipped batch as partners; random erasing (arXiv 1708.04896) in pixel mode.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Mix(NamedTuple):
    """One draw for a batch: mixed image = own · image + (1 - own) · partner.

    own: [h, w] float32, the constant λ for mixup and a 0/1 mask for CutMix.
    label_weight: float32 scalar, the weight of an image's own label; for CutMix the exact fraction of own pixels.
    """

    own: Float[Array, "h w"]
    label_weight: Float[Array, ""]


def draw_mix(
    key: PRNGKeyArray,
    height: int,
    width: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    switch_probability: float,
) -> Mix:
    """Draw mixup or CutMix for one batch of ``height`` × ``width`` images.

    An alpha of 0 turns a method off; with both on, CutMix is chosen with ``switch_probability``. With probability
    1 - ``probability`` the batch is not mixed.
    """
    apply_key, switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return Mix(jnp.ones((height, width)), jnp.ones(()))
    switch = jax.random.bernoulli(switch_key, switch_probability)
    use_cutmix = jnp.asarray(cutmix_alpha > 0) & (switch | (mixup_alpha <= 0))
    mixup_weight = jax.random.beta(mixup_key, mixup_alpha or 1.0, mixup_alpha or 1.0)
    mask = cutmix_mask(box_key, jax.random.beta(cutmix_key, cutmix_alpha or 1.0, cutmix_alpha or 1.0), height, width)
    own = jnp.where(use_cutmix, mask, mixup_weight)
    own = jnp.where(jax.random.bernoulli(apply_key, probability), own, 1.0)
    return Mix(own, jnp.where(use_cutmix, own.mean(), own[0, 0]))


def cutmix_mask(key: PRNGKeyArray, weight: Float[Array, ""], height: int, width: int) -> Float[Array, "h w"]:
    """0 inside a box that covers 1 - ``weight`` of the image before it is clipped at the border, 1 outside.

    The centre is uniform over pixels; the box has the image's aspect ratio. The mask's mean is the corrected λ.
    """
    side = jnp.sqrt(1.0 - weight)
    half_height = jnp.floor(height * side).astype(jnp.int32) // 2
    half_width = jnp.floor(width * side).astype(jnp.int32) // 2
    row_key, column_key = jax.random.split(key)
    row = jax.random.randint(row_key, (), 0, height)
    column = jax.random.randint(column_key, (), 0, width)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= row - half_height) & (rows < row + half_height)
    inside &= (columns >= column - half_width) & (columns < column + half_width)
    return 1.0 - inside.astype(jnp.float32)


def mix_images(images: Float[Array, "b h w c"], mix: Mix) -> Float[Array, "b h w c"]:
    """Each image mixed with its partner, the image at the same index of the flipped batch."""
    own = mix.own[None, :, :, None].astype(images.dtype)
    return images * own + images[::-1] * (1 - own)


def soft_targets(
    labels: Int[Array, " b"], num_classes: int, smoothing: float, label_weight: Float[Array, ""]
) -> Float[Array, "b k"]:
    """Targets of the mixed batch: λ own + (1 - λ) partner, with label smoothing spread over all classes."""
    hard = jax.nn.one_hot(labels, num_classes)
    smooth = hard * (1.0 - smoothing) + smoothing / num_classes
    return smooth * label_weight + smooth[::-1] * (1.0 - label_weight)


def erase_box(
    key: PRNGKeyArray,
    height: int,
    width: int,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    attempts: int = 10,
) -> Bool[Array, "h w"]:
    """True inside one random box with area (fraction of the image) and aspect ratio in the given ranges.

    The aspect ratio is log-uniform. A box fits if both sides are smaller than the image's; the first of ``attempts``
    that fits is taken, and if none does the mask is all False.
    """
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    target = jax.random.uniform(area_key, (attempts,), minval=area[0], maxval=area[1]) * (height * width)
    log_aspect = jax.random.uniform(aspect_key, (attempts,), minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1]))
    box_heights = jnp.round(jnp.sqrt(target * jnp.exp(log_aspect))).astype(jnp.int32)
    box_widths = jnp.round(jnp.sqrt(target / jnp.exp(log_aspect))).astype(jnp.int32)
    fits = (box_heights < height) & (box_widths < width)
    first = jnp.argmax(fits)
    box_height, box_width = box_heights[first], box_widths[first]
    top = jax.random.randint(top_key, (), 0, jnp.maximum(height - box_height, 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width - box_width, 0) + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
    return inside & fits[first]


def random_erase(key: PRNGKeyArray, images: Float[Array, "b h w c"], probability: float) -> Float[Array, "b h w c"]:
    """With ``probability``, one box of each normalised image is replaced by per-pixel N(0, 1) noise."""
    batch, height, width, _ = images.shape
    choice_key, box_key, noise_key = jax.random.split(key, 3)
    chosen = jax.random.bernoulli(choice_key, probability, (batch,))
    boxes = jax.vmap(lambda k: erase_box(k, height, width))(jax.random.split(box_key, batch))
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.where((boxes & chosen[:, None, None])[..., None], noise, images)
