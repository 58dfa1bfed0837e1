"""Random-access sources for detection, read without TensorFlow: images with boxes, classes and masks of their objects.

As in ``formats/__init__.py`` a source is small when pickled, and every record can be named in an error message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pvt_jax.data.formats import Split, did_you_mean
from pvt_jax.data.formats.folder import listed
from pvt_jax.data.headers import printable
from pvt_jax.data.objects import Objects, as_annotations
from pvt_jax.errors import UserError

# The name of each half in the data set; empty for the usual one.
Splits = dict[Split, str]
HALVES: dict[Split, str] = {"train": "training", "eval": "evaluation"}
# An encoded file, or uint8 [H, W, 3].
Image = bytes | np.ndarray


@runtime_checkable
class DetectionSource(Protocol):
    """A picklable sequence of images with objects. ``str(source)`` says where they come from, in a few words."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """What the data set, and a file of results, call class 0 … K-1."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image, Objects]: ...

    def record(self, index: int, /) -> tuple[Image, Objects]:
        """Returns the image and the objects of record ``index``, in one go; so does ``source[index]``."""
        ...

    def image(self, index: int, /) -> Image:
        """Returns the image alone."""
        ...

    def objects(self, index: int, /) -> Objects:
        """Returns the objects alone, without decoding the image."""
        ...

    def masks(self, index: int, objects: Objects, /) -> list[np.ndarray]:
        """Returns the masks of ``objects``, which are of record ``index``: each uint8 [H, W], 0 or 1."""
        ...

    def without_masks(self) -> int:
        """How many objects have no mask, crowd regions aside, where others have one."""
        ...

    def image_id(self, index: int, /) -> int | str:
        """Returns what the data set, and a file of results, call the image."""
        ...

    def name(self, index: int, /) -> str:
        """Returns what a person needs to find the image of record ``index``, such as its path."""
        ...

    def sizes(self) -> np.ndarray:
        """Height and width of every image, int32 [len(self), 2]; (0, 0) for those that are no images."""
        ...

    def counts(self) -> np.ndarray:
        """How many objects each image has, crowd regions aside, int32 [len(self)]. Where scenes are made, slow."""
        ...

    def most_objects(self) -> int:
        """No image has more objects than this, crowd regions aside. Always fast."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the annotations, such as how many boxes were clipped: a few words each."""
        ...

    def ground_truth(self) -> dict[str, Any]:
        """Returns all annotations as COCO has them: "images", "annotations" and "categories".

        Ids of images are those of ``image_id``, of categories those of ``category_ids``; annotations are numbered from
        1, because pycocotools takes 0 for none. What a file says stays as it says it: boxes are not clipped, and none
        is left out, so that the evaluation is that of pycocotools on the file.
        """
        ...


@runtime_checkable
class HasFiles(Protocol):
    """A source whose images are files."""

    def path(self, index: int, /) -> str:
        """Returns the path of an image as the system takes it."""
        ...


@dataclass(frozen=True)
class DetectionOptions:
    """What a config says of a data set; see its section ``detection``. Empty means: to be found.

    Attributes:
        num_classes: K, as many as the model detects.
        class_names: K names, in the order of their numbers; objects of other classes are left out.
        annotations: path of the COCO JSON, or of the folder of XML files, below the root, with {split} in it.
        image_folder: path of the images below the root, with {split} where the name of the split goes.
        with_masks: whether masks are wanted.
        keep_empty: whether images without objects are trained on.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    annotations: str = ""
    image_folder: str = ""
    with_masks: bool = False
    keep_empty: bool = False


def read_file(path: str) -> bytes:
    """Returns the bytes of a file; raises UserError if they cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        way_out = "check its permissions" if isinstance(error, PermissionError) else "put it back, or start again"
        raise UserError(f"cannot read {printable(path)} ({error.strerror}): {way_out}") from error


def printable_name(name: str) -> str:
    """Returns a name as it can be written to any log: a lone surrogate, as of no UTF-8, and line ends are escaped."""
    return printable(name.encode("utf-8", "backslashreplace").decode())


