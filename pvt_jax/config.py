"""Load, check, describe and compare configs.

A config file defines ``get_config(arg="") -> Config`` and names only what its experiment chooses; everything else
comes from ``defaults()`` below, which is also the list of all keys. A key that is not there is an error.
"""

import ast
import difflib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from pvt_jax.errors import UserError

# A ConfigDict whose keys are those of ``defaults``; it checks types when a value is set, no type checker can.
Config = Any

# Keys under these sections beyond the listed ones are settings of the model's own module, checked when it is made.
_OPEN_SECTIONS = ("model",)

# What a run may change when it resumes: where and how it runs, not what it computes.
_FREE_ON_RESUME = (
    "accumulation_steps",
    "checkpoint",
    "data.on_corrupt",
    "data.root",
    "data.threads",
    "data.workers",
    "evaluation.every_epochs",
    # Read once, before the first step: a resumed run has its own checkpoint, and the file may be elsewhere by then.
    "init.checkpoint",
    "log_every_steps",
    "mesh",
    "model.remat",
    "model.scan",
)


def defaults() -> Config:
    """All keys of a config with their default values; the comments are their documentation."""
    return ConfigDict(
        {
            "task": "classification",
            "seed": 0,
            # Images of one optimizer update, over all devices and hosts and all accumulation steps.
            "batch_size": 1024,
            # Length of training: epochs, or steps if given.
            "epochs": 300.0,
            "steps": config_dict.placeholder(int),
            # One update is computed in this many parts, one after the other, to need less memory: the same update but
            # for which samples drop a residual branch, which each part draws by itself, and for batch norms (ResNet),
            # which take the statistics of each part and move their running ones with each.
            "accumulation_steps": 1,
            # Decay of the exponential moving average of the parameters; 0 keeps none. Batch statistics are averages
            # already: evaluation of the average takes them as they are.
            "ema_decay": 0.0,
            # Updates with a gradient that is not finite are skipped; so many in a row stop the run.
            "max_skipped_in_a_row": 20,
            "log_every_steps": 50,
            # What a new run starts from; see pvt_jax/checkpoints/load.py.
            "init": {
                # Empty for random parameters; or a workdir, an Orbax folder, .pth, .safetensors, a folder of Hugging
                # Face, or the name of known weights. Read once: a resumed run goes on from its own checkpoint.
                "checkpoint": "",
                # Take the moving average of the parameters, where the checkpoint has one.
                "ema": False,
                # Patterns, as "head/*", of parameters that may stay random, and of saved ones that may stay unused. A
                # classifier of another number of classes and position tables of another size need none.
                "allow_missing": (),
                "allow_unexpected": (),
            },
            "model": {
                "name": "pvt_tiny",
                "num_classes": 1000,
                # Side of the (square) images, or (height, width).
                "image_size": (224, 224),
                "drop_path_rate": 0.1,
                # Type of the computation; parameters, norms, softmax and loss stay float32.
                "dtype": "float32",
                # Recompute blocks in the backward pass to save memory; compile one block for a whole stage.
                "remat": False,
                "scan": False,
            },
            "data": {
                # digits, folder or tfds; name is the TFDS name; root is the folder, or the TFDS data directory.
                "source": "tfds",
                "name": "imagenet2012",
                "root": "",
                # Names of the splits; empty means the source's own.
                "train_split": "",
                "eval_split": "",
                # What an undecodable image does: error, or skip (counted; another one takes its place).
                "on_corrupt": "error",
                # Each drawn image appears this often in a row, augmented differently ("repeated augmentation").
                "repeats": 1,
                # Processes that read and augment; 0 uses threads of the training process. Threads are per process.
                "workers": 0,
                "threads": 8,
            },
            # On the host, image by image. See pvt_jax/data/transforms.py.
            "transform": {
                # resized: random area and aspect; padded: zero padding, then a crop at random; none: resize only.
                "crop": "resized",
                "crop_scale": (0.08, 1.0),
                "crop_ratio": (3 / 4, 4 / 3),
                "pad": 0,
                "flip_probability": 0.5,
                # RandAugment, as "rand-m9-mstd0.5-inc1"; empty for none.
                "policy": "",
                # Share of the resized shorter side that the evaluation's centre crop keeps.
                "eval_crop_fraction": 224 / 256,
            },
            # In the jitted step, on the whole batch. Mean and deviation are of channels in 0..255.
            "batch_transform": {
                "mean": (123.675, 116.28, 103.53),
                "std": (58.395, 57.12, 57.375),
                "mixup_alpha": 0.0,
                "cutmix_alpha": 0.0,
                "mix_probability": 1.0,
                "switch_probability": 0.5,
                "label_smoothing": 0.0,
                "erase_probability": 0.0,
            },
            "optimizer": {
                # The learning rate of the recipe at the recipe's global batch; scaled linearly to batch_size.
                "learning_rate": 1e-3,
                "base_batch_size": 1024,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.05,
                # Largest global norm of the gradient; 0 clips nothing.
                "clip_norm": 0.0,
                "warmup_epochs": 5.0,
                "warmup_learning_rate": 1e-6,
                "final_learning_rate": 1e-5,
                # Each layer's learning rate is this times that of the layer above it; 1 is one rate for all. See
                # layer_numbers in pvt_jax/training/optimizer.py.
                "layer_decay": 1.0,
                # backbone: only the head is trained, and the backbone computes as in evaluation. Empty: all is trained.
                "frozen": "",
            },
            # Devices along the axis over which parameters are sharded; 1 replicates them. The rest share the batch.
            "mesh": {"fsdp": 1},
            "evaluation": {"every_epochs": 1.0},
            # Besides these a checkpoint is written after each evaluation, on SIGTERM and at the end.
            "checkpoint": {"every_steps": 1000, "keep": 2, "keep_best": 1},
        }
    )


