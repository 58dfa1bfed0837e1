"""Objects as annotations in COCO's format, for sources that are no file of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pvt_jax.data.objects import Objects, run_lengths
from pvt_jax.data.records import DetectionSource


def describe_ground_truth(source: DetectionSource) -> dict[str, Any]:
    """Returns ``source.ground_truth()`` from its objects."""
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


def as_annotations(
    objects: Objects, size: tuple[int, int], image_id: int | str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns the objects of an image of ``size`` as annotations of COCO, without ids of their own."""
    annotations = []
    for n in range(len(objects)):
        left, top, right, bottom = objects.boxes[n].astype(np.float64).tolist()
        annotation = {
            "image_id": image_id,
            "category_id": category_ids[objects.labels[n]],
            "bbox": [left, top, right - left, bottom - top],
            "area": float(objects.areas[n]),
            "iscrowd": int(objects.crowd[n]),
        }
        if objects.masks is not None and (mask := objects.masks[n]) is not None:
            annotation["segmentation"] = run_lengths(mask, size)
        annotations.append(annotation)
    return annotations
