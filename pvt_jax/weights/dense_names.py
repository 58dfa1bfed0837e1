"""What mmsegmentation and mmdetection call the parameters of necks and heads, and how each head's tree is known.

Rows are patterns of paths as in ``names.py``, which reads them.
"""

from typing import NamedTuple

# Names of mmsegmentation and mmdetection, by paths from the part on. Their level 0 is the finest of a head's neck.
NECKS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple(
        (f"neck/{ours}{level}", f"neck.{theirs}.{level - finest}.conv")
        for level in range(finest, 8)
        for ours, theirs in (("lateral_c", "lateral_convs"), ("output_p", "fpn_convs"))
    )
    for name, finest in (("neck", 2), ("neck_from_c3", 3), ("neck_of_c4", 4))
}
# Every other place of a branch of Semantic FPN is an upsampling, which has no parameters.
_SEMANTIC_FPN = tuple(
    (f"head/branch_p{level + 2}/{ours}{j}", f"decode_head.scale_heads.{level}.{2 * j}.{theirs}")
    for level in range(4)
    for j in range(max(level, 1))
    for ours, theirs in (("conv", "conv"), ("norm", "bn"))
)


class Head(NamedTuple):
    """What is known of a dense head's tree and of the files of others.

    Attributes:
      mark: the path that only this head has; its name is also what only files of such a head have.
      classifier: the path of its weights by class, and the axis of the classes.
      rows: its names; empty if no files of others are read, as their numbers would stand for something else.
      unused: a module of those files, or of those of a head that has all of this one's names, that takes no part.
      neck: which of ``NECKS`` names the levels of its neck.
      background: outputs of the classifier that are no class.
      regressor: where there are classes for each of several anchors, the path of their four numbers each.
      lacks: a path that another head with the same mark has and this one has not.
    """

    mark: str
    classifier: tuple[str, int]
    rows: tuple[tuple[str, str], ...] = ()
    unused: str | None = None
    neck: str = "neck"
    background: int = 0
    regressor: str = ""
    lacks: str = ""

    def num_classes(self, outputs: int, regressed: int = 4) -> int:
        """Classes of a classifier with so many outputs, beside a regressor of ``regressed`` ones."""
        return outputs // max(regressed // 4, 1) - self.background

    def takes_no_part(self, name: str) -> bool:
        """Whether a file's tensor is of the module that takes no part."""
        return self.unused is not None and f".{self.unused}." in f".{name}"


_LINEAR_CLASSIFIER = ("params/head/classifier/kernel", 1)
_RETINANET = (
    (r"head/class_conv(\d)", r"bbox_head.cls_convs.\1.conv"),
    (r"head/box_conv(\d)", r"bbox_head.reg_convs.\1.conv"),
    (r"head/classifier", r"bbox_head.retina_cls"),
    (r"head/regressor", r"bbox_head.retina_reg"),
)
_FASTER_RCNN = (
    (r"head/rpn/conv", r"rpn_head.rpn_conv"),
    (r"head/rpn/classifier", r"rpn_head.rpn_cls"),
    (r"head/rpn/regressor", r"rpn_head.rpn_reg"),
    (r"head/box/fc(\d)", r"roi_head.bbox_head.shared_fcs.\1"),
    (r"head/box/classifier", r"roi_head.bbox_head.fc_cls"),
    (r"head/box/regressor", r"roi_head.bbox_head.fc_reg"),
)
_MASKS = (
    (r"head/mask/conv(\d)", r"roi_head.mask_head.convs.\1.conv"),
    (r"head/mask/upsample", r"roi_head.mask_head.upsample"),
    (r"head/mask/classifier", r"roi_head.mask_head.conv_logits"),
)
_BOX_CLASSIFIER = ("params/head/box/classifier/kernel", 1)
_LAYER, _LAYER_THERE = r"head/(encoder|decoder)/layer(\d+)", r"bbox_head.transformer.\1.layers.\2"
_DETR = (
    ("head/input_proj", "bbox_head.input_proj"),
    ("head/queries", "bbox_head.query_embedding.weight"),
    *(
        (f"{_LAYER}/{ours}", f"{_LAYER_THERE}.attentions.{number}.attn.{theirs}")
        for number, attention in enumerate(("(?:self_)?attn", "cross_attn"))
        for ours, theirs in (
            (f"{attention}/proj", "out_proj"),
            # PyTorch's attention keeps its first three matrices in one, and their biases.
            (f"{attention}/[qkv]/kernel", "in_proj_weight"),
            (f"{attention}/[qkv]/bias", "in_proj_bias"),
        )
    ),
    (f"{_LAYER}/mlp/fc1", f"{_LAYER_THERE}.ffns.0.layers.0.0"),
    (f"{_LAYER}/mlp/fc2", f"{_LAYER_THERE}.ffns.0.layers.1"),
    *((f"{_LAYER}/norm{number + 1}", f"{_LAYER_THERE}.norms.{number}") for number in range(3)),
    ("head/decoder/norm", "bbox_head.transformer.decoder.post_norm"),
    ("head/classifier", "bbox_head.fc_cls"),
    ("head/box_mlp/fc0", "bbox_head.reg_ffn.layers.0.0"),
    ("head/box_mlp/fc1", "bbox_head.reg_ffn.layers.1"),
    ("head/box_mlp/fc2", "bbox_head.fc_reg"),
)
HEADS: dict[str, Head] = {
    "semantic_fpn": Head(
        "params/head/branch_p2/conv0/kernel",
        _LINEAR_CLASSIFIER,
        (*_SEMANTIC_FPN, ("head/classifier", "decode_head.conv_seg")),
    ),
    "segformer": Head(
        "params/head/linear_c2/kernel",
        _LINEAR_CLASSIFIER,
        (
            *((f"head/linear_c{level + 1}", f"decode_head.linear_c{level}.proj") for level in range(1, 5)),
            ("head/fuse", "decode_head.linear_fuse.conv"),
            ("head/norm", "decode_head.linear_fuse.bn"),
            ("head/classifier", "decode_head.linear_pred"),
        ),
        # Every decoder of mmsegmentation makes this classifier. The SegFormer of 2021 then made another.
        "decode_head.conv_seg",
    ),
    "trans2seg": Head("params/head/class_queries", ("params/head/class_queries", 1)),
    # Its mark is not a tower: the dense heads of others have them too.
    "retinanet": Head(
        "params/head/regressor/kernel",
        ("params/head/classifier/kernel", 3),
        _RETINANET,
        neck="neck_from_c3",
        regressor="params/head/regressor/kernel",
    ),
    # Of several with the same mark the one that lacks what others have, or has more, stands first.
    "vit_frcnn": Head(
        "params/head/box/fc0/kernel",
        _BOX_CLASSIFIER,
        (*_FASTER_RCNN, *_MASKS),
        neck="neck_of_c4",
        background=1,
        lacks="params/neck/lateral_c5/kernel",
    ),
    "mask_rcnn": Head("params/head/mask/conv0/kernel", _BOX_CLASSIFIER, (*_FASTER_RCNN, *_MASKS), background=1),
    "faster_rcnn": Head(
        "params/head/box/fc0/kernel", _BOX_CLASSIFIER, _FASTER_RCNN, "roi_head.mask_head", background=1
    ),
    "detr": Head("params/head/queries", _LINEAR_CLASSIFIER, _DETR, background=1),
}
