"""Dividing data that comes as a whole: the images that are held out for evaluation, by their names and a seed alone.

Each image has a number that its name and the seed make, and of each class the images with the lowest are held out. So
every host, and every start of a run, chooses the same ones, wherever the folder is and however it is listed.
"""

import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.spellings import composed, plain_path
from pvt_jax.messages import plural


def part_of(
    names: Sequence[str], request: Request, where: str, labels: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Returns which records belong to the wanted split, bool [n], and a note; all if data is not to be divided.

    Raises UserError: there are too few to divide.

    Args:
        names: paths of the images below the folder of the data set.
        request: which part is wanted.
        where: the data set, for messages.
        labels: of the records, integer [n], if each has one.
    """
    if not request.holdout:
        return np.ones(len(names), bool), []
    held = held_out(names, request.holdout, request.seed, labels)
    if not held.any():
        raise UserError(
            f"{where} has {plural(len(names), 'image')}{' of each class' * (labels is not None)}, too few for "
            f"data.holdout={request.holdout:g}: add some"
        )
    if request.split == "eval":
        return held, []
    return ~held, [f"{int(held.sum()):,} of {len(names):,} images are held out for evaluation (data.holdout)"]


def held_out(names: Iterable[str], share: float, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Returns which records are held out, bool [n]: of each class its share, rounded.

    One at least of each class, unless it has no other: that one is trained on. Records of one name stay together.
    """
    key = str(seed).encode()
    numbers = (blake2b(_bytes(name), digest_size=8, key=key).digest() for name in names)
    drawn = np.array([int.from_bytes(number, "big") for number in numbers], np.uint64)
    of = np.zeros(len(drawn), np.int64) if labels is None else np.asarray(labels)
    held = np.zeros(len(drawn), bool)
    order = np.argsort(of, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
        distinct = np.unique(drawn[members])
        count = min(max(int(share * len(distinct) + 0.5), 1), len(distinct) - 1)
        if count > 0:
            held[members] = drawn[members] <= distinct[count - 1]
    return held


def _bytes(name: str) -> bytes:
    return os.fsencode(composed(plain_path(name)))
