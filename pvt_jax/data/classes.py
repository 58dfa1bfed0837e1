"""The classes of a model: what predictions and pictures call them."""

from dataclasses import dataclass

import numpy as np

from pvt_jax.files.labels import distinct_colours


@dataclass(frozen=True)
class Classes:
    """Label k is ``names[k]``.

    Attributes:
        palette: (red, green, blue) of each class in pictures; None for colours that are easily told apart.
        category_ids: what files of results call each class; None for its label.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None
    category_ids: tuple[int, ...] | None = None

    @property
    def colours(self) -> np.ndarray:
        """uint8 [k, 3]."""
        return distinct_colours(len(self.names)) if self.palette is None else np.array(self.palette, np.uint8)
