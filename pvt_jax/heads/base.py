"""What every dense model and every row of the registry of heads consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.backbones.base import Backbone
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.ops.nms import nms
from pvt_jax.weight_names import HeadWeights


class DenseModel(nn.Module):
    """A backbone, a neck where the head needs one, and a head: the parts of every model of a dense task.

    Attributes:
      backbone: one without classifier (``num_classes=0``).
      head: makes the prediction from feature maps.
      neck: makes the feature maps that the head reads; None: those of the backbone.
    """

    backbone: Backbone
    head: nn.Module
    neck: nn.Module | None = None

    # The name of the task that these models are for.
    task: ClassVar[str]

    def attention_maps(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"] | None = None
    ) -> dict[str, AttentionMap]:
        """The attention weights of the backbone's blocks; see ``Backbone.attention_maps``."""
        return self.backbone.attention_maps(images, sizes)

    @property
    def num_classes(self) -> int:
        """Classes of the head."""
        return self.head.num_classes  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def dtype(self) -> DTypeLike:
        """Type of the computation."""
        return self.backbone.dtype  # pyright: ignore[reportAttributeAccessIssue]


def detections(
    boxes: Float[Array, "*b n 4"], scores: Float[Array, "*b n"], labels: Int[Array, "*b n"], valid: Bool[Array, "*b n"]
) -> dict[str, Array]:
    """Detections as ``DetectionModel`` returns them: 0 where they are not ``valid``."""
    return {
        "boxes": jnp.where(valid[..., None], boxes, 0.0),
        "scores": jnp.where(valid, scores, 0.0),
        "labels": jnp.where(valid, labels, 0),
        "valid": valid,
    }


def best_detections(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    threshold: float,
    count: int,
) -> dict[str, Array]:
    """The best ``count`` detections of one image after per-class NMS with this IoU ``threshold``."""
    chosen, kept = nms(boxes, scores, threshold=threshold, max_outputs=count, labels=labels, valid=valid)
    return detections(boxes[chosen], scores[chosen], labels[chosen], kept)


@dataclass(frozen=True)
class Head:
    """What is built on a backbone under the name of a head, and what is known of its weights.

    Attributes:
      model: the whole model.
      head: its fields are the settings of the head; ``num_classes`` and ``dtype`` are the model's.
      weights: names and published files.
      num_classes: default number of classes; unused if the head has no such field.
      neck: takes ``channels`` and ``dtype``; None if the head reads the backbone's maps.
      settings: of the head, where they differ from its defaults.
      by_backbone: settings of the head that its paper has for some backbones, by their names.
    """

    model: type[DenseModel]
    head: type[nn.Module]
    weights: HeadWeights
    num_classes: int = 0
    neck: Callable[..., nn.Module] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_backbone: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The linear map that ends many heads.
CLASSIFIER = ("params/head/classifier/kernel", "params/head/classifier/bias")
