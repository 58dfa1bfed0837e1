"""Sources of images with label maps: what they find, and the line they print when they cannot."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.formats import LABEL_MAPS, open_source
from pvt_jax.data.formats.cityscapes import CLASSES
from pvt_jax.data.formats.class_names import names_file, read_names
from pvt_jax.data.formats.layouts import HOLD_OUT
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files import folders
from pvt_jax.files.labels import LabelEncoding, distinct_colours
from pvt_jax.tasks.segmentation.source import SegmentationSource


def png(value: int = 0, size: tuple[int, int] = (4, 6), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, *paths: str, value: int = 0):
    """Writes images (.jpg and so on) and label maps of one value."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() in (".jpg", ".jpeg"):
            Image.new("RGB", (6, 4)).save(target, "JPEG")
        else:
            target.write_bytes(png(value))


def opened(root: Path | str, split: str = "train", source: str = "label_folder", num_classes: int = 3, **rest) -> Any:
    splits = {key: rest.pop(key) for key in ("train_split", "eval_split", "name") if key in rest}
    options = LabelMapOptions(num_classes=num_classes, **rest)
    return open_source(LABEL_MAPS, source, Request(split, root=str(root), options=options, **splits))  # type: ignore


def message(root: Path | str, *arguments, **rest) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    line = str(caught.value)
    assert "\n" not in line
    return line


def pairs_of(source, root: Path) -> list[tuple[str, str]]:
    return [
        (os.path.relpath(source.name(i), root), os.path.relpath(source.label_name(i), root)) for i in range(len(source))
    ]


class TestOpen:
    def test_unknown_source(self):
        line = message("", source="ade")
        assert "unknown source 'ade' of label maps (did you mean 'ade20k'?)" in line
        assert "digit_scenes, label_folder, ade20k, cityscapes, labelme, tfds" in line

    def test_digit_scenes(self):
        source = opened("", source="digit_scenes", num_classes=11)
        assert isinstance(source, SegmentationSource) and len(source.class_names) == 11
        assert "one fixed split" in message("", source="digit_scenes", train_split="train")


