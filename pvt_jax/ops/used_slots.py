"""A loss over a fixed number of slots, computed for no more of them than are used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pvt_jax.ops import target

Tree = Any
Loss = Callable[[Tree, Array, Tree, Tree], Array]

# Of 128 slots 128, 64, 32 or 16 are computed.
_HALVINGS = 3


def loss_of_used_slots(
    loss: Loss, used: Int[Array, ""], weights: Tree, features: Float[Array, "b r *d"], slots: Tree, others: Tree
) -> Float[Array, ""]:
    """``loss(weights, features, slots, others)``, to which only the first ``used`` slots contribute.

    On one CPU it is computed for the fewest of r, r / 2, r / 4 and r / 8 slots (rounded up) that hold ``used``. Other
    devices compute all: there a branch that depends on data would make the host wait. Reverse mode only.

    Args:
      loss: must not close over traced arrays. Only weights and features have a gradient.
      used: the largest number of used slots of an image, at most r.
      weights: a tree of parameters.
      features: with an axis of slots after that of images.
      slots: a tree of arrays with the same two leading axes.
      others: a tree of arrays that all slots read.
    """
    if not target.is_one_cpu():
        return loss(weights, features, *jax.lax.stop_gradient((slots, others)))
    return _of_used(loss, used, weights, features, slots, others)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_used(loss: Loss, used: Array, weights: Tree, features: Array, slots: Tree, others: Tree) -> Array:
    return _chosen(loss, used, weights, features, slots, others)


def _forward(
    loss: Loss, used: Array, weights: Tree, features: Array, slots: Tree, others: Tree
) -> tuple[Array, tuple[Tree, Array]]:
    """Loss and gradient together: a ``switch`` would keep residuals of all branches, not only of the one taken."""
    count = features.shape[1]

    def with_gradient(weights: Tree, features: Array, slots: Tree, others: Tree) -> tuple[Array, tuple[Tree, Array]]:
        value, (of_weights, of_features) = jax.value_and_grad(loss, (0, 1))(weights, features, slots, others)
        unused = [(0, 0), (0, count - features.shape[1])] + [(0, 0)] * (features.ndim - 2)
        return value, (of_weights, jnp.pad(of_features, unused))

    return _chosen(with_gradient, used, weights, features, slots, others)


def _backward(loss: Loss, gradients: tuple[Tree, Array], upstream: Array) -> tuple[None, Tree, Array, None, None]:
    weights, features = jax.tree.map(lambda one: (upstream * one).astype(one.dtype), gradients)
    return None, weights, features, None, None


_of_used.defvjp(_forward, _backward)


def _chosen(
    function: Callable[..., Tree], used: Array, weights: Tree, features: Array, slots: Tree, others: Tree
) -> Tree:
    count = features.shape[1]
    counts = sorted({-(-count // 2**times) for times in range(_HALVINGS + 1)})

    def of_first(number: int) -> Callable[..., Tree]:
        def branch(weights: Tree, features: Array, slots: Tree, others: Tree) -> Tree:
            features, slots = jax.tree.map(lambda one: one[:, :number], (features, slots))
            return function(weights, features, slots, others)

        return branch

    enough = jnp.sum(used > jnp.array(counts[:-1], jnp.int32), dtype=jnp.int32)
    return jax.lax.switch(enough, [of_first(number) for number in counts], weights, features, slots, others)
