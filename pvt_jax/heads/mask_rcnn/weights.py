"""Weights of Mask R-CNN and Faster R-CNN: mmdetection's names."""

from dataclasses import replace

import numpy as np

from pvt_jax.weight_names import PLAIN, POINTWISE, TRANSPOSED, HeadWeights, Layout, feature_pyramid_names, table

# Cells of what RoIAlign gives to the box head.
_CELLS = 7 * 7


def _cells_first(kernel: np.ndarray) -> np.ndarray:
    if kernel.ndim != 2 or kernel.shape[1] % _CELLS:
        return PLAIN.to_ours(kernel)
    outputs, inputs = kernel.shape
    return kernel.reshape(outputs, -1, _CELLS).transpose(2, 1, 0).reshape(inputs, outputs)


def _channels_first(kernel: np.ndarray) -> np.ndarray:
    inputs, outputs = kernel.shape
    return kernel.reshape(_CELLS, -1, outputs).transpose(2, 1, 0).reshape(outputs, inputs)


# Flattened features are [channels, rows, columns] there, [rows, columns, channels] here.
_AFTER_ROI_ALIGN = Layout(_cells_first, _channels_first)

_BOXES = table(
    (r"head/rpn/conv", r"rpn_head.rpn_conv"),
    (r"head/rpn/classifier", r"rpn_head.rpn_cls", POINTWISE),
    (r"head/rpn/regressor", r"rpn_head.rpn_reg", POINTWISE),
    (r"head/box/fc0", r"roi_head.bbox_head.shared_fcs.0", _AFTER_ROI_ALIGN),
    (r"head/box/fc1", r"roi_head.bbox_head.shared_fcs.1"),
    (r"head/box/classifier", r"roi_head.bbox_head.fc_cls"),
    (r"head/box/regressor", r"roi_head.bbox_head.fc_reg"),
)
_MASKS = table(
    (r"head/mask/conv(\d)", r"roi_head.mask_head.convs.\1.conv"),
    (r"head/mask/upsample", r"roi_head.mask_head.upsample", TRANSPOSED),
    (r"head/mask/classifier", r"roi_head.mask_head.conv_logits", POINTWISE),
)

MASK_RCNN = HeadWeights(
    mark="params/head/mask/conv0/kernel",
    classifier=tuple(
        f"params/head/{module}/{leaf}"
        for module in ("box/classifier", "box/regressor", "mask/classifier")
        for leaf in ("kernel", "bias")
    ),
    background=1,
    rows=(*_BOXES, *_MASKS),
)
FASTER_RCNN = replace(MASK_RCNN, mark="params/head/box/fc0/kernel", rows=_BOXES, unused="roi_head.mask_head")
VIT_FRCNN = replace(
    MASK_RCNN, mark="params/head/box/fc0/kernel", lacks="params/neck/lateral_c5/kernel", neck=feature_pyramid_names(4)
)
