"""Sources of classification data: what they read, and the line they print when they cannot."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from typing import Any

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.classification.source import ClassificationSource


def jpeg(grey: int = 0, mode: str = "RGB", form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), (grey,) * len(mode)).save(buffer, form)
    return buffer.getvalue()


def write(path, data: bytes = b"image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def opened(source: str, split: Any = "train", **arguments: str) -> Any:
    return open_source(LABELLED_IMAGES, source, Request(split, **arguments))


def message(**arguments) -> str:
    with pytest.raises(UserError) as caught:
        opened(arguments.pop("source"), **{"split": "train", **arguments})
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestOpenSource:
    def test_unknown_source_names_the_nearest_and_all(self):
        line = message(source="folders")
        assert (
            "'folders'" in line
            and "did you mean 'folder'?" in line
            and "digits, folder, metadata, parquet, tfds" in line
        )

    def test_unknown_split(self):
        assert "'train' and 'eval'" in message(source="digits", split="test")

    def test_opens_without_jax_and_without_the_other_sources(self):
        code = (
            "import sys, pvt_jax; before = 'jax' in sys.modules\n"
            "from pvt_jax.data import formats, records\n"
            "formats.open_source(formats.LABELLED_IMAGES, 'digits', records.Request('train'))\n"
            "assert ('jax' in sys.modules) == before and 'tensorflow_datasets' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestDigits:
    def test_halves_are_stratified_disjoint_and_complete(self):
        train, held_out = (opened("digits", split=split) for split in ("train", "eval"))
        assert (len(train), len(held_out)) == (1438, 359)
        assert np.bincount(held_out.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
        assert np.bincount(train.labels).tolist() == [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]
        images, targets = load_digits(return_X_y=True)
        # Every original image is in one half or the other, as often as in the original.
        original = sorted(np.rint(image * 255 / 16).astype(np.uint8).tobytes() + bytes([target])
                          for image, target in zip(images, targets, strict=True))  # fmt: skip
        both = [source[i] for source in (train, held_out) for i in range(len(source))]
        assert sorted(r["image"][..., 0].tobytes() + bytes([r["label"]]) for r in both) == original

    def test_split_never_changes(self):
        held_out = opened("digits", split="eval")
        assert held_out.labels[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
        again = opened("digits", split="eval")
        assert all(np.array_equal(held_out[i]["image"], again[i]["image"]) for i in range(0, 359, 50))

    def test_records(self):
        source = opened("digits", split="train")
        record = source[0]
        assert record["image"].dtype == np.uint8 and record["image"].shape == (8, 8, 3)
        assert type(record["label"]) is int and record["label"] == source.labels[0]
        images = np.stack([source[i]["image"] for i in range(len(source))])
        assert images.min() == 0 and images.max() == 255
        assert source.class_names == tuple("0123456789")
        assert source.name(17) == "digits/train record 17"
        assert isinstance(source, ClassificationSource)

    def test_a_split_of_its_own_is_refused(self):
        assert "one fixed split" in message(source="digits", train_split="train[:50%]")


@pytest.fixture
def root(tmp_path):
    """Two classes, with what real folders also hold: nested folders, other files, traces of archives and notebooks."""
    for name in ("cat/a.jpg", "cat/more/deep/b.JPEG", "cat/c.PnG", "dog/a.bmp", "dog/b.webp", "dog/.hidden.jpg"):
        write(tmp_path / "train" / name)
    for name in ("cat/Thumbs.db", "cat/jpg", "__MACOSX/x.jpg", ".ipynb_checkpoints/x.jpg", "dog/__MACOSX/x.jpg"):
        write(tmp_path / "train" / name)
    write(tmp_path / "train" / "readme.txt")
    write(tmp_path / "val" / "dog" / "z.jpg", b"the dog")
    return tmp_path


def paths_of(source) -> list[str]:
    return [os.path.relpath(source.name(i), str(source)) for i in range(len(source))]


class TestFolder:
    def test_finds_images_in_order_and_ignores_the_rest(self, root):
        source = opened("folder", split="train", root=str(root))
        assert paths_of(source) == [
            "train/cat/a.jpg", "train/cat/c.PnG", "train/cat/more/deep/b.JPEG", "train/dog/a.bmp", "train/dog/b.webp",
        ]  # fmt: skip
        assert source.labels.tolist() == [0, 0, 0, 1, 1]
        assert source.class_names == ("cat", "dog")
        assert isinstance(source, ClassificationSource)

    def test_evaluation_labels_follow_the_training_classes(self, root):
        source = opened("folder", split="eval", root=str(root))
        assert source.class_names == ("cat", "dog")
        assert source[0] == {"image": b"the dog", "label": 1}

    @pytest.mark.parametrize("present", [["validation", "test"], ["test"], ["val", "test"]])
    def test_first_evaluation_folder_that_exists(self, root, present):
        shutil.rmtree(root / "val")
        for name in present:
            write(root / name / "cat" / "a.jpg")
        assert paths_of(opened("folder", split="eval", root=str(root))) == [f"{present[0]}/cat/a.jpg"]

    def test_named_folders(self, root):
        (root / "train").rename(root / "training")
        write(root / "held_out" / "cat" / "a.jpg")
        source = opened("folder", split="eval", root=str(root), train_split="training", eval_split="held_out")
        assert paths_of(source) == ["held_out/cat/a.jpg"]

    def test_home_is_expanded(self, root, monkeypatch):
        monkeypatch.setenv("HOME", str(root.parent))
        assert len(opened("folder", split="train", root=f"~/{root.name}")) == 5

    def test_links_are_followed_once(self, root):
        (root / "train" / "cat" / "up").symlink_to(root / "train" / "cat")
        write(root / "elsewhere" / "d.jpg")
        (root / "train" / "cat" / "other").symlink_to(root / "elsewhere")
        (root / "train" / "cat" / "broken.jpg").symlink_to(root / "nowhere.jpg")
        source = opened("folder", split="train", root=str(root))
        assert paths_of(source)[:4] == [
            "train/cat/a.jpg", "train/cat/c.PnG", "train/cat/more/deep/b.JPEG", "train/cat/other/d.jpg",
        ]  # fmt: skip

    def test_survives_pickling(self, root):
        source = opened("folder", split="train", root=str(root))
        again = pickle.loads(pickle.dumps(source))
        assert paths_of(again) == paths_of(source)
        assert list(grain.MapDataset.source(again).map(lambda record: record["label"])) == [0, 0, 0, 1, 1]

    def test_index_outside(self, root):
        source = opened("folder", split="train", root=str(root))
        for index in (5, -1):
            with pytest.raises(IndexError, match="of 5"):
                source[index]

    def test_root_unset_missing_or_a_file(self, root):
        assert "needs data.root" in message(source="folder")
        line = message(source="folder", root=str(root / "nowhere"))
        assert f"{root / 'nowhere'} does not exist" in line and "set data.root" in line
        assert "is a file" in message(source="folder", root=str(root / "train" / "readme.txt"))

    def test_missing_halves_show_the_layout(self, root):
        line = message(source="folder", root=str(root / "train"))
        assert f"no training images in {root / 'train'}: looked for {{split}}, with train2017 or train or" in line
        assert "it holds cat, dog" in line and f"did you mean --config.data.root={root}?" in line
        (root / "train").rename(root / "photos")
        line = message(source="folder", root=str(root))
        assert "it holds photos, val" in line and f"put images into {root}/train/<class>/*.jpg" in line
        (root / "photos").rename(root / "train")
        shutil.rmtree(root / "val")
        line = message(source="folder", split="eval", root=str(root))
        assert "no evaluation images" in line and "val or valid or validation or test for {split}" in line
        assert "val/<class>/*.jpg, or set data.eval_split" in line
        line = message(source="folder", split="eval", root=str(root), eval_split="minival")
        assert "with minival for {split}" in line
        (root / "bare").mkdir()
        assert "holds no folder" in message(source="folder", root=str(root / "bare"))
        write(root / "bare" / "unpacked" / "train" / "cat" / "a.jpg")
        line = message(source="folder", root=str(root / "bare"))
        assert f"did you mean --config.data.root={root / 'bare' / 'unpacked'}?" in line

    def test_other_names_and_other_cases_of_letters(self, root):
        write(root / "test" / "cat" / "a.jpg")
        (root / "val").rename(root / "valid")
        assert paths_of(opened("folder", split="eval", root=str(root))) == ["valid/dog/z.jpg"]
        (root / "train").rename(root / "Train")
        source = opened("folder", split="train", root=str(root))
        assert len(source) == 5 and os.path.samefile(root / "Train/cat/a.jpg", source.name(0))

    def test_no_class_folders(self, root):
        for name in ("cat", "dog"):
            shutil.rmtree(root / "train" / name)
        assert "it holds 1 .txt; put the" in message(source="folder", root=str(root))
        (root / "train" / "readme.txt").unlink()
        assert "it has no images either" in message(source="folder", root=str(root))
        for name in "ab":
            write(root / "train" / f"{name}.jpg")
        line = message(source="folder", root=str(root))
        assert (
            f"no class folders in {root / 'train'}: it holds 2 images in no class folder" in line and "<class>" in line
        )

    def test_empty_evaluation(self, root):
        shutil.rmtree(root / "val" / "dog")
        assert f"no class folders in {root / 'val'}" in message(source="folder", split="eval", root=str(root))

    def test_class_folders_without_images(self, root):
        for name in ("emu", "fox"):
            write(root / "train" / name / "picture.HEIC")
        line = message(source="folder", root=str(root))
        assert "2 of 4 class folders" in line and "emu, fox (they hold 2 .heic (convert to JPEG or PNG));" in line
        (root / "val" / "cat").mkdir()
        assert "1 of 2 class folders" in message(source="folder", split="eval", root=str(root))

    def test_many_empty_class_folders_are_counted_not_all_named(self, root):
        for number in range(20):
            (root / "train" / f"empty{number:02}").mkdir()
        line = message(source="folder", root=str(root))
        assert "20 of 22" in line and "empty07 and 12 more" in line and "empty08" not in line

    def test_evaluation_class_unknown_to_training(self, root):
        write(root / "val" / "dogs" / "a.jpg")
        line = message(source="folder", split="eval", root=str(root))
        assert "dogs (did you mean 'dog'?)" in line and str(root / "val") in line

    def test_unreadable_folder(self, root, monkeypatch):
        real, locked = os.scandir, str(root / "train" / "dog")

        def scandir(path):
            if str(path).rstrip("/") == locked:
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        line = message(source="folder", root=str(root))
        assert f"cannot list the folder {locked}" in line and "Permission denied" in line

    def test_file_that_vanished(self, root):
        source = opened("folder", split="eval", root=str(root))
        path = root / "val" / "dog" / "z.jpg"
        path.unlink()
        with pytest.raises(UserError, match="No such file") as caught:
            source[0]
        assert str(path) in str(caught.value)

    @settings(max_examples=25, deadline=None)
    @given(
        st.dictionaries(
            st.text("abäß猫 -_'", min_size=1, max_size=6).filter(str.strip),
            st.sets(st.text("xyzé. %", min_size=1, max_size=5), min_size=1, max_size=4),
            min_size=2,
            max_size=4,
        )
    )
    def test_any_names_come_back_with_their_labels(self, tmp_path_factory, classes):
        root = tmp_path_factory.mktemp("names")
        expected = []
        for label, name in enumerate(sorted(classes)):
            for stem in sorted(f"i{stem}.jpg" for stem in classes[name]):
                write(root / "train" / name / stem, f"{name}/{stem}".encode())
                expected.append((f"train/{name}/{stem}", label))
        source = opened("folder", split="train", root=str(root))
        assert list(zip(paths_of(source), source.labels.tolist(), strict=True)) == expected
        for index, (path, label) in enumerate(expected):
            assert source[index] == {"image": path.removeprefix("train/").encode(), "label": label}


SYNSETS = ("n01440764", "n01443537", "n15075141")  # labels 0, 1 and 999
VAL_LABELS = (65, 970, 230)  # of validation images 1 to 3, as the lists of Caffe and others have them


def add(tar: tarfile.TarFile, name: str, data: bytes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="session")
def imagenet_tars(tmp_path_factory):
    """A tiny ImageNet in the layout of the original: 3 classes of 3 images, one of them CMYK and one a PNG."""
    folder = tmp_path_factory.mktemp("tars")
    odd = {"n01440764_1.JPEG": jpeg(50, mode="CMYK"), "n15075141_2.JPEG": jpeg(50, form="PNG")}
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
        for synset in SYNSETS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for number in range(3):
                    name = f"{synset}_{number}.JPEG"
                    add(images, name, odd.get(name) or jpeg(60 * number))
            add(train, f"{synset}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as val:
        for number in (3, 1, 2):
            add(val, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(60 * number))
    return folder


@pytest.fixture(scope="session")
def imagenet(imagenet_tars, tmp_path_factory):
    """A data_dir with that ImageNet, prepared once with the command that the error message gives."""
    from pvt_jax import prepare

    root = tmp_path_factory.mktemp("tfds")
    assert prepare.main(["imagenet2012", f"--manual_dir={imagenet_tars}", f"--data_dir={root}"]) == 0
    assert "tensorflow" not in sys.modules
    return root


class TestTfds:
    def test_imagenet_is_prepared_and_read_without_tensorflow(self, imagenet):
        train = opened("tfds", split="train", name="imagenet2012", root=str(imagenet))
        assert isinstance(train, ClassificationSource)
        assert len(train) == 9 and train.labels is None
        assert len(train.class_names) == 1000 and train.class_names[:2] == SYNSETS[:2]
        records = [train[index] for index in range(9)]
        assert sorted(record["label"] for record in records) == [0] * 3 + [1] * 3 + [999] * 3
        # Stored bytes come back as they were, save the two that are recoded to RGB JPEG.
        stored = [record["image"] for record in records]
        assert stored.count(jpeg(0)) == 3 and stored.count(jpeg(60)) == 2 and stored.count(jpeg(120)) == 2
        for data in stored:
            with Image.open(io.BytesIO(bytes(data))) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")

    def test_validation_labels_follow_the_number_in_the_name(self, imagenet):
        source = opened("tfds", split="eval", name="imagenet2012", root=str(imagenet))
        labels = {source[index]["image"]: source[index]["label"] for index in range(3)}
        assert labels == {jpeg(60): VAL_LABELS[0], jpeg(120): VAL_LABELS[1], jpeg(180): VAL_LABELS[2]}
        assert source.name(2) == "imagenet2012/validation record 2"

    def test_part_of_a_split(self, imagenet):
        source = opened("tfds", split="eval", name="imagenet2012", root=str(imagenet), eval_split="train[6:]")
        assert len(source) == 3

    def test_survives_pickling(self, imagenet):
        source = opened("tfds", split="train", name="imagenet2012", root=str(imagenet))
        data = pickle.dumps(source)
        assert len(data) < 50_000
        again = pickle.loads(data)
        assert [again[i] for i in range(len(again))] == [source[i] for i in range(len(source))]
        assert len(list(grain.MapDataset.source(pickle.loads(data)).map(lambda record: record["label"]))) == 9

    def test_unknown_name(self, imagenet):
        line = message(source="tfds", name="imagnet2012", root=str(imagenet))
        assert "no data set 'imagnet2012' (did you mean 'imagenet2012'?)" in line
        assert "needs name" in message(source="tfds")

    def test_names_that_tfds_cannot_open(self, imagenet):
        assert "only: 5.1.0" in message(source="tfds", name="imagenet2012:9.9.9", root=str(imagenet))
        if "tensorflow" not in sys.modules:
            assert "without TensorFlow" in message(source="tfds", name="coco", root=str(imagenet))

    def test_not_prepared_gives_the_command(self, tmp_path, capfd):
        line = message(source="tfds", name="imagenet2012", root=str(tmp_path))
        assert "not prepared" in line and str(tmp_path / "imagenet2012") in line
        assert "`python -m pvt_jax.prepare imagenet2012 --manual_dir=FOLDER_WITH_THE_TWO_TARS " in line
        assert f"--data_dir={tmp_path}`" in line
        line = message(source="tfds", name="cifar10", root=str(tmp_path))
        assert f"`python -m pvt_jax.prepare cifar10 --data_dir={tmp_path}`" in line
        assert capfd.readouterr() == ("", "")

    def test_prepared_as_tfrecord(self, imagenet, tmp_path):
        shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True)
        info = next(tmp_path.rglob("dataset_info.json"))
        info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
        line = message(source="tfds", name="imagenet2012", root=str(tmp_path))
        assert "prepared as tfrecord" in line and "--data_dir=ANOTHER_FOLDER" in line

    def test_unknown_or_empty_split(self, imagenet):
        arguments = {"source": "tfds", "name": "imagenet2012", "root": str(imagenet)}
        line = message(**arguments, train_split="trian")
        assert "no split 'trian' (did you mean 'train'?); it has train, validation" in line
        assert "no split 'minival'" in message(**arguments, split="eval", eval_split="minival")
        assert "has no records" in message(**arguments, train_split="train[:0]")

    def test_default_evaluation_split(self, imagenet, tmp_path):
        shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True)
        info = next(tmp_path.rglob("dataset_info.json"))
        content = json.loads(info.read_text())
        renamed = {"validation": "test"}
        splits = [{**split, "name": renamed.get(split["name"], split["name"])} for split in content["splits"]]
        arguments = {"split": "eval", "name": "imagenet2012", "root": str(tmp_path)}
        info.write_text(json.dumps({**content, "splits": splits}))
        assert opened("tfds", **arguments).name(0) == "imagenet2012/test record 0"
        info.write_text(json.dumps({**content, "splits": [s for s in splits if s["name"] == "train"]}))
        line = message(source="tfds", **arguments)
        assert "or validation or test, only train: set data.eval_split" in line

    def test_records_that_vanished(self, imagenet, tmp_path):
        shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True)
        source = opened("tfds", split="train", name="imagenet2012", root=str(tmp_path))
        next(tmp_path.rglob("*train.array_record*")).unlink()
        with pytest.raises(UserError, match="imagenet2012/train record 4"):
            source[4]
        with pytest.raises(IndexError, match="of 9"):
            source[9]


class TestPrepare:
    def test_missing_tars(self, tmp_path, capsys):
        from pvt_jax import prepare

        assert prepare.main(["imagenet2012", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path / "ILSVRC2012_img_train.tar") in error and "image-net.org" in error
        assert error.count("\n") == 1

    def test_training_images_made_smaller(self, imagenet_tars, tmp_path, capsys):
        """Once, keeping what a photograph says of its orientation; those of the evaluation and small ones stay."""
        from pvt_jax import prepare

        exif = Image.Exif()
        exif[0x0112] = 6
        stream = io.BytesIO()
        Image.linear_gradient("L").resize((300, 100)).convert("RGB").save(stream, "JPEG", exif=exif)
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as images:
            add(images, "n01440764_0.JPEG", stream.getvalue())
            add(images, "n01440764_1.JPEG", jpeg(0))
            add(images, "n01440764_2.JPEG", stream.getvalue()[:-700])
        shutil.copytree(imagenet_tars, tmp_path / "tars")
        with tarfile.open(tmp_path / "tars" / "ILSVRC2012_img_train.tar", "w") as train:
            add(train, "n01440764.tar", inner.getvalue())
        flags = ["imagenet2012", f"--manual_dir={tmp_path / 'tars'}", f"--data_dir={tmp_path / 'out'}"]
        assert prepare.main([*flags, "--shorter_side=50"]) == 0
        source = opened("tfds", split="train", name="imagenet2012", root=str(tmp_path / "out"))
        images = sorted((source[index]["image"] for index in range(3)), key=len)
        # The one that cannot be decoded will be told by its name.
        assert jpeg(0) in images and stream.getvalue()[:-700] in images
        (smaller,) = set(images) - {jpeg(0), stream.getvalue()[:-700]}
        with Image.open(io.BytesIO(smaller)) as image:
            assert image.size == (150, 50) and image.getexif()[0x0112] == 6
            whole = Image.linear_gradient("L").resize((300, 100)).resize((150, 50), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(image.convert("L")).astype(int) - np.asarray(whole)).mean() < 1.5
        evaluated = opened("tfds", split="eval", name="imagenet2012", root=str(tmp_path / "out"))
        assert {evaluated[index]["image"] for index in range(3)} == {jpeg(60), jpeg(120), jpeg(180)}

        capsys.readouterr()
        assert prepare.main([*flags, "--shorter_side=50"]) == 0
        for others in ([], ["--shorter_side=60"]):
            assert prepare.main([*flags, *others]) == 2
            assert capsys.readouterr().err == (
                f"error: {tmp_path}/out/imagenet2012/5.1.0 is there, with training images whose shorter sides are at "
                "most 50 pixels: choose another --data_dir, or remove it\n"
            )

    def test_sizes_that_nothing_can_have(self, imagenet, imagenet_tars, capsys):
        from pvt_jax import prepare

        flags = [f"--manual_dir={imagenet_tars}", f"--data_dir={imagenet}"]
        assert prepare.main(["imagenet2012", *flags, "--shorter_side=480"]) == 2
        assert "5.1.0 is there, with training images of their own size: choose" in capsys.readouterr().err
        assert prepare.main(["imagenet2012", *flags, "--shorter_side=-1"]) == 2
        assert capsys.readouterr().err == "error: --shorter_side is -1: give pixels, as 480, or leave it out\n"
        assert prepare.main(["cifar10", *flags, "--shorter_side=480"]) == 2
        assert capsys.readouterr().err == (
            "error: --shorter_side=480 is for the training images of imagenet2012, in pixels: leave it out for "
            "'cifar10', or resize its originals\n"
        )

    def test_broken_tar(self, imagenet_tars, tmp_path):
        from pvt_jax.data.formats.tfds.prepare import prepare

        shutil.copytree(imagenet_tars, tmp_path, dirs_exist_ok=True)
        train = tmp_path / "ILSVRC2012_img_train.tar"
        train.write_bytes(train.read_bytes()[:3000])
        with pytest.raises(UserError, match="incomplete"):
            prepare("imagenet2012", root=str(tmp_path / "out"), manual_dir=str(tmp_path))

    def test_class_that_imagenet_has_not(self, imagenet_tars, tmp_path):
        from pvt_jax.data.formats.tfds.prepare import prepare

        shutil.copytree(imagenet_tars, tmp_path, dirs_exist_ok=True)
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as images:
            add(images, "n00000000_1.JPEG", jpeg())
        with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as train:
            add(train, "n00000000.tar", inner.getvalue())
        with pytest.raises(UserError, match="n00000000"):
            prepare("imagenet2012", root=str(tmp_path / "out"), manual_dir=str(tmp_path))

    def test_others_say_that_they_need_tensorflow(self, tmp_path, monkeypatch):
        from pvt_jax.data.formats.tfds.prepare import prepare

        for module in ("tensorflow", "importlib_resources"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match="needs TensorFlow to prepare 'cifar10'.*pip install tensorflow"):
            prepare("cifar10", root=str(tmp_path))
