"""What every backbone offers: class scores, a pyramid of maps, and the attention maps behind them."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.nn.padding import shrunk, zero_outside


class Backbone(nn.Module):
    """Images [b, h, w, 3] (float, normalised) → class scores, or maps with ``method="features"``.

    ``num_classes=0`` makes a backbone without what only a classifier uses, for dense tasks: it has the maps alone.

    A subclass defines ``_forward(images, train, classify, sizes)``, compact, which makes the same parameters either
    way, and whose maps are right where they are image, whatever they hold in the padding.
    """

    num_classes: int

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b k"]:
        """Class scores [b, num_classes], float32. ``train=True`` needs ``rngs={"dropout": key}``.

        Raises:
          UserError: there is no classifier, or the model takes no images of this size.
        """
        if self.num_classes == 0:
            raise UserError(
                'a backbone without classifier (num_classes=0) has no class scores: call it with method="features"'
            )
        return self._forward(images, train=train, classify=True)

    def features(
        self, images: Float[Array, "b h w 3"], train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, "b _h _w _c"]]:
        """The pyramid for dense tasks: maps ``c2``, ``c3``, ``c4``, ``c5`` at strides 4, 8, 16 and 32.

        ``sizes`` are the true height and width of each image of a batch that is padded at the bottom and at the right
        to one shape: multiples of 32, which may be traced. Then the maps of an image are those that it has alone, and
        0 in the padding; the pixels there have no influence. ``train=True`` takes the batch statistics of a ResNet
        over padding, too, as the references do.
        """
        if sizes is not None:
            images = zero_outside(images, sizes)
        pyramid = self._forward(images, train=train, classify=False, sizes=sizes)
        return {level: zero_outside(maps, shrunk(sizes, 2 ** int(level[1:]))) for level, maps in pyramid.items()}

    def attention_maps(self, images: Float[Array, "b h w 3"]) -> dict[str, AttentionMap]:
        """The attention weights of every block by its name (``stage1/block0``), as the classifier runs.

        Without a classifier (``num_classes=0``) they are those behind ``features``.
        They grow with the fourth power of the image's side: at 224² the first stage of PVT has 3136 × 49 a head.
        """
        # Recomputed and scanned blocks cannot hand out what is inside of them.
        plain = self.clone(parent=None, **{name: False for name in ("remat", "scan") if hasattr(self, name)})
        method = "features" if self.num_classes == 0 else "__call__"
        _, collected = plain.apply(self.variables, images, mutable="intermediates", method=method)
        sown = jax.tree_util.tree_leaves_with_path(
            collected.get("intermediates", {}), is_leaf=lambda leaf: isinstance(leaf, AttentionMap)
        )
        maps = {"/".join(part.key for part in path[:-3]): leaf for path, leaf in sown if isinstance(leaf, AttentionMap)}
        if not maps:
            raise UserError(f"{type(self).__name__} has no attention: attention_maps is for the transformers")
        order = sorted(maps, key=lambda name: [int("".join(filter(str.isdigit, part))) for part in name.split("/")])
        return {name: maps[name] for name in order}

    def _ends_with_maps(self, classify: bool) -> bool:
        # A first call makes the classifier even when it is not used, so that the parameters are the same however a
        # model is first called.
        return not classify and (self.num_classes == 0 or not self.is_initializing())

    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        raise NotImplementedError
