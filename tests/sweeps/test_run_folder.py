"""The folder of a run: which runs of other sweeps are copied, and what happens where they move meanwhile."""

import shutil

import pytest

from pvt_jax.sweeps import run_folder
from pvt_jax.sweeps.run_folder import COMMAND
from tests.helpers.workdirs import make_run

WORDS = "python -m pvt_jax.main --config digits --workdir {} --config.seed=0"
ENDED = [{"step": 2, "split": "train", "loss": 1.0}, {"step": 2, "split": "eval", "top1": 50.0}]


@pytest.fixture
def reused(tmp_path):
    """Another sweep's run with these lines in its metrics and files besides; what is found in a new run's folder."""

    def found(lines, *files):
        other, folder = (tmp_path / name / "small" / "arm" / "seed0" for name in ("first", "second"))
        make_run(other, lines, steps=2)
        (other / COMMAND).write_text(WORDS.format("runs/first") + "\n")
        for file in files:
            (other / file).touch()
        run_folder.make_room(folder, [WORDS.format("runs/second")], print)
        run_folder.reuse(folder, [WORDS.format("runs/second")], (), tmp_path, print)
        return sorted(file.name for file in folder.iterdir())

    return found


def test_a_run_that_has_come_to_its_end_is_copied(reused, capsys):
    assert reused(ENDED) == [COMMAND, "config.json", "data.json", "metrics.jsonl"]
    assert "the same run is in " in capsys.readouterr().out


@pytest.mark.parametrize(("lines", "files"), [(ENDED, ["run.lock"]), (ENDED[:1], []), (ENDED[1:], ["run.lock"])])
def test_a_run_that_still_evaluates_or_saves_is_not(reused, lines, files):
    assert reused(lines, *files) == [COMMAND]


def test_a_run_that_moves_while_it_is_copied_leaves_nothing(reused, monkeypatch, capsys):
    whole = shutil.copytree

    def broken(source, target, **settings):
        whole(source, target, **settings)
        raise shutil.Error([("a", "b", "gone")])

    monkeypatch.setattr(shutil, "copytree", broken)
    assert reused(ENDED) == [COMMAND]
    assert "copied" not in capsys.readouterr().out
