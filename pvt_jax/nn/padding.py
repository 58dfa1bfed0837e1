"""Images of several sizes in one batch, padded at the bottom and at the right to one shape.

``sizes`` are the true rows and columns of every image, or of every map made of it, int32 [b, 2]; None stands for maps
that are true all over, and then nothing here adds an operation. The program does not depend on them: one compilation
serves all sizes up to a shape. What computes at one position alone may find anything beyond; what looks at neighbours
does as at the border of an unpadded map.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def shrunk(sizes: Int[Array, "b 2"] | None, ratio: int) -> Int[Array, "b 2"] | None:
    """Sizes of maps whose sides are ``ratio`` times smaller; what is left of a last part goes."""
    return None if sizes is None else sizes // ratio


def inside(sizes: Int[Array, "b 2"], grid: tuple[int, int]) -> Bool[Array, "b h w"]:
    """Where maps of ``grid`` (rows, columns) are image and not padding."""
    rows, columns = (jnp.arange(side) < sizes[:, i, None] for i, side in enumerate(grid))
    return rows[:, :, None] & columns[:, None, :]


def zero_outside(maps: Float[Array, "b h w c"], sizes: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
    """``maps`` with zeros in their padding, as if a convolution's own padding began there."""
    if sizes is None:
        return maps
    _, rows, columns, _ = maps.shape
    # A choice and not a product: zero times what is not finite would not be zero.
    return jnp.where(inside(sizes, (rows, columns))[..., None], maps, jnp.zeros((), maps.dtype))
