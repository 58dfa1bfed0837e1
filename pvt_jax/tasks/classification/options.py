"""Keys of a config that classification reads."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pvt_jax.fields import key, section
from pvt_jax.tasks.options import BatchTransformOptions, LossOptions, TaskConfig, TransformOptions


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
    eval_crop_fraction: float = key(
        224 / 256,
        "Share of the resized shorter side that the centre crop of the evaluation keeps.",
        above=0,
        at_most=1,
    )
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
