"""Images and label maps of the same stem in two parallel trees of folders, or in one, in the layouts of ``_LAYOUTS``.

Where both splits are in the same folders, as in Pascal VOC, {split}.txt lists the stems of each; without lists,
``data.holdout`` divides the images. In one tree, label maps are the PNGs beside images of other formats, or end in one
of ``_SUFFIXES``.
"""

import operator
import os
from collections.abc import Sequence

import numpy as np

from pvt_jax.data.formats.class_names import VOC_CLASSES
from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.formats.label_sets import LabelSet, find_labels
from pvt_jax.data.formats.layouts import Found, Layout, Tree, about_place, find_data, no_layout
from pvt_jax.data.formats.pairs import Side, find_pairs
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request, SegmentationRecord
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, read_file, scan_images
from pvt_jax.files.headers import Oriented, oriented_sizes
from pvt_jax.files.kinds import LOSSY, ending_of, stem_of
from pvt_jax.files.spellings import composed
from pvt_jax.messages import escaped

_LISTS = ("ImageSets/Segmentation/{split}.txt", "{split}.txt")
# Folders of the images and of the label maps, and the list of stems where these are not split.
_LAYOUTS = (
    Layout("images/{split}", "annotations|labels|masks/{split}"),
    Layout("img_dir/{split}", "ann_dir/{split}"),
    Layout("{split}/images", "{split}/annotations|labels|masks"),
    Layout("{split}", "{split}annot"),
    # CVAT, an export for each split.
    Layout("{split}/JPEGImages", "{split}/SegmentationClassPNG|SegmentationClass"),
    # Labelme exports NumPy arrays in the folder in which Pascal VOC has label maps.
    Layout("JPEGImages", "SegmentationClassPNG|SegmentationClass", _LISTS[0]),
    Layout("images", "annotations|labels|masks", _LISTS[1]),
    # Roboflow.
    Layout("{split}", "{split}"),
)
# Data that is not divided.
_WHOLE = (
    # CVAT.
    Layout("JPEGImages", "SegmentationClassPNG|SegmentationClass", "ImageSets/Segmentation/default.txt"),
    Layout(
        "images|image|imgs|img|JPEGImages|photos|original_images|training_images|train_images",
        "annotations|annotation|labels|label|masks|mask|SegmentationClassPNG|SegmentationClass|segmentations|"
        "ground_truth|groundtruth|gt",
    ),
    Layout("", ""),
)
# What the stems of label maps end in, if the config does not say it and those of images end in nothing.
_SUFFIXES = ("_mask", "_masks", "-mask", "_label", "_labels", "_seg", "_segmentation", "_gt", "_L")


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

    def label_map(self, index: int) -> bytes | np.ndarray:
        """Returns the file of a label map, or its values, without reading the image."""
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
    known = request.learned or (VOC_CLASSES if is_voc else ())
    labels = find_labels(options, root, known_as="the run" if request.learned else "Pascal VOC", names=known)
    notes, suffixes = about_place(Tree(root), found, request), (options.image_suffix, options.label_suffix)
    if not any(suffixes) and (suffix := _suffix(found)):
        suffixes = "", suffix
        notes.append(f"label maps are the images that end in {suffix}")
    return open_pairs(root, found, labels, request, *suffixes, notes=notes)


def open_pairs(
    root: str,
    found: Found,
    labels: LabelSet,
    request: Request,
    image_suffix: str = "",
    label_suffix: str = "",
    *,
    tell: bool = True,
    notes: Sequence[str] = (),
) -> LabelFolderSource:
    """Opens the pairs of files in a layout of two folders, or one for both, and perhaps a list of stems.

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
    names = [os.path.relpath(os.path.join(image_folder, image), root) for image, _ in pairs]
    chosen, divided = part_of(names, request, escaped(root))
    pairs = [pair for pair, is_chosen in zip(pairs, chosen.tolist(), strict=True) if is_chosen]
    is_told = tell and (request.split == "train" or not request.holdout)
    notes = [*notes, *others] if is_told else []
    return LabelFolderSource(root, image_folder, label_folder, pairs, labels, request.upright, [*notes, *divided])


def _find(root: str, request: Request) -> Found:
    """Returns where the images and label maps of the split are, as the config names or in a known layout."""
    named, tree = _named(request.options), Tree(root)
    layouts, whole = named or (_LAYOUTS, _WHOLE)
    found = find_data(tree, request, layouts, whole, _is_apart_or_paired, (False,) if named else (False, True))
    if found:
        return found
    verb, key = "correct" if named else "set", f"data.{request.split}_split"
    way_out = f"{verb} {key}, or segmentation.image_folder and label_folder, such as 'pictures/{{split}}'"
    what = "images and label maps"
    raise no_layout(tree, request, what, layouts, way_out, whole=whole, accepts=_is_apart_or_paired)


def _is_apart_or_paired(found: Found) -> bool:
    """Whether images and label maps are in folders of their own, or in one in which some belong together."""
    return len(set(found.places)) > 1 or bool(_suffix(found)) or _has_pairs(found[0])


def _has_pairs(folder: str) -> bool:
    """Whether a PNG is beside an image of another format with its stem."""
    paths = scan_images(folder).paths
    maps = {composed(stem_of(path)) for path in paths if path.lower().endswith(".png")}
    return any(composed(stem_of(path)) in maps for path in paths if not path.lower().endswith(".png"))


def _suffix(found: Found) -> str:
    """Returns what the stems of label maps end in, beyond those of images; "" if nothing that is known."""
    stems, maps = (_stems(places[0]) for places in found.places[:2])
    if found[0] != found[1] and not stems.isdisjoint(maps):
        return ""
    pairs = ((suffix, (stem.removesuffix(suffix) for stem in maps if stem.endswith(suffix))) for suffix in _SUFFIXES)
    return next((suffix for suffix, bare in pairs if any(stem in stems for stem in bare)), "")


def _stems(folder: str) -> set[str]:
    return {composed(stem_of(path)) for path in scan_images(folder).paths}


def _named(options: LabelMapOptions) -> tuple[tuple[Layout, ...], tuple[Layout, ...]] | None:
    """Returns the layouts of folders that the config names, and of undivided ones; None if it names no folder."""
    images, labels = options.image_folder, options.label_folder
    if not images and not labels:
        return None
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
        return (Layout(images, labels, as_named=True),), ()
    whole = (Layout(images, labels, as_named=True),)
    return tuple(Layout(images, labels, stems, as_named=True) for stems in _LISTS), whole
