"""Products of many rows with one kernel."""

import jax
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.bilinear import with_gradients


def matmul(x: Float[Array, "*rows c"], kernel: Float[Array, "c d"]) -> Float[Array, "*rows d"]:
    """``x @ kernel`` with all leading axes flattened, which makes a training step a tenth faster on CPU.

    Compiled for one CPU (``target.compiled_for``), a kernel that is higher than wide has its gradient computed as the
    transpose of a wide matrix, up to three times as fast; reverse mode only.
    """
    rows, (height, width) = x.reshape(-1, x.shape[-1]), kernel.shape
    product = _with_wide_gradient(rows, kernel, None) if target.is_one_cpu() and width < height else rows @ kernel
    return product.reshape(*x.shape[:-1], width)


def _gradient_of_kernel(x: Array, gradient: Array, _: None) -> Array:
    # XLA would merge product and transpose again.
    return jax.lax.optimization_barrier(gradient.T @ x).T


_with_wide_gradient = with_gradients(
    lambda x, kernel, _: x @ kernel, lambda kernel, gradient, _: gradient @ kernel.T, _gradient_of_kernel
)
