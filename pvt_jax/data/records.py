"""Kinds of records, and the sources that hold them.

A source is what ``grain.MapDataset.source`` takes: ``len(source)`` and ``source[index]``. It is small when pickled, so
that Grain can send it to worker processes; messages can name every record; ``str(source)`` says in a few words where
the data is from.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

from pvt_jax.data.objects import Objects

if TYPE_CHECKING:  # It imports OpenCV, which configs that look into a folder do without.
    from pvt_jax.data.labels import LabelEncoding

Split = Literal["train", "eval"]
SPLIT_WORDS: dict[Split, str] = {"train": "training", "eval": "evaluation"}
# An encoded file, or uint8 [H, W, 3].
Image = bytes | np.ndarray


@dataclass(frozen=True)
class Request:
    """Which data a format is to open.

    Attributes:
        split: training or evaluation data.
        name: a data set of TFDS, such as "imagenet2012" or "voc/2007".
        root: the folder of the data set. tfds: its data_dir, "" for the default of TFDS.
        train_split, eval_split: what the data set calls the two splits, such as "train[:90%]"; "" for the usual names.
        options: what else the config says of the data, see ``options.py``.
    """

    split: Split
    name: str = ""
    root: str = ""
    train_split: str = ""
    eval_split: str = ""
    options: Any = None

    @property
    def split_name(self) -> str:
        """What the config calls this split; "" for the usual names."""
        return {"train": self.train_split, "eval": self.eval_split}[self.split]


class ClassificationRecord(TypedDict):
    """One example; ``label`` indexes the source's ``class_names``."""

    image: Image
    label: int


@runtime_checkable
class ClassificationSource(Protocol):
    """Labelled images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names; label k is ``class_names[k]``. Training and evaluation data have the same tuple."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, integer [len(self)], where they are known without reading the records; else None."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ClassificationRecord: ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find record ``index``: a path, or "cifar10/train record 17"."""
        ...


class SegmentationRecord(TypedDict):
    """One example; ``label_map`` is an encoded file or integer [H, W]."""

    image: Image
    label_map: bytes | np.ndarray


@runtime_checkable
class SegmentationSource(Protocol):
    """Images with label maps."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def palette(self) -> np.ndarray:
        """Their colours in pictures, uint8 [K, 3]."""
        ...

    @property
    def encoding(self) -> "LabelEncoding":
        """How the label maps are to be read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> SegmentationRecord: ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find the image of record ``index``, such as its path."""
        ...

    def label_name(self, index: int, /) -> str:
        """Returns what a person needs to find its label map."""
        ...

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]; (0, 0) for files that are no images."""
        ...


@runtime_checkable
class ReadsLabels(Protocol):
    """A source that can read a label map without its image."""

    def label_map(self, index: int, /) -> bytes | np.ndarray: ...


@runtime_checkable
class DetectionSource(Protocol):
    """Images with objects."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """What the data set, and a file of results, call class 0 … K-1."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image, Objects]: ...

    def record(self, index: int, /) -> tuple[Image, Objects]:
        """Returns the image and the objects of record ``index`` in one go, as ``source[index]`` does."""
        ...

    def image(self, index: int, /) -> Image:
        """Returns the image alone."""
        ...

    def objects(self, index: int, /) -> Objects:
        """Returns the objects alone, without decoding the image."""
        ...

    def masks(self, index: int, objects: Objects, /) -> list[np.ndarray]:
        """Returns the masks of ``objects``, which are of record ``index``: each uint8 [H, W], 0 or 1."""
        ...

    def without_masks(self) -> int:
        """How many objects, crowd regions aside, lack a mask where others have one."""
        ...

    def image_id(self, index: int, /) -> int | str:
        """Returns what the data set, and a file of results, call the image."""
        ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find the image of record ``index``, such as its path."""
        ...

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]; (0, 0) for files that are no images."""
        ...

    def counts(self) -> np.ndarray:
        """Objects of each image, crowd regions aside, int32 [len(self)]. Slow where scenes are generated."""
        ...

    def most_objects(self) -> int:
        """No image has more objects than this, crowd regions aside. Always fast."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the annotations, such as how many boxes were clipped: a few words each."""
        ...

    def ground_truth(self) -> dict[str, Any]:
        """Returns all annotations in COCO's format: "images", "annotations" and "categories".

        Image ids are those of ``image_id``, category ids those of ``category_ids``; annotations count from 1, because
        pycocotools takes 0 for none. Annotations of a file stay as they are: boxes are not clipped, and none is left
        out, so that the evaluation is that of pycocotools on the file.
        """
        ...


@runtime_checkable
class HasFiles(Protocol):
    """A source whose images are files."""

    def path(self, index: int, /) -> str:
        """Returns the path of an image as the system takes it."""
        ...
