"""Checks images and label maps before the first step: every pair's sizes, every label, or those of a sample."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pvt_jax.data.headers import THREADS, image_header
from pvt_jax.data.images import check_source_array
from pvt_jax.data.labels import IGNORE, Contents, worst
from pvt_jax.data.records import ReadsLabels, SegmentationSource
from pvt_jax.data.text import listed
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.tasks.checks import check_halves

_PROBES = 32
_SECONDS_BETWEEN_REPORTS = 10
# Modes of images that cannot be told from their headers to be label maps; "" is of no image.
_SUSPICIOUS = ("", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass
class _Findings:
    """What was found in the label maps of one half, each error with the number of the first that has it."""

    half: str
    source: SegmentationSource
    read: int = 0
    corrupt: list[CorruptImageError] = field(default_factory=list)
    refused: list[UserError] = field(default_factory=list)
    mismatched: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    values: set[int] = field(default_factory=set)
    classes: set[int] = field(default_factory=set)
    unlabelled: int = 0
    unknown: dict[int, int] = field(default_factory=dict)
    with_unknown: int = 0

    def add(self, index: int, image_size: tuple[int, int], found: "Contents | tuple[int, int] | UserError") -> None:
        """Takes what is in label map ``index``, or its size, or what is wrong with it."""
        if isinstance(found, CorruptImageError):
            self.corrupt.append(found)
        elif isinstance(found, UserError):
            self.refused.append(found)
        else:
            size = found.size if isinstance(found, Contents) else found
            if size != image_size and all(image_size):
                self.mismatched.append((index, size))
        if isinstance(found, Contents):
            self.values.update(found.values)
            self.classes |= found.classes
            self.unlabelled += not (found.classes or found.unknown)
            self.with_unknown += bool(found.unknown)
            for value in found.unknown:
                self.unknown.setdefault(value, index)
        self.read += not isinstance(found, tuple)

    def check(self, sizes: np.ndarray) -> None:
        """Raises UserError for what makes a data set unusable."""
        half, source, encoding = self.half, self.source, self.source.encoding
        if self.refused:
            more = f"; {len(self.refused):,} of {self.read:,} {half} label maps that were read are so"
            raise UserError(f"{self.refused[0]}{more}")
        if self.mismatched:
            index, (height, width) = self.mismatched[0]
            image_height, image_width = sizes[index].tolist()
            turned = (height, width) == (image_width, image_height)
            way_out = (
                "turn the image as its EXIF orientation says, and save it so" if turned else "pair the right files"
            )
            raise UserError(
                f"{len(self.mismatched):,} of {len(source):,} {half} label maps have another size than their images, "
                f"such as {source.label_name(index)}, {height}×{width}, and {source.name(index)}, "
                f"{image_height}×{image_width} (height × width): {way_out}, or resize label maps to the nearest pixel"
            )
        if self.unknown:
            unknown = sorted(self.unknown)
            raise UserError(
                f"in {self.with_unknown:,} of {self.read:,} {half} label maps that were read, such as "
                f"{source.label_name(self.unknown[worst(unknown)])}, values are no labels (all values run from "
                f"{min(self.values)} to {max(self.values)}): {encoding.describe(unknown)}{self._ways_by_palette()}"
            )
        if self.read and not self.classes and not self.corrupt:
            values = ", ".join(map(str, sorted(self.values))) or "colours that are ignored"
            raise UserError(
                f"none of the {self.read:,} {half} label maps that were read has a labelled pixel, all of them are "
                f"ignored ({values}): correct segmentation.ignore_labels or reduce_zero_label, or choose another split"
            )
        looks_like_masks = encoding.num_classes > 1 and self.classes == {0} and self.values == {0, IGNORE}
        if looks_like_masks and half == "training" and self.read == len(source):
            raise UserError(
                f"the {self.read:,} {half} label maps hold 0 and 255 alone, and 255 is ignored: if they "
                f"are black and white masks, set --config.segmentation.palette='((0,0,0),(255,255,255))'"
            )

    def _ways_by_palette(self) -> str:
        """What to do where as many levels of grey as there are classes stand for them, as 0, 127 and 255; or ""."""
        levels, first = sorted(self.values), self.unknown[min(self.unknown)]
        label_map = self.source[first]["label_map"]
        is_grey = isinstance(label_map, bytes) and image_header(label_map)[1] == "L"
        in_a_row = levels[-1] - levels[0] < len(levels)
        if in_a_row or not is_grey or len(levels) != self.source.encoding.num_classes:
            return ""
        palette = str(tuple((level,) * 3 for level in levels)).replace(" ", "")
        return f"; if these levels of grey are the classes, --config.segmentation.palette='{palette}'"


def validate_segmentation(
    train: SegmentationSource,
    evaluation: SegmentationSource,
    num_classes: int,
    *,
    decode: Callable[[bytes, str], object],
    on_corrupt: str = "error",
    check: str = "all",
    progress: Callable[[str], None] | None = None,
) -> str:
    """Checks both halves of a segmentation data set; that all have a partner was checked when they were opened.

    Args:
        train, evaluation: the two halves, as ``open_segmentation_source`` returns them.
        num_classes: number of outputs of the model.
        decode: called with an encoded image and its name, for 32 images of each half; raises CorruptImageError.
        on_corrupt: "error" refuses a data set in which an image or label map cannot be decoded, "skip" one in which
            none can.
        check: "all" decodes all label maps, "sample" 32 of each half and those that look RGB-coded. Sizes of label
            maps and images are compared in either case, from the headers of their files.
        progress: called with a line now and then, when it takes long.

    Returns:
        One line for the log: how many images of how many classes, from where, and which classes never appear.

    Raises:
        UserError: what is wrong, where, how often, and what to do about it.
    """
    halves: dict[str, Any] = {"training": train, "evaluation": evaluation}
    check_halves(halves, num_classes, on_corrupt, check)
    count = len(train.class_names)
    if count == 1:
        raise UserError(
            "one class alone leaves nothing to tell apart: count the background as a class, too, the first of two"
        )
    notes = []
    for half, source in halves.items():
        notes += _check_half(_Findings(half, source), decode, on_corrupt, check, progress)
    return (
        f"{len(train):,} training and {len(evaluation):,} evaluation images with label maps of {count:,} "
        f"class{'es' * (count != 1)}, from {train}{''.join(f'; {note}' for note in notes)}"
    )


def _check_half(
    findings: _Findings,
    decode: Callable[[bytes, str], object],
    on_corrupt: str,
    check: str,
    progress: Callable[[str], None] | None,
) -> list[str]:
    """Checks one half; returns what is worth a note."""
    half, source, count = findings.half, findings.source, len(findings.source)
    probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64)).tolist()
    sizes = source.sizes()
    no_images = np.flatnonzero(~sizes.all(axis=1)).tolist()
    chosen = range(count) if check == "all" else probes
    read = range(count) if isinstance(source, ReadsLabels) else chosen
    reported = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(lambda index: _probe(source, index, decode), sorted({*probes, *no_images})))
        inspected = pool.map(lambda index: _inspect(source, index, index in chosen), read)
        for done, (index, found) in enumerate(zip(read, inspected, strict=True)):
            findings.add(index, (int(sizes[index, 0]), int(sizes[index, 1])), found)
            if progress and time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                progress(f"checked {done + 1:,} of {len(read):,} {half} label maps")
    findings.check(sizes)
    corrupt = [error for error in images if error] + findings.corrupt
    for what, errors, tried in (("images", images, len(images)), ("label maps", findings.corrupt, findings.read)):
        if tried and sum(error is not None for error in errors) == tried:
            raise UserError(
                f"none of the {tried:,} {half} {what} tried can be decoded: the data set as a whole looks unreadable, "
                f"fetch or unpack it again; the first: {errors[0]}"
            )
    if corrupt and on_corrupt == "error":
        raise UserError(
            f"{len(corrupt):,} {half} images or label maps cannot be decoded: repair or remove such pairs, or skip "
            f"them with --config.data.on_corrupt=skip; the first: {corrupt[0]}"
        ) from corrupt[0]
    notes = [f"{len(corrupt):,} {half} images or label maps cannot be decoded and are skipped"] if corrupt else []
    if findings.unlabelled:
        notes.append(f"{findings.unlabelled:,} {half} label maps have no labelled pixel")
    absent = [name for label, name in enumerate(source.class_names) if label not in findings.classes]
    if absent and check == "all":
        notes.append(f"no {half} label map has {listed(absent)}")
    return notes


def _inspect(source: SegmentationSource, index: int, whole: bool) -> Contents | tuple[int, int] | UserError:
    """Returns what is in a label map; where ``whole`` is False its size, unless its header looks wrong."""
    data = source.label_map(index) if isinstance(source, ReadsLabels) else source[index]["label_map"]
    if not whole and isinstance(data, bytes):
        size, mode = image_header(data)
        if mode not in _SUSPICIOUS:
            return size
    try:
        return source.encoding.inspect(data, source.label_name(index))
    except UserError as error:
        return error


def _probe(source: SegmentationSource, index: int, decode: Callable[[bytes, str], object]) -> CorruptImageError | None:
    image, name = source[index]["image"], source.name(index)
    if not isinstance(image, bytes):
        check_source_array(image, name)
        return None
    try:
        decode(image, name)
    except CorruptImageError as error:
        return error
    return None
