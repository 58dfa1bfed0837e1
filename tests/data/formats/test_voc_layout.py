"""Data sets in the format of Pascal VOC: where they are found, and which of their images belong to which half."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.formats.layouts import HOLD_OUT
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.detection_data import save, voc_xml, write_voc
from tests.helpers.voc_data import message, opened, write_flat


@pytest.fixture
def root(tmp_path):
    return write_flat(tmp_path)


def write_stems(root: Path, *stems: str) -> None:
    """Images with a cat in Annotations and JPEGImages, and an empty folder of lists; a stem may have folders."""
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for stem in stems:
        save(root / f"JPEGImages/{stem}.jpg", np.zeros((20, 30, 3), np.uint8))
        path = root / f"Annotations/{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(voc_xml(f"{stem}.jpg", (20, 30), [("cat", [5, 5, 9, 9])]))


def stems_of(root: Path, split: str = "train") -> list[str]:
    source = opened(root, split, num_classes=1)
    return [str(source.image_id(index)) for index in range(len(source))]


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
            ("{}/Annotations", "{}/images"),
            ("{}/labels", "{}/data"),
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
        path.write_text("scene_02 scene_02.xml\n")
        assert "scene_02 scene_02.xml; write the name of an image on each line, and nothing after it" in (
            message(tmp_path)
        )
        path.write_text("scene_02.text\n")
        assert "scene_02.text; add them, or correct the list" in message(tmp_path)
        path.write_text("\n")
        assert "train.txt is empty" in message(tmp_path)

    def test_not_divided(self, tmp_path):
        write_voc(tmp_path, count=4)
        (tmp_path / "ImageSets/Main/val.txt").unlink()
        line = message(tmp_path, "eval")
        assert f"; {HOLD_OUT}, or write the names of its images, without extension, into ImageSets/Main/val.txt" in line
        for path in [*tmp_path.glob("JPEGImages/*"), *tmp_path.glob("Annotations/*")]:
            shutil.move(path, tmp_path)
        for name in ("JPEGImages", "Annotations", "ImageSets"):
            shutil.rmtree(tmp_path / name)
        assert f"; {HOLD_OUT}, or put XML files and images into two folders there, train and valid" in message(tmp_path)

    def test_nothing_there(self, root, tmp_path):
        assert "needs data.root" in message("")
        shutil.rmtree(root / "valid")
        line = message(root, "eval")
        assert (
            f"no evaluation images with XML files in {root}: looked for Annotations + JPEGImages|images + ImageSets"
            in line
        )
        assert "with val2017 or val or valid or validation or test for {split}; it holds train; " in line
        assert f"; {HOLD_OUT}, or set data.eval_split" in line
        write_voc(tmp_path / "a/VOCdevkit/VOC2007")
        line = message(tmp_path / "a", num_classes=10)
        assert f"did you mean --config.data.root={tmp_path / 'a/VOCdevkit/VOC2007'}?" in line

    def test_images_without_annotation(self, root):
        save(root / "train/extra.jpg", np.zeros((20, 30, 3), np.uint8))
        assert len(opened(root)) == 2
        assert "1 images have no XML file and are left out" in opened(root).notes()

    def test_other_cases_of_letters(self, root, tmp_path):
        """CVAT names its subsets Train and Validation."""
        write_stems(tmp_path / "a", "0", "1", "2")
        (tmp_path / "a/ImageSets/Main/Train.txt").write_text("1\n0\n")
        (tmp_path / "a/ImageSets/Main/Validation.txt").write_text("2\n")
        assert (stems_of(tmp_path / "a"), stems_of(tmp_path / "a", "eval")) == (["1", "0"], ["2"])
        os.rename(root / "train", root / "Train")
        os.rename(root / "valid", root / "VAL")
        assert opened(root).name(0) == str(root / "Train/0.jpg") and len(opened(root, "eval")) == 1
        # As it is written comes before another case.
        (root / "train").mkdir()
        for ending in ("xml", "jpg"):
            shutil.copy(root / f"VAL/2.{ending}", root / f"train/2.{ending}")
        if len(os.listdir(root / "Train")) == 4:
            assert opened(root, num_classes=1).name(0) == str(root / "train/2.jpg")

    def test_lists_of_classes(self, tmp_path):
        """VoTT has no others, and writes names of files into them; those of a half have together all its images."""
        write_stems(tmp_path, "a", "b", "c", "my train 0", "my train")
        lists = tmp_path / "ImageSets/Main"
        (lists / "cat_train.txt").write_text("a.jpg 1\nb.jpg -1\n")
        (lists / "dog_train.txt").write_text("a.jpg -1\nb.jpg 1\nmy train 0.jpg 0\n")
        (lists / "cat_val.txt").write_text("c 1\nmy train 0\n")
        assert (stems_of(tmp_path), stems_of(tmp_path, "eval")) == (["a", "b", "my train 0"], ["c", "my train"])
        assert not [note for note in opened(tmp_path, num_classes=1).notes() if "list" in note]
        (lists / "dog_train.txt").write_text("d.jpg -1\n")
        assert f"{lists / 'dog_train.txt'} lists 1 images that have no XML file in" in message(tmp_path)
        for name in ("cat", "dog"):
            (lists / f"{name}_train.txt").write_text("\n")
        assert f"{lists / 'cat_train.txt'} and 1 others are empty: write the names of images" in message(tmp_path)
        # Where there is a list of all, it is that.
        (lists / "trainval.txt").write_text("c\n")
        assert stems_of(tmp_path) == ["c"]

    @pytest.mark.parametrize(
        "line,stem",
        [
            ("my train 0", "my train 0"),
            ("my train 0 1", "my train 0"),
            ('"my train 0"', "my train 0"),
            ('"my train 0"  -1', "my train 0"),
            ("my train 0.JPG", "my train 0"),
            ("plain.xml 0", "plain"),
            ("plain  1", "plain"),
            ("a.b", "a.b"),
            ("a.b.png", "a.b"),
            ("\ufeffplain", "plain"),
        ],
    )
    def test_lines_of_lists(self, tmp_path, line, stem):
        write_stems(tmp_path, "my train 0", "plain", "a.b", "my", "a")
        (tmp_path / "ImageSets/Main/train.txt").write_text(f"{line}\n", encoding="utf-8")
        assert stems_of(tmp_path) == [stem]

    def test_folders_below(self, tmp_path):
        """CVAT keeps the folders of images, and lists their stems with them."""
        write_stems(tmp_path, "s/x", "t/x", "t/a b", "y")
        (tmp_path / "ImageSets/Main/train.txt").write_text('t/x\ns/x\n"t/a b" 1\n')
        (tmp_path / "ImageSets/Main/val.txt").write_text("y\n")
        source = opened(tmp_path, num_classes=1)
        names = [os.path.relpath(source.name(index), tmp_path) for index in range(3)]
        assert names == ["JPEGImages/t/x.jpg", "JPEGImages/s/x.jpg", "JPEGImages/t/a b.jpg"]
        assert (stems_of(tmp_path), stems_of(tmp_path, "eval")) == (["t/x", "s/x", "t/a b"], ["y"])
        os.remove(tmp_path / "JPEGImages/s/x.jpg")
        assert "the first is s/x.xml, of image 'x.jpg': fetch the images" in message(tmp_path)

    def test_folders_below_each_half(self, tmp_path):
        write_stems(tmp_path / "train", "s/x", "t/x")
        os.symlink(tmp_path / "train/Annotations", tmp_path / "train/Annotations/t/up")
        assert stems_of(tmp_path) == ["s/x", "t/x"]
        # Where files lie in the folder itself, folders below are something else.
        write_stems(tmp_path / "train", "y")
        assert stems_of(tmp_path) == ["y"]
