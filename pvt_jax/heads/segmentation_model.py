"""Semantic segmentation: a backbone, a neck if the head needs one, and a head that gives per-pixel logits."""

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.errors import UserError


class SegmentationModel(nn.Module):
    """Images [b, h, w, 3] (float, normalised) → logits [b, h/4, w/4, k] at stride 4, float32.

    Callers resize the logits to the images' size, as for SegFormer in transformers.

    Attributes:
      backbone: without classifier (``num_classes=0``).
      head: ``(maps, train, sizes)`` → logits.
      neck: ``(maps, sizes)`` → the feature maps that the head reads; None: the backbone's.
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
        """Logits. ``train=True`` needs ``rngs={"dropout": key}`` and ``mutable=["batch_stats"]``.

        ``sizes`` are the (height, width) of padded images: see ``Backbone.features``. Logits in the valid region equal
        those of the image alone; the rest are to be discarded. ``train_backbone=False`` runs a frozen backbone in
        evaluation mode; by default it follows ``train``.

        Raises:
          UserError: the backbone takes no images of this size, or ``train`` meets padded images.
        """
        if train and sizes is not None:
            raise UserError("sizes of padded images are for evaluation: batch norm would include the padding")
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
        """Dtype of the computation."""
        return self.backbone.dtype  # pyright: ignore[reportAttributeAccessIssue]
