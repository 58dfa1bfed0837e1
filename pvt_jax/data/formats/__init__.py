"""Random-access image classification sources, read without TensorFlow.

A source is what ``grain.MapDataset.source`` takes: ``len(source)`` and ``source[index]``. It stays small when
pickled, so that Grain can send it to its worker processes, and every record can be named in an error message.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np

from pvt_jax.errors import UserError

Split = Literal["train", "eval"]


class ClassificationRecord(TypedDict):
    """One example: ``image`` is an encoded file or uint8 [H, W, 3]; ``label`` indexes the source's ``class_names``."""

    image: bytes | np.ndarray
    label: int


@runtime_checkable
class ClassificationSource(Protocol):
    """A picklable sequence of labelled images. ``str(source)`` says where the data comes from, in a few words."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names; label k is ``class_names[k]``. Training and evaluation of one data set have the same tuple."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, integer [len(self)], where they are known without reading the records; else None."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ClassificationRecord: ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find record ``index``: a path, or "cifar10/train record 17"."""
        ...


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name nearest to ``name``, or "" when none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def _open_digits(
    split: Split, name: str, root: str, train_split: str | None, eval_split: str | None
) -> ClassificationSource:
    from pvt_jax.data.formats.digits.images import DigitsSource

    if train_split or eval_split:
        raise UserError("the digits source has one fixed split: leave train_split and eval_split unset")
    return DigitsSource(split)


def _open_folder(
    split: Split, name: str, root: str, train_split: str | None, eval_split: str | None
) -> ClassificationSource:
    from pvt_jax.data.formats.folder import open_folder

    return open_folder(root, split, train_folder=train_split or "train", eval_folder=eval_split)


def _open_tfds(
    split: Split, name: str, root: str, train_split: str | None, eval_split: str | None
) -> ClassificationSource:
    from pvt_jax.data.formats.tfds.records import open_tfds

    return open_tfds(name, split, root=root, train_split=train_split or "train", eval_split=eval_split)


# Each opener imports its module when called: scikit-learn and TFDS take a second or more.
_OPENERS: dict[str, Callable[..., ClassificationSource]] = {
    "digits": _open_digits,
    "folder": _open_folder,
    "tfds": _open_tfds,
}


def open_source(
    source: str,
    *,
    split: Split,
    name: str = "",
    root: str = "",
    train_split: str | None = None,
    eval_split: str | None = None,
) -> ClassificationSource:
    """Opens one half of a classification data set.

    Args:
        source: "digits" (reads no other argument), "folder" (reads ``root``) or "tfds" (reads ``name`` and ``root``).
        split: which half, "train" or "eval".
        name: the TFDS name, such as "imagenet2012" or "cifar10".
        root: folder: what holds train/ and val/. tfds: its data_dir, "" for the one TFDS uses by default.
        train_split, eval_split: folder: names below ``root``. tfds: TFDS splits, such as "train[:90%]".
            None takes "train", and the first of the usual evaluation names that exists.

    Raises:
        UserError: an unknown source, or data that is missing or laid out in another way.
    """
    if source not in _OPENERS:
        raise UserError(
            f"unknown data source '{source}'{did_you_mean(source, _OPENERS)}; the sources are: {', '.join(_OPENERS)}"
        )
    if split not in ("train", "eval"):
        raise UserError(f"split is '{split}', but a source has 'train' and 'eval'")
    return _OPENERS[source](split, name, root, train_split, eval_split)
