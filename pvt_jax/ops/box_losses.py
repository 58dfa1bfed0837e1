"""Box regression and classification losses: one float32 value per box, with finite gradients."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pvt_jax.ops.boxes import paired_giou


def sigmoid_focal(
    logits: Float[Array, "*b k"], labels: Int[Array, "*b"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*b"]:
    """Focal loss, "Focal Loss for Dense Object Detection" (arXiv 1708.02002, equation 5), summed over the classes.

    ``labels`` are classes; -1 is background. The backward pass recomputes everything from the logits, so no other
    array of their size is stored. Reverse mode only.
    """
    return _focal(logits, labels, alpha, gamma)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _focal(logits: Array, labels: Array, alpha: float, gamma: float) -> Array:
    _, weight, loss, _ = _focal_parts(logits, labels, alpha, gamma)
    return jnp.sum(weight * loss, axis=-1)


def _focal_forward(logits: Array, labels: Array, alpha: float, gamma: float) -> tuple[Array, tuple[Array, Array]]:
    return _focal(logits, labels, alpha, gamma), (logits, labels)


def _focal_backward(alpha: float, gamma: float, saved: tuple[Array, Array], upstream: Array) -> tuple[Array, None]:
    own, weight, loss, wrong = _focal_parts(*saved, alpha, gamma)
    slope = weight * (gamma * (1.0 - wrong) * loss + wrong)
    gradient = upstream[..., None] * jnp.where(own, -slope, slope)
    return gradient.astype(saved[0].dtype), None


_focal.defvjp(_focal_forward, _focal_backward)


def _focal_parts(logits: Array, labels: Array, alpha: float, gamma: float) -> tuple[Array, Array, Array, Array]:
    """For each class: is it the label, α_t (1 - p_t)^γ, -log p_t, 1 - p_t; p_t is the probability of the truth."""
    logits = logits.astype(jnp.float32)
    own = labels[..., None] == jnp.arange(logits.shape[-1])
    logits = jnp.where(own, -logits, logits)
    loss = jax.nn.softplus(logits)
    # Powers by logarithms, as 1 - p_t itself may round to 0.
    wrong = logits - loss
    return own, jnp.where(own, alpha, 1.0 - alpha) * jnp.exp(gamma * wrong), loss, jnp.exp(wrong)


def l1(predicted: Float[Array, "*b 4"], target: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Σ |predicted - target| over the four coordinates of a box."""
    distance = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    # At distance 0 the gradient is 0, as in PyTorch; that of jnp.abs is 1.
    return jnp.sum(distance * jax.lax.stop_gradient(jnp.sign(distance)), axis=-1)


def giou(predicted: Float[Array, "*b 4"], target: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """1 - generalised IoU (Rezatofighi et al., CVPR 2019) of boxes (x1, y1, x2, y2): from 0 to 2."""
    return 1.0 - paired_giou(predicted, target)


def softmax_cross_entropy(logits: Float[Array, "*b k"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """-log softmax(logits)_label; labels are 0 to k - 1."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.where(labels[..., None] == jnp.arange(logits.shape[-1]), logs, 0.0), axis=-1)


def binary_cross_entropy(logits: Float[Array, "*b"], targets: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """-t log σ(x) - (1 - t) log(1 - σ(x)) of each logit x and its target t."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * targets