def check_classes(where: str, names: Sequence[str], num_classes: int, chosen: Sequence[str]) -> None:
    """Raises UserError unless there are as many ``names`` as the model has classes, each its own."""
    known = "detection.class_names" if chosen else where
    if same := [name for label, name in enumerate(names) if name in names[:label]]:
        raise UserError(f"{known} has '{same[0]}' twice: give each class a name of its own")
    if len(names) != num_classes:
        raise UserError(
            f"{known} has {len(names):,} class{'es' * (len(names) != 1)} but model.num_classes is {num_classes}: set "
            f"--config.model.num_classes={len(names)}"
        )


def choose_classes(where: str, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Returns the places of the ``wanted`` among ``names``, all of them if none is wanted; UserError for an unknown."""
    for name in map(str, wanted):
        if name not in names:
            raise UserError(
                f"detection.class_names has '{name}', which {where} has not{did_you_mean(name, names)}: it has "
                f"{listed(names, 20)}"
            )
    return [names.index(str(name)) for name in wanted] or list(range(len(names)))


def describe_ground_truth(source: DetectionSource) -> dict[str, Any]:
    """Returns ``source.ground_truth()`` from its objects, for sources that are no file of COCO's format."""
    sizes = source.sizes().tolist()
    images, annotations = [], []
    for index, (height, width) in enumerate(sizes):
        image_id = source.image_id(index)
        images.append({"id": image_id, "file_name": source.name(index), "height": height, "width": width})
        annotations += as_annotations(source.objects(index), (height, width), image_id, source.category_ids)
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    names = zip(source.category_ids, source.class_names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}


def _open_digit_scenes(split: Split, name: str, root: str, splits: Splits, options: DetectionOptions) -> Any:
    from pvt_jax.data.formats.digits.objects import DigitObjectsSource

    if any(splits.values()):
        raise UserError("the digit_scenes source has one fixed split: leave train_split and eval_split unset")
    return DigitObjectsSource(split)


def _open_coco(split: Split, name: str, root: str, splits: Splits, options: DetectionOptions) -> Any:
    from pvt_jax.data.formats.coco.source import open_coco

    return open_coco(root, split, splits, options)


def _open_voc(split: Split, name: str, root: str, splits: Splits, options: DetectionOptions) -> Any:
    from pvt_jax.data.formats.voc.source import open_voc

    return open_voc(root, split, splits, options)


def _open_tfds(split: Split, name: str, root: str, splits: Splits, options: DetectionOptions) -> Any:
    from pvt_jax.data.formats.tfds.detection import open_tfds_detection

    return open_tfds_detection(name, split, root, splits, options)


# Each opener imports its module when called, as those of classification do.
_OPENERS: dict[str, Callable[..., DetectionSource]] = {
    "digit_scenes": _open_digit_scenes,
    "coco": _open_coco,
    "voc": _open_voc,
    "tfds": _open_tfds,
}


def open_detection_source(
    source: str,
    *,
    split: Split,
    name: str = "",
    root: str = "",
    train_split: str | None = None,
    eval_split: str | None = None,
    options: DetectionOptions,
) -> DetectionSource:
    """Opens one half of a detection data set.

    Args:
        source: "digit_scenes" (reads no other argument), "coco" and "voc" (read ``root``), or "tfds" (reads ``name``
            and ``root``).
        split: which half, "train" or "eval".
        name: the TFDS name, such as "voc/2007".
        root: the folder of the data set. tfds: its data_dir, "" for the one TFDS uses by default.
        train_split, eval_split: names of the halves in that data set; empty for the usual ones.
        options: what the config says of the annotations.

    Raises:
        UserError: an unknown source, or data that is missing, incomplete, wrong or laid out in another way.
    """
    if source not in _OPENERS:
        known = ", ".join(_OPENERS)
        raise UserError(f"unknown source '{source}' of objects{did_you_mean(source, _OPENERS)}; there are: {known}")
    return _OPENERS[source](split, name, root, {"train": train_split or "", "eval": eval_split or ""}, options)
