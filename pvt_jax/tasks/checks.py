"""Checks a data set before the first step, so that a wrong one is refused within seconds and not after an epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.overlap import shared_images
from pvt_jax.data.records import HasFiles, HasNotes
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import THREADS
from pvt_jax.files.images import Traits, inspect
from pvt_jax.files.traits import describe_layers, describe_orientations, describe_values
from pvt_jax.messages import plural
from pvt_jax.tasks.images import check_source_array

_SECONDS_BETWEEN_REPORTS = 10


@dataclass(frozen=True)
class Attempt:
    """How many files of a kind, such as "label maps", were decoded, and the errors of those that cannot be."""

    what: str
    count: int
    errors: Sequence[CorruptImageError]


# Notes, behind the records that look broken, or what was decoded.
Suspects = tuple[set[int], list[str]]
Attempts = tuple[list[Attempt], list[str]]


class DataChecks:
    """What every task checks of its training and evaluation data. A task overrides the hooks.

    Args:
        num_classes: number of classes of the model.
        reading: how image files are read, as in training and evaluation; a sample of each split is read so.
        on_corrupt: "error" refuses a data set in which a file that is tried cannot be decoded, "skip" one in which
            none can.
        check: "all" or "sample"; what it covers is up to the task.
        probes: how many images of each split are decoded, evenly spaced.
        progress: called with a line now and then, when it takes long.
    """

    # What the closing line calls the records, and what has to fit to upright images.
    records = "images"
    labels = ""

    def __init__(
        self,
        num_classes: int,
        *,
        reading: ReadingOptions | None = None,
        on_corrupt: str = "error",
        check: str = "all",
        probes: int = 32,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.num_classes, self.check, self.reading = num_classes, check, reading or ReadingOptions()
        self._on_corrupt, self._probes, self._progress = on_corrupt, probes, progress

    def validate(self, train: Any, evaluation: Any) -> str:
        """Returns a line for the log: how many records of how many classes, from where, and the notes.

        ``train`` is None where only evaluation data is there.
        Raises UserError: what is wrong in one of the splits, where, how often, and what to do about it.
        """
        for key, value, known in (
            ("on_corrupt", self._on_corrupt, ("error", "skip")),
            ("check", self.check, ("all", "sample")),
        ):
            if value not in known:
                raise UserError(f"data.{key} is '{value}', but it is either '{known[0]}' or '{known[1]}'")
        splits = {**({} if train is None else {"training": train}), "evaluation": evaluation}
        for split, source in splits.items():
            if not len(source):
                raise UserError(f"the {split} data has no images ({source}): check its folder or split")
        first = next(iter(splits.values()))
        self.check_classes(first.class_names, evaluation.class_names)
        notes = ["no training data: the classes are those of the run"] * (train is None)
        for split, source in splits.items():
            found = self._check_split(split, source)
            notes += [f"{split}: {', '.join(found)}"] * bool(found)
        notes += [] if train is None else self.compare(train, evaluation)
        counts = " and ".join(f"{len(source):,} {split}" for split, source in splits.items())
        return (
            f"{counts} {self.records} of {self.describe_classes(first.class_names)}, from {first}"
            f"{''.join(f'; {note}' for note in notes)}"
        )

    # What a task overrides.

    def check_classes(self, train: Sequence[str], evaluation: Sequence[str]) -> None:
        """Raises UserError unless both splits have the same classes, as many as the model."""
        if tuple(train) != tuple(evaluation):
            differences = [
                f"only the {split} data has {', '.join(only[:5])}{f' and {len(only) - 5} more' * (len(only) > 5)}"
                for split, only in (
                    ("training", sorted(set(train) - set(evaluation))),
                    ("evaluation", sorted(set(evaluation) - set(train))),
                )
                if only
            ]
            raise UserError(
                "training and evaluation data name different classes: "
                + ("; ".join(differences) or "the same names in another order, so that labels differ")
                + "; give both the same list of classes"
            )
        if len(train) != self.num_classes:
            raise UserError(
                f"the data set has {plural(len(train), 'class', 'es')} but model.num_classes is {self.num_classes}: "
                f"set --config.model.num_classes={len(train)}"
            )

    def describe_classes(self, names: Sequence[str]) -> str:
        """Returns the classes in a few words."""
        return plural(len(names), "class", "es")

    def check_before_decoding(self, split: str, source: Any, probes: list[int]) -> Suspects:
        """Returns the records whose images look broken, and notes; raises UserError."""
        return set(), []

    def check_orientations(self, source: Any, probed: Sequence[int]) -> list[str]:
        """Returns a note where images have an EXIF orientation, by default among the ``probed`` ones."""
        turned = sum(orientation > 1 for orientation in probed)
        return describe_orientations(turned, len(probed), self.labels, self.reading.exif_orientation)

    def image(self, source: Any, index: int) -> bytes | np.ndarray:
        """Returns the image of a record."""
        return source[index]["image"]

    def check_rest(self, split: str, source: Any, probes: list[int]) -> Attempts:
        """Checks all but images; returns what else was decoded, and notes; raises UserError."""
        return [], []

    def compare(self, train: Any, evaluation: Any) -> list[str]:
        """Returns notes on both splits together."""
        if not (isinstance(train, HasFiles) and isinstance(evaluation, HasFiles)):
            return []
        return shared_images(train, evaluation)

    # What a task calls.

    def each(
        self, function: Callable[[int], Any], indices: Sequence[int], split: str, what: str
    ) -> Iterator[tuple[int, Any]]:
        """Yields each index and what ``function`` returns for it, computed in threads; reports the progress."""
        reported = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            for done, (index, found) in enumerate(zip(indices, pool.map(function, indices), strict=True), start=1):
                yield index, found
                if self._progress and time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    self._progress(f"checked {done:,} of {len(indices):,} {split} {what}")

    def _check_split(self, split: str, source: Any) -> list[str]:
        """Checks one split; returns notes."""
        count = len(source)
        probes = np.unique(np.linspace(0, count - 1, min(self._probes, count)).astype(np.int64)).tolist()
        suspects, found = self.check_before_decoding(split, source, probes)
        notes = [*(source.notes() if isinstance(source, HasNotes) else ()), *found]
        tried = sorted({*probes, *suspects})
        found = [result for _, result in self.each(lambda index: self._probe(source, index), tried, split, "images")]
        errors = [result for result in found if isinstance(result, CorruptImageError)]
        others, more = self.check_rest(split, source, probes)
        attempts = [Attempt("images", len(tried), errors), *others]
        for attempt in attempts:
            if attempt.count and len(attempt.errors) == attempt.count:
                raise UserError(
                    f"none of the {attempt.count:,} {split} {attempt.what} tried can be decoded: the data set as a "
                    f"whole looks unreadable, fetch or unpack it again; the first: {attempt.errors[0]}"
                ) from attempt.errors[0]
        corrupt = [error for attempt in attempts for error in attempt.errors]
        what, count = " or ".join(attempt.what for attempt in attempts), sum(attempt.count for attempt in attempts)
        if corrupt and self._on_corrupt == "error":
            raise UserError(
                f"{len(corrupt):,} of {count:,} {split} {what} tried cannot be decoded: repair or remove "
                f"{'such pairs' if others else 'them'}, or skip them with "
                f"--config.data.on_corrupt=skip; the first: {corrupt[0]}"
            ) from corrupt[0]
        are = "are" if len(corrupt) != 1 else "is"
        skipped = [f"{len(corrupt):,} of {count:,} {what} tried cannot be decoded and {are} skipped"] * bool(corrupt)
        traits = [result for result in found if isinstance(result, Traits)]
        odd = [
            *describe_values(split, traits, len(tried), self.reading.value_range),
            *describe_layers(traits, len(tried)),
            *self.check_orientations(source, [trait.orientation for trait in traits]),
        ]
        return [*notes, *more, *odd, *skipped]

    def _probe(self, source: Any, index: int) -> Traits | CorruptImageError:
        image, name = self.image(source, index), source.name(index)
        if not isinstance(image, bytes):
            check_source_array(image, name)
            return Traits()
        try:
            return inspect(image, name)
        except CorruptImageError as error:
            return error
