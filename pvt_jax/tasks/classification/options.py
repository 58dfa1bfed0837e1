"""Keys of a config that classification reads."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pvt_jax.errors import UserError
from pvt_jax.fields import key, section
from pvt_jax.tasks.options import (
    RESAMPLING,
    BatchTransformOptions,
    Interpolation,
    LossOptions,
    Resize,
    TaskConfig,
    TransformOptions,
)


@dataclass(frozen=True)
class ImageTransformOptions(TransformOptions):
    """Augmentation on the host, image by image; see pvt_jax/tasks/classification/transforms.py."""

    crop: Literal["resized", "padded", "none"] = key(
        "resized", "resized: random area and aspect ratio; padded: zero padding, then a random crop; none: resize only."
    )
    crop_scale: tuple[float, float] = key((0.08, 1.0), "Range of the share of the area that a crop keeps.", at_least=0)
    crop_ratio: tuple[float, float] = key((3 / 4, 4 / 3), "Range of a crop's aspect ratio.", at_least=0)
    pad: int = key(0, "Pixels of zero padding on each side.", at_least=0)
    policy: str = key("", "RandAugment, as rand-m9-mstd0.5-inc1; empty for none.")
    fast_resize: bool = key(
        False,
        "Resize training images with cykooz_resizer, of the extra fast, in place of Pillow: the same filter in a "
        "quarter of the time, rounded otherwise.",
    )
    reduced_decoding: bool = key(
        False,
        "Decode JPEG files at a half, a quarter or an eighth of their size where the crop then still has the size of "
        "model.image_size; for photographs of many pixels.",
    )
    eval_crop_fraction: float = key(
        224 / 256,
        "Share of the resized sides that the centre crop of the evaluation keeps.",
        above=0,
        at_most=1,
    )
    eval_resize: Literal["crop", "squash"] = key(
        "crop",
        "What is resized in evaluation, to model.image_size divided by eval_crop_fraction. crop: the shorter side, "
        "keeping the aspect ratio; squash: both sides, as image processors of transformers do.",
    )
    eval_interpolation: Interpolation = key("bicubic", "Filter of the evaluation's resizing, antialiased.")
    test_flip: bool = key(False, "Evaluate with the mean logits of an image and its mirror image.", free=True)


@dataclass(frozen=True)
class MixOptions(BatchTransformOptions):
    """What the jitted step does to a whole batch; see pvt_jax/tasks/classification/mixing.py."""

    mixup_alpha: float = key(0.0, "Parameter of mixup's Beta distribution; 0 is off.", at_least=0)
    cutmix_alpha: float = key(0.0, "Parameter of CutMix's Beta distribution; 0 is off.", at_least=0)
    mix_probability: float = key(1.0, "Probability that a batch is mixed.", at_least=0, at_most=1)
    switch_probability: float = key(0.5, "Probability of CutMix where both are on.", at_least=0, at_most=1)
    label_smoothing: float = key(0.0, "Share of the target spread over all classes.", at_least=0, below=1)
    erase_probability: float = key(0.0, "Probability that a rectangle of an image is erased.", at_least=0, at_most=1)


@dataclass(frozen=True)
class ClassificationConfig(TaskConfig):
    """All that classification reads."""

    transform: ImageTransformOptions = section(ImageTransformOptions)
    batch_transform: MixOptions = section(MixOptions)
    loss: LossOptions = section(LossOptions)

    best_metric: ClassVar = "top1"
    hub_task: ClassVar = "image-classification"
    unread: ClassVar = ("head", "data.check", "evaluation.pictures")
    test_time_augmentation: ClassVar = {"transform.test_flip": True}
    faster_loading: ClassVar = {"transform.fast_resize": True, "transform.reduced_decoding": True}
    test_keys: ClassVar = ("transform.eval_resize", "transform.eval_crop_fraction", "transform.eval_interpolation")

    @classmethod
    def of_processor(
        cls, resize: Resize, size: tuple[int, int], crop: tuple[int, int] | None, interpolation: Interpolation
    ) -> tuple[dict[str, Any], str]:
        """Resized without or with a centre crop; of a resized shorter side a square."""
        if resize == "within":
            raise UserError("images of a classifier have one size, and it keeps the aspect ratio without a centre crop")
        if resize == "shorter" and (crop is None or crop[0] != crop[1]):
            raise UserError(
                "it resizes the shorter side without cropping a square, and images of a batch have one size"
            )
        shown = crop or size
        fraction = next((f for f in _fractions(shown[0], size[0]) if _divided(shown, f) == size), None)
        if fraction is None or fraction > 1:
            raise UserError(
                f"its crop of {shown[0]}×{shown[1]} is larger than {size[0]}×{size[1]}, or has another aspect ratio"
            )
        values = {
            "model.image_size": shown,
            "transform.eval_resize": "squash" if resize == "squash" else "crop",
            "transform.eval_crop_fraction": fraction,
            "transform.eval_interpolation": interpolation,
        }
        # Python rounds half a pixel to even, transformers down.
        is_off = resize == "shorter" or any((side - kept) % 4 == 3 for side, kept in zip(size, shown, strict=True))
        return values, "where half a pixel is left over the crop may be one pixel off" * is_off

    def processor(self) -> dict[str, Any] | None:
        """Squashed, cropped, or both."""
        transform, (height, width) = self.transform, self.model.image_size
        resized = _divided((height, width), transform.eval_crop_fraction)
        sizes: dict[str, Any] = {"size": {"height": resized[0], "width": resized[1]}}
        kind, crops = "ViTImageProcessor", {}
        if transform.eval_resize == "crop":
            if height != width:
                return None
            kind, sizes = "BitImageProcessor", {"size": {"shortest_edge": resized[0]}}
        if transform.eval_resize == "crop" or resized != (height, width):
            kind = "DeiTImageProcessor" if transform.eval_resize == "squash" else kind
            crops = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return {"image_processor_type": kind, **sizes, **crops, "resample": RESAMPLING[transform.eval_interpolation]}


def _divided(size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """(height, width) of a resized image of which the crop of ``size`` is this fraction."""
    return int(size[0] / fraction), int(size[1] / fraction)


def _fractions(kept: int, side: int) -> tuple[float, float]:
    """The plain quotient, and one that stays above ``side`` where its division would round below."""
    return kept / side, kept / (side + 0.5)
