"""What runs, what is left out, what is recorded; jobs are functions here, and write what a command would."""

import json
import signal
import sys
from pathlib import Path

import pytest

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Evaluate, Measure, Sweep, Train, Tuning, results, run_folder
from pvt_jax.sweeps.process import in_a_process
from pvt_jax.sweeps.run_folder import LOG
from pvt_jax.sweeps.runner import Runner, StopError
from pvt_jax.sweeps.spec import with_seeds
from tests.helpers.workdirs import make_run

SUMMARY = {"parameters": 7, "trained_parameters": 7, "backbone_macs": 9, "machine": "m", "versions": {"jax": "1"}}


class Commands:
    """Executes jobs: ``top1`` of a run is what ``of`` gives for its words; a word in ``fails`` makes it fail."""

    def __init__(self, of=lambda words: 50.0, fails=(), stops="", error="no memory"):
        self.of, self.fails, self.stops, self.error, self.called = of, fails, stops, error, []

    def __call__(self, words, stdout, stderr, beat):
        self.called.append(words)
        text = " ".join(words)
        if self.stops and self.stops in text:
            return 143
        if any(word in text for word in self.fails):
            stderr.write_text(f"trying\nerror: {self.error}\n")
            return 2
        if "--report" in words:
            report = Path(words[words.index("--report") + 1])
            report.mkdir()
            (report / "metrics.json").write_text(json.dumps({"step": 4, "top1": self.of(words), "top1/cat": 1.0}))
        elif "--workdir" in words:
            folder = Path(words[words.index("--workdir") + 1])
            if (folder / "metrics.jsonl").exists():
                # Nothing is left to do.
                return 0
            lines = [{"step": 2, "split": "train", "loss": 1.5}]
            lines += [{"step": step, "split": "eval", "top1": top1} for step, top1 in ((1, 99.0), (2, self.of(words)))]
            make_run(folder, lines, steps=2, model={"name": "pvt_tiny"})
            (folder / "summary.json").write_text(json.dumps(SUMMARY))
        else:
            stdout.write_text(json.dumps({"macs": 3, "memory": {"total": 5}, "device": "H200", "device_count": 8}))
        return 0


@pytest.fixture
def make(tmp_path):
    said = []

    def made(sweep, execute, overrides=()):
        sweep.check()
        file = tmp_path / "question" / "sweep.py"
        runner = Runner(file, sweep, tmp_path / "runs", tmp_path / "out", overrides, said.append, execute)
        runner.said = said
        return runner

    return made


SWEEP = Sweep(
    "t",
    "small",
    [
        Train("one", "digits", {"model.dims": (8, 16)}, facts={"width": 8}),
        Train("two", "../own.py:x", start="one"),
        Evaluate("wide", "two", {"model.image_size": (64, 32)}),
        Measure("cost", "pvt_jax.summary", ("pvt_tiny", "--json")),
        Measure("match", "match.py", ("{one}", "--json")),
    ],
    seeds=(0, 3),
    metric="top1",
)


