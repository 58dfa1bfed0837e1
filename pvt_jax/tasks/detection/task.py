"""Object detection and instance segmentation: boxes, and masks where the head has some."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvt_jax.data import buckets, pipeline
from pvt_jax.data.description import DataDescription
from pvt_jax.data.formats import OBJECTS
from pvt_jax.heads.detection_model import MULTIPLE, DetectionModel
from pvt_jax.ops.boxes import clip_boxes
from pvt_jax.tasks.detection import examples, grouping
from pvt_jax.tasks.detection.checks import DetectionChecks
from pvt_jax.tasks.detection.ground_truth import ground_truth
from pvt_jax.tasks.detection.instance_masks import paste_mask
from pvt_jax.tasks.detection.metrics import DetectionResults, coco_metrics
from pvt_jax.tasks.detection.options import DetectionConfig, DetectionOptions
from pvt_jax.tasks.detection.pictures import Instances, side_by_side
from pvt_jax.tasks.detection.presentation import DetectionPresentation
from pvt_jax.tasks.detection.random_objects import RANDOM_OBJECTS, random_objects
from pvt_jax.tasks.detection.report import DetectionReport
from pvt_jax.tasks.detection.source import DetectionSource
from pvt_jax.tasks.detection.transforms import DetectionEvalTransform, DetectionTrainTransform, fit
from pvt_jax.tasks.detection.unlabelled import UnlabelledImages
from pvt_jax.tasks.task import Batch, Results, Seen, Sums, Task

_TARGETS = ("boxes", "labels", "valid", "masks")


class Detection(Task[DetectionConfig]):
    """Objects of an image. Batches hold uint8 images and their objects; see ``examples.py``."""

    _record_kind = OBJECTS
    _unlabelled = UnlabelledImages
    _presentation = DetectionPresentation
    _report = DetectionReport
    _model_type = DetectionModel
    outputs = {
        "boxes": "x1, y1, x2, y2 in pixels of the image, by descending score",
        "scores": "from 0 to 1",
        "labels": "the class of each box",
        "valid": "which of the boxes are objects; the others are 0",
        "masks": "probabilities on a grid that spans the box",
    }
    preparation = (
        "resized bilinearly by OpenCV until it fits, keeping its aspect ratio, and padded on the right and below with "
        "the mean colour"
    )

    def __init__(self, config: DetectionConfig):
        super().__init__(config)
        self._checks = partial(DetectionChecks, needs_masks=self.model.needs_masks)
        if not self.model.needs_masks:
            self.outputs = {name: text for name, text in self.outputs.items() if name != "masks"}
        options = config.detection
        self._train_transform = DetectionTrainTransform(
            flip_probability=config.transform.flip_probability,
            crop_probability=options.crop_probability,
            crop_short_sides=options.crop_short_sides,
            crop_range=options.crop_range,
            mask_side=options.mask_side if self.model.needs_masks else 0,
        )
        test_side = options.test_short_side or max(options.short_sides)
        self._eval_transform = DetectionEvalTransform(test_side, options.long_side)

    def results(self) -> Results:
        """Detections of all images, for average precision."""
        return _Results(self.eval_source, self.model.needs_masks)

    def describe_data(self) -> DataDescription:
        """With the ids of the categories."""
        return replace(super().describe_data(), category_ids=tuple(map(int, self.eval_source.category_ids)))

    def random_batch(self, key: jax.Array, batch_size: int) -> Batch:
        """Images that fill their shape up to multiples of 32, and ``random_objects`` in each."""
        assert self._random_size is not None, "after use_random_images"
        pixels, objects = jax.random.split(key)
        options = self._config.detection
        size = jnp.broadcast_to(jnp.array(self._random_size, jnp.int32), (batch_size, 2))
        return {
            "image": jax.random.bits(pixels, (batch_size, *_rounded_up(self._random_size), 3), jnp.uint8),
            "size": size,
            **random_objects(
                objects,
                size,
                options.max_objects or RANDOM_OBJECTS,
                self._config.model.num_classes,
                options.mask_side if self.model.needs_masks else 0,
            ),
        }

    def picture(self, record: int, prediction: dict[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
        """The objects and what was detected, side by side."""
        source = self.eval_source
        image, objects = examples.image_and_objects(source, record, self._config.data)
        height, width = image.shape[:2]
        found = {name: values[prediction["valid"]] for name, values in prediction.items()}
        masks = truth_masks = None
        if "masks" in found:
            pairs = zip(found["masks"], found["boxes"], strict=True)
            masks = [paste_mask(*pair, height, width) for pair in pairs]
            truth_masks = [mask.astype(bool) for mask in source.masks(record, objects)]
        picture = side_by_side(
            image,
            Instances(objects.boxes, objects.labels, masks=truth_masks),
            Instances(found["boxes"], found["labels"], scores=found["scores"], masks=masks),
            source.class_names,
        )
        return f"{record:06d}", picture

    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Batch]:
        """(sum of the parts of the loss, changed collections, the parts) in training mode."""
        dropout, sample = jax.random.split(key)
        parts, changed = self._apply(
            variables,
            batch["image"],
            {name: batch[name] for name in _TARGETS if name in batch},
            batch["size"],
            padded=self._trained_padded,
            train_backbone=self._config.optimizer.frozen != "backbone",
            method="losses",
            rngs={"dropout": dropout, "sample": sample},
            mutable=["batch_stats"],
        )
        return sum(parts.values(), jnp.zeros(())), changed, parts

    def evaluate(self, variables: Any, batch: Batch) -> tuple[Sums, Batch]:
        """(no sums, detections in pixels of the original images); see ``DetectionModel``."""
        images = self.normalise_inside(batch["image"], batch["size"])
        found = self._apply(variables, images, batch["size"], padded=self.is_padded)
        ratio = (batch["original_size"] / batch["size"])[:, ::-1]
        boxes = found["boxes"] * jnp.tile(ratio, 2)[:, None]
        return {}, {**found, "boxes": clip_boxes(boxes, batch["original_size"][:, None])}

    def seen(self, batch: Batch) -> Seen:
        """Images, and what fills them up to multiples of 32."""
        images, size = batch["image"], batch["size"]
        region = -(-size // MULTIPLE) * MULTIPLE if self.is_padded else None
        return Seen(images, self.normalise_inside(images, size), size, region)

    def predict(self, variables: Any, images: jax.Array, outputs: Sequence[str]) -> Batch:
        """Detections in pixels of these images; see ``DetectionModel``."""
        batch, *shape, _ = images.shape
        below, beyond = (-side % MULTIPLE for side in shape)
        padded = jnp.pad(images, ((0, 0), (0, below), (0, beyond), (0, 0)))
        sizes = jnp.broadcast_to(jnp.array(shape, jnp.int32), (batch, 2))
        return self._apply(variables, padded, sizes, padded=False)

    @property
    def input_size(self) -> tuple[int, int]:
        """That of a landscape image which fills both sides in the evaluation."""
        return self._eval_transform.short_side, self._eval_transform.long_side

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Nothing: average precision is no sum; see ``results``."""
        return {}

    @cached_property
    def _kinds(self) -> grouping.Kinds:
        options = self._config.detection
        return grouping.training_kinds(
            np.maximum(self.train_source.sizes(), 1),  # Of what is no image it is 0.
            options.short_sides,
            options.long_side,
            options.train_shapes,
            crop=options.crop_probability > 0,
            crop_range=options.crop_range,
        )

    @cached_property
    def _trained_padded(self) -> bool:
        """Whether an image of a training batch can be smaller than the batch, beyond a multiple of 32."""
        if self._random_size is not None:
            return False
        options = self._config.detection
        if options.crop_probability > 0 or len(self._kinds.shapes) > len(options.short_sides):
            return True
        height, width = np.unique(np.maximum(self.train_source.sizes(), 1), axis=0).T
        kinds = zip(self._kinds.short_sides.tolist(), self._kinds.shapes.tolist(), strict=True)
        return any(
            _rounded_up(fit(rows, columns, short_side, options.long_side)) != tuple(shape)
            for short_side, shape in kinds
            for rows, columns in zip(height.tolist(), width.tolist(), strict=True)
        )

    @property
    def _order(self) -> pipeline.Order:
        """Whole batches of one orientation and one size each."""
        scales = len(self._config.detection.short_sides)
        return lambda seed: grouping.Grouped(self._kinds.groups, self._config.batch_size, scales, seed)

    @cached_property
    def _buckets(self) -> buckets.Buckets:
        def shape_of(height: int, width: int) -> tuple[int, int]:
            return _rounded_up(self._eval_transform.size(height, width))

        return self._choose_buckets(shape_of, self._config.detection.test_shapes)

    @property
    def _train_example(self) -> pipeline.TrainExample:
        most = max(self.train_source.most_objects(), 1)
        if limit := self._config.detection.max_objects:
            most = min(most, limit)
        return examples.DetectionTraining(
            self._train_transform,
            shapes=self._kinds.shapes,
            short_sides=self._kinds.short_sides,
            long_side=self._config.detection.long_side,
            places=most,
            reading=self._config.data,
        )

    @property
    def _eval_example(self) -> pipeline.EvalExample:
        return examples.DetectionEvaluation(self._eval_transform, self._buckets.shapes, self._config.data)

    @property
    def _data_options(self) -> DetectionOptions:
        return replace(
            self._config.detection, num_classes=self._config.model.num_classes, with_masks=self.model.needs_masks
        )


