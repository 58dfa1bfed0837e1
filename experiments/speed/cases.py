"""What the scripts of this folder compare: models, sizes, frameworks, and differences in parameter counts."""

import argparse
import re
from dataclasses import dataclass

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
MODES, DTYPES, DEVICES = ("infer", "train"), ("float32", "bfloat16"), ("cpu", "cuda")

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


@dataclass(frozen=True)
class Side:
    """Who computes a step.

    Attributes:
      framework: "jax" for ours, "torch" for a baseline.
      kernels: whether ours may use the kernels of ``pvt_jax.ops.kernels``.
      library: of the baseline; empty: Hugging Face's transformers, or torchvision for detectors.
      compiled: the baseline by ``torch.compile``; otherwise it is eager.
    """

    framework: str
    kernels: bool = True
    library: str = ""
    compiled: bool = False


SIDES = {
    "jax": Side("jax"),
    "jax-plain": Side("jax", kernels=False),
    "torch": Side("torch"),
    "torch-compiled": Side("torch", compiled=True),
    "timm": Side("torch", library="timm"),
    "timm-compiled": Side("torch", library="timm", compiled=True),
}


@dataclass(frozen=True)
class Case:
    """What each side computes: a step of ``model``, and on which device."""

    model: str
    mode: str
    dtype: str = "float32"
    batch_size: int = 16
    image_size: tuple[int, int] = (224, 224)
    device: str = "cpu"


def image_size(text: str) -> tuple[int, int]:
    """(height, width) from text such as 800x1344, or 224 for a square."""
    if not re.fullmatch(r"[1-9]\d*([x×][1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an image size: give it as 224 or 800x1344")
    sides = [int(side) for side in re.split("[x×]", text)]
    return sides[0], sides[-1]


def problem(case: Case, sides: tuple[str, ...]) -> str:
    """Why these sides cannot compute this case; empty if they can."""
    if case.model in CLASSIFIERS and len(set(case.image_size)) > 1:
        return f"Hugging Face's {case.model} takes only square images: give --image_size as 224"
    if case.model in DETECTORS and case.dtype != "float32":
        return f"the baseline of {case.model} runs in float32 alone: leave --dtype {case.dtype} away"
    if not case.model.startswith("pvt_v2") and any(SIDES[side].library == "timm" for side in sides):
        return f"timm has no {case.model}: leave timm out of --sides"
    return ""
