"""From records to examples of the pipeline: decoded, transformed, as arrays."""

from dataclasses import dataclass

import numpy as np

from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.pipeline import Batch
from pvt_jax.errors import UserError
from pvt_jax.files.images import decoded
from pvt_jax.files.labels import IGNORE
from pvt_jax.tasks.images import place
from pvt_jax.tasks.segmentation.source import SegmentationSource
from pvt_jax.tasks.segmentation.transforms import EvalTransform, SegmentationTrainTransform


@dataclass(frozen=True)
class SegmentationTraining:
    """``image`` uint8 [h, w, 3], ``label_map`` uint8 [h, w] and ``size`` int32 [2], (height, width) without padding."""

    transform: SegmentationTrainTransform
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: SegmentationSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        image, label_map, size = self.transform(*image_and_label_map(source, index, self.reading), rng)
        return {"image": image, "label_map": label_map, "size": size}


@dataclass(frozen=True)
class SegmentationEvaluation:
    """An image at one or more scales and its label map at original size, all padded to the shapes of its kind.

    ``image{i}`` uint8 [h_i, w_i, 3] and ``size{i}`` int32 [2] for scale i; ``label_map`` uint8 [h, w], 255 in the
    padding, and ``label_size`` int32 [2]. Each scale is one of ``views``; ``shapes`` int [kinds, 2 · views + 2] are
    height and width of the image at each scale, then of the label map.
    """

    views: tuple[EvalTransform, ...]
    shapes: np.ndarray
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: SegmentationSource, index: int, kind: int, /) -> Batch:
        image, label_map = image_and_label_map(source, index, self.reading)
        arrays = self.blank(kind)
        place(arrays, "label_map", "label_size", label_map)
        for i, view in enumerate(self.views):
            place(arrays, f"image{i}", f"size{i}", view(image))
        return arrays

    def blank(self, kind: int, /) -> Batch:
        *views, (height, width) = self.shapes[kind].reshape(-1, 2)
        arrays = {"label_map": np.full((height, width), IGNORE, np.uint8), "label_size": np.zeros(2, np.int32)}
        for i, (height, width) in enumerate(views):
            # The least size that models take: the output for blank images is discarded, but must be finite.
            arrays |= {f"image{i}": np.zeros((height, width, 3), np.uint8), f"size{i}": np.full(2, 32, np.int32)}
        return arrays


def image_and_label_map(
    source: SegmentationSource, index: int, reading: ReadingOptions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A record's image, uint8 [h, w, 3], and label map, uint8 [h, w].

    Raises:
      CorruptImageError: either cannot be decoded.
      UserError: a label is out of range, or the two differ in size.
    """
    record, reading = source[index], reading or ReadingOptions()
    label_map = source.encoding.decode(record["label_map"], source.label_name(index), reading.exif_orientation)
    image = decoded(record["image"], source.name(index), reading)
    if image.shape[:2] != label_map.shape:
        sizes = ("×".join(map(str, array.shape[:2])) for array in (label_map, image))
        raise UserError(
            f"the label map {source.label_name(index)} has {next(sizes)} pixels, and its image {source.name(index)} "
            f"{next(sizes)}: give both one size"
        )
    return image, label_map
