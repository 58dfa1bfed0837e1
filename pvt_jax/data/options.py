"""Keys of a config that describe the data."""

from dataclasses import dataclass
from typing import Literal

from pvt_jax.fields import Options, key

Colour = tuple[int, int, int]
IGNORE = 255


@dataclass(frozen=True)
class DataOptions(Options):
    """Where the images come from, and how they are read."""

    source: str = key("tfds", "Format of the data set, as folder, label_folder or coco; see pvt_jax/data/formats.")
    name: str = key("imagenet2012", "Name in TFDS.")
    root: str = key("", "Folder of the data set; for tfds its data directory.", free=True)
    train_split: str = key("", "Name of the training split; empty for the usual one.")
    eval_split: str = key("", "Name of the evaluation split; empty for the usual one.")
    on_corrupt: Literal["error", "skip"] = key("error", "skip replaces images that cannot be decoded.", free=True)
    check: Literal["all", "sample"] = key("all", "Label maps or images checked before the first step.", free=True)
    repeats: int = key(1, "Repeated augmentation: an image appears this often in a row.", above=0)
    workers: int = key(0, "Processes that load data; 0 uses threads of the training process.", at_least=0, free=True)
    threads: int = key(8, "Threads of each of these processes.", above=0, free=True)


@dataclass(frozen=True)
class LabelMapOptions(Options):
    """What a format is told of a data set of label maps.

    Attributes:
      num_classes: outputs of the model; no key of this section.
    """

    num_classes: int = 0
    class_names: tuple[str | int, ...] = key((), "Names of the classes; empty: found with the data set, or made up.")
    palette: tuple[tuple, ...] = key(
        (), "(red, green, blue) of each class, for pictures and for RGB label maps; further colours are ignored pixels."
    )
    ignore_labels: tuple[int, ...] = key((IGNORE,), "Values in the label files that are ignored.")
    reduce_zero_label: bool = key(False, "0 in label files is ignored and v is class v - 1, as always for ade20k.")
    image_folder: str = key(
        "", "Images below data.root, with {split} in the path; empty for known layouts. For tfds the feature's name."
    )
    label_folder: str = key("", "The same for label maps.")
    image_suffix: str = key("", "What the stem of an image, as _leftImg8bit, has beyond that of its label map.")
    label_suffix: str = key("", "The reverse.")


@dataclass(frozen=True)
class ObjectOptions(Options):
    """What a format is told of a data set of objects.

    Attributes:
      num_classes: classes that the model detects; no key of this section.
      with_masks: whether masks are read; no key of this section.
    """

    num_classes: int = 0
    class_names: tuple[str | int, ...] = key((), "Classes to detect, in this order; empty for all.")
    annotations: str = key(
        "", "COCO JSON or folder of XML files below data.root, with {split} in the path; empty for known layouts."
    )
    image_folder: str = key("", "The same for images.")
    with_masks: bool = False
    keep_empty: bool = key(True, "Train on images without objects, too.")
