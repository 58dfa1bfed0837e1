"""GELU and its derivative in kernels."""

import math

import jax
import jax.numpy as jnp

from pvt_jax.ops.kernels.blocks import BY_ROWS, sum_of_products

# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26, for erf: wrong by at most 1.5e-7. Pallas has no
# erf for GPUs, and the exponential of this one is the density.
_P, _COEFFICIENTS = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu(x: jax.Array) -> jax.Array:
    """Of float32."""
    return x * _normal(x)[0]


def of_gelu(x: jax.Array, gradients: list[jax.Array], kernels: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """(GELU of ``x``, gradient of ``x``) for gradients of GELU(x) W, both float32; the lists are blocks of channels."""
    below, density = _normal(x)
    return x * below, sum_of_products(gradients, kernels, BY_ROWS) * (below + x * density)


def _normal(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distribution function and density of the standard normal distribution."""
    t = 1.0 / (1.0 + _P * math.sqrt(0.5) * jnp.abs(x))
    tail, density = jnp.zeros_like(x), jnp.exp(-0.5 * x * x)
    for coefficient in reversed(_COEFFICIENTS):
        tail = t * (tail + coefficient)
    tail *= 0.5 * density
    return jnp.where(x < 0, tail, 1.0 - tail), density * (1.0 / math.sqrt(2.0 * math.pi))
