"""Classification losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """-Σ_k target_k log softmax(logits)_k per example, in float32. Rows of ``targets`` sum to 1."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
