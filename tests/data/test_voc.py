"""Data sets in the format of Pascal VOC: where they are found, what is read of them, and what is refused."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.sources.detection import DetectionOptions, DetectionSource, open_detection_source
from pvt_jax.errors import UserError
from tests.helpers.detection_data import save, voc_xml, write_voc


def opened(root: Path | str, split: Any = "train", num_classes: int = 2, **rest: Any) -> Any:
    splits = {key: rest.pop(key) for key in ("train_split", "eval_split") if key in rest}
    options = DetectionOptions(num_classes, **rest)
    return open_detection_source("voc", split=split, root=str(root), options=options, **splits)


def message(root: Path | str, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    line = str(caught.value)
    assert "\n" not in line
    return line


def write(path: Path, content: bytes = b"", image: str = "", size: tuple[int, int] = (20, 30)) -> None:
    """An XML file, and an image of (height, width) at ``image`` beside it or elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    save(path.parent / image, np.zeros((*size, 3), np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two classes in flat folders: 20 × 30 pixels, a cat in all three, a dog in the first."""
    for number, (split, objects) in enumerate(
        [
            ("train", [("dog", [1, 1, 10, 20]), ("cat", [11, 2, 30, 19])]),
            ("train", [("cat", [5, 5, 9, 9])]),
            ("valid", [("cat", [3, 4, 8, 16])]),
        ]
    ):
        write(tmp_path / f"{split}/{number}.xml", voc_xml(f"{number}.jpg", (20, 30), objects), f"{number}.jpg")
    return tmp_path


class TestLayouts:
    @pytest.mark.parametrize("layout", ["voc", "flat"])
    def test_scenes(self, tmp_path, layout):
        scenes = write_voc(tmp_path, layout, count=6, growth=8)
        names = tuple(f"digit{digit}" for digit in range(10))
        (tmp_path / "classes.txt").write_text("\n".join(names))
        for split, half in scenes.items():
            source = opened(tmp_path, split, 10)
            assert isinstance(source, DetectionSource) and source.class_names == names
            for one in (source, pickle.loads(pickle.dumps(source))):
                for index, scene in enumerate(half):
                    objects = one.objects(index)
                    np.testing.assert_array_equal(objects.boxes, scene.boxes)
                    np.testing.assert_array_equal(objects.labels, scene.labels)
                    assert objects.areas.tolist() == np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1).tolist()
            with Image.open(source.path(1)) as image:
                np.testing.assert_array_equal(image, half[1].image)
            assert source.sizes().tolist() == [list(scene.label_map.shape) for scene in half]
            assert not source.has_masks and source.objects(0).masks is None
            assert source.image_id(1) == {"train": "scene_01", "eval": "scene_07"}[split]

    @pytest.mark.parametrize(
        "xml,image",
        [
            ("{}/Annotations", "{}/JPEGImages"),
            ("{}/annotations", "{}/images"),
            ("Annotations/{}", "JPEGImages/{}"),
            ("annotations/{}", "images/{}"),
        ],
    )
    def test_found_by_themselves(self, root, tmp_path, xml, image):
        other = tmp_path / "other"
        for split in ("train", "valid"):
            for path in sorted((root / split).iterdir()):
                folder = other / (xml if path.suffix == ".xml" else image).format(split)
                folder.mkdir(parents=True, exist_ok=True)
                shutil.move(path, folder)
        assert [os.path.relpath(opened(other).name(n), other) for n in (0, 1)] == [
            f"{image.format('train')}/{n}.jpg" for n in (0, 1)
        ]
        assert len(opened(other, "eval")) == 1

    def test_named_in_the_config(self, root):
        for half, name in (("train", "a"), ("valid", "b")):
            shutil.move(root / half, root / f"xml_{name}")
            (root / f"img_{name}").mkdir()
            for path in (root / f"xml_{name}").glob("*.jpg"):
                shutil.move(path, root / f"img_{name}")
        named = {"annotations": "xml_{split}", "image_folder": "img_{split}", "train_split": "a", "eval_split": "b"}
        assert len(opened(root, **named)) == 2 and len(opened(root, "eval", **named)) == 1
        assert "looked for xml_{split} + img_{split}, with c for {split}" in message(
            root, **{**named, "train_split": "c"}
        )

    def test_lists(self, tmp_path):
        write_voc(tmp_path, count=4)
        path = tmp_path / "ImageSets/Main/train.txt"
        path.write_text("scene_02  1\n\nscene_00 -1\r\n")
        source = opened(tmp_path, num_classes=1, class_names=("digit0",), keep_empty=True)
        assert [source.image_id(n) for n in range(len(source))] == ["scene_02", "scene_00"]
        path.write_text("scene_02\nscene_77\n")
        line = message(tmp_path)
        assert f"{path} lists 1 images that have no XML file in {tmp_path / 'Annotations'}: scene_77" in line
        path.write_text("scene_02\nscene_00\nscene_02\n")
        source = opened(tmp_path, num_classes=1, class_names=("digit0",), keep_empty=True)
        assert len(source) == 2 and "1 lines of the list name an image again and are left out" in source.notes()
        path.write_text("scene_02.png\n")
        assert "scene_02.png; write them without extension" in message(tmp_path)
        path.write_text("\n")
        assert "train.txt is empty" in message(tmp_path)

    def test_not_divided(self, tmp_path):
        write_voc(tmp_path, count=4)
        (tmp_path / "ImageSets/Main/val.txt").unlink()
        assert "; write the names of its images, without extension, into ImageSets/Main/val.txt, a line each" in (
            message(tmp_path, "eval")
        )
        for path in [*tmp_path.glob("JPEGImages/*"), *tmp_path.glob("Annotations/*")]:
            shutil.move(path, tmp_path)
        for name in ("JPEGImages", "Annotations", "ImageSets"):
            shutil.rmtree(tmp_path / name)
        assert "put XML files and images into two folders there, train and valid" in message(tmp_path)

    def test_nothing_there(self, root, tmp_path):
        assert "needs data.root" in message("")
        shutil.rmtree(root / "valid")
        line = message(root, "eval")
        assert f"no evaluation images with XML files in {root}: looked for Annotations + JPEGImages + ImageSets" in line
        assert "with val or valid or validation or test for {split}; it holds train; set data.eval_split" in line
        write_voc(tmp_path / "a/VOCdevkit/VOC2007")
        line = message(tmp_path / "a", num_classes=10)
        assert f"did you mean --config.data.root={tmp_path / 'a/VOCdevkit/VOC2007'}?" in line

    def test_images_without_annotation(self, root):
        save(root / "train/extra.jpg", np.zeros((20, 30, 3), np.uint8))
        assert len(opened(root)) == 2
        assert "1 images have no XML file and are left out" in opened(root).notes()


class TestObjects:
    def test_pixels_count_from_1_and_belong_to_the_box(self, root):
        """A box from pixel 1 to pixel 10 is 10 pixels wide."""
        source = opened(root)
        assert source.class_names == ("cat", "dog") and source.category_ids == (1, 2)
        objects = source.objects(0)
        assert objects.boxes.tolist() == [[0, 0, 10, 20], [10, 1, 30, 19]]
        assert objects.labels.tolist() == [1, 0] and objects.areas.tolist() == [200, 360]
        assert source.sizes().tolist() == [[20, 30], [20, 30]]

    def test_difficult_objects_are_ignored(self, root):
        objects = [("dog", [1, 1, 10, 20]), ("cat", [11, 2, 30, 19])]
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), objects, lambda n: n == 1), "0.jpg")
        source = opened(root)
        assert source.objects(0).crowd.tolist() == [False, True] and source.counts().tolist() == [1, 1]
        truth = source.ground_truth()
        assert [row["iscrowd"] for row in truth["annotations"]] == [0, 1, 0]
        assert truth["images"][0] == {"id": "0", "file_name": source.name(0), "height": 20, "width": 30}
        assert truth["annotations"][0]["bbox"] == [0, 0, 10, 20] and truth["annotations"][0]["category_id"] == 2

    def test_parts_are_no_objects_and_sizes_may_be_missing(self, root):
        content = voc_xml("0.jpg", None, [("dog", [1, 1, 10, 20])])
        part = b"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        write(root / "train/0.xml", content.replace(b"</object>", part), "0.jpg", (21, 31))
        source = opened(root)
        assert source.objects(0).boxes.tolist() == [[0, 0, 10, 20]] and source.sizes()[0].tolist() == [21, 31]
        write(root / "train/0.xml", voc_xml("0.jpg", (0, 0), [("dog", [1, 1, 10, 20])]), "0.jpg", (21, 31))
        assert opened(root).sizes()[0].tolist() == [21, 31]

    def test_images_without_objects(self, root):
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), []), "0.jpg")
        names = ("cat", "dog")
        assert [opened(root, class_names=names, keep_empty=keep).image_id(0) for keep in (False, True)] == ["1", "0"]
        write(root / "train/1.xml", voc_xml("1.jpg", (20, 30), []), "1.jpg")
        assert "no object in" in message(root, class_names=names)

    def test_boxes_at_the_border(self, root):
        objects = [("cat", [0, 0, 10, 10]), ("cat", [25, 5, 36, 9]), ("dog", [4, 4, 4, 9]), ("dog", [5, 5, 9, 9])]
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), objects), "0.jpg")
        source = opened(root)
        assert source.objects(0).boxes.tolist() == [[0, 0, 10, 10], [24, 4, 30, 9], [4, 4, 9, 9]]
        assert "1 box reaching out of the picture clipped to it" in source.notes()
        assert "1 box of less than a pixel left out" in source.notes()

    def test_the_image_that_the_file_names(self, root):
        """Stems may be those of both, and then the file says which; or the stems differ."""
        save(root / "train/0.png", np.zeros((20, 30, 3), np.uint8))
        assert opened(root).name(0).endswith("0.jpg")
        os.rename(root / "train/1.jpg", root / "train/one.jpg")
        content = voc_xml("C:\\photos\\one.jpg", (20, 30), [("cat", [5, 5, 9, 9])])
        (root / "train/1.xml").write_bytes(content)
        assert opened(root).name(1).endswith("one.jpg") and opened(root).image_id(1) == "1"


class TestClasses:
    def test_are_those_of_training(self, root):
        assert opened(root, "eval").class_names == ("cat", "dog")
        write(root / "valid/2.xml", voc_xml("2.jpg", (20, 30), [("dogs", [3, 4, 8, 16])]), "2.jpg")
        line = message(root, "eval")
        assert f"1 objects in {root / 'valid'} are of 1 unknown class, dogs (did you mean 'dog'?)" in line
        assert f"the classes are those of {root / 'train'} (cat, dog)" in line

    def test_of_pascal_voc(self, root):
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), [("tvmonitor", [1, 1, 10, 20])]), "0.jpg")
        source = opened(root, num_classes=20)
        assert source.class_names[0] == "aeroplane" and source.class_names[19] == "tvmonitor"
        assert source.objects(0).labels.tolist() == [19] and source.objects(1).labels.tolist() == [7]

    def test_of_a_file_or_the_config(self, root):
        (root / "classes.txt").write_text("dog\nbird\ncat\n")
        assert opened(root, num_classes=3).objects(0).labels.tolist() == [0, 2]
        source = opened(root, num_classes=1, class_names=("dog",))
        assert len(source) == 1 and source.objects(0).labels.tolist() == [0]
        assert "2 objects of other classes are left out" in source.notes()
        line = message(root, num_classes=1, class_names=("horse",))
        assert "no object in" in line and "is of detection.class_names (horse): they are called cat, dog" in line

    def test_another_number_than_the_model_s(self, root):
        # With 20 they would be those of Pascal VOC, which has both.
        line = message(root, num_classes=7)
        assert "(cat, dog) has 2 classes but model.num_classes is 7: set --config.model.num_classes=2" in line


def replaced(*parts: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        for old, new in parts:
            assert old in content
            content = content.replace(old, new)
        return content

    return edit


REFUSED = [
    (lambda content: content[:-9], "1 XML files cannot be read, the first is 0.xml (unclosed token"),
    (lambda content: b"", "1 XML files cannot be read"),
    (replaced((b"dog", b"caf\xe9")), "1 XML files are not UTF-8, the first is 0.xml (byte 0xE9 in line 1): save"),
    (lambda content: b"<?xml version='1.0' encoding='klingon'?>" + content, "1 XML files cannot be read"),
    (replaced((b"<name>dog</name>", b"")), "1 objects have no name, the first is in 0.xml"),
    (replaced((b"<name>dog</name>", b"<name> </name>")), "1 objects have no name"),
    (replaced((b"<xmin>1</xmin>", b"")), "1 objects have no bndbox of four numbers, the first is 'dog' in 0.xml"),
    (replaced((b"<xmin>1<", b"<xmin>one<")), "they are xmin, ymin, xmax, ymax"),
    (replaced((b"<xmin>1<", b"<xmin>nan<")), "no bndbox of four numbers"),
    (replaced((b"<xmin>1<", b"<xmin>15<")), "1 of 3 boxes have a negative width or height, the first is 'dog' in "
     "0.xml, xmin 15, ymin 1, xmax 10, ymax 20, of 30×20 (width × height)"),
    (replaced((b"<xmin>1<", b"<xmin>31<"), (b"<xmax>10<", b"<xmax>40<")), "1 of 3 boxes are wholly outside"),
]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("edit,expected", REFUSED)
    def test_content(self, root, edit, expected):
        path = root / "train/0.xml"
        path.write_bytes(edit(path.read_bytes()))
        line = message(root)
        assert expected in line and str(root / "train") in line

    def test_a_declared_encoding_is_read(self, root):
        path = root / "train/0.xml"
        declared = b"<?xml version='1.0' encoding='latin-1'?>" + path.read_bytes().replace(b"dog", b"caf\xe9")
        path.write_bytes(declared)
        assert opened(root).class_names == ("café", "cat")

    def test_missing_images(self, root):
        (root / "train/0.jpg").unlink()
        (root / "train/1.jpg").unlink()
        line = message(root)
        assert f"2 XML files have no image in {root / 'train'}, the first is 0.xml, of image '0.jpg'" in line

    def test_files_whose_names_are_not_utf8(self, root):
        folder = os.fsencode(root / "train")
        try:
            for suffix in (b".jpg", b".xml"):
                os.rename(folder + b"/0" + suffix, folder + b"/\xe9" + suffix)
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
        source = opened(root)
        assert source.name(1) == f"{root}/train/\\xe9.jpg" and len(source.image(1)) and len(source.objects(1)) == 2
        os.unlink(folder + b"/\xe9.jpg")
        assert "the first is \\xe9.xml" in message(root)
