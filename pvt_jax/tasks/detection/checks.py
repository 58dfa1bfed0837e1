"""What is checked of images and their objects before the first step. Annotations are checked when they are opened."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pvt_jax.data.records import HasFiles
from pvt_jax.errors import UserError
from pvt_jax.files.headers import image_header
from pvt_jax.files.traits import describe_orientations, way_to_turn
from pvt_jax.messages import escaped_name, listed
from pvt_jax.tasks.checks import Attempts, DataChecks, Suspects
from pvt_jax.tasks.detection.source import DetectionSource

# Classes that are listed by name.
_NAMED = 10


class DetectionChecks(DataChecks):
    """Checks that images have the sizes of their annotations, and objects their masks.

    ``check`` "all" compares the size of every image, from the headers of the files, "sample" that of the probed ones.
    The masks of those are decoded in either case. ``needs_masks`` is whether the model learns masks; other arguments
    are those of ``DataChecks``.
    """

    records = "images with objects"
    labels = "boxes"

    def __init__(self, num_classes: int, *, needs_masks: bool, **settings: Any) -> None:
        super().__init__(num_classes, **settings)
        self._needs_masks = needs_masks

    def describe_classes(self, names: Sequence[str]) -> str:
        return f"{super().describe_classes(names)} ({listed([escaped_name(name) for name in names], _NAMED)})"

    def image(self, source: DetectionSource, index: int) -> bytes | np.ndarray:
        return source.image(index)

    def check_before_decoding(self, split: str, source: DetectionSource, probes: list[int]) -> Suspects:
        if self._needs_masks:
            _check_have_masks(split, source)
        no_images = set(np.flatnonzero(~np.all(source.sizes(), axis=1)).tolist())
        others, notes = self._check_sizes(split, source, range(len(source)) if self.check == "all" else probes)
        return no_images | others, notes

    def check_rest(self, split: str, source: DetectionSource, probes: list[int]) -> Attempts:
        if not any(len(source.objects(index)) for index in probes) and not source.counts().any():
            raise UserError(f"no {split} image has an object ({source}): annotate some, or choose another split")
        return [], _check_masks(split, source, probes) if self._needs_masks else []

    def check_orientations(self, source: DetectionSource, probed: Sequence[int]) -> list[str]:
        # With the sizes of files they were looked at, too.
        return [] if isinstance(source, HasFiles) else super().check_orientations(source, probed)

    def _check_sizes(self, split: str, source: DetectionSource, chosen: Sequence[int]) -> tuple[set[int], list[str]]:
        """Compares the sizes of files with those of the annotations.

        Returns the files that are no images, and the notes.
        """
        if not isinstance(source, HasFiles):
            return set(), []
        sizes, no_images, wrong, turned = source.sizes(), set(), [], 0
        upright = self.reading.exif_orientation
        for index, header in self.each(lambda index: image_header(source.path(index)), chosen, split, "image sizes"):
            turned += header.orientation > 1
            if not all(header.stored):
                no_images.add(index)
            elif header.size(upright) != tuple(sizes[index].tolist()):
                wrong.append((index, header))
        if wrong:
            index, header = wrong[0]
            (height, width), (noted_height, noted_width) = header.size(upright), sizes[index].tolist()
            way_out = "annotate these files, or correct the annotations"
            if header.size(not upright) == (noted_height, noted_width):
                way_out = way_to_turn("annotations", upright)
            elif (height, width) == (noted_width, noted_height):
                way_out = "exchange height and width in the annotations, or annotate these files"
            raise UserError(
                f"{len(wrong):,} of {len(chosen):,} {split} images have another size than their annotations say, the "
                f"first is {source.name(index)}, {height}×{width} and not {noted_height}×{noted_width} (height × "
                f"width): {way_out}"
            )
        tried = None if len(chosen) == len(source) else len(chosen)
        return no_images, describe_orientations(turned, tried, self.labels, upright)


def _check_have_masks(split: str, source: DetectionSource) -> None:
    way_out = "train a head without masks, such as --config.head.name=faster_rcnn"
    if not source.has_masks:
        raise UserError(f"the head learns masks, and no {split} object has one ({source}): annotate them, or {way_out}")
    if without := source.without_masks():
        raise UserError(
            f"the head learns masks, and {without:,} {split} objects have none ({source}): annotate these as polygons, "
            f"remove them, or {way_out}"
        )


def _check_masks(split: str, source: DetectionSource, probes: list[int]) -> list[str]:
    """Decodes masks; returns notes. Raises UserError where most are elsewhere than their boxes."""
    tried, elsewhere = 0, []
    for index in probes:
        objects = source.objects(index)
        objects = objects.take(~objects.crowd)
        for box, mask in zip(objects.boxes, source.masks(index, objects), strict=True):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            tried += 1
            if not mask[top:bottom, left:right].any():
                elsewhere.append(index)
    if not elsewhere:
        return []
    first = source.name(elsewhere[0])
    if len(elsewhere) > tried / 2:
        raise UserError(
            f"{len(elsewhere):,} of the {tried:,} {split} masks tried have no pixel in their boxes, the first in "
            f"{first}: were the boxes scaled with the images, and the masks not?"
        )
    return [f"{len(elsewhere):,} of the {tried:,} masks tried have no pixel in their boxes, the first in {first}"]
