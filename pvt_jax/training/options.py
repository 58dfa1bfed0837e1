"""Keys of a config that the trainer reads."""

from dataclasses import dataclass
from typing import Literal

from pvt_jax.errors import UserError
from pvt_jax.fields import Options, key


@dataclass(frozen=True)
class RunOptions(Options):
    """What a run is."""

    task: str = key("classification", "What is learned; a name in pvt_jax/tasks.")
    seed: int = key(0, "Seed of everything random.", at_least=0)
    batch_size: int = key(1024, "Images per optimizer update, over all devices, hosts and accumulation steps.", above=0)
    epochs: float = key(300.0, "Length of training.", at_least=0)
    steps: int | None = key(None, "Length of training in optimizer updates, in place of epochs.", above=0)
    accumulation_steps: int = key(
        1,
        "Compute each update in this many parts, one after the other, to save memory. The update is the same except "
        "for what each part draws or averages on its own: random draws (stochastic depth, sampled anchors and "
        "regions), statistics of batch norms, and means over valid pixels (segmentation.loss_average) or over objects, "
        "anchors and regions (detection).",
        above=0,
        free=True,
    )
    ema_decay: float = key(
        0.0,
        "Decay of the exponential moving average of the parameters; 0 keeps none. Batch statistics are moving averages "
        "already and are evaluated as they are.",
        at_least=0,
        below=1,
    )
    max_skipped_in_a_row: int = key(
        20, "Updates with a non-finite gradient are skipped; this many in a row stop the run.", above=0
    )
    log_every_steps: int = key(50, "Steps between two train lines in metrics.jsonl.", above=0, free=True)
    profile_steps: tuple[int, ...] = key(
        (),
        "(first, last) of the steps of which a trace is written into the folder profile of the workdir, as (20, 25); "
        "empty for none.",
        above=0,
        free=True,
    )
    kernels: bool = key(
        True,
        "Kernels in Pallas where layers have them: in bfloat16, on NVIDIA GPUs from Ampere on. They keep hidden maps "
        "and attention scores out of the memory. A run first checks that they compute what XLA does.",
        free=True,
    )
    tracking: Literal["", "trackio", "wandb"] = key(
        "", "Send metrics and pictures to Trackio or Weights & Biases as well; its package is an extra.", free=True
    )
    tracking_project: str = key("pvt_jax", "The project there.", free=True)

    def validate(self) -> None:
        """Without steps a run needs epochs, and a window has a beginning and an end."""
        if self.steps is None and self.epochs == 0:
            raise UserError(f"epochs must be a number above 0, but is {self.epochs}")
        window = self.profile_steps
        if window and (len(window) != 2 or window[0] > window[1]):
            raise UserError(
                f"profile_steps is {window}: give the first and the last step of the trace in this order, as "
                "--config.profile_steps='(20,25)'"
            )

    def total_steps(self, examples: int) -> int:
        """The length of a run on so many training examples."""
        return max(self.in_steps(self.steps, self.epochs, examples), 1)

    def in_steps(self, steps: int | None, epochs: float, examples: int) -> int:
        """``steps``, or so many epochs: an epoch is the number of whole batches in the training data."""
        return steps if steps is not None else round(epochs * max(examples // self.batch_size, 1))


@dataclass(frozen=True)
class InitOptions(Options):
    """The weights that a new run starts from."""

    checkpoint: str = key(
        "",
        "A workdir, an Orbax folder, a .pth or .safetensors file, a folder from Hugging Face, any of these in a bucket "
        "(gs://, s3://), hf://USER/REPO@REVISION, or the name of published weights; empty for random parameters. Read "
        "once: a resumed run continues from its own checkpoint.",
        free=True,
        path="weights",
    )
    ema: bool = key(False, "Take the moving average of the parameters where the checkpoint has one.")
    entry: str = key(
        "", "Of a file with several sets of weights the one to take, as model_ema or student; empty for the usual one."
    )
    allow_missing: tuple[str, ...] = key(
        (),
        "Patterns, as ('head/*',), of parameters that may stay random. A classifier for another number of classes and "
        "position tables of another size need none.",
    )
    allow_unexpected: tuple[str, ...] = key((), "Patterns of saved parameters that may stay unused.")


@dataclass(frozen=True)
class OptimizerOptions(Options):
    """AdamW and its learning rate."""

    learning_rate: float = key(
        1e-3, "Learning rate of the recipe at its own global batch size; scaled linearly to batch_size.", above=0
    )
    base_batch_size: int = key(1024, "Global batch size of the recipe.", above=0)
    b1: float = key(0.9, "Decay of the first moment.", at_least=0, below=1)
    b2: float = key(0.999, "Decay of the second moment.", at_least=0, below=1)
    eps: float = key(1e-8, "Added to the root of the second moment.", above=0)
    weight_decay: float = key(0.05, "Decoupled weight decay.", at_least=0)
    decayed: Literal["matrices", "all_but_norms", "all_but_backbone_norms", "all"] = key(
        "matrices",
        "Parameters that decay; matrices leaves out biases, norms and class tokens, and all_but_backbone_norms decays "
        "norms of the head.",
    )
    clip_norm: float = key(0.0, "Largest global norm of the gradient; 0 does not clip.", at_least=0)
    schedule: Literal["cosine", "poly", "step"] = key(
        "cosine",
        "After the warm-up: half a cosine, a polynomial, (1 - step / steps) ** power, or steps by drop_factor.",
    )
    power: float = key(1.0, "Exponent of schedule poly.", above=0)
    drop_epochs: tuple[float, ...] = key((), "Epochs at whose end schedule step drops the learning rate.", above=0)
    drop_steps: tuple[int, ...] = key((), "The same in steps, in place of drop_epochs.", above=0)
    drop_factor: float = key(0.1, "Factor of each drop.", above=0, at_most=1)
    warmup_epochs: float = key(5.0, "Length of the linear warm-up.", at_least=0)
    warmup_steps: int | None = key(None, "Length of the warm-up in steps, in place of warmup_epochs.", at_least=0)
    warmup_learning_rate: float = key(1e-6, "Learning rate at the first step.", at_least=0)
    final_learning_rate: float = key(1e-5, "Learning rate at the end.", at_least=0)
    layer_decay: float = key(
        1.0,
        "Ratio of each layer's learning rate to that of the layer above it; 1 is one rate for all. See layer_numbers "
        "in pvt_jax/training/optimizer.py.",
        above=0,
        at_most=1,
    )
    backbone_multiplier: float = key(1.0, "Factor on the learning rate of the backbone.", at_least=0)
    head_multiplier: float = key(1.0, "Factor on the learning rate of the head.", at_least=0)
    frozen: Literal["", "backbone", "stage1"] = key(
        "",
        "backbone: only neck and head are trained, and the backbone runs in evaluation mode. stage1: stem and first "
        "stage of a backbone with model.frozen_norm keep their weights, as in detection recipes. Empty: train all.",
    )

    def validate(self) -> None:
        """A step schedule needs its drops."""
        if self.schedule == "step" and not (self.drop_epochs or self.drop_steps):
            raise UserError(
                "optimizer.schedule=step needs to know where the learning rate drops: set optimizer.drop_epochs, as "
                '"(8, 11)", or optimizer.drop_steps'
            )


@dataclass(frozen=True)
class MeshOptions(Options):
    """How devices share the work: those outside fsdp split the batch."""

    fsdp: int = key(1, "Devices along the axis over which parameters are sharded; 1 replicates them.", above=0)


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """Evaluation while training."""

    every_epochs: float = key(1.0, "Epochs between two evaluations.", above=0)
    every_steps: int | None = key(None, "Steps between two evaluations, in place of every_epochs.", above=0)
    batch_size: int | None = key(None, "Images of a batch; None: as many as a training step's part.", above=0)
    pictures: int = key(8, "Examples drawn into the workdir at each evaluation.", at_least=0)


@dataclass(frozen=True)
class EarlyStoppingOptions(Options):
    """When a run ends before its last step."""

    patience: int = key(
        0,
        "After so many evaluations in a row without a better value of the metric that ranks checkpoints (top1, miou, "
        "AP), the run ends; 0: never.",
        at_least=0,
    )


@dataclass(frozen=True)
class CheckpointOptions(Options):
    """Checkpoints of the run; one is also written after each evaluation, on SIGTERM and at the end."""

    every_steps: int = key(1000, "Steps between two checkpoints.", above=0)
    keep: int = key(2, "Latest checkpoints that are kept.", above=0)
    keep_best: int = key(1, "Best checkpoints that are kept besides.", at_least=0)
