"""The cases of ``compare_pytorch.py``: models, input sizes, and differences in parameter counts."""

import argparse
import re

WIDE = (64, 128, 320, 512)
# Depths and dims, from the papers; the rest is the same for all sizes of a family.
CLASSIFIERS = {
    "pvt_tiny": ((2, 2, 2, 2), WIDE),
    "pvt_small": ((3, 4, 6, 3), WIDE),
    "pvt_medium": ((3, 4, 18, 3), WIDE),
    "pvt_v2_b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "pvt_v2_b1": ((2, 2, 2, 2), WIDE),
    "pvt_v2_b2": ((3, 4, 6, 3), WIDE),
}
SEGMENTERS = ("mit_b0+segformer", "pvt_tiny+semantic_fpn")
DETECTORS = ("resnet50+retinanet", "resnet50+mask_rcnn")

# Of classifiers, segmenters and detectors.
IMAGE_CLASSES, PIXEL_CLASSES, OBJECT_CLASSES = 1000, 150, 80
# Ground truth objects per image when training a detector.
OBJECTS = 10

# Parameters of the baseline minus ours; None: it is another model. torchvision's Mask R-CNN has unused background
# outputs: four box deltas of 1,024 weights and a bias, and a mask channel of 256 weights and a bias.
MORE_PARAMETERS: dict[str, int | None] = {
    "pvt_tiny+semantic_fpn": None,
    "resnet50+mask_rcnn": 4 * (1024 + 1) + 256 + 1,
}


def image_size(text: str) -> tuple[int, int]:
    """(height, width) from text such as 800x1344, or 224 for a square."""
    if not re.fullmatch(r"[1-9]\d*([x×][1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an image size: give it as 224 or 800x1344")
    sides = [int(side) for side in re.split("[x×]", text)]
    return sides[0], sides[-1]
