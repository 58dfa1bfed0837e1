"""The command: every bad input is one clear line on stderr and exit code 2, and nothing is lost."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pvt_jax import main
from tests.helpers.command import ROOT, arguments, finish, records, start
from tests.helpers.programs import shared_programs  # noqa: F401

pytestmark = pytest.mark.usefixtures("shared_programs")


def refused(capfd, flags) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    assert main.main(flags) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.fixture
def images(tmp_path):
    """A folder of two classes, eight training and four evaluation images each."""
    root = tmp_path / "images"
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng([label, number]).integers(0, 255, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def folder_flags(root, workdir, **overrides):
    """Twenty steps of configs/folder.py, shrunk."""
    options = {"model__image_size": "32", "batch_size": "8", "steps": "20", **overrides}
    return arguments(workdir, config=f"configs/folder.py:{root}", **options)


def test_unknown_flag_and_missing_flag(capfd, tmp_path):
    assert "--workdir" in refused(capfd, ["--config", "configs/digits.py"])
    assert "--wrokdir" in refused(capfd, [*arguments(tmp_path), "--wrokdir=x"])
    assert "belongs to --mode eval" in refused(capfd, [*arguments(tmp_path), "--step=best"])


def test_unknown_config_key(capfd, tmp_path):
    line = refused(capfd, [*arguments(tmp_path / "run"), "--config.optimizer.learning_rat=1"])
    assert "'optimizer.learning_rat'" in line and "did you mean 'optimizer.learning_rate'" in line
    assert not (tmp_path / "run").exists()


def test_unknown_model_and_model_setting(capfd, tmp_path):
    line = refused(capfd, arguments(tmp_path / "run", model__name="pvt_smal"))
    assert "'pvt_smal'" in line and "did you mean 'pvt_small'" in line
    line = refused(capfd, arguments(tmp_path / "run", model__dephts="(1,1,1,1)"))
    assert "'dephts'" in line and "did you mean 'depths'" in line
    assert not (tmp_path / "run").exists()


def test_missing_config_file(capfd, tmp_path):
    line = refused(capfd, ["--config", str(ROOT / "configs/digit.py"), "--workdir", str(tmp_path)])
    assert "no config file" in line and "digits.py" in line


def test_missing_empty_and_flat_data_folders(capfd, tmp_path, images):
    line = refused(capfd, [*arguments(tmp_path / "run", data__source="folder"), "--config.data.root=/nowhere/at/all"])
    assert "/nowhere/at/all does not exist" in line
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    (empty / "val").mkdir()
    line = refused(capfd, [*arguments(tmp_path / "run", data__source="folder"), f"--config.data.root={empty}"])
    assert f"no class folders in {empty / 'train'}" in line


def test_a_class_folder_without_images(capfd, tmp_path, images):
    (images / "train" / "emu").mkdir()
    line = refused(capfd, folder_flags(images, tmp_path / "run"))
    assert "1 of 3 class folders" in line and "emu" in line


def test_labels_outside_num_classes(capfd, tmp_path, images):
    line = refused(capfd, folder_flags(images, tmp_path / "run", model__num_classes="1"))
    assert "2 classes" in line and "--config.model.num_classes=2" in line
    line = refused(capfd, arguments(tmp_path / "run", model__num_classes="7"))
    assert "--config.model.num_classes=10" in line
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_is_named_or_skipped_and_counted(capfd, tmp_path, images):
    bad = images / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:100])
    assert str(bad) in refused(capfd, folder_flags(images, tmp_path / "run"))
    flags = folder_flags(images, tmp_path / "run", data__on_corrupt="skip")
    assert main.main(flags) == 0
    assert records(tmp_path / "run")[-1]["corrupt_images"] == 10, "twenty batches of 8 are ten epochs of 16"


def test_an_image_that_breaks_while_training_loses_nothing(capfd, tmp_path, images):
    """The validator looks at a few images only; this one is among the others."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(8, 80):
            pixels = np.random.default_rng([label, number]).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(images / "train" / name / f"{number}.png")
    flags = folder_flags(images, tmp_path / "run")
    bad = images / "train" / "cat" / "11.png"
    sound = bad.read_bytes()
    bad.write_bytes(sound[:100])
    assert main.main(flags) == 2
    err = capfd.readouterr().err.splitlines()
    assert str(bad) in err[-1] and err[-1].startswith("error: ")
    saved = [int(step.name) for step in (tmp_path / "run" / "checkpoints").iterdir()]
    done = records(tmp_path / "run")
    assert max(saved) >= len(done) - 1 >= 0
    bad.write_bytes(sound)
    assert main.main(flags) == 0, "the repaired set goes on where it stopped"
    assert f"resuming after step {max(saved)}" in capfd.readouterr().err
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, 21))


def test_batch_not_divisible_by_devices_and_accumulation(capfd, tmp_path):
    line = refused(capfd, arguments(tmp_path / "run", batch_size="30", accumulation_steps="4"))
    assert "devices: 1, accumulation_steps: 4" in line and "choose 28 or 32" in line
    process = start(arguments(tmp_path / "run", batch_size="36"), JAX_NUM_CPU_DEVICES="8")
    _, err = finish(process, code=2)
    # A line on a long wait may come before.
    assert "devices: 8, accumulation_steps: 1" in err.splitlines()[-1] and "choose 32 or 40" in err.splitlines()[-1]


