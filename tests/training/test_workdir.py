"""The folder of a run belongs to one config."""

import json

import pytest

from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.training import workdir


def config(**chosen):
    return config_lib.resolve(chosen)


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has saved a checkpoint with the default config."""
    workdir.create(tmp_path / "run", config())
    (tmp_path / "run" / "checkpoints" / "100").mkdir(parents=True)
    return tmp_path / "run"


def test_a_new_folder_gets_the_config(tmp_path):
    folder = tmp_path / "deep" / "run"
    workdir.check(folder, config())
    assert not folder.exists()
    workdir.create(folder, config(batch_size=7))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    saved = workdir.read_config(folder)
    assert saved["batch_size"] == 7 and saved["model"]["image_size"] == [224, 224] and saved["steps"] is None
    assert saved == json.loads(config_lib.to_json(config(batch_size=7)))


def test_the_same_config_opens_it_again(run):
    workdir.check(run, config())


def test_another_config_is_refused_with_every_difference(run):
    other = config(batch_size=7, optimizer={"weight_decay": 0.1}, model={"patch_sizes": (1, 2, 2, 2)})
    with pytest.raises(UserError) as error:
        workdir.check(run, other)
    assert str(error.value) == (
        f"{run} holds a run of another config (batch_size: 1024 → 7; model.patch_sizes: absent → [1, 2, 2, 2]; "
        "optimizer.weight_decay: 0.05 → 0.1): use another --workdir, or the config of that run"
    )


def test_a_run_that_saved_nothing_binds_nobody(run):
    (run / "checkpoints" / "100").rmdir()
    workdir.check(run, config(batch_size=7))
    workdir.create(run, config(batch_size=7))
    assert workdir.read_config(run)["batch_size"] == 7
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json"]


def test_what_does_not_change_results_may_change(run):
    other = config(
        accumulation_steps=4,
        log_every_steps=1,
        mesh={"fsdp": 2},
        data={"root": "/elsewhere", "workers": 3, "threads": 2},
        checkpoint={"keep": 9},
        evaluation={"every_epochs": 2.0},
        model={"remat": True, "scan": True},
    )
    workdir.check(run, other)


def test_checkpoints_without_a_config_are_not_overwritten(run):
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="has checkpoints but no config.json: restore that file"):
        workdir.check(run, config())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write to the workdir {tmp_path}/file/run: .*Choose another --workdir"):
        workdir.create(tmp_path / "file" / "run", config())


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no config.json in {tmp_path}: this is not the --workdir of a run"):
        workdir.read_config(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"batch_size": ')
    with pytest.raises(UserError, match="cannot read .*config.json"):
        workdir.read_config(tmp_path)


def test_a_folder_of_weights_is_no_run(run):
    (run / "config.json").write_text(json.dumps({"task": "classification", "model": {"name": "pvt_tiny"}}))
    with pytest.raises(UserError) as error:
        workdir.check(run, config())
    assert str(error.value) == (
        f"{run} holds weights alone, as convert writes them, and no run: give --config.init.checkpoint={run} and "
        "another --workdir"
    )
