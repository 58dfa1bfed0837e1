"""The registry of data formats: which kinds of records each holds, and the functions that open them.

A new format is a module in this folder and a row of ``FORMATS``. A task with records of a kind of its own passes its
own table to ``open_source``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pvt_jax import paths
from pvt_jax.data.records import SPLIT_WORDS, Request
from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean

LABELLED_IMAGES, LABEL_MAPS, OBJECTS = "labelled images", "label maps", "objects"


@dataclass(frozen=True)
class Format:
    """What is known of a format. Functions are named as "module:function", to be imported when they are needed.

    Attributes:
        openers: for each kind of records that it holds, the function from a Request to a source.
        divided: whether ``data.holdout`` can divide it.
        in_bucket: whether its data may be in a bucket of Google Cloud Storage.
        class_names: the function from a Request to the names of the classes, of a format whose configs count them.
        title: what the annotations of a format that is recognised in a folder are called.
        extension: how their files end.
        is_in: the function from a folder to whether it looks like the format, where the ending of files does not tell.
    """

    openers: Mapping[str, str]
    divided: bool = False
    in_bucket: bool = False
    title: str = ""
    extension: str = ""
    class_names: str = ""
    is_in: str = ""


_HERE = __name__
FORMATS: Mapping[str, Format] = {
    "digits": Format({LABELLED_IMAGES: f"{_HERE}.digits.images:open_digits"}),
    "digit_scenes": Format(
        {
            LABEL_MAPS: f"{_HERE}.digits.scenes:open_digit_scenes",
            OBJECTS: f"{_HERE}.digits.objects:open_digit_objects",
        }
    ),
    "folder": Format(
        {LABELLED_IMAGES: f"{_HERE}.folder:open_folder"},
        divided=True,
        class_names=f"{_HERE}.folder:list_classes",
    ),
    "metadata": Format(
        {LABELLED_IMAGES: f"{_HERE}.metadata:open_metadata"},
        divided=True,
        class_names=f"{_HERE}.metadata:class_names_of_metadata",
    ),
    "parquet": Format(
        {LABELLED_IMAGES: f"{_HERE}.parquet.source:open_parquet"},
        divided=True,
        class_names=f"{_HERE}.parquet.source:class_names_of_parquet",
    ),
    "label_folder": Format({LABEL_MAPS: f"{_HERE}.label_folder:open_label_folder"}, divided=True),
    "ade20k": Format({LABEL_MAPS: f"{_HERE}.ade20k:open_ade20k"}),
    "cityscapes": Format({LABEL_MAPS: f"{_HERE}.cityscapes:open_cityscapes"}),
    "coco": Format(
        {OBJECTS: f"{_HERE}.coco.source:open_coco"},
        divided=True,
        title="COCO's JSON format",
        extension=".json",
        class_names=f"{_HERE}.coco.source:class_names_of_coco",
    ),
    "voc": Format(
        {OBJECTS: f"{_HERE}.voc.source:open_voc"},
        divided=True,
        title="Pascal VOC's XML format",
        extension=".xml",
        class_names=f"{_HERE}.voc.source:class_names_of_voc",
    ),
    "yolo": Format(
        {OBJECTS: f"{_HERE}.yolo.source:open_yolo"},
        divided=True,
        title="YOLO's text format",
        extension=".yaml",
        class_names=f"{_HERE}.yolo.source:class_names_of_yolo",
        is_in=f"{_HERE}.yolo.layout:is_yolo",
    ),
    "labelme": Format(
        {
            OBJECTS: f"{_HERE}.labelme.source:open_labelme",
            LABEL_MAPS: f"{_HERE}.labelme.label_maps:open_labelme_maps",
        },
        divided=True,
        title="labelme's JSON format",
        extension=".json",
        class_names=f"{_HERE}.labelme.source:class_names_of_labelme",
        is_in=f"{_HERE}.labelme.annotations:is_labelme",
    ),
    "tfds": Format(
        {
            LABELLED_IMAGES: f"{_HERE}.tfds.records:open_tfds",
            LABEL_MAPS: f"{_HERE}.tfds.segmentation:open_tfds_segmentation",
            OBJECTS: f"{_HERE}.tfds.detection:open_tfds_detection",
        },
        in_bucket=True,
    ),
}


def open_source(kind: str, source: str, request: Request, formats: Mapping[str, Format] = FORMATS) -> Any:
    """Opens the training or the evaluation data of a data set.

    Raises UserError: an unknown source, or data that is missing, incomplete, wrong or laid out in another way.

    Args:
        kind: which records are wanted, such as ``OBJECTS``.
        source: the name of a format.
        request: which data set, and what is known of it.
        formats: the table of formats.

    Returns:
        A source, see ``records.py``.
    """
    openers = {name: row.openers[kind] for name, row in formats.items() if kind in row.openers}
    if source not in openers:
        raise UserError(
            f"unknown source '{source}' of {kind}{did_you_mean(source, openers)}; there are: {', '.join(openers)}"
        )
    if request.holdout and not formats[source].divided:
        known = [name for name in openers if formats[name].divided]
        raise UserError(
            f"data.holdout divides data of the source{'s' * (len(known) != 1)} {', '.join(known)}, but '{source}' has "
            f"splits of its own: leave data.holdout out"
        )
    if request.split not in SPLIT_WORDS:
        raise UserError(f"split is '{request.split}', but a source has 'train' and 'eval'")
    return load(openers[source])(request)


def check_root(source: str, root: str, formats: Mapping[str, Format] = FORMATS) -> None:
    """Raises UserError: the data is in a bucket, where its format cannot be read."""
    if source not in formats or not formats[source].in_bucket:
        paths.local(root, "data.root")


def load(function: str) -> Callable[[Any], Any]:
    """Returns the function that "module:function" names. scikit-learn and TFDS take a second or more to import."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)
