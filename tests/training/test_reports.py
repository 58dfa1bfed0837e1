"""Reports of an evaluation, against arithmetic of their own."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pvt_jax
from pvt_jax import config as config_lib
from pvt_jax import main
from pvt_jax.data.classes import Classes
from pvt_jax.data.objects import Objects
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.report import DetectionReport, match
from pvt_jax.training import history, loop
from tests.helpers.trained import save_run

pytest.importorskip("matplotlib", reason="reports are drawn by matplotlib, an extra")


def reported(run, folder):
    config = config_lib.resolve(history.read_config(run.folder))
    config_lib.put(config, "init.checkpoint", str(run.folder))
    return loop.evaluate(config, folder.with_name("evaluation"), report=folder).metrics


def rows_of(folder):
    with (folder / "per_class.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def numbers(row, *names):
    return [float(row[name]) if row[name] else None for name in names]


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    root = tmp_path_factory.mktemp("classified")
    run = save_run("classification", root)
    return run, root / "report", reported(run, root / "report")


def test_classes_of_a_classifier(classified):
    run, folder, metrics = classified
    predictions = pvt_jax.Predictor(run.folder)(run.images, top_k=3)
    true = [path.split("/")[-2] for path in run.images]
    found = [prediction["labels"][0]["name"] for prediction in predictions]
    for name, row in rows_of(folder).items():
        right = sum(a == b == name for a, b in zip(true, found, strict=True))
        precision = 100 * right / found.count(name) if name in found else None
        recall = 100 * right / true.count(name)
        assert int(row["images"]) == true.count(name)
        assert numbers(row, "precision", "recall") == pytest.approx([precision, recall], abs=1e-3)
    written = json.loads((folder / "metrics.json").read_text())
    assert written["top1"] == metrics["top1"] and written["step"] == 0
    # Five images in fifteen bins: each alone, or with its like.
    bins: dict[int, list[tuple[float, bool]]] = {}
    for prediction, label, guess in zip(predictions, true, found, strict=True):
        score = prediction["labels"][0]["score"]
        bins.setdefault(int(score * 15), []).append((score, label == guess))
    error = sum(abs(sum(score for score, _ in group) - sum(right for _, right in group)) for group in bins.values()) / 5
    assert written["calibration_error"] == pytest.approx(100 * error, abs=1e-3)
    for name in ("confusion.png", "reliability.png"):
        with Image.open(folder / name) as figure:
            assert min(figure.size) > 300


def test_the_worst_images_come_first(classified):
    run, folder, metrics = classified
    scores = [
        (1e9 if name == found[0]["name"] else {one["name"]: one["score"] for one in found}[name], index)
        for index, (name, found) in enumerate(
            (path.split("/")[-2], prediction["labels"])
            for path, prediction in zip(run.images, pvt_jax.Predictor(run.folder)(run.images, top_k=3), strict=True)
        )
    ]
    expected = [index for score, index in sorted(scores) if score < 1]
    names = sorted(path.name for path in (folder / "worst").iterdir())
    assert [int(name.split("_")[1]) for name in names] == expected
    losses = [float(name.split("_")[2].removesuffix(".png")) for name in names]
    by_index = {index: score for score, index in scores}
    np.testing.assert_allclose(losses, [-np.log(by_index[index]) for index in expected], atol=1e-3)


def test_classes_of_a_segmentation(tmp_path):
    run = save_run("segmentation", tmp_path)
    metrics = reported(run, tmp_path / "report")
    for name, row in rows_of(tmp_path / "report").items():
        assert numbers(row, "iou") == pytest.approx([metrics.get(f"iou/{name}")], abs=1e-3)
    pixels = sum(int(row["pixels"]) for row in rows_of(tmp_path / "report").values())
    assert pixels == run.task.eval_source.sizes().prod(1).sum()
    worst = sorted((tmp_path / "report" / "worst").iterdir())
    shares = [float(path.stem.split("_")[2]) for path in worst]
    assert len(worst) == 5 and shares == sorted(shares, reverse=True)


def test_detections_find_objects_greedily():
    overlap = np.array([[0.6, 0.9], [0.7, 0.8], [0.55, 0.2]])
    assert match(overlap).tolist() == [1, 0, -1]
    assert match(np.zeros((0, 2))).tolist() == [] and match(np.zeros((2, 0))).tolist() == [-1, -1]


def test_errors_of_a_detector_by_hand():
    """A dog found, a cat taken for a dog, a dog missed, a box on nothing, a box in a crowd, a faint right one."""
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [0, 50, 60, 90]], np.float32)
    objects = Objects(
        true,
        np.array([1, 0, 1, 0, 1], np.int32),
        np.array([False, False, False, False, True]),
        np.ones(5),
        np.arange(5),
    )
    found = {
        "boxes": np.array(
            [[0, 0, 10, 9], [20, 0, 30, 10], [80, 0, 90, 10], [5, 55, 20, 70], [60, 0, 70, 10], [0, 0, 1, 1]],
            np.float32,
        ),
        "scores": np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.99], np.float32),
        "labels": np.array([1, 1, 0, 1, 0, 0]),
        "valid": np.array([True, True, True, True, True, False]),
    }
    task = SimpleNamespace(eval_source=SimpleNamespace(objects=lambda record: objects))
    report = DetectionReport(task, Classes(("cat", "dog")))
    report.add(7, {}, found)
    # True by found: cat, dog, background.
    np.testing.assert_array_equal(report._counts, [[0, 1, 1], [0, 1, 1], [1, 0, 0]])
    report.evaluated = {"AP/cat": 12.34567}
    # Of cats none of one shown; of dogs the first of two: the one in the crowd does not count.
    assert report.rows() == [(2, 12.346, 0.0, 0.0), (2, None, 50.0, 50.0)]
    recall, precision = report.precision_recall(0)
    assert recall.tolist() == [0.0, 0.5] and precision.tolist() == [0.0, 0.5]
    recall, precision = report.precision_recall(1)
    assert recall.tolist() == [0.5, 0.5] and precision.tolist() == [1.0, 0.5]
    assert [(badness, record) for badness, record, _ in report.worst()] == [(4.0, 7)]


def test_a_detector_is_reported(tmp_path):
    run = save_run("detection", tmp_path)
    metrics = reported(run, tmp_path / "report")
    rows = rows_of(tmp_path / "report")
    assert list(rows) == list(run.task.eval_source.class_names)
    counts = np.bincount(
        np.concatenate([run.task.eval_source.objects(index).labels for index in range(5)]), minlength=len(rows)
    )
    assert [int(row["objects"]) for row in rows.values()] == counts.tolist()
    for name, row in rows.items():
        expected = metrics.get(f"AP/{name}")
        assert numbers(row, "AP") == [None if expected is None else pytest.approx(expected, abs=1e-3)]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("metrics.json", "per_class.csv", "confusion.png", "precision_recall.png", "worst"),
    }


def test_a_report_is_refused_before_the_evaluation(classified, capsys):
    run, folder, _ = classified
    with pytest.raises(UserError, match="report is not empty: choose another folder"):
        reported(run, folder)
    flags = ["--config", "configs/digits.py", "--workdir", str(run.folder), "--report", "r"]
    assert main.main(flags) == 2
    assert capsys.readouterr().err == "error: --report belongs to --mode eval: it is of an evaluation\n"
