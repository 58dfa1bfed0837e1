"""Runs on data that ``data.holdout`` divides, and evaluations on a folder that holds a test set alone."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.data.description import DataDescription
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.training import workdir
from pvt_jax.training.build import build
from pvt_jax.training.resume import Past
from tests.helpers.command import ROOT
from tests.helpers.detection_data import write_coco
from tests.helpers.segmentation_data import write_label_folder
from tests.helpers.voc_data import write_flat

NETWORK = ["init.checkpoint=", "model.depths=(1,1,1,1)", "model.image_size=32", "batch_size=2", "steps=4"]


def classes(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / name / f"{number} é.png")
    return root


def config_of(folder, *overrides, run=None, file="finetune"):
    return config_lib.load(f"{ROOT / f'configs/{file}.py'}:{folder}", [*NETWORK, *overrides], run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run as it is when it starts."""
    folder = classes(tmp_path_factory.mktemp("data"), cat=5, dog=10)
    config = config_of(folder, "data.holdout=0.2")
    run = build(config_lib.read(config))
    directory = tmp_path_factory.mktemp("runs") / "run"
    workdir.create(directory, config, run.description, run.task.held_out())
    return folder, directory, run


def past(directory):
    return Past(directory, workdir.read_config(directory), workdir.read_data(directory))


def test_what_was_held_out_is_listed(trained):
    folder, directory, run = trained
    lines = (directory / "held_out.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(run.task.eval_source) == 3 and all((folder / line).is_file() for line in lines)
    assert [line.split("/")[0] for line in lines] == ["cat", "dog", "dog"]
    assert run.description.train.records == 12 and run.description.eval.records == 3
    # A run that resumes, or another host, chooses the same.
    again = build(config_lib.read(config_of(folder, "data.holdout=0.2")), resumes=True, past=past(directory))
    assert list(again.task.held_out()) == lines


def test_another_choice_is_not_evaluated(trained):
    folder, directory, _ = trained
    same = config_lib.read(config_of(folder, "data.holdout=0.2"))
    past(directory).check_held_out(same)
    past(directory).check_held_out(replace(same, data=replace(same.data, holdout=0.0)))
    for other in (replace(same, seed=1), replace(same, data=replace(same.data, holdout=0.3))):
        with pytest.raises(UserError) as caught:
            past(directory).check_held_out(other)
        assert f"the run in {directory} held out 0.2 of its images with seed 0, and not" in str(caught.value)
        assert "give --config.data.holdout=0.2 and --config.seed=0, or data with" in str(caught.value)


def test_all_of_what_was_divided_is_not_evaluated(trained, tmp_path):
    folder, directory, _ = trained
    with pytest.raises(UserError) as caught:
        past(directory).check_apart(config_lib.read(config_of(folder, run=directory)))
    assert str(caught.value) == (
        f"the run in {directory} held out 0.2 of the images in {folder} and trained on the others: give "
        f"--config.data.holdout=0.2, or a folder of other images"
    )
    past(directory).check_apart(config_lib.read(config_of(tmp_path, run=directory)))


@pytest.mark.parametrize("place", ["", "test", "val"])
def test_a_test_set_alone(trained, tmp_path, place):
    _, directory, _ = trained
    classes(tmp_path / place, dog=2, cat=1)
    with pytest.raises(UserError, match="no training images in"):
        config_of(tmp_path)
    config = config_of(tmp_path, run=directory)
    assert config.model.num_classes == 2
    run = build(config_lib.read(config), training=False, resumes=True, past=past(directory))
    assert run.data.startswith(f"3 evaluation images of 2 classes, from {tmp_path}; no training data: the classes are")
    assert run.task.eval_source.labels.tolist() == [0, 1, 1]
    assert run.description.class_names == ("cat", "dog") and run.lengths.total == 4
    classes(tmp_path / place, emu=1)
    with pytest.raises(UserError, match="has 1 class folder that the run has not: emu; both must name the same"):
        build(config_lib.read(config), training=False, resumes=True, past=past(directory))


def test_classes_of_the_run_that_the_test_set_lacks(trained, tmp_path):
    _, directory, _ = trained
    classes(tmp_path / "test", dog=2)
    run = build(config_lib.read(config_of(tmp_path, run=directory)), training=False, resumes=True, past=past(directory))
    assert run.task.eval_source.labels.tolist() == [1, 1]


def test_objects_and_label_maps_alone(tmp_path):
    for name in ("coco", "voc", "maps"):
        root = tmp_path / name
        if name == "voc":
            write_flat(root)
        else:
            {"coco": write_coco, "maps": write_label_folder}[name](root, count=2, eval_count=1)
        file = "segmentation_folder" if name == "maps" else "detection_folder"
        overrides = ["model.num_classes=11"] if name == "maps" else []
        config = config_of(root, *overrides, file=file)
        whole = TASKS[config.task].make(config_lib.read(config))
        description = whole.describe_data()
        workdir.create(tmp_path / "run", config, description)
        for path in ("annotations/instances_train2017.json", "train", "images/training"):
            if (root / path).exists():
                (root / path).rename(root / "away")
        alone = TASKS[config.task].make(config_lib.read(config_of(root, file=file, run=tmp_path / "run")))
        alone.learned = description
        assert alone.train_source is None and len(alone.eval_source) == 1
        assert alone.describe_data() == DataDescription(**{**vars(description), "eval": alone.describe_data().eval})
        assert alone.eval_source.class_names == whole.eval_source.class_names
