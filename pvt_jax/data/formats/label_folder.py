"""Images and PNG label maps of the same stem in two parallel trees of folders.

These layouts are found by themselves; {split} is train or training, and val, validation or test:

- images/{split} + annotations/{split} (also labels/ or masks/), img_dir/{split} + ann_dir/{split},
  {split}/images + {split}/labels (also annotations/ or masks/), {split} + {split}annot;
- JPEGImages + SegmentationClass (or SegmentationClassPNG) with the stems in ImageSets/Segmentation/{split}.txt, as
  Pascal VOC, and images + annotations (also labels/ or masks/) with the stems in {split}.txt.
"""

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pvt_jax.data.files import find_root, list_folder, read_file, scan_images
from pvt_jax.data.formats.class_names import VOC_CLASSES
from pvt_jax.data.formats.folder import EVAL_FOLDERS
from pvt_jax.data.formats.label_sets import LabelSet, find_labels
from pvt_jax.data.headers import image_sizes
from pvt_jax.data.options import SegmentationOptions
from pvt_jax.data.records import Request, SegmentationRecord
from pvt_jax.data.text import escaped, listed
from pvt_jax.errors import UserError

_LOSSY = ("jpg", "jpeg", "webp")
_LABELS = ("annotations", "labels", "masks")
_LISTS = ("ImageSets/Segmentation/{split}.txt", "{split}.txt")


@dataclass(frozen=True)
class Layout:
    """Where images and label maps are, below the root; and the list of stems where the folders are not split."""

    images: str
    labels: str
    stems: str = ""

    def of(self, split: str) -> "Layout":
        return Layout(*(path.replace("{split}", split) for path in (self.images, self.labels, self.stems)))

    def is_in(self, root: str) -> bool:
        has_folders = all(os.path.isdir(os.path.join(root, path)) for path in (self.images, self.labels))
        return has_folders and (not self.stems or os.path.isfile(os.path.join(root, self.stems)))

    def __str__(self) -> str:
        return f"{self.images} + {self.labels}" + f" + {self.stems}" * bool(self.stems)


_LAYOUTS = (
    *(Layout("images/{split}", f"{labels}/{{split}}") for labels in _LABELS),
    Layout("img_dir/{split}", "ann_dir/{split}"),
    *(Layout("{split}/images", f"{{split}}/{labels}") for labels in _LABELS),
    Layout("{split}", "{split}annot"),
    # labelme's export has arrays of NumPy in the folder that Pascal VOC has label maps in.
    Layout("JPEGImages", "SegmentationClassPNG", _LISTS[0]),
    Layout("JPEGImages", "SegmentationClass", _LISTS[0]),
    *(Layout("images", labels, _LISTS[1]) for labels in _LABELS),
)


_LAYOUTS_IN_WORDS = (
    "images/{split} + annotations|labels|masks/{split}, img_dir/{split} + ann_dir/{split}, "
    "{split}/images + {split}/annotations|labels|masks, {split} + {split}annot, "
    "JPEGImages + SegmentationClass(PNG) + ImageSets/Segmentation/{split}.txt, "
    "images + annotations|labels|masks + {split}.txt"
)


class LabelFolderSource:
    """Pairs of files, in the order of ``pairs``.

    Args:
        root: what ``str`` says.
        image_folder, label_folder: what the paths are relative to.
        pairs: the path of each image and of its label map.
        labels: their classes.
    """

    def __init__(
        self, root: str, image_folder: str, label_folder: str, pairs: Sequence[tuple[str, str]], labels: LabelSet
    ) -> None:
        self._root, self._image_folder, self._label_folder = root, image_folder, label_folder
        self._pairs = tuple(pairs)
        self._sizes: np.ndarray | None = None
        self.class_names, self.palette, self.encoding = labels.class_names, labels.palette, labels.encoding

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> SegmentationRecord:
        return {"image": read_file(self._path(index)), "label_map": self.label_map(index)}

    def label_map(self, index: int) -> bytes:
        """Returns the file of a label map, without reading the image."""
        return read_file(self._label_path(index))

    def name(self, index: int) -> str:
        """Returns the path of the image of record ``index``."""
        return escaped(self._path(index))

    def label_name(self, index: int) -> str:
        """Returns the path of its label map."""
        return escaped(self._label_path(index))

    def sizes(self) -> np.ndarray:
        if self._sizes is None:
            self._sizes = image_sizes(len(self), self._path)
        return self._sizes

    def __str__(self) -> str:
        return escaped(self._root)

    def _path(self, index: int) -> str:
        return os.path.join(self._image_folder, self._pair(index)[0])

    def _label_path(self, index: int) -> str:
        return os.path.join(self._label_folder, self._pair(index)[1])

    def _pair(self, index: int) -> tuple[str, str]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self._image_folder}")
        return self._pairs[index]


