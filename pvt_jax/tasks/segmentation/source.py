"""What the task needs of images with label maps."""

from typing import Protocol, runtime_checkable

import numpy as np

from pvt_jax.data.records import SegmentationRecord, Source
from pvt_jax.files.labels import LabelEncoding


@runtime_checkable
class SegmentationSource(Source, Protocol):
    """Images with label maps."""

    @property
    def palette(self) -> np.ndarray:
        """Their colours in pictures, uint8 [K, 3]."""
        ...

    @property
    def encoding(self) -> LabelEncoding:
        """How the label maps are to be read."""
        ...

    def __getitem__(self, index: int, /) -> SegmentationRecord: ...

    def label_name(self, index: int, /) -> str:
        """Returns what a person needs to find its label map."""
        ...

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]; (0, 0) for files that are no images."""
        ...


@runtime_checkable
class HasOrientations(Protocol):
    """A source of files that may have EXIF orientations."""

    def orientations(self) -> np.ndarray:
        """EXIF orientation of every image, int8 [n]; 1 is upright."""
        ...


@runtime_checkable
class ReadsLabels(Protocol):
    """A source that can read a label map without its image."""

    def label_map(self, index: int, /) -> bytes | np.ndarray: ...
