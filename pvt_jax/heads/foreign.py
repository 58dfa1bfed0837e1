"""Heads of others that no model here has: a file of theirs is refused by name."""

# Whose head, by how names of its modules begin; what only one has comes before what many have.
FOREIGN_HEADS = {
    "decode_head.fusion_conv.": "mmsegmentation's own head of SegFormer, with a norm for every level",
    "rpn_head.init_proposal_features.": "Sparse R-CNN's",
    "roi_head.bbox_head.0.": "Cascade R-CNN's",
    "bbox_head.atss_cls.": "ATSS's",
    "bbox_head.gfl_cls.": "GFL's",
    "bbox_head.conv_centerness.": "FCOS's",
    "bbox_head.cls_branches.": "a later DETR's",
    # Its background is the first class.
    "bbox_head.shared_fcs.": "of mmdetection 1",
    "bbox_head.": "a detector's",
    "rpn_head.": "a detector's",
    "roi_head.": "a detector's",
    # Its decoders have names such as decoder.blocks, of Unet and others.
    "segmentation_head.": "a decoder of segmentation_models_pytorch",
}
