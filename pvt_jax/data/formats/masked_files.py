"""Images with a file of annotations each, in which masks stay until they are needed."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from pvt_jax.data.formats.object_table import FilesSource
from pvt_jax.data.objects import Mask, Objects
from pvt_jax.errors import UserError
from pvt_jax.messages import escaped


class MaskedFiles(FilesSource):
    """The images of a split. A subclass reads the masks of a file.

    Args:
        annotation_files: of each image, None for one without.
        numbers: int32 [n], what each object is called in its file, see ``read_masks``.
        masked: bool [n], whether it has a mask.
        with_masks: whether ``objects`` returns masks.
        files: arguments of ``FilesSource``.
    """

    def __init__(
        self,
        annotation_files: Sequence[str | None],
        numbers: np.ndarray,
        masked: np.ndarray,
        with_masks: bool,
        *files: Any,
    ) -> None:
        super().__init__(*files)
        self._annotation_files, self._numbers, self._with_masks = tuple(annotation_files), numbers, with_masks
        self.has_masks = with_masks and bool(masked.any())
        self._unmasked = int((~masked).sum())

    @abc.abstractmethod
    def read_masks(self, path: str, size: tuple[int, int]) -> dict[int, Mask | None]:
        """Returns the masks in a file, of an image of ``size`` (height, width), by the numbers of objects."""

    def objects(self, index: int) -> Objects:
        found = super().objects(index)
        path = self._annotation_files[self._number(index)]
        if not self._with_masks or path is None or not len(found):
            return found
        height, width = self._table.sizes[self._number(index)].tolist()
        masks = self.read_masks(path, (height, width))
        numbers = self._numbers[self._table.of(index)].tolist()
        if not masks.keys() >= set(numbers):
            raise UserError(f"{escaped(path)} was changed since the run started: put it back, or start again")
        chosen = tuple(masks[number] for number in numbers)
        return Objects(found.boxes, found.labels, found.crowd, found.areas, found.ids, chosen)

    def without_masks(self) -> int:
        return self._unmasked
