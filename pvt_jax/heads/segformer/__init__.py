"""SegFormer's head."""

from pvt_jax.heads.base import ADE20K, Head
from pvt_jax.heads.segformer.head import SegFormerHead
from pvt_jax.heads.segformer.weights import WEIGHTS
from pvt_jax.heads.segmentation_model import SegmentationModel

HEAD = Head(
    SegmentationModel,
    SegFormerHead,
    WEIGHTS,
    ADE20K,
    by_backbone={f"mit_b{size}": {"channels": 768} for size in (2, 3, 4, 5)},
)
