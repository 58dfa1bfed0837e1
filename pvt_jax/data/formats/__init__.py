"""The registry of data formats: for each, the kinds of records that it reads and the function that opens them.

A new format is a module in this folder and a row of ``FORMATS``. A task with records of its own kind passes a table of
its own to ``open_source``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.data.text import did_you_mean
from pvt_jax.errors import UserError

LABELLED_IMAGES, LABEL_MAPS, OBJECTS = "labelled images", "label maps", "objects"

# Format → kind of records → "module:function" that opens them. The module is imported when it is needed: scikit-learn
# and TFDS take a second or more.
Openers = Mapping[str, Mapping[str, str]]
_HERE = __name__
FORMATS: Openers = {
    "digits": {LABELLED_IMAGES: f"{_HERE}.digits.images:open_digits"},
    "digit_scenes": {
        LABEL_MAPS: f"{_HERE}.digits.scenes:open_digit_scenes",
        OBJECTS: f"{_HERE}.digits.objects:open_digit_objects",
    },
    "folder": {LABELLED_IMAGES: f"{_HERE}.folder:open_folder"},
    "label_folder": {LABEL_MAPS: f"{_HERE}.label_folder:open_label_folder"},
    "ade20k": {LABEL_MAPS: f"{_HERE}.ade20k:open_ade20k"},
    "cityscapes": {LABEL_MAPS: f"{_HERE}.cityscapes:open_cityscapes"},
    "coco": {OBJECTS: f"{_HERE}.coco.source:open_coco"},
    "voc": {OBJECTS: f"{_HERE}.voc.source:open_voc"},
    "tfds": {
        LABELLED_IMAGES: f"{_HERE}.tfds.records:open_tfds",
        LABEL_MAPS: f"{_HERE}.tfds.segmentation:open_tfds_segmentation",
        OBJECTS: f"{_HERE}.tfds.detection:open_tfds_detection",
    },
}


def open_source(kind: str, source: str, request: Request, formats: Openers = FORMATS) -> Any:
    """Opens the training or the evaluation data of a data set.

    Args:
        kind: which records are wanted, such as ``OBJECTS``.
        source: the name of a format.
        request: which data set, and what is known of it.
        formats: the openers of each format.

    Returns:
        A source of ``records.py``: for ``LABELLED_IMAGES`` a ClassificationSource, for ``LABEL_MAPS`` a
        SegmentationSource, for ``OBJECTS`` a DetectionSource.

    Raises:
        UserError: an unknown source, or data that is missing, incomplete, wrong or laid out in another way.
    """
    openers = {name: row[kind] for name, row in formats.items() if kind in row}
    if source not in openers:
        raise UserError(
            f"unknown source '{source}' of {kind}{did_you_mean(source, openers)}; there are: {', '.join(openers)}"
        )
    if request.split not in SPLIT_WORDS:
        raise UserError(f"split is '{request.split}', but a source has 'train' and 'eval'")
    module, _, function = openers[source].partition(":")
    return getattr(import_module(module), function)(request)
