"""Products of a map and a kernel with gradients of their own."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array


def with_gradients(
    product: Callable[..., Array], of_x: Callable[..., Array], of_kernel: Callable[..., Array]
) -> Callable[..., Array]:
    """``product(x, kernel, static)`` with these gradients, for reverse mode only.

    An input that is constant (images, frozen kernels) gets none, and the other one is not kept for it.

    Args:
      product: (x, kernel, static) → y, linear in ``x`` and in ``kernel``; ``static`` is hashable.
      of_x: (kernel, gradient of y, static) → gradient of ``x``.
      of_kernel: (x, gradient of y, static) → gradient of ``kernel``.
    """

    def forward(x: Any, kernel: Any, static: Hashable) -> tuple[Array, tuple[Array | None, Array | None]]:
        kept = x.value if kernel.perturbed else None, kernel.value if x.perturbed else None
        return product(x.value, kernel.value, static), kept

    def backward(
        static: Hashable, kept: tuple[Array | None, Array | None], gradient: Any
    ) -> tuple[Array | None, Array | None]:
        x, kernel = kept
        if isinstance(gradient, SymbolicZero):
            return None, None
        return (
            None if kernel is None else of_x(kernel, gradient, static),
            None if x is None else of_kernel(x, gradient, static),
        )

    run: Any = jax.custom_vjp(product, nondiff_argnums=(2,))
    run.defvjp(forward, backward, symbolic_zeros=True)
    return run
