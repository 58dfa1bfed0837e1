"""The command: what it writes and says, what it refuses."""

import functools
import sys

import jax
import numpy as np
import pytest

from pvt_jax import export
from pvt_jax.prediction.exported import check, container, onnx_file
from pvt_jax.prediction.exported.function import function_of
from pvt_jax.prediction.predictor import Predictor
from tests.helpers.symbolic import unchecked_signatures
from tests.helpers.trained import save_run

SIZES = ("--image_size", "32", "--image_size", "64", "48", "--image_size", "32")


@pytest.fixture(scope="module", autouse=True)
def unchecked():
    with unchecked_signatures():
        yield


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A run of a task, by its name; each is made once."""
    return functools.cache(lambda task: save_run(task, tmp_path_factory.mktemp(task)))


@pytest.fixture(scope="module")
def source(run_of):
    return str(run_of("classification").folder)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), np.uint8)


def test_a_file_has_a_program_for_each_size_and_the_weights_once(run_of, source, images, tmp_path, capsys):
    file = tmp_path / "new" / "model.zip"
    assert export.main([source, str(file), *SIZES]) == 0
    said = capsys.readouterr().out.splitlines()
    begun = [line.partition(": difference ")[0] for line in said[:-1]]
    assert begun == [f"{size}, batch {batch}" for size in ("32×32", "64×48") for batch in (1, 3)]
    assert said[-1].startswith(f"done: {file}, ") and said[-1].endswith(
        " MB, for cpu cuda tpu: uint8 images [b, 32, 32, 3] or [b, 64, 48, 3] to logits, probabilities"
    )
    assert [path.name for path in file.parent.iterdir()] == ["model.zip"]

    (metadata, programs), run = container.read(file), run_of("classification")
    assert list(programs) == [(32, 32), (64, 48)]
    assert metadata["class_names"] == ["cat", "owl", "yak"] and len(metadata["palette"]) == 3
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"] and metadata["versions"]["jax"] == jax.__version__
    assert metadata["programs"][1]["outputs"]["logits"] == {"shape": ["b", 3], "dtype": "float32"}
    assert "divided by 0.875, and cropped" in metadata["input"]["preparation"]
    with np.load(file) as stored:
        others = {"metadata.json", *(program["file"] for program in metadata["programs"])}
        assert sorted({*stored.files} - others) == metadata["weights"]
        assert sum(stored[name].size for name in metadata["weights"]) == sum(
            leaf.size for leaf in jax.tree.leaves(run.variables)
        )

    mean, std = (np.array(metadata["input"][name], np.float32) for name in ("mean", "std"))
    expected = run.task.model.apply(run.variables, (images - mean) / std)
    np.testing.assert_allclose(programs[64, 48](images)["logits"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "overrides"),  # of detection see tests/prediction/test_exported.py
    [
        ("classification", ["transform.eval_crop_fraction=1.0", "transform.test_flip=True"]),
        ("segmentation", []),
        (
            "segmentation",
            [
                *("segmentation.test_flip=True", "segmentation.test_mode=slide"),
                *("segmentation.window=(32,32)", "segmentation.window_stride=(32,32)"),
            ],
        ),
    ],
)
def test_what_is_exported_is_what_the_evaluation_predicts(run_of, task, overrides):
    """Images have the size to which the evaluation resizes, so that nothing is resized."""
    predictor = Predictor(run_of(task).folder, overrides=overrides)
    size = {"classification": (32, 32), "segmentation": (64, 96)}[task]
    images = check.photographs(2, size)
    inside, outside = (function_of(predictor.trained, preprocess) for preprocess in ("inside", "outside"))
    found = jax.jit(inside)(inside.weights, images)
    for row, prediction in enumerate(predictor(list(images))):
        assert found.keys() - prediction.arrays.keys() <= {"probabilities"}
        for name in found.keys() & prediction.arrays.keys():
            assert check.difference(np.asarray(found[name][row]), prediction.arrays[name]) < 1e-5, name
    if task == "classification":
        normalised = jax.jit(outside)(outside.weights, outside.input(images))
        np.testing.assert_allclose(normalised["logits"], found["logits"], atol=1e-6)


def test_a_file_that_differs_is_not_kept(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "difference", lambda *_: 0.5)
    file = tmp_path / "model.zip"
    file.write_text("before")
    assert export.main([source, str(file), "--platforms", "cpu", "--overwrite"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: the export differs from the model by 5.0e-01, more than 1e-05: {file} is not written; --tolerance "
        "accepts more"
    )
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    assert export.main([source, str(file), "--platforms", "cpu", "--overwrite", "--tolerance", "0.5"]) == 0


def test_other_platforms_are_exported_for_but_not_compared(source, tmp_path, capsys):
    file = tmp_path / "model.zip"
    assert export.main([source, str(file), "--platforms", "tpu", "cuda", "--dtype", "bfloat16"]) == 0
    note = "note: nothing was compared: this machine has cpu, and the export is for tpu, cuda"
    assert note in capsys.readouterr().err.splitlines()
    assert container.read(file)[0]["dtype"] == "bfloat16"


def test_differences():
    zeros = np.zeros((2, 2), np.float32)
    assert check.difference(zeros + 0.5, zeros) == 0.5
    assert check.difference(zeros + 11, zeros + 10) == 0.1
    assert check.difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert check.difference(zeros.astype(np.float16), zeros) == check.difference(zeros[:1], zeros) == np.inf
    assert check.difference(zeros + np.nan, zeros) == check.difference(zeros, zeros + np.nan) == np.inf
    assert check.difference(zeros + np.nan, zeros + np.nan) == check.difference(zeros[:0], zeros[:0]) == 0


def test_onnx_gives_what_the_model_gives(run_of, tmp_path, capsys):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install '.[onnx]'")
    for task, outputs in {"classification": "probabilities", "segmentation": "logits"}.items():
        file = tmp_path / f"{task}.onnx"
        assert export.main([str(run_of(task).folder), str(file), "--format", "onnx", "--outputs", outputs]) == 0
        metadata, programs = onnx_file.read(file)
        assert metadata["task"] == task and list(metadata["outputs"]) == [outputs]
        (size,) = programs
        assert programs[size](check.photographs(5, size))[outputs].shape[0] == 5
    file = tmp_path / "detection.onnx"
    assert export.main([str(run_of("detection").folder), str(file), "--format", "onnx"]) == 2
    assert (
        "error: jax2onnx cannot convert boxes, scores, labels, valid, masks of this model (" in capsys.readouterr().err
    )
    assert not file.exists()


def test_onnx_needs_jax2onnx(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert export.main([source, str(tmp_path / "model.onnx"), "--format", "onnx"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --format onnx needs jax2onnx (") and error.endswith(
        "pip install jax2onnx onnxruntime"
    )


@pytest.mark.parametrize(
    ("task", "flags", "line"),
    [
        ("classification", ["{old}"], "{old} exists: choose another file, or add --overwrite"),
        ("classification", ["{folder}"], "{folder} is a folder: give the file to write"),
        ("classification", ["gs://b/f"], "FILE gs://b/f is "),
        (
            "classification",
            ["{new}", "--image_size", "1", "2", "3"],
            "--image_size takes one side, or height and width",
        ),
        ("classification", ["{new}", "--image_size", "16"], "an image of 16×16 is too small: stage 1 has"),
        ("classification", ["{new}", "--tolerance", "-1"], "--tolerance must be 0 or more, but is -1.0"),
        ("classification", ["{new}", "--platforms", "gpu"], "argument --platforms: invalid choice: 'gpu'"),
        (
            "classification",
            ["{new}", "--outputs", "logit"],
            "the model has no output 'logit' (did you mean 'logits'?): choose from logits, probabilities",
        ),
        (
            "classification",
            ["{new}", "--format", "onnx", "--platforms", "cpu"],
            "--platforms is for --format jax: an ONNX file runs wherever its runtime does",
        ),
        (
            "segmentation",
            [
                *("{new}", "--image_size", "64", "80", "--config.segmentation.test_mode=slide"),
                *("--config.segmentation.window=(32,32)", "--config.segmentation.window_stride=(32,32)"),
            ],
            "sliding windows are for images whose sides are multiples of 32, not 64×80: choose such sides with "
            "--image_size, or add --config.segmentation.test_mode=whole",
        ),
        (
            "segmentation",
            ["{new}", "--config.segmentation.test_ratios=(0.5,1.0)"],
            "segmentation.test_ratios is (0.5, 1.0), and an exported model sees an image in one size: add "
            "--config.segmentation.test_ratios=(1.0,)",
        ),
    ],
)
def test_bad_usage_is_one_line(run_of, tmp_path, capsys, task, flags, line):
    places = {"new": tmp_path / "new.zip", "old": tmp_path / "old.zip", "folder": tmp_path}
    places["old"].write_text("before")
    assert export.main([str(run_of(task).folder), *(flag.format(**places) for flag in flags)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {line.format(**places)}")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
