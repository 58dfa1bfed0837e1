"""What every backbone offers: logits, a pyramid of feature maps, and attention maps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.formulas import Cost
from pvt_jax.errors import UserError
from pvt_jax.nn.classifier import Pool
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.ops.padding import Maps, shrunk, zero_outside
from pvt_jax.weight_names import BackboneWeights


class Backbone(nn.Module, kw_only=True):
    """Images [b, h, w, 3] (float, normalised) → logits, or a pyramid of feature maps with ``method="features"``.

    ``num_classes=0`` leaves out all that only a classifier uses, for dense tasks; then only ``features`` works.

    A subclass defines the compact method ``_forward(images, train, classify, sizes)``. It creates the same parameters
    with and without ``classify``, and its maps are correct in the valid region and arbitrary in the padding. It may add
    to ``parts``: patterns of the names of its outermost modules and parameters, and of functions, each with the part of
    the model's cost that it belongs to; the first match counts.

    Attributes:
      num_classes: of the classifier; 0 makes a backbone for ``features`` only.
      image_size: side, or (height, width), of the images that position tables are for, if the model has some; they are
        resized for others.
      drop_path_rate: stochastic depth rate of the last block, used when ``train`` is True.
      dtype: of the computation; parameters, softmax, normalisation statistics and logits stay float32.
      remat, scan: recompute blocks in the backward pass; compile one block per stage. See ``run_blocks``.
      spp_levels: grid sides of spatial pyramid pooling before the classifier, instead of class token or mean.
      pool: what the classifier reads: the class "token", or the "mean" or "max" of the last map; "" is what the
        family's paper has. A transformer with "mean" or "max" has no class token at all, as in "Better plain ViT
        baselines for ImageNet-1k" (arXiv 2205.01580); its position table keeps the token's slot.
    """

    num_classes: int
    image_size: int | Sequence[int] = 224
    drop_path_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False
    spp_levels: Sequence[int] = ()
    pool: Pool = ""

    parts: ClassVar[tuple[tuple[str, str], ...]] = ((r"stem|stage\d+|head", r"\g<0>"), (r"norm", "head"))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image for each position of ``c2`` … ``c5``."""
        return (4, 8, 16, 32)

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b k"]:
        """Logits [b, num_classes], float32. ``train=True`` needs ``rngs={"dropout": key}``.

        Raises:
          UserError: there is no classifier, or the images are too small for the model.
        """
        if self.num_classes == 0:
            raise UserError(
                'a backbone without classifier (num_classes=0) has no logits: call it with method="features"'
            )
        return self._forward(images, train=train, classify=True)

    def features(
        self, images: Float[Array, "b h w 3"], train: bool = False, sizes: Int[Array, "b 2"] | None = None
    ) -> Maps:
        """The pyramid for dense tasks: feature maps ``c2``, ``c3``, ``c4``, ``c5`` at strides 4, 8, 16 and 32.

        Where a model has other ``patch_sizes``, the strides follow from them: ``strides``.

        ``sizes`` are the (height, width) of each image in a batch padded at the bottom and right to one shape:
        multiples of the last stride, which may be traced. The maps then equal those of each image alone, and are 0 in
        the padding, whose pixels have no influence. Only ``train=True`` includes padding in a ResNet's batch
        statistics, as the references do.
        """
        if sizes is not None:
            images = zero_outside(images, sizes)
        pyramid = self._forward(images, train=train, classify=False, sizes=sizes)
        strides = zip(pyramid.items(), self.strides, strict=True)
        return {level: zero_outside(maps, shrunk(sizes, stride)) for (level, maps), stride in strides}

    def attention_maps(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"] | None = None
    ) -> dict[str, AttentionMap]:
        """The attention weights of every block by name (``stage1/block0``), in the classifier's forward pass.

        Without a classifier (``num_classes=0``), or with the ``sizes`` of padded images, they are those of
        ``features``. Memory grows with the fourth power of the image's side: at 224² the first stage of PVT has
        3136 × 49 weights per head.
        """
        # Rematerialised and scanned blocks cannot sow intermediates.
        plain = self.clone(parent=None, remat=False, scan=False)
        if self.num_classes == 0 or sizes is not None:
            method, given = "features", (images, False, sizes)
        else:
            method, given = "__call__", (images,)
        _, collected = plain.apply(self.variables, *given, mutable="intermediates", method=method)
        sown = jax.tree_util.tree_leaves_with_path(
            collected.get("intermediates", {}), is_leaf=lambda leaf: isinstance(leaf, AttentionMap)
        )
        maps = {"/".join(part.key for part in path[:-3]): leaf for path, leaf in sown if isinstance(leaf, AttentionMap)}
        if not maps:
            raise UserError(f"{type(self).__name__} has no attention: attention_maps is for the transformers")
        order = sorted(maps, key=lambda name: [int("".join(filter(str.isdigit, part))) for part in name.split("/")])
        return {name: maps[name] for name in order}

    @property
    def _has_token(self) -> bool:
        # Where the family has one.
        return self.pool in ("", "token")

    def _ends_with_maps(self, classify: bool) -> bool:
        # Initialisation always creates the classifier, so that parameters do not depend on the method that is called.
        return not classify and (self.num_classes == 0 or not self.is_initializing())

    def _forward(self, images: Array, train: bool, classify: bool, sizes: Array | None = None) -> Any:
        raise NotImplementedError


class Family(NamedTuple):
    """A family of backbones: its module, the settings of each named model, its weights, and its cost by part.

    ``cost`` takes a model and the height and width of an image; see ``cost.py``.
    """

    module: type[Backbone]
    variants: Mapping[str, Mapping[str, Any]]
    weights: BackboneWeights
    cost: Callable[[Any, int, int], dict[str, Cost]]
