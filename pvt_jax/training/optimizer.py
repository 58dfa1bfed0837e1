"""AdamW as the references use it: decay mask, warm-up and cosine, clipping, and a guard against non-finite updates."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], jax.Array]


def scaled_learning_rate(learning_rate: float, base_batch_size: int, batch_size: int) -> float:
    """The recipe's rate at its own global batch, scaled linearly to another (arXiv 1706.02677)."""
    return learning_rate * batch_size / base_batch_size


def warmup_cosine(peak: float, initial: float, final: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Learning rate by step: linear from ``initial`` to ``peak``, then half a cosine to ``final``.

    The cosine runs over all of ``total_steps`` and the warm-up takes the place of its beginning, as in the references
    (timm's scheduler); they step once an epoch, this steps every update.
    """

    def schedule(step: Any) -> jax.Array:
        # In float64 on the host the constants are exact; the device computes in float32.
        warmup = initial + (peak - initial) * step / max(warmup_steps, 1)
        cosine = final + (peak - final) * 0.5 * (1.0 + jnp.cos(math.pi * jnp.minimum(step / total_steps, 1.0)))
        return jnp.where(step < warmup_steps, warmup, cosine).astype(jnp.float32)

    return schedule


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: not on 1-d parameters (biases, norms) and not on the class token."""

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        return leaf.ndim > 1 and path[-1].key != "cls_token"

    return jax.tree_util.tree_map_with_path(decays, params)


def adamw(
    schedule: Schedule, *, b1: float, b2: float, eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) after clipping by global norm (0: none), wrapped in the non-finite guard.

    An update whose gradient holds an infinity or a NaN changes nothing, moments and schedule included; the wrapper's
    state counts them: ``total_notfinite``, and ``notfinite_count`` in a row.
    """
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    update = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask)
    # The wrapper gives up after so many errors and applies one; the loop stops long before.
    return optax.apply_if_finite(optax.chain(*clip, update), max_consecutive_errors=2**30)
