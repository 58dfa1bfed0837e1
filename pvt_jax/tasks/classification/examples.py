"""From records to examples of the pipeline: decoded, transformed, as arrays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.pipeline import Batch
from pvt_jax.files.images import decoded
from pvt_jax.tasks.classification.source import ClassificationSource
from pvt_jax.tasks.classification.transforms import EvalTransform, TrainTransform


@dataclass(frozen=True)
class ClassificationTraining:
    """``image`` uint8 [h, w, 3] and ``label`` int32; any function of an image and a generator is a transform."""

    transform: TrainTransform | Callable[[np.ndarray, np.random.Generator], np.ndarray]
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: ClassificationSource, index: int, kind: int, rng: np.random.Generator, /) -> Batch:
        record, name = source[index], source.name(index)
        image = record["image"]
        if isinstance(image, bytes) and isinstance(self.transform, TrainTransform):
            image = self.transform.of_file(image, name, self.reading, rng)
        else:
            image = self.transform(decoded(image, name, self.reading), rng)
        return {"image": image, "label": np.int32(record["label"])}


@dataclass(frozen=True)
class ClassificationEvaluation:
    """``image`` uint8 [h, w, 3] and ``label`` int32."""

    transform: EvalTransform
    reading: ReadingOptions = ReadingOptions()

    def __call__(self, source: ClassificationSource, index: int, kind: int, /) -> Batch:
        record = source[index]
        image = decoded(record["image"], source.name(index), self.reading)
        return {"image": self.transform(image), "label": np.int32(record["label"])}

    def blank(self, kind: int, /) -> Batch:
        return {"image": np.zeros((*self.transform.image_size, 3), np.uint8), "label": np.int32(0)}
