"""Semantic segmentation: one class a pixel."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvt_jax.data import buckets, pipeline
from pvt_jax.data.description import DataDescription
from pvt_jax.data.formats import LABEL_MAPS
from pvt_jax.errors import UserError
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.tasks.class_weights import class_weights, describe_weights
from pvt_jax.tasks.segmentation import examples
from pvt_jax.tasks.segmentation.checks import SegmentationChecks
from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy
from pvt_jax.tasks.segmentation.metrics import confusion_matrix, segmentation_metrics
from pvt_jax.tasks.segmentation.options import SegmentationConfig, SegmentationOptions
from pvt_jax.tasks.segmentation.pictures import side_by_side
from pvt_jax.tasks.segmentation.pixel_counts import count_pixels
from pvt_jax.tasks.segmentation.pixel_logits import (
    PixelLogits,
    coarse_logits,
    full_logits,
    mirror,
    pixel_logits,
    predicted_labels,
)
from pvt_jax.tasks.segmentation.presentation import SegmentationPresentation
from pvt_jax.tasks.segmentation.report import SegmentationReport
from pvt_jax.tasks.segmentation.sliding import check_windows, sliding_logits
from pvt_jax.tasks.segmentation.transforms import (
    MULTIPLE,
    EvalTransform,
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    SquashedEvalTransform,
)
from pvt_jax.tasks.segmentation.unlabelled import UnlabelledImages
from pvt_jax.tasks.task import Batch, Seen, Sums, Task


class Segmentation(Task[SegmentationConfig]):
    """A class for each pixel. Batches hold ``image`` and ``label_map`` uint8; see ``examples.py``."""

    _record_kind = LABEL_MAPS
    _unlabelled = UnlabelledImages
    _presentation = SegmentationPresentation
    _report = SegmentationReport
    _model_type = SegmentationModel
    outputs = {"label_map": "the class of each pixel", "logits": "a score of each class for each pixel"}
    large_outputs = ("logits",)
    preparation = "resized bilinearly by OpenCV, without antialiasing"

    def __init__(self, config: SegmentationConfig):
        super().__init__(config)
        options = config.segmentation
        self._say: Callable[[str], None] | None = None
        self._train_transform = SegmentationTrainTransform(
            crop_size=options.crop_size,
            scale=options.scale,
            scale_range=options.scale_range,
            largest_share=options.largest_share,
            flip_probability=config.transform.flip_probability,
            photometric=options.photometric,
        )
        self._checks = partial(SegmentationChecks, transform=self._train_transform)
        if any(side % MULTIPLE or not side for side in options.crop_size):
            raise UserError(f"segmentation.crop_size must be multiples of {MULTIPLE}, but is {options.crop_size}")
        if any(options.test_squash):
            _check_squash(options)
            self.preparation = (
                f"resized by Pillow with antialiased {options.test_interpolation} interpolation, whatever its aspect "
                "ratio, to the size"
            )
        elif options.test_interpolation != "bilinear":
            raise UserError("segmentation.test_interpolation is of segmentation.test_squash: leave it out, or set both")
        if options.test_mode == "slide":
            check_windows(options.window, options.window_stride)
            # The logits of windows are never put together.
            self.outputs = {"label_map": self.outputs["label_map"]}

    def describe_data(self) -> DataDescription:
        """With the colours of the classes."""
        palette = tuple((r, g, b) for r, g, b in np.asarray(self._first_source.palette).tolist())
        return replace(super().describe_data(), palette=palette)

    def prepare_training(self, say: Callable[[str], None] | None = None) -> list[str]:
        """The weights of the classes."""
        self._say = say
        return describe_weights(self._class_weights, self.train_source.class_names)

    def use_random_images(self, size: tuple[int, int]) -> None:
        """As of every task; as in training and evaluation, sides are multiples of 32."""
        if any(side % MULTIPLE for side in size):
            raise UserError(f"segmentation is for images whose sides are multiples of {MULTIPLE}, not {_text(size)}")
        super().use_random_images(size)

    def random_batch(self, key: jax.Array, batch_size: int) -> Batch:
        """``image`` uint8 [b, h, w, 3], ``label_map`` uint8 [b, h, w] and ``size`` int32 [b, 2]; nothing is ignored."""
        assert self._random_size is not None, "after use_random_images"
        pixels, labels = jax.random.split(key)
        shape = (batch_size, *self._random_size)
        return {
            "image": jax.random.bits(pixels, (*shape, 3), jnp.uint8),
            "label_map": jax.random.randint(labels, shape, 0, self._config.model.num_classes).astype(jnp.uint8),
            "size": _alike(self._random_size, batch_size),
        }

    def picture(self, record: int, prediction: dict[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
        """The image, its truth and the prediction side by side."""
        source = self.eval_source
        image, truth = examples.image_and_label_map(source, record, self._config.data)
        predicted = prediction["label_map"][: truth.shape[0], : truth.shape[1]]
        return f"{record:06d}", side_by_side(image, truth, predicted, source.palette, source.class_names)

    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Batch]:
        """(mean cross-entropy of the pixels, changed collections, no parts) in training mode."""
        logits, changed = self._apply(
            variables,
            batch["image"],
            train=True,
            train_backbone=self._config.optimizer.frozen != "backbone",
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        weights = None if self._class_weights is None else tuple(self._class_weights.tolist())
        losses, counts = segmentation_cross_entropy(logits, batch["label_map"], weights=weights)
        over_all = self._config.segmentation.loss_average == "all"
        count = batch["label_map"].size if over_all else jnp.maximum(counts.sum(), 1)
        return losses.sum() / count, changed, {}

    def evaluate(self, variables: Any, batch: Batch) -> tuple[Sums, Batch]:
        """(``confusion`` int32 [k, k], ``label_map`` uint8 [b, h, w])."""
        logits = []
        for i in range(len(self._views)):
            size = batch[f"size{i}"]
            images = self.normalise_inside(batch[f"image{i}"], size)
            # Where all images fill their shapes nothing needs to be masked.
            logits += self._logits(variables, images, size if self.is_padded else None)
        _, height, width = batch["label_map"].shape
        predicted = predicted_labels(logits, batch["label_size"], (height, width))
        matrix = confusion_matrix(predicted, batch["label_map"], self._config.model.num_classes, batch["mask"])
        return {"confusion": matrix}, {"label_map": predicted}

    def seen(self, batch: Batch) -> Seen:
        """The whole image, also where a window slides, in the view nearest to the size of the plain one."""
        ratios = self._config.segmentation.test_ratios
        view = min(range(len(ratios)), key=lambda i: abs(ratios[i] - 1))
        images, size = batch[f"image{view}"], batch[f"size{view}"]
        return Seen(images, self.normalise_inside(images, size), size, size if self.is_padded else None)

    def predict(self, variables: Any, images: jax.Array, outputs: Sequence[str]) -> Batch:
        """``label_map`` uint8 [b, h, w]; of whole images ``logits`` float32 [b, h, w, k], see ``full_logits``."""
        options = self._config.segmentation
        if options.test_ratios != (1.0,):
            raise UserError(
                f"segmentation.test_ratios is {options.test_ratios}, and an exported model sees an image in one size: "
                "add --config.segmentation.test_ratios=(1.0,)"
            )
        batch, height, width, _ = images.shape
        shape = (height, width)
        if options.test_mode == "slide":
            if height % MULTIPLE or width % MULTIPLE:
                raise UserError(
                    f"sliding windows are for images whose sides are multiples of {MULTIPLE}, not {height}×{width}: "
                    "choose such sides with --image_size, or add --config.segmentation.test_mode=whole"
                )
            return {"label_map": predicted_labels(self._logits(variables, images, None), _alike(shape, batch), shape)}
        views = [images, mirror(images)] if options.test_flip else [images]
        plain, *mirrored = (self._apply(variables, view) for view in views)
        predicted = {}
        if "label_map" in outputs:
            logits = [self._upsampled(plain), *(self._upsampled(one).mirrored() for one in mirrored)]
            predicted["label_map"] = predicted_labels(logits, _alike(shape, batch), shape)
        if "logits" in outputs:
            predicted["logits"] = full_logits([plain, *map(mirror, mirrored)], shape)
        return predicted

    @property
    def input_size(self) -> tuple[int, int]:
        """That of squashed images, or else of the training crops."""
        options = self._config.segmentation
        return self._views[0].size(*options.crop_size) if any(options.test_squash) else options.crop_size

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Added sums → ``miou``, ``mean_accuracy``, ``pixel_accuracy``, and ``iou/CLASS`` of each class."""
        return segmentation_metrics(np.asarray(sums["confusion"]).astype(np.int64), self.eval_source.class_names)

    def _logits(self, variables: Any, images: jax.Array, size: jax.Array | None) -> list[PixelLogits]:
        """Of the images and, if the config says so, of their mirror images."""
        logits = [self._view_logits(variables, images, size)]
        if self._config.segmentation.test_flip:
            logits.append(self._view_logits(variables, mirror(images, size), size).mirrored())
        return logits

    @property
    def _upsampled(self) -> Callable[..., PixelLogits]:
        """Logits at stride 4 as pixels: over the network's input, or where images are squashed directly."""
        return coarse_logits if any(self._config.segmentation.test_squash) else pixel_logits

    def _view_logits(self, variables: Any, images: jax.Array, size: jax.Array | None) -> PixelLogits:
        def apply(images: jax.Array, size: jax.Array | None) -> jax.Array:
            return self._apply(variables, images, sizes=size)

        options = self._config.segmentation
        if options.test_mode == "whole":
            return self._upsampled(apply(images, size), size)
        return sliding_logits(apply, images, size, options.window, options.window_stride)

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        config = self._config

        def counts() -> np.ndarray:
            return count_pixels(self.train_source, config.data, skip=config.data.on_corrupt == "skip", say=self._say)

        return class_weights(config.loss.class_weights, config.model.num_classes, counts)

    @cached_property
    def _views(self) -> tuple[EvalTransform, ...]:
        options = self._config.segmentation
        if any(options.test_squash):
            target, interpolation = options.test_squash, options.test_interpolation
            return tuple(SquashedEvalTransform(target, ratio, interpolation) for ratio in options.test_ratios)
        return tuple(SegmentationEvalTransform(options.scale, ratio, MULTIPLE) for ratio in options.test_ratios)

    @cached_property
    def _buckets(self) -> buckets.Buckets:
        """Shapes of views and label map."""

        # Also where a window is larger: what is padded must be told from what is not by ``waste``.
        def shape_of(height: int, width: int) -> list[int]:
            return [*chain.from_iterable(view.size(height, width) for view in self._views), height, width]

        return self._choose_buckets(shape_of, self._config.segmentation.test_shapes)

    @property
    def _train_example(self) -> pipeline.TrainExample:
        return examples.SegmentationTraining(self._train_transform, self._config.data)

    @property
    def _eval_example(self) -> pipeline.EvalExample:
        return examples.SegmentationEvaluation(self._views, self._buckets.shapes, self._config.data)

    @property
    def _data_options(self) -> SegmentationOptions:
        return replace(self._config.segmentation, num_classes=self._config.model.num_classes)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _check_squash(options: SegmentationOptions) -> None:
    if not all(options.test_squash):
        raise UserError(f"segmentation.test_squash must be (height, width) or (0, 0), but is {options.test_squash}")
    if options.test_mode != "whole":
        raise UserError(
            "segmentation.test_squash evaluates whole images: add --config.segmentation.test_mode=whole, or "
            "--config.segmentation.test_squash=0"
        )


def _alike(size: tuple[int, int], batch: Any) -> jax.Array:
    """The size of each of ``batch`` images, int32 [b, 2]."""
    return jnp.broadcast_to(jnp.array(size, jnp.int32), (batch, 2))
