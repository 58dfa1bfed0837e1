"""All keys of a config, with what they mean."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

# A ConfigDict whose keys are those of ``defaults``; it checks types when a value is set, no type checker can.
Config = Any

# What a run may change when it resumes: where and how it runs, not what it computes.
FREE_ON_RESUME = (
    "accumulation_steps",
    "checkpoint",
    "data.check",
    "data.on_corrupt",
    "data.root",
    "data.threads",
    "data.workers",
    "detection.test_shapes",
    "detection.test_short_side",
    "evaluation",
    # Read once, before the first step: a resumed run has its own checkpoint, and the file may be elsewhere by then.
    "init.checkpoint",
    "log_every_steps",
    "mesh",
    "model.remat",
    "model.scan",
    # How evaluation looks at the model, which training does not feel.
    "segmentation.test_flip",
    "segmentation.test_mode",
    "segmentation.test_ratios",
    "segmentation.test_shapes",
    "segmentation.window",
    "segmentation.window_stride",
)


def defaults() -> Config:
    """All keys of a config with their default values; the comments are their documentation."""
    return ConfigDict(
        {
            # classification, segmentation or detection.
            "task": "classification",
            "seed": 0,
            # Images of one optimizer update, over all devices and hosts and all accumulation steps.
            "batch_size": 1024,
            # Length of training: epochs, or steps if given.
            "epochs": 300.0,
            "steps": config_dict.placeholder(int),
            # One update is computed in this many parts, one after the other, to need less memory: the same update but
            # for what is drawn at random, which each part draws by itself (samples that drop a residual branch, anchors
            # and regions of a detector); for batch norms (of ResNet and of heads), which take the statistics of each
            # part and move their running ones with each; and for means over valid pixels (segmentation.loss_average)
            # or over objects, anchors and regions (detection), which are means of those of the parts.
            "accumulation_steps": 1,
            # Decay of the exponential moving average of the parameters; 0 keeps none. Batch statistics are averages
            # already: evaluation of the average takes them as they are.
            "ema_decay": 0.0,
            # Updates with a gradient that is not finite are skipped; so many in a row stop the run.
            "max_skipped_in_a_row": 20,
            "log_every_steps": 50,
            # What a new run starts from; see pvt_jax/weights/load.py.
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
                # Side of the (square) images, or (height, width), that position tables are for; a classifier's images
                # have this size. A dense model takes any, so its tables keep the size of the pre-training.
                "image_size": (224, 224),
                "drop_path_rate": 0.1,
                # Type of the computation; parameters, norms, softmax and loss stay float32.
                "dtype": "float32",
                # Recompute blocks in the backward pass to save memory; compile one block for a whole stage.
                "remat": False,
                "scan": False,
            },
            # Of a dense task: what stands on the backbone, by its name in pvt_jax/heads. Further keys are
            # settings of its module.
            "head": {"name": ""},
            "data": {
                # For classification digits, folder or tfds; for segmentation digit_scenes, label_folder, ade20k,
                # cityscapes or tfds; for detection digit_scenes, coco, voc or tfds. name is the TFDS name; root is the
                # folder, or the TFDS data directory.
                "source": "tfds",
                "name": "imagenet2012",
                "root": "",
                # Names of the splits; empty means the source's own.
                "train_split": "",
                "eval_split": "",
                # What an undecodable image does: error, or skip (counted; another one takes its place).
                "on_corrupt": "error",
                # Before the first step all label maps or images are read and checked, or a sample of them: all or
                # sample.
                "check": "all",
                # Each drawn image appears this often in a row, augmented differently ("repeated augmentation").
                "repeats": 1,
                # Processes that read and augment; 0 uses threads of the training process. Threads are per process.
                "workers": 0,
                "threads": 8,
            },
            # On the host, image by image. See pvt_jax/tasks/classification/transforms.py.
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
            # Sizes are (height, width) in pixels.
            "segmentation": {
                # Training: images are resized to fit into a rectangle of these sides, (long, short), times a random
                # number of scale_range, keeping their aspect; (0, 0) keeps their own size.
                "scale": (2048, 512),
                "scale_range": (0.5, 2.0),
                # Then cropped at random to this size, padded where they are smaller. Of up to ten crops the first is
                # taken in which no class has more than this share of the labelled pixels.
                "crop_size": (512, 512),
                "largest_share": 0.75,
                # Random brightness, contrast, saturation and hue.
                "photometric": True,
                # The loss is a mean over valid pixels, or over all, in which ignored ones count as 0: valid or all.
                "loss_average": "valid",
                # The data set. Values in the label files that are no class; whether 0 is such a one and class k is
                # k + 1 in the files; names and RGB colours of the classes, which otherwise are found or made up. With
                # the colours of all classes label maps may be RGB; further colours are those of ignored pixels.
                "ignore_labels": (255,),
                "reduce_zero_label": False,
                "class_names": (),
                "palette": (),
                # Folders of images and label maps below data.root, with {split} in them, and what their stems end in;
                # empty for layouts that are known.
                "image_folder": "",
                "label_folder": "",
                "image_suffix": "",
                "label_suffix": "",
                # Evaluation sees the whole image, resized as in training without chance and with its sides rounded up
                # to multiples of 32; or windows of it: whole or slide. Probabilities of several sizes (factors of the
                # scale) and of the mirrored image are averaged.
                "test_mode": "whole",
                "test_ratios": (1.0,),
                "test_flip": False,
                "window": (512, 512),
                "window_stride": (384, 384),
                # Images are padded to so many shapes at most, each compiled once; what is predicted does not change.
                "test_shapes": 8,
            },
            # Boxes, and masks where the head has some. Sizes are in pixels.
            "detection": {
                # Images are resized, keeping their aspect, until the shorter side has this many pixels, or the longer
                # one long_side. Of several values one is drawn for each batch.
                "short_sides": (800,),
                "long_side": 1333,
                # With this probability an image is first resized to one of crop_short_sides and cropped to sides drawn
                # from crop_range.
                "crop_probability": 0.0,
                "crop_short_sides": (400, 500, 600),
                "crop_range": (384, 600),
                # Evaluation resizes to this shorter side; 0: the largest of short_sides.
                "test_short_side": 0,
                # Images are padded to so many shapes at most, each compiled once. A training batch has images of one
                # orientation; what is left of an epoch is put together in squarer ones.
                "train_shapes": 4,
                "test_shapes": 8,
                # All images are padded to the most objects that one has, or to this number: of an image that has more,
                # so many are drawn at each visit. 0 is for no limit.
                "max_objects": 0,
                # Masks are trained on as coverage of a grid of so many cells a side over each object's box.
                "mask_side": 112,
                # The data set: below data.root, with {split} in them; empty for layouts that are known.
                "annotations": "",
                "image_folder": "",
                "class_names": (),
                # Train on images without objects too.
                "keep_empty": True,
            },
            "optimizer": {
                # The learning rate of the recipe at the recipe's global batch; scaled linearly to batch_size.
                "learning_rate": 1e-3,
                "base_batch_size": 1024,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.05,
                # What decays: matrices (no biases, norms and class tokens), all_but_norms, or all.
                "decayed": "matrices",
                # Largest global norm of the gradient; 0 clips nothing.
                "clip_norm": 0.0,
                # After the warm-up half a cosine; a polynomial, (1 - step / steps) to the power; or drop_factor at the
                # end of each of drop_epochs, or after each of drop_steps if given: cosine, poly or step.
                "schedule": "cosine",
                "power": 1.0,
                "drop_epochs": (),
                "drop_steps": (),
                "drop_factor": 0.1,
                # Length of the warm-up: epochs, or steps if given.
                "warmup_epochs": 5.0,
                "warmup_steps": config_dict.placeholder(int),
                "warmup_learning_rate": 1e-6,
                "final_learning_rate": 1e-5,
                # Each layer's learning rate is this times that of the layer above it; 1 is one rate for all. See
                # layer_numbers in pvt_jax/training/optimizer.py.
                "layer_decay": 1.0,
                # Learning rates of the backbone and of the head over that of the rest.
                "backbone_multiplier": 1.0,
                "head_multiplier": 1.0,
                # backbone: only what stands on it is trained, and it computes as in evaluation. stage1: stem and first
                # stage of a ResNet with model.frozen_norm keep their weights, as detection recipes have it. Empty: all
                # is trained.
                "frozen": "",
            },
            # Devices along the axis over which parameters are sharded; 1 replicates them. The rest share the batch.
            "mesh": {"fsdp": 1},
            # How often: epochs, or steps if given. Images of a batch; by default those of a training step's part.
            # Examples drawn into the workdir at each evaluation.
            "evaluation": {
                "every_epochs": 1.0,
                "every_steps": config_dict.placeholder(int),
                "batch_size": config_dict.placeholder(int),
                "pictures": 8,
            },
            # Besides these a checkpoint is written after each evaluation, on SIGTERM and at the end.
            "checkpoint": {"every_steps": 1000, "keep": 2, "keep_best": 1},
        }
    )


def get(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