def test_every_arm_is_run_and_recorded_once(make, tmp_path):
    runner = make(SWEEP, Commands(), ["data.source=folder", "data.root=/secret"])
    assert runner() == 0
    found = {(r["arm"], r["seed"]): r for r in runner.records()}
    assert [*found] == [(a, s) for a in ("one", "two", "wide") for s in (0, 3)] + [
        ("cost", None),
        ("match", 0),
        ("match", 3),
    ]
    one, two = found["one", 3], found["two", 3]
    assert one["facts"] == {"width": 8} and one["machine"] == "m" and one["versions"] == {"jax": "1"}
    # The last evaluation counts, not the best one.
    assert one["values"]["top1"] == 50.0 and one["values"]["best_top1"] == 99.0 and one["values"]["parameters"] == 7
    assert one["curves"] == {"top1": [[1, 2], [99.0, 50.0]], "train_loss": [[2], [1.5]]}
    folder = "runs/sweeps/question/small"
    assert one["command"] == (
        f"python -m pvt_jax.main --config digits --workdir {folder}/one/seed3 '--config.model.dims=(8, 16)' "
        "--config.seed=3 --config.data.source=folder"
    )
    assert f"--config.init.checkpoint={folder}/one/seed3" in two["command"]
    assert "--config experiments/own.py:x " in two["command"]
    assert f"{tmp_path}/own.py:x" in runner.execute.called[2]
    assert found["wide", 0]["values"] == {"step": 4, "top1": 50.0}
    assert (
        f"--mode eval --workdir {folder}/wide/seed0 --report {folder}/wide/seed0/report" in found["wide", 0]["command"]
    )
    assert f"--config.init.checkpoint={folder}/two/seed0" in found["wide", 0]["command"]
    assert found["cost", None]["values"]["memory.total"] == 5 and found["cost", None]["machine"] == "8 × H200"
    assert found["match", 3]["command"] == f"python experiments/question/match.py {folder}/one/seed3 --json"
    # The path of the data is given to the command, and is in no record.
    assert "--config.data.root=/secret" in runner.execute.called[0] and "secret" not in json.dumps(runner.records())
    assert str(tmp_path / "question" / "match.py") in runner.execute.called[-1]

    again = make(SWEEP, Commands(), ["data.source=folder", "data.root=/elsewhere"])
    assert again() == 0 and again.execute.called == [] and again.outdated() == []


def test_a_failure_is_told_and_the_rest_goes_on(make, tmp_path):
    runner = make(SWEEP, Commands(fails=("one/seed0 ",)))
    assert runner() == 4
    assert {(r["arm"], r["seed"]) for r in runner.records()} == {
        ("one", 3), ("two", 3), ("wide", 3), ("cost", None), ("match", 3)
    }  # fmt: skip
    log = tmp_path / "runs" / "small" / "one" / "seed0" / LOG
    assert any(line.endswith(f"exit code 2: error: no memory; see {log}") for line in runner.said)
    assert "two, seed 0 (3 of 9): left out, as it needs one, which failed" in runner.said

    runner = make(SWEEP, Commands())
    assert runner() == 0 and len(runner.execute.called) == 4 and len(runner.records()) == 9


def test_a_changed_command_runs_again_and_puts_the_old_run_aside(make, tmp_path):
    make(SWEEP, Commands())()
    changed = Sweep("t", "small", [Train("one", "digits", {"model.dims": (9, 16)})], seeds=(0,))
    runner = make(changed, Commands(of=lambda words: 60.0))
    assert runner.outdated() == ["one, seed 0"]
    assert runner() == 0 and (tmp_path / "runs/small/one/seed0.old1/metrics.jsonl").exists()
    (record,) = [r for r in runner.records() if (r["arm"], r["seed"]) == ("one", 0)]
    assert record["values"]["top1"] == 60.0 and len(runner.records()) == 9


def test_a_run_without_results_has_failed(make):
    runner = make(Sweep("t", "small", [Train("one", "digits")], seeds=(0,)), lambda words, out, err, beat: 0)
    assert runner() == 1 and runner.records() == []
    assert "it left no results: no config.json in" in runner.said[-1]


def test_a_signal_stops_the_sweep(make):
    runner = make(SWEEP, Commands(stops="two/seed0"))
    with pytest.raises(StopError) as stopped:
        runner()
    assert stopped.value.code == 143 and [r["arm"] for r in runner.records()] == ["one", "one"]


def rate_of(words):
    key = "--config.optimizer.learning_rate="
    return next((float(word.removeprefix(key)) for word in words if word.startswith(key)), 1.0)


