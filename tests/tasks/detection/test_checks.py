"""What is refused of images and objects before the first step, and the line that describes the rest."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.digits.objects import DigitObjectsSource
from pvt_jax.data.options import ObjectOptions, ReadingOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks import checks
from pvt_jax.tasks.detection.checks import DetectionChecks
from tests.helpers.detection_data import save, write_coco, write_json, write_voc

CHECKS = pytest.mark.parametrize("check", ["all", "sample"])
TRAIN = "annotations/instances_train2017.json"
VAL = "annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, count=40, eval_count=2, growth=8)
    return root


@pytest.fixture
def root(written, tmp_path):
    """40 and 2 images of 64 and 72 pixels a side. A sample of 32 has 1.png and 40.png, but not 5.png."""
    return Path(shutil.copytree(written, tmp_path / "data"))


def validate(root: Path, needs_masks=True, outputs=10, source="coco", **rest: Any) -> str:
    options = ObjectOptions(10, with_masks=needs_masks, keep_empty=rest.pop("keep_empty", False))
    train, held_out = (
        open_source(OBJECTS, source, Request(split, root=str(root), options=options)) for split in ("train", "eval")
    )
    return DetectionChecks(outputs, needs_masks=needs_masks, **rest).validate(train, held_out)


def message(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        validate(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(root: Path, edit: Any, path: str = TRAIN) -> None:
    content = json.loads((root / path).read_text())
    edit(content)
    write_json(root / path, content)


def turn(path: Path, orientation: int = 6) -> None:
    """Makes an image one that lies on its side, or otherwise, by EXIF."""
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)


@CHECKS
def test_describes_a_sound_data_set(root, check):
    content = {half: json.loads((root / path).read_text()) for half, path in (("train", TRAIN), ("eval", VAL))}
    line = validate(root, check=check)
    assert line.startswith("40 training and 2 evaluation images with objects of 10 classes (1, 2, 3, 0, ")
    assert f", 9), from {root}; training: " in line
    assert f"{len(content['train']['annotations'])} objects, at most 5 in an image" in line
    assert f"evaluation: {len(content['eval']['annotations'])} objects, at most 4 in an image" in line
    used = {row["category_id"] for row in content["eval"]["annotations"]}
    absent = [row["name"] for row in content["eval"]["categories"] if row["id"] not in used]
    assert absent and f"no object of {', '.join(sorted(absent))}" in line and "\n" not in line


def test_digit_scenes_are_not_all_composed(monkeypatch):
    train, held_out = DigitObjectsSource("train"), DigitObjectsSource("eval")
    monkeypatch.setattr(DigitObjectsSource, "counts", None)
    line = DetectionChecks(10, needs_masks=True).validate(train, held_out)
    assert line == (
        "32,768 training and 256 evaluation images with objects of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), from "
        "scenes of scikit-learn's digits over its photographs"
    )


def test_voc(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(f"digit{digit}" for digit in range(10)))
    write_voc(tmp_path)
    assert "6 training and 3 evaluation images with objects of 10 classes" in validate(tmp_path, False, source="voc")
    line = message(tmp_path, True, source="voc")
    assert f"the head learns masks, and no training object has one ({tmp_path})" in line
    assert "--config.head.name=faster_rcnn" in line


def test_keys():
    for key in ("on_corrupt", "check"):
        arguments: Any = {key: "maybe"}
        with pytest.raises(UserError, match=f"data.{key} is 'maybe', but it is either"):
            source = DigitObjectsSource("eval", count=1)
            DetectionChecks(10, needs_masks=False, **arguments).validate(source, source)


class TestClasses:
    def test_another_number_than_the_model_s(self, root):
        assert "the data set has 10 classes but model.num_classes is 3" in message(root, outputs=3)

    def test_in_another_order(self, root):
        def edit(content):
            first, second, *_ = content["categories"]
            first["name"], second["name"] = second["name"], first["name"]

        change(root, edit, VAL)
        line = message(root)
        assert "the same names in another order, so that labels differ; give both the same list of classes" in line

    def test_others(self, root):
        change(root, lambda content: content["categories"][0].update(name="zero"), VAL)
        assert "only the training data has 0; only the evaluation data has zero" in message(root)

    def test_ids_may_differ(self, root):
        def edit(content):
            for row in content["categories"]:
                row["id"] += 100
            for row in content["annotations"]:
                row["category_id"] += 100

        change(root, edit, VAL)
        assert "category ids 102 … 190 have gaps and are classes 0 … 9" in validate(root)


class TestMasks:
    def test_none_at_all(self, tmp_path):
        write_coco(tmp_path, masks="")
        assert "the head learns masks, and no training object has one" in message(tmp_path)
        assert validate(tmp_path, needs_masks=False)

    def test_some(self, root):
        change(root, lambda content: content["annotations"][0].update(segmentation=[]), VAL)
        line = message(root)
        assert "the head learns masks, and 1 evaluation objects have none" in line and "annotate these as" in line
        # A crowd region needs none: it is not trained on.
        change(root, lambda content: content["annotations"][0].update(iscrowd=1), VAL)
        assert validate(root)

    @CHECKS
    def test_elsewhere_than_their_boxes(self, root, check):
        def edit(content):
            for row in content["annotations"]:
                x, y, width, height = row["bbox"]
                row["segmentation"] = [[x + 99, y, x + width + 99, y, x + width + 99, y + height]]

        change(root, edit)
        line = message(root, check=check)
        assert "training masks tried have no pixel in their boxes, the first in " in line and "1.png" in line

    @CHECKS
    def test_few_elsewhere_than_their_boxes(self, root, check):
        assert "masks tried" not in validate(root, check=check)
        # One that has no extent, and one that is out of the picture.
        for number, polygon in ((0, [9, 9, 9, 9, 9, 9]), (1, [90, 90, 99, 90, 99, 99])):
            change(root, lambda c, n=number, p=polygon: c["annotations"][n].update(segmentation=[p]))
        line = validate(root, check=check)
        tried = re.search(
            r"training: [^;]*, 2 of the (\d+) masks tried have no pixel in their boxes, the first in ", line
        )
        assert tried and 32 <= int(tried[1]) <= 32 * 5 and "1.png" in line

    def test_that_cannot_be_decoded(self, root):
        """Where no sample comes by, too."""
        change(root, lambda c: c["annotations"][12].update(segmentation={"size": [64, 64], "counts": "0a"}))
        line = message(root)
        assert "1 annotations have run lengths whose counts are no compressed text of COCO's, the first is {" in line
        assert validate(root, needs_masks=False)


class TestImages:
    def test_of_another_size(self, root):
        save(root / "train2017/5.png", np.zeros((64, 40, 3), np.uint8))
        line = message(root)
        assert "1 of 40 training images have another size than their annotations say, the first is " in line
        assert "5.png, 64×40 and not 64×64 (height × width): annotate these files, or correct the annotations" in line
        # The sample has another.
        assert validate(root, check="sample")
        save(root / "train2017/1.png", np.zeros((64, 40, 3), np.uint8))
        assert "1 of 32 training images have another size" in message(root, check="sample")

    def make_landscape(self, root, height, width) -> Path:
        """The first image, annotated as 40×64."""
        save(root / "train2017/1.png", np.zeros((height, width, 3), np.uint8))
        change(root, lambda content: content["images"][0].update(height=40, width=64))
        change(root, lambda content: content["annotations"].clear() or content["annotations"].append(
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 0}))  # fmt: skip
        return root / "train2017/1.png"

    def test_that_lie_on_their_side(self, root):
        path = self.make_landscape(root, 64, 40)
        assert "exchange height and width in the annotations" in message(root, needs_masks=False)
        turn(path)
        assert validate(root, needs_masks=False)
        as_stored = ReadingOptions(exif_orientation=False)
        line = message(root, needs_masks=False, reading=as_stored)
        assert "the annotations fit the image turned upright" in line
        assert line.endswith("if all do, set --config.data.exif_orientation=True")

    def test_whose_annotations_are_of_the_stored_view(self, root):
        path = self.make_landscape(root, 40, 64)
        assert validate(root, needs_masks=False)
        turn(path)
        line = message(root, needs_masks=False)
        assert "1 of 1 training images have another size than their annotations say" in line
        assert line.endswith(
            "64×40 and not 40×64 (height × width): the annotations fit the image as it is stored: if all do, set "
            "--config.data.exif_orientation=False"
        )
        line = validate(root, needs_masks=False, reading=ReadingOptions(exif_orientation=False))
        assert "1 image has an EXIF orientation, which is not applied: boxes must be those of the image as" in line

    def test_whose_orientation_cannot_be_told_by_their_sizes(self, root):
        assert "EXIF" not in validate(root)
        turn(root / "train2017/1.png", 3)
        assert (
            "1 image has an EXIF orientation, which is applied: boxes must be those of the image turned upright, or "
            "set data.exif_orientation=False"
        ) in validate(root)
        turn(root / "train2017/5.png", 2)
        assert "training: " in validate(root) and ", 2 images have an EXIF orientation" in validate(root)

    def test_listed_twice(self, root):
        change(root, lambda content: content["images"][2].update(file_name="1.png"))
        assert "1 image is listed more than once" in validate(root)

    @CHECKS
    def test_that_cannot_be_decoded(self, root, check):
        path = root / "train2017/1.png"
        path.write_bytes(path.read_bytes()[:900])
        line = message(root, check=check)
        assert "1 of 32 training images tried cannot be decoded: repair or remove them" in line and "1.png" in line
        assert "training: " in validate(root, check=check, on_corrupt="skip")
        assert "1 of 32 images tried cannot be decoded and is skipped" in validate(root, check=check, on_corrupt="skip")

    def test_that_are_no_images(self, root):
        (root / "train2017/5.png").write_bytes(b"<html>")
        assert "1 of 33 training images tried cannot be decoded" in message(root)

    def test_of_which_none_can_be_decoded(self, root):
        for path in (root / "val2017").iterdir():
            path.write_bytes(b"")
        line = message(root, on_corrupt="skip")
        assert "none of the 2 evaluation images tried can be decoded: the data set as a whole looks unreadable" in line

    def test_in_both_halves(self, root):
        def edit(content):
            content["images"][0]["file_name"] = "../train2017/1.png"

        change(root, edit, VAL)
        for half in ("train2017", "val2017"):
            shutil.copytree(root / half, root / "images", dirs_exist_ok=True)
            shutil.rmtree(root / half)
        change(root, lambda content: content["images"][0].update(file_name="1.png"), VAL)
        assert "; 1 evaluation image is trained on, too" in validate(root)

    def test_progress(self, root, monkeypatch):
        monkeypatch.setattr(checks, "_SECONDS_BETWEEN_REPORTS", -1)
        lines: list[str] = []
        validate(root, progress=lines.append)
        assert "checked 40 of 40 training image sizes" in lines


def test_a_source_without_images(root):
    source = DigitObjectsSource("train", count=0)
    with pytest.raises(UserError, match="the training data has no images"):
        DetectionChecks(10, needs_masks=False).validate(source, source)


def test_grey_images_are_decoded_like_others(root):
    with Image.open(root / "train2017/1.png") as image:
        image.convert("L").save(root / "train2017/1.png")
    assert validate(root)
