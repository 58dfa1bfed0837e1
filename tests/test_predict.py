"""The command: what it writes, which images it takes, what it refuses."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from pvt_jax import predict
from pvt_jax.prediction.images import choose
from tests.helpers.trained import save_run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_run("classification", tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return save_run("segmentation", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture
def photos(tmp_path):
    """Two images of one stem, one below, one that cannot be read, a text, a pipe."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, size in {"a.jpg": (60, 80), "a.png": (80, 60), "sub/ä b.png": (40, 40)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff none")
    (folder / "notes.txt").write_text("none")
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_classifier_writes_lines_a_table_and_pictures(classifier, photos, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [str(classifier.folder), str(photos), "--output", str(out), "--top_k", "2", "--attention", "stage4"]
    assert predict.main(flags) == 1
    said = capsys.readouterr()
    assert f"cannot read {photos}/broken.jpg: cannot be decoded (no image format is recognised)" in said.err
    assert "1 of 5 files" in said.err and ".txt" in said.err
    assert said.out.startswith(
        f"done: 3 predictions in {out} (attention/, pictures/, predictions.csv, predictions.jsonl)"
    )
    found = {os.path.relpath(line.pop("path"), photos): line for line in lines(out)}
    assert list(found) == ["a.jpg", "a.png", "broken.jpg", "sub/ä b.png"]
    assert (found["a.jpg"]["height"], found["a.jpg"]["width"]) == (60, 80)
    assert list(found["broken.jpg"]) == ["error"]
    assert [len(line["labels"]) for line in found.values() if "labels" in line] == [2, 2, 2]
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [
        line["labels"][0]["name"] if "labels" in line else "" for line in found.values()
    ]
    pictures = sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg"))
    names = ("a.jpg.jpg", "a.png.jpg", "sub/ä b.jpg")
    assert pictures == [f"{folder}/{name}" for folder in ("attention", "pictures") for name in names]

    assert predict.main(flags) == 2
    assert "is not empty: choose another --output, or add --overwrite" in capsys.readouterr().err
    assert predict.main([*flags[:1], str(photos / "a.jpg"), *flags[2:6], "--overwrite", "--no_pictures"]) == 0
    assert sorted(os.listdir(out)) == ["predictions.csv", "predictions.jsonl"] and len(lines(out)) == 1


def test_segmentation_writes_label_maps_with_a_palette(segmenter, tmp_path):
    out = tmp_path / "out"
    assert predict.main([str(segmenter.folder), *segmenter.images, "--output", str(out)]) == 0
    for image, line in zip(segmenter.images, lines(out), strict=True):
        with Image.open(out / line["label_map"]) as written, Image.open(image) as original:
            assert written.mode == "P" and written.size == original.size == (line["width"], line["height"])
            labels = np.asarray(written)
            shares = {one["label"]: one["share"] for one in line["classes"]}
            counted = dict(zip(*np.unique(labels, return_counts=True), strict=True))
            assert shares == {int(k): pytest.approx(n / labels.size, abs=1e-6) for k, n in counted.items()}
            colours = np.array(written.getpalette()[:12], np.uint8).reshape(4, 3)
        np.testing.assert_array_equal(colours, segmenter.task.train_source.palette)


def test_images_turned_by_exif_are_upright(segmenter, tmp_path):
    image = np.asarray(Image.open(segmenter.images[0]).convert("RGB"))
    turned = Image.fromarray(np.rot90(image))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(image).save(tmp_path / "upright.png")
    files = [str(tmp_path / name) for name in ("turned.png", "upright.png")]
    assert predict.main([str(segmenter.folder), *files, "--output", str(tmp_path / "out")]) == 0
    first, second = lines(tmp_path / "out")
    assert (first["height"], first["width"]) == image.shape[:2]
    assert first["classes"] == second["classes"]


def test_files_folders_and_globs_name_images_once(photos, tmp_path):
    os.mkfifo(photos / "pipe.jpg")
    chosen = choose([str(photos), str(photos / "*.png"), str(photos / "a.jpg"), str(photos / "notes.txt")])
    names = [os.path.relpath(path, photos) for path in chosen.paths]
    # A pipe is there to be named as what cannot be read.
    assert names == ["a.jpg", "a.png", "broken.jpg", "pipe.jpg", "sub/ä b.png", "notes.txt"]
    assert chosen.stems == ("a.jpg", "a.png", "broken", "pipe", "sub/ä b", "notes")
    twice = choose([str(photos / "a.jpg"), str(photos / "sub"), str(tmp_path / "photos" / "a.png")])
    assert len(set(twice.stems)) == len(twice.stems) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}/none.jpg", "--output", "{out}"], "there is no {photos}/none.jpg: give files, folders or globs"),
        (["{empty}", "--output", "{out}"], "there is no image in"),
        (["{photos}"], "the following arguments are required: --output"),
        (["{photos}", "--output", "{photos}/a.jpg"], "is a file: choose another --output"),
        (["{photos}", "--output", "{out}", "--top_k", "0"], "--top_k must be 1 or more, but is 0"),
        (["{photos}", "--output", "{out}", "--image_size", "3", "4", "5"], "--image_size takes one side"),
        (["{photos}", "--output", "{out}", "--attention", "stage5"], "the model has no 'stage5' to draw attention of"),
        (["gs://bucket/a.jpg", "--output", "{out}"], "is in a bucket"),
    ],
)
def test_bad_usage_is_one_line(classifier, photos, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"photos": photos, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    flags = [argument.format(**places) for argument in arguments]
    assert predict.main([str(classifier.folder), *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message.format(**places) in error
    assert not (tmp_path / "out").exists()
