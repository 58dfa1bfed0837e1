"""Object detection and instance segmentation: a backbone, a neck if the head needs one, and a detection head."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.heads.base import DenseModel
from pvt_jax.ops.padding import Maps

# Sides of padded batches are multiples of this, and so are those of the region of an image that the backbone sees.
MULTIPLE = 32


class DetectionModel(DenseModel):
    """Images [b, h, w, 3] (float, normalised) → a fixed number of detections per image, padded with invalid ones.

    Detections are a dict: ``boxes`` float32 [b, n, 4] (x1, y1, x2, y2) in input pixels, ``scores`` float32 [b, n] in
    descending order, ``labels`` int32 [b, n], ``valid`` bool [b, n], and, from a mask head, ``masks`` float32
    [b, n, 28, 28], probabilities on a grid that spans the box. Entries that are not valid are 0.

    The head has ``losses(maps, targets, sizes, region)`` and ``detect(maps, sizes, region)``; the neck is called as
    ``(maps, region)``. Maps are 0 outside ``region``, which is ``sizes`` rounded up to what the backbone sees; None: no
    image is padded further.
    """

    task = "detection"

    def __call__(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"] | None = None, padded: bool = True
    ) -> dict[str, Float[Array, "b n ..."] | Int[Array, "b n"] | Bool[Array, "b n"]]:
        """Detections, in evaluation mode.

        ``sizes`` are the (height, width) of each image without padding; None: no image is padded. Detections equal
        those of the image alone, padded to multiples of 32. ``padded=False`` promises that no image is padded further
        than that, which saves the masking; sizes then only clip the boxes.
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
        """The weighted terms of the loss by name; their sum is minimised.

        Needs ``rngs={"dropout": key, "sample": key}`` and ``mutable=["batch_stats"]``.

        Args:
          images: [b, h, w, 3], as above.
          targets: ground truth of m objects per image: ``boxes`` float32 [b, m, 4], ``labels`` int32 [b, m], ``valid``
            bool [b, m] (False: padding), and for a mask head ``masks`` uint8 [b, m, s, s], the coverage (0 … 255) of
            each cell of a grid that spans the object's box.
          sizes: as above.
          padded: as above.
          train_backbone: False runs a frozen backbone in evaluation mode.
        """
        sizes, region = _sizes_and_region(images, sizes, padded)
        maps = self._pyramid(images, train_backbone, region)
        return self.head.losses(maps, targets, sizes, region)  # pyright: ignore[reportAttributeAccessIssue]

    def pyramid(self, images: Float[Array, "b h w 3"], region: Int[Array, "b 2"] | None = None) -> Maps:
        """The feature maps that the head reads, in evaluation mode."""
        return self._pyramid(images, False, region)

    @property
    def needs_masks(self) -> bool:
        """Whether the head is trained with masks."""
        return self.head.needs_masks  # pyright: ignore[reportAttributeAccessIssue]

    def _pyramid(self, images: Array, train: bool, region: Array | None) -> dict[str, Array]:
        maps = self.backbone.features(images, train, region)
        return maps if self.neck is None else self.neck(maps, region)


def _sizes_and_region(images: Array, sizes: Array | None, padded: bool) -> tuple[Array, Array | None]:
    """Image sizes int32 [b, 2], and the region of each image that the backbone sees; None: everything."""
    if sizes is None:
        return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2)), None
    return sizes, -(-sizes // MULTIPLE) * MULTIPLE if padded else None
