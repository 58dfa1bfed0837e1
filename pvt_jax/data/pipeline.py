"""The input pipeline: a Grain graph from record numbers to batches, the same on any number of hosts and workers.

Element i of the endless training stream depends on the seed and i alone. Each host takes its contiguous block of
every global batch, so that a resume needs only the step, and 1, 8 or 800 devices see the same images in the same order.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from pvt_jax.data import transforms
from pvt_jax.data.sources import ClassificationSource
from pvt_jax.errors import CorruptImageError

Batch = dict[str, np.ndarray]

# An undecodable image is replaced by the next readable one; so many bad ones in a row are no accident.
_MOST_CORRUPT_IN_A_ROW = 100


@dataclass(frozen=True)
class Loading:
    """How records are read: ``workers`` processes (0: none) with ``threads`` threads each."""

    on_corrupt: str = "error"
    workers: int = 0
    threads: int = 8


class RepeatEach(grain.MapDataset):
    """Each element ``times`` in a row within an epoch of unchanged length ("repeated augmentation", arXiv 1901.09335).

    An epoch so shows a share 1 / ``times`` of the images; which ones changes with every epoch's shuffle.
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


@dataclass(frozen=True)
class LoadForTraining(grain.transforms.RandomMap):
    """Record number → ``image`` uint8 [h, w, 3], ``label`` int32, ``corrupt`` int32 (undecodable records passed)."""

    source: ClassificationSource
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    on_corrupt: str

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        transforms.limit_threads()
        index = int(element)
        for corrupt in range(_MOST_CORRUPT_IN_A_ROW):
            index = (int(element) + corrupt) % len(self.source)
            record = self.source[index]
            try:
                image = record["image"]
                if isinstance(image, bytes):
                    image = transforms.decode(image, self.source.name(index))
            except CorruptImageError:
                if self.on_corrupt == "error":
                    raise
                continue
            return {
                "image": self.transform(image, rng),
                "label": np.int32(record["label"]),
                "corrupt": np.int32(corrupt),
            }
        raise CorruptImageError(
            f"{_MOST_CORRUPT_IN_A_ROW} undecodable images in a row, the last is {self.source.name(index)}: "
            "repair the data set"
        )


@dataclass(frozen=True)
class LoadForEvaluation(grain.transforms.Map):
    """Record number → ``image``, ``label`` and ``mask`` (False for padding and undecodable records), ``corrupt``."""

    source: ClassificationSource
    transform: transforms.EvalTransform
    on_corrupt: str

    def map(self, element: Any) -> Any:
        index = int(element)
        blank = np.zeros((*self.transform.image_size, 3), np.uint8)
        padding = {"image": blank, "label": np.int32(0), "mask": np.bool_(False), "corrupt": np.int32(0)}
        if index >= len(self.source):
            return padding
        record = self.source[index]
        try:
            image = record["image"]
            if isinstance(image, bytes):
                image = transforms.decode_pil(image, self.source.name(index))
        except CorruptImageError:
            if self.on_corrupt == "error":
                raise
            return {**padding, "corrupt": np.int32(1)}
        return {
            "image": self.transform(image),
            "label": np.int32(record["label"]),
            "mask": np.bool_(True),
            "corrupt": np.int32(0),
        }


def training_batches(
    source: ClassificationSource,
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    repeats: int = 1,
    block: tuple[int, int] = (0, 1),
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Endless batches from step ``start_step`` on: ``image`` uint8 [b, h, w, 3], ``label`` and ``corrupt`` int32 [b].

    Args:
      batch_size: images of a global batch; b is batch_size / block count.
      repeats: repeated augmentation, see ``RepeatEach``.
      block: (number, count): which contiguous block of each global batch this host takes.

    Raises (while iterating):
      CorruptImageError: an image cannot be decoded and ``loading.on_corrupt`` is "error".
    """
    shuffle_seed, augment_seed = (int(s) for s in np.random.SeedSequence([seed, 0x9E3779B9]).generate_state(2))
    records = grain.MapDataset.range(len(source)).shuffle(seed=shuffle_seed)
    if repeats > 1:
        records = RepeatEach(records, repeats)
    load = LoadForTraining(source, transform, loading.on_corrupt)
    examples = records.repeat(None).random_map(load, seed=augment_seed)
    return _iterate(examples, batch_size, block, start_step, loading)


def evaluation_batches(
    source: ClassificationSource,
    transform: transforms.EvalTransform,
    *,
    batch_size: int,
    block: tuple[int, int] = (0, 1),
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Every record once, in order, the last batch padded: as ``training_batches``, with ``mask`` bool [b]."""
    padded = -(-len(source) // batch_size) * batch_size
    examples = grain.MapDataset.range(padded).map(LoadForEvaluation(source, transform, loading.on_corrupt))
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
