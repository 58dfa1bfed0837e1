"""What all tasks share: the model of a config, batches, normalisation."""

import abc
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pvt_jax.data import buckets, pipeline
from pvt_jax.data.classes import Classes
from pvt_jax.data.description import DataDescription, SplitDescription
from pvt_jax.data.formats import FORMATS, Format, open_source
from pvt_jax.data.formats.layouts import NoLayoutError
from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.records import HasFiles, Request, Split
from pvt_jax.data.unlabelled import Unlabelled
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.messages import escaped
from pvt_jax.models import create_model
from pvt_jax.tasks.checks import DataChecks
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.presentation import Presentation
from pvt_jax.tasks.report import Report

Batch = dict[str, jax.Array]
# Sums by name, merged by addition on the host, in float64.
Sums = dict[str, Any]
Config = TypeVar("Config", bound=TaskConfig)


class Seen(NamedTuple):
    """What the model sees of a batch of evaluation images, uint8 [b, h, w, 3], in one view.

    Attributes:
      normalised: the images as the model takes them.
      size: (height, width) of each image, without padding; int32 [b, 2].
      region: (height, width) that the backbone sees of each, with padding; None: all.
    """

    images: Any
    normalised: jax.Array
    size: jax.Array
    region: jax.Array | None


class Results(Protocol):
    """Predictions of an evaluation, on the host; see ``Task.results``."""

    def add(self, records: np.ndarray, predictions: dict[str, np.ndarray]) -> None:
        """Take what ``evaluate`` predicted for these records [n], as [n, …]."""
        ...

    def to_bytes(self) -> bytes:
        """All of it, for another process."""
        ...

    def merge(self, others: list[bytes]) -> None:
        """Add what other processes have; a record that is there counts once."""
        ...

    def metrics(self) -> dict[str, float]:
        """Metrics by name, as those of ``Task.metrics``."""
        ...

    def files(self) -> dict[str, bytes]:
        """Files by name with an ending, to be written for this evaluation."""
        ...


