"""Predictions of a trained model, in Python."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageOps

from pvt_jax import paths
from pvt_jax.compilation import compiler_options
from pvt_jax.data.classes import Classes
from pvt_jax.data.unlabelled import Unlabelled
from pvt_jax.errors import ArgumentError, UserError
from pvt_jax.files.images import to_rgb
from pvt_jax.messages import in_python
from pvt_jax.ops.target import for_devices
from pvt_jax.prediction.attention import Attention, attended, block_of, weights_of
from pvt_jax.prediction.trained import Choices, Trained, open_trained
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.presentation import Picture, Presentation
from pvt_jax.tasks.presentation import Prediction as Arrays
from pvt_jax.tasks.task import Batch, Task
from pvt_jax.training import sharding
from pvt_jax.weights.settings import Stated

# What an image may be given as.
ImageLike = str | Path | bytes | np.ndarray | Image.Image


class Found(NamedTuple):
    """What was predicted for the image of this number, and where the model attends in it if that was asked for."""

    number: int
    arrays: Arrays
    attention: Attention | None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was predicted for one image; a notebook shows it as a picture.

    Attributes:
      fields: plain values of JSON, as in predictions.jsonl: ``labels`` of a classifier, ``objects`` of a detector,
        ``classes`` of a segmentation.
      arrays: the numbers behind them: ``logits`` [k]; ``boxes`` [n, 4], ``labels``, ``scores`` [n], ``masks``;
        ``label_map`` uint8 [h, w].
      image: uint8 [h, w, 3].
      attention: if it was asked for, attention weights; ``attention.picture()`` draws them.
    """

    fields: Mapping[str, Any]
    arrays: Arrays
    image: Picture
    attention: Attention | None
    _presentation: Presentation = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def picture(self) -> Picture:
        """The image with what was predicted, uint8 [h, w, 3]."""
        return self._presentation.picture(self.image, self.arrays)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.picture()).save(file, "PNG")
        return file.getvalue()


