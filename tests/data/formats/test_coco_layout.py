"""Where annotations and images of COCO's format are found: folders of other tools, other cases, other spellings."""

import os
from pathlib import Path
from typing import Any

import pytest

from pvt_jax.data.formats.coco.layout import find_annotations, find_images
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError

LAYOUTS = {
    "CVAT, two exports": (
        ("train/annotations/instances_default.json", "train/images/default"),
        ("val/annotations/instances_default.json", "val/images/default"),
    ),
    "CVAT, without the subset": (
        ("train/annotations/instances_default.json", "train/images"),
        ("validation/annotations/instances_default.json", "validation/images"),
    ),
    "CVAT, images beside": (
        ("Train/annotations/instances_default.json", "Train/images/default"),
        ("Test/annotations/instances_default.json", "Test"),
    ),
    "FiftyOne": (("train/labels.json", "train/data"), ("val/labels.json", "val/data")),
    "Roboflow in capitals": (("Train/_annotations.coco.json", "Train"), ("VALID/_annotations.coco.json", "VALID")),
    "all in capitals": (
        ("Annotations/Instances_Train2017.json", "Images/Train2017"),
        ("Annotations/Instances_Val2017.json", "Images/Val2017"),
    ),
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def found(root: Path, split: Any = "train", **options: str) -> tuple[str, str]:
    return find_annotations(str(root), Request(split, options=ObjectOptions(0, **options)))  # type: ignore


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    for annotations, folder in LAYOUTS[layout]:
        touch(tmp_path / annotations)
        touch(tmp_path / folder / "1.jpg")
    for split, (annotations, folder) in zip(("train", "eval"), LAYOUTS[layout], strict=True):
        path, name = found(tmp_path, split)
        assert path == str(tmp_path / annotations)
        assert find_images(str(tmp_path), path, name, ["1.jpg"]) == (str(tmp_path / folder), ["1.jpg"])


def test_a_name_as_it_stands_comes_before_another_case(tmp_path):
    for folder in ("Train", "train"):
        touch(tmp_path / folder / "_annotations.coco.json")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system has one name for both")
    assert found(tmp_path)[0] == str(tmp_path / "train/_annotations.coco.json")
    # Of two that are as near none is taken.
    (tmp_path / "train").rename(tmp_path / "TRAIN")
    with pytest.raises(UserError, match="no training annotations in .*; it holds TRAIN/, Train/; "):
        found(tmp_path)


def test_class_names_of_label_studio_are_no_annotations(tmp_path):
    for name in ("labels.json", "result.json"):
        touch(tmp_path / "train" / name)
    assert found(tmp_path)[0] == str(tmp_path / "train/result.json")


def test_a_file_named_for_its_half_comes_before_another_case(tmp_path):
    for name in ("Train/labels.json", "my_train.json"):
        touch(tmp_path / name)
    assert found(tmp_path)[0] == str(tmp_path / "my_train.json")


def test_what_the_config_says_is_taken_as_it_stands(tmp_path):
    touch(tmp_path / "Labels/train.json")
    if os.path.exists(tmp_path / "labels"):
        pytest.skip("this file system has one name for both")
    with pytest.raises(UserError, match=r"looked for labels/\{split\}.json, with"):
        found(tmp_path, annotations="labels/{split}.json")


def find(root: Path, names: list[str], files: list[str], **rest: str) -> tuple[str, list[str]]:
    for file in files:
        touch(root / file)
    return find_images(str(root), str(root / "train.json"), "train", names, **rest)


def message(*arguments, **rest) -> str:
    with pytest.raises(UserError) as caught:
        find(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["images/train%200.jpg", "train%200.jpg", "/data/upload/1/train%200.jpg"])
def test_names_of_urls(tmp_path, name):
    assert find(tmp_path, [name, "b.jpg"], ["images/train 0.jpg", "images/b.jpg"])[1][0].endswith("train 0.jpg")


def test_names_that_look_like_those_of_urls(tmp_path):
    names = ["train%200.jpg", "100%.jpg"]
    found = find(tmp_path, names, ["images/train%200.jpg", "images/train 0.jpg", "images/100%.jpg"])
    assert found == (str(tmp_path / "images"), names)


def test_different_images_are_not_taken_for_one(tmp_path):
    names = ["cam1/0001.jpg", "cam1/0002.jpg", "cam2/0001.jpg"]
    files = ["train/0001.jpg", "train/0002.jpg"]
    assert message(tmp_path, names, files) == (
        f"{tmp_path}/train.json lists 'cam1/0001.jpg' and 'cam2/0001.jpg', and both would be '0001.jpg' in "
        f"{tmp_path}/train: keep the folders that they are in below {tmp_path}/train, or set detection.image_folder to "
        f"where these folders are"
    )
    # The same one may be listed twice, with its folder or without.
    assert find(tmp_path, ["a/0001.jpg", "a/0001.jpg"], files)[1] == ["0001.jpg"] * 2
    # And either way out is one.
    assert find(tmp_path, names, [f"train/{name}" for name in names]) == (str(tmp_path / "train"), names)
    found = find(tmp_path, names, [f"photos/{name}" for name in names], pattern="photos")
    assert found == (str(tmp_path / "photos"), names)


def test_some_images_in_a_folder_below(tmp_path):
    """As when an export was unpacked twice: the line says where the others are."""
    for name in ("train.json", "train/1.jpg", "train/images/2.jpg"):
        touch(tmp_path / name)
    with pytest.raises(UserError) as error:
        find_images(str(tmp_path), str(tmp_path / "train.json"), "train", ["1.jpg", "2.jpg"])
    assert str(error.value) == (
        f"1 of the 2 images that {tmp_path}/train.json lists are missing in {tmp_path}/train: 2.jpg "
        f"({tmp_path}/train/images has it: move what is there up); fetch them, or remove them from the annotations"
    )


def test_names_in_another_case(tmp_path):
    hint = "'Train0.jpg', in another upper and lower case: rename the file)"
    line = message(tmp_path, ["train0.jpg"], ["images/Train0.jpg"])
    if hint not in line and os.path.exists(tmp_path / "images/train0.jpg"):
        pytest.skip("this file system has one name for both")
    assert f"such as 'train0.jpg': looked in images, . of {tmp_path} ({tmp_path}/images has {hint}; put them" in line
    # In a folder of its own, and where most are there.
    names = ["a/b.jpg", "a/c.jpg", "a/train0.jpg"]
    line = message(tmp_path, names, ["images/a/b.jpg", "images/a/c.jpg", "images/a/Train0.jpg"])
    assert f"are missing in {tmp_path}/images: a/train0.jpg ({tmp_path}/images/a has {hint}; fetch them" in line