LAYOUTS = [
    ("images/training/{}.jpg", "annotations/training/{}.png", "images/test/{}.jpg", "annotations/test/{}.png"),
    ("img_dir/train/{}.jpg", "ann_dir/train/{}.png", "img_dir/val/{}.jpg", "ann_dir/val/{}.png"),
    ("train/{}.png", "trainannot/{}.png", "val/{}.png", "valannot/{}.png"),
    ("images/train/{}.jpg", "labels/train/{}.png", "images/validation/{}.jpg", "labels/validation/{}.png"),
    ("images/train/{}.jpg", "masks/train/{}.bmp", "images/val/{}.jpg", "masks/val/{}.bmp"),
    ("train/images/{}.jpg", "train/masks/{}.png", "val/images/{}.jpg", "val/masks/{}.png"),
]  # fmt: skip


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_found_by_themselves(self, tmp_path, layout):
        for pattern, stems in zip(layout, ("ba", "ba", "c", "c"), strict=True):
            write(tmp_path, *(pattern.format(stem) for stem in stems))
        train, held_out = opened(tmp_path), opened(tmp_path, "eval")
        assert pairs_of(train, tmp_path) == [tuple(path.format(stem) for path in layout[:2]) for stem in "ab"]
        assert pairs_of(held_out, tmp_path) == [tuple(path.format("c") for path in layout[2:])]
        assert isinstance(train, SegmentationSource) and str(train) == str(tmp_path)

    @pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
    def test_pascal_voc(self, tmp_path, folder):
        write(tmp_path, *(f"JPEGImages/{stem}.jpg" for stem in ("2007_1", "2007_2", "2007_3", "unlabelled")))
        write(tmp_path, *(f"{folder}/{stem}.png" for stem in ("2007_1", "2007_2", "2007_3")))
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("2007_3\n2007_1\n\n")
        (lists / "val.txt").write_text("2007_2\r\n")
        train = opened(tmp_path, num_classes=21)
        assert [name for name, _ in pairs_of(train, tmp_path)] == ["JPEGImages/2007_3.jpg", "JPEGImages/2007_1.jpg"]
        assert train.class_names[0] == "background" and train.class_names[20] == "tvmonitor"
        assert pairs_of(opened(tmp_path, "eval"), tmp_path) == [("JPEGImages/2007_2.jpg", f"{folder}/2007_2.png")]
        (lists / "val.txt").write_text("2007_9\n")
        line = message(tmp_path, "eval")
        assert f"{lists / 'val.txt'} names '2007_9', but there is no such image" in line and "'2007_1'" in line
        (lists / "val.txt").write_text("unlabelled\n")
        assert "have no label map of the same stem" in message(tmp_path, "eval")
        (lists / "val.txt").write_text("\n")
        assert "val.txt is empty" in message(tmp_path, "eval")

    def test_one_folder_for_both_halves_with_lists(self, tmp_path):
        write(tmp_path, *(f"images/{stem}.jpg" for stem in ("a", "b c", "d")))
        write(tmp_path, *(f"masks/{stem}.png" for stem in ("a", "b c", "d")))
        # As others write their lists: with extensions, and with more on a line.
        (tmp_path / "train.txt").write_text("a.jpg a.png\nb c\n")
        (tmp_path / "val.txt").write_text("d 1 1 2\n")
        assert [name for name, _ in pairs_of(opened(tmp_path), tmp_path)] == ["images/a.jpg", "images/b c.jpg"]
        assert len(opened(tmp_path, "eval")) == 1
        named = {"image_folder": "images", "label_folder": "masks"}
        assert len(opened(tmp_path, **named)) == 2
        line = message(tmp_path, **named, train_split="some")
        assert "looked for images + masks + ImageSets/Segmentation/{split}.txt, images + masks + {split}.txt" in line

    def test_named_folders_suffixes_and_splits(self, tmp_path):
        write(tmp_path, "pictures/fit/x/1_rgb.png", "pictures/fit/x/1_depth.png", "truth/fit/x/1_L.png")
        write(tmp_path, "truth/fit/x/1_colour.png")
        source = opened(
            tmp_path,
            image_folder="pictures/{split}",
            label_folder="truth/{split}",
            image_suffix="_rgb",
            label_suffix="_L",
            train_split="fit",
        )
        assert pairs_of(source, tmp_path) == [("pictures/fit/x/1_rgb.png", "truth/fit/x/1_L.png")]

    def test_both_in_the_same_folder(self, tmp_path):
        write(tmp_path, "train/a.jpg", "train/a.png", "val/b.png", "val/b_L.png")
        same = {"image_folder": "{split}", "label_folder": "{split}"}
        assert pairs_of(opened(tmp_path, **same), tmp_path) == [("train/a.jpg", "train/a.png")]
        assert pairs_of(opened(tmp_path, "eval", **same, label_suffix="_L"), tmp_path) == [("val/b.png", "val/b_L.png")]

    def test_folders_below_are_matched_by_path(self, tmp_path):
        write(tmp_path, "images/train/a/1.jpg", "images/train/b/1.jpg")
        write(tmp_path, "labels/train/a/1.png", "labels/train/b/1.png")
        assert pairs_of(opened(tmp_path), tmp_path) == [
            ("images/train/a/1.jpg", "labels/train/a/1.png"),
            ("images/train/b/1.jpg", "labels/train/b/1.png"),
        ]

    def test_odd_names_and_what_is_not_an_image(self, tmp_path):
        write(
            tmp_path, "images/train/A.JPG", "labels/train/A.PNG", "images/train/ä 猫.x.jpeg", "labels/train/ä 猫.x.png"
        )
        for name in (".hidden.jpg", "Thumbs.db", ".DS_Store", "readme.txt", "__MACOSX/A.jpg"):
            for folder in ("images", "labels"):
                target = tmp_path / folder / "train" / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(b"")
        assert pairs_of(opened(tmp_path), tmp_path) == [
            ("images/train/A.JPG", "labels/train/A.PNG"),
            ("images/train/ä 猫.x.jpeg", "labels/train/ä 猫.x.png"),
        ]

    def test_names_that_are_no_utf_8(self, tmp_path):
        write(tmp_path, "images/train/a.jpg", "labels/train/a.png")
        odd = os.fsdecode(b"\xff\xe9")
        try:
            os.rename(tmp_path / "images/train/a.jpg", tmp_path / "images/train" / f"{odd}.jpg")
        except OSError:
            pytest.skip("this file system takes no such names")
        line = message(tmp_path)
        assert "such as 'a'" in line and r"\xff\xe9.jpg" in line and line.encode("utf-8")
        os.rename(tmp_path / "labels/train/a.png", tmp_path / "labels/train" / f"{odd}.png")
        source = pickle.loads(pickle.dumps(opened(tmp_path)))
        assert source.name(0).endswith(r"/\xff\xe9.jpg") and source[0]["label_map"] == png()

    def test_names_with_line_breaks(self, tmp_path):
        write(tmp_path, "images/train/a\n\u2028b.jpg", "labels/train/a.png")
        assert "such as 'a'" in message(tmp_path) and r"a\n\u2028b.jpg is one of those there" in message(tmp_path)
        write(tmp_path, "labels/train/a\n\u2028b.png")
        (tmp_path / "labels/train/a.png").unlink()
        assert opened(tmp_path).name(0).endswith(r"/a\n\u2028b.jpg")

    def test_root(self, tmp_path, monkeypatch):
        assert "the label_folder source needs data.root" in message("")
        assert f"{tmp_path / 'no'} does not exist: set data.root" in message(tmp_path / "no")
        write(tmp_path, "a.png")
        assert "is a file" in message(tmp_path / "a.png")
        write(tmp_path, "images/train/a.jpg", "labels/train/a.png")
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        assert len(opened(f"~/{tmp_path.name}")) == 1

    def test_no_layout(self, tmp_path):
        line = message(tmp_path)
        assert f"no training images and label maps in {tmp_path}: looked for images/{{split}} + annotations" in line
        assert "with train2017 or train or trainval or training for {split}; it holds no folder; " in line
        assert "; set data.train_split, or segmentation." in line
        write(tmp_path, "images/train/a.jpg", "labels/train/a.png")
        line = message(tmp_path, "eval")
        assert (
            "no evaluation images" in line and "with val2017 or val or valid or validation or test for {split}" in line
        )
        assert f"it holds images, labels; {HOLD_OUT}, or set data.eval_split" in line
        assert "with minival for {split}" in message(tmp_path, "eval", eval_split="minival")
        write(tmp_path, "unpacked/train/images/a.jpg", "unpacked/train/labels/a.png")
        (tmp_path / "images").rename(tmp_path / "pictures")
        assert f"; did you mean --config.data.root={tmp_path / 'unpacked'}?" in message(tmp_path)

    def test_folders_half_named(self, tmp_path):
        assert "segmentation.label_folder is not set, but the other is 'a'" in message(tmp_path, image_folder="a")
        assert "segmentation.image_folder is not set, but the other is 'a'" in message(tmp_path, label_folder="a")
        assert "only one of" in message(tmp_path, image_folder="a/{split}", label_folder="b")
        line = message(tmp_path, image_folder="a/{split}", label_folder="b/{split}")
        assert "looked for a/{split} + b/{split}, with train2017 or train or" in line
        assert line.endswith(
            "; correct data.train_split, or segmentation.image_folder and label_folder, such as 'pictures/{split}'"
        )


class TestPairs:
    @pytest.fixture
    def root(self, tmp_path):
        write(tmp_path, *(f"images/train/{stem}.jpg" for stem in "abcd"))
        write(tmp_path, *(f"labels/train/{stem}.png" for stem in "abcd"))
        return tmp_path

    def test_records(self, root):
        write(root, "labels/train/b.png", value=2)
        source = opened(root)
        record = source[1]
        assert record["image"] == (root / "images/train/b.jpg").read_bytes()
        assert source.encoding.decode(record["label_map"], "b").tolist() == [[2] * 6] * 4
        assert source.label_map(1) == record["label_map"]
        assert source.sizes().dtype == np.int32 and source.sizes().tolist() == [[4, 6]] * 4
        for index in (4, -1):
            with pytest.raises(IndexError, match="of 4"):
                source[index]

    def test_survives_pickling(self, root):
        again = pickle.loads(pickle.dumps(opened(root)))
        assert pairs_of(again, root) == pairs_of(opened(root), root)
        read = grain.MapDataset.source(again).map(lambda record: len(record["label_map"]))
        assert list(read) == [len(png())] * 4

    def test_sizes_of_what_is_no_image(self, root):
        (root / "images/train/b.jpg").write_bytes(b"no image")
        (root / "images/train/c.jpg").write_bytes(b"")
        assert opened(root).sizes().tolist() == [[4, 6], [0, 0], [0, 0], [4, 6]]

    def test_image_without_label_map(self, root):
        for stem in "bc":
            (root / f"labels/train/{stem}.png").unlink()
        line = message(root)
        assert f"2 of 4 images in {root}/images/train have no label map of the same stem in {root}/labels/train" in line
        assert "such as 'b': add what is missing, or remove the rest" in line

    def test_label_map_without_image(self, root):
        (root / "images/train/d.jpg").unlink()
        line = message(root)
        assert f"1 of 4 label maps in {root}/labels/train have no image of the same stem" in line and "'d'" in line

    def test_other_endings(self, root):
        for path in (root / "labels/train").iterdir():
            path.rename(path.with_name(f"{path.stem}_M.png"))
        line = message(root)
        assert "4 of 4 label maps" in line and "set segmentation.image_suffix and label_suffix" in line
        assert len(opened(root, label_suffix="_M")) == 4
        line = message(root, label_suffix="_K")
        assert f"no label maps whose stems end in '_K' in {root}/labels/train; it has 4 others" in line
        assert "correct segmentation.label_suffix" in line

    def test_empty_folder(self, root):
        for path in (root / "labels/train").iterdir():
            path.unlink()
        assert f"no label maps in {root}/labels/train: put them there" in message(root)

    def test_two_of_one_stem(self, root):
        write(root, "images/train/b.png")
        line = message(root)
        assert "b.png" in line and "b.jpg" in line and "have the same stem: remove one of the two images" in line

    def test_label_maps_with_loss(self, root):
        for stem in "bc":
            (root / f"labels/train/{stem}.png").unlink()
        write(root, "labels/train/b.jpg", "labels/train/c.JPEG")
        line = message(root)
        assert f"2 label maps in {root}/labels/train are compressed with loss, such as b.jpg" in line and "PNG" in line

    def test_file_that_vanished(self, root):
        source = opened(root)
        (root / "labels/train/a.png").unlink()
        with pytest.raises(UserError, match="a.png .No such file.*: put it back, or start again"):
            source[0]

    def test_file_that_may_not_be_read(self, root, monkeypatch):
        source = opened(root)

        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(folders, "open", refuse, raising=False)
        with pytest.raises(UserError, match="^cannot read .*a.png .Permission denied.: check its permissions$"):
            source.label_map(0)


class TestClasses:
    @pytest.fixture
    def root(self, tmp_path):
        write(tmp_path, "images/train/a.jpg", "labels/train/a.png")
        return tmp_path

    def test_made_up(self, root):
        source = opened(root)
        assert source.class_names == ("class 0", "class 1", "class 2")
        assert np.array_equal(source.palette, distinct_colours(3))
        assert source.encoding == LabelEncoding(3)

    def test_given(self, root):
        palette = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 0, 0))
        source = opened(root, class_names=("a", "b", "c"), palette=palette, ignore_labels=(9,), reduce_zero_label=True)
        assert source.class_names == ("a", "b", "c") and source.palette.tolist() == [list(c) for c in palette[:3]]
        assert source.palette.dtype == np.uint8
        assert source.encoding == LabelEncoding(3, (9,), True, colours=palette)

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("sky\nroad\n\ntraffic light\n", ("sky", "road", "traffic light")),
            ("\ufeff0 sky\n1: road\n2, traffic light\n", ("sky", "road", "traffic light")),
            ("1\tsky\r\n2\troad\r\n", ("sky", "road")),
            # Numbers that are no numbering belong to the names.
            ("2 wheels\n4 wheels\n", ("2 wheels", "4 wheels")),
            ("0 sky\nroad\n", ("0 sky", "road")),
        ],
    )
    def test_files_of_names(self, root, text, names):
        (root / "classes.txt").write_text(text, encoding="utf-8")
        assert read_names(str(root / "classes.txt")) == names
        assert opened(root, num_classes=len(names)).class_names == names
        assert opened(root, num_classes=1, class_names=("x",)).class_names == ("x",)

    def test_another_number_of_names(self, root):
        line = message(root, class_names=("a", "b"))
        assert line.startswith("segmentation.class_names has 2 classes but model.num_classes is 3: set")
        assert "--config.model.num_classes=2" in line
        (root / "labels.txt").write_text("a\nb\nc\nd\n")
        line = message(root)
        assert f"{root / 'labels.txt'} has 4 classes but model.num_classes is 3" in line
        assert f"or correct {root / 'labels.txt'}" in line

    def test_two_of_one_name(self, root):
        line = message(root, class_names=("sky", "sea", "sky"))
        assert line == (
            "segmentation.class_names names both class 0 and class 2 'sky': give each class a name of its own"
        )
        (root / "classes.txt").write_text("1 sky\n2 sea\n3 sea\n")
        assert f"{root / 'classes.txt'} names both class 1 and class 2 'sea'" in message(root)

    def test_names_that_are_numbers(self, root):
        assert opened(root, class_names=(7, 8, "9")).class_names == ("7", "8", "9")

    def test_empty_file_of_names(self, root):
        (root / "classes.txt").write_text("\n \n")
        assert f"{root / 'classes.txt'} is empty: write the name of a class on each line" in message(root)

    def test_a_file_of_names_is_found(self, tmp_path, monkeypatch):
        (tmp_path / "classes.txt").write_text("a\nb\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert names_file("~") == str(tmp_path / "classes.txt")
        with pytest.raises(UserError, match="^~/none is not a folder: give the one that holds your images"):
            names_file("~/none")

    def test_too_few_colours(self, root):
        assert "1 colours for 3 classes" in message(root, palette=((0, 0, 0),))


class TestAde20k:
    @pytest.fixture
    def root(self, tmp_path):
        folder = tmp_path / "ADEChallengeData2016"
        for split, stem in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
            write(folder, f"images/{split}/{stem}.jpg")
            write(folder, f"annotations/{split}/{stem}.png", value=150)
        rows = [f"{number}\t0.1\t10\t20\t{number}th, other;another" for number in range(1, 151)]
        (folder / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
        return tmp_path

    def test_as_released(self, root):
        for folder in (root, root / "ADEChallengeData2016"):
            train, held_out = (opened(folder, split, "ade20k", 150) for split in ("train", "eval"))
            assert (len(train), len(held_out)) == (1, 1)
            assert train.name(0).endswith("images/training/ADE_train_1.jpg")
            assert train.class_names[0] == "1th" and train.class_names[149] == "150th"
            assert np.unique(train.encoding.decode(train[0]["label_map"], "a")) == [149]

    def test_without_names(self, root):
        (root / "ADEChallengeData2016" / "objectInfo150.txt").unlink()
        assert opened(root, "train", "ade20k", 150).class_names[149] == "class 149"

    def test_refusals(self, root):
        assert "ADE20K has 150 classes but model.num_classes is 21" in message(root, "train", "ade20k", 21)
        line = message(root / "ADEChallengeData2016" / "images", "train", "ade20k", 150)
        assert "looked for images/{split} + annotations/{split}, with" in line and "ADEChallengeData2016.zip" in line
        assert "the ade20k source needs data.root" in message("", "train", "ade20k", 150)


class TestCityscapes:
    @pytest.fixture
    def root(self, tmp_path):
        for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "bonn")):
            write(tmp_path, f"leftImg8bit/{split}/{city}/{city}_0_leftImg8bit.png")
            write(tmp_path, f"gtFine/{split}/{city}/{city}_0_gtFine_labelIds.png", value=33)
            write(tmp_path, f"gtFine/{split}/{city}/{city}_0_gtFine_color.png")
        return tmp_path

    def test_ids(self, root):
        source = opened(root, "eval", "cityscapes", 19)
        assert pairs_of(source, root) == [
            ("leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", "gtFine/val/ulm/ulm_0_gtFine_labelIds.png")
        ]
        assert source.class_names[18] == "bicycle" and source.palette[18].tolist() == [119, 11, 32]
        assert np.unique(source.encoding.decode(source[0]["label_map"], "a")) == [18]
        # The 19 of 34 ids that are evaluated, in order.
        every = source.encoding.decode(np.arange(34, dtype=np.uint8)[None], "a")[0]
        assert every[[7, 8, 11, 12, 13, 17]].tolist() == [0, 1, 2, 3, 4, 5]
        assert every[19:29].tolist() == list(range(6, 16)) and every[31:].tolist() == [16, 17, 18]
        assert (every == 255).sum() == 34 - 19
        with pytest.raises(UserError, match="label 40 is none of the 19 known ones"):
            source.encoding.decode(np.array([[40]], np.uint8), "a")

    def test_train_ids_are_taken_where_they_are(self, root):
        write(root, "gtFine/train/aachen/aachen_0_gtFine_labelTrainIds.png", value=18)
        source = opened(root, "train", "cityscapes", 19)
        assert source.label_name(0).endswith("_labelTrainIds.png") and source.encoding == LabelEncoding(19)
        assert np.unique(source.encoding.decode(source[0]["label_map"], "a")) == [18]

    def test_table(self):
        names, ids, colours = zip(*CLASSES, strict=True)
        assert len(set(names)) == len(set(ids)) == len(set(colours)) == 19

    def test_refusals(self, root):
        assert "labels of Cityscapes' split test are not public" in message(
            root, "eval", "cityscapes", 19, eval_split="test"
        )
        for count in (11, 150):
            line = message(root, "train", "cityscapes", count)
            assert (
                f"Cityscapes has 19 classes but model.num_classes is {count}: set --config.model.num_classes=19" in line
            )
        assert "looked for leftImg8bit/{split} + gtFine/{split}, with" in message(
            root / "gtFine", "train", "cityscapes", 19
        )
        (root / "gtFine/train/aachen/aachen_0_gtFine_labelIds.png").unlink()
        assert "no label maps whose stems end in '_gtFine_labelIds'" in message(root, "train", "cityscapes", 19)


def prepare(
    root: Path, name: str, configs: list[str], features: dict[str, Any], records: list[dict[str, bytes]]
) -> None:
    """Writes a TFDS data set of that name as array_record, as TFDS itself would, but without TensorFlow."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def splits(self, dl_manager):
        return {split: examples() for split in ("train", "test")}

    def examples():
        for number, record in enumerate(records):
            yield number, {key: io.BytesIO(image) for key, image in record.items()}

    parts = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config) for config in configs],
        "code_path": None,
        "_info": info,
        "_split_generators": splits,
        "_generate_examples": None,
    }
    base: Any = tfds.core.GeneratorBasedBuilder
    builder = type(base)("Prepared", (base,), parts, skip_registration=True)
    builder(data_dir=str(root), file_format="array_record").download_and_prepare()


def image_features(*names: str) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    return {name: tfds.features.Image(shape=(None, None, 3)) for name in names}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three data sets under the names of real ones, and one that is nobody's, of three records a split each."""
    root = tmp_path_factory.mktemp("tfds")
    for name, configs, image, label_map, most in (
        ("scene_parse150", [], "image", "annotation", 150),
        ("cityscapes", ["semantic_segmentation"], "image_left", "segmentation_label", 33),
        ("toy", [], "photograph", "regions", 3),
    ):
        sizes = [(4, 6 + number) for number in range(3)]
        records = [
            {image: png(0, size, "RGB"), label_map: png(most - number, size)} for number, size in enumerate(sizes)
        ]
        prepare(root, name, configs, image_features(image, label_map), records)
    return root