def _rounded_up(size: tuple[int, int]) -> tuple[int, int]:
    """Sides of what the backbone sees of an image."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    return height, width


class _Results:
    """Detections by image, as COCO's evaluation takes them."""

    def __init__(self, source: DetectionSource, masks: bool):
        self._source, self._masks = source, masks
        self._found = DetectionResults()
        self._sizes = source.sizes() if masks else None

    def add(self, records: np.ndarray, predictions: dict[str, np.ndarray]) -> None:
        for row, record in enumerate(records.tolist()):
            valid = predictions["valid"][row]
            one = {name: values[row][valid] for name, values in predictions.items()}
            size = None if self._sizes is None else tuple(self._sizes[record].tolist())
            image_id = self._source.image_id(record)
            self._found.add(image_id, one["boxes"], one["scores"], one["labels"], one.get("masks"), size or (0, 0))

    def to_bytes(self) -> bytes:
        return self._found.to_bytes()

    def merge(self, others: list[bytes]) -> None:
        for other in others:
            self._found.merge(DetectionResults.from_bytes(other))

    def metrics(self) -> dict[str, float]:
        class_names = dict(zip(self._source.category_ids, self._source.class_names, strict=True))
        return coco_metrics(ground_truth(self._source), self._listed(), self._masks, class_names)

    def files(self) -> dict[str, bytes]:
        return {"detections.json": json.dumps(self._listed()).encode()}

    def _listed(self) -> list[dict[str, Any]]:
        return self._found.results(self._source.category_ids)
