"""What a folder of images with boxes is: its format and its classes. Configs read it, before a model is made."""

import os
from itertools import islice

from pvt_jax.data.headers import printable
from pvt_jax.data.sources.coco import class_names_of_coco
from pvt_jax.data.sources.folder import listed
from pvt_jax.data.sources.label_folder import find_root
from pvt_jax.data.sources.voc import class_names_of_voc
from pvt_jax.errors import UserError

# Entries of a folder that are looked at for a file of a kind; a data set shows it sooner.
_MOST_LOOKED_AT = 100_000


def inspect_folder(folder: str) -> tuple[str, tuple[str, ...]]:
    """Returns the source that reads the folder, "coco" or "voc", and the names of its training half's classes.

    Raises:
        UserError: it has neither format, or not in a layout that is known.
    """
    root = find_root(folder, "coco or voc", "images and their annotations")
    json, xml = _holds(root, ".json"), _holds(root, ".xml")
    if not json and not xml:
        has = listed(sorted(name for name in os.listdir(root) if not name.startswith("."))) or "nothing"
        raise UserError(
            f"{printable(folder)} has neither annotations in COCO's JSON format nor Pascal VOC's XML files: it holds "
            f"{printable(has)}; export your labels in one of the two"
        )
    try:
        if json:
            return "coco", class_names_of_coco(root)
    except UserError:
        # JSON files lie about for many reasons.
        if not xml:
            raise
    return "voc", class_names_of_voc(root)


def _holds(root: str, ending: str) -> bool:
    names = (name for _, _, files in os.walk(root) for name in files)
    return any(name.lower().endswith(ending) for name in islice(names, _MOST_LOOKED_AT))
