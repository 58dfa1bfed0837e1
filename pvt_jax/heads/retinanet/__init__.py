"""RetinaNet."""

from functools import partial

from pvt_jax.heads.base import COCO, Head
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.retinanet.head import RetinaNetHead
from pvt_jax.heads.retinanet.weights import WEIGHTS
from pvt_jax.nn.fpn import FeaturePyramid

HEAD = Head(
    DetectionModel,
    RetinaNetHead,
    WEIGHTS,
    COCO,
    neck=partial(FeaturePyramid, first_level=3, extra_levels="convolution"),
)
