"""Data sets in COCO's format: where they are found, what is read of them, and what is refused, in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.coco import json_file as coco_json
from pvt_jax.data.formats.coco import source as coco
from pvt_jax.data.formats.layouts import HOLD_OUT
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.ground_truth import ground_truth
from pvt_jax.tasks.detection.metrics import coco_metrics
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.detection_data import COCO_LAYOUTS, save, write_coco, write_json

TRAIN = "annotations/instances_train2017.json"
VAL = "annotations/instances_val2017.json"


def opened(root: Path | str, split: Any = "train", num_classes: int = 10, **rest: Any) -> Any:
    splits = {key: rest.pop(key) for key in ("train_split", "eval_split") if key in rest}
    options = ObjectOptions(num_classes, **{"keep_empty": False, **rest})
    return open_source(OBJECTS, "coco", Request(split, root=str(root), options=options, **splits))


def message(root: Path | str, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    return root, write_coco(root, growth=8)


@pytest.fixture
def root(written, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(written[0], tmp_path / "data"))


def change(root: Path, edit: Callable[[dict[str, Any]], Any], path: str = TRAIN) -> None:
    content = json.loads((root / path).read_text())
    edit(content)
    write_json(root / path, content)


class TestLayouts:
    @pytest.mark.parametrize("layout", COCO_LAYOUTS)
    def test_found_by_themselves(self, tmp_path, layout):
        scenes = write_coco(tmp_path, layout, count=2, eval_count=1)
        for split, (_, folder), half in zip(("train", "eval"), COCO_LAYOUTS[layout], scenes.values(), strict=True):
            source = opened(tmp_path, split)
            assert len(source) == len(half) and os.path.dirname(source.name(0)) == str(tmp_path / folder)

    @pytest.mark.parametrize(
        "path", ["my-train-labels.json", "annotations/Instances_Train.json", "train/result.json", "train.json"]
    )
    def test_named_by_other_tools(self, tmp_path, path):
        write_coco(tmp_path, "plain", count=2)
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.move(tmp_path / "annotations/train.json", tmp_path / path)
        # It holds no instances.
        write_json(tmp_path / "annotations/captions_train2017.json", {})
        assert len(opened(tmp_path)) == 2

    def test_named_in_the_config(self, tmp_path):
        write_coco(tmp_path, "plain", count=2)
        shutil.move(tmp_path / "annotations/train.json", tmp_path / "fold3_fit.json")
        shutil.move(tmp_path / "images", tmp_path / "pictures_fit")
        named = {"annotations": "fold3_{split}.json", "train_split": "fit"}
        assert len(opened(tmp_path, image_folder="pictures_{split}", **named)) == 2
        assert "'fold3.json' has no {split}" in message(tmp_path, annotations="fold3.json")
        line = message(tmp_path, **named)
        assert "none of the images" in line and "such as '1.png': looked in . of" in line
        assert "set detection.image_folder" in line

    def test_paths_of_another_machine(self, root):
        change(root, lambda content: content["images"][0].update(file_name="C:\\data\\1.png"))
        change(root, lambda content: content["images"][1].update(file_name="/data/local/2.png"))
        assert os.path.basename(opened(root).name(0)) == "1.png"

    def test_nothing_there(self, tmp_path, root):
        assert "needs data.root" in message("")
        (root / TRAIN).unlink()
        line = message(root)
        assert f"no training annotations in {root}: looked for annotations/instances_{{split}}.json, " in line
        assert "it holds annotations/, train2017/, val2017/, and annotations/ instances_val2017.json" in line
        assert "{split}/labels.json, with train2017 or train or trainval or training for {split}; " in line
        assert ", with day for {split}" in message(root, "eval", eval_split="day")
        assert f"did you mean --config.data.root={root}?" in message(root.parent, "eval")
        for name in "ab":
            write_json(root / f"{name}_train.json", {})
        line = message(root)
        assert "a_train.json, b_train.json all could be meant" in line
        assert "set detection.annotations" in line and "data.train_split" in line
        line = message(root, image_folder="photos/{split}", annotations="a_{split}.json")
        assert "has no list 'images'" in line
        line = message(root, "eval", image_folder="photos/{split}")
        assert f"there is no folder photos/val2017 in {root}: set detection.image_folder" in line

    @pytest.mark.parametrize("path", ["labels.json", "annotations/instances_default.json"])
    def test_one_file_for_all(self, tmp_path, path):
        write_coco(tmp_path, "plain", count=2)
        (tmp_path / "annotations/val.json").unlink()
        line = message(tmp_path, "eval")
        assert f"; {HOLD_OUT}, or move some images to one called val.json" in line
        shutil.move(tmp_path / "annotations/train.json", tmp_path / path)
        assert f"; {HOLD_OUT}, or split {path} into train.json and val.json" in message(tmp_path)

    def test_a_half_s_own_folder(self, tmp_path):
        write_coco(tmp_path, "roboflow", count=2)
        assert f"did you mean --config.data.root={tmp_path}?" in message(tmp_path / "train")
        shutil.rmtree(tmp_path / "valid")
        line = message(tmp_path, "eval")
        assert f"it holds train/; {HOLD_OUT}, or set detection.annotations" in line


class TestObjects:
    def test_boxes_classes_and_masks(self, written):
        root, scenes = written
        for split in ("train", "eval"):
            source = opened(root, split, with_masks=True)
            assert isinstance(source, DetectionSource) and source.has_masks and source.without_masks() == 0
            # Ids have gaps, and the file is not in their order: 2 is digit 1, and 90 digit 9.
            assert source.category_ids == (2, 3, 5, 7, 11, 13, 17, 19, 23, 90)
            assert source.class_names == ("1", "2", "3", "0", "4", "5", "6", "7", "8", "9")
            for one in (source, pickle.loads(pickle.dumps(source))):
                for index, scene in enumerate(scenes[split]):
                    objects = one.objects(index)
                    np.testing.assert_array_equal(objects.boxes, scene.boxes)
                    assert [one.class_names[label] for label in objects.labels] == [str(d) for d in scene.labels]
                    assert objects.areas.tolist() == [mask.sum() for mask in scene.masks]
                    for mask, expected in zip(one.masks(index, objects), scene.masks, strict=True):
                        np.testing.assert_array_equal(mask, expected)
            assert source.sizes().tolist() == [list(scene.label_map.shape) for scene in scenes[split]]
            assert source.counts().tolist() == [len(scene.labels) for scene in scenes[split]]
            assert source.most_objects() == max(len(scene.labels) for scene in scenes[split])
            assert source.image_id(1) == {"train": 2, "eval": 8}[split]
        assert "category ids 2 … 90 have gaps and are classes 0 … 9" in source.notes()

    def test_objects_do_not_read_images(self, root):
        source = opened(root, with_masks=True)
        shutil.rmtree(root / "train2017")
        assert len(source.objects(0)) and source.masks(0, source.objects(0))
        with pytest.raises(UserError, match="cannot read .*1.png"):
            source[0]

    def test_without_masks_none_are_read(self, written):
        source = opened(written[0])
        assert not source.has_masks and source.objects(0).masks is None

    def test_polygons_stay_in_the_file(self, root):
        """A worker is sent where they are, not what they are."""

        def add_points(content):
            for row in content["annotations"]:
                row["segmentation"] = [np.random.default_rng(0).uniform(0, 60, 4000).tolist()]

        change(root, add_points)
        source = opened(root, with_masks=True)
        assert len(pickle.dumps(source)) < 5000
        assert len(source.objects(0).masks[0][0]) == 4000
        write_json(root / TRAIN, {})
        with pytest.raises(UserError, match="was changed or removed since the run started"):
            source.objects(0)

    def test_crowd_regions(self, root):
        def edit(content):
            content["annotations"][0].update(iscrowd=1)
            del content["annotations"][1]["area"]

        counts = opened(root).counts()
        change(root, edit)
        source = opened(root)
        objects = source.objects(0)
        assert objects.crowd.tolist() == [True] + [False] * (len(objects) - 1)
        assert source.counts().tolist() == [counts[0] - 1, *counts[1:]]
        # Where a file has no area it is the box's.
        assert objects.areas[1] == np.prod(objects.boxes[1, 2:] - objects.boxes[1, :2])
        assert "and 1 crowd or difficult" in source.notes()[0]

    def test_images_without_objects(self, root):
        change(
            root, lambda content: content.update(annotations=[r for r in content["annotations"] if r["image_id"] != 2])
        )
        change(
            root,
            lambda content: content.update(annotations=[r for r in content["annotations"] if r["image_id"] != 8]),
            VAL,
        )
        train, everything, held_out = opened(root), opened(root, keep_empty=True), opened(root, "eval")
        assert [train.image_id(index) for index in range(len(train))] == [1, 3, 4, 5, 6]
        assert "1 training image without objects is left out (detection.keep_empty)" in train.notes()
        assert len(everything) == 6 and len(everything.objects(1)) == 0 and everything.objects(1).boxes.shape == (0, 4)
        assert len(held_out) == 3 and held_out.counts()[1] == 0
        for one, other in ((0, 0), (1, 2), (4, 5)):
            np.testing.assert_array_equal(train.objects(one).boxes, everything.objects(other).boxes)
            assert train.name(one) == everything.name(other) and len(train.image(one)) == len(everything.image(other))

    def test_images_with_crowd_regions_only_are_kept(self, root):
        """As mmdetection's filter does, which asks for annotations of any kind."""

        def edit(content):
            content["annotations"] = [r for r in content["annotations"] if r["image_id"] != 3]
            for record in content["annotations"]:
                record["iscrowd"] = int(record["image_id"] == 2)

        change(root, edit)
        train = opened(root)
        assert [train.image_id(index) for index in range(len(train))] == [1, 2, 4, 5, 6]
        assert train.counts()[1] == 0 and train.objects(1).crowd.all() and len(train.objects(1))
        np.testing.assert_array_equal(train.objects(2).boxes, opened(root, keep_empty=True).objects(3).boxes)

    def test_boxes_at_the_border(self, root):
        def edit(content):
            first, *others = [row for row in content["annotations"] if row["image_id"] == 1]
            first["bbox"] = [-3, 60, 10, 20]
            others[0]["bbox"] = [5, 5, 0, 12]
            content["annotations"].append({**first, "id": 1, "bbox": [0.4, 0.2, 63.8, 63.9]})

        before = opened(root)
        change(root, edit)
        source = opened(root)
        boxes = source.objects(0).boxes
        assert boxes[0].tolist() == [0, 60, 7, 64] and len(boxes) == len(before.objects(0))
        notes = source.notes()
        assert "1 box extending beyond the image clipped to it" in notes
        assert "1 box of less than a pixel dropped" in notes
        # What is evaluated is what the file says.
        truth = [row["bbox"] for row in ground_truth(source)["annotations"] if row["image_id"] == 1]
        assert truth[0] == [-3, 60, 10, 20] and truth[1] == [5, 5, 0, 12]

    def test_sizes_from_the_files_where_none_are_given(self, root):
        sizes = opened(root).sizes()

        def edit(content):
            for row in content["images"]:
                del row["height"]

        change(root, edit)
        np.testing.assert_array_equal(opened(root).sizes(), sizes)
        assert ground_truth(opened(root))["images"][1]["height"] == 72

    def test_ids_that_are_texts(self, root):
        def edit(content):
            for row in (*content["images"], *content["annotations"]):
                key = "file_name" in row and "id" or "image_id"
                row[key] = f"a{row[key]}"

        change(root, edit)
        source = opened(root)
        assert source.image_id(1) == "a2" and ground_truth(source)["annotations"][0]["image_id"] == "a1"

    def test_names_that_are_not_ascii(self, root):
        def edit(content):
            content["images"][0]["file_name"] = "éa.png"
            content["categories"][0]["name"] = "日"

        os.rename(root / "train2017/1.png", root / "train2017/éa.png")
        change(root, edit)
        escaped = opened(root)
        (root / TRAIN).write_text(json.dumps(json.loads((root / TRAIN).read_text()), ensure_ascii=False), "utf-8")
        for source in (escaped, opened(root, with_masks=True)):
            assert os.path.basename(source.name(0)) == "éa.png" and source.class_names[3] == "日"
        assert source.masks(0, source.objects(0))[0].any()

    def test_a_file_written_otherwise(self, root):
        """Annotations first, indented, with a byte order mark, and with lists of other things."""
        before = opened(root, with_masks=True)
        boxes = [before.objects(index).boxes for index in range(6)]
        masks = [before.masks(index, before.objects(index)) for index in range(6)]
        content = json.loads((root / TRAIN).read_text())
        content = {"licenses": [{"id": [1]}], "annotations": content.pop("annotations"), "extra": None, **content}
        (root / TRAIN).write_text("\ufeff" + json.dumps(content, indent=1) + "\r\n\t ", "utf-8")
        source = opened(root, with_masks=True)
        for index in range(6):
            objects = source.objects(index)
            np.testing.assert_array_equal(objects.boxes, boxes[index])
            np.testing.assert_array_equal(source.masks(index, objects), masks[index])


