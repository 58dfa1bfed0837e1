"""The values that the keys of a config may have, and which keys a task reads."""

import math

from pvt_jax.config_keys import Config, defaults, get, leaves
from pvt_jax.errors import UserError

_CHOICES = {
    "data.check": ("all", "sample"),
    "data.on_corrupt": ("error", "skip"),
    "model.dtype": ("float32", "bfloat16"),
    "optimizer.decayed": ("matrices", "all_but_norms", "all"),
    "optimizer.frozen": ("", "backbone", "stage1"),
    "optimizer.schedule": ("cosine", "poly", "step"),
    "segmentation.loss_average": ("valid", "all"),
    "segmentation.test_mode": ("whole", "slide"),
}

# What not all tasks read; under one that does not these keys keep their default values, or they are refused.
_READ_BY = {
    "classification": (
        "transform.crop",
        "transform.crop_scale",
        "transform.crop_ratio",
        "transform.pad",
        "transform.policy",
        "transform.eval_crop_fraction",
        "batch_transform.mixup_alpha",
        "batch_transform.cutmix_alpha",
        "batch_transform.mix_probability",
        "batch_transform.switch_probability",
        "batch_transform.label_smoothing",
        "batch_transform.erase_probability",
        "data.repeats",
    ),
    "segmentation": ("data.check", "data.repeats", "evaluation.pictures", "head", "segmentation"),
    "detection": ("data.check", "detection", "evaluation.pictures", "head"),
}


def check(config: Config) -> None:
    """Raise UserError for values that no run could use."""
    positive = ["batch_size", "accumulation_steps", "max_skipped_in_a_row", "log_every_steps", "model.num_classes"]
    positive += ["data.repeats", "data.threads", "optimizer.base_batch_size", "mesh.fsdp", "checkpoint.every_steps"]
    positive += ["checkpoint.keep", "evaluation.every_epochs", "optimizer.learning_rate"]
    positive += ["segmentation.largest_share", "segmentation.test_shapes", "optimizer.power", "optimizer.drop_factor"]
    positive += [f"detection.{name}" for name in ("long_side", "train_shapes", "test_shapes", "mask_side")]
    positive += ["epochs"] if config.steps is None else ["steps"]
    positive += [f"evaluation.{name}" for name in ("every_steps", "batch_size") if config.evaluation[name] is not None]
    for key in positive:
        if get(config, key) <= 0:
            raise UserError(f"{key} must be above 0, but is {get(config, key)}")
    not_negative = ["seed", "data.workers", "checkpoint.keep_best", "transform.pad", "batch_transform.mixup_alpha"]
    not_negative += ["batch_transform.cutmix_alpha", "optimizer.weight_decay", "optimizer.clip_norm"]
    not_negative += ["optimizer.warmup_epochs", "optimizer.warmup_learning_rate", "optimizer.final_learning_rate"]
    not_negative += ["detection.max_objects", "detection.test_short_side"]
    not_negative += ["optimizer.backbone_multiplier", "optimizer.head_multiplier", "evaluation.pictures"]
    not_negative += ["optimizer.warmup_steps"] if config.optimizer.warmup_steps is not None else []
    for key in not_negative:
        if get(config, key) < 0:
            raise UserError(f"{key} must not be below 0, but is {get(config, key)}")
    for key, value in leaves(config.to_dict()):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key} must be a finite number, but is {value}")
    pixels = ("model.image_size", *(f"segmentation.{k}" for k in ("scale", "crop_size", "window", "window_stride")))
    pixels += ("detection.crop_range",)
    lengths = {"transform.crop_scale": 2, "transform.crop_ratio": 2, "segmentation.scale_range": 2}
    lengths |= {**dict.fromkeys(pixels, 2), "batch_transform.mean": 3, "batch_transform.std": 3}
    for key, length in lengths.items():
        kind = int if key in pixels else (int, float)
        value = get(config, key)
        if len(value) != length or not all(isinstance(x, kind) and x >= 0 for x in value):
            raise UserError(f"{key} must be {length} numbers that are not negative, but is {value}")
    if 0 in config.batch_transform.std:
        raise UserError(f"batch_transform.std must be above 0, but is {config.batch_transform.std}")
    for key in ("detection.crop_probability", "transform.flip_probability"):
        if not 0 <= get(config, key) <= 1:
            raise UserError(f"{key} must be from 0 to 1, but is {get(config, key)}")
    if not 1 <= config.detection.crop_range[0] <= config.detection.crop_range[1]:
        raise UserError(
            f"detection.crop_range must be (least, largest), from 1 pixel on, but is {config.detection.crop_range}"
        )
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
    for key in ("detection.short_sides", "detection.crop_short_sides", "optimizer.drop_epochs", "optimizer.drop_steps"):
        kind = (int, float) if key == "optimizer.drop_epochs" else int
        value = get(config, key)
        if not all(isinstance(x, kind) and x > 0 for x in value) or (not value and key.startswith("detection")):
            raise UserError(f'{key} must be numbers above 0, as "(480, 800)", but is {value}')
    ratios = config.segmentation.test_ratios
    if not ratios or not all(isinstance(ratio, (int, float)) and ratio > 0 for ratio in ratios):
        raise UserError(f"segmentation.test_ratios must be numbers above 0, as (0.75, 1.0), but is {ratios}")
    for key, allowed in _CHOICES.items():
        if get(config, key) not in allowed:
            raise UserError(
                f"{key} must be one of {', '.join(n or 'empty' for n in allowed)}, but is {get(config, key)!r}"
            )
    _check_pairs(config)
    _check_task(config)


def _check_pairs(config: Config) -> None:
    """Raise UserError for values that do not go together."""
    options = config.optimizer
    if options.frozen == "stage1" and not config.model.get("frozen_norm"):
        is_resnet = config.model.name.startswith("resnet")
        raise UserError(
            "optimizer.frozen=stage1 is for a ResNet whose norms are frozen, too: "
            f"{'add --config.model.frozen_norm=True, or ' * is_resnet}set --config.optimizer.frozen=backbone"
        )
    if options.schedule == "step" and not (options.drop_epochs or options.drop_steps):
        raise UserError(
            "optimizer.schedule=step needs to know where the learning rate drops: set optimizer.drop_epochs, as "
            '"(8, 11)", or optimizer.drop_steps'
        )
    largest = max(*config.detection.short_sides, config.detection.test_short_side)
    if config.detection.long_side < largest:
        raise UserError(
            f"detection.long_side is {config.detection.long_side}, below a shorter side of {largest}: set it to "
            f"{largest} or more, or detection.short_sides and detection.test_short_side lower"
        )


def _check_task(config: Config) -> None:
    """Raise UserError for a key that was set and that the config's task does not read."""
    if config.task not in _READ_BY:
        raise UserError(f"unknown task {config.task!r}: the tasks are {', '.join(_READ_BY)}")
    read = _READ_BY[config.task]
    unread = {key for keys in _READ_BY.values() for key in keys if key not in read}
    values, usual = dict(leaves(config.to_dict())), dict(leaves(defaults().to_dict()))
    for key, value in values.items():
        foreign = any(key == name or key.startswith(name + ".") for name in unread)
        if foreign and value != usual.get(key):
            raise UserError(f"{key} is not read by task {config.task!r}: leave it out, or set the task that it is for")
    if config.task != "classification" and not config.head.name:
        example = {"segmentation": "semantic_fpn", "detection": "retinanet"}[config.task]
        raise UserError(f"task {config.task!r} needs a head: set head.name, as --config.head.name={example}")
