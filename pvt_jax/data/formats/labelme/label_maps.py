"""Images with label maps that are drawn from shapes of labelme, as its labelme2voc.py draws them.

Class 0 is ``_background_``, that of pixels without a shape; later shapes cover earlier ones; pixels of ``__ignore__``
are 255. Images without a JSON are not labelled and left out; one whose JSON has no shapes is background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import NO_OBJECTS, UNLABELLED, names_file, read_names, without_ignored
from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.formats.label_folder import LabelFolderSource
from pvt_jax.data.formats.label_sets import find_labels
from pvt_jax.data.formats.labelme.annotations import Annotations, read_annotations, training_labels
from pvt_jax.data.formats.labelme.json_file import read_labelme
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.options import IGNORE, LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file
from pvt_jax.files.headers import image_header
from pvt_jax.messages import did_you_mean, escaped, escaped_name, listed, plural

_IGNORED, _BACKGROUND, *_ = NO_OBJECTS


class LabelmeMaps(LabelFolderSource):
    """The labelled images of a split. ``values`` are what label maps have for each label; see ``LabelFolderSource``."""

    def __init__(self, values: Mapping[str, int], *files: Any) -> None:
        super().__init__(*files)
        self._values = dict(values)

    def label_map(self, index: int) -> np.ndarray:
        """Returns uint8 [h, w]: 0 for the background, 255 for pixels to ignore."""
        image, path = self._paths(index)
        file = read_labelme(read_file(path), path, Problems(path))
        if file is None or not {label for label, _ in file.drawn} <= self._values.keys():
            raise UserError(f"{escaped(path)} was changed since the run started: put it back, or start again")
        size = file.size if all(file.size) else image_header(image).size(self._upright)
        return file.label_map(self._values, (size[0], size[1]))


def open_labelme_maps(request: Request) -> LabelmeMaps:
    """Opens a split of a data set of labelme as label maps.

    Raises UserError: a folder that is missing, empty or laid out in another way; files or images that are missing or
    not what they must be; an unknown label; another number of classes than the model has.
    """
    options: LabelMapOptions = request.options
    root = find_root(request.root, "labelme", "images and JSON files of labelme")
    request = replace(request, root=root)
    found = read_annotations(request)
    names, known_as = _find_classes(found, request)
    named = replace(options, class_names=names) if options.class_names else options
    labels = find_labels(named, known_as=known_as, names=names)
    values = {name: value for value, name in enumerate(names)}
    values |= dict.fromkeys(NO_OBJECTS, 0) | {_IGNORED: IGNORE}
    drawn = {label for file in found.files for label, _ in file.drawn}
    if unknown := sorted(drawn - values.keys()):
        raise UserError(
            f"shapes in {escaped(found.where)} have {plural(len(unknown), 'unknown label')}, "
            f"{listed([escaped_name(label) for label in unknown])}{did_you_mean(unknown[0], names)}: the classes are "
            f"those of {known_as}; correct them, list all in segmentation.class_names, or call them {_IGNORED}"
        )
    chosen, divided = part_of(found.images, request, escaped(root))
    pairs = [(found.images[number], found.paths[number]) for number in np.flatnonzero(chosen).tolist()]
    notes = [*(found.notes if request.split == "train" or not request.holdout else []), *divided]
    return LabelmeMaps(values, root, root, root, pairs, labels, request.upright, notes)


def class_names_of_labelme_maps(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes; ``num_classes`` is not read. Raises UserError: as ``open_labelme_maps``."""
    names, _ = _find_classes(read_annotations(request), request)
    return without_ignored(names, request.options.reduce_zero_label)


def _find_classes(found: Annotations, request: Request) -> tuple[tuple[str, ...], str]:
    """Returns the names of the classes, that of the background first, and where they are from."""
    options: LabelMapOptions = request.options
    if options.class_names:
        names, known_as = tuple(map(str, options.class_names)), "segmentation.class_names"
    elif path := names_file(request.root):
        names, known_as = read_names(path), escaped(path)
    else:
        names, known_as = training_labels(found, request)
    return names if _has_background(names) else (_BACKGROUND, *names), known_as


def _has_background(names: Sequence[str]) -> bool:
    return bool(names) and names[0].strip("_ ").lower() in ("background", *UNLABELLED)
