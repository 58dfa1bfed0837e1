"""Semantic FPN."""

from pvt_jax.heads.base import ADE20K, Head
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.semantic_fpn.head import SemanticFPNHead
from pvt_jax.heads.semantic_fpn.weights import WEIGHTS
from pvt_jax.nn.fpn import FeaturePyramid

HEAD = Head(SegmentationModel, SemanticFPNHead, WEIGHTS, ADE20K, neck=FeaturePyramid)
