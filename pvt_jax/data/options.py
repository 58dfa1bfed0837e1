"""Keys of a config that describe the data."""

from dataclasses import dataclass
from typing import Literal

from pvt_jax.errors import UserError
from pvt_jax.fields import Options, key

Colour = tuple[int, int, int]
IGNORE = 255


@dataclass(frozen=True)
class ReadingOptions(Options):
    """What an image file does not say of its pixels."""

    value_range: tuple[float, float] = key(
        (0, 0),
        "(black, white) of images with more than 8 bits a sample, as (0, 1023): these values become 0 and 255, those "
        "beyond too. (0, 0) for all that the bits can hold, and for 0 … 1 of floats.",
    )
    exif_orientation: bool = key(
        True,
        "Turn images and label maps as their EXIF orientation says. False reads them as stored, for labels that were "
        "made so.",
    )

    def validate(self) -> None:
        """Black is below white."""
        super().validate()
        black, white = self.value_range
        if black >= white and (black, white) != (0, 0):
            raise UserError(
                f"data.value_range is ({black:g}, {white:g}): give (black, white) with black below white, or (0, 0)"
            )


@dataclass(frozen=True)
class DataOptions(ReadingOptions):
    """Where the images come from, and how they are read."""

    source: str = key(
        "tfds",
        "Format of the data set, a name in pvt_jax/data/formats that the task reads, as folder, label_folder or coco.",
    )
    name: str = key("imagenet2012", "Name in TFDS.")
    root: str = key(
        "", "Folder of the data set; for tfds its data directory, also gs://BUCKET/FOLDER.", free=True, path="data"
    )
    train_split: str = key("", "Name of the training split; empty for the usual one.")
    eval_split: str = key("", "Name of the evaluation split; empty for the usual one.")
    holdout: float = key(
        0.0,
        "Share of the images of a folder that is evaluated on and not trained on, chosen by their names and the seed, "
        "of each class alike; for data that comes without a validation split. 0 for data that comes divided.",
        at_least=0,
        below=1,
    )
    on_corrupt: Literal["error", "skip"] = key(
        "error", "What an undecodable image does; skip counts it and takes another in its place.", free=True
    )
    check: Literal["all", "sample"] = key(
        "all", "Read and check all label maps or images before the first step, or a sample of them.", free=True
    )
    repeats: int = key(
        1, "Each drawn image appears this often in a row, augmented differently (repeated augmentation).", above=0
    )
    sampler: Literal["shuffled", "balanced"] = key(
        "shuffled",
        "Order of the training images: all in each epoch, or balanced: every class equally often, those of small "
        "classes again and again.",
    )
    workers: int = key(
        0, "Processes that read and augment; 0 uses threads of the training process.", at_least=0, free=True
    )
    threads: int = key(8, "Threads of each of these processes.", above=0, free=True)

    def validate(self) -> None:
        """Evaluation data is either held out or named."""
        super().validate()
        if self.holdout and self.eval_split:
            raise UserError(
                f"data.holdout={self.holdout:g} takes evaluation images from the training data, but data.eval_split is "
                f"'{self.eval_split}': leave one of the two keys out"
            )


@dataclass(frozen=True)
class LabelMapOptions(Options):
    """What a format is told of a data set of label maps. No key is ``num_classes``, the outputs of the model."""

    num_classes: int = 0
    class_names: tuple[str | int, ...] = key((), "Names of the classes; empty: found with the data set, or made up.")
    palette: tuple[tuple, ...] = key(
        (),
        "(red, green, blue) of each class; empty: the data set's own, or made up. With it label maps may be RGB; "
        "further colours are those of ignored pixels.",
    )
    ignore_labels: tuple[int, ...] = key((IGNORE,), "Values in the label files that are ignored.")
    reduce_zero_label: bool = key(
        False, "0 in the label files is ignored, and v is class v - 1. Source ade20k does so in any case."
    )
    image_folder: str = key(
        "",
        "Folder of the images below data.root, with {split} in place of the split's name; empty for known layouts. For "
        "tfds the name of the feature.",
        path="local",
    )
    label_folder: str = key("", "Folder of the label maps, likewise.", path="local")
    image_suffix: str = key("", "End of images' stems, as _leftImg8bit, beyond what each shares with its label map.")
    label_suffix: str = key("", "End of the label maps' stems, likewise.")


@dataclass(frozen=True)
class ObjectOptions(Options):
    """What a format is told of a data set of objects.

    No keys are ``num_classes``, which the model detects, and ``with_masks``, whether masks are read.
    """

    num_classes: int = 0
    class_names: tuple[str | int, ...] = key(
        (), "Classes to detect, in this order; objects of others are left out. Empty for all of the data set."
    )
    annotations: str = key(
        "",
        "COCO JSON, or folder of XML files, below data.root, with {split} in place of the split's name; empty for "
        "known layouts.",
        path="local",
    )
    image_folder: str = key("", "Folder of the images, likewise.", path="local")
    with_masks: bool = False
    keep_empty: bool = key(True, "Train on images without objects, too.")
