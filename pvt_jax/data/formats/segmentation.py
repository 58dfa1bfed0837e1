"""Random-access semantic segmentation sources, read without TensorFlow: images and their label maps.

As in ``formats/__init__.py`` a source is small when pickled, and every record can be named in an error message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from pvt_jax.data.formats import Split, did_you_mean
from pvt_jax.data.formats.class_names import names_file, read_names
from pvt_jax.data.headers import printable
from pvt_jax.data.labels import IGNORE, Colour, LabelEncoding, distinct_colours
from pvt_jax.errors import UserError

# The name of each half in the data set; empty for the usual one.
Splits = dict[Split, str]


class SegmentationRecord(TypedDict):
    """One example: encoded files or arrays, ``image`` uint8 [H, W, 3] and ``label_map`` integer [H, W]."""

    image: bytes | np.ndarray
    label_map: bytes | np.ndarray


@runtime_checkable
class SegmentationSource(Protocol):
    """A picklable sequence of images with label maps. ``str(source)`` says where they come from, in a few words."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def palette(self) -> np.ndarray:
        """Their colours in pictures, uint8 [K, 3]."""
        ...

    @property
    def encoding(self) -> LabelEncoding:
        """How the label maps are to be read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> SegmentationRecord: ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find the image of record ``index``, such as its path."""
        ...

    def label_name(self, index: int, /) -> str:
        """Returns what a person needs to find its label map."""
        ...

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]; (0, 0) for those that are no images."""
        ...


@runtime_checkable
class ReadsLabels(Protocol):
    """A source that can read a label map without its image."""

    def label_map(self, index: int, /) -> bytes | np.ndarray: ...


@dataclass(frozen=True)
class SegmentationOptions:
    """What a config says of a data set; see its section ``segmentation``. Empty means: to be found.

    Attributes:
        num_classes: K, the outputs of the model.
        class_names: K names.
        palette: (red, green, blue) of the K classes, and then of what else RGB-coded label maps have, to be ignored.
        ignore_labels: stored values that are ignored.
        reduce_zero_label: the stored 0 is ignored, too, and v is class v - 1. ADE20K does not ask: it is so.
        image_folder, label_folder: below the root, with {split} where the name of the split goes. For TFDS the names
            of the features.
        image_suffix, label_suffix: what stems end in, such as "_leftImg8bit", and is not part of what they share.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    ignore_labels: tuple[int, ...] = (IGNORE,)
    reduce_zero_label: bool = False
    image_folder: str = ""
    label_folder: str = ""
    image_suffix: str = ""
    label_suffix: str = ""


@dataclass(frozen=True, eq=False)
class LabelSet:
    """The classes of a source: names, colours uint8 [K, 3], and how they are stored."""

    class_names: tuple[str, ...]
    palette: np.ndarray
    encoding: LabelEncoding


def find_labels(
    options: SegmentationOptions,
    root: str = "",
    *,
    known_as: str = "",
    names: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    reduce_zero_label: bool = False,
    mapping: dict[int, int] | None = None,
) -> LabelSet:
    """Returns the classes as ``options`` say, else a file of names in ``root``, else as the data set is known for.

    Args:
        options: what the config says.
        root: where a file of names may lie; "" for nowhere.
        known_as, names, palette: of a data set whose classes are known.
        reduce_zero_label, mapping: see ``LabelEncoding``; besides what the options say, and in place of it.

    Raises:
        UserError: another number of names than ``options.num_classes``, two that are the same, or a file that cannot
            be read.
    """
    count = options.num_classes
    class_names, where = tuple(names), known_as
    if options.class_names:
        # In a config, numbers may be names: digits, for example.
        class_names, where = tuple(map(str, options.class_names)), "segmentation.class_names"
    elif root and (found := names_file(root)):
        class_names, where = read_names(found), found
    if class_names and len(class_names) != count:
        correct = "" if where == known_as else f", or correct {printable(where)}"
        raise UserError(
            f"{printable(where)} has {len(class_names)} classes but model.num_classes is {count}: set "
            f"--config.model.num_classes={len(class_names)}{correct}"
        )
    if same := [label for label, name in enumerate(class_names) if name in class_names[:label]]:
        # Each has a metric of its own, by its name.
        name = class_names[same[0]]
        raise UserError(
            f"{printable(where)} names both class {class_names.index(name)} and class {same[0]} '{name}': give each "
            f"class a name of its own"
        )
    class_names = class_names or tuple(f"class {label}" for label in range(count))
    reduced = reduce_zero_label or (options.reduce_zero_label and mapping is None)
    encoding = LabelEncoding(count, tuple(options.ignore_labels), reduced, mapping, options.palette or None)
    if options.palette or len(palette) == count:
        colours = np.array((options.palette or palette)[:count], np.uint8)
    else:
        colours = distinct_colours(count)
    return LabelSet(class_names, colours, encoding)


def _open_digit_scenes(split: Split, name: str, root: str, splits: Splits, options: SegmentationOptions) -> Any:
    from pvt_jax.data.formats.digits.scenes import DigitScenesSource

    if any(splits.values()):
        raise UserError("the digit_scenes source has one fixed split: leave train_split and eval_split unset")
    return DigitScenesSource(split)


def _open_label_folder(split: Split, name: str, root: str, splits: Splits, options: SegmentationOptions) -> Any:
    from pvt_jax.data.formats.label_folder import open_label_folder

    return open_label_folder(root, split, splits, options)


def _open_ade20k(split: Split, name: str, root: str, splits: Splits, options: SegmentationOptions) -> Any:
    from pvt_jax.data.formats.ade20k import open_ade20k

    return open_ade20k(root, split, splits, options)


def _open_cityscapes(split: Split, name: str, root: str, splits: Splits, options: SegmentationOptions) -> Any:
    from pvt_jax.data.formats.cityscapes import open_cityscapes

    return open_cityscapes(root, split, splits, options)


def _open_tfds(split: Split, name: str, root: str, splits: Splits, options: SegmentationOptions) -> Any:
    from pvt_jax.data.formats.tfds.segmentation import open_tfds_segmentation

    return open_tfds_segmentation(name, split, root, splits, options)


# Each opener imports its module when called, as those of classification do.
_OPENERS: dict[str, Callable[..., SegmentationSource]] = {
    "digit_scenes": _open_digit_scenes,
    "label_folder": _open_label_folder,
    "ade20k": _open_ade20k,
    "cityscapes": _open_cityscapes,
    "tfds": _open_tfds,
}


def open_segmentation_source(
    source: str,
    *,
    split: Split,
    name: str = "",
    root: str = "",
    train_split: str | None = None,
    eval_split: str | None = None,
    options: SegmentationOptions,
) -> SegmentationSource:
    """Opens one half of a segmentation data set.

    Args:
        source: "digit_scenes" (reads no other argument), "label_folder", "ade20k" and "cityscapes" (read ``root``), or
            "tfds" (reads ``name`` and ``root``).
        split: which half, "train" or "eval".
        name: the TFDS name, such as "scene_parse150".
        root: the folder of the data set. tfds: its data_dir, "" for the one TFDS uses by default.
        train_split, eval_split: names of the halves in that data set; empty for the usual ones.
        options: what the config says of the label maps.

    Raises:
        UserError: an unknown source, or data that is missing, incomplete or laid out in another way.
    """
    if source not in _OPENERS:
        known = ", ".join(_OPENERS)
        raise UserError(f"unknown source '{source}' of label maps{did_you_mean(source, _OPENERS)}; there are: {known}")
    return _OPENERS[source](split, name, root, {"train": train_split or "", "eval": eval_split or ""}, options)