def open_label_folder(request: Request) -> LabelFolderSource:
    """Opens one half of the images and label maps in ``root`` ("~" is expanded).

    Raises:
        UserError: a folder that is missing, empty, unreadable or laid out in another way; images without label maps,
            label maps without images; another number of classes than the model has.
    """
    options: SegmentationOptions = request.options
    root = find_root(request.root, "label_folder", "images and label maps")
    layout = _find_layout(root, request)
    is_voc = layout.labels.startswith("SegmentationClass") and options.num_classes == len(VOC_CLASSES)
    labels = find_labels(options, root, known_as="Pascal VOC", names=VOC_CLASSES if is_voc else ())
    return open_layout(root, layout, labels, options.image_suffix, options.label_suffix)


def open_layout(
    root: str, layout: Layout, labels: LabelSet, image_suffix: str = "", label_suffix: str = ""
) -> LabelFolderSource:
    """Opens the pairs of files in the folders of ``layout``, which has no {split} any more and is in ``root``."""
    image_folder, label_folder = (os.path.normpath(os.path.join(root, p)) for p in (layout.images, layout.labels))
    image_files, label_files = scan_images(image_folder), scan_images(label_folder)
    if image_folder == label_folder:
        # Label maps are what has their suffix, or the PNGs among JPEGs.
        is_label = _ends_in(label_suffix) if label_suffix else _has_extension("png")
        image_files = [path for path in image_files if not is_label(path)]
        label_files = [path for path in label_files if is_label(path)]
    images = _by_stem(image_folder, image_files, image_suffix, "images", "image_suffix")
    found = _by_stem(label_folder, label_files, label_suffix, "label maps", "label_suffix")
    if layout.stems:
        stems = _read_stems(os.path.join(root, layout.stems), images)
    else:
        stems = sorted(images)
        _check_all_paired(found, images, "label maps", "image", label_folder, image_folder)
    _check_all_paired(stems, found, "images", "label map", image_folder, label_folder)
    if lossy := [stem for stem in stems if found[stem].rpartition(".")[2].lower() in _LOSSY]:
        raise UserError(
            f"{len(lossy):,} label maps in {escaped(label_folder)} are compressed with loss, such as "
            f"{escaped(found[lossy[0]])}, which changes labels: save label maps as PNG"
        )
    pairs = [(images[stem], found[stem]) for stem in stems]
    return LabelFolderSource(root, image_folder, label_folder, pairs, labels)


def _find_layout(root: str, request: Request) -> Layout:
    """Returns where the images and label maps of ``split`` are, with its name in place of {split}."""
    options = request.options
    candidates = _candidates(root, options)
    names = _split_names(request)
    places = [candidate.of(name) for candidate in candidates for name in names]
    if found := next((place for place in places if place.is_in(root)), None):
        return found
    half, key = {"train": ("training", "train_split"), "eval": ("evaluation", "eval_split")}[request.split]
    below = sorted(list_folder(root)[1])
    looked_for = ", ".join(map(str, candidates)) if options.image_folder else _LAYOUTS_IN_WORDS
    verb = "correct" if options.image_folder else "set"
    way_out = f"{verb} data.{key}, or segmentation.image_folder and label_folder, such as 'pictures/{{split}}'"
    # Archives often unpack into a folder of their own.
    nested = [name for name in below if any(place.is_in(os.path.join(root, name)) for place in places)]
    if len(nested) == 1:
        way_out = f"did you mean --config.data.root={os.path.join(root, nested[0])}?"
    raise UserError(
        escaped(
            f"no {half} images and label maps in {root}: looked for {looked_for}, with {' or '.join(names)} for "
            f"{{split}}; it holds {listed(below) or 'no folder'}; {way_out}"
        )
    )


