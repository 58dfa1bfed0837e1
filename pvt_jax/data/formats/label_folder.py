"""Images and label maps of the same stem in two parallel trees of folders, in the layouts of ``_LAYOUTS``.

Where both splits are in the same folders, as in Pascal VOC, {split}.txt lists the stems of each.
"""

import operator
import os
from collections.abc import Sequence

import numpy as np

from pvt_jax.data.formats.class_names import VOC_CLASSES
from pvt_jax.data.formats.label_sets import LabelSet, find_labels
from pvt_jax.data.formats.layouts import Found, Layout, Tree, about_place, find_layout, no_layout, split_names
from pvt_jax.data.formats.pairs import Side, find_pairs
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request, SegmentationRecord
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file
from pvt_jax.files.headers import Oriented, oriented_sizes
from pvt_jax.files.kinds import LOSSY, ending_of
from pvt_jax.messages import escaped

_LISTS = ("ImageSets/Segmentation/{split}.txt", "{split}.txt")
# Folders of the images and of the label maps, and the list of stems where these are not split.
_LAYOUTS = (
    Layout("images/{split}", "annotations|labels|masks/{split}"),
    Layout("img_dir/{split}", "ann_dir/{split}"),
    Layout("{split}/images", "{split}/annotations|labels|masks"),
    Layout("{split}", "{split}annot"),
    # Labelme exports NumPy arrays in the folder in which Pascal VOC has label maps.
    Layout("JPEGImages", "SegmentationClassPNG|SegmentationClass", _LISTS[0]),
    Layout("images", "annotations|labels|masks", _LISTS[1]),
)


class LabelFolderSource:
    """Pairs of files, in the order of ``pairs``.

    Args:
        root: what ``str`` returns.
        image_folder, label_folder: what the paths are relative to.
        pairs: the path of each image and of its label map.
        labels: their classes.
        notes: what is known of the folders.
        upright: whether ``sizes`` are those of upright images.
    """

    def __init__(
        self,
        root: str,
        image_folder: str,
        label_folder: str,
        pairs: Sequence[tuple[str, str]],
        labels: LabelSet,
        upright: bool = True,
        notes: Sequence[str] = (),
    ) -> None:
        self._root, self._image_folder, self._label_folder = root, image_folder, label_folder
        self._pairs, self._notes = tuple(pairs), tuple(notes)
        self._upright, self._measured = upright, None
        self.class_names, self.palette, self.encoding = labels.class_names, labels.palette, labels.encoding

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> SegmentationRecord:
        return {"image": read_file(self._paths(index)[0]), "label_map": self.label_map(index)}

    def label_map(self, index: int) -> bytes:
        """Returns the file of a label map, without reading the image."""
        return read_file(self._paths(index)[1])

    def name(self, index: int) -> str:
        """Returns the path of the image of record ``index``."""
        return escaped(self._paths(index)[0])

    def path(self, index: int) -> str:
        """Returns the path of that image as the system takes it."""
        return self._paths(index)[0]

    def label_name(self, index: int) -> str:
        """Returns the path of its label map."""
        return escaped(self._paths(index)[1])

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the folders, such as files that are not read."""
        return self._notes

    def sizes(self) -> np.ndarray:
        return self._measure().sizes

    def orientations(self) -> np.ndarray:
        return self._measure().orientations

    def _measure(self) -> Oriented:
        if self._measured is None:
            self._measured = oriented_sizes(len(self), lambda index: self._paths(index)[0], self._upright)
        return self._measured

    def __str__(self) -> str:
        return escaped(self._root)

    def _paths(self, index: int) -> tuple[str, str]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self._image_folder}")
        image, label_map = self._pairs[index]
        return os.path.join(self._image_folder, image), os.path.join(self._label_folder, label_map)


def open_label_folder(request: Request) -> LabelFolderSource:
    """Opens the images and label maps of one split.

    Raises UserError: a folder that is missing, empty, unreadable or laid out in another way; images without label maps,
    label maps without images; another number of classes than the model has.
    """
    options: LabelMapOptions = request.options
    root = find_root(request.root, "label_folder", "images and label maps")
    found = _find(root, request)
    is_voc = os.path.basename(found[1]).startswith("SegmentationClass") and options.num_classes == len(VOC_CLASSES)
    labels = find_labels(options, root, known_as="Pascal VOC", names=VOC_CLASSES if is_voc else ())
    notes, suffixes = about_place(Tree(root), found, request), (options.image_suffix, options.label_suffix)
    return open_pairs(root, found, labels, request.upright, *suffixes, notes=notes)


def open_pairs(
    root: str,
    found: Found,
    labels: LabelSet,
    upright: bool,
    image_suffix: str = "",
    label_suffix: str = "",
    *,
    tell: bool = True,
    notes: Sequence[str] = (),
) -> LabelFolderSource:
    """Opens the pairs of files in a layout of two folders, and perhaps a list of stems.

    Unless ``tell`` is False, what else is in the folders is noted, behind ``notes``.
    """
    image_folder, label_folder, *stems = (places[0] for places in found.places)
    images = Side(image_folder, "images", "segmentation.image_suffix", image_suffix)
    label_maps = Side(label_folder, "label maps", "segmentation.label_suffix", label_suffix, "PNG")
    pairs, others = find_pairs(images, label_maps, *stems)
    if lossy := [path for _, path in pairs if ending_of(path) in LOSSY]:
        raise UserError(
            f"{len(lossy):,} label maps in {escaped(label_folder)} are compressed with loss, such as "
            f"{escaped(lossy[0])}, which changes labels: save label maps as PNG"
        )
    notes = [*notes, *others] if tell else notes
    return LabelFolderSource(root, image_folder, label_folder, pairs, labels, upright, notes)


def _find(root: str, request: Request) -> Found:
    """Returns where the images and label maps of the split are, as the config names or in a known layout."""
    named = _named(request.options)
    layouts, tree = named or _LAYOUTS, Tree(root)
    if found := find_layout(tree, layouts, split_names(request), cases=(False,) if named else (False, True)):
        return found
    verb, key = "correct" if named else "set", f"data.{request.split}_split"
    way_out = f"{verb} {key}, or segmentation.image_folder and label_folder, such as 'pictures/{{split}}'"
    raise no_layout(tree, request, "images and label maps", layouts, way_out)


def _named(options: LabelMapOptions) -> tuple[Layout, ...]:
    """Returns the layouts of folders that the config names; none if it names no folder."""
    images, labels = options.image_folder, options.label_folder
    if not images and not labels:
        return ()
    if not images or not labels:
        missing, given = ("image", labels) if labels else ("label", images)
        raise UserError(
            f"segmentation.{missing}_folder is not set, but the other is '{given}': give both folders, or neither"
        )
    if ("{split}" in images) != ("{split}" in labels):
        raise UserError(
            f"only one of segmentation.image_folder '{images}' and label_folder '{labels}' has {{split}} in it: "
            f"give both folders with it, or both without it and lists of stems, {{split}}.txt"
        )
    if "{split}" in images:
        return (Layout(images, labels, as_named=True),)
    return tuple(Layout(images, labels, stems, as_named=True) for stems in _LISTS)
