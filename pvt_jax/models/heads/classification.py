"""The linear classifier on a pooled feature."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pvt_jax.models.layers import normal_002


class ClassificationHead(nn.Module):
    """Class scores of one feature vector an image: [b, c] → [b, num_classes] float32, whatever the backbone's dtype."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b k"]:
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=normal_002, name="linear")(x)
