"""What every backbone offers: class scores, a pyramid of maps, and the attention maps behind them."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from pvt_jax.errors import UserError
from pvt_jax.models.layers import AttentionMap


class Backbone(nn.Module):
    """Images [b, h, w, 3] (float, normalised) → class scores, or maps with ``method="features"``.

    A subclass defines ``_forward(images, train, classify)``, compact, which makes the same parameters either way.
    """

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b k"]:
        """Class scores [b, num_classes], float32. ``train=True`` needs ``rngs={"dropout": key}``."""
        return self._forward(images, train=train, classify=True)

    def features(self, images: Float[Array, "b h w 3"], train: bool = False) -> dict[str, Float[Array, "b _h _w _c"]]:
        """The pyramid for dense tasks: maps ``c2``, ``c3``, ``c4``, ``c5`` at strides 4, 8, 16 and 32."""
        return self._forward(images, train=train, classify=False)

    def attention_maps(self, images: Float[Array, "b h w 3"]) -> dict[str, AttentionMap]:
        """The attention weights of every block by its name (``stage1/block0``), as the classifier runs.

        They grow with the fourth power of the image's side: at 224² the first stage of PVT has 3136 × 49 a head.
        """
        # Recomputed and scanned blocks cannot hand out what is inside of them.
        plain = self.clone(parent=None, **{name: False for name in ("remat", "scan") if hasattr(self, name)})
        _, collected = plain.apply(self.variables, images, mutable="intermediates")
        sown = jax.tree_util.tree_leaves_with_path(
            collected.get("intermediates", {}), is_leaf=lambda leaf: isinstance(leaf, AttentionMap)
        )
        maps = {"/".join(part.key for part in path[:-3]): leaf for path, leaf in sown if isinstance(leaf, AttentionMap)}
        if not maps:
            raise UserError(f"{type(self).__name__} has no attention: attention_maps is for the transformers")
        order = sorted(maps, key=lambda name: [int("".join(filter(str.isdigit, part))) for part in name.split("/")])
        return {name: maps[name] for name in order}

    def _forward(self, images: Array, train: bool, classify: bool) -> Any:
        raise NotImplementedError
