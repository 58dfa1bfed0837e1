"""Image classification."""

from collections.abc import Callable, Generator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvt_jax.config import Config
from pvt_jax.data import pipeline, sources, transforms, validation
from pvt_jax.evaluation.accuracy import classification_metrics, classification_sums
from pvt_jax.losses.classification import soft_cross_entropy
from pvt_jax.models import create_model
from pvt_jax.ops import mixing

Batch = dict[str, jax.Array]


class Classification:
    """One label an image. Batches hold ``image`` uint8 [b, h, w, 3] and ``label`` int32 [b]; see ``data/pipeline.py``.

    Attributes:
      best_metric: the name of the metric that ranks checkpoints, higher is better.
    """

    best_metric = "top1"

    def __init__(self, config: Config):
        self._config = config
        settings = config.model.to_dict()
        self.model = create_model(settings.pop("name"), **settings)
        self._apply: Callable[..., Any] = self.model.apply
        self.image_size: tuple[int, int] = tuple(config.model.image_size)
        options = config.transform
        self._train_transform = transforms.TrainTransform(
            self.image_size,
            crop=options.crop,
            crop_scale=options.crop_scale,
            crop_ratio=options.crop_ratio,
            pad=options.pad,
            flip_probability=options.flip_probability,
            policy=options.policy,
        )
        self._eval_transform = transforms.EvalTransform(self.image_size, options.eval_crop_fraction)

    # Data, on the host.

    @cached_property
    def train_source(self) -> sources.ClassificationSource:
        """Random access to the training records."""
        return self._open("train")

    @cached_property
    def eval_source(self) -> sources.ClassificationSource:
        """Random access to the evaluation records."""
        return self._open("eval")

    def validate_data(self) -> str:
        """Look at the data before the first step; a line that describes it. Raises UserError if it cannot be used."""
        return validation.validate_classification(
            self.train_source,
            self.eval_source,
            self._config.model.num_classes,
            decode=transforms.decode,
            on_corrupt=self._config.data.on_corrupt,
        )

    def training_batches(self, start_step: int, block: tuple[int, int]) -> Generator[dict[str, np.ndarray], None, None]:
        """Endless batches from ``start_step`` on; ``block`` is this host's (number, count)."""
        return pipeline.training_batches(
            self.train_source,
            self._train_transform,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            start_step=start_step,
            repeats=self._config.data.repeats,
            block=block,
            loading=self._loading,
        )

    def evaluation_batches(self, block: tuple[int, int], multiple: int) -> Generator[dict[str, np.ndarray], None, None]:
        """Every evaluation record once; the batch is at most the training batch, and a multiple of ``multiple``."""
        whole = -(-len(self.eval_source) // multiple) * multiple
        part = max(self._config.batch_size // self._config.accumulation_steps // multiple, 1) * multiple
        return pipeline.evaluation_batches(
            self.eval_source,
            self._eval_transform,
            batch_size=min(whole, part),
            block=block,
            loading=self._loading,
        )

    # The model, on the devices.

    def init(self, key: jax.Array) -> Any:
        """Variables of the model before training."""
        return self.model.init(key, jnp.zeros((1, *self.image_size, 3)))

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """uint8 images and labels → normalised, erased and mixed images [b, h, w, 3], soft targets [b, num_classes]."""
        options = self._config.batch_transform
        erase_key, mix_key = jax.random.split(key)
        images = self.normalise(batch["image"])
        if options.erase_probability > 0:
            images = mixing.random_erase(erase_key, images, options.erase_probability)
        mix = mixing.draw_mix(
            mix_key,
            *self.image_size,
            mixup_alpha=options.mixup_alpha,
            cutmix_alpha=options.cutmix_alpha,
            probability=options.mix_probability,
            switch_probability=options.switch_probability,
        )
        if options.mixup_alpha > 0 or options.cutmix_alpha > 0:
            images = mixing.mix_images(images, mix)
        num_classes = self._config.model.num_classes
        targets = mixing.soft_targets(batch["label"], num_classes, options.label_smoothing, mix.label_weight)
        return {"image": images, "target": targets}

    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """(mean soft cross-entropy, changed collections) in training mode; a frozen backbone is in evaluation mode."""
        if self._config.optimizer.frozen:
            # The head has no mode of its own.
            logits, changed = self._apply(variables, batch["image"]), {}
        else:
            logits, changed = self._apply(
                variables, batch["image"], train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
        return soft_cross_entropy(logits, batch["target"]).mean(), changed

    def evaluate(self, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Sums of a padded batch, to be added over batches."""
        logits = self._apply(variables, self.normalise(batch["image"]))
        return classification_sums(logits, batch["label"], batch["mask"])

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Added sums → ``loss``, ``top1``, ``top5``."""
        return classification_metrics(sums)

    def normalise(self, images: jax.Array) -> jax.Array:
        """uint8 [b, h, w, 3] → float, zero mean and unit deviation by channel."""
        options = self._config.batch_transform
        mean, std = jnp.asarray(options.mean), jnp.asarray(options.std)
        return ((images.astype(jnp.float32) - mean) / std).astype(self._config.model.dtype)

    def _open(self, split: sources.Split) -> sources.ClassificationSource:
        data = self._config.data
        return sources.open_source(
            data.source,
            split=split,
            name=data.name,
            root=data.root,
            train_split=data.train_split or None,
            eval_split=data.eval_split or None,
        )

    @property
    def _loading(self) -> pipeline.Loading:
        data = self._config.data
        return pipeline.Loading(on_corrupt=data.on_corrupt, workers=data.workers, threads=data.threads)
