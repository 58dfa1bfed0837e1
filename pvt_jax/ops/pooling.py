"""Adaptive pooling by two matrices, one a side."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def adaptive_average_pool(
    x: Float[Array, "b h w c"], side: int, sizes: Int[Array, "b 2"] | None = None
) -> Float[Array, "b {side} {side} c"]:
    """Mean over ``side`` × ``side`` bins; bin i spans floor(i h / side) to ceil((i + 1) h / side), so bins may overlap.

    As PyTorch's ``adaptive_avg_pool2d``, by two fixed matrices built from the shape: two matmuls, no window of
    changing size, so it runs on every device and exports.

    ``sizes`` are the rows and columns of each map that are not padding, and may be traced; None: all of them. What
    lies beyond is left out, but must be finite.
    """
    with jax.named_scope("adaptive_average_pool"):
        # In bfloat16 the parts of a mean would not add up to 1.
        if sizes is None:
            rows, columns = (jnp.asarray(averaging_matrix(size, side), jnp.float32) for size in x.shape[1:3])
            products = "yh,bhwc,xw->byxc"
        else:
            rows, columns = (padded_averaging_matrix(sizes[:, i], x.shape[1 + i], side) for i in (0, 1))
            products = "byh,bhwc,bxw->byxc"
        pooled = jnp.einsum(products, rows, x.astype(jnp.float32), columns, precision=jax.lax.Precision.HIGHEST)
        return pooled.astype(x.dtype)


def averaging_matrix(size: int, bins: int) -> Float[np.ndarray, "bins size"]:
    """Row i holds 1 / width over the positions of bin i. float64."""
    matrix = np.zeros((bins, size))
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def padded_averaging_matrix(size: Int[Array, " b"], length: int, bins: int) -> Float[Array, "b {bins} {length}"]:
    """The matrix of ``averaging_matrix`` for each of the sizes up to ``length``, 0 beyond them. float32."""
    i, size = jnp.arange(bins)[:, None], size[:, None, None]
    start, stop = i * size // bins, -(-(i + 1) * size // bins)
    positions = jnp.arange(length)
    inside = (start <= positions) & (positions < stop)
    return jnp.where(inside, 1.0 / jnp.maximum(stop - start, 1), 0.0)
