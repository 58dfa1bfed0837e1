"""Whole runs of a shrunk real config: killed and resumed to the bit, preempted, on many devices, on two processes."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from pvt_jax import main
from pvt_jax.tasks.classification.task import Classification
from pvt_jax.training import plausible
from tests.helpers.command import arguments, finish, records, run_here, start
from tests.helpers.programs import shared_programs  # noqa: F401
from tests.helpers.runs import (
    assert_same_end,
    being_saved,
    final_state,
    kill_when,
    losses,
    saved_steps,
    stop_after,
    wait_until,
)
from tests.helpers.services import Service

STEPS = 12
pytestmark = pytest.mark.usefixtures("shared_programs")


def flags_of(workdir, **overrides):
    """12 steps with everything random switched on, a checkpoint every other step, an evaluation in the middle."""
    options = {
        "steps": str(STEPS),
        "checkpoint__every_steps": "2",
        "evaluation__every_epochs": "0.15",
        "ema_decay": "0.9",
        "model__drop_path_rate": "0.2",
        "batch_transform__mixup_alpha": "0.8",
        "batch_transform__cutmix_alpha": "1.0",
        "batch_transform__erase_probability": "0.25",
        "transform__policy": "rand-m9-mstd0.5-inc1",
        **overrides,
    }
    return arguments(workdir, **options)


@pytest.fixture(scope="module")
def service():
    """In place of Trackio."""
    service = Service("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trackio", service)
        yield service


@pytest.fixture(scope="module")
def whole(shared_programs, service, tmp_path_factory):  # noqa: F811
    """The workdir of the run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    out, _ = run_here(flags_of(workdir, tracking="trackio", tracking_project="mine"))
    assert out.startswith(f"done: step {STEPS}")
    return workdir


def test_a_tracking_service_is_told_what_metrics_jsonl_is(whole, service):
    (start,) = service.starts
    assert start["project"] == "mine" and start["config"] == json.loads((whole / "config.json").read_text())
    lines = [*records(whole), *records(whole, "eval")]
    expected = [
        (line["step"], {f"{line['split']}/{name}": line[name] for name in line if name not in ("step", "split")})
        for line in lines
    ]
    assert len(lines) > STEPS and service.finished == 1
    assert sorted(service.logged, key=str) == sorted(expected, key=str)


def test_the_run_learns(whole):
    assert set(final_state(whole, STEPS)) == {"params", "ema_params", "opt_state"}
    found = losses(whole)
    assert len(found) == STEPS and np.isfinite(found).all()
    evaluations = records(whole, "eval")
    assert evaluations[-1]["step"] == STEPS and {"top1", "ema_top1", "loss"} <= set(evaluations[-1])
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]


def times_begun(workdir):
    """How often a run has read its checkpoint and gone on: TensorBoard gets a file each time."""
    return len(list((workdir / "tensorboard").iterdir()))


def test_killed_stopped_and_resumed_to_the_bit(whole, tmp_path):
    """Killed between saves, told to stop, and killed while a checkpoint is being written; with workers to the end.

    Each time in a process of its own, which has to make the same programs and to get absl's flags parsed by itself.
    """
    workdir = tmp_path / "run"
    kill_when(lambda: (saved_steps(workdir) or [0])[-1] >= 2, start(flags_of(workdir)))

    process, before = start(flags_of(workdir)), saved_steps(workdir)[-1]
    wait_until(lambda: times_begun(workdir) == 2 and len(records(workdir)) > before, process)
    process.send_signal(signal.SIGTERM)
    out, err = finish(process, code=143)
    step = saved_steps(workdir)[-1]
    assert f"stopped by SIGTERM and saved at step {step}" in out and "Traceback" not in err

    kill_when(lambda: times_begun(workdir) == 3 and being_saved(workdir), start(flags_of(workdir)))
    before = saved_steps(workdir)[-1]
    assert before >= step
    _, err = finish(start(flags_of(workdir, data__workers="2")))
    assert f"resuming after step {before}" in err
    assert_same_end(workdir, whole, STEPS)


