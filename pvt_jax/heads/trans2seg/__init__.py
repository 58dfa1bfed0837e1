"""Trans2Seg's head."""

from pvt_jax.heads.base import ADE20K, Head
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.trans2seg.head import Trans2SegHead
from pvt_jax.heads.trans2seg.weights import WEIGHTS

HEAD = Head(SegmentationModel, Trans2SegHead, WEIGHTS, ADE20K)
