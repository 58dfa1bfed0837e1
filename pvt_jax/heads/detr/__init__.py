"""DETR."""

from pvt_jax.heads.base import COCO, Head
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.detr.head import DETRHead
from pvt_jax.heads.detr.weights import WEIGHTS

HEAD = Head(DetectionModel, DETRHead, WEIGHTS, COCO)
