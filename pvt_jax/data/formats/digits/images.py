"""The handwritten digits that scikit-learn ships: real data, no download."""

import operator

import numpy as np

from pvt_jax.data.records import ClassificationRecord, Request, Split
from pvt_jax.errors import UserError

_HELD_OUT = 0.2
_SEED = 0
_LARGEST_VALUE = 16


class DigitsSource:
    """1,797 images uint8 [8, 8, 3] of 10 classes (Alpaydin & Kaynak 1998), split once and for all.

    Of each class 80 % train (1,438 images) and 20 % are held out (359), drawn with a fixed seed and kept in the order
    of the original file. The draw ignores who wrote a digit, which scikit-learn's copy does not record, so that both
    splits share writers.
    """

    def __init__(self, split: Split) -> None:
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
        chosen = _split_indices(targets, split)
        scaled = np.rint(images[chosen] * (255 / _LARGEST_VALUE)).astype(np.uint8)
        self._images = scaled.reshape(-1, 8, 8)
        self._split = split
        self._labels = targets[chosen].astype(np.int32)
        self.class_names = tuple(str(digit) for digit in range(10))

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ClassificationRecord:
        index = operator.index(index)
        image = np.repeat(self._images[index][..., None], 3, axis=-1)
        return {"image": image, "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        return f"digits/{self._split} record {index}"

    def __str__(self) -> str:
        return "scikit-learn's digits"


def _split_indices(targets: np.ndarray, split: Split) -> np.ndarray:
    # NumPy freezes the stream of RandomState; default_rng may change between versions.
    random = np.random.RandomState(_SEED)
    held_out = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        held_out[members[: round(_HELD_OUT * len(members))]] = True
    return np.flatnonzero(held_out if split == "eval" else ~held_out)


def open_digits(request: Request) -> DigitsSource:
    """Opens the digits; raises UserError where a config names splits."""
    refuse_split_names("digits", request)
    return DigitsSource(request.split)


def refuse_split_names(source: str, request: Request) -> None:
    """Raises UserError where a config names splits of a data set whose splits are fixed."""
    if request.train_split or request.eval_split:
        raise UserError(f"the {source} source has one fixed split: leave train_split and eval_split unset")