def test_learning_rates_are_found_by_halving(make):
    """The longer look reverses the order of the two best; "far" likes another rate than "near"."""

    def top1(words):
        rate, far = rate_of(words), "far" in " ".join(words)
        longest = "--config.steps=20" in words
        best = 8.0 if far else (2.0 if longest else 1.0)
        return 100 - abs(rate - best)

    tuning = Tuning((1.0, 2.0, 4.0, 8.0), (10, 20))
    arms = [Train("near", "digits"), Train("far", "digits", {"batch_size": 8}), Train("own", "digits", tuned=False)]
    sweep = Sweep("t", "small", arms, seeds=(0,), metric="top1", tuning=tuning)
    runner = make(sweep, Commands(of=top1))
    assert runner() == 0
    looks = [(r["arm"], r["look"], r["rate"]) for r in runner.records() if r.get("look") is not None]
    assert looks == [
        *(("near", 0, rate) for rate in (1.0, 2.0, 4.0, 8.0)),
        *(("near", 1, rate) for rate in (1.0, 2.0)),
        *(("far", 0, rate) for rate in (1.0, 2.0, 4.0, 8.0)),
        *(("far", 1, rate) for rate in (4.0, 8.0)),
    ]
    counted = {r["arm"]: r["command"] for r in results.counted(runner.records(), sweep)}
    assert "--config.optimizer.learning_rate=2.0 --config.seed=0" in counted["near"]
    assert "--config.optimizer.learning_rate=8.0" in counted["far"] and "learning_rate" not in counted["own"]
    assert not any(word.startswith("--config.steps") for word in counted["near"].split())
    again = make(sweep, Commands(of=top1))
    assert again() == 0 and again.execute.called == [] and again.outdated() == []


def test_an_arm_whose_looks_all_fail_is_left_out_with_what_needs_it(make):
    arms = [Train("one", "digits"), Evaluate("wide", "one"), Train("two", "digits", tuned=False)]
    sweep = Sweep("t", "s", arms, seeds=(0,), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    runner = make(sweep, Commands(fails=("look1",)))
    assert runner() == 2 and [record["arm"] for record in runner.records()] == ["two"]
    assert "one, seed 0 (1 of 3): left out, as no learning rate was found" in runner.said
    assert "wide, seed 0 (2 of 3): left out, as it needs one, which failed" in runner.said


DIVERGED = "the gradient was not finite in 20 updates in a row, up to step 40; the saved parameters are older"


def test_a_learning_rate_that_diverges_is_not_chosen(make):
    sweep = Sweep("t", "s", [Train("one", "digits")], seeds=(0,), metric="top1", tuning=Tuning((1.0, 2.0, 4.0), (10,)))
    runner = make(sweep, Commands(of=rate_of, fails=("learning_rate=4.0",), error=DIVERGED))
    assert runner() == 0
    assert "one: optimizer.learning_rate=2 is best of 3 values" in runner.said
    diverged = [r["rate"] for r in runner.records() if r.get("diverged")]
    assert diverged == [4.0]
    # That it diverges is recorded, too.
    again = make(sweep, Commands(fails=("",)))
    assert again() == 0 and again.execute.called == []


def test_looks_of_another_command_tell_no_learning_rate(make):
    def sweep(width):
        arms = [Train("one", "digits", {"model.dims": (width,)})]
        return Sweep("t", "s", arms, seeds=(0,), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))

    assert make(sweep(8), Commands(of=rate_of))() == 0
    runner = make(sweep(9), Commands(of=lambda words: -rate_of(words)))
    assert runner.outdated() == ["one, seed 0"] and runner() == 0
    assert [rate_of(words) for words in runner.execute.called] == [1.0, 2.0, 1.0]
    (record,) = results.counted(runner.records(), sweep(9))
    assert "learning_rate=1.0 " in record["command"] and runner.outdated() == []


def test_what_reads_a_run_runs_again_with_it(make, tmp_path):
    """Directly or through another run; the commands of those that read it are what they were."""
    make(SWEEP, Commands())()
    arms = [Train("one", "digits", {"model.dims": (9, 16)}, facts={"width": 8}), *SWEEP.arms[1:]]
    changed = Sweep("t", "small", arms, seeds=(0, 3), metric="top1")
    runner = make(changed, Commands(of=lambda words: 60.0))
    names = [f"{name}, seed {seed}" for name in ("one", "two", "wide", "match") for seed in (0, 3)]
    assert runner.outdated() == names
    assert runner() == 0 and runner.outdated() == [] and len(runner.execute.called) == len(names)
    assert {r["values"]["top1"] for r in runner.records() if r["arm"] in ("one", "two", "wide")} == {60.0}
    # It does not go on in the folder of the old weights.
    assert (tmp_path / "runs/small/two/seed0.old1/metrics.jsonl").exists()
    assert make(changed, Commands(fails=("",)))() == 0


