"""From records to examples of the pipeline: decoded, transformed, as arrays."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from pvt_jax.data.objects import Objects
from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.pipeline import Batch
from pvt_jax.errors import UserError
from pvt_jax.files.images import decoded
from pvt_jax.tasks.detection.source import DetectionSource
from pvt_jax.tasks.detection.transforms import DetectionEvalTransform, DetectionTrainTransform
from pvt_jax.tasks.images import place


@dataclass(frozen=True)
class DetectionTraining:
    """``image`` uint8 [h, w, 3], ``size``, ``boxes``, ``labels``, ``valid`` and ``masks``; see the transform.

    Attributes:
      transform: of an image and its objects.
      shapes: int [kinds, 2]: padded (height, width) of each kind.
      short_sides: int [kinds]: of each kind.
      long_side: limit of the longer side.
      places: objects per image, after padding.
      reading: how the files are read.
    """

    transform: DetectionTrainTransform
    shapes: np.ndarray
    short_sides: np.ndarray
    long_side: int
    places: int
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: DetectionSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        image, objects = image_and_objects(source, index, self.reading)
        height, width = self.shapes[kind].tolist()
        return self.transform(
            image,
            objects,
            shape=(height, width),
            short_side=int(self.short_sides[kind]),
            long_side=self.long_side,
            places=self.places,
            rng=rng,
            decode_masks=partial(source.masks, index) if source.has_masks else None,
        )


@dataclass(frozen=True)
class DetectionEvaluation:
    """``image`` uint8 [h, w, 3], padded, its ``size``, and its ``original_size`` before resizing, int32 [2].

    ``shapes`` int [kinds, 2] are the padded (height, width) of each kind.
    """

    transform: DetectionEvalTransform
    shapes: np.ndarray
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: DetectionSource, index: int, kind: int, /) -> Batch:
        image, _ = image_and_objects(source, index, self.reading)
        arrays = self.blank(kind)
        place(arrays, "image", "size", self.transform(image))
        arrays["original_size"] = np.array(image.shape[:2], np.int32)
        return arrays

    def blank(self, kind: int, /) -> Batch:
        height, width = self.shapes[kind].tolist()
        # The least size that models take: the output for blank images is discarded, but must be finite.
        size = np.full(2, 32, np.int32)
        return {"image": np.zeros((height, width, 3), np.uint8), "size": size, "original_size": size}


def image_and_objects(
    source: DetectionSource, index: int, reading: ReadingOptions | None = None
) -> tuple[np.ndarray, Objects]:
    """A record's image, uint8 [h, w, 3], and objects.

    Raises:
      CorruptImageError: the image cannot be decoded.
      UserError: its size differs from the annotated one, so that boxes and padded shapes would not fit.
    """
    image, objects = source[index]
    image = decoded(image, source.name(index), reading)
    height, width = source.sizes()[index].tolist()
    if image.shape[:2] != (height, width):
        raise UserError(
            f"the image {source.name(index)} has {image.shape[0]}×{image.shape[1]} pixels (height × width), and its "
            f"annotations say {height}×{width}: annotate this file, or correct the annotations"
        )
    return image, objects
