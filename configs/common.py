"""What several configs share. A config names what its experiment chooses; docs/config_keys.md lists all keys."""

import os
from collections.abc import Callable

from ml_collections import ConfigDict

from pvt_jax.data.formats import FORMATS, LABELLED_IMAGES, load
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError

MODEL = "a model: give one of docs/models.md"
FOLDER = "the folder of your images"


def no_argument(path: str, arg: str) -> None:
    """Raise for an argument given to a config that takes none."""
    if arg:
        raise UserError(f"{path} takes no argument, but got {arg!r}")


def one_of(path: str, arg: str, sizes: dict | tuple) -> str:
    """The argument of a config, if it is one of ``sizes``; raises, with all of them, if not."""
    if arg not in sizes:
        problem = f"knows no {arg!r}" if arg else "needs a size"
        raise UserError(f"{path} {problem}: give one of {', '.join(sizes)}, as --config {path}:{next(iter(sizes))}")
    return arg


def strong_augmentation() -> dict:
    """The sections ``transform`` and ``batch_transform`` of the ImageNet recipe."""
    return {
        "transform": {"policy": "rand-m9-mstd0.5-inc1"},
        "batch_transform": {
            "mixup_alpha": 0.8,
            "cutmix_alpha": 1.0,
            "label_smoothing": 0.1,
            "erase_probability": 0.25,
        },
    }


def imagenet(model: str, drop_path_rate: float, clip_norm: float) -> ConfigDict:
    """The ImageNet-1k recipe of PVT (that of DeiT): 300 epochs at a global batch of 1024, arXiv 2102.12122 section 4.1.

    The learning rate follows the batch size by itself. It moves every step; the reference moves it once an epoch.
    With too little memory for 1024 images: ``--config.accumulation_steps=4`` computes an update in four parts.
    """
    return ConfigDict(
        {
            "batch_size": 1024,
            "epochs": 300.0,
            "model": {
                "name": model,
                "num_classes": 1000,
                "image_size": 224,
                "drop_path_rate": drop_path_rate,
                "dtype": "bfloat16",
            },
            "data": {"source": "tfds", "name": "imagenet2012", "repeats": 3, "workers": 8, "threads": 2},
            **strong_augmentation(),
            "optimizer": {
                "learning_rate": 1e-3,
                "base_batch_size": 1024,
                "weight_decay": 0.05,
                "clip_norm": clip_norm,
                "warmup_epochs": 5.0,
                "warmup_learning_rate": 1e-6,
                "final_learning_rate": 1e-5,
            },
        }
    )


def parse_argument(
    path: str, arg: str, needs: str, example: str, known: Callable[[str], bool] = lambda word: False, words: str = ""
) -> tuple[str, list[str]]:
    """Splits a config's argument, "FIRST" or "FIRST,WORD" …, at its commas; a folder's name may have commas, too.

    Args:
        path: of the config.
        arg: its argument.
        needs: what comes first, ``MODEL`` or ``FOLDER``.
        example: an argument.
        known: whether a word may follow.
        words: those that may, for the message.

    Returns:
        What comes first, and the words: one at most after a folder. A folder that does not exist is returned whole, as
        its reader has the better message.

    Raises:
        UserError: nothing comes first, or what follows it is not known.
    """
    is_folder = needs == FOLDER
    first, comma, rest = arg.rpartition(",") if is_folder else arg.partition(",")
    if not comma or (is_folder and os.path.isdir(os.path.expanduser(arg))):
        first, rest = arg, ""
    following = [word.strip() for word in rest.split(",")] if rest else []
    if not first:
        raise UserError(f"{path} needs {needs}, as --config {path}:{example}")
    repeated = [word for number, word in enumerate(following) if word in following[:number]]
    if wrong := [word for word in following if not known(word)] or repeated:
        if is_folder and not os.path.isdir(os.path.expanduser(first)):
            return arg, []
        allowed = f"after {first} may stand {words}, or nothing" if words else f"give {first} alone"
        raise UserError(f"{path} knows no {','.join(wrong)!r}: {allowed}, as --config {path}:{example}")
    return first, following


def count_classes(config: ConfigDict) -> None:
    """Completes the config of a folder of classes with their number, unless a key has set it."""
    data = config.data
    row = FORMATS.get(data.source)
    if row and row.class_names and LABELLED_IMAGES in row.openers and not config.model.num_classes:
        request = Request("train", root=data.root, train_split=data.train_split, holdout=data.holdout)
        config.model.num_classes = len(load(row.class_names)(request))


