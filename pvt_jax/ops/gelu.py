"""The Gaussian error linear unit: x Φ(x), Φ the distribution function of the normal distribution (arXiv 1606.08415)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact, by erf: ``jax.nn.gelu(approximate=False)`` uses erfc, which is far slower."""
    return x * _distribution(x)


@jax.custom_vjp
def gelu_of_one_erf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same, with a derivative that shares Φ with the value, which takes most of the time. Reverse mode only."""
    return gelu(x)


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    distribution = _distribution(x)
    return x * distribution, (x, distribution)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    x, distribution = residuals
    density = jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return (gradient * (distribution + x * density),)


gelu_of_one_erf.defvjp(_forward, _backward)


def _distribution(x: Array) -> Array:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))
