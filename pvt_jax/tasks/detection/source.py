"""What the task needs of images with objects."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from pvt_jax.data.objects import Objects
from pvt_jax.data.records import Image, Source


@runtime_checkable
class DetectionSource(Source, Protocol):
    """Images with objects."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """What the data set, and a file of results, call class 0 … K-1."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Image, Objects]: ...

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


@runtime_checkable
class HasAnnotations(Protocol):
    """A source of objects from a file in COCO's format."""

    def annotations(self) -> list[dict[str, Any]]:
        """Returns the annotations of its images and classes as the file has them, renumbered from 1.

        Boxes are not clipped, and none is left out, so that the evaluation is that of pycocotools on the file.
        """
        ...
