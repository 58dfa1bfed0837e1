"""Keys of a config that segmentation reads."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pvt_jax.data.options import LabelMapOptions
from pvt_jax.errors import UserError
from pvt_jax.fields import key, section
from pvt_jax.tasks.options import RESAMPLING, Interpolation, LossOptions, Resize, TaskConfig


@dataclass(frozen=True)
class SegmentationOptions(LabelMapOptions):
    """Semantic segmentation. Sizes are (height, width) in pixels."""

    scale: tuple[int, int] = key(
        (2048, 512),
        "Images are resized to fit into a rectangle of these (long, short) sides, keeping their aspect ratio; (0, 0) "
        "keeps their size.",
        at_least=0,
    )
    scale_range: tuple[float, float] = key((0.5, 2.0), "In training, range of a random factor on scale.", at_least=0)
    crop_size: tuple[int, int] = key(
        (512, 512), "Then a random crop of this size, padded where the image is smaller.", at_least=0
    )
    largest_share: float = key(
        0.75, "Of up to ten crops the first in which no class has more than this share of the labelled pixels.", above=0
    )
    photometric: bool = key(True, "Random brightness, contrast, saturation and hue.")
    loss_average: Literal["valid", "all"] = key(
        "valid", "The loss is a mean over valid pixels, or over all, in which ignored ones count as 0."
    )
    test_mode: Literal["whole", "slide"] = key(
        "whole",
        "Evaluate the whole image, resized to scale and its sides rounded up to multiples of 32, or sliding windows.",
        free=True,
    )
    test_ratios: tuple[float, ...] = key(
        (1.0,), "Factors on scale whose probabilities are averaged.", above=0, nonempty=True, free=True
    )
    test_squash: tuple[int, int] = key(
        (0, 0),
        "Evaluate images resized to this (height, width), up to multiples of 32, in place of scale: whatever their "
        "aspect ratio, by Pillow, as the image processors of transformers do. (0, 0): as scale says.",
        at_least=0,
        free=True,
        square=True,
    )
    test_interpolation: Interpolation = key("bilinear", "Filter of test_squash, antialiased.", free=True)
    test_flip: bool = key(False, "Average with the probabilities of the mirrored image.", free=True)
    window: tuple[int, int] = key((512, 512), "Size of a sliding window.", at_least=0, free=True)
    window_stride: tuple[int, int] = key((384, 384), "Stride of the sliding windows.", at_least=0, free=True)
    test_shapes: int = key(
        8,
        "Images are padded to at most this many shapes, each compiled once; predictions do not change.",
        above=0,
        free=True,
    )


@dataclass(frozen=True)
class SegmentationConfig(TaskConfig):
    """All that segmentation reads."""

    segmentation: SegmentationOptions = section(SegmentationOptions)

    loss: LossOptions = section(LossOptions)

    best_metric: ClassVar = "miou"
    hub_task: ClassVar = "image-segmentation"
    example_head: ClassVar = "semantic_fpn"
    unread: ClassVar = ("data.sampler",)
    # The scales of mmsegmentation's multi-scale testing.
    test_time_augmentation: ClassVar = {
        "segmentation.test_flip": True,
        "segmentation.test_ratios": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    }

    test_keys: ClassVar = (
        *("segmentation.scale", "segmentation.test_squash", "segmentation.test_interpolation"),
        *("segmentation.test_mode", "segmentation.window", "segmentation.window_stride"),
    )

    def test_size(self, height: int, width: int) -> dict[str, Any]:
        """Images are resized to fit into these sides; of equal ones, until the shorter side has as many pixels.

        Where they are squashed, to these sides.
        """
        if any(self.segmentation.test_squash):
            return {"segmentation.test_squash": (height, width)}
        longest = max(height, width) if height != width else 4 * height
        return {"segmentation.scale": (longest, min(height, width))}

    @classmethod
    def of_processor(
        cls, resize: Resize, size: tuple[int, int], crop: tuple[int, int] | None, interpolation: Interpolation
    ) -> tuple[dict[str, Any], str]:
        """Whole images, whatever their aspect ratio."""
        if resize != "squash" or crop is not None:
            raise UserError("whole images are evaluated, of one size or fitted into scale")
        if any(side % 32 for side in size):
            raise UserError(f"the sides are no multiples of 32, but {size[0]}×{size[1]}")
        return {"segmentation.test_squash": size, "segmentation.test_interpolation": interpolation}, ""

    def processor(self) -> dict[str, Any] | None:
        """Squashed."""
        height, width = self.segmentation.test_squash
        if not height:
            return None
        size = {"height": height, "width": width}
        resample = RESAMPLING[self.segmentation.test_interpolation]
        return {"image_processor_type": "SegformerImageProcessor", "size": size, "resample": resample}
