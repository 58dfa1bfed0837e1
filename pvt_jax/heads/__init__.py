"""Heads: the maps of a backbone → the prediction of a dense task. One folder a head, and one row here."""

from pvt_jax.heads.base import Head
from pvt_jax.heads.detr import HEAD as DETR
from pvt_jax.heads.mask_rcnn import FASTER_RCNN, MASK_RCNN, VIT_FRCNN
from pvt_jax.heads.retinanet import HEAD as RETINANET
from pvt_jax.heads.segformer import HEAD as SEGFORMER
from pvt_jax.heads.semantic_fpn import HEAD as SEMANTIC_FPN
from pvt_jax.heads.trans2seg import HEAD as TRANS2SEG

# Of heads with the same mark of their weights, the one that lacks what others have, or has more, comes first.
HEADS: dict[str, Head] = {
    "semantic_fpn": SEMANTIC_FPN,
    "segformer": SEGFORMER,
    "trans2seg": TRANS2SEG,
    "retinanet": RETINANET,
    "vit_frcnn": VIT_FRCNN,
    "mask_rcnn": MASK_RCNN,
    "faster_rcnn": FASTER_RCNN,
    "detr": DETR,
}
