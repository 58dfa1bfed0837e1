"""Checks classes, labels and a sample of images before the first step."""

from collections.abc import Callable

import numpy as np

from pvt_jax.data.images import check_source_array
from pvt_jax.data.records import ClassificationSource
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.tasks.checks import check_same_classes


def validate_classification(
    train: ClassificationSource,
    evaluation: ClassificationSource,
    num_classes: int,
    probes: int = 32,
    *,
    decode: Callable[[bytes, str], object],
    on_corrupt: str = "error",
) -> str:
    """Checks classes, labels and a sample of images of both halves of a data set.

    Args:
        train, evaluation: the two halves, as ``open_source`` returns them.
        num_classes: number of outputs of the model.
        probes: how many images of each half to read, evenly spaced. Where a source does not know its labels, theirs are
            the labels that are checked.
        decode: called with an encoded image and its name; raises CorruptImageError.
        on_corrupt: "error" refuses a data set in which a probed image cannot be decoded, "skip" one in which none can.

    Returns:
        One line for the log: how many images of how many classes, from where.

    Raises:
        UserError: what is wrong, where, and what to do about it.
    """
    if on_corrupt not in ("error", "skip"):
        raise UserError(f"on_corrupt is '{on_corrupt}', but it is either 'error' or 'skip'")
    halves = {"training": train, "evaluation": evaluation}
    for half, source in halves.items():
        if not len(source):
            raise UserError(f"the {half} data has no images ({source}): check its folder or split")
    check_same_classes(train.class_names, evaluation.class_names)
    count = len(train.class_names)
    if count != num_classes:
        raise UserError(
            f"the data set has {count} class{'es' * (count != 1)} but model.num_classes is {num_classes}: "
            f"set --config.model.num_classes={count}"
        )
    for half, source in halves.items():
        if source.labels is not None:
            _check_labels(half, source, np.arange(len(source)), np.asarray(source.labels))
        _check_probes(half, source, probes, decode, on_corrupt)
    return (
        f"{len(train):,} training and {len(evaluation):,} evaluation images of {count:,} "
        f"class{'es' * (count != 1)}, from {train}"
    )


def _check_labels(half: str, source: ClassificationSource, indices: np.ndarray, labels: np.ndarray) -> None:
    """Raises UserError when one of ``labels`` [N], those of the records ``indices`` [N], is no class of ``source``."""
    count = len(source.class_names)
    outside = np.flatnonzero((labels < 0) | (labels >= count))
    if not outside.size:
        return
    first, lowest, highest = outside[0], labels.min(), labels.max()
    if lowest == 1 and highest == count:
        way_out = "they look 1-based: subtract 1 from each"
    elif (labels == -1).all():
        way_out = "-1 marks unlabelled data: choose a split with labels"
    else:
        way_out = "correct them, or name all classes"
    raise UserError(
        f"label {labels[first]} of {source.name(int(indices[first]))} is outside 0…{count - 1}; the {half} labels run "
        f"from {lowest} to {highest} and {outside.size:,} of {labels.size:,} are outside: {way_out}"
    )


def _check_probes(
    half: str,
    source: ClassificationSource,
    probes: int,
    decode: Callable[[bytes, str], object],
    on_corrupt: str,
) -> None:
    """Reads and decodes ``probes`` evenly spaced records, and checks their labels where the source knows no others."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(probes, len(source))).astype(np.int64))
    labels = []
    corrupt: list[CorruptImageError] = []
    for index in indices:
        record = source[int(index)]
        labels.append(record["label"])
        image, name = record["image"], source.name(int(index))
        if not isinstance(image, bytes):
            check_source_array(image, name)
            continue
        try:
            decode(image, name)
        except CorruptImageError as error:
            corrupt.append(error)
    if source.labels is None:
        _check_labels(half, source, indices, np.asarray(labels))
    if not corrupt:
        return
    if len(corrupt) == len(indices):
        raise UserError(
            f"none of the {len(indices)} {half} images tried can be decoded: the data set as a whole looks unreadable, "
            f"fetch or unpack it again; the first: {corrupt[0]}"
        ) from corrupt[0]
    if on_corrupt == "error":
        raise UserError(
            f"{len(corrupt)} of {len(indices)} {half} images tried cannot be decoded: repair or remove such images, or "
            f"skip them with --config.data.on_corrupt=skip; the first: {corrupt[0]}"
        ) from corrupt[0]
