"""Images of many sizes in few padded shapes: XLA compiles a program a shape, and every padded pixel costs time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from pvt_jax.errors import UserError

# Cost of a label map's pixel relative to one of the image: resampling and counting logits is cheap compared with the
# network. A power of two, so that costs are exact.
_LABEL_COST = 1 / 16
# The time to merge grows with the square of the number of shapes; more are first rounded up to multiples.
_MOST_SHAPES = 2000
_FIRST_ROUNDING = 64


@dataclass(frozen=True, eq=False)
class Buckets:
    """A padded shape for every record.

    Attributes:
      shapes: distinct, one a bucket, the costliest first: one that does not fit in memory fails at once.
      of: each record's bucket, a row of ``shapes``.
      waste: the share of the padded cost that is padding, 0 up to below 1.
    """

    shapes: Int[np.ndarray, "m d"]
    of: Int[np.ndarray, " n"]
    waste: float


def choose_buckets(shapes: Int[np.ndarray, "n d"], limit: int, weights: np.ndarray | None = None) -> Buckets:
    """At most ``limit`` shapes that cover the given ones, chosen so that padding costs little.

    From one bucket for each distinct shape, the two whose union adds the least cost are merged until few enough are
    left. A larger limit never wastes more. The cost of a shape is its pixels, those of the label map at a sixteenth.
    Raises UserError: ``limit`` is less than 1, or the shapes are not pairs of positive sides.

    Args:
      shapes: (height, width) of what the network gets, for one or several images a record, then, from the second pair
        on, of the label map: [n, 2], [n, 4], [n, 6] …
      limit: the number of buckets.
      weights: [n], how often each record is used; once if not given.
    """
    if limit < 1:
        raise UserError(f"at least 1 padded shape is needed, not {limit}")
    shapes = np.asarray(shapes)
    if shapes.ndim != 2 or shapes.shape[1] % 2 or not shapes.shape[1] or (shapes < 1).any():
        raise UserError(f"shapes must be [n, 2] or [n, 4] positive sides, not {list(shapes.shape)}")
    distinct, kind = np.unique(shapes, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    amounts = np.bincount(kind, weights, minlength=len(distinct)).astype(np.float64)
    group = np.arange(len(distinct))
    rounding = _FIRST_ROUNDING
    while len(distinct) > limit and group.max() >= _MOST_SHAPES:
        group = np.unique(-(-distinct // rounding), axis=0, return_inverse=True)[1].reshape(-1)
        rounding *= 2
    group = _merge(_largest(distinct, group), np.bincount(group, amounts), limit)[group]
    covers, bucket = np.unique(_largest(distinct, group), axis=0, return_inverse=True)
    order = np.argsort(-_cost(covers), kind="stable")
    bucket = np.argsort(order)[bucket.reshape(-1)][group]
    covers = covers[order]
    padded = float(amounts @ _cost(covers)[bucket])
    waste = 1 - float(amounts @ _cost(distinct)) / padded if padded else 0.0
    return Buckets(covers.astype(np.int32), bucket[kind].astype(np.int32), waste)


def batches_of(buckets: Buckets, batch_size: int, multiple: int = 1) -> list[Int[np.ndarray, " b"]]:
    """Record numbers by batches: every record once, in order within its bucket, one bucket a batch, −1 for padding.

    Every batch is as long: ``batch_size``, rounded up to a multiple of ``multiple`` (devices that share a batch).
    """
    if batch_size < 1 or multiple < 1:
        raise UserError(f"batches need a size of 1 or more, and a multiple, not {batch_size} and {multiple}")
    length = -(-batch_size // multiple) * multiple
    batches = []
    for bucket in range(len(buckets.shapes)):
        records = np.flatnonzero(buckets.of == bucket)
        padded = np.full(-(-len(records) // length) * length, -1, np.int64)
        padded[: len(records)] = records
        batches.extend(padded.reshape(-1, length))
    return batches


def order_of(
    buckets: Buckets, batch_size: int, multiple: int = 1
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """``batches_of`` one after the other, and the bucket at each place: what ``pipeline.evaluation_batches`` takes."""
    batches = batches_of(buckets, batch_size, multiple)
    kinds = [np.full(len(batch), buckets.of[batch[0]], np.int32) for batch in batches]
    return np.concatenate(batches), np.concatenate(kinds)


def _cost(shapes: np.ndarray) -> np.ndarray:
    """[..., d] → [...]: pixels, those of the label map discounted."""
    areas = shapes[..., 0::2].astype(np.float64) * shapes[..., 1::2]
    if areas.shape[-1] == 1:
        return areas[..., 0]
    return areas[..., :-1].sum(axis=-1) + _LABEL_COST * areas[..., -1]


def _largest(shapes: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The component-wise maximum of the shapes of each group, [group, d]."""
    largest = np.zeros((group.max(initial=-1) + 1, shapes.shape[1]), shapes.dtype)
    np.maximum.at(largest, group, shapes)
    return largest


def _merge(shapes: np.ndarray, amounts: np.ndarray, limit: int) -> np.ndarray:
    """The group of each shape after the cheapest merges in turn, numbered from 0. Ties go to the earlier shapes."""
    count = len(shapes)
    shapes, amounts, paid = shapes.copy(), amounts.copy(), amounts * _cost(shapes)
    owner = np.arange(count)
    alive = np.ones(count, bool)

    def find_partner(one: int) -> None:
        union = (amounts + amounts[one]) * _cost(np.maximum(shapes, shapes[one]))
        added = np.where(alive, union - paid - paid[one], np.inf)
        added[one] = np.inf
        partner[one] = added.argmin()
        price[one] = added[partner[one]]

    # The cheapest partner of each shape is kept. After a merge only what pointed at one of the two looks for another,
    # the merged shape among it: the others need not learn that it became their cheapest, it knows the pair itself.
    partner, price = np.zeros(count, np.int64), np.full(count, np.inf)
    if count > limit:
        for one in range(count):
            find_partner(one)
    for _ in range(count - limit):
        one = int(price.argmin())
        other = int(partner[one])
        shapes[one] = np.maximum(shapes[one], shapes[other])
        amounts[one] += amounts[other]
        paid[one] = amounts[one] * _cost(shapes[one])
        owner[owner == other] = one
        alive[other] = False
        price[other] = np.inf
        for each in np.flatnonzero(alive & ((partner == one) | (partner == other))):
            find_partner(int(each))
    return np.unique(owner, return_inverse=True)[1].reshape(-1)
