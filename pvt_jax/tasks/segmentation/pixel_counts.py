"""How many pixels of each class a data set has."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError
from pvt_jax.files.headers import THREADS
from pvt_jax.files.labels import IGNORE
from pvt_jax.tasks.segmentation.source import ReadsLabels, SegmentationSource

_SECONDS_BETWEEN_REPORTS = 10


def count_pixels(
    source: SegmentationSource, reading: ReadingOptions, *, skip: bool, say: Callable[[str], None] | None = None
) -> np.ndarray:
    """Returns the pixels of each class in all label maps, int64 [K], without ignored ones.

    Raises UserError: a label map cannot be used; one that cannot be decoded has no pixels if ``skip``.
    """

    def count(index: int) -> np.ndarray:
        data = source.label_map(index) if isinstance(source, ReadsLabels) else source[index]["label_map"]
        try:
            labels = source.encoding.decode(data, source.label_name(index), reading.exif_orientation)
        except CorruptImageError:
            if not skip:
                raise
            return np.zeros(IGNORE + 1, np.int64)
        return np.bincount(labels.ravel(), minlength=IGNORE + 1)

    total, reported = np.zeros(IGNORE + 1, np.int64), time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for done, found in enumerate(pool.map(count, range(len(source))), start=1):
            total += found
            if say and time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                say(f"counted the pixels of {done:,} of {len(source):,} label maps")
    return total[: len(source.class_names)]
