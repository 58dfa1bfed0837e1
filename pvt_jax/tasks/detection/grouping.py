"""Batches for multi-scale training on images of many sizes: one padded shape per batch, few shapes in all.

XLA compiles one program per shape, and every padded pixel costs time. So landscape and portrait images are batched
separately, as in mmdetection, one short side is drawn per batch, and similar shapes are merged.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from pvt_jax.data.buckets import choose_buckets
from pvt_jax.data.grain_library import grain
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.transforms import CROP_RANGE, fit

_MULTIPLE = 32
_CACHED_EPOCHS = 2


@dataclass(frozen=True, eq=False)
class Kinds:
    """The kinds of batches: images of one group at one short side.

    Kind g · len(short sides) + i is group g at short side i. With two groups, a third follows for mixed batches.

    Attributes:
      shapes: (rows, columns) of each kind's padded images, multiples of 32.
      short_sides: of each kind.
      long_side: of all kinds.
      groups: of each record, from 0: landscape (or square) and portrait images, or one group if all are alike.
    """

    shapes: Int[np.ndarray, "k 2"]
    short_sides: Int[np.ndarray, " k"]
    long_side: int
    groups: Int[np.ndarray, " n"]


def training_kinds(
    sizes: Int[np.ndarray, "n 2"],
    short_sides: Sequence[int],
    long_side: int,
    shapes: int,
    crop: bool,
    crop_range: tuple[int, int] = CROP_RANGE,
) -> Kinds:
    """The kinds of batches for images of these sizes (height, width), resized by ``transforms.fit``.

    A kind's shape covers every image of its group at its short side. Shapes are merged until at most ``shapes``
    different ones remain (see ``choose_buckets``). Mixed batches have the shapes of landscape images, into which the
    transform shrinks portrait ones: there are one or two per epoch, not worth a compilation and twice the memory.
    Raises UserError: there are no images, or a number is out of range.

    Args:
      sizes: (0, 0) for unreadable images, which join the first group and do not affect its shapes.
      crop: whether images may be cropped, to sides in ``crop_range``, before they are resized. Shapes then also cover
        crops of the group's own orientation; others are not worth the padding and become smaller (see
        ``DetectionTrainTransform``).
    """
    sizes = np.asarray(sizes)
    readable = (sizes > 0).all(axis=-1)
    if not readable.any():
        raise UserError("there is no image to train on")
    if not short_sides or min(short_sides) < 1 or long_side < max(short_sides):
        raise UserError(f"short_sides {tuple(short_sides)} must be 1 or more, and at most long_side, {long_side}")
    is_portrait = sizes[:, 0] > sizes[:, 1]
    portrait = np.unique(is_portrait[readable])
    groups = np.searchsorted(portrait, is_portrait).astype(np.int32)
    needed = []
    for group in range(len(portrait)):
        members = np.unique(sizes[readable & (groups == group)], axis=0).tolist()
        if crop:
            members.append(crop_range[::-1] if portrait[group] else crop_range)
        for side in short_sides:
            fitted = np.array([fit(height, width, side, long_side) for height, width in members])
            needed.append(-(-fitted.max(axis=0) // _MULTIPLE) * _MULTIPLE)
    weights = np.repeat(np.bincount(groups[readable]), len(short_sides))
    buckets = choose_buckets(np.array(needed), shapes, weights)
    padded = buckets.shapes[buckets.of].reshape(len(portrait), len(short_sides), 2)
    if len(portrait) > 1:
        padded = np.concatenate([padded, padded[:1]])
    return Kinds(
        shapes=padded.reshape(-1, 2).astype(np.int32),
        short_sides=np.tile(np.array(short_sides, np.int32), len(padded)),
        long_side=long_side,
        groups=groups,
    )


class Grouped(grain.MapDataset):
    """An endless order of (record, kind), int32 [2]: full batches of one kind each, every record once per epoch.

    In each epoch every group's records are shuffled and split into batches. The remainders of all groups form mixed
    batches, the last one filled up with records of the epoch; batches are shuffled, and each draws a scale. Kinds are
    numbered as in ``Kinds``: group · num_scales + scale, where mixed batches count as one more group after the last.

    Epoch e depends only on seed and e, and so element i on seed and i: resuming needs only the step, and the number of
    hosts and workers has no influence. The length is that of one epoch; every index from 0 on is valid. Each
    record has its group, from 0, in ``groups`` [n]; ``num_scales`` is the number of short sides. Raises UserError:
    there are no records, or a number is less than 1.
    """

    def __init__(self, groups: Int[np.ndarray, " n"], batch_size: int, num_scales: int, seed: int):
        super().__init__()
        for name, value in (("records", len(groups)), ("batch_size", batch_size), ("num_scales", num_scales)):
            if value < 1:
                raise UserError(f"batches need {name} of 1 or more, not {value}")
        self._groups = np.asarray(groups, np.int32)
        self._batch_size, self._num_scales, self._seed = batch_size, num_scales, seed
        self._length = -(-len(groups) // batch_size) * batch_size
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, position = divmod(int(index), self._length)
        return self._epoch(epoch)[position].copy()

    def __getstate__(self) -> dict[str, Any]:
        """Without the epochs, which workers compute themselves, and the lock, which cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name not in ("_epochs", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _epochs={}, _lock=threading.Lock())

    def _epoch(self, epoch: int) -> Int[np.ndarray, "length 2"]:
        # One thread computes an epoch while others wait. Two are kept, as reading ahead crosses from one to the next.
        with self._lock:
            if epoch not in self._epochs:
                while len(self._epochs) >= _CACHED_EPOCHS:
                    del self._epochs[next(iter(self._epochs))]
                self._epochs[epoch] = self._order(epoch)
            return self._epochs[epoch]

    def _order(self, epoch: int) -> Int[np.ndarray, "length 2"]:
        rng = np.random.default_rng([self._seed, epoch])
        size, count = self._batch_size, int(self._groups.max()) + 1
        shuffled = [rng.permutation(np.flatnonzero(self._groups == group)) for group in range(count)]
        whole = [records[: len(records) // size * size] for records in shuffled]
        left_over = np.concatenate([shuffled[group][len(whole[group]) :] for group in rng.permutation(count)])
        if missing := -len(left_over) % size:
            # From the last record's group if it has a full batch: no duplicates, and no other shape joins.
            pool = np.concatenate([whole[self._groups[left_over[-1]]], *whole, left_over])
            left_over = np.concatenate([left_over, np.resize(pool, missing)])
        batches = np.concatenate([*whole, left_over]).reshape(-1, size)
        rng.shuffle(batches)
        groups = self._groups[batches]
        group = np.where((groups == groups[:, :1]).all(axis=1), groups[:, 0], count)
        kinds = group * self._num_scales + rng.integers(self._num_scales, size=len(batches))
        order = np.stack([batches, np.broadcast_to(kinds[:, None], batches.shape)], axis=-1)
        return order.reshape(-1, 2).astype(np.int32)