def _candidates(root: str, options: SegmentationOptions) -> Sequence[Layout]:
    images, labels = options.image_folder, options.label_folder
    if not images and not labels:
        return _LAYOUTS
    if not images or not labels:
        missing, given = ("image", labels) if labels else ("label", images)
        raise UserError(f"segmentation.{missing}_folder is not set beside '{given}': give both folders, or neither")
    if ("{split}" in images) != ("{split}" in labels):
        raise UserError(
            f"only one of segmentation.image_folder '{images}' and label_folder '{labels}' has {{split}} in it: "
            f"give both folders with it, or both without it and lists of stems, {{split}}.txt"
        )
    return [Layout(images, labels)] if "{split}" in images else [Layout(images, labels, stems) for stems in _LISTS]


def _split_names(request: Request) -> Sequence[str]:
    if request.split_name:
        return (request.split_name,)
    return ("train", "training") if request.split == "train" else EVAL_FOLDERS


def _ends_in(suffix: str) -> Callable[[str], bool]:
    return lambda path: os.path.splitext(path)[0].endswith(suffix)


def _has_extension(extension: str) -> Callable[[str], bool]:
    return lambda path: path.lower().endswith(f".{extension}")


def _by_stem(folder: str, paths: Sequence[str], suffix: str, what: str, key: str) -> dict[str, str]:
    """Returns the path of each stem, without ``suffix``, among those that end in it."""
    found: dict[str, str] = {}
    for path in filter(_ends_in(suffix), paths):
        stem = os.path.splitext(path)[0].removesuffix(suffix)
        if stem in found:
            raise UserError(
                f"{escaped(os.path.join(folder, path))} and {escaped(found[stem])} have the same stem: remove one "
                f"of the two {what}, or set segmentation.{key}"
            )
        found[stem] = path
    if not found:
        ending = f" whose stems end in '{suffix}'" if suffix else ""
        others = f"; it has {len(paths):,} others, such as {paths[0]}: correct segmentation.{key}" if paths else ""
        raise UserError(escaped(f"no {what}{ending} in {folder}{others or ': put them there, as PNG or JPEG files'}"))
    return found


def _check_all_paired(
    stems: Sequence[str] | dict[str, str],
    others: dict[str, str],
    what: str,
    missing: str,
    folder: str,
    other_folder: str,
) -> None:
    """Raises UserError unless each of ``stems`` is among ``others``."""
    alone = sorted(set(stems) - others.keys())
    if not alone:
        return
    way_out = "add what is missing, or remove the rest"
    if len(alone) == len(stems):
        way_out = (
            f"{next(iter(others.values()))} is one of those there; if stems end differently, set "
            f"segmentation.image_suffix and label_suffix to their ends"
        )
    raise UserError(
        escaped(
            f"{len(alone):,} of {len(stems):,} {what} in {folder} have no {missing} of the same stem in "
            f"{other_folder}, such as '{alone[0]}': {way_out}"
        )
    )


def _read_stems(path: str, images: dict[str, str]) -> list[str]:
    """Returns the stems in a list, a line each; what may follow a stem after a space is not read."""
    with open(path, "rb") as file:
        lines = [os.fsdecode(line.strip()) for line in file if line.strip()]
    stems = []
    for line in lines:
        word = line.split()[0]
        known = (line, os.path.splitext(line)[0], word, os.path.splitext(word)[0])
        stem = next((stem for stem in known if stem in images), None)
        if stem is None:
            raise UserError(
                escaped(
                    f"{path} names '{line}', but there is no such image: write the path of each image below its "
                    f"folder, without its extension, such as '{next(iter(images))}'"
                )
            )
        stems.append(stem)
    if not stems:
        raise UserError(f"{escaped(path)} is empty: write the path of each image below its folder, a line each")
    return stems
