"""Mask R-CNN, Faster R-CNN, and ViT-FRCNN (arXiv 2012.09958)."""

from functools import partial

from pvt_jax.heads.base import COCO, Head
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.mask_rcnn import weights
from pvt_jax.heads.mask_rcnn.head import MaskRCNNHead
from pvt_jax.nn.fpn import FeaturePyramid, SingleMap

_PYRAMID = partial(FeaturePyramid, extra_levels="max_pool")
MASK_RCNN = Head(DetectionModel, MaskRCNNHead, weights.MASK_RCNN, COCO, neck=_PYRAMID)
FASTER_RCNN = Head(DetectionModel, MaskRCNNHead, weights.FASTER_RCNN, COCO, neck=_PYRAMID, settings={"masks": False})
# A plain ViT has a single map: the sizes of boxes are those of anchors, 32 to 512 pixels, rather than of levels. All
# proposals are of that map, so the limits are those of mmdetection's Faster R-CNN on one map (C4).
VIT_FRCNN = Head(
    DetectionModel,
    MaskRCNNHead,
    weights.VIT_FRCNN,
    COCO,
    neck=SingleMap,
    settings={
        "masks": False,
        "anchor_scales": (2, 4, 8, 16, 32),
        "train_pre_nms": 12_000,
        "train_proposals": 2000,
        "pre_nms": 6000,
    },
)
