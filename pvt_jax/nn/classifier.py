"""The linear classifier on a backbone's class token or pooled last feature map."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pvt_jax.errors import UserError
from pvt_jax.nn.layers import normal_002
from pvt_jax.nn.pyramid_pooling import spatial_pyramid_pooling
from pvt_jax.nn.settings import are_counts, check, check_num_classes

# What a classifier reads; "" is what the backbone's paper has.
Pool = Literal["", "token", "mean", "max"]


class ClassificationHead(nn.Module):
    """Logits [b, num_classes], float32 whatever the backbone's dtype, from its last feature map [b, h, w, c].

    A linear layer on the class token, or on global average pooling for a backbone without one; on global average or
    max pooling with ``pool``; or, with ``spp_levels`` such as (1, 2, 4), on spatial pyramid max pooling.

    Raises:
      UserError: ``pool`` asks for a token that the backbone does not have, or ``spp_levels`` are given as well.
    """

    num_classes: int
    spp_levels: Sequence[int] = ()
    pool: Pool = ""

    @nn.compact
    def __call__(self, maps: Float[Array, "b h w c"], token: Float[Array, "b c"] | None = None) -> Float[Array, "b k"]:
        check_num_classes(self)
        check(self, "whole numbers above 0, e.g. (1, 2, 4)", are_counts, "spp_levels", section="model")
        check(self, "empty, token, mean or max", lambda pool: pool in get_args(Pool), "pool", section="model")
        if self.spp_levels and self.pool:
            raise UserError(
                f"model.pool={self.pool} and model.spp_levels={tuple(self.spp_levels)} both say what the classifier "
                "reads: leave one of them out"
            )
        pool = self.pool or ("mean" if token is None else "token")
        if self.spp_levels:
            feature = spatial_pyramid_pooling(maps, self.spp_levels)
        elif pool == "token":
            if token is None:
                raise UserError("model.pool=token needs a class token, which this model has not: use mean or max")
            feature = token
        else:
            feature = maps.mean((1, 2), dtype=jnp.float32) if pool == "mean" else maps.max((1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=normal_002, name="linear")(feature)
