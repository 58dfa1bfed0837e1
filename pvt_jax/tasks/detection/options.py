"""Keys of a config that detection reads."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pvt_jax.data.options import ObjectOptions
from pvt_jax.errors import UserError
from pvt_jax.fields import key, section
from pvt_jax.tasks.options import Interpolation, Resize, TaskConfig


@dataclass(frozen=True)
class DetectionOptions(ObjectOptions):
    """Boxes, and masks where the head has them. Sizes are in pixels."""

    short_sides: tuple[int, ...] = key(
        (800,),
        "Images are resized, keeping their aspect ratio, until the shorter side has this many pixels or the longer "
        "one long_side. Of several values each batch draws one.",
        above=0,
        nonempty=True,
    )
    long_side: int = key(1333, "See short_sides.", above=0)
    crop_probability: float = key(
        0.0,
        "Probability that an image is first resized to one of crop_short_sides and cropped to sides drawn from "
        "crop_range.",
        at_least=0,
        at_most=1,
    )
    crop_short_sides: tuple[int, ...] = key((400, 500, 600), "See crop_probability.", above=0, nonempty=True)
    crop_range: tuple[int, int] = key((384, 600), "(least, largest) side of a crop.", at_least=1)
    test_short_side: int = key(0, "Shorter side in evaluation; 0: the largest of short_sides.", at_least=0, free=True)
    train_shapes: int = key(
        4,
        "Images are padded to at most this many shapes, each compiled once. A training batch is all landscape or all "
        "portrait; the rest of an epoch is batched in squarer shapes.",
        above=0,
    )
    test_shapes: int = key(8, "The same for evaluation; predictions do not change.", above=0, free=True)
    max_objects: int = key(
        0,
        "Images are padded to this many objects, and of an image with more this many are drawn at each visit; 0: the "
        "most that an image has.",
        at_least=0,
    )
    mask_side: int = key(112, "Cells per side of the grid over a box on which mask coverage is learned.", above=0)

    def validate(self) -> None:
        """Ranges in order, and no shorter side above the longer one."""
        if self.crop_range[0] > self.crop_range[1]:
            raise UserError(f"detection.crop_range must be (least, largest), from 1 pixel on, but is {self.crop_range}")
        largest = max(*self.short_sides, self.test_short_side)
        if self.long_side < largest:
            raise UserError(
                f"detection.long_side is {self.long_side}, below a shorter side of {largest}: set it to "
                f"{largest} or more, or detection.short_sides and detection.test_short_side lower"
            )


@dataclass(frozen=True)
class DetectionConfig(TaskConfig):
    """All that detection reads."""

    detection: DetectionOptions = section(DetectionOptions)

    best_metric: ClassVar = "AP"
    hub_task: ClassVar = "object-detection"
    example_head: ClassVar = "retinanet"
    unread: ClassVar = ("data.repeats", "data.sampler")

    test_keys: ClassVar = ("detection.short_sides", "detection.test_short_side", "detection.long_side")

    def test_size(self, height: int, width: int) -> dict[str, Any]:
        """Images are resized to fit into these sides; of equal ones, the longer may have 5/3 as many pixels."""
        shorter, longer = sorted((height, width))
        longer = longer if longer > shorter else shorter * 5 // 3
        return {"detection.test_short_side": shorter, "detection.long_side": longer}

    @classmethod
    def of_processor(
        cls, resize: Resize, size: tuple[int, int], crop: tuple[int, int] | None, interpolation: Interpolation
    ) -> tuple[dict[str, Any], str]:
        """Images that fit into two sides."""
        if resize != "within" or crop is not None:
            raise UserError("images of a detector keep their aspect ratio and are not cropped")
        sides = {"short_sides": (size[0],), "test_short_side": 0, "long_side": size[1]}
        note = "OpenCV resizes, without antialiasing, and rounds sides, which transformers rounds down"
        return {f"detection.{name}": value for name, value in sides.items()}, note
