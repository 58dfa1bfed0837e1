"""Adaptive pooling by two matrices, one per axis."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def adaptive_average_pool(
    x: Float[Array, "b h w c"], side: int, sizes: Int[Array, "b 2"] | None = None
) -> Float[Array, "b {side} {side} c"]:
    """Mean over ``side`` × ``side`` bins; bin i spans floor(i h / side) to ceil((i + 1) h / side), so bins may overlap.

    As PyTorch's ``adaptive_avg_pool2d``, but by two matmuls with fixed matrices instead of windows of varying size, so
    that it runs on every device and exports.

    ``sizes`` are the (rows, columns) of each map's valid region and may be traced; None: no padding. Padding is
    discarded, but must be finite.
    """
    with jax.named_scope("adaptive_average_pool"):
        # In bfloat16 the weights of a mean would not sum to 1.
        if sizes is None:
            rows, columns = (jnp.asarray(averaging_matrix(size, side), jnp.float32) for size in x.shape[1:3])
            products = "yh,bhwc,xw->byxc"
        else:
            rows, columns = (padded_averaging_matrix(sizes[:, i], x.shape[1 + i], side) for i in (0, 1))
            products = "byh,bhwc,bxw->byxc"
        pooled = jnp.einsum(products, rows, x.astype(jnp.float32), columns, precision=jax.lax.Precision.HIGHEST)
        return pooled.astype(x.dtype)


def spans(size: int, bins: int) -> list[tuple[int, int]]:
    """(start, stop) of each bin of PyTorch's adaptive pooling over ``size`` positions; none is empty."""
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


def averaging_matrix(size: int, bins: int) -> Float[np.ndarray, "bins size"]:
    """Row i holds 1 / (length of bin i) over the positions of bin i; float64."""
    matrix = np.zeros((bins, size))
    for i, (start, stop) in enumerate(spans(size, bins)):
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def padded_averaging_matrix(size: Int[Array, " b"], length: int, bins: int) -> Float[Array, "b {bins} {length}"]:
    """``averaging_matrix`` of each size, padded with 0 to ``length``; float32."""
    i, size = jnp.arange(bins)[:, None], size[:, None, None]
    start, stop = i * size // bins, -(-(i + 1) * size // bins)
    positions = jnp.arange(length)
    inside = (start <= positions) & (positions < stop)
    return jnp.where(inside, 1.0 / jnp.maximum(stop - start, 1), 0.0)
