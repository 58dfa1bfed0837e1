"""Semantic segmentation: a backbone, a neck if the head needs one, and a head that gives per-pixel logits."""

from jaxtyping import Array, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.heads.base import DenseModel


class SegmentationModel(DenseModel):
    """Images [b, h, w, 3] (float, normalised) → logits [b, h/4, w/4, k] at stride 4, float32.

    Callers resize the logits to the images' size, as for SegFormer in transformers.

    The head is called as ``(maps, train, sizes)``, the neck as ``(maps, sizes)``.
    """

    task = "segmentation"

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