class Predictor:
    """A trained model that takes images as people have them: ``Predictor("runs/mine")(["cat.jpg"])``.

    Predictions are those of ``--mode eval``: the same transform, the same step. Images of many sizes are padded to few
    shapes, each compiled once.

    Attributes:
      classes: what labels are called.
      task_name: as "classification".
      notes: lines on what was loaded.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        model: str = "",
        head: str | None = None,
        num_classes: int | None = None,
        settings: Mapping[str, Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        tta: bool = False,
        ema: bool = False,
        entry: str = "",
        step: str | int = "latest",
        class_names: str = "",
        batch_size: int = 8,
        overrides: Sequence[str] = (),
    ):
        """Load the model. Raises UserError: there is none, or it is not whole; see ``open_trained``.

        Args:
          source: a workdir, a file or folder of weights, or a name of known weights.
          model, head, num_classes, settings: of a file that does not say what it is of, as ``convert`` takes them.
          image_size: side or (height, width) to evaluate at, in place of that of the run.
          tta: average several views of each image.
          ema: take the moving average of a run's parameters. entry: one of several sets of weights in a file.
          step: of a run: "latest", "best" or a number.
          class_names: a text file with a name a line, or a data set, as "imagenet"; "" for the source's own.
          batch_size: images at a time, on all devices together.
          overrides: keys of the run's config, as "segmentation.test_mode=slide".
        """
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        stated = Stated(model, head, num_classes, None, settings or {})
        choices = Choices(stated, ema, entry, str(step), size, tta, class_names, batch_size, tuple(overrides))
        with _of_python():
            self._open(open_trained(str(source), choices))

    @classmethod
    def of(cls, trained: Trained) -> "Predictor":
        """A predictor of a model that is loaded already."""
        predictor = cls.__new__(cls)
        predictor._open(trained)
        return predictor

    def _open(self, trained: Trained) -> None:
        self.trained = trained
        self.classes: Classes = trained.classes
        self.task_name = trained.config.task
        self.notes = tuple(map(in_python, trained.notes))
        self._mesh = sharding.make_mesh(1)
        self._variables = jax.device_put(trained.variables, sharding.replicated(self._mesh))
        # One program for images that fill their shapes, one for those that are padded.
        self._steps: dict[tuple[bool, str], Any] = {}

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int = 5,
        min_score: float = 0.3,
        attention: str = "",
    ) -> list[Prediction]:
        """A prediction for each image, in their order.

        Raises UserError: an image cannot be read, or the model has no such attention.

        Args:
          images: one or several: paths, encoded files, uint8 [H, W, 3] or [H, W], or images of Pillow.
          top_k: labels of an image, best first.
          min_score: least score of the objects that are drawn.
          attention: a stage, as "stage4", or a block, whose attention each prediction gets; "" for none.
        """
        several = [images] if isinstance(images, ImageLike) else list(images)
        presentation = self.presentation(top_k=top_k, min_score=min_score)
        names = [str(image) if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(several)]
        given = [_plain(image, name) for image, name in zip(several, names, strict=True)]
        source, found = self.stream(given, names, attention)
        by_index = {one.number: one for one in found}
        if source.failures:
            index, reason = min(source.failures.items())
            raise UserError(in_python(f"{names[index]}: {reason}"))
        made = []
        for index in range(len(several)):
            image, one = source.image(index), by_index[index]
            fields = presentation.fields(one.arrays, image.shape[:2])
            made.append(Prediction(fields, one.arrays, image, one.attention, presentation))
        return made

    def presentation(self, *, top_k: int, min_score: float) -> Presentation:
        """What a person gets of the arrays that ``stream`` yields."""
        return self.trained.task.presentation(self.classes, top_k=top_k, min_score=min_score)

    def attention_block(self, wanted: str) -> str:
        """The name of the block that ``attention`` takes for ``wanted``. Raises UserError: the model has none."""
        return block_of(self.trained.task, self._variables, wanted)

    def stream(
        self, images: Sequence[str | bytes | np.ndarray], names: Sequence[str], attention: str = ""
    ) -> tuple[Unlabelled, Iterator[Found]]:
        """The images as a source, and what was predicted for each that can be read, batch by batch.

        Images of like size share a batch, so that the numbers are not in order. Raises UserError: see ``__call__``.
        """
        task = TASKS[self.task_name].make(self.trained.config)
        block = self.attention_block(attention) if attention else ""
        source = task.use_images(images, names)
        return source, self._predict(task, block)

    def _predict(self, task: Task, block: str) -> Iterator[Found]:
        if not len(task.eval_source):
            return
        step = self._steps.get((task.is_padded, block))
        if step is None:
            step = self._steps[task.is_padded, block] = jax.jit(
                for_devices(partial(_step, task, block), self._mesh), compiler_options=compiler_options("infer")
            )
        places = sharding.batch_sharding(self._mesh)
        for batch in task.evaluation_batches((0, 1), self._mesh.size):
            records, mask = batch.pop("record"), batch["mask"]
            batch.pop("corrupt")
            predicted, weights = jax.tree.map(np.asarray, step(self._variables, sharding.to_devices(batch, places)))
            for row in np.flatnonzero((records >= 0) & mask).tolist():
                arrays, where = jax.tree.map(lambda values, row=row: values[row], (predicted, weights))
                yield Found(int(records[row]), arrays, attended(where, block) if block else None)


def _step(task: Task, block: str, variables: Any, batch: Batch) -> tuple[Batch, Batch]:
    """(what is predicted for a batch, where the model attends; empty without ``block``)."""
    return task.evaluate(variables, batch)[1], weights_of(task, variables, batch, block) if block else {}


@contextlib.contextmanager
def _of_python() -> Iterator[None]:
    """Messages on what a person chooses name arguments; commands show those of flags."""
    try:
        yield
    except UserError as error:
        if (message := in_python(str(error))) == str(error):
            raise
        raise ArgumentError(message, str(error)) from error


def _plain(image: ImageLike, name: str) -> str | bytes | np.ndarray:
    if isinstance(image, str | Path):
        return paths.local(image, "the image")
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"{name} is {image.dtype} {list(image.shape)}: give uint8 [H, W, 3], from 0 to 255")
    return image
