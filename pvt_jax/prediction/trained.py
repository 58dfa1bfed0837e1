"""A trained model from a run, a file of weights, or a known name, with its classes and its test transform."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_jax import config as config_lib
from pvt_jax import paths
from pvt_jax.data.classes import Classes
from pvt_jax.data.formats.class_names import read_names
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.messages import did_you_mean, plural
from pvt_jax.prediction.class_tables import CLASS_TABLES, of_stated, table_of
from pvt_jax.prediction.preparation import evaluation_of, run_config
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.task import Task
from pvt_jax.training import history, workdir
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights.entries import StatedClasses
from pvt_jax.weights.load import match_to_model, read_checkpoint
from pvt_jax.weights.places import located
from pvt_jax.weights.settings import Stated, model_settings

# Prediction reads what the run read in other ways: images one by one, on whatever devices there are.
_OWN = {"data.on_corrupt": "skip", "data.workers": 0, "mesh.fsdp": 1}


@dataclass(frozen=True, eq=False)
class Trained:
    """A model that can predict.

    Attributes:
      config: of the run; for weights without one the defaults of their task.
      variables: for ``task.model``.
      classes: what its labels are called.
      notes: lines on what was loaded, and what had to be assumed.
    """

    config: TaskConfig
    task: Task
    variables: Any
    classes: Classes
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """What a person may say of a source.

    Attributes:
      stated: of the model, where the source does not tell.
      ema: take the moving average of the parameters of a run. entry: a set of weights in a file.
      step: of a run: "latest", "best" by its metric, or a number.
      image_size: (height, width) to evaluate at; None is as in the run.
      tta: average several views of each image.
      class_names: a file of names, or one of ``CLASS_TABLES``; "" for those of the source.
      batch_size: images at a time.
      overrides: "KEY=VALUE" of the run's config.
    """

    stated: Stated = Stated()
    ema: bool = False
    entry: str = ""
    step: str = "latest"
    image_size: tuple[int, int] | None = None
    tta: bool = False
    class_names: str = ""
    batch_size: int = 8
    overrides: Sequence[str] = ()


def open_trained(source: str, choices: Choices | None = None) -> Trained:
    """The trained model that ``source`` names: a workdir, a file or folder of weights, or a name of known weights.

    All but the last may be in a bucket, or on the hub, as ``hf://USER/REPO@REVISION``.

    Raises UserError: there is none, it cannot be read, a part of the model has no weights, or a choice does not fit.
    """
    choices = choices or Choices()
    place = _checkpoint(paths.weights(source, "the source"), choices.step)
    saved = read_checkpoint(place, ema=choices.ema, entry=choices.entry)
    settings = model_settings(saved, choices.stated)
    of_run = run_config(place)
    chosen = dict(of_run)
    chosen["model"] = {key: value for key, value in settings.items() if key not in ("head", "head_settings")}
    head = settings.get("head", "")
    chosen["head"] = {"name": head, **settings.get("head_settings", {})}
    chosen["task"] = chosen.get("task") or (HEADS[head].model.task if head else "classification")
    evaluation, notes = evaluation_of(saved, of_run, chosen["task"])
    config = _settled(chosen, evaluation, choices)
    task = TASKS[config.task].make(config)
    variables, report = match_to_model(saved, task.model)
    if random := (*report.missing, *(path for path, *_ in (*report.replaced, *report.wrong_shape))):
        raise UserError(
            f"{saved.described} has no weights for {len(random)} parameters of the model ({random[0]} and others), and "
            "predictions would be random: give the model that it is of with --model, --head, --num_classes or --set"
        )
    classes, note = _classes_of(place, saved.classes, config, choices.class_names)
    return Trained(config, task, variables, classes, tuple(filter(None, (report.summary(), *notes, note))))


def _checkpoint(source: str, step: str) -> str:
    """The folder of the chosen step of a run; another source as it is."""
    if step == "latest":
        return source
    store_name = f"{source.rstrip('/')}/checkpoints"
    if paths.is_bucket(source) and step.isdigit() and located(source, step).name == step:
        return f"{store_name}/{step}"
    folder = located(source, "all")
    store = folder / "checkpoints"
    if not store.is_dir():
        raise UserError(f"--step {step} is for the workdir of a run, and {source} is none: leave it out")
    if step != "best":
        if not step.isdigit():
            raise UserError(f"--step takes latest, best or a number, not {step!r}")
        if not (store / step).is_dir():
            have = ", ".join(sorted((path.name for path in store.iterdir() if path.name.isdigit()), key=int))
            raise UserError(f"no checkpoint of step {step} in {source}: there are {have or 'none'}")
        return f"{store_name}/{step}"
    metric = TASKS[history.read_config(folder)["task"]].config.best_metric
    opened = CheckpointStore(store, best_metric=metric, read_only=True)
    try:
        best = opened.best(metric)
    finally:
        opened.close()
    if best is None:
        raise UserError(f"no checkpoint in {source} was saved with an evaluation: give --step latest")
    return f"{store_name}/{best}"


def _settled(chosen: Mapping[str, Any], evaluation: Mapping[str, Any], choices: Choices) -> TaskConfig:
    config = config_lib.resolve(dict(chosen))
    options = TASKS[config.task].config
    values: dict[str, Any] = {**evaluation, **_OWN, "evaluation.batch_size": choices.batch_size}
    if choices.tta:
        if not options.test_time_augmentation:
            raise UserError(f"task {config.task!r} has no test-time augmentation: leave --tta out")
        values |= options.test_time_augmentation
    for key, value in values.items():
        config_lib.put(config, key, value)
    for text in choices.overrides:
        config_lib.override(config, text)
    if choices.image_size is not None:
        # What a size means may depend on what was chosen, which in turn counts more.
        for key, value in config_lib.read(config).test_size(*choices.image_size).items():
            config_lib.put(config, key, value)
        for text in choices.overrides:
            config_lib.override(config, text)
    return config_lib.read(config)


def _classes_of(source: str, stated: StatedClasses | None, config: TaskConfig, wanted: str) -> tuple[Classes, str]:
    """(classes, a note on where they come from if that was assumed)."""
    count = config.model.num_classes
    if wanted:
        return _named(wanted, count), ""
    data = workdir.data_of_weights(source)
    if data is not None and len(data.class_names) == count:
        return Classes(data.class_names, data.palette, data.category_ids), ""
    if stated is not None and len(stated.names) == count:
        return of_stated(config.task, stated.names, stated.palette), ""
    if (table := table_of(config.task, count)) is not None:
        return table.classes, (
            f"{source} names no classes: as they are {count:,}, those of {table.title} are taken; --class_names FILE "
            "gives others"
        )
    made_up = Classes(tuple(f"class {label}" for label in range(count)))
    return made_up, f"{source} names no classes: they are called class 0 … {count - 1}; --class_names FILE gives names"


def _named(wanted: str, count: int) -> Classes:
    if wanted in CLASS_TABLES:
        classes = CLASS_TABLES[wanted].classes
    elif Path(wanted).expanduser().is_file():
        classes = Classes(read_names(str(Path(wanted).expanduser())))
    else:
        near = did_you_mean(wanted, CLASS_TABLES)
        raise UserError(
            f"--class_names {wanted} is no file{near}: give a file with a name a line, or {', '.join(CLASS_TABLES)}"
        )
    if len(classes.names) != count:
        raise UserError(
            f"--class_names {wanted} has {plural(len(classes.names), 'name')}, and the model has "
            f"{plural(count, 'class', 'es')}: give a name of each, in the order of their labels"
        )
    return classes
