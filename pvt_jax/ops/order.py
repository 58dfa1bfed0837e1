"""The order in which XLA computes."""

from jaxtyping import Array, Float


def once(gradient: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x``, of which nothing is made before there is a ``gradient``, if that is finite.

    XLA for CPU computes early what it can, and keeps it: in a backward pass whole copies of maps, of all layers at a
    time. It drops ``jax.lax.optimization_barrier`` before it orders a program, but not a dependence on 0 · element.
    """
    if not gradient.size:
        return x
    return x + (0.0 * gradient[(0,) * gradient.ndim]).astype(x.dtype)
