"""Semantic segmentation: a backbone, a neck where the head needs one, and a head that gives class scores by pixel."""

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError


class SegmentationModel(nn.Module):
    """Images [b, h, w, 3] (float, normalised) → class scores [b, h/4, w/4, k] at stride 4, float32.

    Callers resample the scores to the images' size, as they do for SegFormer in transformers.

    Attributes:
      backbone: one without classifier (``num_classes=0``).
      head: ``(maps, train, sizes)`` → class scores.
      neck: ``(maps, sizes)`` → the maps that the head reads; None: those of the backbone.
    """

    backbone: Backbone
    head: nn.Module
    neck: nn.Module | None = None

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        train: bool = False,
        sizes: Int[Array, "b 2"] | None = None,
        train_backbone: bool | None = None,
    ) -> Float[Array, "b h4 w4 k"]:
        """Class scores. ``train=True`` needs ``rngs={"dropout": key}`` and ``mutable=["batch_stats"]``.

        ``sizes``, the (height, width) of each image, says where padded ones end: see ``Backbone.features``. What is
        given within is that of the image alone; what is given beyond has no meaning. ``train_backbone=False`` leaves a
        frozen backbone as in evaluation; by default it follows ``train``.

        Raises:
          UserError: the backbone takes no images of this size, or padded images are to be trained on.
        """
        if train and sizes is not None:
            raise UserError("sizes of padded images are for evaluation: batch norm would train on the padding too")
        maps = self.backbone.features(images, train if train_backbone is None else train_backbone, sizes)
        if self.neck is not None:
            maps = self.neck(maps, sizes)
        return self.head(maps, train, sizes)

    @property
    def num_classes(self) -> int:
        """Classes of the head."""
        return self.head.num_classes  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def dtype(self) -> DTypeLike:
        """Type of the computation."""
        return self.backbone.dtype  # pyright: ignore[reportAttributeAccessIssue]