def ade20k(model: str, head: str, side: int = 512) -> ConfigDict:
    """ADE20K as MMSegmentation trains on it, without batch size, length and optimizer; crops have this ``side``."""
    return ConfigDict(
        {
            "task": "segmentation",
            "log_every_steps": 50,
            # The backbone is the classifier's; its position embeddings stay those of 224².
            "init": {"checkpoint": known_weights(model)},
            "model": {
                "name": model,
                "num_classes": 150,
                "image_size": 224,
                "drop_path_rate": 0.1,
                "dtype": "bfloat16",
            },
            "head": {"name": head},
            "data": {"source": "ade20k", "workers": 8, "threads": 2},
            "segmentation": {
                "scale": (2048, side),
                "scale_range": (0.5, 2.0),
                "crop_size": (side, side),
                "largest_share": 0.75,
                # The reference divides by the number of all pixels, though ignored ones add nothing.
                "loss_average": "all",
                "window": (side, side),
                "window_stride": (side * 3 // 4 // 32 * 32,) * 2,
            },
            "evaluation": {"every_steps": 4000},
            "checkpoint": {"every_steps": 2000},
        }
    )


def known_weights(model: str) -> str:
    """The name of a model's ImageNet weights: those of a ViT have another name than it."""
    size, _, patch = model.removeprefix("vit_").partition("_patch")
    return f"deit_{size}" if model.startswith("vit_") and patch == "16" else model


def coco(path: str, arg: str, head: str, example: str, *, learning_rate: float) -> ConfigDict:
    """COCO as mmdetection trains on it, of an argument ``MODEL[,SCHEDULE][,SIZE]``, as ``pvt_small,3x`` or ``…,640``.

    ``1x`` is 12 epochs at a shorter side of 800 pixels, or ``640``. ``3x`` is that of PVT v2: 36 epochs of sides drawn
    from 480 to 800, half of the images cropped first, at a learning rate of 1e-4 with a stronger decay.
    """
    words = "1x or 3x, and with 1x 640 or 800"
    model, variants = parse_argument(path, arg, MODEL, example, ("1x", "3x", "640", "800").__contains__, words)
    if any(both <= {*variants} for both in ({"1x", "3x"}, {"640", "800"}, {"3x", "640"})):
        raise UserError(
            f"{path} knows no {','.join(variants)!r}: after {model} may stand {words}, as --config "
            f"{path}:{example},1x,640"
        )
    long_run, side = "3x" in variants, 640 if "640" in variants else 800
    epochs, drops = (36.0, (27, 33)) if long_run else (12.0, (8, 11))
    rate = 1e-4 if long_run else learning_rate
    # A ResNet keeps its batch statistics, and stem and first stage their weights, as in mmdetection. Its DETR keeps the
    # scales and biases of all norms, too, which are trained here.
    is_resnet = model.startswith("resnet")
    return ConfigDict(
        {
            "task": "detection",
            "batch_size": 16,
            "epochs": epochs,
            "log_every_steps": 50,
            # The backbone is the classifier's; its position embeddings stay those of 224².
            "init": {"checkpoint": known_weights(model)},
            "model": {
                "name": model,
                "num_classes": 80,
                "image_size": 224,
                "drop_path_rate": 0.0 if is_resnet or model in ("pvt_medium", "pvt_large") else 0.1,
                "dtype": "bfloat16",
                **({"frozen_norm": True} if is_resnet else {}),
            },
            "head": {"name": head},
            "data": {"source": "coco", "workers": 8, "threads": 2, "check": "sample"},
            "detection": {
                "short_sides": tuple(range(480, 801, 32)) if long_run else (side,),
                "long_side": 1066 if side == 640 else 1333,
                "crop_probability": 0.5 if long_run else 0.0,
                "test_short_side": side,
                "keep_empty": False,
            },
            "optimizer": {
                "learning_rate": rate,
                "base_batch_size": 16,
                "weight_decay": 0.05 if long_run else 1e-4,
                "decayed": "all_but_norms" if long_run else "all",
                "schedule": "step",
                "drop_epochs": drops,
                "warmup_steps": 500,
                "warmup_learning_rate": 0.001 * rate,
                "final_learning_rate": 0.0,
                "frozen": "stage1" if is_resnet else "",
            },
            "evaluation": {"batch_size": 16},
            "checkpoint": {"every_steps": 2000},
        }
    )
