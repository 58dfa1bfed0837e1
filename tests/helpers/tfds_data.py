"""TFDS data sets of boxes, written as array_record without TensorFlow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def prepare_tfds(
    root: Path,
    name: str,
    configs: Sequence[str],
    features: dict[str, Any],
    splits: dict[str, list[dict[str, Any]]],
    version: str = "1.0.0",
) -> None:
    """Writes the records of each split as TFDS itself would, images as files in memory."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    parts = {
        "VERSION": tfds.core.Version(version),
        "name": name,
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config) for config in configs],
        "code_path": None,
        "_info": info,
        "_split_generators": lambda self, dl_manager: {split: enumerate(rows) for split, rows in splits.items()},
        "_generate_examples": None,
    }
    base: Any = tfds.core.GeneratorBasedBuilder
    builder = type(base)("Prepared", (base,), parts, skip_registration=True)
    builder(data_dir=str(root), file_format="array_record").download_and_prepare()


def coco_features(names: Sequence[str]) -> dict[str, Any]:
    """As TFDS's coco has them."""
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(
            {
                "id": np.int64,
                "area": np.int64,
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=list(names)),
                "is_crowd": np.bool_,
            }
        ),
    }


def voc_features() -> dict[str, Any]:
    """As TFDS's voc has them."""
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=20)
    return {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/filename": tfds.features.Text(),
        "labels": tfds.features.Sequence(label),
        "labels_no_difficult": tfds.features.Sequence(label),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": label,
                "pose": tfds.features.ClassLabel(num_classes=5),
                "is_truncated": np.bool_,
                "is_difficult": np.bool_,
            }
        ),
    }


def png(size: tuple[int, int]) -> io.BytesIO:
    """A PNG of (height, width)."""
    buffer = io.BytesIO()
    Image.new("RGB", size[::-1]).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
