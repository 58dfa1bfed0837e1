"""Data sets in the format of YOLO: what data.yaml names, labels beside them, and what is wrong with either."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.formats.yolo.label_file import area, read_labels
from pvt_jax.data.objects import decode_mask
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.ground_truth import ground_truth
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.detection_data import save
from tests.helpers.voc_data import write_flat

SIZE = (20, 40)
YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
LABELS = {
    "train/0": "0 0.5 0.5 0.25 0.5\n1 .25 0.25 0.5 5e-1\n",
    "train/1": "1 0.5 0.5 1 1\n",
    "val/2": "0 0.5 0.5 1 1",
}


def write(root: Path, labels: dict[str, str | None] = LABELS, yaml: str | None = YAML, images: str = "images/") -> Path:
    for stem, text in labels.items():
        image = root / f"{images}{stem}.jpg"
        save(image, np.zeros((*SIZE, 3), np.uint8))
        path = root / f"{images.replace('images', 'labels')}{stem.replace('images', 'labels')}.txt"
        if text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def opened(root: Path, split: Any = "train", **rest: Any) -> Any:
    request = {key: rest.pop(key) for key in ("train_split", "eval_split", "holdout") if key in rest}
    found, names = recognise_folder(
        OBJECTS,
        str(root),
        train_split=request.get("train_split", ""),
        options=ObjectOptions(**rest),
        holdout=request.get("holdout", 0),
    )
    assert found == "yolo"
    options = ObjectOptions(**{"num_classes": len(names), **rest})
    return open_source(OBJECTS, "yolo", Request(split, root=str(root), options=options, **request))


def files(source: Any, root: Path) -> list[str]:
    return [os.path.relpath(source.path(index), root) for index in range(len(source))]


def message(root: Path, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestObjects:
    def test_boxes_are_in_pixels(self, tmp_path):
        source = opened(write(tmp_path))
        assert isinstance(source, DetectionSource) and source.class_names == ("cat", "dog")
        for one in (source, pickle.loads(pickle.dumps(source))):
            assert one.objects(0).boxes.tolist() == [[15, 5, 25, 15], [0, 0, 20, 10]]
            assert one.objects(0).labels.tolist() == [0, 1] and one.objects(0).areas.tolist() == [100, 200]
        assert source.sizes().tolist() == [list(SIZE)] * 2 and not source.has_masks
        assert opened(tmp_path, "eval").image_id(0) == "images/val/2" and source.category_ids == (0, 1)

    def test_polygons_are_masks(self, tmp_path):
        polygon = "1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75"
        source = opened(write(tmp_path, {**LABELS, "train/1": f"0 .5 .5 .5 .5\n{polygon}\n"}), with_masks=True)
        assert source.has_masks and source.without_masks() == 3
        objects = pickle.loads(pickle.dumps(source)).objects(1)
        assert objects.boxes.tolist() == [[10, 5, 30, 15], [10, 5, 20, 15]] and objects.areas.tolist() == [200, 100]
        assert objects.masks[0] is None and objects.masks[1] == [[10, 5, 20, 5, 20, 15, 10, 15]]
        expected = np.zeros(SIZE, np.uint8)
        expected[5:15, 10:20] = 1
        np.testing.assert_array_equal(source.masks(1, objects.take(np.array([1])))[0], expected)
        np.testing.assert_array_equal(decode_mask(objects.masks[1], SIZE), expected)
        annotations = ground_truth(source)["annotations"]
        assert [annotation.get("segmentation") is not None for annotation in annotations] == [False] * 3 + [True]
        (tmp_path / "labels/train/1.txt").write_text("\n\n")
        with pytest.raises(UserError, match="1.txt was changed since the run started"):
            source.objects(1)

    def test_background(self, tmp_path):
        write(tmp_path, {**LABELS, "train/1": "", "train/8": None, "train/9": " \n"})
        source = opened(tmp_path)
        assert source.counts().tolist() == [2, 0, 0, 0]
        assert "1 image without a label file taken for background" in source.notes()
        assert len(opened(tmp_path, keep_empty=False)) == 1

    def test_some_classes(self, tmp_path):
        source = opened(write(tmp_path), class_names=("dog",))
        assert source.class_names == ("dog",) and source.category_ids == (1,)
        assert [source.objects(n).labels.tolist() for n in (0, 1)] == [[0], [0]]
        assert "1 objects of other classes are left out" in source.notes()

    def test_lines_that_repeat(self, tmp_path):
        source = opened(write(tmp_path, {**LABELS, "train/1": "0 .5 .5 1 1\n0 0.5 0.5 1.0 1\n"}))
        assert len(source.objects(1)) == 1 and "1 repeated line left out" in source.notes()

    def test_key_points_are_not_polygons(self, tmp_path):
        yaml = f"{YAML}kpt_shape: [2, 2]\n"
        source = opened(write(tmp_path, {**LABELS, "train/1": "0 .5 .5 .5 .5 .1 .1 .2 .2"}, yaml), with_masks=True)
        assert source.objects(1).boxes.tolist() == [[10, 5, 30, 15]] and not source.has_masks

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_what_is_written_is_read(self, data):
        objects = data.draw(
            st.lists(st.tuples(st.integers(0, 4), st.lists(st.floats(0, 1), min_size=4, max_size=12)), max_size=5)
        )
        objects = [(label, values[: len(values) // 2 * 2]) for label, values in objects]
        lines = [" ".join(map(repr, [label, *values])) for label, values in objects]
        problems = Problems("x")
        found = read_labels("\r\n".join(lines).encode("utf-8-sig"), "x.txt", 5, problems)
        problems.check()
        kept = dict.fromkeys((label, *values) for label, values in objects)
        assert found.labels == [label for label, *_ in kept]
        assert found.polygons == [list(values) if len(values) > 4 else [] for _, *values in kept]
        assert found.repeated == len(objects) - len(kept)

    def test_areas(self):
        assert area([0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]) == 0.25 and area([0, 0, 0, 1, 1, 0]) == 0.5


class TestPlaces:
    @pytest.mark.parametrize(
        ("train", "base"),
        [
            ("images/train", "."),
            ("../images/train", ""),
            ("./images/train/", "''"),
            ("images\\train", "C:\\data\\mine"),
            ("D:\\data\\images\\train", ""),
            ("/home/me/set/images/train", "/home/me/set"),
            ("[images/train]", ""),
            ("train.txt", ""),
            ("C:\\x\\train.txt", ""),
        ],
    )
    def test_as_machines_write_them(self, tmp_path, train, base):
        write(tmp_path, yaml=f"path: {base}\ntrain: {train}\nval: images/val\nnc: 2\nnames:\n  0: cat\n  1: dog\n")
        (tmp_path / "train.txt").write_text("./images/train/1.jpg\nC:\\x\\images\\train\\0.JPG\n\n")
        names = ["images/train/0.jpg", "images/train/1.jpg"]
        assert files(opened(tmp_path), tmp_path) == (names[::-1] if ".txt" in train else names)

    def test_several_folders(self, tmp_path):
        write(
            tmp_path, {**LABELS, "more/5": "0 .5 .5 1 1"}, YAML.replace("images/train", "[images/more, images/train]")
        )
        assert files(opened(tmp_path), tmp_path) == [f"images/{x}.jpg" for x in ("more/5", "train/0", "train/1")]

    def test_beside_the_images(self, tmp_path):
        for stem, text in LABELS.items():
            save(tmp_path / f"{stem}.png", np.zeros((*SIZE, 3), np.uint8))
            (tmp_path / f"{stem}.txt").write_text(text)
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        assert files(opened(tmp_path), tmp_path) == ["train/0.png", "train/1.png"]
        assert opened(tmp_path, "eval").class_names == ("cat", "dog")

    def test_roboflow(self, tmp_path):
        """Its paths lead out of the folder, and classes may be called as YAML calls truth."""
        labels = {f"{split}/images/{n}": "1 .5 .5 1 1" for split in ("train", "valid", "test") for n in range(2)}
        yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['no', yes]\n"
        write(tmp_path, labels, yaml, images="")
        for name, split, rest in (
            ("train", "train", {}),
            ("valid", "eval", {}),
            ("test", "eval", {"eval_split": "test"}),
        ):
            source = opened(tmp_path, split, **rest)
            assert files(source, tmp_path) == [f"{name}/images/{n}.jpg" for n in range(2)]
            assert source.class_names == ("no", "yes")

    def test_test_is_evaluated_on_for_lack_of_others(self, tmp_path):
        source = opened(write(tmp_path, yaml=YAML.replace("val:", "test:")), "eval")
        assert "'test' is used, as there is no val or valid or validation" in source.notes()

    @pytest.mark.parametrize("images", ["images/", "obj_train_data/", "", "pics/images/"])
    def test_divided_by_holdout(self, tmp_path, images):
        labels = {str(n): "0 .5 .5 1 1" for n in range(10)}
        write(tmp_path, labels, None, images)
        if "images" not in images:
            assert not (tmp_path / "labels").exists()
        (tmp_path / ("obj.names" if "obj" in images else "classes.txt")).write_text("cat\n")
        halves = [opened(tmp_path, split, holdout=0.2) for split in ("train", "eval")]
        assert [len(half) for half in halves] == [8, 2]
        assert {*files(halves[0], tmp_path), *files(halves[1], tmp_path)} == {f"{images}{n}.jpg" for n in range(10)}
        assert "; add --config.data.holdout=0.2, which keeps" in message(tmp_path)

    def test_the_training_data_of_a_description_is_divided(self, tmp_path):
        labels = {f"train/{n}": "0 .5 .5 1 1" for n in range(10)}
        write(tmp_path, labels)
        assert [len(opened(tmp_path, split, holdout=0.2)) for split in ("train", "eval")] == [8, 2]
        line = message(tmp_path, "eval")
        assert line.startswith(
            f"no evaluation images by {tmp_path}/data.yaml: val is images/val, which is not there; add"
        )
        save(tmp_path / "images/val/0.jpg", np.zeros((*SIZE, 3), np.uint8))
        assert message(tmp_path, holdout=0.2).startswith(
            f"data.holdout=0.2 is for data without a validation split, but there is one, val in {tmp_path}/data.yaml: "
        )

    def test_a_folder_of_voc_is_none_of_yolo(self, tmp_path):
        write_flat(tmp_path)
        (tmp_path / "settings.yaml").write_text("names: [a]\n")
        (tmp_path / "train.txt").write_text("0\n1\n")
        assert recognise_folder(OBJECTS, str(tmp_path), options=ObjectOptions())[0] == "voc"


class TestRefused:
    @pytest.mark.parametrize(
        ("line", "what", "rest"),
        [
            (
                "2 .5 .5 1 1",
                "name a class that is not there",
                ": class 2, where names has 2, 0 to 1: correct it, or add",
            ),
            ("-1 .5 .5 1 1", "begin with no class", ": -1: write its number, from 0"),
            ("0.5 .5 .5 1 1", "begin with no class", ": 0.5: write its number, from 0"),
            ("0 .5 .5 1", "are neither a box nor a polygon", ", which has 4 numbers: write class x y width height, or"),
            ("0 .5 .5 1 1 .9", "are neither a box nor a polygon", ", which has 6 numbers: write class x y width"),
            ("0 20 10 4 4", "are no fractions of width and height", ": divide x by the width and y by the height of"),
            ("0 nan .5 1 1", "are no fractions of width and height", ": divide x by the width and y by the height of"),
            ("cat .5 .5 1 1", "are no numbers", ": 'cat .5 .5 1 1': write class x y width height, or class and the"),
        ],
    )
    def test_lines(self, tmp_path, line, what, rest):
        write(tmp_path, {**LABELS, "train/1": f"0 .5 .5 1 1\n{line}\n"})
        first = f"the first is {tmp_path}/labels/train/1.txt, line 2"
        assert message(tmp_path).startswith(f"{tmp_path}/data.yaml: 1 lines of labels {what}, {first}{rest}")

    @pytest.mark.parametrize(
        ("yaml", "what"),
        [
            (YAML.replace("[cat, dog]", "{0: cat, 2: dog}"), "names must number the classes 0, 1, 2, … without gaps"),
            (YAML.replace("[cat, dog]", "cat"), "names must list the classes, as names: [cat, dog]: correct it"),
            (f"{YAML}nc: 3\n", "nc is 3, but names has 2 classes: correct one"),
            (YAML.replace("dog]", "dog"), "cannot be read in line 5 (expected ',' or ']', but got '<stream end>')"),
            (YAML.replace("path: .", "path: [a]"), "path must be a folder, but is ['a']: correct it"),
        ],
    )
    def test_descriptions(self, tmp_path, yaml, what):
        line = message(write(tmp_path, yaml=yaml))
        assert line.startswith(f"{tmp_path}/data.yaml") and what in line

    def test_no_names(self, tmp_path):
        line = message(write(tmp_path, yaml=None))
        assert line.startswith(
            f"{tmp_path} has labels of YOLO, but nothing names their classes: write data.yaml with the"
        )

    def test_no_labels(self, tmp_path):
        write(tmp_path)
        shutil.rmtree(tmp_path / "labels/train")
        line = f"none of the 2 training images in {tmp_path}/data.yaml has a label file: that of the first would be "
        assert message(tmp_path).startswith(f"{line}{tmp_path}/images/train/0.txt; put them there")

    def test_lists(self, tmp_path):
        write(tmp_path, yaml=YAML.replace("images/train", "train.txt"))
        (tmp_path / "train.txt").write_text("images/train/0.jpg\nimages/train/7.jpg\n")
        assert message(tmp_path) == (
            f"{tmp_path}/train.txt: 1 images of the list are missing, the first is images/train/7.jpg: fetch them, or "
            f"correct the list"
        )

    def test_several_descriptions(self, tmp_path):
        write(tmp_path, yaml=None)
        for name in ("a.yaml", "b.yml"):
            (tmp_path / name).write_text(YAML)
        assert message(tmp_path) == (
            f"{tmp_path} has several descriptions of data, a.yaml, b.yml: name one, as "
            f"--config.detection.annotations=a.yaml"
        )
        assert len(opened(tmp_path, annotations="b.yml")) == 2


def test_label_studios_notes_are_not_taken_for_cocos_json(tmp_path):
    """Its export of YOLO: images, labels, classes.txt, and a JSON of the categories alone."""
    write(tmp_path, {"0": "0 0.5 0.5 0.25 0.5\n", "1": "1 0.5 0.5 1 1\n"}, yaml=None)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}}')
    assert len(opened(tmp_path, holdout=0.5)) == 1
    # A mistake in what is YOLO's is told, not that the JSON holds no images.
    (tmp_path / "classes.txt").unlink()
    assert "notes.json" not in message(tmp_path, holdout=0.5)
