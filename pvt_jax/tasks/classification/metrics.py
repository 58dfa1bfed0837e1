"""Top-1 and top-5 accuracy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.ops.cross_entropy import soft_cross_entropy

Sums = dict[str, Array]


def classification_sums(logits: Float[Array, "b k"], labels: Int[Array, " b"], mask: Bool[Array, " b"]) -> Sums:
    """Sums over the unmasked examples of a batch, float32: ``loss``, ``top1``, ``top5``, ``count``.

    An example is correct at k if fewer than k classes have higher logits than its label. Ties rank by class index, so
    that equal logits (an untrained model) do not count as correct.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    rank = ahead.sum(-1)
    # NaN compares false with everything: without this a NaN label would rank first.
    rank = jnp.where(jnp.isnan(logits).any(-1), max(logits.shape[-1], 5), rank)
    one_hot = (classes == labels[:, None]).astype(jnp.float32)
    weight = mask.astype(jnp.float32)
    return {
        "loss": jnp.sum(jnp.where(mask, soft_cross_entropy(logits, one_hot), 0.0)),
        "top1": jnp.sum((rank < 1) * weight),
        "top5": jnp.sum((rank < 5) * weight),
        "count": jnp.sum(weight),
    }


def classification_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Merged sums → ``loss`` (mean), ``top1`` and ``top5`` (percent, 0 to 100)."""
    count = max(sums["count"], 1.0)
    return {"loss": sums["loss"] / count, "top1": 100.0 * sums["top1"] / count, "top5": 100.0 * sums["top5"] / count}
