"""Groups of jobs, and the script that a fake sbatch is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvt_jax import sweep as command
from pvt_jax.sweeps import Evaluate, Measure, Sweep, Train, Tuning
from pvt_jax.sweeps.jobs import jobs
from pvt_jax.sweeps.slurm import tasks

SWEEP = """
from pvt_jax.sweeps import *

def get_sweep(scale="small"):
    arms = [Train("one", "digits"), Measure("cost", "cost.py", ("{one}",)), Train("two", "digits")]
    return Sweep("t", scale, arms, seeds=(0, 1), metric="top1")
"""


def grouped(sweep):
    found = jobs(sweep, {arm.name: 0.0 for arm in sweep.arms})
    return [[(job.arm.name, job.seed) for job in group] for group in tasks(sweep, found)]


ARMS = [
    Train("a", "digits"),
    Train("b", "digits", start="a"),
    Evaluate("c", "b"),
    Measure("m", "x.py"),
    Train("d", "e"),
]


def test_what_needs_another_run_is_in_its_group():
    assert grouped(Sweep("t", "s", ARMS, seeds=(0, 1))) == [
        [("a", 0), ("b", 0), ("c", 0)],
        [("a", 1), ("b", 1), ("c", 1)],
        [("m", None)],
        [("d", 0)],
        [("d", 1)],
    ]


def test_the_seeds_of_a_tuned_arm_wait_for_its_rate():
    tuned = Sweep("t", "s", ARMS, seeds=(0, 1), metric="top1", tuning=Tuning((1.0, 2.0), (5,)))
    together = [(name, seed) for name in "abc" for seed in (0, 1)]
    assert grouped(tuned) == [together, [("m", None)], [("d", 0), ("d", 1)]]


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    (tmp_path / "question").mkdir()
    file = tmp_path / "question" / "sweep.py"
    file.write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return file


def test_an_array_is_submitted(sweep_file, tmp_path, monkeypatch, capsys):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "$@" > given\necho "Submitted batch job 7"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    flags = ["question/sweep.py", "--seeds", "0,5", "--slurm", "--partition=gpu --time=1:00:00", "--config.steps=3"]
    assert command.main(flags) == 0
    assert capsys.readouterr().out == "Submitted batch job 7\n"
    script = "runs/sweeps/question/small.sbatch"
    assert (tmp_path / "given").read_text().split() == ["--partition=gpu", "--time=1:00:00", script]
    lines = (tmp_path / script).read_text().splitlines()
    assert "#SBATCH --array=0-3" in lines
    assert lines[-1] == (
        f"exec {sys.executable} -m pvt_jax.sweep question/sweep.py --seeds 0,5 --config.steps=3 --task "
        '"$SLURM_ARRAY_TASK_ID"'
    )
    assert subprocess.run(["sh", "-n", script], cwd=tmp_path).returncode == 0


def test_a_task_is_a_group(sweep_file, monkeypatch, capsys):
    called = []

    def runs(self, chosen):
        every = jobs(self.sweep, {"one": 0.0, "two": 0.0})
        called.extend(job.name for job in every if chosen(job))
        return 0

    monkeypatch.setattr("pvt_jax.sweep.Runner.__call__", runs)
    assert command.main(["question/sweep.py", "--task", "1"]) == 0
    assert called == ["one, seed 1", "cost, seed 1"]
    assert command.main(["question/sweep.py", "--task", "4"]) == 2
    assert capsys.readouterr().err == "error: --task 4: the tasks are 0 to 3\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["question/sweep.py", "--slurm"], "--slurm needs sbatch"),
        (["question/sweep.py", "--slurm", "--report"], "--slurm goes with neither"),
        (["question/sweep.py", "--only", "thre*"], "--only thre*: there is no such arm; the arms are one, cost, two"),
        (["question/sweep.py", "--seeds", "a"], "--seeds takes whole numbers, as 0,1,2, not 'a'"),
        (["answer/sweep.py"], "no sweep answer/sweep.py: there are question/sweep.py"),
    ],
)
def test_bad_input_is_one_line(sweep_file, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("PATH", "")
    assert command.main(flags) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_only_names_what_it_needs_as_well(sweep_file, capsys):
    assert command.main(["question", "--only", "cost", "--list"]) == 0
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "one, seed 0", "one, seed 1", "cost, seed 0", "cost, seed 1"
    ]  # fmt: skip


def test_a_list_tells_what_is_recorded_and_what_has_changed(sweep_file, capsys):
    assert command.main(["question", "--list"]) == 0
    lines = [line.split(": ", 2) for line in capsys.readouterr().out.splitlines()]
    assert {state for _, state, _ in lines} == {"to run"}
    origin = {"scale": "small", "seed": 0, "values": {}}
    commands = {name: text for name, _, text in lines}
    records = [{**origin, "arm": "one", "command": commands["one, seed 0"]}, {**origin, "arm": "two", "command": "old"}]
    sweep_file.with_name("results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert command.main(["question", "--list"]) == 0
    states = dict(line.split(": ", 2)[:2] for line in capsys.readouterr().out.splitlines())
    assert (states["one, seed 0"], states["one, seed 1"], states["two, seed 0"]) == (
        "recorded",
        "to run",
        "to run again",
    )


def test_runs_of_several_sweeps_share_a_folder(sweep_file, monkeypatch, tmp_path):
    monkeypatch.setattr("pvt_jax.sweep.Runner.__call__", lambda self, chosen: found.append(self.runs) or 0)
    monkeypatch.setattr("pvt_jax.sweep.find_spec", lambda name: None)
    found: list[Path] = []
    assert command.main(["question", "--runs", str(tmp_path / "shared")]) == 0
    assert command.main(["question"]) == 0
    assert found == [tmp_path / "shared" / "question", Path("runs/sweeps/question")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_sweep():\n    return 3\n", "get_sweep gives int in place of pvt_jax.sweeps.Sweep"),
        ("import nothing_of_this_name\n", "question/sweep.py failed: ModuleNotFoundError"),
        ("", "question/sweep.py failed: AttributeError"),
    ],
)
def test_a_broken_file_is_named(sweep_file, capsys, code, message):
    sweep_file.write_text(code)
    assert command.main(["question/sweep.py", "--list"]) == 2
    assert message in capsys.readouterr().err


def test_without_matplotlib_it_runs_and_says_how_to_draw(sweep_file, monkeypatch, capsys):
    monkeypatch.setattr("pvt_jax.sweep.Runner.__call__", lambda self, chosen: 0)
    monkeypatch.setattr("pvt_jax.sweep.find_spec", lambda name: None)
    monkeypatch.setattr("pvt_jax.sweep.results.counted", lambda *_: pytest.fail("draws"))
    assert command.main(["question/sweep.py"]) == 0
    assert capsys.readouterr().err == (
        "note: no table and figures without matplotlib: pip install it, then --report makes them\n"
    )
