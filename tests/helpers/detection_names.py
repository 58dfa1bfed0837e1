"""Names and shapes of the detectors of mmdetection 2 beside their backbones, by hand from its modules' definitions."""

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def pyramid(dims: Sequence[int], channels: int, extra: Sequence[int] = ()) -> Shapes:
    """``FPN`` of maps of these channels; ``extra`` are the input channels of the convolutions for further levels."""
    found: Shapes = {}
    for level, dim in enumerate(dims):
        found |= _layer(f"neck.lateral_convs.{level}.conv", channels, dim, 1, 1)
    for level, dim in enumerate([*(channels for _ in dims), *extra]):
        found |= _layer(f"neck.fpn_convs.{level}.conv", channels, dim, 3, 3)
    return found


def retinanet(
    dims: Sequence[int], num_classes: int, neck: int = 256, channels: int = 256, convs: int = 4, anchors: int = 9
) -> Shapes:
    """``FPN(start_level=1, add_extra_convs="on_input", num_outs=5)`` and ``RetinaHead``."""
    found = pyramid(dims[1:], neck, (dims[-1], neck))
    for tower in ("cls_convs", "reg_convs"):
        for i in range(convs):
            found |= _layer(f"bbox_head.{tower}.{i}.conv", channels, channels if i else neck, 3, 3)
    found |= _layer("bbox_head.retina_cls", anchors * num_classes, channels, 3, 3)
    return found | _layer("bbox_head.retina_reg", anchors * 4, channels, 3, 3)


def faster_rcnn(
    dims: Sequence[int], num_classes: int, neck: int = 256, channels: int = 256, hidden: int = 1024, anchors: int = 3
) -> Shapes:
    """``FPN(num_outs=5)``, whose last level has no parameters, ``RPNHead`` and ``Shared2FCBBoxHead``."""
    found = pyramid(dims, neck)
    found |= _layer("rpn_head.rpn_conv", channels, neck, 3, 3)
    found |= _layer("rpn_head.rpn_cls", anchors, channels, 1, 1)
    found |= _layer("rpn_head.rpn_reg", 4 * anchors, channels, 1, 1)
    found |= _layer("roi_head.bbox_head.fc_cls", num_classes + 1, hidden)
    found |= _layer("roi_head.bbox_head.fc_reg", 4 * num_classes, hidden)
    found |= _layer("roi_head.bbox_head.shared_fcs.0", hidden, 7 * 7 * neck)
    return found | _layer("roi_head.bbox_head.shared_fcs.1", hidden, hidden)


def mask_rcnn(
    dims: Sequence[int], num_classes: int, neck: int = 256, channels: int = 256, hidden: int = 1024
) -> Shapes:
    """``faster_rcnn`` with ``FCNMaskHead``."""
    found = faster_rcnn(dims, num_classes, neck, channels, hidden)
    for i in range(4):
        found |= _layer(f"roi_head.mask_head.convs.{i}.conv", channels, channels if i else neck, 3, 3)
    # The weight of a transposed convolution is [in, out, rows, columns].
    found |= _layer("roi_head.mask_head.upsample", channels, channels, 2, 2)
    return found | _layer("roi_head.mask_head.conv_logits", num_classes, channels, 1, 1)


def detr(
    dims: Sequence[int], num_classes: int, dim: int = 256, hidden: int = 2048, layers: int = 6, queries: int = 100
) -> Shapes:
    """``DETRHead`` of mmdetection 2.11 to 2.28, with its transformer inside."""
    found = _layer("bbox_head.input_proj", dim, dims[-1], 1, 1)
    found |= _layer("bbox_head.fc_cls", num_classes + 1, dim)
    found |= _layer("bbox_head.reg_ffn.layers.0.0", dim, dim)
    found |= _layer("bbox_head.reg_ffn.layers.1", dim, dim)
    found |= _layer("bbox_head.fc_reg", 4, dim)
    found["bbox_head.query_embedding.weight"] = (queries, dim)
    for part, attentions in (("encoder", 1), ("decoder", 2)):
        for i in range(layers):
            layer = f"bbox_head.transformer.{part}.layers.{i}"
            for j in range(attentions):
                found |= {f"{layer}.attentions.{j}.attn.in_proj_weight": (3 * dim, dim)}
                found |= {f"{layer}.attentions.{j}.attn.in_proj_bias": (3 * dim,)}
                found |= _layer(f"{layer}.attentions.{j}.attn.out_proj", dim, dim)
            found |= _layer(f"{layer}.ffns.0.layers.0.0", hidden, dim)
            found |= _layer(f"{layer}.ffns.0.layers.1", dim, hidden)
            for j in range(attentions + 1):
                found |= _layer(f"{layer}.norms.{j}", dim)
    return found | _layer("bbox_head.transformer.decoder.post_norm", dim)
