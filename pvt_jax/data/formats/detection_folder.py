"""What a folder of images with boxes is: its format and its classes. Configs read it, before a model is made."""

import os
from collections.abc import Sequence
from itertools import islice

from pvt_jax.data.files import find_root
from pvt_jax.data.formats.coco.layout import find_annotations
from pvt_jax.data.formats.coco.source import class_names_of_coco
from pvt_jax.data.formats.voc.source import class_names_of_voc
from pvt_jax.data.options import DetectionOptions
from pvt_jax.data.records import Request
from pvt_jax.data.text import escaped, listed
from pvt_jax.errors import UserError

# Entries of a folder that are looked at for a file of a kind; a data set shows it sooner.
_MOST_LOOKED_AT = 100_000


def split_head(argument: str, heads: Sequence[str]) -> tuple[str, str]:
    """Returns the two of "FOLDER,HEAD"; ``argument`` and the first of ``heads`` where it has no head.

    Raises:
        UserError: there is the folder, and what stands after it is no head.
    """
    folder, comma, head = argument.rpartition(",")
    if not comma or os.path.isdir(os.path.expanduser(argument)):
        return argument, heads[0]
    if head.strip() in heads:
        return folder, head.strip()
    if os.path.isdir(os.path.expanduser(folder)):
        raise UserError(
            f"unknown head '{escaped(head.strip())}' after the folder {escaped(folder)}: there may stand "
            f"{', '.join(heads)}, or nothing"
        )
    return argument, heads[0]


def inspect_folder(
    folder: str, source: str = "", train_split: str = "", options: DetectionOptions | None = None
) -> tuple[str, tuple[str, ...]]:
    """Returns the source that reads the folder, "coco" or "voc", and the names of its training half's classes.

    Args:
        folder: of the data set.
        source: its format if that is known, "coco" or "voc".
        train_split: name of the training half; "" for the usual ones.
        options: what a config says of the annotations.

    Raises:
        UserError: it has neither format, or not in a layout that is known and that the options do not describe.
    """
    readers = {"coco": class_names_of_coco, "voc": class_names_of_voc}
    options = options or DetectionOptions(num_classes=0)
    root = find_root(folder, "coco or voc", "images and their annotations")
    request = Request("train", root=root, train_split=train_split, options=options)
    if source:
        if source not in readers:
            raise UserError(f"data.source is '{source}', but a folder is read by coco or voc: leave it out")
        return source, readers[source](request)
    json, xml = _holds(root, ".json"), _holds(root, ".xml")
    if not json and not xml:
        has = listed(sorted(name for name in os.listdir(root) if not name.startswith("."))) or "nothing"
        raise UserError(
            f"{escaped(folder)} has neither annotations in COCO's JSON format nor Pascal VOC's XML files: it holds "
            f"{escaped(has)}; export your labels in one of the two"
        )
    if not json:
        return "voc", class_names_of_voc(request)
    try:
        return "coco", class_names_of_coco(request)
    except UserError as error:
        # JSON files lie about for many reasons, and so do XML files.
        if not xml or options.annotations.lower().endswith(".json"):
            raise
        try:
            return "voc", class_names_of_voc(request)
        except UserError:
            if not _has_coco_file(request):
                raise
        raise error


def _has_coco_file(request: Request) -> bool:
    """Whether a file is where annotations of COCO's format would be, whatever is in it."""
    try:
        find_annotations(request.root, request)
    except UserError:
        return False
    return True


def _holds(root: str, ending: str) -> bool:
    names = (name for _, _, files in os.walk(root) for name in files)
    return any(name.lower().endswith(ending) for name in islice(names, _MOST_LOOKED_AT))
