"""Images and classes in Parquet files, as the Hugging Face Hub has them, against the same images in class folders."""

import io
import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.formats.parquet import shards
from pvt_jax.data.records import HasFiles, HasNotes, Request
from pvt_jax.errors import UserError
from pvt_jax.files.images import decode
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.classification.source import ClassificationSource
from tests.helpers.command import ROOT

NAMES = ("dog", "cat", "emu")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def encoded(number: int) -> bytes:
    """A JPEG that EXIF turns if the number is odd."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6 if number % 2 else 1
    pixels = np.random.default_rng(number).integers(0, 256, (4 + number % 3, 9, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def features(*names: str) -> dict[str, str]:
    kinds = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": kinds}})}


def write(
    path: Path,
    images: list[Any],
    labels: Any,
    *,
    names: tuple[str, ...] = (),
    group: int = 2,
    columns: tuple[str, str] = ("image", "label"),
    kind: pa.DataType = IMAGE,
) -> Path:
    rows = [{"bytes": image, "path": f"{n}.jpg"} for n, image in enumerate(images)] if kind == IMAGE else images
    table = pa.table({"id": range(len(images)), columns[0]: pa.array(rows, kind), columns[1]: labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(features(*names) if names else None), path, row_group_size=group)
    return path


def opened(root: Path, split: Any = "train", **rest: Any) -> Any:
    return open_source(LABELLED_IMAGES, "parquet", Request(split, root=str(root), **rest))


def message(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_shards_equal_a_folder_of_the_same_images(tmp_path):
    images, labels = [encoded(number) for number in range(9)], [2, 0, 2, 0, 0, 2, 0, 2, 2]
    write(tmp_path / "hub/data/train-00000-of-00002.parquet", images[:5], labels[:5], names=NAMES)
    write(tmp_path / "hub/data/train-00001-of-00002.parquet", images[5:], labels[5:], names=NAMES, group=3)
    write(tmp_path / "hub/data/test-00000-of-00001.parquet", images[:1], [1], names=NAMES)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "folder/train" / NAMES[label] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    source = opened(tmp_path / "hub")
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(source, ClassificationSource) and isinstance(source, HasNotes)
    assert not isinstance(source, HasFiles) and source.class_names == NAMES and source.labels.tolist() == labels
    folder = open_source(LABELLED_IMAGES, "folder", Request("train", root=str(tmp_path / "folder")))
    number_of = {os.path.basename(folder.path(index)): index for index in range(len(folder))}
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(copy.__getitem__, [*range(9), *reversed(range(9))]))
    for number, record in zip([*range(9), *reversed(range(9))], records, strict=True):
        other = folder[number_of[f"{number}.jpg"]]
        assert NAMES[record["label"]] == folder.class_names[other["label"]] and record["image"] == images[number]
        np.testing.assert_array_equal(decode(record["image"], ""), decode(other["image"], ""))
    assert decode(source[1]["image"], "").shape == (9, 5, 3)
    assert [source.name(index) for index in (4, 5, 8)] == [
        f"{tmp_path}/hub/data/train-0000{shard}-of-00002.parquet row {row}" for shard, row in ((0, 4), (1, 0), (1, 3))
    ]
    with pytest.raises(IndexError):
        source[9]
    evaluation = opened(tmp_path / "hub", "eval")
    assert evaluation.labels.tolist() == [1] and evaluation.class_names == NAMES
    assert evaluation.notes() == ("'test' is used, as there is no val or valid or validation",)
    config = config_lib.load(f"{ROOT / 'configs/folder.py'}:{tmp_path / 'hub'}", ["data.source=parquet"])
    assert config.model.num_classes == 3


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (pa.array([7, 7, 3], pa.uint8()), ("3", "7"), [1, 1, 0]),
    ],
)
@pytest.mark.parametrize("place", ["train.parquet", "data/training/any.parquet", "train/0000.parquet"])
def test_labels_and_places(tmp_path, labels, names, codes, place):
    write(tmp_path / place, [b"x", b"y", b"z"], labels, columns=("img", "class"), kind=pa.large_binary())
    source = opened(tmp_path)
    assert (source.class_names, source.labels.tolist()) == (names, codes) and source[2]["image"] == b"z"


def test_columns_that_the_schema_knows_and_a_named_split(tmp_path):
    path = write(tmp_path / "plain/train-00000-of-00001-0a1b.parquet", [b"x", b"y"], [1, 0], columns=("photo", "kind"))
    kinds = {"photo": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["b", "a"]}, "id": {}}
    table = pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    pq.write_table(table, path)
    source = opened(tmp_path, train_split="plain/train")
    assert (source.class_names, source.labels.tolist()) == (("b", "a"), [1, 0])
    assert f"did you mean --config.data.root={tmp_path}/plain?" in message(tmp_path)


def test_divided_by_holdout_or_evaluated_alone(tmp_path):
    labels = ["cat"] * 10 + ["dog"] * 5
    write(tmp_path / "all.parquet", [b"%d" % n for n in range(15)], labels, group=4)
    train, evaluation = (opened(tmp_path, split, holdout=0.2) for split in ("train", "eval"))
    assert np.bincount(train.labels).tolist() == [8, 4] and np.bincount(evaluation.labels).tolist() == [2, 1]
    records = [source[index] for source in (train, evaluation) for index in range(len(source))]
    assert sorted(int(record["image"]) for record in records) == list(range(15))
    assert all(labels[int(record["image"])] == ("cat", "dog")[record["label"]] for record in records)
    assert "; add --config.data.holdout=0.2, which keeps" in message(tmp_path)
    assert opened(tmp_path, "eval", learned=("ant", "cat", "dog")).labels.tolist() == [1] * 10 + [2] * 5
    (tmp_path / "all.parquet").rename(tmp_path / "train.parquet")
    assert len(opened(tmp_path, "eval", holdout=0.2)) == 3
    # Training data is not evaluated on unasked.
    assert message(tmp_path, "eval", learned=("cat", "dog")).startswith("no evaluation Parquet files in")


def test_what_is_held_out_is_listed(tmp_path):
    write(tmp_path / "all.parquet", [encoded(0)] * 10, ["cat", "dog"] * 5, group=4)
    config = config_lib.load(
        f"{ROOT / 'configs/folder.py'}:{tmp_path}",
        ["data.source=parquet", "data.holdout=0.2", "model.name=pvt_v2_b0"],
    )
    task = TASKS["classification"].make(config_lib.read(config))
    held = [int(name.removeprefix("all.parquet row ")) for name in task.held_out()]
    assert sorted(number % 2 for number in held) == [0, 1]


def test_few_row_groups_are_kept(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", [bytes(1000)] * 6, [0, 1] * 3)
    source, read = opened(tmp_path), []
    original = shards.Images._read
    monkeypatch.setattr(shards.Images, "_read", lambda self, group: read.append(group) or original(self, group))
    assert [len(source[index]["image"]) for index in (0, 1, 5, 4, 0)] == [1000] * 5 and read == [0, 2]
    monkeypatch.setattr(shards, "_MOST_KEPT", 3000)
    assert [len(source[index]["image"]) for index in (2, 0, 3)] == [1000] * 3 and read == [0, 2, 1, 0, 1]


def test_an_image_that_is_missing_is_an_empty_file(tmp_path):
    path = write(tmp_path / "train.parquet", [b"x", None, b"y"], [0, 1, 0], group=3)
    table = pq.read_table(path)
    table = table.set_column(1, "image", pa.array([{"bytes": b"x"}, {"bytes": None}, None], IMAGE))
    pq.write_table(table, path)
    assert [opened(tmp_path)[index]["image"] for index in range(3)] == [b"x", b"", b""]


def test_refused_files(tmp_path):
    path = tmp_path / "data/train-00000-of-00001.parquet"
    whole = write(path, [b"x" * 999, b"y"], [0, 1]).read_bytes()
    for data, what in (
        (b"", " is no Parquet file, or is damaged (Parquet file size is 0 bytes): fetch it again"),
        (whole[:-20], " is no Parquet file, or is damaged ("),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            " is no Parquet file: it is a pointer of Git LFS: run git lfs",
        ),
    ):
        path.write_bytes(data)
        assert message(tmp_path).startswith(f"{path}{what}")
    path.write_bytes(whole)
    source = opened(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=rf"cannot read {path} \(No such file or directory\): put it back"):
        source[0]
    write(tmp_path / "data/train-00001-of-00003.parquet", [b"x"], [0])
    assert message(tmp_path) == (
        f"{tmp_path}/data lacks 2 of 3 files, the first is train-00000-of-00003.parquet: fetch them, or take -of-00003 "
        f"out of the names of the others to do without"
    )
    (tmp_path / "data/train-00001-of-00003.parquet").rename(tmp_path / "data/notes.parquet")
    assert message(tmp_path, "eval").startswith(
        f"no evaluation Parquet files in {tmp_path}: looked for data/{{split}}-*"
    )
    with pytest.raises(UserError, match=r"data/notes.parquet is a table in Parquet.*--config.data.source=parquet"):
        open_source(LABELLED_IMAGES, "folder", Request("train", root=str(tmp_path)))


def test_files_in_other_places(tmp_path):
    write(tmp_path / "a/b/c/rows.parquet", [b"x", b"y"], [0, 1])
    line = message(tmp_path)
    assert line.startswith(f"no training Parquet files in {tmp_path}: looked for data/{{split}}-*.parquet, ")
    assert line.endswith("it holds a; put the files of each split there, or set data.train_split and data.eval_split")


def test_refused_rows(tmp_path, monkeypatch):
    path = tmp_path / "train.parquet"

    def refusal(images: list[Any], labels: Any, **rest: Any) -> str:
        write(path, images, labels, **rest)
        line = message(tmp_path)
        assert line.startswith(str(path))
        return line.removeprefix(str(path))

    assert refusal([b"x"], [0], columns=("image", "y")) == (
        " has no column of labels, label or labels or class or category: it has id, image, y; rename one"
    )
    assert refusal([b"x"], [0], columns=("picture", "label")).startswith(
        " has no column of images, image or img: it has"
    )
    paths = " has paths and no images in column 'image': embed the images, as docs/your_images/"
    assert refusal([None, None], [0, 1]).startswith(paths)
    assert refusal(["a.jpg"], [0], kind=pa.string()).startswith(paths)
    assert refusal([[1]], [0], kind=pa.list_(pa.int64())).startswith(
        " has list<element: int64> in column 'image': images"
    )
    assert refusal([b"x"], [[0]]).startswith(
        " has list<element: int64> in column 'label': a class is one integer or one"
    )
    assert refusal([b"x"], [0.5]).startswith(" has double in column 'label': a class is one integer or one string")
    assert refusal([b"x"] * 3, [0, None, None]) == (
        ": 2 rows have no class in column 'label', the first is row 1: add it, or remove them"
    )
    assert refusal([b"x"] * 3, [0, 3, 1], names=NAMES) == (
        " has the label 3 in row 1: classes are 0 to 2, which its schema names"
    )
    hidden = (
        " has the label -1 in row 2: classes are 0 and more; -1 stands for labels that are kept back, choose another"
    )
    assert refusal([b"x"] * 3, [0, 1, -1]).startswith(hidden)
    assert message(tmp_path, "eval", eval_split="train").startswith(f"{path}{hidden}")
    write(path, [], pa.array([], pa.int64()))
    assert message(tmp_path) == f"{path} has no rows: choose another split, or fetch the files again"
    write(path, [b"x", b"y"], ["cat", "dog"])
    write(tmp_path / "val.parquet", [b"x"], ["dgo"])
    assert message(tmp_path, "eval") == (
        f"{tmp_path}/val.parquet has classes that the training data has not, dgo (did you mean 'dog'?): correct them"
    )
    monkeypatch.setattr("pvt_jax.data.formats.parquet.source._LARGE", 10)
    assert opened(tmp_path).notes()[0].startswith("reading one image reads 0.00 MiB, the row group of ")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert message(tmp_path).startswith("the parquet source needs `pip install pyarrow` (")
