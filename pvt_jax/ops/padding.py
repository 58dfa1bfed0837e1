"""Images of several sizes in one batch, padded at the bottom and right to one shape.

``sizes``, int32 [b, 2], are the rows and columns of each image's valid region, or of the feature maps made from it;
None means no padding, and adds no operations. Sizes are data, not shapes: one compilation serves all of them.
Pointwise operations may leave any values in the padding; operations with a neighbourhood treat the edge of the valid
region as the border of an unpadded map.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Feature maps by level: those of a backbone are ``c2`` … ``c5``, those of a pyramid ``p2``, ``p3``, …
Maps = dict[str, Float[Array, "b _h _w _c"]]


def shrunk(sizes: Int[Array, "b 2"] | None, ratio: int) -> Int[Array, "b 2"] | None:
    """Sizes divided by ``ratio``, rounded down."""
    return None if sizes is None else sizes // ratio


def inside(sizes: Int[Array, "b 2"], grid: tuple[int, int]) -> Bool[Array, "b h w"]:
    """Mask of the valid region of feature maps of ``grid`` (rows, columns): True for image, False for padding."""
    rows, columns = (jnp.arange(side) < sizes[:, i, None] for i, side in enumerate(grid))
    return rows[:, :, None] & columns[:, None, :]


def zero_outside(maps: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
    """``maps`` with zeros in their padding, as if a convolution's own zero padding began there."""
    if sizes is None:
        return maps
    _, rows, columns, _ = maps.shape
    # Not a product with the mask: 0 · NaN is not 0.
    return jnp.where(inside(sizes, (rows, columns))[..., None], maps, jnp.zeros((), maps.dtype))
