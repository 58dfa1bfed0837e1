"""Adaptive pooling with static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def adaptive_average_pool(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b {side} {side} c"]:
    """Mean over ``side`` × ``side`` bins; bin i spans floor(i h / side) to ceil((i + 1) h / side), so bins may overlap.

    As PyTorch's ``adaptive_avg_pool2d``, by two fixed matrices built from the shape: two matmuls, no window of
    changing size, so it runs on every device and exports.
    """
    with jax.named_scope("adaptive_average_pool"):
        # In bfloat16 the parts of a mean would not add up to 1.
        rows, columns = (jnp.asarray(averaging_matrix(size, side), jnp.float32) for size in x.shape[1:3])
        pooled = jnp.einsum(
            "yh,bhwc,xw->byxc", rows, x.astype(jnp.float32), columns, precision=jax.lax.Precision.HIGHEST
        )
        return pooled.astype(x.dtype)


def averaging_matrix(size: int, bins: int) -> Float[np.ndarray, "bins size"]:
    """Row i holds 1 / width over the positions of bin i. float64."""
    matrix = np.zeros((bins, size))
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix
