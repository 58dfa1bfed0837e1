"""What folders hold beside the images that are meant: what is read, what is not and is told, and what is refused."""

import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.data.formats import LABEL_MAPS, LABELLED_IMAGES, OBJECTS, open_source
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.options import LabelMapOptions, ObjectOptions
from pvt_jax.data.overlap import shared_images
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.images import decode
from pvt_jax.files.kinds import FORMATS
from pvt_jax.tasks.classification.checks import ClassificationChecks


def encoded(form: str, value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value,) * 3).save(buffer, form)
    return buffer.getvalue()


FILES = {form: encoded(form, 7) for form in FORMATS}


def write(root: Path, *paths: str, data: bytes = FILES["JPEG"]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def opened(root: Path, split: Any = "train", **splits: str) -> Any:
    return open_source(LABELLED_IMAGES, "folder", Request(split, root=str(root), **splits))


def segmented(root: Path, split: Any = "train", **options: Any) -> Any:
    request = Request(split, root=str(root), options=LabelMapOptions(num_classes=3, **options))
    return open_source(LABEL_MAPS, "label_folder", request)


def message(open_: Any, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_(*arguments, **rest)
    line = str(caught.value)
    assert "\n" not in line
    return line


def names(source: Any) -> list[str]:
    return [os.path.relpath(source.name(index), str(source)) for index in range(len(source))]


class TestFiles:
    # What stands in a name, and whether the file is an image; the content is one of FILES where it is.
    ENDINGS = {
        **dict.fromkeys((".jpg", ".JPEG", ".jfif", ".Tif", ".gif", ".bmp", ".webp", ".pgm"), True),
        **dict.fromkeys(("", ".2019-07 05", ".dat"), True),
        **dict.fromkeys((".HEIC", ".nef", ".zip", ".mp4", ".npy", ".txt", ".xyz"), False),
    }

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(sorted(ENDINGS)), st.sampled_from(sorted(FILES))), max_size=12))
    def test_every_file_is_read_or_counted(self, tmp_path_factory, drawn):
        root, expected, unread = tmp_path_factory.mktemp("files"), ["train/a/first.jpg"], Counter()
        write(root, "train/a/first.jpg", "train/b/last.jpg")
        for number, (ending, form) in enumerate(drawn):
            name = f"train/a/{number}{ending}"
            write(root, name, data=FILES[form] if self.ENDINGS[ending] else b"else")
            if self.ENDINGS[ending]:
                expected.append(name)
            else:
                unread[ending.lower()] += 1
        source = opened(root)
        assert names(source) == [*sorted(expected), "train/b/last.jpg"]
        for index in range(len(source)):
            assert decode(source[index]["image"], "x").shape == (3, 4, 3)
        notes = source.notes()
        assert len(notes) == bool(unread)
        if unread:
            start = f"{unread.total()} of {unread.total() + len(source)} files in {root / 'train'} are not read: "
            assert notes[0].startswith(start)
            for ending, count in unread.items():
                assert f"{count} {ending}" in notes[0]

    def test_each_reason_has_its_way_out(self, tmp_path):
        write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/b/.hidden.png", "train/loose.jpg")
        # What systems leave behind is nobody's image.
        write(tmp_path, "train/a/._1.jpg", "train/a/.DS_Store", "train/b/Thumbs.db", "train/b/@eaDir/1.jpg/T.jpg")
        write(tmp_path, "train/__MACOSX/a/1.jpg", "train/.ipynb_checkpoints/1.jpg", "train/.git/x")
        write(tmp_path, "train/a/1.HEIC", "train/a/2.heic", "train/c.tar", "train/a/clip.mov", "train/b/x", data=b"?")
        (tmp_path / "train/a/gone.jpg").symlink_to(tmp_path / "nowhere")
        (note,) = opened(tmp_path).notes()
        start, _, kinds = note.partition(": ")
        assert start == f"8 of 10 files in {tmp_path / 'train'} are not read"
        assert sorted(kinds.split(", ")) == [
            "1 .mov (extract frames)",
            "1 .tar (unpack)",
            "1 broken link",
            "1 hidden (rename without the dot)",
            "1 image in no class folder",
            "1 without an ending (no image inside)",
            "2 .heic (convert to JPEG or PNG)",
        ]

    def test_folders_without_images_say_what_they_hold(self, tmp_path):
        write(tmp_path, "train/n01.tar", "train/n02.tar")
        line = message(opened, tmp_path)
        assert "no class folders" in line and "it holds 2 .tar (unpack); put the images" in line
        write(tmp_path, "train/a/1.jpg", "train/b/1.dng", "train/b/2.dng")
        line = message(opened, tmp_path)
        assert "1 of 2 class folders" in line and "b (they hold 2 .dng (convert to JPEG or PNG))" in line

    def test_broken_links_to_classes(self, tmp_path):
        write(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
        (tmp_path / "train/c").symlink_to(tmp_path / "nowhere")
        assert f"{tmp_path}/train has 1 broken link, c: if these are classes" in message(opened, tmp_path)

    def test_known_endings_are_not_opened(self, tmp_path, monkeypatch):
        write(tmp_path, "train/a/1.jpg", "train/a/1.txt", "train/a/1.heic", "train/b/1.jpg", data=b"no image")
        monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
        assert len(opened(tmp_path)) == 2

    def test_names_with_line_breaks_stay_in_a_line(self, tmp_path):
        write(tmp_path, "train/a\nb/1.jpg", "train/c/1.jpg", "val/d\ne/1.jpg")
        assert "d\\ne" in message(opened, tmp_path, "eval")


class TestLabelMaps:
    @pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "PNG", "PPM"])
    def test_formats_without_loss(self, tmp_path, form):
        labels = np.array([[0, 2, 2], [2, 255, 0]], np.uint8)
        ending = {"PPM": "pgm"}.get(form, form.lower())
        write(tmp_path, "images/train/1.tif", data=FILES["TIFF"])
        write(tmp_path, f"labels/train/1.{ending}")
        Image.fromarray(labels).save(tmp_path / f"labels/train/1.{ending}", form)
        source = segmented(tmp_path)
        assert np.array_equal(source.encoding.decode(source.label_map(0), "x"), labels)

    def test_others_are_told(self, tmp_path):
        write(tmp_path, "images/train/1.jpg", "labels/train/1.heic", "labels/train/2.npy")
        line = message(segmented, tmp_path)
        assert line == (
            f"no label maps in {tmp_path}/labels/train (it holds 1 .heic (convert to PNG), 1 .npy (save "
            f"images as files)): put them there, as PNG files"
        )
        write(tmp_path, "labels/train/3.png", "images/train/3.jpg", data=FILES["PNG"])
        line = message(segmented, tmp_path)
        assert "1 of 2 images" in line and "(which also holds 1 .heic (convert to PNG), 1 .npy" in line
        (tmp_path / "images/train/1.jpg").rename(tmp_path / "images/train/1.cr2")
        assert segmented(tmp_path).notes() == (
            f"1 of 2 files in {tmp_path}/images/train are not read: 1 .cr2 (convert to JPEG or PNG)",
            f"2 of 3 files in {tmp_path}/labels/train are not read: 1 .heic (convert to PNG), "
            f"1 .npy (save images as files)",
        )

    def test_left_out_by_suffix(self, tmp_path):
        write(tmp_path, "images/train/1_rgb.jpg", "images/train/1_depth.jpg", "images/train/2.jpg")
        write(tmp_path, "labels/train/1.png", data=FILES["PNG"])
        (note,) = segmented(tmp_path, image_suffix="_rgb").notes()
        assert note == f"2 images in {tmp_path}/images/train without '_rgb' at the end of the stem left out"


