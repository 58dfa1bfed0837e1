"""Floating-point operations of a traced program: those of its matrix products and convolutions."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(function: Any, *inputs: Any) -> int:
    """Of ``function(*inputs)`` on all devices together: 2 for each multiply-accumulate, forward, backward and repeated.

    Only pairs that meet count: neither padding of convolutions nor the zeros between dilated elements. A loop counts as
    often as it runs, once if that depends on the data; of branches the dearest counts. ``inputs`` may be shapes and
    types.
    """
    # A jitted function may have options for its compiler, which an outer one must not have inside.
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    return 2 * _products(jitted.trace(*inputs).jaxpr.jaxpr)


def _products(program: Jaxpr) -> int:
    return sum(map(_of_equation, program.eqns))


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        return math.prod(_shape(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_products(program) for program in _programs(params.values())]
    if name == "cond":
        return max(inner, default=0)
    times = params.get("length", 1) if name == "scan" else 1
    if name == "pallas_call":
        times = math.prod(side for side in params["grid_mapping"].grid if isinstance(side, int))
    if name == "shard_map":  # what is inside is one device's part
        times = math.prod(params["mesh"].shape[axis] for axis in _divided(params))
    return times * sum(inner)


def _divided(params: dict[str, Any]) -> Iterable[str]:
    """Axes of the mesh along which devices compute each its own part."""
    return params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]


def _of_convolution(equation: JaxprEqn) -> int:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (_shape(value) for value in equation.invars)
    result = _shape(equation.outvars[0])
    pairs = 1
    spatial = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for axis, (of_image, of_kernel, of_result) in enumerate(spatial):
        # Where each tap of the kernel lies in the image, whose elements may be some apart, for each place.
        places = np.arange(result[of_result]) * params["window_strides"][axis] - params["padding"][axis][0]
        taps = np.arange(kernel[of_kernel]) * params["rhs_dilation"][axis]
        apart = params["lhs_dilation"][axis]
        at = places[:, None] + taps
        pairs *= int(((at >= 0) & (at < (image[of_image] - 1) * apart + 1) & (at % apart == 0)).sum())
    batch, channels = result[numbers.out_spec[0]], result[numbers.out_spec[1]]
    # A kernel has the input channels of its own group alone, so groups need no factor.
    return pairs * batch * channels * kernel[numbers.rhs_spec[1]]


def _programs(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _shape(value: Any) -> Sequence[int]:
    return value.aval.shape
