"""Whether images are both trained and evaluated on, which makes the results look better than they are."""

import filecmp
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pvt_jax.data.records import HasFiles
from pvt_jax.files.headers import THREADS
from pvt_jax.messages import escaped, plural

# Evaluation images whose content is compared, and training images that each is compared with.
_MOST_TRIED, _MOST_OTHERS = 1000, 4


def shared_images(train: HasFiles, evaluation: HasFiles) -> list[str]:
    """Returns a note on images of both; none if none was found.

    They are the same files, or of evenly spaced ones copies under the same name: files of one name and size are read.
    """
    paths = [evaluation.path(index) for index in range(len(evaluation))]
    tried = np.unique(np.linspace(0, len(paths) - 1, min(_MOST_TRIED, len(paths))).astype(int))
    # Copies are likely in folders of one name, that of a class.
    alike: dict[str, list[str]] = {key: [] for index in tried for key in _keys(paths[index])}
    known, same = set(paths), 0
    for index in range(len(train)):
        path = train.path(index)
        same += path in known
        if os.path.basename(path) in alike:
            for found in (alike[key] for key in _keys(path) if key in alike):
                found += [path] * (len(found) < _MOST_OTHERS)
    if same:
        return [f"{plural(same, 'evaluation image')} {'are' if same != 1 else 'is'} trained on, too"]

    def copy_of(path: str) -> str:
        others = next((found for key in _keys(path) if (found := alike[key])), [])
        return next((other for other in others if _are_equal(path, other)), "")

    with ThreadPoolExecutor(THREADS) as pool:
        chosen = [paths[index] for index in tried]
        copies = [(path, other) for path, other in zip(chosen, pool.map(copy_of, chosen), strict=True) if other]
    if not copies:
        return []
    (first, other), count = copies[0], len(copies)
    are = "are" if count != 1 else "is"
    return [
        f"{count:,} of {plural(len(tried), 'evaluation image')} compared {are} trained on, too, "
        f"such as {escaped(first)}, which is {escaped(other)}"
    ]


def _keys(path: str) -> tuple[str, str]:
    """Returns the name of a file with that of its folder, and the name alone."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.basename(folder), name), name


def _are_equal(path: str, other: str) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False
