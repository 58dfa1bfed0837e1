"""The comparison of speed: sides take turns, what fails or runs out of time costs no other result, tables are exact."""

import io
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments.speed import compare_pytorch, jax_steps, on_device, on_device_report, turns
from experiments.speed.cases import SIDES, Case, problem
from pvt_jax import programs
from pvt_jax.errors import UserError

FOLDER = Path(compare_pytorch.__file__).parent
CASE = Case("pvt_v2_b0", "train", "bfloat16", batch_size=8, image_size=(32, 32))
FACTS = {"parameters": 5, "versions": "x 1", "compile_seconds": 2.0}
TURNS = turns.Turns(rounds=3, steps=2, calls=4, warmup=1)


class Fake:
    """A worker whose answers are given; one that is an error is raised."""

    log: list = []

    def __init__(self, answers):
        self.answers, self.closed = iter(answers), False

    def __call__(self, side, case, python, environment, log):
        self.side, self.environment = side, environment
        return self

    def answer(self, deadline):
        found = next(self.answers)
        if isinstance(found, Exception):
            raise found
        return found

    def ask(self, request, deadline):
        self.log.append((self.side, request))
        return self.answer(deadline)

    def close(self):
        self.closed = True


@pytest.fixture
def compared(monkeypatch):
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Fake, "log", [])

    def run(case=CASE, **sides):
        fakes = {side.replace("_", "-"): Fake(answers) for side, answers in sides.items()}
        pythons = {"jax": "ours", "torch": "theirs"}
        record = turns.compare(
            case, [*fakes], TURNS, pythons=pythons, environment={}, start=lambda side, *rest: fakes[side](side, *rest)
        )
        assert all(fake.closed for fake in fakes.values())
        return record, fakes

    return run


def turn(*seconds):
    return {"seconds": list(seconds), "peak_bytes": 2**30}


def test_sides_take_turns(compared):
    record, fakes = compared(
        jax=[{}, FACTS, turn(1.0, 2.0), turn(4.0, 2.0), turn(2.0, 8.0)],
        torch=[{}, FACTS, turn(4.0), turn(4.0), turn(2.0)],
    )
    built, timed = {"warmup": 1}, {"steps": 2, "calls": 4}
    assert Fake.log == [("jax", built), ("torch", built), *[("jax", timed), ("torch", timed)] * 3]
    ours, theirs = record["sides"].values()
    rates = [ours[f"{name}images_per_second"] for name in ("", "best_", "least_")]
    assert rates == [8 / 2.0, 8 / 1.0, 8 / 8.0] and theirs["images_per_second"] == 8 / 4.0
    assert record["model"] == "pvt_v2_b0" and record["image_size"] == (32, 32)
    # No process takes all memory of a device for itself.
    assert fakes["jax"].environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    row = compare_pytorch.rows(record)
    assert row == ["| pvt_v2_b0 | train | torch | 4 | 2 | 2.00 | 2.00 | 2 | 2 | 1.0 | 1.0 |"]


@pytest.mark.parametrize("name", ["classification", "segmentation", "detection"])
def test_the_tables_of_the_readme_are_those_of_the_times(name, monkeypatch, capsys):
    file = FOLDER / f"{name}.jsonl"
    monkeypatch.setattr(sys, "argv", ["compare_pytorch.py", "--report", str(file)])
    compare_pytorch.main()
    assert capsys.readouterr().out in (FOLDER / "README.md").read_text("utf-8")
    for record in map(json.loads, file.read_text("utf-8").splitlines()):
        for side in record["sides"].values():
            assert side["images_per_second"] == record["batch_size"] / statistics.median(side["seconds"])


def test_a_side_that_fails_costs_no_other(compared):
    late = turns.SideError("no time left", late=True)
    sides = compared(
        jax=[{}, FACTS, turn(1.0), late],
        jax_plain=[{}, late],
        torch=[turns.SideError("its process ended with exit code 1")],
        timm=[{}, FACTS, turn(1.0), turns.SideError("OutOfMemoryError: none")],
        torch_compiled=[{}, FACTS | {"parameters": 6}, turn(1.0), turn(1.0), turn(1.0)],
    )[0]["sides"]
    assert sides["jax"]["images_per_second"] == 8.0  # fewer turns are turns, too
    assert sides["jax-plain"] == {"error": "no time left", "late": True}
    assert sides["torch"] == {"error": "its process ended with exit code 1", "late": False}
    assert sides["timm"] == {"error": "OutOfMemoryError: none", "late": False}
    assert sides["torch-compiled"]["error"] == "another model: it has 6 parameters, but 5 were expected"


