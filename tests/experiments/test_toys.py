"""Every experiment, at toy size: all its arms run, are recorded, and become a table and pictures."""

import contextlib
import importlib
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from pvt_jax.sweeps import report, results
from pvt_jax.sweeps.file import load
from pvt_jax.sweeps.jobs import jobs
from pvt_jax.sweeps.runner import Runner

ROOT = Path(__file__).parents[2]
_IN_HASTE = {"xla_backend_optimization_level": 0}
SWEEPS = sorted((ROOT / "experiments").glob("*/sweep.py"))


def in_this_process(words, stdout, stderr, beat):
    """The command of a job; another process would take seconds to start, and compile again."""
    with (
        stdout.open("w") as out,
        stderr.open("w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if words[1] == "-m":
            return importlib.import_module(words[2]).main(words[3:])
        before, sys.argv = sys.argv, words[1:]
        try:
            runpy.run_path(words[1], run_name="__main__")
        except SystemExit as end:
            return end.code or 0
        finally:
            sys.argv = before
    return 0


@pytest.fixture(autouse=True)
def _compiled_in_haste(monkeypatch):
    """Most of the time is compilation, and half of that is optimizing code that runs once."""
    for module in ("step", "evaluate"):
        monkeypatch.setattr(f"pvt_jax.training.{module}.compiler_options", lambda *use: dict(_IN_HASTE))


def test_there_are_experiments():
    assert len(SWEEPS) >= 3


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.parent.name)
def test_it_runs_at_toy_size(file, tmp_path):
    file, sweep = load(f"{file}:toy")
    said = []
    runner = Runner(file, sweep, tmp_path / "runs", tmp_path / "out", (), said.append, in_this_process)
    assert runner() == 0, "\n".join(said)
    records = results.counted(runner.records(), sweep)
    assert len(records) == len(jobs(sweep, {arm.name: 0.0 for arm in sweep.arms}))
    files = report.write(tmp_path / "out", sweep, records)
    for picture in files[:-1]:
        assert Image.open(picture).size[0] > 500
    text = files[-1].read_text()
    assert sweep.title in text and all(f"| {arm.name} |" in text for arm in sweep.arms)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.parent.name)
def test_a_scale_that_it_has_not_is_refused_with_those_that_it_has(file):
    with pytest.raises(Exception, match=f"{file.parent.name}/sweep.py: no scale 'none': there are .*toy"):
        load(f"{file}:none")
