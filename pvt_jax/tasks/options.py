"""The config of a task: the keys that every task reads. A task's own config adds its sections."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pvt_jax.data.options import DataOptions
from pvt_jax.errors import UserError
from pvt_jax.fields import Options, further, key, keys_of, section
from pvt_jax.training.options import (
    CheckpointOptions,
    EarlyStoppingOptions,
    EvaluationOptions,
    InitOptions,
    MeshOptions,
    OptimizerOptions,
    RunOptions,
)

Resize = Literal["squash", "shorter", "within"]
Interpolation = Literal["bilinear", "bicubic"]
# As Pillow numbers them, and transformers with it.
RESAMPLING: Mapping[Interpolation, int] = {"bilinear": 2, "bicubic": 3}


@dataclass(frozen=True)
class ModelOptions(Options):
    """The classifier, or the backbone of a dense model. Further keys are attributes of its module, as model.depths."""

    name: str = key("pvt_tiny", "One of pvt_jax.list_models().")
    num_classes: int = key(1000, "Classes of the data set.", above=0)
    image_size: tuple[int, int] = key(
        (224, 224),
        "(height, width) that position tables are for, or one side; the images of a classifier have this size. Dense "
        "models take any size, and their tables keep that of the pre-training.",
        at_least=0,
        square=True,
    )
    drop_path_rate: float = key(0.1, "Stochastic depth of the last block.", at_least=0, below=1)
    dtype: Literal["float32", "bfloat16"] = key(
        "float32", "Type of the computation; parameters, norms, softmax and loss stay float32."
    )
    remat: bool = key(False, "Recompute blocks in the backward pass to save memory.", free=True)
    scan: bool = key(False, "Compile one block for a whole stage.", free=True)
    attributes: Mapping[str, Any] = further()

    @property
    def settings(self) -> dict[str, Any]:
        """All attributes of the module by name."""
        listed = {name: getattr(self, name) for name in keys_of(ModelOptions) if name != "name"}
        return {**listed, **self.attributes}


@dataclass(frozen=True)
class HeadOptions(Options):
    """Neck and head of a dense model. Further keys are attributes of the head's module, as head.channels."""

    name: str = key("", "One of pvt_jax.list_heads().")
    attributes: Mapping[str, Any] = further()


@dataclass(frozen=True)
class LossOptions(Options):
    """The loss of training; that of the evaluation has no weights."""

    class_weights: tuple[float, ...] | Literal["balanced"] = key(
        (),
        "Weight of each class, in their order, or balanced: inverse to how many images, or pixels, the training data "
        "has of it, and 1 on average over these; empty: all are 1.",
        at_least=0,
    )


@dataclass(frozen=True)
class TransformOptions(Options):
    """Augmentation on the host, image by image."""

    flip_probability: float = key(0.5, "Probability of a horizontal flip.", at_least=0, at_most=1)


@dataclass(frozen=True)
class BatchTransformOptions(Options):
    """What the jitted step does to a whole batch."""

    mean: tuple[float, float, float] = key(
        (123.675, 116.28, 103.53), "Mean of each channel, in 0..255.", at_least=0, at_most=255
    )
    std: tuple[float, float, float] = key(
        (58.395, 57.12, 57.375), "Deviation of each channel, in 0..255.", above=0, at_most=255
    )


@dataclass(frozen=True)
class TaskConfig(RunOptions):
    """What every task reads.

    Attributes:
      best_metric: the name of the metric that ranks checkpoints and runs, higher is better.
      hub_task: what the Hugging Face hub calls the task.
      example_head: for dense tasks a head, to be named where a config has none; empty for a task without heads.
      unread: keys of the shared sections that a task does not read.
      test_time_augmentation: values of keys with which several views of an image are averaged; empty: there is none.
      faster_loading: values of keys with which training images are read faster, and differ a little.
      test_keys: keys that say what the model sees of an image in evaluation, besides mean and deviation.
    """

    init: InitOptions = section(InitOptions)
    model: ModelOptions = section(ModelOptions)
    head: HeadOptions = section(HeadOptions)
    data: DataOptions = section(DataOptions)
    transform: TransformOptions = section(TransformOptions)
    batch_transform: BatchTransformOptions = section(BatchTransformOptions)
    optimizer: OptimizerOptions = section(OptimizerOptions)
    mesh: MeshOptions = section(MeshOptions, free=True)
    evaluation: EvaluationOptions = section(EvaluationOptions, free=True)
    checkpoint: CheckpointOptions = section(CheckpointOptions, free=True)
    early_stopping: EarlyStoppingOptions = section(EarlyStoppingOptions, free=True)

    best_metric: ClassVar[str]
    hub_task: ClassVar[str]
    example_head: ClassVar[str] = ""
    unread: ClassVar[tuple[str, ...]] = ()
    test_time_augmentation: ClassVar[Mapping[str, Any]] = {}
    faster_loading: ClassVar[Mapping[str, Any]] = {}
    test_keys: ClassVar[tuple[str, ...]] = ()

    def test_size(self, height: int, width: int) -> dict[str, Any]:
        """Values of keys with which images are evaluated at about this size, in pixels."""
        return {"model.image_size": (height, width)}

    @classmethod
    def of_processor(
        cls, resize: Resize, size: tuple[int, int], crop: tuple[int, int] | None, interpolation: Interpolation
    ) -> tuple[dict[str, Any], str]:
        """(values of keys with which images are evaluated as an image processor of transformers makes them, a note).

        The note says what differs; "" if nothing does. Raises UserError, with the reason alone: no values do it.

        Args:
          resize: "squash" to ``size`` as (height, width); "shorter": until the shorter side is ``size[0]``; "within":
            as far as the shorter side is at most ``size[0]`` and the longer one at most ``size[1]``.
          crop: (height, width) of a centre crop; None for none.
          interpolation: of Pillow.
        """
        raise UserError("this task has no keys for it")

    def processor(self) -> dict[str, Any] | None:
        """The entries on type, sizes and filter of a ``preprocessor_config.json`` that does what the evaluation does.

        None: transformers has no such processor.
        """
        return None

    def validate(self) -> None:
        """A dense task needs a head, and frozen weights need frozen norms."""
        super().validate()
        if self.example_head and not self.head.name:
            raise UserError(
                f"task {self.task!r} needs a head: set head.name, as --config.head.name={self.example_head}"
            )
        if self.optimizer.frozen == "stage1" and not self.model.attributes.get("frozen_norm"):
            raise UserError(
                "optimizer.frozen=stage1 is for a backbone whose norms are frozen, too: add "
                "--config.model.frozen_norm=True if the model has it, or set --config.optimizer.frozen=backbone"
            )