class Task(abc.ABC, Generic[Config]):
    """What to build, the loss of a batch, the prediction of a batch. The trainer knows no more of a task than this.

    Attributes:
      model: the Flax module.
    """

    # What a format has to read for this task, and the formats that may.
    _record_kind: str
    _formats: Mapping[str, Format] = FORMATS
    # What is checked before the first step.
    _checks: Callable[..., DataChecks]
    # Images without ground truth as records, and what a person gets of their predictions; None for neither.
    _unlabelled: type[Unlabelled] | None = None
    _presentation: type[Presentation] | None = None
    _report: type[Report] | None = None
    # What ``predict`` gives by name, and how an image becomes one of its images, in words for those who run an export.
    outputs: Mapping[str, str] = {}
    preparation: str = ""
    # Outputs that an export has only if it is asked for them.
    large_outputs: tuple[str, ...] = ()
    # What ``HEADS`` has to make of a backbone for a dense task.
    _model_type: type[nn.Module] = nn.Module

    def __init__(self, config: Config):
        self._config = config
        # The data of a run that is evaluated, whose classes stand in where there is no training data.
        self.learned: DataDescription | None = None
        model, head = config.model, config.head
        self.model = create_model(model.name, head=head.name, head_settings=head.attributes, **model.settings)
        if not isinstance(self.model, self._model_type):
            heads = [name for name, row in HEADS.items() if row.model is self._model_type]
            raise UserError(
                f"head {config.head.name!r} is not for task {config.task!r}: set head.name to one of {', '.join(heads)}"
            )
        self._apply: Callable[..., Any] = self.model.apply
        self.image_size: tuple[int, int] = config.model.image_size
        # (height, width) of random images, where they stand in for a data set.
        self._random_size: tuple[int, int] | None = None

    @property
    def best_metric(self) -> str:
        """The name of the metric that ranks checkpoints, higher is better."""
        return self._config.best_metric

    # Data, on the host.

    @cached_property
    def train_source(self) -> Any:
        """Random access to the training records; None where a run is evaluated and there are none."""
        try:
            return self._open("train")
        except NoLayoutError:
            if self.learned is None or self._config.data.train_split:
                raise
            return None

    @cached_property
    def eval_source(self) -> Any:
        """Random access to the evaluation records."""
        return self._open("eval")

    def validate_data(self, say: Callable[[str], None] | None = None) -> str:
        """Look at the data before the first step; a line that describes it. Raises UserError if it cannot be used.

        ``say`` takes lines on how far it is. The task's ``DataChecks`` say what is checked.
        """
        classes, data = self._config.model.num_classes, self._config.data
        checks = self._checks(classes, reading=data, on_corrupt=data.on_corrupt, check=data.check, progress=say)
        return checks.validate(self.train_source, self.eval_source)

    def prepare_training(self, say: Callable[[str], None] | None = None) -> list[str]:
        """Compute what training needs to know of all its data; notes on it. Raises UserError if it cannot be used."""
        return []

    def describe_data(self) -> DataDescription:
        """What a run remembers of its data, to compare it with when it goes on, and for what reads its predictions."""
        learned = self.learned if self.train_source is None else None
        return DataDescription(
            task=self._config.task,
            format=self._config.data.source,
            # A task of numbers, as depth, has no classes.
            class_names=tuple(map(str, getattr(self._first_source, "class_names", ()))),
            train=_described(self.train_source) if learned is None else learned.train,
            eval=_described(self.eval_source),
        )

    def held_out(self) -> tuple[str, ...]:
        """Places below the data's folder of the images that ``data.holdout`` evaluates on; none if it is 0."""
        if not self._config.data.holdout:
            return ()
        root, source = os.path.abspath(self._config.data.root), self.eval_source
        place = source.path if isinstance(source, HasFiles) else source.name
        return tuple(sorted(escaped(os.path.relpath(place(index), root)) for index in range(len(source))))

    def training_batches(self, start_step: int, block: tuple[int, int]) -> Generator[dict[str, np.ndarray], None, None]:
        """Endless batches from ``start_step`` on; ``block`` is this host's (number, count)."""
        return pipeline.training_batches(
            self.train_source,
            self._train_example,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            start_step=start_step,
            repeats=self._config.data.repeats,
            order=self._order,
            block=block,
            loading=self._loading,
        )

    def evaluation_batches(self, block: tuple[int, int], multiple: int) -> Generator[dict[str, np.ndarray], None, None]:
        """Every evaluation record once, with ``record`` (its number, or -1) and ``mask``; batches of a ``multiple``.

        Images of one size are in order; others in batches of one shape each.
        """
        batch_size, order, kinds = self.evaluation_batch_size(multiple), None, None
        if self._buckets is not None:
            order, kinds = buckets.order_of(self._buckets, batch_size, multiple)
        return pipeline.evaluation_batches(
            self.eval_source,
            self._eval_example,
            batch_size=batch_size,
            order=order,
            kinds=kinds,
            block=block,
            loading=self._loading,
        )

    def use_images(self, images: Sequence[str | bytes | np.ndarray], names: Sequence[str]) -> Unlabelled:
        """From the start, evaluate these images in place of a data set: paths, encoded images, or uint8 [H, W, 3].

        They have no ground truth: what counts are the predictions of ``evaluate``, not its sums. Raises UserError: the
        task has no such records.
        """
        if self._unlabelled is None:
            raise UserError(f"task {self._config.task!r} reads no images without ground truth: give it ``_unlabelled``")
        self.eval_source = self._unlabelled(images, names, self._config.data)
        return self.eval_source

    def use_random_images(self, size: tuple[int, int]) -> None:
        """From the start, train on images of random pixels, of this (height, width), in place of a data set.

        Raises UserError: the task has none, or none of this size.
        """
        if type(self).random_batch is Task.random_batch:
            raise UserError(f"task {self._config.task!r} has no random images: give it ``random_batch``")
        self._random_size = size

    def random_batch(self, key: jax.Array, batch_size: int) -> Batch:
        """Such images with random labels, of the shapes and types of ``training_batches``; it may be traced."""
        raise NotImplementedError

    @property
    def is_padded(self) -> bool:
        """Whether evaluation images differ from the shapes of their batches; ``evaluate`` depends on it."""
        return self._buckets is not None and self._buckets.waste > 0

    def presentation(self, classes: Classes, *, top_k: int, min_score: float) -> Presentation:
        """What a person gets of predictions; see ``Presentation``. Raises UserError: the task has none."""
        if self._presentation is None:
            raise UserError(f"task {self._config.task!r} has nothing to show of predictions: give it ``_presentation``")
        return self._presentation(classes, top_k=top_k, min_score=min_score)

    def report(self, classes: Classes) -> Report:
        """What collects an evaluation for a person. Raises UserError: the task has no report."""
        if self._report is None:
            raise UserError(f"task {self._config.task!r} has no report: leave --report away, or give it ``_report``")
        return self._report(self, classes)

    @property
    def reading(self) -> ReadingOptions:
        """How image files are read."""
        return self._config.data

    def results(self) -> "Results | None":
        """What collects predictions of all images, for metrics that are no sums; None if there are no such metrics."""
        return None

    def picture(self, record: int, prediction: dict[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
        """(name, uint8 [h, w, 3]) of an evaluation record and what was predicted for it; None if none is drawn."""
        return None

    # The model, on the devices.

    def init(self, key: jax.Array) -> Any:
        """Variables of the model before training."""
        return self.model.init(key, jnp.zeros((1, *self.image_size, 3)))

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Normalise a whole batch, or augment it, too; every array keeps the batch as its leading axis.

        By default images get 0 beyond their ``size``, and all augmentation is done on the host.
        """
        return {**batch, "image": self.normalise_inside(batch["image"], batch["size"])}

    @abc.abstractmethod
    def loss(self, variables: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Batch]:
        """(mean loss, changed collections, parts of the loss by name) in training mode.

        What is frozen is in evaluation mode.
        """

    @abc.abstractmethod
    def evaluate(self, variables: Any, batch: Batch) -> tuple[Sums, Batch]:
        """(sums of a padded batch, predictions of its images [b, …])."""

    def seen(self, batch: Batch) -> Seen:
        """What the model sees of an evaluation batch; by default images without padding."""
        images = batch["image"]
        size = jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2))
        return Seen(images, self.normalise(images), size, None)

    def predict(self, variables: Any, images: jax.Array, outputs: Sequence[str]) -> Batch:
        """At least these ``outputs`` by name, for images [b, h, w, 3] that ``normalise`` made, none of them padded.

        ``b`` may be symbolic. Raises UserError: the task has no outputs, or the config averages what needs images of
        several sizes.
        """
        raise UserError(f"task {self._config.task!r} exports nothing: give it ``predict``")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the images that an export is for by default."""
        return self.image_size

    @abc.abstractmethod
    def metrics(self, sums: Sums) -> dict[str, float]:
        """Added sums → metrics by name. Those of a name with a slash are details: written, but not shown."""

    def normalise(self, images: jax.Array) -> jax.Array:
        """uint8 [b, h, w, 3] → float, zero mean and unit deviation by channel."""
        options = self._config.batch_transform
        mean, std = jnp.asarray(options.mean), jnp.asarray(options.std)
        return ((images.astype(jnp.float32) - mean) / std).astype(self._config.model.dtype)

    def evaluation_batch_size(self, multiple: int) -> int:
        """Images of an evaluation batch: ``evaluation.batch_size``, or a part of a training batch.

        Rounded down to a ``multiple``, but at least one, and no more than hold all images.
        """
        chosen = self._config.evaluation.batch_size or self._config.batch_size // self._config.accumulation_steps
        whole = -(-len(self.eval_source) // multiple) * multiple
        return min(whole, max(chosen // multiple, 1) * multiple)

    def normalise_inside(self, images: jax.Array, sizes: jax.Array) -> jax.Array:
        """As ``normalise``, and 0 beyond the true ``sizes`` [b, 2] (height, width) of padded images."""
        rows, columns = (jnp.arange(side) < sizes[:, axis, None] for axis, side in enumerate(images.shape[1:3]))
        return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], self.normalise(images), 0)

    @property
    def _order(self) -> pipeline.Order | None:
        """By default records are shuffled, whatever their sizes."""
        return None

    @property
    @abc.abstractmethod
    def _train_example(self) -> pipeline.TrainExample: ...

    @property
    @abc.abstractmethod
    def _eval_example(self) -> pipeline.EvalExample: ...

    @cached_property
    def _buckets(self) -> buckets.Buckets | None:
        """Padded shapes that cover those of all evaluation images; None where all have one size."""
        return None

    def _choose_buckets(self, shape_of: Callable[[int, int], Sequence[int]], limit: int) -> buckets.Buckets:
        """Up to ``limit`` buckets; ``shape_of`` takes the (height, width) of an image, see ``choose_buckets``."""
        sizes = np.maximum(self.eval_source.sizes(), 1)  # Of what is no image it is 0.
        shapes = np.array([shape_of(*size) for size in sizes.tolist()])
        # No more shapes than batches: each shape's last batch is filled up with blanks.
        batches = -(-len(shapes) // self.evaluation_batch_size(1))
        return buckets.choose_buckets(shapes, min(limit, batches))

    @property
    def _first_source(self) -> Any:
        """The training records, or where there are none those of the evaluation."""
        return self.eval_source if self.train_source is None else self.train_source

    @property
    def _data_options(self) -> Any:
        """What a format is told of the data set, besides the section ``data`` of the config."""
        return None

    def _open(self, split: Split) -> Any:
        data = self._config.data
        request = Request(
            split,
            data.name,
            data.root,
            data.train_split,
            data.eval_split,
            self._data_options,
            upright=data.exif_orientation,
            holdout=data.holdout,
            seed=self._config.seed,
            learned=self.learned.class_names if self.learned else (),
        )
        return open_source(self._record_kind, data.source, request, self._formats)

    @property
    def _loading(self) -> pipeline.Loading:
        data = self._config.data
        return pipeline.Loading(on_corrupt=data.on_corrupt, workers=data.workers, threads=data.threads)


def _described(source: Any) -> SplitDescription:
    return SplitDescription(len(source), str(source))
