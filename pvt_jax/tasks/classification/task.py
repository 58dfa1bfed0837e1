"""Image classification."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvt_jax.data import pipeline
from pvt_jax.data.formats import LABELLED_IMAGES
from pvt_jax.errors import UserError
from pvt_jax.ops.cross_entropy import soft_cross_entropy
from pvt_jax.tasks.class_weights import class_weights, describe_weights
from pvt_jax.tasks.classification import examples, mixing, transforms
from pvt_jax.tasks.classification.checks import ClassificationChecks
from pvt_jax.tasks.classification.metrics import classification_metrics, classification_sums
from pvt_jax.tasks.classification.options import ClassificationConfig
from pvt_jax.tasks.classification.presentation import ClassificationPresentation
from pvt_jax.tasks.classification.report import ClassificationReport
from pvt_jax.tasks.classification.sampling import Balanced
from pvt_jax.tasks.classification.unlabelled import UnlabelledImages
from pvt_jax.tasks.task import Batch, Sums, Task


class Classification(Task[ClassificationConfig]):
    """One label an image. Batches hold ``image`` uint8 [b, h, w, 3] and ``label`` int32 [b]; see ``examples.py``."""

    _record_kind = LABELLED_IMAGES
    _unlabelled = UnlabelledImages
    _presentation = ClassificationPresentation
    _report = ClassificationReport
    _checks = ClassificationChecks
    outputs = {"logits": "a score of each class", "probabilities": "their softmax"}

    def __init__(self, config: ClassificationConfig):
        super().__init__(config)
        options = config.transform
        self._train_transform = transforms.TrainTransform(
            self.image_size,
            crop=options.crop,
            crop_scale=options.crop_scale,
            crop_ratio=options.crop_ratio,
            pad=options.pad,
            flip_probability=options.flip_probability,
            policy=options.policy,
            fast_resize=options.fast_resize,
            reduced_decoding=options.reduced_decoding,
        )
        fraction = options.eval_crop_fraction
        self._eval_transform = transforms.EvalTransform(
            self.image_size, fraction, options.eval_interpolation, options.eval_resize
        )
        size = "the size" if fraction == 1 else f"the size divided by {fraction:.5g}, and cropped to its centre"
        aspect = "keeping its aspect ratio, until it just covers"
        if options.eval_resize == "squash":
            aspect = "whatever its aspect ratio, to"
        elif fraction == 1:
            size += ", and cropped to its centre"
        self.preparation = (
            f"resized by Pillow with antialiased {options.eval_interpolation} interpolation, {aspect} {size}"
        )

    def prepare_training(self, say: Callable[[str], None] | None = None) -> list[str]:
        """The order of the images, and the weights of the classes."""
        notes = ["classes are drawn equally often (data.sampler)"] * (self._order is not None)
        return notes + describe_weights(self._class_weights, self.train_source.class_names)

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """uint8 images and labels → normalised, erased and mixed images [b, h, w, 3], soft targets [b, num_classes].

        Targets have the weights of their classes in them, as PyTorch's cross-entropy of soft targets has.
        """
        options = self._config.batch_transform
        erase_key, mix_key = jax.random.split(key)
        images = self.normalise(batch["image"])
        if options.erase_probability > 0:
            images = mixing.random_erase(erase_key, images, options.erase_probability)
        mix = mixing.draw_mix(
            mix_key,
            *images.shape[1:3],
            mixup_alpha=options.mixup_alpha,
            cutmix_alpha=options.cutmix_alpha,
            probability=options.mix_probability,
            switch_probability=options.switch_probability,
        )
        if options.mixup_alpha > 0 or options.cutmix_alpha > 0:
            images = mixing.mix_images(images, mix)
        num_classes = self._config.model.num_classes
        targets = mixing.soft_targets(batch["label"], num_classes, options.label_smoothing, mix.label_weight)
        if self._class_weights is not None:
            targets = targets * self._class_weights
        return {"image": images, "target": targets}

    def random_batch(self, key: jax.Array, batch_size: int) -> Batch:
        """``image`` uint8 [b, h, w, 3] and ``label`` int32 [b]."""
        assert self._random_size is not None, "after use_random_images"
        pixels, labels = jax.random.split(key)
        return {
            "image": jax.random.bits(pixels, (batch_size, *self._random_size, 3), jnp.uint8),
            "label": jax.random.randint(labels, (batch_size,), 0, self._config.model.num_classes),
        }

    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Batch]:
        """(mean soft cross-entropy, changed collections, no parts) in training mode.

        A frozen backbone is in evaluation mode.
        """
        if self._config.optimizer.frozen == "backbone":
            # The head has no mode of its own.
            logits, changed = self._apply(variables, batch["image"]), {}
        else:
            logits, changed = self._apply(
                variables, batch["image"], train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
        return soft_cross_entropy(logits, batch["target"]).mean(), changed, {}

    def evaluate(self, variables: Any, batch: Batch) -> tuple[Sums, Batch]:
        """(sums of a padded batch, ``logits`` [b, num_classes])."""
        logits = self._logits(variables, self.normalise(batch["image"]))
        return classification_sums(logits, batch["label"], batch["mask"]), {"logits": logits}

    def predict(self, variables: Any, images: jax.Array, outputs: Sequence[str]) -> Batch:
        """``logits`` and their softmax ``probabilities``, float32 [b, num_classes]."""
        logits = self._logits(variables, images)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Added sums → ``loss``, ``top1``, ``top5``."""
        return classification_metrics({name: float(value) for name, value in sums.items()})

    def _logits(self, variables: Any, images: jax.Array) -> jax.Array:
        logits = self._apply(variables, images)
        if self._config.transform.test_flip:
            logits = (logits + self._apply(variables, images[:, :, ::-1])) / 2
        return logits

    @property
    def _order(self) -> pipeline.Order | None:
        """All records in each epoch, or every class equally often."""
        if self._config.data.sampler == "shuffled":
            return None
        return partial(Balanced, self._known_labels("data.sampler"))

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        classes = self._config.model.num_classes
        return class_weights(
            self._config.loss.class_weights,
            classes,
            lambda: np.bincount(self._known_labels("loss.class_weights"), minlength=classes),
        )

    def _known_labels(self, key: str) -> np.ndarray:
        labels = self.train_source.labels
        if labels is None:
            raise UserError(
                f"{key}=balanced needs the labels of all images before the first step, which source "
                f"'{self._config.data.source}' does not have: leave it out, or use a source of files"
            )
        return np.asarray(labels)

    @property
    def _train_example(self) -> pipeline.TrainExample:
        return examples.ClassificationTraining(self._train_transform, self._config.data)

    @property
    def _eval_example(self) -> pipeline.EvalExample:
        return examples.ClassificationEvaluation(self._eval_transform, self._config.data)
