"""Requests for data, and the records of its sources.

A source is what ``grain.MapDataset.source`` takes: ``len(source)`` and ``source[index]``. It is small when pickled, so
that Grain can send it to worker processes; messages can name every record; ``str(source)`` says in a few words where
the data is from. What else a task needs of it is a protocol in the task's folder, ``tasks/*/source.py``.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

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
        upright: whether EXIF orientations are applied, and sizes are those of upright images.
        holdout: share of undivided data, or of training data, that is evaluated on; 0 for data that comes divided.
        seed: of that choice.
        learned: the classes of a model whose evaluation data need not come with training data; () for none.
    """

    split: Split
    name: str = ""
    root: str = ""
    train_split: str = ""
    eval_split: str = ""
    options: Any = None
    upright: bool = True
    holdout: float = 0.0
    seed: int = 0
    learned: tuple[str, ...] = ()

    @property
    def split_name(self) -> str:
        """What the config calls this split; "" for the usual names."""
        return {"train": self.train_split, "eval": self.eval_split}[self.split]

    @property
    def place(self) -> "Request":
        """The request for the place where the data is, before it is divided."""
        return replace(self, split="train") if self.holdout else self

    @property
    def takes_whole(self) -> bool:
        """Whether data that is not divided will do: to divide it, or to evaluate on all of it."""
        return bool(self.holdout) or (self.split == "eval" and bool(self.learned) and not self.eval_split)


class Source(Protocol):
    """What every task needs of a source."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes; label k is ``class_names[k]``. Training and evaluation data have the same tuple."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find record ``index``: a path, or "cifar10/train record 17"."""
        ...


@runtime_checkable
class HasNotes(Protocol):
    """A source that has something to say of its data."""

    def notes(self) -> tuple[str, ...]:
        """What a person should know, such as how many files are not read: a few words each."""
        ...


@runtime_checkable
class HasFiles(Protocol):
    """A source whose images are files."""

    def __len__(self) -> int: ...

    def path(self, index: int, /) -> str:
        """Returns the path of an image as the system takes it."""
        ...


class ClassificationRecord(TypedDict):
    """One example; ``label`` indexes the source's ``class_names``."""

    image: Image
    label: int


class SegmentationRecord(TypedDict):
    """One example; ``label_map`` is an encoded file or integer [H, W]."""

    image: Image
    label_map: bytes | np.ndarray
