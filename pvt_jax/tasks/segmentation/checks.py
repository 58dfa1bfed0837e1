"""What is checked of images and label maps before the first step; both have partners since they were opened."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import UNLABELLED
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import image_header
from pvt_jax.files.labels import IGNORE, Contents, worst
from pvt_jax.files.traits import describe_orientations, way_to_turn
from pvt_jax.messages import listed
from pvt_jax.tasks.checks import Attempt, Attempts, DataChecks, Suspects
from pvt_jax.tasks.segmentation.source import HasOrientations, ReadsLabels, SegmentationSource
from pvt_jax.tasks.segmentation.transforms import MULTIPLE, SegmentationTrainTransform

# Share of its crop that the largest image should at least cover.
_WELL_COVERED = 0.9
# Modes of images that cannot be told from their headers to be label maps; "" is of no image.
_SUSPICIOUS = ("", "RGB", "RGBA", "CMYK", "YCbCr")


class SegmentationChecks(DataChecks):
    """Checks that label maps have the sizes of their images, and that their values are labels.

    ``check`` "all" decodes all label maps, "sample" those of the probed records, and others that look RGB-coded. Sizes
    are compared in either case, from the headers of the files.
    """

    records = "images with label maps"
    labels = "label maps"

    def __init__(self, *arguments: Any, transform: SegmentationTrainTransform | None = None, **options: Any) -> None:
        """``transform``: of the training images, if its crops are to be checked."""
        super().__init__(*arguments, **options)
        self._transform = transform

    def check_classes(self, train: Sequence[str], evaluation: Sequence[str]) -> None:
        super().check_classes(train, evaluation)
        if len(train) == 1:
            raise UserError(
                "one class alone leaves nothing to tell apart: count the background as a class, too, the first of two"
            )

    def check_before_decoding(self, split: str, source: SegmentationSource, probes: list[int]) -> Suspects:
        return set(np.flatnonzero(~source.sizes().all(axis=1)).tolist()), []

    def check_orientations(self, source: SegmentationSource, probed: Sequence[int]) -> list[str]:
        if not isinstance(source, HasOrientations):
            return super().check_orientations(source, probed)
        turned = int((source.orientations() > 1).sum())
        return describe_orientations(turned, None, self.labels, self.reading.exif_orientation)

    def check_rest(self, split: str, source: SegmentationSource, probes: list[int]) -> Attempts:
        count, sizes, findings = len(source), source.sizes(), _Findings(split, source, self.reading.exif_orientation)
        chosen = range(count) if self.check == "all" else probes
        read = range(count) if isinstance(source, ReadsLabels) else chosen

        def inspect(index: int) -> Contents | tuple[int, int] | UserError:
            return _inspect(source, index, index in chosen, self.reading.exif_orientation)

        for index, found in self.each(inspect, read, split, "label maps"):
            findings.add(index, (int(sizes[index, 0]), int(sizes[index, 1])), found)
        findings.refuse(sizes)
        notes = self._on_crops(sizes) if split == "training" else []
        notes += [f"{findings.unlabelled:,} label maps have no labelled pixel"] * bool(findings.unlabelled)
        absent = [name for label, name in enumerate(source.class_names) if label not in findings.classes]
        if absent and self.check == "all":
            notes.append(f"no label map has {listed(absent)}")
        return [Attempt("label maps", findings.read, findings.corrupt)], notes

    def _on_crops(self, sizes: np.ndarray) -> list[str]:
        """Returns a note where a good part of every training crop is padding; else none."""
        known = np.unique(sizes[sizes.all(axis=1)], axis=0)
        if self._transform is None or not len(known):
            return []
        crop = np.array(self._transform.crop_size)
        largest = np.array([self._transform.largest_size(height, width) for height, width in known.tolist()])
        covered = float((np.minimum(largest, crop).prod(axis=1) / crop.prod()).max())
        if covered > _WELL_COVERED:
            return []
        enough = np.minimum(-(-largest.max(axis=0) // MULTIPLE) * MULTIPLE, crop)
        smaller = f"set --config.segmentation.crop_size='({enough[0]},{enough[1]})', or " * bool((enough < crop).any())
        return [
            f"images cover at most {100 * covered:.0f} % of a crop of {crop[0]}×{crop[1]} pixels (height × width), the "
            f"rest is padding: {smaller or 'set '}a larger --config.segmentation.scale"
        ]

    def compare(self, train: SegmentationSource, evaluation: SegmentationSource) -> list[str]:
        notes = super().compare(train, evaluation)
        first = train.class_names[0]
        if first.strip("_ ").lower() in UNLABELLED:
            notes.append(
                f"class 0 is '{first}', which is trained and counted as any other: if 0 in the label maps is to be "
                f"ignored, set --config.segmentation.reduce_zero_label=True; if 0 is '{train.class_names[1]}', take "
                f"the name off the list"
            )
        return notes


@dataclass
class _Findings:
    """What was found in the label maps of one split."""

    split: str
    source: SegmentationSource
    upright: bool
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
        """Adds what label map ``index`` contains, or its size, or what is wrong with it."""
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

    def refuse(self, sizes: np.ndarray) -> None:
        """Raises UserError for what makes a data set unusable."""
        split, source, encoding = self.split, self.source, self.source.encoding
        if self.refused:
            more = f"; so are {len(self.refused):,} of {self.read:,} {split} label maps that were read"
            raise UserError(f"{self.refused[0]}{more}")
        if self.mismatched:
            index, (height, width) = self.mismatched[0]
            image_height, image_width = sizes[index].tolist()
            way_out = "pair the right files"
            if (height, width) == (image_width, image_height):
                way_out = self._way_to_turn(index)
            raise UserError(
                f"{len(self.mismatched):,} of {len(source):,} {split} label maps have another size than their images, "
                f"such as {source.label_name(index)}, {height}×{width}, and {source.name(index)}, "
                f"{image_height}×{image_width} (height × width): {way_out}, or resize label maps to the nearest pixel"
            )
        if self.unknown:
            unknown = sorted(self.unknown)
            raise UserError(
                f"in {self.with_unknown:,} of {self.read:,} {split} label maps that were read, such as "
                f"{source.label_name(self.unknown[worst(unknown)])}, values are no labels (all values run from "
                f"{min(self.values)} to {max(self.values)}): {encoding.describe(unknown)}{self._ways_by_palette()}"
            )
        if self.read and not self.classes and not self.corrupt:
            values = ", ".join(map(str, sorted(self.values))) or "colours that are ignored"
            raise UserError(
                f"none of the {self.read:,} {split} label maps that were read has a labelled pixel, all of them are "
                f"ignored ({values}): correct segmentation.ignore_labels or reduce_zero_label, or choose another split"
            )
        looks_like_masks = encoding.num_classes > 1 and self.classes == {0} and self.values == {0, IGNORE}
        if looks_like_masks and split == "training" and self.read == len(source):
            raise UserError(
                f"the {self.read:,} {split} label maps hold 0 and 255 alone, and 255 is ignored: if they "
                f"are black and white masks, set --config.segmentation.palette='((0,0,0),(255,255,255))'"
            )

    def _way_to_turn(self, index: int) -> str:
        """What to do where an image lies on its side, and its label map does not."""
        known = self.source.orientations() if isinstance(self.source, HasOrientations) else None
        if known is not None and known[index] > 4:
            return way_to_turn("label maps", self.upright)
        return "turn the one that lies on its side"

    def _ways_by_palette(self) -> str:
        """What to do where as many levels of grey as there are classes stand for them, as 0, 127 and 255; or ""."""
        levels, first = sorted(self.values), self.unknown[min(self.unknown)]
        label_map = self.source[first]["label_map"]
        is_grey = isinstance(label_map, bytes) and image_header(label_map).mode == "L"
        in_a_row = levels[-1] - levels[0] < len(levels)
        if in_a_row or not is_grey or len(levels) != self.source.encoding.num_classes:
            return ""
        palette = str(tuple((level,) * 3 for level in levels)).replace(" ", "")
        return f"; if these levels of grey are the classes, --config.segmentation.palette='{palette}'"


def _inspect(
    source: SegmentationSource, index: int, whole: bool, upright: bool
) -> Contents | tuple[int, int] | UserError:
    """Returns what is in a label map; where ``whole`` is False its size, unless its header looks wrong."""
    data = source.label_map(index) if isinstance(source, ReadsLabels) else source[index]["label_map"]
    if not whole and isinstance(data, bytes):
        header = image_header(data)
        if header.mode not in _SUSPICIOUS:
            return header.size(upright)
    try:
        return source.encoding.inspect(data, source.label_name(index), upright)
    except UserError as error:
        return error