def test_fsdp_that_does_not_divide_the_devices(capfd, tmp_path):
    assert "mesh.fsdp=3 does not divide the number of devices, 1" in refused(
        capfd, arguments(tmp_path / "run", mesh__fsdp="3")
    )


def test_distributed_flags_come_together(capfd, tmp_path):
    assert "together" in refused(capfd, [*arguments(tmp_path / "run"), "--num_processes=2"])


@pytest.fixture(scope="module")
def finished(shared_programs, tmp_path_factory):  # noqa: F811
    """The workdir of a finished run of four steps, with checkpoints of the last three."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert main.main(finished_flags(workdir)) == 0
    return workdir


def finished_flags(workdir, **overrides):
    options = {"checkpoint__every_steps": "1", "checkpoint__keep": "3", "profile_steps": "(3,3)", **overrides}
    return arguments(workdir, steps="4", **options)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_finished_run_says_its_result_and_where_things_are(run, capfd):
    before = (run / "metrics.jsonl").read_text()
    assert main.main(finished_flags(run)) == 0
    out, err = capfd.readouterr()
    assert out.startswith("done: step 4  loss ") and "top1" in out and str(run) in out and out.count("\n") == 1
    assert "profile_steps=(3, 3) is over: the run goes on after step 4, and nothing is traced" in err
    assert (run / "metrics.jsonl").read_text() == before, "nothing was trained, nothing is logged twice"


def test_a_run_has_a_trace_of_the_steps_asked_for_and_says_how_long_it_waited(finished):
    (path,) = (finished / "profile" / "plugins" / "profile").glob("*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "train"]
    assert [event["args"]["step_num"] for event in steps] == ["3"]
    waits = [event for event in events if event.get("name") == "waiting for data"]
    # Each within its step.
    for step, wait in zip(steps, waits, strict=True):
        assert step["ts"] <= wait["ts"] and wait["ts"] + wait["dur"] <= step["ts"] + step["dur"]
    lines = records(finished)
    assert [0 <= line["data_wait"] <= 100 for line in lines] == [True] * 4


def test_a_workdir_of_another_config(run, capfd):
    line = refused(capfd, finished_flags(run, optimizer__weight_decay="0.5", seed="3"))
    assert "optimizer.weight_decay: 0.05 → 0.5" in line and "seed: 0 → 3" in line
    assert json.loads((run / "config.json").read_text())["seed"] == 0


def test_a_checkpoint_whose_shapes_do_not_match(run, capfd):
    config = json.loads((run / "config.json").read_text())
    config["model"]["dims"] = [16, 32, 80, 128]
    (run / "config.json").write_text(json.dumps(config))
    line = refused(capfd, finished_flags(run, model__dims="(16,32,80,128)"))
    assert "checkpoints/4 does not fit this model" in line and "is (" in line and "here (" in line
    assert (run / "checkpoints" / "4").is_dir()


def test_a_half_written_checkpoint_is_ignored_with_a_warning(run, capfd):
    shutil.rmtree(run / "checkpoints" / "4" / "params" / "d")
    assert main.main(finished_flags(run)) == 0
    err = capfd.readouterr().err
    assert "checkpoints/4 is damaged or half written and is ignored" in err and "resuming after step 3" in err


def test_evaluation_of_a_saved_run(run, capfd):
    logged = records(run, "eval")[-1]
    for step in ("latest", "best", "4"):
        assert main.main([*finished_flags(run), "--mode=eval", f"--step={step}"]) == 0
        assert f"top1 {logged['top1']:.4g}" in capfd.readouterr().out
    assert "no checkpoint of step 7" in refused(capfd, [*finished_flags(run), "--mode=eval", "--step=7"])
    assert "--step takes" in refused(capfd, [*finished_flags(run), "--mode=eval", "--step=first"])


def test_evaluation_without_a_run(tmp_path, capfd):
    line = refused(capfd, [*arguments(tmp_path / "none"), "--mode=eval"])
    assert "no config.json" in line and not (tmp_path / "none").exists()


def test_a_workdir_that_cannot_be_made(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    line = refused(capfd, arguments(tmp_path / "file" / "run"))
    assert f"cannot write to the workdir {tmp_path / 'file' / 'run'}" in line


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to become another user")
def test_no_write_permission():
    other_user = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c"]
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pvt_jax import main; sys.exit(main.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "HOME": "/nonexistent", "JAX_COMPILATION_CACHE_DIR": ""}

    def run(*flags):
        return subprocess.run([*other_user, script, *flags], capture_output=True, text=True, env=environment)

    if run("--help").returncode:
        pytest.skip("another user cannot read this Python or this repository")
    done = run(*arguments("/nobody_may_write_here"))
    assert (
        done.returncode == 2 and "cannot write to the workdir /nobody_may_write_here: Permission denied" in done.stderr
    )


def test_values_no_run_could_use(tmp_path, capfd):
    for key, value in (("batch_size", "0"), ("model.drop_path_rate", "1.0"), ("data.on_corrupt", "ignore")):
        line = refused(capfd, [*arguments(tmp_path / "run"), f"--config.{key}={value}"])
        assert key in line and value in line
