"""COCO average precision of boxes and masks, and the collected detections that it is computed from."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as run_lengths
from jaxtyping import Float, Integer

from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.instance_masks import paste_and_encode

_Rows = list[dict[str, Any]]
_RANGES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class _Detections:
    """Detections of one image; ``masks`` are the counts of COCO run-length encodings, or None."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[str] | None
    size: tuple[int, int]


class DetectionResults:
    """Detections by image. Each image counts once: later additions are ignored."""

    def __init__(self) -> None:
        self._images: dict[int | str, _Detections] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def add(
        self,
        image_id: int | str,
        boxes: Float[np.ndarray, "n 4"],
        scores: Float[np.ndarray, " n"],
        labels: Integer[np.ndarray, " n"],
        masks: Float[np.ndarray, "n rows columns"] | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """Add the detections of an image; any with a number that is not finite are dropped.

        Args:
          image_id: as in the ground truth.
          boxes: (x1, y1, x2, y2) in pixels of the original image.
          scores: confidences.
          labels: class indices.
          masks: probabilities on a grid that spans the box; pasted into the image and thresholded at 0.5.
          size: (height, width) of the original image; required for masks.
        """
        if image_id in self._images:
            return
        kept = np.isfinite(boxes).all(-1) & np.isfinite(scores)
        if masks is not None:
            kept &= np.isfinite(masks).all((1, 2))
        height, width = int(size[0]), int(size[1])
        boxes = boxes[kept].astype(np.float32)
        counts = None
        if masks is not None:
            counts = [pasted["counts"] for pasted in paste_and_encode(masks[kept], boxes, height, width)]
        scores, labels = scores[kept].astype(np.float32), labels[kept].astype(np.int32)
        self._images[image_id] = _Detections(boxes, scores, labels, counts, (height, width))

    def merge(self, other: "DetectionResults") -> None:
        """Add the images of ``other`` that are not here yet."""
        for image_id, found in other._images.items():
            self._images.setdefault(image_id, found)

    def results(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """All detections in COCO's results format: plain Python values, by image id, in the order of ``add``.

        Numbers equal the float32 values that they come from, so that a file of them gives the same AP. ``category_ids``
        are the ground truth's, one a class.
        """
        rows: list[dict[str, Any]] = []
        for image_id in sorted(self._images, key=_rank):
            found = self._images[image_id]
            corners = found.boxes.astype(np.float64)
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
            for i, (box, score, label) in enumerate(
                zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
            ):
                row = {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
                if found.masks:
                    row["segmentation"] = {"size": list(found.size), "counts": found.masks[i]}
                rows.append(row)
        return rows

    def to_bytes(self) -> bytes:
        """Everything as an ``.npz`` file without pickles, for another host."""
        images = list(self._images.values())
        # Encoded masks have at least one character: length 0 means none.
        masks = [mask for found in images for mask in found.masks or [""] * len(found.scores)]
        file = io.BytesIO()
        np.savez_compressed(
            file,
            image_ids=_bytes(json.dumps(list(self._images))),
            sizes=np.array([found.size for found in images], np.int32).reshape(-1, 2),
            counts=np.array([len(found.scores) for found in images], np.int32),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(found.boxes for found in images)]),
            scores=np.concatenate([np.zeros(0, np.float32), *(found.scores for found in images)]),
            labels=np.concatenate([np.zeros(0, np.int32), *(found.labels for found in images)]),
            mask_lengths=np.array([len(mask) for mask in masks], np.int32),
            masks=_bytes("".join(masks)),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "DetectionResults":
        """The inverse of ``to_bytes``."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        text = arrays["masks"].tobytes().decode()
        ends = np.cumsum(arrays["mask_lengths"], dtype=np.int64).tolist()
        masks = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        results, start = cls(), 0
        image_ids = json.loads(arrays["image_ids"].tobytes())
        for image_id, size, count in zip(image_ids, arrays["sizes"].tolist(), arrays["counts"].tolist(), strict=True):
            part = slice(start, start + count)
            boxes, scores, labels = (arrays[name][part] for name in ("boxes", "scores", "labels"))
            own_masks = masks[part] if any(masks[part]) else None
            results._images[image_id] = _Detections(boxes, scores, labels, own_masks, (size[0], size[1]))
            start += count
        return results


def coco_metrics(
    ground_truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], masks: bool, class_names: Mapping[int, str]
) -> dict[str, float]:
    """Average precision and recall as pycocotools computes them, in percent.

    ``AP`` (mean over IoU thresholds 0.50 … 0.95), ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large`` (by
    annotated area: up to 32² pixels, up to 96², above), ``AR`` (at 100 detections per class and image) and
    ``AP/CLASS``; with ``masks`` also those of masks, ``mask_AP`` and so on.

    Area ranges and classes without ground truth are left out, always the same ones for a data set. AP, AP50, AP75 and
    AR are always present, and 0 if there is no object at all.

    For masks, a detection's area range is that of its mask, as in detectron2 and mmdetection. pycocotools uses the box
    if a result has a ``bbox``, too: drop it there to get the same ``mask_AP_small``, ``mask_AP_medium`` and
    ``mask_AP_large``. Raises UserError: a result is for an image that is not in the ground truth, or lacks a box or
    mask.

    Args:
      ground_truth: ``images`` and ``annotations`` as in COCO's files; not changed. Image ids are integers or strings;
        annotation ids do not matter. ``area`` defaults to the box's, ``iscrowd`` to 0, ``segmentation`` to an empty
        mask; None counts as missing.
      results: as from ``DetectionResults.results``; not changed.
      masks: whether to evaluate masks, too.
      class_names: by category id; annotations and results of other categories are ignored.
    """
    numbers = {image["id"]: 1 + number for number, image in enumerate(_by_id(ground_truth["images"]))}
    images = [
        {"id": numbers[image["id"]], "height": image.get("height", 0), "width": image.get("width", 0)}
        for image in _by_id(ground_truth["images"])
    ]
    annotations = [
        annotation
        for annotation in ground_truth["annotations"]
        if annotation["category_id"] in class_names and annotation["image_id"] in numbers
    ]
    # pycocotools marks a match by the annotation's id, where 0 means none: ids are reassigned from 1.
    objects = [_object(number, annotation, numbers, masks) for number, annotation in enumerate(annotations, start=1)]
    results = [result for result in results if result["category_id"] in class_names]
    unknown = next((result["image_id"] for result in results if result["image_id"] not in numbers), None)
    if unknown is not None:
        raise UserError(f"there are results for image {unknown!r}, which is not in the ground truth: use its image ids")

    headline: dict[str, float] = {}
    of_classes: dict[str, float] = {}
    for prefix, kind in (("", "bbox"), ("mask_", "segm"))[: 1 + masks]:
        detections = _detections(results, numbers, kind)
        precision, recall = _evaluated(kind, images, sorted(class_names), objects, detections)
        values = {
            "AP": _mean(precision[..., 0]) or 0.0,
            "AP50": _mean(precision[0, ..., 0]) or 0.0,
            "AP75": _mean(precision[5, ..., 0]) or 0.0,
            **{f"AP_{name}": _mean(precision[..., i]) for i, name in enumerate(_RANGES) if i},
            "AR": _mean(recall[..., 0]) or 0.0,
        }
        headline |= {prefix + name: value for name, value in values.items() if value is not None}
        for k, category in enumerate(sorted(class_names)):
            value = _mean(precision[:, :, k, 0])
            if value is not None:
                of_classes[f"{prefix}AP/{class_names[category]}"] = value
    return headline | of_classes


def _evaluated(
    kind: str, images: _Rows, category_ids: list[int], objects: _Rows, detections: _Rows
) -> tuple[Float[np.ndarray, "10 101 k 4"], Float[np.ndarray, "10 k 4"]]:
    """(precision by IoU, recall, class and area range; recall by IoU, class and area range); -1 without objects."""

    def silent(*_: Any) -> None: ...

    categories = [{"id": category, "name": str(category)} for category in category_ids]
    truth, found = (
        COCO({"images": images, "categories": categories, "annotations": rows}, print_function=silent)
        for rows in (objects, detections)
    )
    evaluator: Any = COCOeval_faster(truth, found, kind, print_function=silent)  # pyright: ignore[reportArgumentType]
    evaluator.evaluate()
    evaluator.accumulate()
    # The last of three limits: 100 detections per class and image.
    return evaluator.eval["precision"][..., -1], evaluator.eval["recall"][..., -1]


def _object(number: int, annotation: Mapping[str, Any], numbers: dict[Any, int], masks: bool) -> dict[str, Any]:
    box, area = annotation["bbox"], annotation.get("area")
    found = {
        "id": number,
        "image_id": numbers[annotation["image_id"]],
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": box[2] * box[3] if area is None else area,
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    return found | {"segmentation": annotation.get("segmentation") or []} if masks else found


def _detections(results: list[Mapping[str, Any]], numbers: dict[Any, int], kind: str) -> list[dict[str, Any]]:
    field = {"bbox": "bbox", "segm": "segmentation"}[kind]
    lacking = next((result["image_id"] for result in results if field not in result), None)
    if lacking is not None:
        raise UserError(f"a result of image {lacking!r} has no {field}: evaluate what the model predicts")
    shapes = [result[field] for result in results]
    if kind == "bbox":
        areas = [box[2] * box[3] for box in shapes]
    else:
        areas = np.asarray(run_lengths.area(shapes)).tolist() if shapes else []
    return [
        {
            "id": number,
            "image_id": numbers[result["image_id"]],
            "category_id": result["category_id"],
            "score": result["score"],
            field: shape,
            "area": area,
            "iscrowd": 0,
        }
        for number, (result, shape, area) in enumerate(zip(results, shapes, areas, strict=True), start=1)
    ]


def _by_id(images: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    # Of equal scores, that of the first image comes first.
    return sorted(images, key=lambda image: _rank(image["id"]))


def _rank(image_id: int | str) -> tuple[bool, int | str]:
    return isinstance(image_id, str), image_id


def _mean(values: np.ndarray) -> float | None:
    """The mean of the values that are present (not -1), in percent; None if there are none."""
    values = values[values > -1]
    return 100.0 * float(values.mean()) if values.size else None


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
