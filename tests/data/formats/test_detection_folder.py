"""A folder of one's own: which format it has, and what the config's argument may be."""

import shutil

import pytest

from configs import detection_folder
from configs.common import known_weights
from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.weights.known import KNOWN
from tests.helpers.detection_data import write_coco, write_voc


def load(argument: str, *overrides: str):
    return config_lib.load(f"{detection_folder.__file__}:{argument}", overrides)


def message(argument: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(argument, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_formats(tmp_path):
    write_coco(tmp_path / "a", count=2)
    write_voc(tmp_path / "b", count=6)
    config = load(str(tmp_path / "a"))
    assert (config.data.source, config.head.name, config.model.num_classes) == ("coco", "retinanet", 10)
    config = load(f"{tmp_path / 'b'},faster_rcnn")
    assert (config.data.source, config.data.root, config.head.name) == ("voc", str(tmp_path / "b"), "faster_rcnn")
    # A JSON may be there for another reason.
    (tmp_path / "b/settings.json").write_text("{}")
    assert load(str(tmp_path / "b")).data.source == "voc"


def test_keys_of_the_command_line_describe_the_folder(tmp_path):
    """Annotations, split and classes that are found by no layout; the number of classes follows from them."""
    write_coco(tmp_path / "a", layout="plain", count=2)
    (tmp_path / "a/annotations").rename(tmp_path / "a/labels")
    (tmp_path / "a/labels/train.json").rename(tmp_path / "a/labels/fit.json")
    assert "detection.annotations" in message(str(tmp_path / "a"))
    keys = ["detection.annotations=labels/{split}.json", "data.train_split=fit"]
    assert load(str(tmp_path / "a"), *keys).model.num_classes == 10
    config = load(str(tmp_path / "a"), *keys, "detection.class_names=('3', '5')")
    assert (config.data.source, config.model.num_classes) == ("coco", 2)
    # What is set is checked against the data later, and stays.
    assert load(str(tmp_path / "a"), *keys, "model.num_classes=3").model.num_classes == 3
    # A way out that a message names: the root itself.
    assert load(str(tmp_path), f"data.root={tmp_path / 'a'}", *keys).data.root == str(tmp_path / "a")


def test_commas(tmp_path):
    write_coco(tmp_path / "a", count=2)
    for name in ("a,b", "a,mask_rcnn", "a, c,retinanet"):
        folder = shutil.copytree(tmp_path / "a", tmp_path / name)
        config = detection_folder.get_config(str(folder))
        assert config.data.root == str(folder) and config.head.name == "retinanet"
        config = detection_folder.get_config(f"{folder}, mask_rcnn")
        assert config.data.root == str(folder) and config.head.name == "mask_rcnn"


def test_a_source_that_reads_no_folder(tmp_path):
    write_coco(tmp_path / "a", count=2)
    assert load(str(tmp_path / "a"), "data.source=coco").data.source == "coco"
    for wrong in ("cocoo", "tfds"):
        line = message(str(tmp_path / "a"), f"data.source={wrong}")
        assert line == f"data.source is '{wrong}', but a folder is read by coco or voc or yolo or labelme: leave it out"


def test_what_is_wrong_with_a_file_of_coco_is_said_beside_other_xml_files(tmp_path):
    write_coco(tmp_path, layout="roboflow", count=2)
    (tmp_path / "notes.xml").write_text("<notes/>")
    assert load(str(tmp_path)).data.source == "coco"
    file = tmp_path / "train/_annotations.coco.json"
    file.write_text(file.read_text()[:-20])
    assert f"{file} is no JSON: the file ends too early" in message(str(tmp_path))
    named = "detection.annotations={split}/_annotations.coco.json"
    assert f"{file} is no JSON: the file ends too early" in message(str(tmp_path), named)


def test_refused(tmp_path):
    for argument in ("", ",mask_rcnn"):
        assert "needs the folder of your images, as --config" in message(argument)
    line = message(f"{tmp_path},yolo")
    assert f"knows no 'yolo': after {tmp_path} may stand retinanet, mask_rcnn, faster_rcnn, or nothing" in line
    assert "nowhere,yolo does not exist" in message(f"{tmp_path / 'nowhere'},yolo")
    (tmp_path / "a.txt").write_text("0.5 0.5 0.1 0.1")
    line = message(str(tmp_path))
    known = "COCO's JSON format or Pascal VOC's XML format or YOLO's text format or labelme's JSON format"
    assert f"has no annotations in {known}: it holds a.txt" in line


def test_recipes_start_from_weights_that_are_known():
    for size in ("tiny", "small", "base"):
        assert KNOWN[known_weights(f"vit_{size}_patch16")].model == f"vit_{size}_patch16"
    assert known_weights("pvt_small") == "pvt_small" and known_weights("vit_small_patch32") == "vit_small_patch32"
