"""Label maps from shapes of labelme."""

import base64
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.data.formats import LABEL_MAPS, open_source
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.segmentation.source import HasOrientations, ReadsLabels, SegmentationSource
from tests.helpers.command import ROOT
from tests.helpers.detection_data import save, write_json

SIZE = (20, 40)
CAT = {"label": "cat", "points": [[10, 5], [30, 15]], "shape_type": "rectangle", "group_id": None, "flags": {}}
DOG = {**CAT, "label": "dog", "points": [[1, 1], [9, 1], [9, 11], [1, 11]], "shape_type": "polygon"}


def write(root: Path, stem: str, *shapes: Any, **rest: Any) -> Path:
    save(root / f"{stem}.jpg", np.zeros((*SIZE, 3), np.uint8))
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{os.path.basename(stem)}.jpg"}
    write_json(root / f"{stem}.json", {**content, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **rest})
    return root


def opened(root: Path, split: Any = "train", classes: int = 3, holdout: float = 0, **rest: Any) -> Any:
    options = LabelMapOptions(**{"num_classes": classes, **rest})
    return open_source(LABEL_MAPS, "labelme", Request(split, root=str(root), options=options, holdout=holdout))


def decoded(source: Any, index: int = 0) -> np.ndarray:
    return source.encoding.decode(source[index]["label_map"], source.label_name(index))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train/a", CAT, DOG)
    write(tmp_path, "train/b")
    return write(tmp_path, "val/c", DOG)


def test_shapes_become_labels(root):
    source = pickle.loads(pickle.dumps(opened(root)))
    assert isinstance(source, SegmentationSource) and isinstance(source, ReadsLabels)
    assert isinstance(source, HasOrientations) and source.sizes().tolist() == [[20, 40]] * 2
    assert source.class_names == ("_background_", "cat", "dog")
    expected = np.zeros(SIZE, np.uint8)
    # With their edges, as labelme draws them.
    expected[5:16, 10:31], expected[1:12, 1:10] = 1, 2
    np.testing.assert_array_equal(decoded(source), expected)
    np.testing.assert_array_equal(source.label_map(0), expected)
    assert not decoded(source, 1).any() and len(source) == 2
    evaluation = opened(root, "eval")
    assert evaluation.class_names == source.class_names and (decoded(evaluation) == 2).sum() == 99
    assert evaluation.label_name(0) == str(root / "val/c.json") and evaluation.path(0) == str(root / "val/c.jpg")


def test_later_shapes_cover_earlier_ones_also_of_one_group(root):
    """An object of several shapes is drawn shape by shape, in the order of the file."""
    first, last = ({**DOG, "group_id": 3, "points": points} for points in ([[0, 0], [9, 9]], [[30, 0], [39, 9]]))
    over = {**CAT, "points": [[39, 4], [5, 0]]}
    rectangles = [{**shape, "shape_type": "rectangle"} for shape in (first, over, last)]
    write(root, "train/b", *rectangles)
    expected = np.zeros(SIZE, np.uint8)
    expected[:10, :10] = 2
    expected[:5, 5:40] = 1
    expected[:10, 30:40] = 2
    np.testing.assert_array_equal(decoded(opened(root), 1), expected)


def test_circles_and_masks_also_beyond_the_image(root):
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1:, 2:] = 255
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    masks = [
        {**DOG, "points": points, "shape_type": "mask", "mask": text}
        for points in ([[30, 10], [35, 13]], [[-3, -2], [2, 1]], [[37, 18], [42, 21]])
    ]
    circle = {**CAT, "points": [[20, 10], [25, 10]], "shape_type": "circle"}
    write(root, "train/b", circle, *masks, {**CAT, "shape_type": "point", "points": [[1, 1]]})
    found = decoded(opened(root), 1)
    expected = np.zeros(SIZE, np.uint8)
    for top, left in ((10, 30), (-2, -3), (18, 37)):
        for row, column in np.argwhere(pixels):
            if 0 <= top + row < SIZE[0] and 0 <= left + column < SIZE[1]:
                expected[top + row, left + column] = 2
    np.testing.assert_array_equal(found == 2, expected == 2)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - 10, columns - 20)
    assert (found[distance < 4.5] == 1).all() and (found[(distance > 5.6) & (expected == 0)] == 0).all()
    assert "1 points and lines, which have no area, left out" in opened(root).notes()


