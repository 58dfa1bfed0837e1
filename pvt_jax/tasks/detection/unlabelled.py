"""Images without ground truth."""

import numpy as np

from pvt_jax.data.objects import Objects
from pvt_jax.data.unlabelled import Unlabelled

_NONE = Objects(
    np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0), np.zeros(0, np.int64)
)


class UnlabelledImages(Unlabelled):
    """Images without objects."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, Objects]:
        return self.image(index), _NONE
