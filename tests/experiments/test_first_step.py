"""The script that times the way to the first step: what it runs is a run, and its seconds add up."""

import json

import pytest

from experiments.first_step import first_step
from pvt_jax import config as config_lib
from pvt_jax import main as command
from pvt_jax.tasks import TASKS


def test_what_lies_in_several_durations_counts_once():
    intervals = [
        ("tracing", 0.0, 4.0),
        ("tracing", 1.0, 2.0),
        ("lowering", 3.0, 6.0),
        ("compiling or reading", 5.0, 9.0),
    ]
    assert first_step.exclusive(intervals) == {"tracing": 3.0, "lowering": 2.0, "compiling or reading": 4.0}
    assert sum(first_step.exclusive([]).values()) == 0.0


def test_trees_take_turns_and_a_round_begins_with_empty_caches(tmp_path, capsys):
    seen = []

    def run(name, tree, cache, data, python):
        seen.append((name, tree, cache.name))
        seconds = float(len(seen))
        durations = dict.fromkeys(first_step.DURATIONS.values(), 0.5)
        return {"seconds": seconds, "phases": dict.fromkeys(first_step.PHASES, seconds / 5), "durations": durations}

    records = first_step.compare(["pvt_tiny"], {"old": "a", "new": "b"}, 3, "python", run)
    assert seen[:4] == [("pvt_tiny", tree, f"pvt_tiny-0-{label}") for tree, label in (("a", "old"), ("b", "new"))] * 2
    assert len({cache for *_, cache in seen}) == 6 and len(records) == 12
    # Cold runs of the old tree are the first, fifth and ninth.
    assert "| pvt_tiny | old | cold | 5.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 0.5 | 0.5 | 0.5 |" in first_step.table(
        records
    )
    assert "pvt_tiny, new, warm: 4.0 s" in capsys.readouterr().err


@pytest.mark.parametrize("name", first_step.RUNS)
def test_each_run_is_one_that_the_trainer_takes(name, tmp_path):
    data = first_step.write_data(tmp_path)
    flags = command.parse(first_step.command(name, data, tmp_path / "run"))
    options = config_lib.read(config_lib.load(flags.config, flags.overrides))
    description = TASKS[options.task].make(options).describe_data()
    assert len(description.class_names) == options.model.num_classes == 2
    assert (options.steps, options.batch_size) == (1, 2)


def test_mistakes_are_one_line(monkeypatch, capsys, tmp_path):
    for words, text in {
        ("--rounds", "0"): "--rounds must be above 0, but is 0",
        ("--tree", str(tmp_path)): "there is no pvt_jax/main.py in it",
    }.items():
        monkeypatch.setattr("sys.argv", ["first_step.py", *words])
        with pytest.raises(SystemExit, match="2"):
            first_step.main()
        assert text in capsys.readouterr().err


def test_a_run_without_a_first_step_says_why(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho error: no such data\nexit 2\n")
    script.chmod(0o755)
    with pytest.raises(SystemExit, match="no first step, exit code 2: error: no such data"):
        first_step.timed_run("pvt_tiny", tmp_path, tmp_path, {"images": "x"}, str(script))
    assert json.dumps(first_step.command("pvt_tiny", {"images": "x"}, tmp_path)).count("data.root=x") == 1
