"""Data sets of labelme: shapes in a JSON beside each image."""

import base64
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.detection_data import save, write_json

SIZE = (20, 40)
BOX = {"label": "cat", "points": [[10, 5], [30, 15]], "shape_type": "rectangle", "group_id": None, "flags": {}}
POLYGON = {**BOX, "label": "dog", "points": [[1, 1], [9, 1], [9, 11], [1, 11]], "shape_type": "polygon"}


def write(root: Path, stem: str, *shapes: Any, image: str = "", **rest: Any) -> Path:
    save((root / f"{stem}.json").parent / (image or f"{os.path.basename(stem)}.jpg"), np.zeros((*SIZE, 3), np.uint8))
    path = image or f"{os.path.basename(stem)}.jpg"
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None}
    write_json(root / f"{stem}.json", {**content, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **rest})
    return root


def opened(root: Path, split: Any = "train", holdout: float = 0, **rest: Any) -> Any:
    found, names = recognise_folder(OBJECTS, str(root), options=ObjectOptions(**rest), holdout=holdout)
    assert found == "labelme"
    options = ObjectOptions(**{"num_classes": len(names), **rest})
    return open_source(OBJECTS, "labelme", Request(split, root=str(root), options=options, holdout=holdout))


def message(root: Path, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train/a", BOX, POLYGON)
    write(tmp_path, "train/b")
    return write(tmp_path, "val/c", POLYGON)


def test_boxes_and_classes(root):
    source = opened(root)
    assert isinstance(source, DetectionSource) and source.class_names == ("cat", "dog") and not source.has_masks
    assert source.objects(0).boxes.tolist() == [[10, 5, 30, 15], [1, 1, 9, 11]]
    assert source.objects(0).labels.tolist() == [0, 1] and source.counts().tolist() == [2, 0]
    evaluation = opened(root, "eval")
    assert evaluation.class_names == ("cat", "dog") and evaluation.objects(0).labels.tolist() == [1]
    assert evaluation.image_id(0) == "val/c" and evaluation.path(0) == str(root / "val/c.jpg")
    assert opened(root, class_names=("dog",)).objects(0).labels.tolist() == [0]


def test_masks(root):
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1:, 2:] = 255
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    drawn = {
        **BOX,
        "points": [[30, 10], [35, 13]],
        "shape_type": "mask",
        "mask": base64.b64encode(png.getvalue()).decode(),
    }
    halves = [{**POLYGON, "group_id": 3}, {**POLYGON, "group_id": 3, "points": [[20, 2], [22, 2], [22, 4], [20, 4]]}]
    circle = {**BOX, "points": [[20, 10], [25, 10]], "shape_type": "circle"}
    write(root, "train/b", drawn, *halves, circle, BOX, {**BOX, "shape_type": "point", "points": [[1, 1]]})
    source = pickle.loads(pickle.dumps(opened(root, with_masks=True)))
    objects = source.objects(1)
    assert objects.boxes.tolist() == [[30, 10, 36, 14], [1, 1, 22, 11], [15, 5, 25, 15], [10, 5, 30, 15]]
    assert "1 points and lines, which have no area, left out" in source.notes()
    assert source.has_masks and source.without_masks() == 2 and objects.masks[3] is None
    masks = source.masks(1, objects)
    expected = np.zeros(SIZE, np.uint8)
    expected[10:14, 30:36] = pixels > 0
    np.testing.assert_array_equal(masks[0], expected)
    expected = np.zeros(SIZE, np.uint8)
    expected[1:11, 1:9] = expected[2:4, 20:22] = 1
    np.testing.assert_array_equal(masks[1], expected)
    assert abs(int(masks[2].sum()) - np.pi * 25) < 5


def test_images_of_another_name_or_folder(root):
    write(root, "train/x", BOX, image="../pictures/of x.png")
    write(root, "train/y", BOX, image="y.jpg", imagePath="C:\\me\\y.JPG")
    save(root / "train/z.jpg", np.zeros((*SIZE, 3), np.uint8))
    write_json(root / "train/settings.json", {"a": 1})
    source = opened(root)
    assert [os.path.relpath(source.path(n), root) for n in range(4)] == [
        "train/a.jpg",
        "train/b.jpg",
        "pictures/of x.png",
        "train/y.jpg",
    ]
    assert "1 image without a JSON file left out" in source.notes()
    assert "1 JSON file without shapes of labelme left out" in source.notes()


def test_a_list_of_names(root):
    (root / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    write(root, "train/b", {**BOX, "label": "__ignore__"})
    assert opened(root).class_names == ("dog", "cat") and opened(root).counts().tolist() == [2, 0]


def test_divided_by_holdout(tmp_path):
    for n in range(10):
        write(tmp_path, str(n), BOX)
    assert [len(opened(tmp_path, split, holdout=0.2)) for split in ("train", "eval")] == [8, 2]
    assert "; add --config.data.holdout=0.2, which keeps" in message(tmp_path)


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ({**BOX, "label": ""}, "shapes have no label, the first is train/b.json, shape 1: add it"),
        (
            {**POLYGON, "points": [[1, 1], [2, 2]]},
            "shapes have no points [[x, y], …] of their kind, the first is train/b",
        ),
        (
            {**BOX, "points": "x"},
            "shapes have no points [[x, y], …] of their kind, the first is train/b.json, shape 1, a",
        ),
        (
            {**BOX, "shape_type": "mask"},
            "shapes have no mask, though that is their kind, the first is train/b.json, sha",
        ),
    ],
)
def test_refused(root, shape, what):
    write(root, "train/b", shape)
    assert message(root).startswith(f"{root}/train: 1 {what}")


def test_images_and_labels_that_are_missing(root):
    write(root, "val/c", {**BOX, "label": "dgo"})
    assert message(root, "eval").startswith(
        f"shapes in {root}/val have 1 unknown label, dgo (did you mean 'dog'?): the classes are those of {root}/train "
    )
    (root / "train/a.jpg").unlink()
    assert message(root).startswith(
        f"{root}/train: 1 JSON files have no image, the first is train/a.json, of image 'a.jpg'"
    )
    (root / "train/a.json").write_text("{")
    assert message(root).startswith(f"{root}/train: 1 JSON files cannot be read, the first is train/a.json (")
