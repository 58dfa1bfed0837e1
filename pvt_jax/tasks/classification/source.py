"""What the task needs of labelled images."""

from typing import Protocol, runtime_checkable

import numpy as np

from pvt_jax.data.records import ClassificationRecord, Source


@runtime_checkable
class ClassificationSource(Source, Protocol):
    """Labelled images."""

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, integer [len(self)], where they are known without reading the records; else None."""
        ...

    def __getitem__(self, index: int, /) -> ClassificationRecord: ...