def test_preempted_in_the_last_evaluation_makes_up_for_it(tmp_path, monkeypatch):
    """The time left goes to saving; the same command then evaluates, and logs it once."""
    flags = flags_of(tmp_path / "run", evaluation__every_epochs="100", checkpoint__every_steps="100")
    evaluation_batches = Classification.evaluation_batches

    def preempted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluation_batches(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "evaluation_batches", preempted)
        assert main.main(flags) == 143
    assert records(tmp_path / "run", "eval") == [] and saved_steps(tmp_path / "run") == [STEPS]
    assert main.main(flags) == 0
    assert [record["step"] for record in records(tmp_path / "run", "eval")] == [STEPS]


def test_four_devices_equal_one_which_resumes_what_they_saved(whole, tmp_path):
    """Parameters are sharded by 2 and batches by 4; then one device repeats the second half."""
    workdir = tmp_path / "run"
    flags = flags_of(workdir, checkpoint__keep="20")
    finish(start([*flags, "--config.mesh.fsdp=2"], JAX_NUM_CPU_DEVICES="4"))

    def assert_equal():
        np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-4)
        found, expected = (records(run, "eval")[-1] for run in (workdir, whole))
        assert found["top1"] == pytest.approx(expected["top1"], abs=0.6)

    assert_equal()
    for step in saved_steps(workdir):
        if step > STEPS // 2:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    _, err = run_here(flags)
    assert f"resuming after step {STEPS // 2}" in err
    assert_equal()


def test_two_processes_equal_one(whole, tmp_path, monkeypatch):
    """They go on where one stopped, stop at the same step when one of them is told to, and one goes on from there."""
    workdir = tmp_path / "run"
    flags = flags_of(workdir)
    with monkeypatch.context() as patch:
        stop_after(patch, Classification, 2)
        run_here(flags, code=143)
    first = saved_steps(workdir)[-1]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    each = [*flags, f"--coordinator_address={address}", "--num_processes=2"]
    processes = [start([*each, f"--process_id={number}"]) for number in range(2)]
    wait_until(lambda: times_begun(workdir) == 2 and len(records(workdir)) > first, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    outputs = [finish(process, code=143) for process in processes]
    step = saved_steps(workdir)[-1]
    assert f"resuming after step {first}" in outputs[0][1] and f"saved at step {step} " in outputs[0][0]
    assert "stopped" not in outputs[1][0] and "step" not in outputs[1][1], "one process speaks for all"
    _, err = run_here(flags)
    assert first < step < STEPS and f"resuming after step {step}" in err
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-4)
    assert [record["step"] for record in records(workdir)] == list(range(1, STEPS + 1))


def test_a_run_that_diverges_stops_and_says_so(tmp_path, monkeypatch):
    """What diverges for sure is refused before the first step, so the refusal is lifted."""
    monkeypatch.setattr(plausible, "_IMPOSSIBLE_RATE", math.inf)
    workdir = tmp_path / "run"
    overrides = {"learning_rate": "1e30", "clip_norm": "0.0", "weight_decay": "0.0"}
    options = {f"optimizer__{key}": value for key, value in overrides.items()}
    _, err = run_here(flags_of(workdir, ema_decay="0.0", max_skipped_in_a_row="3", **options), code=2)
    last = err.splitlines()[-1]
    assert last.startswith("error: the gradient was not finite in 3 updates in a row") and "clip_norm" in last
    step = saved_steps(workdir)[-1]
    params = ocp.load_checkpointables(str(workdir / "checkpoints" / str(step)), {"params": None})["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_full_disk_keeps_what_was_saved(tmp_path):
    """A file system of nine megabytes: room for a few checkpoints of this model, no more."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        flags = flags_of(small / "run", checkpoint__keep="20")
        _, err = finish(start(flags), code=2)
        assert err.splitlines()[-1].startswith("error: ") and "no space left" in err.splitlines()[-1].lower()
        assert "Traceback" not in err
        whole_steps = saved_steps(small / "run")
        assert whole_steps
        (small / "run" / "checkpoints" / str(whole_steps[-1]) / "params").stat()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
