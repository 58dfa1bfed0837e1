"""Keys of a config that detection reads."""

from dataclasses import dataclass
from typing import ClassVar

from pvt_jax.data.options import ObjectOptions
from pvt_jax.errors import UserError
from pvt_jax.fields import key, section
from pvt_jax.tasks.options import TaskConfig


@dataclass(frozen=True)
class DetectionOptions(ObjectOptions):
    """Boxes, and masks where the head has them. Sizes are in pixels."""

    short_sides: tuple[int, ...] = key(
        (800,),
        "Images are resized to this shorter side, or to long_side if that is smaller; each batch draws one of several.",
        above=0,
        nonempty=True,
    )
    long_side: int = key(1333, "Largest longer side.", above=0)
    crop_probability: float = key(0.0, "Probability that an image is cropped before that.", at_least=0, at_most=1)
    crop_short_sides: tuple[int, ...] = key(
        (400, 500, 600), "Shorter sides to which it is resized before the crop.", above=0, nonempty=True
    )
    crop_range: tuple[int, int] = key((384, 600), "(least, largest) side of a crop.", at_least=1)
    test_short_side: int = key(0, "Shorter side in evaluation; 0: the largest of short_sides.", at_least=0, free=True)
    train_shapes: int = key(
        4, "Padded shapes of training batches, each compiled once; a batch is all landscape or all portrait.", above=0
    )
    test_shapes: int = key(8, "Padded shapes of evaluation batches, each compiled once.", above=0, free=True)
    max_objects: int = key(
        0, "Objects that batches are padded to, drawn where an image has more; 0: the most of any image.", at_least=0
    )
    mask_side: int = key(112, "Cells per side of the grid over a box on which masks are learned.", above=0)

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

    example_head: ClassVar = "retinanet"
    unread: ClassVar = ("data.repeats",)
