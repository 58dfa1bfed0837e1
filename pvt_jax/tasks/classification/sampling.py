"""Training order in which every class comes equally often, however many images it has."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int

from pvt_jax.data.grain_library import grain


class Balanced(grain.MapDataset):
    """An endless order of records: in every round each class once, in random order.

    The r-th image of a class is that of its r-th place in an endless row of its images, shuffled anew each time all
    were drawn. Element i depends on the labels, the seed and i alone, as the pipeline wants it. The length is that of
    the data, so an epoch is as many steps as without balance. Classes without an image are left out.

    Args:
      labels: of the n records.
      seed: of the shuffling.
    """

    def __init__(self, labels: Int[np.ndarray, " n"], seed: int):
        super().__init__()
        order = np.argsort(labels, kind="stable")
        self._members = np.split(order, np.flatnonzero(np.diff(np.asarray(labels)[order])) + 1)
        self._length, self._seed = len(labels), seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        turn, place = divmod(int(index), len(self._members))
        number = int(_shuffled(self._seed, 0, turn, len(self._members))[place])
        members = self._members[number]
        cycle, place = divmod(turn, len(members))
        return int(members[_shuffled(self._seed, number + 1, cycle, len(members))[place]])


# Grain's own shuffle, which needs no memory, takes milliseconds for each number of a small class.
@functools.lru_cache(maxsize=4096)
def _shuffled(seed: int, row: int, cycle: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, row, cycle)).permutation(count)
