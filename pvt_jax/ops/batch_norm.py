"""Normalisation of channels, with gradients that keep one map on one CPU (arXiv 1502.03167)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pvt_jax.ops import target
from pvt_jax.ops.order import once

# PyTorch's default, which every reference keeps.
EPSILON = 1e-5


def by_statistics(
    x: Float[Array, "*rows c"],
    mean: Float[Array, " c"],
    var: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
) -> Float[Array, "*rows c"]:
    """(x - mean) / √(var + ε) · scale + bias, with statistics that have no gradient.

    Compiled for one CPU (``target.compiled_for``), the backward pass centres ``x`` again: autodiff and XLA would keep
    the centred map beside ``x``. Reverse mode only, there.
    """
    mean, root = jax.lax.stop_gradient((mean, jax.lax.rsqrt(var + EPSILON)))
    return (_by_statistics if target.is_one_cpu() else _normalised)(x, mean, root, scale, bias)


def by_batch(
    x: Float[Array, "*rows c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[Float[Array, "*rows c"], Float[Array, " c"], Float[Array, " c"]]:
    """(normalised x, mean, biased variance) by the statistics of ``x`` itself, which as results have no gradient.

    The gradient is as that of ``by_statistics``.
    """
    y, mean, var = (_by_batch if target.is_one_cpu() else _normalised_by_batch)(x, scale, bias)
    return y, *jax.lax.stop_gradient((mean, var))


def _normalised(x: Array, mean: Array, root: Array, scale: Array, bias: Array) -> Array:
    return (x - mean) * (scale * root) + bias


def _normalised_by_batch(x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    means, var = _statistics(x)
    y = _normalised(x - means[0], means[1], jax.lax.rsqrt(var + EPSILON), scale, bias)
    return y, means[0] + means[1], var


def _statistics(x: Array) -> tuple[tuple[Array, Array], Array]:
    """((mean, what rounding left of it), biased variance)."""
    # Two passes, as E[x²] - mean² would cancel far from 0. The second removes what rounding left of the mean, and
    # gradients flow through it alone, which saves a pass over the map.
    axes = tuple(range(x.ndim - 1))
    mean = jax.lax.stop_gradient(x.mean(axes))
    centred = x - mean
    rest = centred.mean(axes)
    return (mean, rest), jnp.maximum(jnp.square(centred).mean(axes) - jnp.square(rest), 0.0)


class _Kept(NamedTuple):
    """What a backward pass takes of the forward pass; the mean of ``x`` in parts."""

    x: Array
    means: tuple[Array, ...]
    root: Array
    scale: Array


def _forward(x: Array, mean: Array, root: Array, scale: Array, bias: Array) -> tuple[Array, _Kept]:
    return _normalised(x, mean, root, scale, bias), _Kept(x, (mean,), root, scale)


def _backward(kept: _Kept, gradient: Array) -> tuple[Array | None, ...]:
    _, of_scale, of_bias = _unscaled_and_gradients(kept, gradient)
    return gradient * (kept.scale * kept.root), None, None, of_scale, of_bias


def _forward_by_batch(x: Array, scale: Array, bias: Array) -> tuple[tuple[Array, Array, Array], _Kept]:
    means, var = _statistics(x)
    return _normalised_by_batch(x, scale, bias), _Kept(x, means, jax.lax.rsqrt(var + EPSILON), scale)


def _backward_by_batch(kept: _Kept, gradients: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    gradient, *_ = gradients
    unscaled, of_scale, of_bias = _unscaled_and_gradients(kept, gradient)
    values = kept.x.size // kept.x.shape[-1]
    # A change of x moves neither the mean of the normalised map nor its size.
    rest = gradient - of_bias / values - unscaled * (of_scale / values)
    return rest * (kept.scale * kept.root), of_scale, of_bias


def _unscaled_and_gradients(kept: _Kept, gradient: Array) -> tuple[Array, Array, Array]:
    """(normalised x before scale and bias, gradient of scale, gradient of bias)."""
    axes = tuple(range(gradient.ndim - 1))
    centred = once(gradient, kept.x)
    for mean in kept.means:
        centred = centred - mean
    unscaled = centred * kept.root
    return unscaled, (gradient * unscaled).sum(axes), gradient.sum(axes)


_by_statistics = jax.custom_vjp(_normalised)
_by_statistics.defvjp(_forward, _backward)
_by_batch = jax.custom_vjp(_normalised_by_batch)
_by_batch.defvjp(_forward_by_batch, _backward_by_batch)