def test_other_seeds_have_the_learning_rate_of_the_first(make):
    """And leave the records of the first ones as they are."""
    arms = [Train("first", "digits", tuned=False), Train("then", "digits", start="first")]
    sweep = Sweep("t", "s", arms, seeds=(0, 1), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    assert make(sweep, Commands(of=rate_of))() == 0
    more = make(with_seeds(sweep, (5,)), Commands(of=lambda words: -rate_of(words)))
    assert more() == 0 and more.outdated() == []
    trained = [" ".join(words) for words in more.execute.called]
    assert len(trained) == 2 and "then/seed5" in trained[1] and "learning_rate=2.0" in trained[1]
    assert make(sweep, Commands()).outdated() == []


def test_looks_of_other_seeds_alone_start_from_the_first(make):
    arms = [Train("first", "digits", tuned=False), Train("then", "digits", start="first")]
    sweep = Sweep("t", "s", arms, seeds=(0, 1), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    runner = make(with_seeds(sweep, (5,)), Commands())
    assert runner() == 0
    order = [words[words.index("--workdir") + 1].rpartition("/s/")[2] for words in runner.execute.called]
    assert order == ["first/seed5", "first/seed0", "then/look1_1", "then/look1_2", "then/seed5"]


def test_where_every_learning_rate_diverges_the_way_out_is_said(make):
    sweep = Sweep("t", "s", [Train("one", "digits")], seeds=(0,), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    runner = make(sweep, Commands(fails=("",), error=DIVERGED))
    assert runner() == 1
    assert "one: every optimizer.learning_rate diverged: give the sweep's tuning lower values" in runner.said


def test_much_that_is_recorded_is_looked_up_at_once(make, monkeypatch):
    arms = [Train(f"arm{number}", "digits") for number in range(40)]
    sweep = Sweep("t", "s", arms, seeds=(0, 1, 2), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    assert make(sweep, Commands())() == 0
    read = []
    monkeypatch.setattr(results, "read", lambda file, read_=results.read: read.append(file) or read_(file))
    runner = make(sweep, Commands(fails=("",)))
    assert runner() == 0 and runner.outdated() == [] and len(read) == 1


def test_a_record_tells_the_revision_of_its_start_and_the_time_of_all_its_starts(make, monkeypatch):
    sweep = Sweep("t", "s", [Train("one", "digits")], seeds=(0,), metric="top1")
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(run_folder, "revision", lambda folder: "old")
    with pytest.raises(StopError):
        make(sweep, Commands(stops="one"))()
    stopped = make(sweep, Commands(stops="one"))
    monkeypatch.setattr(run_folder, "revision", lambda folder: "new")
    with pytest.raises(StopError):
        stopped()
    runner = make(sweep, Commands())
    assert runner() == 0
    (record,) = runner.records()
    assert record["revision"] == "old" and record["seconds"] == 30.0


def test_the_error_is_that_of_the_last_start(make):
    sweep = Sweep("t", "s", [Train("one", "digits")], seeds=(0,), metric="top1")

    def execute(words, stdout, stderr, beat):
        with stderr.open("a") as log:
            log.write("error: the disk is full\n" if not first else "killed\n")
        first.append(1)
        return 2

    first: list[int] = []
    make(sweep, execute)()
    runner = make(sweep, execute)
    runner()
    assert "exit code 2: killed;" in runner.said[-1]


def test_a_look_that_fails_otherwise_leaves_the_arm_to_the_next_start(make):
    """The best rate might be the one that has not been looked at."""
    sweep = Sweep("t", "s", [Train("one", "digits")], seeds=(0,), metric="top1", tuning=Tuning((1.0, 2.0, 4.0), (10,)))
    runner = make(sweep, Commands(of=rate_of, fails=("learning_rate=4.0",), error="another process trains there"))
    assert runner() == 1
    assert "one, seed 0 (1 of 1): left out, as no learning rate was found" in runner.said
    again = make(sweep, Commands(of=rate_of))
    assert again() == 0 and [rate_of(words) for words in again.execute.called] == [4.0, 4.0]


def test_an_arm_looks_from_the_weights_that_it_starts_from(make):
    arms = [Train("first", "digits", tuned=False), Train("then", "digits", start="first")]
    sweep = Sweep("t", "s", arms, seeds=(4, 5), metric="top1", tuning=Tuning((1.0, 2.0), (10,)))
    runner = make(sweep, Commands())
    assert runner() == 0
    order = [words[words.index("--workdir") + 1].rpartition("/s/")[2] for words in runner.execute.called]
    looks = ["then/look1_1", "then/look1_2"]
    assert order == ["first/seed4", "first/seed5", *looks, "then/seed4", "then/seed5"]
    assert all("first/seed4" in " ".join(words) for words in runner.execute.called[2:4])


def test_a_job_runs_in_a_process_with_its_output_apart(tmp_path):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    out, err = tmp_path / "out", tmp_path / "err"
    assert in_a_process([sys.executable, "-c", code], out, err, lambda: None) == 3
    assert (out.read_text(), err.read_text()) == ("out\n", "err\n")


def test_a_sigterm_goes_on_to_the_job(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    assert in_a_process([sys.executable, "-c", code], tmp_path / "o", tmp_path / "e", lambda: None) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "a sweep without arms"),
        ([Train("a b", "digits")], "an arm is called 'a b'"),
        ([Train("a", "digits"), Train("a", "digits")], "two arms are called 'a'"),
        ([Train("a", "digits", start="b"), Train("b", "digits")], "arm 'a' needs 'b', which is no trained arm before"),
        ([Measure("m", "x.py"), Evaluate("e", "m")], "arm 'e' needs 'm'"),
        ([Train("a", "digits", against="b")], "the baseline 'b' is no arm of the sweep"),
    ],
)
def test_a_wrong_sweep_is_refused(arms, message):
    with pytest.raises(UserError, match=message):
        Sweep("t", "s", arms).check()


def test_a_run_that_another_sweep_has_finished_is_copied(tmp_path):
    found = []

    def execute(words, stdout, stderr, beat):
        folder = Path(words[words.index("--workdir") + 1])
        found.append((folder, sorted(file.name for file in folder.iterdir())))
        root = next(word.partition("=")[2] for word in words if word.startswith("--config.data.root="))
        step = 1 if "seed1" in folder.name else 2
        lines = [{"step": step, "split": "train", "loss": 1.0}, {"step": step, "split": "eval", "top1": 50.0}]
        make_run(folder, lines, steps=2, **{"data.root": root})
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
        return 0

    def run(name, root="/data", **overrides):
        sweep = Sweep("t", "small", [Train(f"arm_of_{name}", "digits", overrides)], seeds=(0, 1), metric="top1")
        runs, said = tmp_path / "runs" / name, []
        runner = Runner(tmp_path / name / "sweep.py", sweep, runs, tmp_path / name, [f"data.root={root}"], said.append)
        runner.execute = execute
        found.clear()
        assert runner() == 0
        return {folder.name: files for folder, files in found}, said

    copied = ["command.txt", "config.json", "data.json", "metrics.jsonl", "origin.json", "summary.json"]
    run("first")
    # The command runs all the same, on a folder in which nothing is left to do; a run that stopped early is not taken.
    files, said = run("second")
    assert files == {"seed0": copied, "seed1": ["command.txt"]}
    assert f"the same run is in {tmp_path}/runs/first/small/arm_of_first/seed0: copied" in said
    written = (tmp_path / "runs/second/small/arm_of_second/seed0/command.txt").read_text()
    assert "runs/sweeps/second/small/arm_of_second/seed0" in written
    # Other data, or another key, is another run.
    assert run("third", root="/other")[0] == {"seed0": ["command.txt"], "seed1": ["command.txt"]}
    assert run("fourth", epochs=3)[0] == {"seed0": ["command.txt"], "seed1": ["command.txt"]}
