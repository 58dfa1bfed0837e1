"""Data that comes as a whole is divided by names and a seed, in every format of a folder."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.data.formats import LABEL_MAPS, LABELLED_IMAGES, OBJECTS, open_source
from pvt_jax.data.formats.holdout import held_out
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.options import DataOptions, LabelMapOptions, ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from tests.helpers.detection_data import save, voc_xml, write_json

SIZE = (20, 30)
# What a fifth of these ten is, for ever: a run that resumes after an update must not train on what it evaluated.
TEN = {0: ["2.jpg", "9.jpg"], 1: ["7.jpg", "9.jpg"]}


def picture(path: Path, value: int = 0) -> None:
    save(path, np.full((*SIZE, 3), value, np.uint8))


def classes(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for number in range(count):
            picture(root / name / f"{number}.jpg", number)
    return root


def masks(root: Path, images: str = "images/{}.jpg", maps: str = "masks/{}.png", count: int = 10) -> Path:
    for number in range(count):
        picture(root / images.format(number))
        save(root / maps.format(number), np.full(SIZE, number % 2, np.uint8))
    return root


def coco(root: Path, path: str = "my export.json", images: str = "photos", count: int = 10) -> Path:
    for number in range(count):
        picture(root / images / f"{number}.jpg")
    listed = [{"id": n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(count)]
    objects = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 8]} for n in range(count - 2)]
    content = {"images": listed, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    write_json(root / path, content)
    return root


def voc(root: Path, xml: str = "", images: str = "", count: int = 10) -> Path:
    for number in range(count):
        picture(root / images / f"{number}.jpg")
        (root / xml).mkdir(parents=True, exist_ok=True)
        content = voc_xml(f"{number}.jpg", SIZE, [("cat", [2, 3, 10, 10])])
        (root / xml / f"{number}.xml").write_bytes(content)
    return root


OPTIONS = {
    LABELLED_IMAGES: None,
    LABEL_MAPS: LabelMapOptions(num_classes=2),
    OBJECTS: ObjectOptions(num_classes=1, keep_empty=False),
}


def halves(kind: str, source: str, root: Path, holdout: float = 0.2, seed: int = 0, **rest: Any) -> list[Any]:
    request = {"root": str(root), "options": OPTIONS[kind], "holdout": holdout, "seed": seed, **rest}
    return [open_source(kind, source, Request(split, **request)) for split in ("train", "eval")]


def files(source: Any, root: Path) -> list[str]:
    return [os.path.relpath(source.path(index), root) for index in range(len(source))]


def message(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        halves(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestChoice:
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_each_class_gives_its_share(self, data):
        counts = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
        share, seed = data.draw(st.floats(0.01, 0.99)), data.draw(st.integers(0, 9))
        labels = np.repeat(np.arange(len(counts)), counts)
        names = [f"{label}/{number}.jpg" for number, label in enumerate(labels.tolist())]
        held = held_out(names, share, seed, labels)
        for label, count in enumerate(counts):
            wanted = int(np.floor(share * count + 0.5))
            assert held[labels == label].sum() == (min(max(wanted, 1), count - 1) if count > 1 else 0)
        # The order in which a file system lists them does not matter.
        order = data.draw(st.permutations(range(len(names))))
        np.testing.assert_array_equal(held_out([names[n] for n in order], share, seed, labels[order]), held[order])

    @pytest.mark.parametrize("seed", TEN)
    def test_stays_what_it_is(self, seed):
        names = [f"{number}.jpg" for number in range(10)]
        held = held_out(names, 0.2, seed)
        assert [name for name, is_held in zip(names, held, strict=True) if is_held] == TEN[seed]

    def test_names_of_one_image_stay_together(self):
        names = ["é/1.jpg", "e\u0301/1.jpg", "é\\1.jpg", *(f"{n}.jpg" for n in range(20))]
        for seed in range(20):
            held = held_out(names, 0.5, seed)
            assert held[0] == held[1] == held[2] and held.sum() in (10, 11, 12, 13)


class TestFormats:
    @pytest.mark.parametrize("above", ["", "train"])
    def test_class_folders(self, tmp_path, above):
        classes(tmp_path / above, cat=10, dog=5, emu=1)
        train, evaluation = halves(LABELLED_IMAGES, "folder", tmp_path)
        assert train.class_names == evaluation.class_names == ("cat", "dog", "emu")
        assert np.bincount(train.labels).tolist() == [8, 4, 1] and np.bincount(evaluation.labels).tolist() == [2, 1]
        found = files(train, tmp_path) + files(evaluation, tmp_path)
        assert len(found) == 16 == len({*found})
        assert "3 of 16 images are held out for evaluation (data.holdout)" in train.notes()
        for source in (train, evaluation):
            for index in range(len(source)):
                assert source[index]["image"] == (tmp_path / files(source, tmp_path)[index]).read_bytes()
                assert source.class_names[source[index]["label"]] in files(source, tmp_path)[index].split("/")
        # Elsewhere they are the same, and with another seed they are not.
        moved = tmp_path.parent / "elsewhere"
        shutil.copytree(tmp_path, moved)
        assert files(halves(LABELLED_IMAGES, "folder", moved)[1], moved) == files(evaluation, tmp_path)
        shutil.rmtree(moved)
        others = halves(LABELLED_IMAGES, "folder", tmp_path, seed=3)[1]
        assert files(others, tmp_path) != files(evaluation, tmp_path)

    @pytest.mark.parametrize(
        ("images", "maps"),
        [
            ("images/{}.jpg", "masks/{}.png"),
            ("Image/{}.jpg", "Mask/{}_mask.png"),
            ("{}.jpg", "{}.png"),
            ("a/{}.png", "a/{}_mask.png"),
            ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
            ("Training_Images/{}.jpg", "Ground_Truth/{}.png"),
            ("train/{}.jpg", "train/{}_mask.png"),
            ("train/images/{}.jpg", "train/labels/{}.png"),
        ],
    )
    def test_label_maps(self, tmp_path, images, maps):
        masks(tmp_path, images, maps)
        train, evaluation = halves(LABEL_MAPS, "label_folder", tmp_path)
        found = [name for source in (train, evaluation) for name in files(source, tmp_path)]
        assert sorted(found) == sorted(images.format(n) for n in range(10)) and len(evaluation) == 2
        for source in (train, evaluation):
            for index, name in enumerate(files(source, tmp_path)):
                number = int("".join(filter(str.isdigit, name)))
                with Image.open(source.label_name(index)) as label_map:
                    assert np.asarray(label_map).max() == number % 2
            assert source.sizes().tolist() == [list(SIZE)] * len(source)

    @pytest.mark.parametrize(
        ("path", "images"),
        [
            ("my export.json", "photos"),
            ("annotations/all.json", ""),
            ("data/x.json", "data"),
            ("result.json", "images"),
        ],
    )
    def test_coco(self, tmp_path, path, images):
        coco(tmp_path, path, images)
        assert recognise_folder(OBJECTS, str(tmp_path), options=ObjectOptions(), holdout=0.2) == ("coco", ("cat",))
        train, evaluation = halves(OBJECTS, "coco", tmp_path)
        stems = [{int(Path(name).stem) for name in files(source, tmp_path)} for source in (train, evaluation)]
        # Two have no object: training leaves them out, evaluation does not.
        assert not stems[0] & stems[1] and (stems[0] | {8, 9}) == {*range(10)} - stems[1] | {8, 9}
        assert len(evaluation) == 2 and not stems[0] & {8, 9}
        assert [a["image_id"] for a in evaluation.annotations()] == sorted(stems[1] - {8, 9})
        assert train.objects(0).boxes.tolist() == [[1, 2, 10, 10]]

    @pytest.mark.parametrize(
        ("xml", "images"), [("", ""), ("Annotations", "JPEGImages"), ("annotations", "images"), ("all", "all")]
    )
    def test_voc(self, tmp_path, xml, images):
        voc(tmp_path, xml, images)
        assert recognise_folder(OBJECTS, str(tmp_path), options=ObjectOptions(), holdout=0.2) == ("voc", ("cat",))
        train, evaluation = halves(OBJECTS, "voc", tmp_path)
        assert len(train) == 8 and len(evaluation) == 2 and train.class_names == evaluation.class_names
        assert sorted(files(train, tmp_path) + files(evaluation, tmp_path)) == sorted(
            os.path.join(images, f"{n}.jpg") for n in range(10)
        )

    def test_named_places(self, tmp_path):
        masks(tmp_path, "rgb/{}.jpg", "truth/{}.png")
        options = LabelMapOptions(2, image_folder="rgb", label_folder="truth")
        assert [len(half) for half in halves(LABEL_MAPS, "label_folder", tmp_path, options=options)] == [8, 2]
        coco(tmp_path, "sets/a.json", "rgb")
        coco(tmp_path, "sets/b.json", "rgb")
        options = ObjectOptions(1, annotations="sets/a.json", image_folder="rgb")
        assert [len(half) for half in halves(OBJECTS, "coco", tmp_path, options=options)] == [8, 2]
        voc(tmp_path, "xmls 2", "rgb")
        options = ObjectOptions(1, annotations="xmls 2", image_folder="rgb")
        assert [len(half) for half in halves(OBJECTS, "voc", tmp_path, options=options)] == [8, 2]


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "source", "write", "there"),
        [
            (LABELLED_IMAGES, "folder", lambda root: [classes(root / x, a=2, b=2) for x in ("train", "Val")], "Val"),
            (
                LABEL_MAPS,
                "label_folder",
                lambda root: [masks(root, f"images/{x}/{{}}.jpg", f"masks/{x}/{{}}.png") for x in ("train", "valid")],
                "masks/valid",
            ),
            (OBJECTS, "coco", lambda root: [coco(root, f"{x}.json") for x in ("train", "val")], "val.json"),
            (OBJECTS, "voc", lambda root: [voc(root, x, x) for x in ("train", "valid")], "valid"),
        ],
    )
    def test_a_validation_split_that_is_there(self, tmp_path, kind, source, write, there):
        write(tmp_path)
        assert message(kind, source, tmp_path) == (
            f"data.holdout=0.2 is for data without a validation split, but there is one, {tmp_path / there}: leave "
            f"data.holdout out to evaluate on it, or move it away"
        )

    def test_data_for_testing_is_put_aside(self, tmp_path):
        for split in ("train", "test"):
            classes(tmp_path / split, a=5, b=5)
        found: list[str] = []
        for source in halves(LABELLED_IMAGES, "folder", tmp_path):
            found += files(source, tmp_path)
        assert len(found) == 10 and all(name.startswith("train/") for name in found)

    def test_a_folder_too_high(self, tmp_path):
        classes(tmp_path / "PetImages", cat=2, dog=2)
        line = message(LABELLED_IMAGES, "folder", tmp_path)
        assert line.endswith(f"it holds PetImages; did you mean --config.data.root={tmp_path / 'PetImages'}?")
        line = message(LABELLED_IMAGES, "folder", tmp_path, holdout=0)
        assert line.endswith(f"--config.data.root={tmp_path / 'PetImages'} --config.data.holdout=0.2?")

    def test_several_files_of_annotations(self, tmp_path):
        for name in "ab":
            coco(tmp_path, f"{name}.json")
        line = message(OBJECTS, "coco", tmp_path)
        assert "; a.json, b.json all could be meant" in line
        assert line.endswith("set detection.annotations to one of them, such as 'a.json'")

    def test_too_few(self, tmp_path):
        assert message(LABELLED_IMAGES, "folder", classes(tmp_path / "a", cat=1, dog=1)) == (
            f"{tmp_path / 'a'} has 2 images of each class, too few for data.holdout=0.2: add some"
        )
        line = message(LABEL_MAPS, "label_folder", masks(tmp_path / "b", count=1))
        assert line == f"{tmp_path / 'b'} has 1 image, too few for data.holdout=0.2: add some"

    def test_data_with_splits_of_its_own(self, tmp_path):
        assert message(LABELLED_IMAGES, "digits", tmp_path) == (
            "data.holdout divides data of the sources folder, metadata, parquet, but 'digits' has splits of its own: "
            "leave data.holdout out"
        )

    def test_a_named_split_for_evaluation(self):
        with pytest.raises(UserError, match=r"data.holdout=0.2 takes .* but data.eval_split is 'x': leave one of the"):
            DataOptions(holdout=0.2, eval_split="x").validate()
