"""Heads: the maps of a backbone → the prediction of a dense task. One folder a head, and one row here."""

from functools import partial

from pvt_jax.heads.base import Head
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.detr import weights as detr
from pvt_jax.heads.detr.head import DETRHead
from pvt_jax.heads.mask_rcnn import weights as mask_rcnn
from pvt_jax.heads.mask_rcnn.head import MaskRCNNHead
from pvt_jax.heads.retinanet import weights as retinanet
from pvt_jax.heads.retinanet.head import RetinaNetHead
from pvt_jax.heads.segformer import weights as segformer
from pvt_jax.heads.segformer.head import SegFormerHead
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.semantic_fpn import weights as semantic_fpn
from pvt_jax.heads.semantic_fpn.head import SemanticFPNHead
from pvt_jax.heads.trans2seg import weights as trans2seg
from pvt_jax.heads.trans2seg.head import Trans2SegHead
from pvt_jax.nn.fpn import FeaturePyramid, SingleMap

# Classes of the data sets that published weights are for.
_ADE20K, _COCO = 150, 80
_BOX_PYRAMID = partial(FeaturePyramid, extra_levels="max_pool")

# Of heads with the same mark of their weights, the one that lacks what others have, or has more, comes first.
HEADS: dict[str, Head] = {
    "semantic_fpn": Head(SegmentationModel, SemanticFPNHead, semantic_fpn.WEIGHTS, _ADE20K, FeaturePyramid),
    "segformer": Head(
        SegmentationModel,
        SegFormerHead,
        segformer.WEIGHTS,
        _ADE20K,
        by_backbone={f"mit_b{size}": {"channels": 768} for size in (2, 3, 4, 5)},
    ),
    "trans2seg": Head(SegmentationModel, Trans2SegHead, trans2seg.WEIGHTS, _ADE20K),
    "retinanet": Head(
        DetectionModel,
        RetinaNetHead,
        retinanet.WEIGHTS,
        _COCO,
        partial(FeaturePyramid, first_level=3, extra_levels="convolution"),
    ),
    # A plain ViT has a single map (arXiv 2012.09958): the sizes of boxes are those of anchors, 32 to 512 pixels, rather
    # than of levels. All proposals are of that map, so the limits are those of mmdetection's Faster R-CNN on one (C4).
    "vit_frcnn": Head(
        DetectionModel,
        MaskRCNNHead,
        mask_rcnn.VIT_FRCNN,
        _COCO,
        SingleMap,
        settings={
            "masks": False,
            "anchor_scales": (2, 4, 8, 16, 32),
            "train_pre_nms": 12_000,
            "train_proposals": 2000,
            "pre_nms": 6000,
        },
    ),
    "mask_rcnn": Head(DetectionModel, MaskRCNNHead, mask_rcnn.MASK_RCNN, _COCO, _BOX_PYRAMID),
    "faster_rcnn": Head(DetectionModel, MaskRCNNHead, mask_rcnn.FASTER_RCNN, _COCO, _BOX_PYRAMID, {"masks": False}),
    "detr": Head(DetectionModel, DETRHead, detr.WEIGHTS, _COCO),
}
