"""The input pipeline: a Grain graph from record numbers to batches, the same on any number of hosts and workers.

Element i of the endless training stream depends on the seed and i alone. Each host takes its contiguous block of
every global batch, so that a resume needs only the step, and 1, 8 or 800 devices see the same images in the same order.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from absl import flags

from pvt_jax.data.grain_library import grain
from pvt_jax.data.records import Source
from pvt_jax.errors import CorruptImageError
from pvt_jax.files import images

Batch = dict[str, Any]  # arrays and scalars of NumPy
# Seed → endless record numbers, or pairs of a record number and a kind; one kind a batch.
Order = Callable[[int], grain.MapDataset]

# An undecodable image is replaced by the next readable one; so many in a row are no accident.
_MOST_CORRUPT_IN_A_ROW = 100


@dataclass(frozen=True)
class Loading:
    """How records are read: ``workers`` processes (0: none) with ``threads`` threads each."""

    on_corrupt: str = "error"
    workers: int = 0
    threads: int = 8


class RepeatEach(grain.MapDataset):
    """Each element ``times`` in a row within an epoch of unchanged length ("repeated augmentation", arXiv 1901.09335).

    An epoch shows a share 1 / ``times`` of the images; each epoch's shuffle picks others.
    """

    def __init__(self, parent: grain.MapDataset, times: int):
        super().__init__(parent)
        self._times = times

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, position = divmod(index, len(self))
        return self._parent[epoch * len(self) + position // self._times]


class TrainExample(Protocol):
    """A source, the number of a record, random numbers → arrays, whose shapes depend on ``kind`` alone.

    It raises CorruptImageError for what cannot be decoded, before it draws a random number; see ``examples.py``.
    """

    def __call__(self, source: Any, index: int, kind: int, rng: np.random.Generator, /) -> Batch: ...


class EvalExample(Protocol):
    """A source, the number of a record → arrays, whose shapes depend on ``kind`` alone; so do those of ``blank``."""

    def __call__(self, source: Any, index: int, kind: int, /) -> Batch: ...

    def blank(self, kind: int, /) -> Batch:
        """The arrays of a padding record."""
        ...


@dataclass(frozen=True)
class LoadForTraining(grain.transforms.RandomMap):
    """Record number → what ``example`` makes of it, and ``corrupt`` int32 (undecodable records passed over).

    Elements are record numbers, whose kind is 0, or pairs of a record number and a kind.
    """

    source: Source
    example: TrainExample
    on_corrupt: str

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        images.limit_threads()
        first, kind = (int(number) for number in element) if np.ndim(element) else (int(element), 0)
        index = first
        for corrupt in range(_MOST_CORRUPT_IN_A_ROW):
            index = (first + corrupt) % len(self.source)
            try:
                arrays = self.example(self.source, index, kind, rng)
            except CorruptImageError:
                if self.on_corrupt == "error":
                    raise
                continue
            return {**arrays, "corrupt": np.int32(corrupt)}
        raise CorruptImageError(
            f"{_MOST_CORRUPT_IN_A_ROW} undecodable images in a row, the last is {self.source.name(index)}: "
            "repair the data set"
        )


@dataclass(frozen=True)
class LoadForEvaluation(grain.transforms.Map):
    """Place in ``order`` → what ``example`` makes of the record there, with ``record`` int32, ``mask`` and ``corrupt``.

    ``order`` holds record numbers, -1 for padding, and ``kinds`` the kind of example at each place. ``mask`` is False
    for padding and undecodable records.
    """

    source: Source
    example: EvalExample
    order: np.ndarray
    kinds: np.ndarray
    on_corrupt: str

    def map(self, element: Any) -> Any:
        images.limit_threads()
        index, kind = int(self.order[int(element)]), int(self.kinds[int(element)])
        arrays, corrupt = None, 0
        if index >= 0:
            try:
                arrays = self.example(self.source, index, kind)
            except CorruptImageError:
                if self.on_corrupt == "error":
                    raise
                corrupt = 1
        mask = arrays is not None
        arrays = arrays if arrays is not None else self.example.blank(kind)
        return {**arrays, "record": np.int32(index), "mask": np.bool_(mask), "corrupt": np.int32(corrupt)}


def training_batches(
    source: Source,
    example: TrainExample,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    repeats: int = 1,
    order: Order | None = None,
    block: tuple[int, int] = (0, 1),
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Endless batches from step ``start_step`` on: the arrays of ``example`` behind an axis b, and ``corrupt`` [b].

    Args:
      batch_size: images of a global batch; b is batch_size / block count.
      repeats: repeated augmentation, see ``RepeatEach``.
      order: the records, in place of all shuffled in every epoch.
      block: (number, count): which contiguous block of each global batch this host takes.

    Raises (while iterating):
      CorruptImageError: an image cannot be decoded and ``loading.on_corrupt`` is "error".
    """
    shuffle_seed, augment_seed = (int(s) for s in np.random.SeedSequence([seed, 0x9E3779B9]).generate_state(2))
    if order is not None:
        records = order(shuffle_seed)
    else:
        records = grain.MapDataset.range(len(source)).shuffle(seed=shuffle_seed)
    if repeats > 1:
        records = RepeatEach(records, repeats)
    load = LoadForTraining(source, example, loading.on_corrupt)
    examples = records.repeat(None).random_map(load, seed=augment_seed)
    return _iterate(examples, batch_size, block, start_step, loading)


def evaluation_batches(
    source: Source,
    example: EvalExample,
    *,
    batch_size: int,
    order: np.ndarray | None = None,
    kinds: np.ndarray | None = None,
    block: tuple[int, int] = (0, 1),
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Batches of the arrays of ``example``, with ``record``, ``mask`` and ``corrupt`` [b]; see ``LoadForEvaluation``.

    ``order`` [n], a whole number of batches, says which record stands where, by default every record once, in order,
    padded at the end. ``kinds`` [n] is one kind a batch, by default 0.
    """
    if order is None:
        order = np.arange(-(-len(source) // batch_size) * batch_size, dtype=np.int32)
        order[len(source) :] = -1
    kinds = np.zeros(len(order), np.int32) if kinds is None else kinds
    load = LoadForEvaluation(source, example, order, kinds, loading.on_corrupt)
    examples = grain.MapDataset.range(len(order)).map(load)
    return _iterate(examples, batch_size, block, 0, loading)


def _iterate(
    examples: grain.MapDataset, batch_size: int, block: tuple[int, int], start_step: int, loading: Loading
) -> Generator[Batch, None, None]:
    number, count = block
    # Batching by the block keeps the order: block n of batch s is element s · count + n.
    batches = examples.batch(batch_size // count).slice(slice(start_step * count + number, None, count))
    # An element is a whole batch here, so a buffer of a few is enough; Grain's default of 500 would fill the memory.
    read = grain.ReadOptions(num_threads=loading.threads, prefetch_buffer_size=max(2, loading.threads))
    dataset = batches.to_iter_dataset(read)
    if loading.workers:
        # Grain's worker processes read absl flags, which only absl's own main() parses.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=loading.workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(options)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