class TestClasses:
    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(st.sampled_from(["images", "all data", "x", "é"]), min_size=1, max_size=3),
        st.booleans(),
        st.sampled_from(["val", "valid", "test"]),
    )
    def test_one_folder_too_many_is_refused_with_keys_that_work(self, tmp_path_factory, between, both, held_out):
        root, deeper = tmp_path_factory.mktemp("nested"), "/".join(between)
        place = f"{held_out}/{deeper}" if both else held_out
        for name in ("cat", "dog"):
            write(root, f"train/{deeper}/{name}/1.jpg", f"{place}/{name}/2.jpg")
        line = message(opened, root)
        assert f"has one class folder, {between[0]}, and one class alone" in line and "classes are cat, dog in" in line
        flags = dict(
            part.split("=")
            for part in line.replace("'", "").partition(", add --config.")[2].partition(";")[0].split(" --config.")
        )
        assert flags == {"data.train_split": f"train/{deeper}", **({"data.eval_split": place} if both else {})}
        splits = {name.removeprefix("data."): value for name, value in flags.items()}
        assert names(opened(root, **splits)) == [f"train/{deeper}/cat/1.jpg", f"train/{deeper}/dog/1.jpg"]
        assert names(opened(root, "eval", **splits)) == [f"{place}/cat/2.jpg", f"{place}/dog/2.jpg"]

    def test_one_class_beside_archives(self, tmp_path):
        write(tmp_path, "train/cat/1.jpg", "train/dog.tar")
        assert "one class folder, cat (beside it 1 .tar (unpack)), and one class alone" in message(opened, tmp_path)

    def test_a_link_to_itself(self, tmp_path):
        write(tmp_path, "train/cat/1.jpg")
        (tmp_path / "train/cat/up").symlink_to(tmp_path / "train/cat")
        assert "one class alone leaves nothing to learn" in message(opened, tmp_path)

    def test_one_class_alone(self, tmp_path):
        write(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg")
        expected = "one class alone leaves nothing to learn: put images of other classes into folders beside it"
        assert message(opened, tmp_path).endswith(expected) and message(opened, tmp_path, "eval").endswith(expected)

    def test_one_class_of_any_source(self):
        checks = ClassificationChecks(1)
        assert "has one class, 'cat', and one class alone" in message(checks.check_classes, ["cat"], ["cat"])

    def test_folders_of_another_task(self, tmp_path):
        write(tmp_path, "train/images/1.jpg", "train/Masks/1.png")
        assert "holds Masks, images, which look like the images and labels of another" in message(opened, tmp_path)

    def test_further_folders_are_told(self, tmp_path):
        write(tmp_path, "train/2019/cat/1.jpg", "train/2020/cat/1.jpg", "train/2021/1.jpg")
        (note,) = opened(tmp_path).notes()
        assert note == (
            "2 of 3 class folders have their images in further folders, such as 2019/cat, which are no classes of "
            "their own"
        )


class TestSplits:
    @settings(max_examples=20, deadline=None)
    @given(
        st.sampled_from(["val", "valid", "Valid", "VALIDATION", "val2017"]), st.sampled_from(["test", "Test", "TEST"])
    )
    def test_validation_comes_before_test(self, tmp_path_factory, validation, test):
        root = tmp_path_factory.mktemp("splits")
        for split in ("train", validation, test):
            write(root, *(f"c/{split}/{name}/{split}.jpg" for name in ("cat", "dog")))
            write(root, f"s/{split}/images/{split}.png", f"s/{split}/masks/{split}.png", data=FILES["PNG"])
        for source in (opened(root / "c", "eval"), segmented(root / "s", "eval")):
            assert os.path.basename(source.name(0)).startswith(validation) and source.notes() == ()

    def test_validation_in_another_layout(self, tmp_path):
        write(tmp_path, "images/test/1.png", "labels/test/1.png", "val/images/2.png", "val/labels/2.png")
        assert os.path.basename(segmented(tmp_path, "eval").name(0)) == "2.png"

    def test_test_alone_is_told(self, tmp_path):
        write(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "test") for name in "ab"))
        expected = ("'test' is used, as there is no val or valid or validation",)
        assert opened(tmp_path, "eval").notes() == expected
        assert opened(tmp_path, "eval", eval_split="test").notes() == ()

    def test_two_names_of_a_split_are_told(self, tmp_path):
        write(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "Training", "val", "valid") for name in "ab"))
        assert opened(tmp_path).notes() == ("'train' is used, and 'training' beside it is not",)
        assert opened(tmp_path, "eval").notes() == ("'val' is used, and 'valid' beside it is not",)
        assert opened(tmp_path, "eval", eval_split="val").notes() == ()

    def test_the_folder_of_a_split_is_given(self, tmp_path):
        write(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
        assert f"did you mean --config.data.root={tmp_path}?" in message(opened, tmp_path / "train")

    def test_accents_of_another_system(self, tmp_path):
        write(tmp_path, "train/caf\u00e9/1.jpg", "train/bar/1.jpg", "val/cafe\u0301/2.jpg")
        source = opened(tmp_path, "eval")
        assert source.class_names == ("bar", "caf\u00e9") and source[0] == {"image": FILES["JPEG"], "label": 1}
        write(tmp_path, "train/cafe\u0301/1.jpg")
        assert "whose accents are encoded differently: join them" in message(opened, tmp_path)


class TestOverlap:
    def test_copies_and_links_and_lists(self, tmp_path):
        write(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
        write(tmp_path, "val/a/1.jpg", data=FILES["PNG"])
        write(tmp_path, "val/b/2.jpg")
        (note,) = shared_images(opened(tmp_path), opened(tmp_path, "eval"))
        assert note == (
            f"1 of 3 evaluation images compared is trained on, too, such as {tmp_path}/val/b/1.jpg, "
            f"which is {tmp_path}/train/b/1.jpg"
        )
        write(tmp_path, "train/b/1.jpg", data=FILES["GIF"])
        assert shared_images(opened(tmp_path), opened(tmp_path, "eval")) == []
        (tmp_path / "valid").symlink_to(tmp_path / "train")
        (note,) = shared_images(opened(tmp_path), opened(tmp_path, "eval", eval_split="valid"))
        assert note.startswith("2 of 2 evaluation images compared are trained on, too, such as ")

    def test_lists_that_name_an_image_twice(self, tmp_path):
        for stem in "12":
            write(tmp_path, f"images/{stem}.png", f"labels/{stem}.png", data=FILES["PNG"])
        write(tmp_path, "train.txt", data=b"1\n2\n")
        write(tmp_path, "val.txt", data=b"2\n")
        shared = shared_images(segmented(tmp_path), segmented(tmp_path, "eval"))
        assert shared == ["1 evaluation image is trained on, too"]


class TestObjects:
    """Folders of images with annotations of objects."""

    def coco(self, root: Path, split: str, count: int = 1) -> Any:
        annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 2], "area": 6, "iscrowd": 0}]
        images = [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3}]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        write(root, f"{split}/1.jpg")
        write(root, f"{split}/_annotations.coco.json", data=json.dumps(content).encode())

    def opened(self, root: Path, split: Any = "train") -> Any:
        return open_source(OBJECTS, "coco", Request(split, root=str(root), options=ObjectOptions(num_classes=1)))

    def test_one_class_is_enough_and_others_files_are_told(self, tmp_path):
        self.coco(tmp_path, "train")
        assert len(self.opened(tmp_path).notes()) == 1
        write(tmp_path, "train/2.jpg", "train/3.heic")
        assert self.opened(tmp_path).notes()[1:] == (
            f"1 image in {tmp_path}/train not listed in {tmp_path}/train/_annotations.coco.json left out",
            f"1 of 3 files in {tmp_path}/train are not read: 1 .heic (convert to JPEG or PNG)",
        )

    def test_what_a_system_left_behind_is_no_annotation(self, tmp_path):
        self.coco(tmp_path, "train")
        write(tmp_path, "__MACOSX/train/1.xml", "train/._1.xml", ".git/2.xml")
        assert recognise_folder(OBJECTS, str(tmp_path), options=ObjectOptions()) == ("coco", ("cat",))
        (tmp_path / "train/_annotations.coco.json").unlink()
        with pytest.raises(UserError, match="has no annotations in"):
            recognise_folder(OBJECTS, str(tmp_path), options=ObjectOptions())

    def test_validation_in_another_spelling_comes_before_test(self, tmp_path):
        self.coco(tmp_path, "test")
        assert "'test' is used" in str(self.opened(tmp_path, "eval").notes())
        self.coco(tmp_path, "Valid")
        assert "Valid" in self.opened(tmp_path, "eval").name(0)
