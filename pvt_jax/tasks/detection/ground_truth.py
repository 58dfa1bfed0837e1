"""The annotations of a data set as COCO's evaluation takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pvt_jax.data.objects import Objects, run_lengths
from pvt_jax.tasks.detection.source import DetectionSource, HasAnnotations


def ground_truth(source: DetectionSource) -> dict[str, Any]:
    """Returns all annotations in COCO's format: "images", "annotations" and "categories".

    Image ids are those of ``source.image_id``, category ids those of ``source.category_ids``; annotations count from 1,
    because pycocotools takes 0 for none.
    """
    image_ids, sizes = [source.image_id(index) for index in range(len(source))], source.sizes().tolist()
    if isinstance(source, HasAnnotations):
        annotations = source.annotations()
    else:
        annotations = [
            annotation
            for index, image_id in enumerate(image_ids)
            for annotation in as_annotations(source.objects(index), tuple(sizes[index]), image_id, source.category_ids)
        ]
    for number, annotation in enumerate(annotations, start=1):
        annotation.setdefault("id", number)
    return {
        "images": [
            {"id": image_id, "file_name": source.name(index), "height": height, "width": width}
            for index, (image_id, (height, width)) in enumerate(zip(image_ids, sizes, strict=True))
        ],
        "annotations": annotations,
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(source.category_ids, source.class_names, strict=True)
        ],
    }


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
