"""TensorFlow Datasets of images with label maps, as scene_parse150 and oxford_iiit_pet, read without TensorFlow."""

import numpy as np

from pvt_jax.data.formats.cityscapes import cityscapes_labels
from pvt_jax.data.formats.label_sets import LabelSet, find_labels
from pvt_jax.data.formats.tfds.records import (
    TfdsRecords,
    chosen_split,
    data_dir_of,
    import_tfds,
    named_features,
    needed_name,
    open_builder,
)
from pvt_jax.data.records import Request, SegmentationRecord
from pvt_jax.errors import UserError
from pvt_jax.files.headers import Oriented, oriented_sizes
from pvt_jax.messages import did_you_mean

# Names of features, the likelier first.
_IMAGES = ("image", "image_left")
_LABEL_MAPS = ("annotation", "segmentation_label", "segmentation_mask", "label_map", "segmentation", "mask", "label")


class TfdsSegmentationSource(TfdsRecords):
    """Images and label maps of one split, both encoded; ``image`` and ``label_map`` are the names of their features."""

    def __init__(
        self, name: str, split: str, root: str | None, image: str, label_map: str, labels: LabelSet, upright: bool
    ) -> None:
        self._image, self._label_map = image, label_map
        self._upright, self._measured = upright, None
        self.class_names, self.palette, self.encoding = labels.class_names, labels.palette, labels.encoding
        super().__init__(name, split, root, (image, label_map))

    def __getitem__(self, index: int) -> SegmentationRecord:
        record = self.record(index)
        return {"image": record[self._image], "label_map": record[self._label_map]}

    def label_map(self, index: int) -> bytes:
        return self.record(index)[self._label_map]

    def label_name(self, index: int) -> str:
        return f"{self._label_map} of {self.name(index)}"

    def sizes(self) -> np.ndarray:
        """Height and width of every image; reads all records, whole, once."""
        return self._measure().sizes

    def orientations(self) -> np.ndarray:
        return self._measure().orientations

    def _measure(self) -> Oriented:
        if self._measured is None:
            self._measured = oriented_sizes(len(self), lambda index: self.record(index)[self._image], self._upright)
        return self._measured


def open_tfds_segmentation(request: Request) -> TfdsSegmentationSource:
    """Opens a split of a prepared TFDS data set.

    Raises UserError: as ``open_tfds``; also features that are no image and label map.
    """
    name, options = needed_name(request, "label maps", "scene_parse150 or oxford_iiit_pet"), request.options
    data_dir = data_dir_of(request)
    builder = open_builder(name, data_dir)
    tfds = import_tfds()
    features = named_features(builder).items()
    images = sorted(key for key, feature in features if isinstance(feature, tfds.features.Image))
    image = _feature(builder.name, images, options.image_folder, _IMAGES, "image_folder")
    label_map = _feature(builder.name, images, options.label_folder, _LABEL_MAPS, "label_folder")
    if builder.name == "cityscapes":
        labels = cityscapes_labels(options, by_id=True)
    else:
        labels = find_labels(options, reduce_zero_label=builder.name == "scene_parse150")
    chosen = chosen_split(builder, request)
    return TfdsSegmentationSource(name, chosen, data_dir, image, label_map, labels, request.upright)


def _feature(data_set: str, features: list[str], chosen: str, usual: tuple[str, ...], key: str) -> str:
    if chosen and chosen not in features:
        raise UserError(
            f"TFDS data set '{data_set}' has no image feature '{chosen}'{did_you_mean(chosen, features)} to be "
            f"segmentation.{key}; it has {', '.join(features) or 'none'}"
        )
    found = chosen or next((name for name in usual if name in features), "")
    if not found:
        raise UserError(
            f"TFDS data set '{data_set}' is not known to have images with label maps: its image features are "
            f"{', '.join(features) or 'none'}; name one as segmentation.{key}, or choose another data set"
        )
    return found
