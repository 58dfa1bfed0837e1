"""TensorFlow Datasets of images with boxes, as coco and voc, read without TensorFlow."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import check_classes, choose_classes
from pvt_jax.data.formats.object_table import RawObjects, TabledSource, select, tabulate
from pvt_jax.data.formats.tfds.records import (
    TfdsRecords,
    chosen_split,
    data_dir_of,
    import_tfds,
    named_features,
    needed_name,
    open_builder,
    prepare_command,
)
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.headers import THREADS, image_header

# Names of features.
_CROWD = ("is_crowd", "is_difficult")
_IMAGE_IDS = ("image/id", "image/filename")
# Unused category ids of COCO up to 90; TFDS numbers the 80 others from 0.
_NOT_OF_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class TfdsDetectionSource(TabledSource):
    """Images and boxes of some records, ``numbers``, of a split; the rest is as of ``TabledSource``."""

    def __init__(self, records: TfdsRecords, image: str, numbers: list[int], *rest: Any) -> None:
        super().__init__(str(records), *rest)
        self._records, self._image, self._numbers = records, image, tuple(numbers)

    def image(self, index: int) -> bytes:
        return self._records.record(self._numbers[self._number(index)])[self._image]

    def name(self, index: int) -> str:
        return self._records.name(self._numbers[self._number(index)])


def open_tfds_detection(request: Request) -> TfdsDetectionSource:
    """Opens a split of a prepared TFDS data set, and reads all its records once for their boxes.

    Difficult objects are taken for crowd regions. Raises UserError: as ``open_tfds``; also features that are no boxes,
    other classes than the model's, wrong boxes.
    """
    name, options = needed_name(request, "boxes", "voc/2007 or coco/2017"), request.options
    data_dir = data_dir_of(request)
    builder, name = _open_builder(name, data_dir)
    image, objects, label = _features(builder)
    known = tuple(label.names)
    places = choose_classes(f"TFDS {name}", known, options.class_names)
    class_names = tuple(known[place] for place in places)
    check_classes(f"TFDS {name}", class_names, options.num_classes, options.class_names)
    ids = list(range(1, 1 + len(known)))
    if builder.name == "coco" and len(known) == 80:
        ids = [number for number in range(1, 91) if number not in _NOT_OF_COCO]
    chosen = chosen_split(builder, request)
    records = TfdsRecords(name, chosen, data_dir, (image,))

    def read(number: int) -> tuple[Any, tuple[int, int], dict[str, np.ndarray]]:
        record = records.record(number)
        image_id = next((record[key] for key in _IMAGE_IDS if key in record), number)
        return _plain(image_id), image_header(record[image]).size(request.upright), record[objects]

    with ThreadPoolExecutor(THREADS) as pool:
        image_ids, header, found = zip(*pool.map(read, range(len(records))), strict=True)
    sizes = np.array(header, np.int32).reshape(-1, 2)
    raw = _raw_objects(found, sizes, places)
    used = raw.labels >= 0
    where = f"TFDS {name}/{chosen}"
    raw = raw.take(used)

    def first(number: int) -> str:
        box = ", ".join(f"{value:g}" for value in raw.boxes[number])
        return f"[{box}] (x1, y1, x2, y2) in {records.name(int(raw.owners[number]))}"

    table = tabulate(raw, sizes, first, where)
    left = int((~used).sum())
    table, images = select(table, where, request, [f"{left:,} objects of other classes are left out"] * bool(left))
    category_ids = tuple(ids[place] for place in places)
    return TfdsDetectionSource(
        records, image, images, table, class_names, category_ids, [image_ids[number] for number in images]
    )


def _open_builder(name: str, data_dir: str | None) -> tuple[Any, str]:
    """Returns the builder of a data set, and the name by which TFDS opens it."""
    try:
        return open_builder(name, data_dir), name
    except UserError as error:
        if not isinstance(error.__cause__, ImportError) or ":" in name:
            raise
    # TFDS's code of coco needs TensorFlow; for a given version it reads prepared data without it.
    any_version = f"{name}:*.*.*"
    try:
        return open_builder(any_version, data_dir), any_version
    except UserError as error:
        raise UserError(
            f"TFDS data set '{name}' is not prepared in {data_dir or 'the default data_dir'}: prepare it once with "
            f"`{prepare_command(name, data_dir)}`"
        ) from error


def _features(builder: Any) -> tuple[str, str, Any]:
    """Returns the names of the features that are images and objects, and the feature of the latters' classes."""
    tfds = import_tfds()
    features = named_features(builder)
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    for key, feature in features.items():
        inner = dict(getattr(getattr(feature, "feature", None), "items", dict)())
        has_boxes = isinstance(inner.get("bbox"), tfds.features.BBoxFeature)
        if has_boxes and isinstance(inner.get("label"), tfds.features.ClassLabel) and images:
            return ("image" if "image" in images else images[0]), key, inner["label"]
    raise UserError(
        f"TFDS data set '{builder.name}' is not known to have images with boxes: its features are "
        f"{', '.join(sorted(features)) or 'none'}, and none is a sequence with bbox and label; choose another data set"
    )


def _raw_objects(found: tuple[dict[str, Any], ...], sizes: np.ndarray, places: list[int]) -> RawObjects:
    """Joins the objects of all records; labels of classes that are not among ``places`` are -1."""
    counts = [len(objects["label"]) for objects in found]
    owners = np.repeat(np.arange(len(found)), counts)

    def joined(key: str, default: Any, kind: Any, width: tuple[int, ...] = ()) -> np.ndarray:
        # For no objects TFDS returns an array of another shape.
        parts = [np.asarray(objects[key], kind).reshape(-1, *width) for objects in found if key in objects]
        return np.concatenate(parts) if parts else np.full((len(owners), *width), default, kind)

    ymin, xmin, ymax, xmax = joined("bbox", 0, np.float64, (4,)).T
    height, width = sizes[owners].T
    labels = np.full(1 + joined("label", 0, np.int64).max(initial=0), -1)
    labels = np.concatenate([labels, np.full(max(0, 1 + max(places) - len(labels)), -1)])
    labels[places] = np.arange(len(places))
    crowd = np.any([joined(key, False, bool) for key in _CROWD], axis=0)
    return RawObjects(
        owners=owners,
        boxes=np.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=1),
        labels=labels[joined("label", 0, np.int64)],
        crowd=crowd,
        areas=joined("area", np.nan, np.float64),
        ids=joined("id", 0, np.int64) if "id" in found[0] else np.arange(len(owners)),
    )


def _plain(image_id: Any) -> int | str:
    if isinstance(image_id, bytes):
        return os.path.splitext(os.fsdecode(image_id))[0]
    return image_id if isinstance(image_id, str) else int(image_id)
