"""Models: image → pyramid → prediction. ``MODELS`` and ``HEADS`` are the registries: one name, one factory.

``MODELS`` has what makes a pyramid of an image, or classes; ``HEADS`` what stands on it for a dense task. A new head is
a module in ``heads/`` and a row of ``HEADS``.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from pvt_jax.backbones.pvt import model as pvt
from pvt_jax.backbones.pvt_v2 import model as pvt_v2
from pvt_jax.backbones.resnet import model as resnet
from pvt_jax.backbones.vit import model as vit
from pvt_jax.errors import UserError
from pvt_jax.fields import checked, types_of
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.detr.head import DETRHead
from pvt_jax.heads.mask_rcnn.head import MaskRCNNHead
from pvt_jax.heads.retinanet.head import RetinaNetHead
from pvt_jax.heads.segformer.head import SegFormerHead
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.semantic_fpn.head import SemanticFPNHead
from pvt_jax.heads.trans2seg.head import Trans2SegHead
from pvt_jax.nn.fpn import FeaturePyramid, SingleMap

MODELS: dict[str, partial[nn.Module]] = {
    **{name: partial(pvt.PyramidVisionTransformer, **sizes) for name, sizes in pvt.VARIANTS.items()},
    **{name: partial(pvt_v2.PyramidVisionTransformerV2, **sizes) for name, sizes in pvt_v2.VARIANTS.items()},
    **{name: partial(vit.VisionTransformer, **sizes) for name, sizes in vit.VARIANTS.items()},
    **{name: partial(resnet.ResNet, **sizes) for name, sizes in resnet.VARIANTS.items()},
}


@dataclasses.dataclass(frozen=True)
class DenseModel:
    """What is built on a backbone under the name of a head.

    Attributes:
      model: the whole: takes ``backbone``, ``head`` and ``neck``.
      head: takes ``num_classes``, ``dtype`` and settings of its own.
      num_classes: unless told, those of the data set that published weights are for.
      neck: what the head's maps come from, where they are not the backbone's own; takes ``channels`` and ``dtype``.
      settings: of the head, where they are not its own defaults.
      by_backbone: settings of the head that its paper has for some backbones, by their names.
    """

    model: type[nn.Module]
    head: type[nn.Module]
    num_classes: int
    neck: Callable[..., nn.Module] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    by_backbone: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


_ADE20K, _COCO = 150, 80
_PYRAMID_OF_BOXES = partial(FeaturePyramid, extra_levels="max_pool")
HEADS: dict[str, DenseModel] = {
    "semantic_fpn": DenseModel(SegmentationModel, SemanticFPNHead, _ADE20K, neck=FeaturePyramid),
    "segformer": DenseModel(
        SegmentationModel,
        SegFormerHead,
        _ADE20K,
        by_backbone={f"mit_b{size}": {"channels": 768} for size in (2, 3, 4, 5)},
    ),
    "trans2seg": DenseModel(SegmentationModel, Trans2SegHead, _ADE20K),
    "retinanet": DenseModel(
        DetectionModel,
        RetinaNetHead,
        _COCO,
        neck=partial(FeaturePyramid, first_level=3, extra_levels="convolution"),
    ),
    "mask_rcnn": DenseModel(DetectionModel, MaskRCNNHead, _COCO, neck=_PYRAMID_OF_BOXES),
    "faster_rcnn": DenseModel(DetectionModel, MaskRCNNHead, _COCO, neck=_PYRAMID_OF_BOXES, settings={"masks": False}),
    # Of one map, as a plain ViT has it: sizes of boxes are those of anchors, 32 to 512 pixels, and not of levels. All
    # proposals are of that map, so it has the limits that mmdetection's Faster R-CNN of one map (C4) has.
    "vit_frcnn": DenseModel(
        DetectionModel,
        MaskRCNNHead,
        _COCO,
        neck=SingleMap,
        settings={
            "masks": False,
            "anchor_scales": (2, 4, 8, 16, 32),
            "train_pre_nms": 12_000,
            "train_proposals": 2000,
            "pre_nms": 6000,
        },
    ),
    "detr": DenseModel(DetectionModel, DETRHead, _COCO),
}


def list_models() -> list[str]:
    """Names of all models, sorted."""
    return sorted(MODELS)


def list_heads() -> list[str]:
    """Names of all heads, sorted."""
    return sorted(HEADS)


def create_model(
    name: str, head: str = "", head_settings: Mapping[str, Any] | None = None, **settings: Any
) -> nn.Module:
    """The model called ``name``; ``settings`` are the attributes of its module, as ``num_classes=1000``.

    With a ``head`` it is a dense model, whose backbone ``name`` is, without a classifier: ``num_classes`` are the
    head's, and ``head_settings`` the attributes of its module, and ``neck_channels`` where it has a neck.

    Raises:
      UserError: no model or head has this name, or its module has no such attribute.
    """
    _check_name("model", name, MODELS)
    factory = MODELS[name]
    settings = checked(f"model {name!r}", "model", settings, types_of(factory.func))
    if not head:
        if head_settings:
            raise UserError(f"settings of a head without a head: name one of {', '.join(list_heads())}")
        return factory(**{"num_classes": 1000, **settings})

    _check_name("head", head, HEADS)
    if settings.get("spp_levels"):
        raise UserError("model.spp_levels is for the classifier, and a dense model has none: leave it out")
    row = HEADS[head]
    chosen = {**row.settings, **row.by_backbone.get(name, {}), **(head_settings or {})}
    known = {setting: kind for setting, kind in types_of(row.head).items() if setting not in ("num_classes", "dtype")}
    chosen = checked(f"head {head!r}", "head", chosen, known if row.neck is None else {**known, "neck_channels": int})
    of_neck = {"channels": chosen.pop("neck_channels")} if "neck_channels" in chosen else {}
    shared = {"dtype": settings["dtype"]} if "dtype" in settings else {}
    return row.model(
        backbone=factory(**{**settings, "num_classes": 0}),
        head=row.head(num_classes=settings.get("num_classes", row.num_classes), **shared, **chosen),
        neck=None if row.neck is None else row.neck(**shared, **of_neck),
    )


def _check_name(kind: str, name: str, registry: Iterable[str]) -> None:
    if name not in registry:
        nearest = difflib.get_close_matches(name, registry, 1, 0.0)[0]
        raise UserError(
            f"unknown {kind} {name!r}: did you mean {nearest!r}? The {kind}s are {', '.join(sorted(registry))}"
        )
