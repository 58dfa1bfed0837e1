"""The linear classifier on a backbone's class token or pooled last feature map."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pvt_jax.nn.layers import normal_002
from pvt_jax.nn.pyramid_pooling import spatial_pyramid_pooling
from pvt_jax.nn.settings import are_counts, check, check_num_classes


class ClassificationHead(nn.Module):
    """Logits [b, num_classes], float32 whatever the backbone's dtype, from its last feature map [b, h, w, c].

    A linear layer on the class token, or on global average pooling for a backbone without one, or, with ``spp_levels``
    such as (1, 2, 4), on spatial pyramid max pooling.
    """

    num_classes: int
    spp_levels: Sequence[int] = ()

    @nn.compact
    def __call__(self, maps: Float[Array, "b h w c"], token: Float[Array, "b c"] | None = None) -> Float[Array, "b k"]:
        check_num_classes(self)
        check(self, "whole numbers above 0, e.g. (1, 2, 4)", are_counts, "spp_levels", section="model")
        if self.spp_levels:
            feature = spatial_pyramid_pooling(maps, self.spp_levels)
        else:
            feature = maps.mean((1, 2), dtype=jnp.float32) if token is None else token
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=normal_002, name="linear")(feature)
