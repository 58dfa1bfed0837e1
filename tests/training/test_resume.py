"""A run that goes on: the same classes, a length that changes on purpose, in any thread, alone in its folder."""

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax import convert
from pvt_jax.data.description import DataDescription, SplitDescription
from pvt_jax.errors import UserError
from pvt_jax.training import lock, loop, pace, workdir
from pvt_jax.training.examples import drawn_examples
from pvt_jax.training.lengths import Lengths, schedule_of
from pvt_jax.training.lock import WorkdirLock
from pvt_jax.training.resume import Past
from pvt_jax.visualization.panels import sheet
from pvt_jax.weights.files import read_metadata
from tests.helpers.command import ROOT, SHRUNK, records

SMALL = {
    **SHRUNK,
    "model.dims": "(8,16,16,16)",
    "model.num_heads": "(1,1,1,1)",
    "batch_size": "8",
    "evaluation.batch_size": "64",
}
DIGITS = tuple("0123456789")


def config_of(**overrides):
    chosen = {**SMALL, "steps": "1", **{key.replace("__", "."): value for key, value in overrides.items()}}
    return config_lib.load(str(ROOT / "configs/digits.py"), [f"{key}={value}" for key, value in chosen.items()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of one step, made in a thread as applications have them."""
    folder, raised = tmp_path_factory.mktemp("trained") / "run", []

    def work():
        try:
            loop.train(config_of(), folder, quiet=True)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def rename(run, class_names, **more):
    """Let the run have learned other classes."""
    remembered = workdir.read_data(run)
    assert remembered is not None
    changed = dataclasses.replace(remembered, class_names=tuple(class_names), **more)
    (run / "data.json").write_text(changed.to_json())


def test_it_knows_its_data_and_leaves_no_lock(trained):
    remembered = workdir.read_data(trained)
    assert remembered is not None
    assert (remembered.task, remembered.format, remembered.class_names) == ("classification", "digits", DIGITS)
    assert (remembered.train.records, remembered.eval.records) == (1438, 359)
    assert remembered.train.source == "scikit-learn's digits"
    assert sorted(path.name for path in trained.iterdir()) == [
        *("checkpoints", "config.json", "data.json", "examples.png", "metrics.jsonl", "summary.json", "tensorboard")
    ]


def test_other_classes_are_refused_to_train_and_to_evaluate(run):
    learned = [*DIGITS[:8], "9", "8"]
    rename(run, learned)
    for call in (loop.train, loop.evaluate):
        with pytest.raises(UserError) as error:
            call(config_of(), run)
        assert str(error.value) == (
            f"the data has other classes than the run in {run}: it learned 10 classes (0, 1, 2, 3, 4, 5, 6, 7 and 2 "
            "more), the data has 10 (0, 1, 2, 3, 4, 5, 6, 7 and 2 more); the same in another order; label 8 was '9' "
            "and is '8', label 9 was '8' and is '9'. Give the data of that run, or another --workdir"
        )
    rename(run, ["zero", "0", *DIGITS[2:]])
    with pytest.raises(UserError, match="Give the data of that run, or another --workdir$"):
        loop.train(config_of(), run)
    rename(run, [*DIGITS[:9], "nine"])
    with pytest.raises(UserError, match=f"if each label still means what it did, remove {run}/data.json$"):
        loop.train(config_of(), run)
    assert not (run / "run.lock").exists() and len(records(run, "eval")) == 1


def test_a_run_draws_its_first_batch_as_browse_does(trained):
    expected = sheet(drawn_examples(config_lib.read(config_of()), 8))
    with Image.open(trained / "examples.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), expected)


def test_weights_of_a_run_with_other_classes(run, tmp_path, monkeypatch, capfd):
    rename(run, [*DIGITS[:9], "nine"])
    with pytest.raises(UserError, match=f"than the run of init.checkpoint, {run}: .* label 9 was 'nine' and is '9'"):
        loop.evaluate(config_of(init__checkpoint=str(run)), tmp_path / "new")
    for place in (run, run / "checkpoints", run / "checkpoints" / "1"):
        assert workdir.data_of_weights(place) == workdir.read_data(run)
    assert workdir.data_of_weights(run / "tensorboard") is None
    loaded = loop.build(config_lib.read(config_of(init__checkpoint=str(run)))).initial
    assert loaded is not None and "; init.checkpoint is of a run with other classes: it learned 10" in loaded.report
    # Other projects spell names as they like.
    foreign = dataclasses.replace(workdir.read_data(run), foreign=True)
    monkeypatch.setattr(workdir, "data_of_weights", lambda path: foreign)
    loaded = loop.build(config_lib.read(config_of(init__checkpoint=str(run)))).initial
    assert loaded is not None and "other classes" not in loaded.report
    monkeypatch.undo()
    # A folder of weights is of the same classes, unless it gets a new classifier.
    assert convert.main([str(run), str(tmp_path / "same")]) == 0
    assert convert.main([str(run), str(tmp_path / "other"), "--num_classes", "3"]) == 0
    assert workdir.read_data(tmp_path / "same") == workdir.read_data(run)
    assert workdir.read_data(tmp_path / "other") is None


def test_a_file_of_weights_keeps_the_classes_of_its_run(run, tmp_path, monkeypatch, capfd):
    names = (*DIGITS[:9], "né\udcff")
    rename(run, names)
    file, folder, new = tmp_path / "w.safetensors", tmp_path / "from_file", tmp_path / "new.safetensors"
    assert convert.main([str(run), str(file)]) == 0
    assert read_metadata(file) == {
        "model": "pvt_tiny",
        "image_size": "[32, 32]",
        "mean": "[78.0, 78.0, 78.0]",
        "std": "[90.0, 90.0, 90.0]",
        "evaluation": (
            '{"transform.eval_resize": "crop", "transform.eval_crop_fraction": 1.0, '
            '"transform.eval_interpolation": "bicubic"}'
        ),
        "task": "classification",
        "class_names": '["0", "1", "2", "3", "4", "5", "6", "7", "8", "n\\u00e9\\udcff"]',
        "format": "pt",
    }
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (file, tmp_path, "~/w.safetensors"):
        assert workdir.data_of_weights(place) == DataDescription("classification", "", names)
    # There and back: only where the images came from is lost.
    model = config_of().model
    sizes = [f"--set={key}={model[key]}" for key in ("depths", "dims", "num_heads")]
    assert convert.main([str(file), str(folder), "--model", model.name, *sizes]) == 0
    assert workdir.read_data(folder) == DataDescription("classification", "", names)
    assert convert.main([str(folder), str(new), "--num_classes", "3"]) == 0
    assert workdir.data_of_weights(new) is None
    with pytest.raises(
        UserError, match=f"than the run of init.checkpoint, {file}: .* label 9 was 'né.udcff' and is '9'"
    ):
        loop.evaluate(config_of(init__checkpoint=str(file)), tmp_path / "evaluated")


def test_another_number_of_classes_names_those_of_the_run(run):
    with pytest.raises(
        UserError, match=r"\(model.num_classes: 10 → 11\); its classes are 0, 1, 2, 3, 4, 5, 6, 7 and 2"
    ):
        loop.train(config_of(model__num_classes="11"), run)


@pytest.mark.parametrize("text", ["{", '{"class_names": "01"}', "[]"])
def test_a_damaged_file_is_named(run, text):
    (run / "data.json").write_text(text)
    with pytest.raises(UserError, match=f"^{run}/data.json is damaged .*: restore it, or remove it"):
        loop.evaluate(config_of(), run)


def test_a_longer_run_is_asked_for(run, monkeypatch, capfd):
    with pytest.raises(UserError) as error:
        loop.train(config_of(steps="2"), run)
    assert str(error.value) == (
        f"{run} holds a run of another length (steps: 1 → 2): add --extend to train it for longer, with the schedule "
        "of the new length, or give its length, or another --workdir"
    )
    with pytest.raises(UserError, match="another config .*learning_rate.*steps: 1 → 2.: use another"):
        loop.train(config_of(steps="2", optimizer__learning_rate="1"), run, extend=True)
    # A run of an older version remembers no data.
    (run / "data.json").unlink()
    (run / "examples.png").unlink()
    # Its one line is enough to say what limits it.
    monkeypatch.setattr(pace, "SPAN", 1e-9)
    monkeypatch.setattr(pace, "LIMIT", 0.0)
    assert loop.train(config_of(steps="2"), run, extend=True).step == 2
    assert not (run / "examples.png").exists()  # It is of the first batch.
    told = capfd.readouterr().err
    assert (
        "the run is 2 steps long now and was 1: schedule cosine is computed anew for all of them; after step 1 the "
        "learning rate goes from 1e-05 to 6.75e-05\n"
    ) in told
    assert told.count("note: data is what limits this run") == 1
    assert [line["step"] for line in records(run)] == [1, 2]
    assert workdir.read_data(run) is not None and json.loads((run / "config.json").read_text())["steps"] == 2
    with pytest.raises(
        UserError, match="^--extend makes a run longer, but that in .* has 2 steps and the config asks for 1"
    ):
        loop.train(config_of(), run, extend=True)


def test_a_data_set_that_grew_is_told_with_what_it_does_to_the_schedule(tmp_path):
    config = config_lib.read(config_of(steps="None", epochs="2", optimizer__schedule="poly"))
    task = loop.build(config, training=False).task
    now = task.describe_data()
    before = dataclasses.replace(now, train=dataclasses.replace(now.train, records=800))
    past = Past(tmp_path, {"steps": None, "epochs": 2.0}, before)
    lengths = Lengths.of(config, now.train.records)
    was, rate = (float(schedule_of(config, of)[1](100)) for of in (Lengths(200, 0, 100), lengths))
    assert lengths.total == 2 * (1438 // 8) and abs(was - (1e-5 + (1.25e-4 - 1e-5) / 2)) < 1e-9
    assert past.changes(config, lengths, now, 100) == [
        "the data has changed since this run last started: 800 → 1,438 training",
        "the run is 358 steps long now and was 200: schedule poly is computed anew for all of them; after step 100 the "
        f"learning rate goes from {was:.3g} to {rate:.3g}",
    ]
    assert Past(tmp_path, {"epochs": 2.0}, None).changes(config, lengths, now, 100) == []
    past.check_length(config, lengths, now.train.records)


_OVER = ", which have passed (for later ones train in another --workdir with --config.init.checkpoint=RUN)"


@pytest.mark.parametrize(
    ("keys", "records", "asked", "step", "expected"),
    [
        # 100 steps an epoch. A longer run: a curve moves, what is set in epochs or steps does not.
        (
            {"schedule": "cosine", "warmup_steps": 50},
            800,
            {"epochs": 2.0},
            100,
            "the run is 400 steps long now and was 200: schedule cosine is computed anew for all of them, the warm-up "
            "stays 50 steps; after step 100 the learning rate goes from 6.75e-05 to 0.000108",
        ),
        (
            {"schedule": "step", "drop_epochs": (1.0, 1.5), "warmup_steps": 1},
            800,
            {"epochs": 2.0},
            200,
            "the run is 400 steps long now and was 200: the warm-up stays 1 step, drops of the learning rate stay at "
            f"steps 100, 150{_OVER}; after step 200 the learning rate stays 1e-05",
        ),
        (
            {"schedule": "step", "drop_epochs": (1.0, 3.0)},
            800,
            {"epochs": 2.0},
            200,
            "the run is 400 steps long now and was 200: drops of the learning rate stay at steps 100, 300; after step "
            "200 the learning rate stays 1.25e-05",
        ),
        # Half of the data: what is set in epochs moves, also where the run is set in steps.
        (
            {"schedule": "step", "drop_epochs": (1.0,), "warmup_epochs": 0.2},
            400,
            {"epochs": 4.0},
            60,
            "the run is 400 steps long now and was 200: the warm-up takes 20 steps and took 10, drops of the learning "
            "rate are at step 100 and were at 50; after step 60 the learning rate goes from 1.25e-05 to 0.000125",
        ),
        (
            {"schedule": "poly", "warmup_epochs": 0.2},
            400,
            {"steps": 400},
            60,
            "the run keeps its 400 steps: the warm-up takes 20 steps and took 10; after step 60 the learning rate "
            "stays 0.000108",
        ),
    ],
)
def test_what_of_the_schedule_moves_with_the_length(keys, records, asked, step, expected):
    chosen = {"steps": asked.get("steps"), "epochs": 4.0}
    optimizer = {**{"warmup_epochs": 0.0, "learning_rate": 1.25e-4, "base_batch_size": 8}, **keys}
    given = {**chosen, "batch_size": 8, **{f"optimizer.{key}": value for key, value in optimizer.items()}}
    config = config_lib.read(config_lib.resolve(given))
    now = DataDescription("classification", "folder", ("a", "b"), SplitDescription(800, "here"))
    before = dataclasses.replace(now, train=SplitDescription(records, "here"))
    past = Past(Path("RUN"), {"steps": None, "epochs": None, **asked}, before)
    line = past.changes(config, Lengths.of(config, 800), now, step)[-1]
    assert line == expected


def test_a_second_process_is_refused_and_an_evaluation_is_not(run, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLING", 0.0)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with WorkdirLock(run, print) as held:
        held.take()
        with pytest.raises(UserError, match="has been training in .*--mode eval may run beside it"):
            loop.train(config_of(), run)
        assert loop.evaluate(config_of(), run).step == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
