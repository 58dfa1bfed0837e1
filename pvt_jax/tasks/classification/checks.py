"""What is checked of labels before the first step."""

from collections.abc import Sequence

import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.messages import escaped_name, listed
from pvt_jax.tasks.checks import Attempts, DataChecks, Suspects
from pvt_jax.tasks.classification.source import ClassificationSource


class ClassificationChecks(DataChecks):
    """Checks that labels are classes: all where a source knows them, else those of the probed records."""

    def check_classes(self, train: Sequence[str], evaluation: Sequence[str]) -> None:
        super().check_classes(train, evaluation)
        if len(train) == 1:
            raise UserError(
                f"the data set has one class, '{escaped_name(train[0])}', and one class alone leaves nothing to learn: "
                f"add images of others, or choose another data set"
            )

    def check_before_decoding(self, split: str, source: ClassificationSource, probes: list[int]) -> Suspects:
        if source.labels is None:
            return set(), []
        labels, count = np.asarray(source.labels), len(source.class_names)
        _check_labels(split, source, range(len(source)), labels)
        absent = [escaped_name(source.class_names[label]) for label in np.setdiff1d(np.arange(count), labels).tolist()]
        return set(), [f"no image of {len(absent):,} of the {count:,} classes, {listed(absent)}"] * bool(absent)

    def check_rest(self, split: str, source: ClassificationSource, probes: list[int]) -> Attempts:
        if source.labels is None:
            labels = [label for _, label in self.each(lambda index: source[index]["label"], probes, split, "labels")]
            _check_labels(split, source, probes, np.asarray(labels))
        return [], []

    def compare(self, train: ClassificationSource, evaluation: ClassificationSource) -> list[str]:
        names, notes = train.class_names, super().compare(train, evaluation)
        if all(name.isascii() and name.isdigit() and len(name) < 19 for name in names):
            # Labels of others who count the same classes may be their numbers.
            other = next((k for k, number in enumerate(sorted(map(int, names))) if int(names[k]) != number), None)
            if other is not None and list(names) == sorted(names):
                notes.append(
                    f"the names of classes are sorted as text, not as numbers: label {other} is '{names[other]}'"
                )
        return notes


def _check_labels(split: str, source: ClassificationSource, indices: list[int] | range, labels: np.ndarray) -> None:
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
        f"label {labels[first]} of {source.name(indices[first])} is outside 0…{count - 1}; the {split} labels run "
        f"from {lowest} to {highest} and {outside.size:,} of {labels.size:,} are outside: {way_out}"
    )