def test_what_is_ignored(root):
    nothing = [{**CAT, "label": "__ignore__"}, {**DOG, "label": "_background_", "points": [[20, 8], [25, 8], [25, 10]]}]
    write(root, "train/b", {**CAT, "points": [[0, 0], [39, 19]]}, *nothing)
    found = decoded(opened(root), 1)
    assert (found[5:8, 10:31] == 255).all() and found[8, 22] == 0 and found[0, 0] == 1 and found[19, 39] == 1
    reduced = opened(root, classes=2, reduce_zero_label=True)
    assert reduced.class_names == ("cat", "dog")
    found = decoded(reduced, 1)
    assert (found[5:8, 10:31] == 255).all() and found[8, 22] == 255 and found[0, 0] == 0


@pytest.mark.parametrize("names", ["__ignore__\n_background_\ndog\ncat\n", "background\ndog\ncat\n", "dog\ncat\n"])
def test_a_list_of_names(root, names):
    (root / "labels.txt").write_text(names)
    source = opened(root)
    assert source.class_names[1:] == ("dog", "cat") and source.class_names[0].strip("_") == "background"
    assert decoded(source)[7, 20] == 2
    chosen = opened(root, class_names=("cat", "dog"))
    assert chosen.class_names == ("_background_", "cat", "dog") and decoded(chosen)[7, 20] == 1


def test_divided_by_holdout(tmp_path):
    for number in range(10):
        write(tmp_path, str(number), CAT)
    sources = [opened(tmp_path, split, classes=2, holdout=0.2) for split in ("train", "eval")]
    assert [len(source) for source in sources] == [8, 2]
    assert not {sources[0].path(n) for n in range(8)} & {sources[1].path(n) for n in range(2)}


def test_without_a_size_it_is_that_of_the_image(root):
    write(root, "train/b", CAT, imageHeight=None)
    assert decoded(opened(root), 1).shape == SIZE


def message(root: Path, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refused(root):
    assert message(root, classes=2) == (
        f"{root}/train (cat, dog) has 3 classes but model.num_classes is 2: set --config.model.num_classes=3"
    )
    write(root, "val/c", {**DOG, "label": "dgo"})
    assert message(root, "eval") == (
        f"shapes in {root}/val have 1 unknown label, dgo (did you mean 'dog'?): the classes are those of {root}/train "
        "(cat, dog); correct them, list all in segmentation.class_names, or call them __ignore__"
    )
    source = opened(root)
    write(root, "train/a", {**DOG, "label": "cow"})
    with pytest.raises(UserError, match="a.json was changed since the run started: put it back, or start again"):
        source.label_map(0)


def test_the_config_of_a_folder(root):
    """It counts the classes, and the checks before the first step read what is drawn."""
    spec, overrides = f"{ROOT}/configs/segmentation_folder.py:{root}", ("model.dims=(8,8,8,8)", "batch_size=1")
    with pytest.raises(UserError, match="no classes.txt in"):
        config_lib.load(spec, overrides)
    config = config_lib.load(spec, (*overrides, "data.source=labelme", "segmentation.crop_size=(32,32)"))
    assert config.model.num_classes == 3
    task: Any = TASKS["segmentation"].make(config_lib.read(config))
    assert "2 training and 1 evaluation" in task.validate_data()
    assert (
        config_lib.load(spec, (*overrides, "data.source=labelme", "segmentation.reduce_zero_label=True"))[
            "model"
        ].num_classes
        == 2
    )
