"""Small data sets of images and objects, as people have them: digit scenes, written in the formats of COCO and VOC."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pvt_jax.data.formats.digits.scenes import DigitScene, DigitScenesSource

# Layout → the annotations and the folder of images, for training and for evaluation.
COCO_LAYOUTS = {
    "coco": (
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_val2017.json", "val2017"),
    ),
    "roboflow": (("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid")),
    "plain": (("annotations/train.json", "images"), ("annotations/val.json", "images")),
}
# Digits 0 … 9 of a file: with gaps, and not in order.
CATEGORY_IDS = (7, 2, 3, 5, 11, 13, 17, 19, 23, 90)


def write_coco(
    root: Path,
    layout: Literal["coco", "roboflow", "plain"] = "coco",
    *,
    count: int = 6,
    eval_count: int = 3,
    size: tuple[int, int] = (64, 64),
    growth: int = 0,
    masks: Literal["run_lengths", "polygons", ""] = "run_lengths",
) -> dict[str, list[DigitScene]]:
    """Writes scenes as PNG images 1.png, 2.png, … with annotations; returns them by half, "train" and "eval".

    Args:
        count, eval_count: images of each half.
        size: height and width in pixels.
        growth: both sides of every other image are larger by it.
        masks: uncompressed run lengths, which are exact; the outlines of boxes as polygons; or no masks.
    """
    scenes = _scenes(count, eval_count, size, growth)
    image_id = 0
    for (half, written), (path, folder) in zip(scenes.items(), COCO_LAYOUTS[layout], strict=True):
        content: dict[str, Any] = {"info": {"description": half}, "images": [], "annotations": []}
        for scene in written:
            image_id += 1
            height, width = scene.label_map.shape
            name = f"{image_id}.png"
            content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
            save(root / folder / name, scene.image)
            for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
                content["annotations"].append(annotation(image_id, box, label, mask, masks, content["annotations"]))
        content["categories"] = [{"id": CATEGORY_IDS[digit], "name": str(digit)} for digit in range(10)]
        write_json(root / path, content)
    return scenes


def annotation(
    image_id: int, box: list[float], label: int, mask: np.ndarray, masks: str, earlier: list[Any]
) -> dict[str, Any]:
    """An annotation of COCO for an object with these edges (x1, y1, x2, y2)."""
    left, top, right, bottom = box
    segmentation: Any = []
    if masks == "polygons":
        segmentation = [[left, top, right, top, right, bottom, left, bottom]]
    elif masks == "run_lengths":
        segmentation = {"size": list(mask.shape), "counts": counts_of(mask)}
    return {
        "id": 1000 + len(earlier),
        "image_id": image_id,
        "category_id": CATEGORY_IDS[label],
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def counts_of(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0, … of a mask, down its columns."""
    flat = mask.ravel(order="F").astype(np.int8)
    starts = (np.flatnonzero(np.diff(flat)) + 1).tolist()
    return [0] * int(flat[0]) + np.diff([0, *starts, len(flat)]).tolist()


def write_voc(
    root: Path,
    layout: Literal["voc", "flat"] = "voc",
    *,
    count: int = 6,
    eval_count: int = 3,
    size: tuple[int, int] = (64, 64),
    growth: int = 0,
) -> dict[str, list[DigitScene]]:
    """As ``write_coco``, in the format of Pascal VOC; digits are called digit0 … digit9, and images scene_00, …

    Layout "voc" has lists of stems, "flat" XML files beside the images in train and valid.
    """
    scenes = _scenes(count, eval_count, size, growth)
    number = 0
    for (half, written), split in zip(scenes.items(), ("train", "valid" if layout == "flat" else "val"), strict=True):
        stems = []
        for scene in written:
            stems.append(f"scene_{number:02}")
            number += 1
            images, annotations = (split, split) if layout == "flat" else ("JPEGImages", "Annotations")
            save(root / images / f"{stems[-1]}.png", scene.image)
            path = root / annotations / f"{stems[-1]}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(voc_xml(f"{stems[-1]}.png", scene.label_map.shape, voc_objects(scene)))
        if layout == "voc":
            lists = root / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
        assert half in ("train", "eval")
    return scenes


def voc_objects(scene: DigitScene) -> list[tuple[str, list[int]]]:
    """The name of each digit, and its corners (xmin, ymin, xmax, ymax): pixels from 1, which lie within the box."""
    boxes = scene.boxes.astype(int).tolist()
    names = [f"digit{label}" for label in scene.labels.tolist()]
    return [
        (name, [left + 1, top + 1, right, bottom])
        for name, (left, top, right, bottom) in zip(names, boxes, strict=True)
    ]


def voc_xml(
    file_name: str,
    size: tuple[int, ...] | None,
    objects: list[tuple[str, list[int]]],
    difficult: Callable[[int], bool] = lambda number: False,
) -> bytes:
    """An XML file of Pascal VOC; ``size`` is (height, width), None for none."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file_name
    if size is not None:
        sides = ElementTree.SubElement(root, "size")
        for side, value in zip(("width", "height", "depth"), (size[1], size[0], 3), strict=True):
            ElementTree.SubElement(sides, side).text = str(value)
    for number, (name, corners) in enumerate(objects):
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = name
        ElementTree.SubElement(element, "difficult").text = str(int(difficult(number)))
        box = ElementTree.SubElement(element, "bndbox")
        # The order differs between tools.
        for corner, value in zip(("xmax", "xmin", "ymax", "ymin"), [corners[i] for i in (2, 0, 3, 1)], strict=True):
            ElementTree.SubElement(box, corner).text = str(value)
    return ElementTree.tostring(root)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _scenes(count: int, eval_count: int, size: tuple[int, int], growth: int) -> dict[str, list[DigitScene]]:
    found: dict[str, list[DigitScene]] = {}
    for half, number in (("train", count), ("eval", eval_count)):
        found[half] = []
        for index in range(number):
            height, width = (side + growth * (index % 2) for side in size)
            source = DigitScenesSource("train" if half == "train" else "eval", height=height, width=width)
            found[half].append(source.scene(index))
    return found