class TestClasses:
    def test_chosen_by_name_in_another_order(self, root):
        everything = opened(root)
        source = opened(root, num_classes=2, class_names=("7", "1"), keep_empty=True)
        assert source.class_names == ("7", "1") and source.category_ids == (19, 2)
        assert source.counts().sum() == sum(
            everything.class_names[label] in "71" for i in range(6) for label in everything.objects(i).labels
        )
        left_out = int(everything.counts().sum() - source.counts().sum())
        assert f"{left_out} annotations of other classes are left out" in source.notes()
        assert "has '77', which" in message(root, num_classes=1, class_names=("77",))
        assert "detection.class_names has '7' twice" in message(root, num_classes=2, class_names=("7", "7"))

    @pytest.mark.parametrize("name", ["digits", "3"])
    def test_roboflow_s_project_is_no_class(self, root, name):
        def edit(content):
            content["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
            for row in content["categories"][1:]:
                row["supercategory"] = name

        change(root, edit)
        assert opened(root).class_names[0] == "1" and len(opened(root).class_names) == 10
        if name == "digits":
            # Another half may have objects of it: the model says how many classes there are.
            assert opened(root, num_classes=11).class_names[0] == "digits"
        change(root, lambda content: content["annotations"][0].update(category_id=0))
        line = message(root)
        assert "has 11 classes but model.num_classes is 10" in line or "names categories 0 and 5 '3'" in line

    def test_another_number_than_the_model_s(self, root):
        line = message(root, num_classes=80)
        assert line == (f"{root / TRAIN} has 10 classes but model.num_classes is 80: set --config.model.num_classes=10")

    def test_another_number_than_the_training_s(self, root):
        change(root, lambda content: content["categories"].append({"id": 91, "name": "ten"}), VAL)
        line = message(root, "eval")
        assert (
            f"{root / VAL} has 11 categories (1, 2, 3, 0, 4, 5, 6, 7 and 3 more) and the training annotations 10"
            in line
        )
        assert "list the same categories in both" in line
        chosen = {"class_names": ("1", "7")}
        assert len(opened(root, "eval", 2, **chosen).class_names) == 2


def of(key: str, place: int, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[key][place].update(values)


def without(name: str, number: int, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[name][number].pop(key) and None


REFUSED = [
    (of("annotations", 0, bbox=[1, 2, 3]), "1 annotations have no bbox of four numbers, the first is {\"id\": 1000"),
    (of("annotations", 0, bbox=["1", "2", "3", "4"]), "no bbox of four numbers"),
    (of("annotations", 0, bbox=[float("nan"), 2, 3, 4]), "no bbox of four numbers"),
    (of("annotations", 0, bbox=[float("inf"), 2, 3, 4]), "no bbox of four numbers"),
    (of("annotations", 0, bbox=None, segmentation=[]), "a bbox is [x, y, width, height] in pixels"),
    (of("annotations", 0, bbox=[1, 2, 3, 10**499]), 'annotations have no bbox of four numbers, the first is {"id": 1'),
    (of("annotations", 0, iscrowd=[1]), '1 annotations have an iscrowd that is neither 0 nor 1, the first is {"id": 1'),
    (of("annotations", 0, iscrowd="false"), "\"iscrowd\": \"false\"}: write 1 for a crowd region, and 0 for an object"),
    (of("annotations", 0, iscrowd="0"), "1 annotations have an iscrowd that is neither 0 nor 1"),
    (of("annotations", 0, iscrowd=2), "1 annotations have an iscrowd that is neither 0 nor 1"),
    (of("annotations", 0, bbox=[], segmentation=[[1, 2]]), "no bbox of four numbers"),
    (lambda content: content["annotations"].append(7), "1 annotations have no bbox of four numbers, the first is 7"),
    (of("annotations", 2, image_id=99), "1 annotations have an unknown image_id, the first is annotation 1002, whose "
     "image_id is 99: remove them, or add what is missing to images"),
    (of("annotations", 2, image_id="1"), "1 annotations have a text as image_id, the first is annotation 1002, whose "
     "image_id is '1' where images have 1: write it as the ids of images are written"),
    (of("annotations", 2, image_id="x"), "whose image_id is 'x': remove them"),
    (of("annotations", 2, image_id=True), "1 annotations have an unknown image_id, the first is annotation 1002, whose "
     "image_id is True"),
    (of("annotations", 2, image_id=1.5), "whose image_id is 1.5: remove them"),
    (of("annotations", 2, image_id=10**499), f"whose image_id is 1{'0' * 159}…: remove them"),
    (of("annotations", 2, category_id="7"), "1 annotations have a text as category_id, the first is annotation 1002, "
     "whose category_id is '7' where categories have 7: write it as the ids of categories are written"),
    (of("annotations", 2, image_id=[1]), "whose image_id is [1]"),
    (without("annotations", 2, "image_id"), "whose image_id is None"),
    (of("annotations", 2, category_id=1), "1 annotations have an unknown category_id, the first is annotation 1002"),
    (of("images", 1, id=1), "1 ids of images are given twice, the first is id 1: give each its own (1 other kind"),
    (of("images", 1, id=1.5), "1 images have an id that is no whole number"),
    (of("images", 1, file_name=""), "1 images have no file_name"),
    (without("images", 1, "file_name"), "1 images have no file_name, the first is {\"id\": 2"),
    (of("images", 1, height=0.5), "height or width that is no size"),
    (of("images", 1, width="8"), "height or width that is no size"),
    (of("categories", 1, id=7), "1 ids of categories are given twice, the first is id 7"),
    (of("images", 1, id=1.0), "1 ids of images are given twice, the first is id 1: "),
    (of("images", 1, id=2e300), "1 images have an id that is no whole number"),
    (of("categories", 1, id="two"), "1 categories have an id that is no whole number"),
    (without("categories", 1, "name"), "1 categories have no name"),
    (of("categories", 1, name="0"), "names categories 2 and 7 '0': give each class a name of its own"),
    (of("categories", 1, name="a\nb"), "has a class whose name is not a single line of text, 'a\\nb': rename it"),
    (of("categories", 1, name="\udce9"), "has a class whose name is not a single line of text"),
    (lambda content: content.update(images=[], annotations=[]), "lists no images"),
    (lambda content: content.update(categories=[], annotations=[]), "lists no categories"),
    (lambda content: content.update(annotations=[]), "none of the 6 training images has an object: annotate some"),
    (lambda content: content.update(annotations=[{**content["annotations"][0], "bbox": [5, 5, 0.5, 9]}]),
     "none of the 6 training images has an object (1 box of less than a pixel dropped): annotate some"),
    (lambda content: content.update(annotations={}), "has no list 'annotations' (it is something else)"),
    (lambda content: content.pop("annotations"), "has no list 'annotations' (it holds categories, images, info)"),
    (of("annotations", 0, bbox=[1, 2, -3, 4]), "of 19 boxes have a negative width or height, the first is annotation "
     "1000, bbox [1, 2, -3, 4] (x, y, width, height) in 1.png, 64×64 (width × height)"),
    (of("annotations", 0, bbox=[80, 2, 3, 4]), "1 of 19 boxes are wholly outside their image"),
    (of("annotations", 0, bbox=[2, -9, 3, 4]), "were the images resized after they were annotated?"),
    (of("images", 0, file_name="9.png"), "1 of the 6 images that"),
    (of("images", 0, file_name="\ud800"), "are missing in"),
]  # fmt: skip

REFUSED_MASKS = [
    ([[1, 2, 3, 4]], '1 annotations have a polygon of less than three points, the first is {"id": 1000, '),
    ([[1, 2, 3, 4]], "0}: each is a list [x, y, x, y, x, y, …] of numbers"),
    ([[0, 0, 10**400, 0, 9, 9.5]], "1 annotations have a polygon with a point more than 100,000 pixels away"),
    ("yes", "neither polygons nor run lengths"),
    ({"size": [64, 64], "counts": [1, 2]}, "run lengths that do not add up to the size of the image"),
    ({"size": [64, 64], "counts": "0a"}, "annotations have run lengths whose counts are no compressed text of COCO's"),
    ({"size": [64, 64], "counts": "5"}, "run lengths that do not add up to the size of the image"),
    ({"size": [32, 64], "counts": [2048]}, "1 masks have another size than their images, the first is annotation 1000, "
     "32×64 in 1.png, 64×64 (height × width)"),
]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("edit,expected", REFUSED)
    def test_content(self, root, edit, expected):
        change(root, edit)
        line = message(root)
        assert expected in line and (TRAIN in line or str(root) in line)

    @pytest.mark.parametrize("mask,expected", REFUSED_MASKS)
    def test_masks(self, root, mask, expected):
        change(root, of("annotations", 0, segmentation=mask))
        assert expected in message(root, with_masks=True)
        # Who wants no masks is not asked to mend them.
        assert len(opened(root)) == 6

    def test_masks_that_were_changed_since(self, root):
        whole, cut = json.dumps({"size": [64, 64], "counts": "PP4"}), json.dumps({"size": [64, 64], "counts": "PP`"})
        change(root, of("annotations", 0, segmentation=json.loads(whole)))
        source = opened(root, with_masks=True)
        assert source.masks(0, source.objects(0))[0].sum() == 0
        (root / TRAIN).write_text((root / TRAIN).read_text().replace(whole, cut))
        with pytest.raises(UserError, match="a mask of .*1.png cannot be decoded"):
            source.masks(0, source.objects(0))

    def test_all_of_a_kind_are_counted(self, root):
        def edit(content):
            for row in content["annotations"][:1200]:
                row["bbox"] = "box"

        change(root, edit)
        assert "19 annotations have no bbox of four numbers" in message(root)

    @pytest.mark.parametrize("split,path", [("train", TRAIN), ("eval", VAL)])
    def test_corners(self, root, split, path):
        def edit(content):
            for row in content["annotations"]:
                x, y, width, height = row["bbox"]
                row["bbox"] = [x, y, x + width, y + height]

        assert opened(root, split)
        change(root, edit, path)
        rows = json.loads((root / path).read_text())["annotations"]
        sides = {image["id"]: image["width"] for image in json.loads((root / path).read_text())["images"]}
        out = [
            row
            for row in rows
            if any(row["bbox"][axis] + row["bbox"][axis + 2] > 1.1 * sides[row["image_id"]] for axis in (0, 1))
        ]
        box = ", ".join(f"{value:g}" for value in out[0]["bbox"])
        line = message(root, split)
        assert line.startswith(
            f"{root / path}: {len(out)} of {len(rows)} boxes extend far beyond their image, but not if they are "
            f"[x1, y1, x2, y2], the first is annotation {out[0]['id']}, bbox [{box}] (x, y, width, height) in "
        )
        assert line.endswith("write each bbox as [x, y, width, height], with width x2 - x1 and height y2 - y1")

    def test_fractions(self, root):
        def edit(content):
            for row in content["annotations"]:
                row["bbox"] = [0.1, 0.1, 0.5, 0.5]

        change(root, edit)
        assert "19 of 19 boxes lie within 1 pixel" in message(root) and "write them in pixels" in message(root)

    @pytest.mark.parametrize(
        "text,expected",
        [
            (b"", "is no JSON: the file ends too early"),
            (b"{", "the file ends too early, as if it was cut: fetch or export it again"),
            (b'{"images": [{"id": 1', "the file ends too early"),
            (b'{"images": [{"id": 1}]', "the file ends too early"),
            (b'{"images": [1,]}', "is no JSON: Expecting value at line 1, column 15"),
            (b'{"images": [1 2]}', "at line 1, column 15"),
            (b'{"images": [],\n "categories" []}', "at line 2, column 15"),
            (b"{} {}", "Extra data at line 1, column 4"),
            (b'{"annotations": ' + b"[" * 100_000, "is no JSON"),
            (b"<xml>", "is no JSON"),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "is no JSON: it is a pointer of Git LFS: run git lfs pull",
            ),
            (
                b"<!doctype html><html>",
                "is no JSON: it is an HTML page, as servers send for lack of a file: download it",
            ),
            (b"[]", "is a list, and COCO's format an object"),
            (b"{}", "has no list 'images' (it holds nothing)"),
            (b'{"images": {}, "version": 1}', "has no list 'images' (it is something else)"),
            (
                b'{"categories": [{"id": 1, "name": "caf\xe9"}]}',
                """ is not UTF-8: byte 0xE9 in line 1, which reads '{"id": 1, "name": "café"}' in CP1252""",
            ),
            (
                b'{"annotations":\n[\n{"id": 1, "note": "caf\xe9"}]}',
                "; save it as UTF-8, as `iconv -f CP1252 -t UTF-8` does",
            ),
            (b'{"annotations":\n[\n{"id": 1, "note": "caf\xe9"}]}', "byte 0xE9 in line 3, which reads"),
            (
                b'{"annotations": [{"id": 1' + b"0" * 5000 + b"}]}",
                "is no JSON of COCO (Exceeds the limit (4300 digits)",
            ),
            ("{}".encode("utf-16"), "has no list 'images' (it holds nothing)"),
            ('{"a" 1}'.encode("utf-16-be"), "is no JSON: Expecting : at line 1, column 6"),
            ("{}".encode("utf-32"), "is UTF-32: save the file as UTF-8"),
        ],
    )
    def test_files(self, root, text, expected):
        (root / TRAIN).write_bytes(text)
        line = message(root)
        assert expected in line and str(root / TRAIN) in line

    def test_missing_images(self, root):
        for name in ("2", "5"):
            (root / f"train2017/{name}.png").unlink()
        line = message(root)
        assert f"2 of the 6 images that {root / TRAIN} lists are missing in {root / 'train2017'}: 2.png, 5.png" in line
        assert "fetch them, or remove them from the annotations" in line

    def test_files_whose_names_are_not_utf8(self, root):
        change(root, of("images", 0, file_name="\u00e9.png"))
        try:
            os.rename(root / "train2017/1.png", os.fsencode(root / "train2017") + b"/\xe9.png")
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
        assert "has '\\xe9.png', whose name is not UTF-8: rename the file" in message(root)
        # As Python writes such a name, it is found.
        change(root, of("images", 0, file_name="\udce9.png"))
        assert opened(root).name(0).endswith("\\xe9.png")


class TestGroundTruth:
    def test_average_precision_is_that_of_the_file(self, root):
        """pycocotools reads the file itself; crowd regions, odd boxes and small objects are in it."""
        coco_api = pytest.importorskip("pycocotools.coco", reason="pycocotools is the oracle: make test ORACLES=1")
        cocoeval = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is the oracle: make test ORACLES=1")

        def edit(content):
            content["annotations"][0].update(iscrowd=1)
            content["annotations"][1].update(bbox=[50, 40, 30, 30])
            content["annotations"][2].update(area=2000)

        change(root, edit, VAL)
        source = opened(root, "eval", with_masks=True)
        random = np.random.default_rng(0)
        results = []
        for row in json.loads((root / VAL).read_text())["annotations"]:
            for spread in (1, 4):
                box = (np.array(row["bbox"]) + random.normal(0, spread, 4)).tolist()
                found = {key: row[key] for key in ("image_id", "category_id")}
                results.append({**found, "bbox": box, "score": float(random.random())})
        reference = coco_api.COCO(str(root / VAL))
        evaluator = cocoeval.COCOeval(reference, reference.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        names = dict(zip(source.category_ids, source.class_names, strict=True))
        metrics = coco_metrics(ground_truth(source), results, False, names)
        assert 10 < metrics["AP"] < 90
        for place, name in ((0, "AP"), (1, "AP50"), (2, "AP75"), (3, "AP_small"), (4, "AP_medium")):
            assert metrics[name] == pytest.approx(100 * evaluator.stats[place], abs=1e-9)

    def test_has_numbers_as_they_were_understood(self, root):
        """Odd ones train and evaluate alike, and none of them ends a run at its first evaluation."""
        odd = [None, False, True, 0, 1, 0.0, 1.0]

        def edit(content):
            for row, value in zip(content["annotations"], odd, strict=False):
                row.update(iscrowd=value)
            del content["annotations"][7]["iscrowd"]
            for row, area in zip(content["annotations"], (None, "x", "10", float("nan"), -1, 10**400), strict=False):
                row.update(area=area)

        change(root, edit, VAL)
        source = opened(root, "eval", with_masks=True)
        truth = ground_truth(source)
        assert [row["iscrowd"] for row in truth["annotations"]][:8] == [0, 0, 1, 0, 1, 0, 1, 0]
        understood = np.concatenate([source.objects(index).crowd for index in range(len(source))])
        assert understood.tolist() == [row["iscrowd"] == 1 for row in truth["annotations"]]
        assert [row["area"] for row in truth["annotations"]] == [
            pytest.approx(area) for index in range(len(source)) for area in source.objects(index).areas
        ]
        content = json.loads((root / VAL).read_text())
        for row, said in zip(truth["annotations"], content["annotations"], strict=True):
            assert row["area"] == (said["area"] if row["id"] > 6 else said["bbox"][2] * said["bbox"][3])
        assert "6 areas that are missing or no number are those of the boxes" in source.notes()
        names = dict(zip(source.category_ids, source.class_names, strict=True))
        for masks in (False, True):
            assert coco_metrics(truth, [], masks, names)["AP"] == 0

    def test_one_area(self, root):
        change(root, without("annotations", 0, "area"))
        assert "1 area that is missing or no number is that of the box" in opened(root).notes()
        assert not any("area" in note for note in opened(root, "eval").notes())

    def test_numbers_of_pandas(self, root):
        """Columns with a gap are floats, and so are all whole numbers in them."""

        def edit(content):
            for row in (*content["images"], *content["categories"], *content["annotations"]):
                for key in ("id", "image_id", "category_id", "height", "iscrowd"):
                    row.update({key: float(row[key])} if key in row else {})
            for row in content["annotations"]:
                row["segmentation"]["size"] = [float(side) for side in row["segmentation"]["size"]]

        before = {split: opened(root, split, with_masks=True) for split in ("train", "eval")}
        truths = {split: ground_truth(source) for split, source in before.items()}
        masks = before["train"].masks(0, before["train"].objects(0))
        for path in (TRAIN, VAL):
            change(root, edit, path)
        for split, truth in truths.items():
            source = opened(root, split, with_masks=True)
            found = ground_truth(source)
            assert found == truth and source.category_ids == (2, 3, 5, 7, 11, 13, 17, 19, 23, 90)
            ids = [source.image_id(0), source.category_ids[0], found["annotations"][0]["image_id"]]
            ids += [found["annotations"][0]["category_id"], found["images"][0]["id"], found["categories"][0]["id"]]
            assert {type(one) for one in ids} == {int}
        source = opened(root, with_masks=True)
        for mask, expected in zip(source.masks(0, source.objects(0)), masks, strict=True):
            np.testing.assert_array_equal(mask, expected)

    def test_ids_that_are_not_ascii(self, root):
        def edit(content):
            for row in (*content["images"], *content["annotations"]):
                key = "id" if "file_name" in row else "image_id"
                row[key] = f"é{row[key]}"

        change(root, edit, VAL)
        (root / VAL).write_text(json.dumps(json.loads((root / VAL).read_text()), ensure_ascii=False), "utf-8")
        source = opened(root, "eval")
        assert {row["image_id"] for row in ground_truth(source)["annotations"]} == {"é7", "é8", "é9"}

    def test_what_nothing_reads_may_be_of_another_encoding(self, root):
        truth = ground_truth(opened(root, "eval"))
        (root / VAL).write_bytes(b'{"author": "caf\xe9", ' + (root / VAL).read_bytes()[1:])
        assert ground_truth(opened(root, "eval")) == truth

    def test_a_file_that_is_gone(self, root):
        source = opened(root, "eval")
        (root / VAL).unlink()
        with pytest.raises(UserError, match="cannot read .*val2017.json .*: put it back, or start again"):
            ground_truth(source)

    def test_a_first_annotation_of_number_0_counts(self, root):
        change(root, of("annotations", 0, id=0))
        change(root, of("annotations", 1, id=0))
        source = opened(root)
        assert [row["id"] for row in ground_truth(source)["annotations"]] == list(range(1, 20))
        assert "1 annotations have the id of another one and are renumbered" in source.notes()


def test_places_are_exact_whatever_the_file_looks_like(root):
    """Each annotation is read back from its own bytes, behind names of several bytes a letter."""
    content = json.loads((root / TRAIN).read_text())
    content = {"info": "日本語 é", **content}
    (root / TRAIN).write_text(json.dumps(content, ensure_ascii=False, indent=3), "utf-8")
    file = coco_json.read_coco(str(root / TRAIN), with_masks=True)
    assert list(coco_json.read_annotations(file.path, file.spans.tolist())) == content["annotations"]


def test_grows_no_image_folder_of_its_own(tmp_path):
    """Images in folders below the one that is found."""
    write_coco(tmp_path, "plain", count=2)
    save(tmp_path / "images/a/b/1.png", np.zeros((64, 64, 3), np.uint8))
    change(tmp_path, of("images", 0, file_name="a/b/1.png"), "annotations/train.json")
    assert opened(tmp_path).name(0) == str(tmp_path / "images/a/b/1.png")


def check_corners(boxes: np.ndarray, side: int = 100) -> None:
    """Checks boxes as a file has them, each in a picture of its own."""
    count = len(boxes)
    file = coco_json.CocoFile("train.json", owners=np.arange(count), boxes=boxes, ids=np.arange(count))
    coco._check_corners(file, np.full((count, 2), side), [f"{number}.jpg" for number in range(count)])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.1, 0.25, None])
def test_corners_are_told_from_boxes_that_reach_out(seed, spread):
    """Of objects in the middle, around it or anywhere; of all sizes."""
    random = np.random.default_rng(seed)
    middle = random.uniform(0, 100, (200, 2)) if spread is None else random.normal(50, 100 * spread, (200, 2))
    sides = np.exp(random.uniform(np.log(4), np.log(90), (200, 2)))
    whole = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
    corners = np.clip(whole, 0, 100)
    corners = corners[(corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)]
    with pytest.raises(UserError, match="write each bbox as"):
        check_corners(corners)
    # A few that are wrong in another way change nothing, and few boxes say nothing.
    corners[:3] = [[50, 50, 20, 20], [-9, 0, 5, 5], [0, 0, 0, 0]]
    with pytest.raises(UserError, match="write each bbox as"):
        check_corners(corners)
    check_corners(corners[:9])
    # Of COCO's format, clipped or not, and even where pictures were made smaller after they were annotated.
    for found in (corners[3:], whole):
        check_corners(np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], axis=1))
        check_corners(1.5 * np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], axis=1))


def test_large_objects_of_which_pictures_show_a_part():
    """Portraits: each begins at the upper left, is larger than where it begins, and goes on below the picture."""
    random = np.random.default_rng(0)
    starts, sides = random.uniform(-4, 20, (200, 2)), random.uniform(60, 120, (200, 2))
    check_corners(np.concatenate([starts, sides], axis=1))
