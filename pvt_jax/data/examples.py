"""What the pipeline makes of one record: decoded, transformed, as arrays. One pair of classes a task."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from pvt_jax.data import transforms
from pvt_jax.data.detection import Objects
from pvt_jax.data.detection_transforms import DetectionEvalTransform, DetectionTrainTransform
from pvt_jax.data.labels import IGNORE
from pvt_jax.data.pipeline import Batch
from pvt_jax.data.segmentation_transforms import SegmentationEvalTransform, SegmentationTrainTransform
from pvt_jax.data.sources import ClassificationSource
from pvt_jax.data.sources.detection import DetectionSource
from pvt_jax.data.sources.segmentation import SegmentationSource
from pvt_jax.errors import UserError


@dataclass(frozen=True)
class ClassificationTraining:
    """``image`` uint8 [h, w, 3] and ``label`` int32."""

    transform: transforms.TrainTransform

    def __call__(self, source: ClassificationSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        record = source[index]
        image = decoded(record["image"], source.name(index))
        return {"image": self.transform(image, rng), "label": np.int32(record["label"])}


@dataclass(frozen=True)
class ClassificationEvaluation:
    """``image`` uint8 [h, w, 3] and ``label`` int32; decoded by Pillow."""

    transform: transforms.EvalTransform

    def __call__(self, source: ClassificationSource, index: int, kind: int, /) -> Batch:
        record = source[index]
        image = record["image"]
        if isinstance(image, bytes):
            image = transforms.decode_pil(image, source.name(index))
        return {"image": self.transform(image), "label": np.int32(record["label"])}

    def blank(self, kind: int, /) -> Batch:
        return {"image": np.zeros((*self.transform.image_size, 3), np.uint8), "label": np.int32(0)}


@dataclass(frozen=True)
class SegmentationTraining:
    """``image`` uint8 [h, w, 3], ``label_map`` uint8 [h, w] and ``size`` int32 [2], what of them is not padding."""

    transform: SegmentationTrainTransform

    def __call__(self, source: SegmentationSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        image, label_map, size = self.transform(*image_and_label_map(source, index), rng)
        return {"image": image, "label_map": label_map, "size": size}


@dataclass(frozen=True)
class SegmentationEvaluation:
    """One image at several scales, padded to the shapes of its kind, and its label map as it is, padded.

    ``image{i}`` uint8 [h_i, w_i, 3] and ``size{i}`` int32 [2] for scale i; ``label_map`` uint8 [h, w], 255 where there
    is none, and ``label_size`` int32 [2].

    Attributes:
      views: the transform of each scale.
      shapes: int [kinds, 2 · views + 2]: height and width of the image at each scale, then of the label map.
    """

    views: tuple[SegmentationEvalTransform, ...]
    shapes: np.ndarray

    def __call__(self, source: SegmentationSource, index: int, kind: int, /) -> Batch:
        image, label_map = image_and_label_map(source, index)
        arrays = self.blank(kind)
        _place(arrays, "label_map", "label_size", label_map)
        for i, view in enumerate(self.views):
            _place(arrays, f"image{i}", f"size{i}", view(image))
        return arrays

    def blank(self, kind: int, /) -> Batch:
        *views, (height, width) = self.shapes[kind].reshape(-1, 2)
        arrays = {"label_map": np.full((height, width), IGNORE, np.uint8), "label_size": np.zeros(2, np.int32)}
        for i, (height, width) in enumerate(views):
            # The least size that a model takes: what it makes of nothing is nobody's business, but it must be finite.
            arrays |= {f"image{i}": np.zeros((height, width, 3), np.uint8), f"size{i}": np.full(2, 32, np.int32)}
        return arrays


@dataclass(frozen=True)
class DetectionTraining:
    """``image`` uint8 [h, w, 3], ``size``, ``boxes``, ``labels``, ``valid`` and ``masks``; see the transform.

    Attributes:
      transform: what is done to an image and its objects.
      shapes: int [kinds, 2]: height and width to which images of a kind are padded.
      short_sides: int [kinds]: that of the images of a kind.
      long_side: the longer side, at most.
      places: objects of an image, the missing ones padded.
    """

    transform: DetectionTrainTransform
    shapes: np.ndarray
    short_sides: np.ndarray
    long_side: int
    places: int

    def __call__(self, source: DetectionSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        image, objects = image_and_objects(source, index)
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
    """``image`` uint8 [h, w, 3], padded, its ``size`` and, before it was resized, ``original_size`` int32 [2].

    Attributes:
      transform: what is done to an image.
      shapes: int [kinds, 2]: height and width to which images of a kind are padded.
    """

    transform: DetectionEvalTransform
    shapes: np.ndarray

    def __call__(self, source: DetectionSource, index: int, kind: int, /) -> Batch:
        image, _ = image_and_objects(source, index)
        arrays = self.blank(kind)
        _place(arrays, "image", "size", self.transform(image))
        arrays["original_size"] = np.array(image.shape[:2], np.int32)
        return arrays

    def blank(self, kind: int, /) -> Batch:
        height, width = self.shapes[kind].tolist()
        # A size that a model takes: what is detected in nothing is nobody's business, but it must be finite.
        size = np.full(2, 32, np.int32)
        return {"image": np.zeros((height, width, 3), np.uint8), "size": size, "original_size": size}


def decoded(image: bytes | np.ndarray, name: str) -> np.ndarray:
    """uint8 [h, w, 3] from the bytes of a file, or as it is; raises CorruptImageError."""
    return transforms.decode(image, name) if isinstance(image, bytes) else image


def image_and_objects(source: DetectionSource, index: int) -> tuple[np.ndarray, Objects]:
    """uint8 [h, w, 3] and the objects of a record.

    Raises:
      CorruptImageError: the image cannot be decoded.
      UserError: its size is not what the annotations say, so that boxes and padded shapes would not fit it.
    """
    image, objects = source.record(index)
    image = decoded(image, source.name(index))
    height, width = source.sizes()[index].tolist()
    if image.shape[:2] != (height, width):
        raise UserError(
            f"the image {source.name(index)} has {image.shape[0]}×{image.shape[1]} pixels (height × width), and its "
            f"annotations say {height}×{width}: annotate this file, or correct the annotations"
        )
    return image, objects


def image_and_label_map(source: SegmentationSource, index: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] and uint8 [h, w] of a record.

    Raises:
      CorruptImageError: one of the two cannot be decoded.
      UserError: a label is out of range, or the two differ in size.
    """
    record = source[index]
    label_map = source.encoding.decode(record["label_map"], source.label_name(index))
    image = decoded(record["image"], source.name(index))
    if image.shape[:2] != label_map.shape:
        sizes = ("×".join(map(str, array.shape[:2])) for array in (label_map, image))
        raise UserError(
            f"the label map {source.label_name(index)} has {next(sizes)} pixels, and its image {source.name(index)} "
            f"{next(sizes)}: give both one size"
        )
    return image, label_map


def _place(arrays: Batch, name: str, size_name: str, value: np.ndarray) -> None:
    arrays[name][: value.shape[0], : value.shape[1]] = value
    arrays[size_name] = np.array(value.shape[:2], np.int32)