def load(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The full config of a file, with overrides from the command line applied.

    Args:
      spec: path of the config file, or path:argument for its ``get_config(argument)``.
      overrides: strings as ``"model.name=pvt_small"``.

    Raises:
      UserError: the file is missing or broken, or a key or value does not fit.
    """
    path, _, argument = spec.partition(":")
    try:
        file = Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"no config file {path}: there is no such user") from None
    chosen = _run_config_file(file, argument)
    config = resolve(chosen.to_dict() if isinstance(chosen, ConfigDict) else chosen)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            if isinstance(_section_of(config, key).get(key.split(".")[-1]), ConfigDict):
                raise UserError(f"--config.{key} is a section: set one of its keys, as --config.{key}.KEY=VALUE")
            raise UserError(f"--config.{key} needs a value: write --config.{key}=VALUE")
        _set(config, key, text, from_text=True)
    check(config)
    return config


def resolve(chosen: dict[str, Any]) -> Config:
    """``defaults()`` with the nested ``chosen`` values in place; unknown keys raise UserError."""
    config = defaults()
    for key, value in _leaves(chosen):
        _set(config, key, value, from_text=False)
    return config


def check(config: Config) -> None:
    """Raise UserError for values that no run could use."""
    positive = ["batch_size", "accumulation_steps", "max_skipped_in_a_row", "log_every_steps", "model.num_classes"]
    positive += ["data.repeats", "data.threads", "optimizer.base_batch_size", "mesh.fsdp", "checkpoint.every_steps"]
    positive += ["checkpoint.keep", "evaluation.every_epochs", "optimizer.learning_rate"]
    for key in positive + (["epochs"] if config.steps is None else ["steps"]):
        if get(config, key) <= 0:
            raise UserError(f"{key} must be above 0, but is {get(config, key)}")
    not_negative = ["seed", "data.workers", "checkpoint.keep_best", "transform.pad", "batch_transform.mixup_alpha"]
    not_negative += ["batch_transform.cutmix_alpha", "optimizer.weight_decay", "optimizer.clip_norm"]
    not_negative += ["optimizer.warmup_epochs", "optimizer.warmup_learning_rate", "optimizer.final_learning_rate"]
    for key in not_negative:
        if get(config, key) < 0:
            raise UserError(f"{key} must not be below 0, but is {get(config, key)}")
    for key, value in _leaves(config.to_dict()):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} must be a finite number, but is {value}")
    lengths = {"model.image_size": 2, "transform.crop_scale": 2, "transform.crop_ratio": 2}
    for key, length in {**lengths, "batch_transform.mean": 3, "batch_transform.std": 3}.items():
        kind = int if key == "model.image_size" else (int, float)
        value = get(config, key)
        if len(value) != length or not all(isinstance(x, kind) and x >= 0 for x in value):
            raise UserError(f"{key} must be {length} numbers that are not negative, but is {value}")
    if 0 in config.batch_transform.std:
        raise UserError(f"batch_transform.std must be above 0, but is {config.batch_transform.std}")
    ranges = {"model.drop_path_rate": (0, 1), "ema_decay": (0, 1), "optimizer.b1": (0, 1), "optimizer.b2": (0, 1)}
    for key, (low, high) in ranges.items():
        if not low <= get(config, key) < high:
            raise UserError(f"{key} must be at least {low} and below {high}, but is {get(config, key)}")
    for name in ("mix_probability", "switch_probability", "erase_probability", "label_smoothing"):
        if not 0 <= config.batch_transform[name] <= 1:
            raise UserError(f"batch_transform.{name} must be from 0 to 1, but is {config.batch_transform[name]}")
    if not 0 < config.optimizer.layer_decay <= 1:
        raise UserError(f"optimizer.layer_decay must be above 0 and at most 1, but is {config.optimizer.layer_decay}")
    for key in ("init.allow_missing", "init.allow_unexpected"):
        if not all(isinstance(pattern, str) for pattern in get(config, key)):
            raise UserError(f"{key} must be patterns, as \"('head/*',)\", but is {get(config, key)}")
    choices = {"data.on_corrupt": ("error", "skip"), "model.dtype": ("float32", "bfloat16")}
    for key, allowed in {**choices, "optimizer.frozen": ("", "backbone")}.items():
        if get(config, key) not in allowed:
            raise UserError(
                f"{key} must be one of {', '.join(n or 'empty' for n in allowed)}, but is {get(config, key)!r}"
            )


def get(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def to_json(config: Config) -> str:
    """The config as indented JSON text, keys in their order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for each key that differs and that a resumed run may not change.

    A key that a config lacks, because it was written before there was that key, has its default value.
    """
    known = dict(_leaves(json.loads(to_json(defaults()))))
    before, after = known | dict(_leaves(old)), known | dict(_leaves(new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if any(key == free or key.startswith(free + ".") for free in _FREE_ON_RESUME):
            continue
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now:
            lines.append(f"{key}: {was} → {now}")
    return lines


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(config: Config, key: str, value: Any, *, from_text: bool) -> None:
    section, last = _section_of(config, key), key.split(".")[-1]
    if isinstance(section.get(last), ConfigDict):
        raise UserError(f"config key {key!r} is a section: set one of its keys, {', '.join(section[last])}")
    if from_text:
        value = _parse(key, value, section.get_type(last) if last in section else None)
    if key == "model.image_size" and isinstance(value, int):
        value = (value, value)
    if isinstance(value, list):
        value = tuple(value)
    # ConfigDict takes None for any key; here only keys that are None by default do.
    if value is None and last in section and get(defaults(), key) is not None:
        raise UserError(_wrong_type(key, section.get_type(last), value))
    try:
        with section.unlocked():
            section[last] = value
    except TypeError:
        raise UserError(_wrong_type(key, section.get_type(last), value)) from None


def _section_of(config: Config, key: str) -> Any:
    """The section that holds ``key``; raises UserError if neither it nor an open section knows the key."""
    section, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        is_open = depth == 1 == len(parts) - 1 and parts[0] in _OPEN_SECTIONS
        if not isinstance(section, ConfigDict) or (part not in section and not is_open):
            known = [name for name, _ in _leaves(config.to_dict())]
            nearest = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise UserError(f"unknown config key {key!r}: did you mean {nearest!r}?")
        if depth < len(parts) - 1:
            section = section[part]
    return section


def _parse(key: str, text: str, kind: type | None) -> Any:
    if kind is str:
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        if kind is None:
            return text
        raise UserError(_wrong_type(key, kind, text)) from None


def _wrong_type(key: str, kind: type, value: Any) -> str:
    article = "an" if kind.__name__[0] in "aeiou" else "a"
    return f"config key {key!r} takes {article} {kind.__name__}, not {value!r}"


def _run_config_file(path: Path, argument: str) -> Any:
    if not path.is_file():
        siblings = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(str(path), siblings, 1, 0.0)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"pvt_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Configs share recipes by "from configs.common import …", from whatever folder the command is run in.
    sys.path.insert(0, str(path.resolve().parent.parent))
    try:
        spec.loader.exec_module(module)
        return module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config file {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
