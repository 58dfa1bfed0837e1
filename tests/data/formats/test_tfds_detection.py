"""TFDS data sets with boxes, without TensorFlow."""

import pickle
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.tfds import records
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.headers import image_header
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.tfds_data import coco_features, png, prepare_tfds, voc_features

NAMES = ("cat", "dog", "bird")


def box(left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Any:
    import tensorflow_datasets as tfds

    height, width = size
    return tfds.features.BBox(ymin=top / height, xmin=left / width, ymax=bottom / height, xmax=right / width)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Images of 40 × (50 + their number) pixels; of three the last has no object."""
    root = tmp_path_factory.mktemp("tfds")

    def record(number: int, ids: dict[str, Any], extra: dict[str, list[Any]], boxes: list[list[float]]) -> Any:
        size = (40, 50 + number)
        objects = [
            {"bbox": box(*corners, size), "label": (place + number) % 3, **{key: extra[key][place] for key in extra}}
            for place, corners in enumerate(boxes)
        ]
        return {"image": png(size), **ids, "objects": objects}

    layout = [[[10, 5, 30, 25], [1, 2, 9, 4]], [[0, 0, 51, 40]], []]

    def coco(number: int) -> Any:
        extra = {"id": [7, 8], "area": [300, 9], "is_crowd": [False, True]}
        return record(number, {"image/id": 100 + number}, extra, layout[number])

    def voc(number: int) -> Any:
        extra = {"is_difficult": [True, False], "is_truncated": [False, False], "pose": [0, 1]}
        of_image = {"image/filename": f"00{number}.jpg", "labels": [0], "labels_no_difficult": [0]}
        return record(number, of_image, extra, layout[number])

    splits = {"train": [coco(0), coco(1), coco(2)], "validation": [coco(0)]}
    prepare_tfds(root, "toy_coco", (), coco_features(NAMES), splits)
    names = [f"class{number}" for number in range(80)]
    # Of this one the code needs TensorFlow.
    prepare_tfds(root, "coco", ("2017",), coco_features(names), {"train": [coco(0)]}, "1.1.0")
    splits = {"train": [voc(0)], "test": [voc(0), voc(1), voc(2)]}
    prepare_tfds(root, "voc", ("2007",), voc_features(), splits, "5.0.0")
    return root


def opened(root: Any, split: Any = "train", name: str = "toy_coco", num_classes: int = 3, **rest: Any) -> Any:
    splits = {key: rest.pop(key) for key in ("train_split", "eval_split") if key in rest}
    options = ObjectOptions(num_classes, **{"keep_empty": False, **rest})
    return open_source(OBJECTS, "tfds", Request(split, name, str(root), options=options, **splits))


def message(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_id(source: Any) -> dict[Any, int]:
    return {source.image_id(index): index for index in range(len(source))}


def test_as_coco(data_dir):
    source = opened(data_dir, keep_empty=True)
    assert isinstance(source, DetectionSource) and source.class_names == NAMES and source.category_ids == (1, 2, 3)
    for one in (source, pickle.loads(pickle.dumps(source))):
        places = by_id(one)
        assert places.keys() == {100, 101, 102}
        objects = one.objects(places[100])
        np.testing.assert_allclose(objects.boxes, [[10, 5, 30, 25], [1, 2, 9, 4]], atol=1e-4)
        assert objects.labels.tolist() == [0, 1] and objects.crowd.tolist() == [False, True]
        assert objects.areas.tolist() == [300, 9] and objects.ids.tolist() == [7, 8]
        np.testing.assert_allclose(one.objects(places[101]).boxes, [[0, 0, 51, 40]], atol=1e-4)
        assert len(one.objects(places[102])) == 0
        image, _ = one[places[101]]
        assert image_header(image).size() == (40, 51) == tuple(one.sizes()[places[101]].tolist())
    assert source.name(0).startswith("toy_coco/train record ")
    assert by_id(opened(data_dir)).keys() == {100, 101}
    assert by_id(opened(data_dir, "eval")).keys() == {100}


def test_as_voc(data_dir):
    source = opened(data_dir, name="voc/2007", num_classes=20, eval_split="test", split="eval")
    places = by_id(source)
    assert places.keys() == {"000", "001", "002"}
    assert source.objects(places["000"]).crowd.tolist() == [True, False]
    # No area is given: it is the box's.
    np.testing.assert_allclose(source.objects(places["000"]).areas, [400, 16], rtol=1e-5)
    assert source.category_ids[:2] == (1, 2) and source.counts()[places["000"]] == 1


@pytest.mark.parametrize("name", ["coco/2017", "coco/2017:1.1.0"])
def test_coco_itself_needs_no_tensorflow_once_it_is_prepared(data_dir, name):
    source = opened(data_dir, name=name, num_classes=80)
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert one.image_id(0) == 100 and len(one.objects(0)) == 2
        # Ten of the ids up to 90 are none.
        assert one.category_ids[:13] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14) and one.category_ids[79] == 90
    assert "not prepared" in message(data_dir.parent, name="coco/2017", num_classes=80)


def test_classes_by_name(data_dir):
    source = opened(data_dir, num_classes=2, class_names=("bird", "cat"))
    places = by_id(source)
    # Of the first image the dog goes; in the second it is the one object, and no image of none is kept.
    assert places.keys() == {100} and source.objects(0).labels.tolist() == [1] and source.category_ids == (3, 1)
    assert "2 objects of other classes are left out" in source.notes()
    assert "has 'dgo', which is not in TFDS toy_coco (did you mean 'dog'?)" in message(
        data_dir, num_classes=1, class_names=("dgo",)
    )


def test_refusals(data_dir):
    for name in ("", "imagenet2012:5.*.*"):
        assert "the tfds source needs name: a TFDS data set with boxes, such as voc/2007" in message(
            data_dir, name=name
        )
    assert "TFDS toy_coco has 3 classes but model.num_classes is 80" in message(data_dir, num_classes=80)
    assert "has no split 'val'" in message(data_dir, "eval", eval_split="val")


def test_features_without_boxes(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["a"])}
    prepare_tfds(tmp_path, "toy_labels", (), features, {"train": [{"image": png((4, 4)), "label": 0}]})
    line = message(tmp_path, name="toy_labels")
    assert "'toy_labels' is not known to have images with boxes: its features are image, label" in line


def test_a_tfds_whose_own_import_failed_is_told(monkeypatch):
    """It swallows the error and is an empty module, as beside a protobuf older than its files were made with."""

    def fails(name: str) -> Any:
        raise RuntimeError(f"{name}: gencode 6.31.1 runtime 5.29.6. Runtime version cannot be older. See the guide.")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", ModuleType("tensorflow_datasets"))
    monkeypatch.setattr(records, "import_module", fails)
    with pytest.raises(UserError) as error:
        records.import_tfds()
    assert str(error.value) == (
        "tensorflow-datasets cannot be imported here (tensorflow_datasets.public_api: gencode 6.31.1 runtime 5.29.6): "
        "install a version of what it names that fits, such as pip install -U protobuf, and restart"
    )
