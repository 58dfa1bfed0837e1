"""Object detection and instance segmentation: a backbone, a neck where the head needs one, and a head of boxes."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.backbones.base import Backbone

# The sides of padded images are multiples of it, and so are those of the region that a backbone sees of an image.
MULTIPLE = 32


class DetectionModel(nn.Module):
    """Images [b, h, w, 3] (float, normalised) → a fixed number of detections an image, of which some are valid.

    Detections are a dict: ``boxes`` float32 [b, n, 4] (x1, y1, x2, y2) in pixels of the images given, ``scores``
    float32 [b, n], falling, ``labels`` int32 [b, n], ``valid`` bool [b, n], and, of a head of masks, ``masks`` float32
    [b, n, 28, 28], the probability of each cell of the box. What is not valid is 0.

    Attributes:
      backbone: one without classifier (``num_classes=0``).
      head: has ``losses(maps, targets, sizes, region)`` and ``detect(maps, sizes, region)``.
      neck: ``(maps, region)`` → the maps that the head reads; None: those of the backbone.
    """

    backbone: Backbone
    head: nn.Module
    neck: nn.Module | None = None

    def __call__(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"] | None = None, padded: bool = True
    ) -> dict[str, Float[Array, "b n ..."] | Int[Array, "b n"] | Bool[Array, "b n"]]:
        """Detections, in evaluation mode.

        ``sizes``, the (height, width) of each image, says where padded ones end: what is detected in an image is what
        is detected in it alone, padded to multiples of 32. ``padded=False`` promises that no image is padded further,
        which saves the masking; sizes then only clip the boxes. None: all images fill the batch.
        """
        sizes, region = _sizes_and_region(images, sizes, padded)
        maps = self._pyramid(images, False, region)
        return self.head.detect(maps, sizes, region)  # pyright: ignore[reportAttributeAccessIssue]

    def losses(
        self,
        images: Float[Array, "b h w 3"],
        targets: dict[str, Any],
        sizes: Int[Array, "b 2"] | None = None,
        padded: bool = True,
        train_backbone: bool = True,
    ) -> dict[str, Float[Array, ""]]:
        """The parts of the loss by name, weighted; their sum is minimised.

        Needs ``rngs={"dropout": key, "sample": key}`` and ``mutable=["batch_stats"]``.

        Args:
          images: [b, h, w, 3], as above.
          targets: of m objects an image: ``boxes`` float32 [b, m, 4], ``labels`` int32 [b, m], ``valid`` bool [b, m]
            (which of them there are), and for a head of masks ``masks`` uint8 [b, m, s, s], the coverage (0 … 255) of
            each cell of an object's box.
          sizes: as above.
          padded: as above.
          train_backbone: False leaves a frozen backbone as in evaluation.
        """
        sizes, region = _sizes_and_region(images, sizes, padded)
        maps = self._pyramid(images, train_backbone, region)
        return self.head.losses(maps, targets, sizes, region)  # pyright: ignore[reportAttributeAccessIssue]

    def pyramid(
        self, images: Float[Array, "b h w 3"], region: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, "b _h _w _c"]]:
        """The maps that the head reads, in evaluation mode."""
        return self._pyramid(images, False, region)

    @property
    def num_classes(self) -> int:
        """Classes of the head."""
        return self.head.num_classes  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def needs_masks(self) -> bool:
        """Whether the head is trained with masks."""
        return self.head.needs_masks  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def dtype(self) -> DTypeLike:
        """Type of the computation."""
        return self.backbone.dtype  # pyright: ignore[reportAttributeAccessIssue]

    def _pyramid(self, images: Array, train: bool, region: Array | None) -> dict[str, Array]:
        maps = self.backbone.features(images, train, region)
        return maps if self.neck is None else self.neck(maps, region)


def _sizes_and_region(images: Array, sizes: Array | None, padded: bool) -> tuple[Array, Array | None]:
    """True sizes int32 [b, 2], and what the backbone sees of each image; None for the region if that is all."""
    if sizes is None:
        return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2)), None
    return sizes, -(-sizes // MULTIPLE) * MULTIPLE if padded else None