class TestTfds:
    def test_scene_parse150(self, data_dir):
        opened_source = opened(data_dir, "eval", "tfds", 150, name="scene_parse150")
        assert isinstance(opened_source, SegmentationSource) and len(opened_source) == 3
        assert opened_source.encoding == LabelEncoding(150, reduce_zero_label=True)
        for source in (opened_source, pickle.loads(pickle.dumps(opened_source))):
            found = {}
            for index, (height, width) in enumerate(source.sizes().tolist()):
                record = source[index]
                assert record["image"] == png(0, (height, width), "RGB")
                assert source.label_map(index) == record["label_map"]
                label_map = source.encoding.decode(record["label_map"], "a")
                assert label_map.shape == (height, width)
                found[width] = int(label_map[0, 0])
            assert found == {6: 149, 7: 148, 8: 147}
        assert opened_source.name(1) == "scene_parse150/test record 1"
        assert opened_source.label_name(1) == "annotation of scene_parse150/test record 1"

    def test_cityscapes_is_stored_by_ids(self, data_dir):
        source = opened(data_dir, "train", "tfds", 19, name="cityscapes", train_split="train[:2]")
        classes = {int(source.encoding.decode(source[i]["label_map"], "a")[0, 0]) for i in range(len(source))}
        assert len(source) == 2 and classes < {18, 17, 16} and source.class_names[18] == "bicycle"

    def test_features_by_name(self, data_dir):
        named = {"image_folder": "photograph", "label_folder": "regions"}
        source = opened(data_dir, "train", "tfds", 4, name="toy", **named)
        assert {int(source.encoding.decode(source.label_map(i), "a")[0, 0]) for i in range(3)} == {3, 2, 1}
        line = message(data_dir, "train", "tfds", 4, name="toy")
        assert "'toy' is not known to have images with label maps: its image features are photograph, regions" in line
        assert "name one as segmentation.image_folder" in line
        line = message(data_dir, "train", "tfds", 4, name="toy", image_folder="fotograph", label_folder="regions")
        assert "no image feature 'fotograph' (did you mean 'photograph'?) to be segmentation.image_folder" in line

    def test_refusals(self, data_dir):
        assert "the tfds source needs name" in message(data_dir, source="tfds")
        for name in ("imagenet2012", "imagenet2012:5.*.*"):
            line = message(data_dir, source="tfds", name=name)
            assert "such as scene_parse150 or oxford_iiit_pet, not imagenet2012, which has none" in line
        assert "not prepared" in message(data_dir, source="tfds", name="oxford_iiit_pet")
        assert "has no split 'val'" in message(data_dir, "eval", "tfds", 19, name="cityscapes", eval_split="val")
        line = message(data_dir, source="tfds", name="cityscapes:1.0.0", num_classes=150)
        assert "Cityscapes has 19 classes" in line

    def test_how_to_prepare_cityscapes(self, tmp_path):
        line = message(tmp_path, source="tfds", name="cityscapes", num_classes=19)
        assert "pvt_jax.prepare cityscapes --manual_dir=FOLDER_WITH_THE_TWO_ZIPS --data_dir=" in line
