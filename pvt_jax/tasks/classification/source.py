"""What the task needs of labelled images."""

from typing import Protocol, runtime_checkable

import numpy as np

from pvt_jax.data.records import ClassificationRecord


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