class Steps:
    facts = FACTS

    def __init__(self, case, side):
        self.begun = self.done = 0

    def start(self):
        self.begun += 1

    def wait(self):
        self.done = self.begun

    def peak_bytes(self):
        assert self.done == self.begun
        return self.done


def worked(make, *requests):
    answers = io.StringIO()
    turns.work(make, SIDES["jax"], CASE, (io.StringIO("\n".join(map(json.dumps, requests))), answers))
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_worker_times_what_it_is_asked_for(capsys):
    loaded, facts, times = worked(lambda: Steps, {"warmup": 3}, {"steps": 2, "calls": 4})
    assert (loaded, facts) == ({}, FACTS)
    # Three to warm up, and four for each of three looks at the clock, of which the first does not count.
    assert len(times["seconds"]) == 2 and times["peak_bytes"] == 3 + 3 * 4

    def broken():
        raise ModuleNotFoundError("No module named 'timm'\nmore")

    assert worked(broken) == [{"error": "ModuleNotFoundError: No module named 'timm'"}]
    assert "Traceback" in capsys.readouterr().err


def test_processes_end_and_are_waited_for_no_longer_than_there_is_time(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    script.chmod(0o755)
    slow = turns.Worker("jax", CASE, str(script), {})
    with pytest.raises(turns.SideError, match="no time left") as error:
        slow.ask({}, time.monotonic() + 0.1)
    assert error.value.late
    slow.close()
    assert slow.process.returncode == -9
    script.write_text("#!/bin/sh\nexit 3\n")
    gone = turns.Worker("jax", CASE, str(script), {})
    with pytest.raises(turns.SideError, match="its process ended with exit code 3"):
        gone.ask({}, turns.NEVER)
    gone.close()


def test_mistakes_are_one_line(monkeypatch, capsys, tmp_path):
    assert "no pvt_tiny" in problem(Case("pvt_tiny", "infer"), ("jax", "timm"))
    assert "float32 alone" in problem(Case("resnet50+retinanet", "infer", "bfloat16"), ("jax", "torch"))
    for words, text in {
        ("--sides", "torch", "jax"): "--sides begins with jax or jax-plain",
        ("--sides", "jax", "torch", "jax"): "--sides names a side twice",
        ("--models", "pvt_tiny", "--image_size", "32x64"): "takes only square images",
        ("--report", str(tmp_path / "none.jsonl")): "--report reads what --json has written, but not",
        ("--report", __file__): "--report reads what --json has written, but not",
        ("--json", str(tmp_path / "none" / "times.jsonl")): "--json cannot be written",
    }.items():
        monkeypatch.setattr(sys, "argv", ["compare_pytorch.py", *words])
        with pytest.raises(SystemExit, match="2"):
            compare_pytorch.main()
        assert text in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out")]
    for words, text in {
        ("--seconds", "0"): "--seconds must be above 0, but is 0",
        ("--wheels", str(tmp_path)): r"there are no \*.whl files in it",
        ("--cifar", str(tmp_path)): "it needs a folder train/ with a folder of images per class",
    }.items():
        with pytest.raises(UserError, match=text):
            on_device.parse([*out, *words])
    assert not (tmp_path / "out").exists()


def test_a_budget_runs_out():
    now = itertools.count(100.0, 10.0)
    budget = on_device.Budget(60.0, clock=lambda: next(now))  # 100 and 110: it ends at 170
    assert (budget.left(), budget.left(kept=20.0), budget.spent()) == (50.0, 20.0, 40.0)


def side(rate, **more):
    rates = {"images_per_second": rate, "least_images_per_second": rate / 2, "best_images_per_second": rate * 2}
    return {**FACTS, **rates, "peak_bytes": 3 * 2**30, **more}


def record(model="pvt_v2_b0", **sides):
    fields = {"model": model, "mode": "train", "dtype": "bfloat16", "device": "cpu", "batch_size": 8}
    fields["image_size"] = [32, 32]
    return {**fields, "sides": sides}


def test_cases_run_while_there_is_time_and_the_next_call_goes_on(monkeypatch, tmp_path):
    now = [0.0]
    seen = []

    def compare(case, sides, turns, *, deadline, **rest):
        seen.append(case.model)
        now[0] += 30.0
        late = case.model == "b"
        return record(case.model, jax={"error": "no time left", "late": True} if late else side(1.0))

    monkeypatch.setattr(on_device, "compare", compare)
    cases = tuple((Case(model, "train", "bfloat16"), ("jax",)) for model in "abc")
    plan = on_device.Plan(cases, TURNS)
    started = on_device.Programs("python", {}, None)
    for expected, left_out in ((["a", "b"], ["c"]), (["b", "c"], [])):
        seen.clear()
        results = on_device.Results(tmp_path)
        before = len(results.records)
        on_device.compare_all(plan, started, on_device.Budget(80.0, lambda: now[0]), 10.0, results)
        assert seen == expected
        assert [one["model"] for one in results.records[before:] if one["part"] == "left_out"] == left_out
    assert len(results.file.read_text().splitlines()) == 5


def test_a_part_that_fails_is_reported_and_the_next_one_runs(monkeypatch, capsys, tmp_path):
    def fails(*arguments):
        raise UserError("no GPU")

    def compares(plan, started, budget, kept, results):
        assert kept == 0.0 and started.environment["JAX_PLATFORMS"] == "cpu"
        results.add("case", **record(jax=side(4.0)))

    monkeypatch.setattr(on_device, "check_kernels", fails)
    monkeypatch.setattr(on_device, "compare_all", compares)
    monkeypatch.setattr(on_device, "end_by_signal", lambda: None)
    assert on_device.run(["--out", str(tmp_path / "out"), "--tiny"]) == 0
    printed = capsys.readouterr()
    assert "failed: no GPU" in printed.err
    assert "- kernels: no GPU" in printed.out and "| pvt_v2_b0 | train | bfloat16 | jax | 4 |" in printed.out
    assert (tmp_path / "out" / "report.md").read_text() in printed.out


def test_the_report_is_that_of_the_records():
    work = {"flops": 8e12, "peak_flops": 40e12, "bytes": 4e12, "bandwidth": 4e12}
    failed = {"error": "ModuleNotFoundError: No module named 'timm'", "late": False}
    text = on_device_report.report(
        [
            {"part": "kernels", "device": "X", "tolerance": 0.05, "differences": {"a": 0.001, "b": 0.5}},
            {"part": "case", **record(jax={"error": "no time left", "late": True})},
            {"part": "case", **record(jax=side(4.0, **work), torch=side(2.0), timm=failed)},
            {"part": "left_out", "model": "pvt_v2_b0", "mode": "train", "dtype": "bfloat16"},
            {"part": "left_out", "model": "pvt_tiny", "mode": "infer", "dtype": "float32"},
            {"part": "cifar10", "step": 1234, "loss": 1.5, "images_per_second": 2345.6, "top1": None, "exit_code": 143},
            {"part": "total", "seconds": 100.0, "budget": 120.0},
            {"part": "total", "seconds": 50.0, "budget": 120.0},
        ]
    )
    lines = text.splitlines()
    assert "| a | 0.001 | agrees |" in lines and "| b | 0.5 | TOO LARGE |" in lines
    # Half a step a second: 4 of 40 TFLOP/s and half of the bandwidth.
    assert "| pvt_v2_b0 | train | bfloat16 | jax | 4 | 2 … 8 | 1.00 | 3.0 | 10% | 50% | 2 |" in lines
    assert "| pvt_v2_b0 | train | bfloat16 | torch | 2 | 1 … 4 | 2.00 | 3.0 | 5% | – | 2 |" in lines
    assert "| 1,234 | 1.5 | 2,346 | – | 143 |" in lines
    missing = lines[lines.index("## What is missing") + 2 :]
    assert missing[:2] == [
        "- pvt_v2_b0, train, bfloat16, timm: ModuleNotFoundError: No module named 'timm'",
        "- pvt_tiny, infer, float32: no time left",
    ]
    assert missing[-1] == "Total: 150 s in 2 calls."


def test_plans_have_the_kernels_apart_where_there_are_any():
    full = on_device.Plan.full()
    assert len(full.cases) == 16 and all(case.batch_size == 128 for case, _ in full.cases)
    for case, sides in full.cases:
        assert not problem(case, sides)
        assert ("jax-plain" in sides) == (case.mode == "train" and case.dtype == "bfloat16")
    assert full.cases[0][1] == ("jax", "jax-plain", "timm", "timm-compiled")


def test_ours_runs_with_and_without_kernels_and_its_work_is_counted():
    case = Case("resnet18", "infer", image_size=(32, 32))
    assert [jax_steps.subject(case, SIDES[name]).config.kernels for name in ("jax", "jax-plain")] == [True, False]
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    subject = programs.subject("resnet18", image_size=(32, 32), num_classes=3, settings=small)
    program = programs.program(subject, "infer", 2)
    compiled = jax.jit(lambda x: x + 1.0).lower(jax.ShapeDtypeStruct((1000,), "float32")).compile()
    one, three = (jax_steps.work_of(program, compiled, Case("resnet18", mode)) for mode in ("infer", "train"))
    products = jax_steps.trace.function_products(program.forward, *program.forward_inputs)
    assert one["flops"] == 2 * (products.weights + products.attention) > 0 and three["flops"] == 3 * one["flops"]
    assert one["bytes"] == 2 * 4000 and one["bandwidth"] is None and one["peak_flops"] is None
