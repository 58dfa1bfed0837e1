"""The command: its numbers follow from the times of a clock, and one line for every bad flag."""

import argparse
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from pvt_jax import benchmark, programs
from pvt_jax.errors import UserError
from tests.helpers.command import ROOT

TOY = ["--model", "resnet18", "--image_size", "32", "--num_classes", "3", "--set", "depths=1,1,1,1"]
TOY += ["--set", "dims=8,8,8,8", "--batch_size", "2"]
RETINANET = ["--head", "retinanet", "--set", "head.channels=8", "--set", "head.neck_channels=8"]
RETINANET += ["--set", "head.num_convs=1", "--set", "head.pre_nms=40", "--set", "head.max_detections=10"]


class Clock:
    """Tells what ``seconds`` say between one call and the next, in turn, and 1 after the last."""

    def __init__(self, *seconds: float):
        self.now, self.seconds = 0.0, list(seconds)

    def __call__(self) -> float:
        now = self.now
        self.now += self.seconds.pop(0) if self.seconds else 1.0
        return now


def measured(*flags: str, clock: Clock) -> dict:
    return json.loads(json.dumps(benchmark.measure(benchmark.parse([*TOY, *flags]), clock)))


def refused(capsys, *flags: str) -> str:
    assert benchmark.main(flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def trained():
    # Lowering, between, compiling, between; a call and what is between two of them.
    untimed = [5.0, 0.5, 0.75, 0.5]
    return measured("--mode", "train", "--steps", "3", clock=Clock(7, 0, 11, 1, *untimed, 0.5, 9, 0.25, 9, 1.0))


def test_rates_follow_from_the_times_of_calls(trained):
    assert trained["images_per_second_all"] == [2 / 0.5, 2 / 0.25, 2 / 1.0]
    assert trained["seconds_per_step"] == 0.5 and trained["images_per_second"] == 4.0
    assert (trained["lower_seconds"], trained["compile_seconds"]) == (7, 11)
    assert trained["flops_per_step"] == 6 * 2 * trained["macs_per_image"]
    assert trained["flops_share"] is None and trained["peak_flops"] is None


def test_says_what_was_measured(trained):
    chosen = ("model", "head", "mode", "batch_size", "image_size", "dtype", "num_classes", "device", "device_count")
    assert [trained[key] for key in chosen] == ["resnet18", "", "train", 2, [32, 32], "float32", 3, "cpu", 1]
    assert trained["settings"] == {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    assert trained["versions"]["jax"] == jax.__version__ and set(trained["versions"]) == {"jax", "jaxlib", "flax"}
    memory = trained["memory"]
    assert memory["total"] == memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporary"]
    assert memory["peak_bytes_in_use"] is None and memory["peak_rss"] > memory["total"]
    # Three moments a parameter, and images.
    assert memory["arguments"] > 3 * 4 * trained["parameters"] + 2 * 32 * 32 * 3


def test_inference_has_no_backward_pass(trained):
    found = measured("--mode", "infer", "--steps", "1", clock=Clock())
    assert found["macs_per_image"] == trained["macs_per_image"]
    assert found["flops_per_step"] == 2 * 2 * found["macs_per_image"]
    assert found["memory"]["aliased"] == 0 and found["parameters"] == trained["parameters"]
    assert found["images_per_second_all"] == [2.0]


def test_a_detector_as_a_command(capsys):
    """The last of two flags counts."""
    flags = [*TOY, *RETINANET, "--image_size", "64", "--mode", "infer", "--steps", "2"]
    assert benchmark.main(flags) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "resnet18 with retinanet, infer, 2 images of 64×64"
    assert re.search(r"^least and most of 2 calls +[\d.,]+ … [\d.,]+$", text, re.M)
    assert re.search(r"^share of the peak +peak not known$", text, re.M)
    assert max(map(len, text.splitlines())) <= 80


def test_text(trained):
    report = {
        **trained,
        "model": "pvt_v2_b2_li",
        "head": "semantic_fpn",
        "image_size": [1024, 2048],
        "batch_size": 4096,
        "remat": True,
        "device": "NVIDIA H100 80GB HBM3",
        "device_count": 8,
        "flops_per_step": 989.4e12 * 8 * trained["seconds_per_step"] / 4,
        "flops_share": 0.25,
        "peak_flops": 989.4e12,
        "from_cache": True,
        "images_per_second_all": [2.0, 4.0, 12345.6],
        "memory": {**trained["memory"], "peak_bytes_in_use": 5 * 2**30},
    }
    text = benchmark.describe(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[:2] == [
        "pvt_v2_b2_li with semantic_fpn, train, 4,096 images of 1024×2048",
        "float32, blocks recomputed, 3 classes",
    ]
    assert "8 devices: NVIDIA H100 80GB HBM3; jax " in text
    assert re.search(r"^share of the peak +25\.0% of 7\.92 P$", text, re.M)
    assert re.search(r"^compiling \(from the persistent cache\) +11\.0 s$", text, re.M)
    assert re.search(r"^images per second +4$", text, re.M)
    assert re.search(r"^least and most of 3 calls +2 … 12,346$", text, re.M)
    assert re.search(r"^most in use on a device +5\.00 GiB$", text, re.M)


def test_share_of_the_peak(monkeypatch):
    monkeypatch.setattr("pvt_jax.devices.peak_flops", lambda kind, dtype: {"cpu float32": 1e9}[f"{kind} {dtype}"])
    found = measured("--mode", "infer", "--steps", "1", clock=Clock())
    assert found["flops_share"] == pytest.approx(found["flops_per_step"] / 1e9)


@pytest.mark.parametrize(
    ("seconds", "steps", "count"),
    [(1.0, None, 10), (0.3, None, 34), (60.0, None, 3), (1e-4, None, 1000), (60.0, 1, 1), (1e-4, 7, 7)],
)
def test_number_of_calls(seconds, steps, count):
    calls = []
    found = benchmark._time(lambda: calls.append(0), steps, Clock(*[seconds] * 10_000))
    assert found == pytest.approx([seconds] * count) and len(calls) == count + 2


def test_cached_programs_are_told_from_compiled_ones():
    def compile_(event: str) -> bool:
        compiled = SimpleNamespace(compile=lambda: jax.monitoring.record_event(event))
        program = SimpleNamespace(function=SimpleNamespace(lower=lambda: compiled), abstract=())
        return benchmark._compile(program, "infer", Clock())[1]["from_cache"]  # pyright: ignore[reportArgumentType]

    assert compile_("/jax/compilation_cache/cache_hits") is True
    assert compile_("/jax/compilation_cache/cache_misses") is False


def test_out_of_memory(capsys, monkeypatch):
    def fail(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(programs.Program, "runner", fail)
    line = refused(capsys, *TOY, "--mode", "infer")
    assert line == "error: cpu ran out of memory: choose a --batch_size below 2, or add --dtype bfloat16\n"
    line = refused(capsys, *TOY, "--mode", "train")
    assert line.endswith(": choose a --batch_size below 2, or add --remat, or add --dtype bfloat16\n")


def test_other_errors_of_jax_are_not_hidden(monkeypatch):
    def fail(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(programs.Program, "runner", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        benchmark.main([*TOY, "--mode", "infer"])


@pytest.mark.parametrize(("platform", "stats"), [("gpu", {"bytes_limit": 2**30}), ("cpu", None)])
def test_what_does_not_fit_is_said_before_it_runs(platform, stats, monkeypatch):
    # The CPU is two devices, which share its memory.
    monkeypatch.setattr(benchmark.machine.os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**19}.get)
    flags = argparse.Namespace(mode="train", batch_size=1, remat=True, dtype="bfloat16")
    device = SimpleNamespace(platform=platform, device_kind="a device", memory_stats=lambda: stats)
    benchmark._check_fits(flags, device, 2, {"total": 2**30})
    benchmark._check_fits(flags, device, 2, None)
    with pytest.raises(UserError, match="of train needs 2.00 GiB, and a device has 1.00 GiB: choose a smaller image$"):
        benchmark._check_fits(flags, device, 2, {"total": 2**31})


def test_set_takes_any_key_of_a_config():
    settings = {"depths": (1, 1, 1, 1), "kernels": False, "ema_decay": 0.9, "optimizer.weight_decay": 0.5}
    subject = programs.subject("resnet18", image_size=(32, 32), num_classes=3, settings=settings)
    config = subject.config
    assert (config.kernels, config.ema_decay, config.optimizer.weight_decay) == (False, 0.9, 0.5)
    assert subject.task.model.depths == (1, 1, 1, 1)


def test_bad_flags(capsys):
    usual = ["--model", "pvt_tiny", "--mode", "train", "--batch_size", "2"]
    assert "--model" in refused(capsys, *usual[2:])
    assert "--mode" in refused(capsys, *usual[:2], *usual[4:])
    assert "--batch_size" in refused(capsys, *usual[:4])
    assert "'fit'" in refused(capsys, *usual, "--mode", "fit")
    assert "(see python -m pvt_jax.benchmark --help)" in refused(capsys, *usual, "--imagesize", "32")
    assert "--batch_size must be above 0, but is 0" in refused(capsys, *usual, "--batch_size", "0")
    assert "--steps must be above 0, but is -1" in refused(capsys, *usual, "--steps", "-1")
    assert "--num_classes must be above 0, but is 0" in refused(capsys, *usual, "--num_classes", "0")
    assert "--image_size takes one side" in refused(capsys, *usual, "--image_size", "1", "2", "3")
    assert "use --dtype instead of --set dtype=…" in refused(capsys, *usual, "--set", "dtype=bfloat16")
    assert "use --dtype instead of --set model.dtype=…" in refused(capsys, *usual, "--set", "model.dtype=bfloat16")
    assert "use --model instead of --set model.name=…" in refused(capsys, *usual, "--set", "model.name=resnet18")
    assert "use --head instead of --set head.name=…" in refused(capsys, *usual, "--set", "head.name=segformer")
    assert "use --steps instead of --set steps=…" in refused(capsys, *usual, "--set", "steps=7")
    assert "use --image_size instead of" in refused(capsys, *usual, "--set", "image_size=32")
    assert "--set takes KEY=VALUE" in refused(capsys, *usual, "--set", "depths")
    assert "--remat belongs to --mode train" in refused(capsys, *usual, "--mode", "infer", "--remat")
    assert "did you mean 'pvt_tiny'" in refused(capsys, *usual, "--model", "pvt_tini")
    line = refused(capsys, *TOY, "--mode", "train", "--batch_size", "1")
    assert "batch norm cannot train on one value per channel" in line


def test_a_bad_flag_is_answered_before_jax_is_imported():
    code = (
        "import sys; from pvt_jax import benchmark; "
        "benchmark.main(['--model=x', '--mode=infer', '--batch_size=0']); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n" and done.stderr.startswith("error: --batch_size")
