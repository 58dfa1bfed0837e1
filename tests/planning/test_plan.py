"""The dry run as a command: what it counts, that it writes nothing, its text, and one line for what cannot be."""

import copy
import json
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pvt_jax import config as config_lib
from pvt_jax import devices, main, programs
from pvt_jax.planning import plan as planning
from pvt_jax.planning import text
from pvt_jax.planning.topology import Topology
from tests.helpers.command import run_here

# Two blocks, and all parts of a state.
TINY = {
    **{"model.dim": 16, "model.depth": 2, "model.num_heads": 2, "model.image_size": 32, "model.num_classes": 10},
    **{"model.dtype": "float32", "batch_size": 32, "epochs": 30, "ema_decay": 0.9, "data.source": "digits"},
    **{"batch_transform.mixup_alpha": 0, "batch_transform.cutmix_alpha": 0, "batch_transform.erase_probability": 0},
}
SHEET = devices.Device("cpu", bfloat16=2e12, float32=1e12, memory=8e9, bandwidth=1e10, link=1e9, usable=6e9)


def refused(capfd, *flags: str) -> str:
    assert main.main(["--config", "configs/digits.py", *flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").removesuffix("\n")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("dry") / "run"


@pytest.fixture(scope="module")
def report(workdir):
    """Of the shrunk config, on a CPU that has a data sheet; the flags are those of training, and one more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "find", lambda kind: {"cpu": SHEET}[kind])
        flags = ["--config=configs/vit.py:tiny_patch16", *(f"--config.{key}={value}" for key, value in TINY.items())]
        out, err = run_here([*flags, f"--workdir={workdir}", "--dry_run", "--json"])
    assert err == ""
    return json.loads(out)


def test_reads_and_writes_no_workdir(report, workdir):
    assert not workdir.exists()


def test_says_what_was_planned(report):
    shown = ("model", "head", "task", "image_size", "batch_size", "accumulation_steps", "dtype", "mesh", "topology")
    assert [report[key] for key in shown] == [
        *("vit_tiny_patch16", "", "classification", [32, 32], 32, 1, "float32", {"data": 1, "fsdp": 1}, ""),
    ]
    assert (report["device_count"], report["hosts"], report["remat"], report["scan"]) == (1, 1, False, False)
    assert report["versions"] == {"jax": jax.__version__, "jaxlib": jax.lib.__version__}
    assert report["lower_seconds"] > 0 and report["compile_seconds"] > 0


def test_memory(report):
    counted, memory = report["counted"], report["memory"]
    assert counted["parameters"] == counted["moving_average"] == 4 * report["parameters"]
    # Two moments, and a few counters.
    assert 0 < counted["optimizer_state"] - 2 * counted["parameters"] < 64
    assert counted["batch"] == 32 * (32 * 32 * 3 + 4) and counted["batch_stats"] == 0
    state = sum(counted[name] for name in ("parameters", "moving_average", "optimizer_state", "batch"))
    # XLA drops the step of the last update, which nothing reads.
    assert abs(memory["arguments"] - state) < 64
    expected = memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporary"] + memory["program"]
    # The process of the tests, whose memory a CPU's is.
    assert memory["process"] > 2e8
    assert memory["total"] == expected + memory["process"] and memory["fits"] is True
    assert counted["activations"] > 32 * 4 * 16 * 4


def test_what_follows_from_the_data_sheet(report):
    modelled = report["modelled"]
    assert modelled["seconds"] == pytest.approx(
        {"compute": report["flops"] / 1e12, "memory": report["traffic"]["bytes"] / 1e10, "collectives": 0}
    )
    slowest = max(modelled["seconds"].values())
    assert modelled["limit"] == "memory" and modelled["step_seconds"]["overlapped"] == slowest
    assert modelled["step_seconds"]["serial"] == pytest.approx(sum(modelled["seconds"].values()))
    assert modelled["images_per_second"]["overlapped"] == pytest.approx(32 / slowest)
    assert modelled["device_images_per_second"] == modelled["images_per_second"]
    # 30 epochs of 1,438 images.
    assert (report["train_images"], report["steps"]) == (1438, 30 * (1438 // 32))
    assert modelled["hours"]["overlapped"] == pytest.approx(report["steps"] * slowest / 3600)


def test_traffic_is_near_what_xla_counts(report):
    assert report["traffic"]["bytes"] == pytest.approx(report["traffic"]["xla_bytes"], rel=0.05)
    assert report["collectives"] == [] and report["traffic"]["collective_bytes"] == 0
    assert report["traffic"]["kernels"] > 100


def test_what_other_settings_would_change(report):
    changes = {next(iter(row["change"])): row for row in report["variants"]}
    assert [row["change"] for row in report["variants"]] == [{"accumulation_steps": 2}, {"model.remat": True}]
    assert all("memory" not in row for row in report["variants"])
    halved, recomputed = changes["accumulation_steps"], changes["model.remat"]
    whole = report["counted"]["activations"]
    assert 0.45 * whole < halved["counted"]["activations"] < 0.55 * whole and halved["flops"] == report["flops"]
    assert recomputed["counted"]["activations"] < 0.6 * whole
    # A backward pass is two forward ones, and recomputing blocks one more, less what is outside of them.
    assert report["flops"] * 1.1 < recomputed["flops"] < report["flops"] * 4 / 3
    assert all(row["counted"]["parameters"] == report["counted"]["parameters"] for row in report["variants"])


@pytest.mark.parametrize("devices", [1, 4])
def test_activations_are_those_of_a_part_on_a_device(devices):
    """Maps are shared among devices and parts; what is kept of the weights alone, every device has whole."""

    def forward(variables, images):
        weights = variables["params"].astype(jnp.bfloat16)
        return jnp.sin(images @ weights).sum()

    variables = {"params": jax.ShapeDtypeStruct((10, 6), jnp.float32)}
    images = jax.ShapeDtypeStruct((32, 10), jnp.bfloat16)
    program: Any = SimpleNamespace(forward=forward, forward_inputs=(variables, images))
    # The cosine of each product.
    of_image, fixed = 6 * 2, 0
    assert planning._activations(program, 32, 2, devices) == 16 // devices * of_image + fixed

    def with_copies(variables, images):
        return forward(variables, jnp.tanh(images @ variables["params"].astype(jnp.bfloat16) @ copies))

    copies = jnp.ones((6, 10), jnp.bfloat16)
    program = SimpleNamespace(forward=with_copies, forward_inputs=(variables, images))
    # Both products, the hyperbolic tangent, and the weights in bfloat16 for its gradient.
    of_image, fixed = (10 + 10 + 6) * 2, 60 * 2
    found = planning._activations(program, 32, 2, devices)
    assert (found - planning._activations(program, 32, 4, devices)) * 2 == 16 // devices * of_image
    assert found == 16 // devices * of_image + fixed


def test_text(report):
    lines = text.describe(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"vit_tiny_patch16: {report['parameters']:,} parameters, float32"
    assert lines[1] == "batches of 32 images of 32×32"
    shown = "\n".join(lines)
    assert re.search(r"^fits +yes, [\d.,]+ GiB left$", shown, re.M)
    assert "Collectives: none" in shown and "Modelled, not measured" in shown
    assert "A run has 1,320 steps; evaluation and waiting for data come on top." in shown
    assert "--compare compiles each of them, for totals and times." in shown and "compiled, of" not in shown


def pod(report):
    """A report as of a pod, with wide numbers and everything compiled."""
    large = copy.deepcopy(report)
    large |= {"model": "pvt_v2_b2_li", "head": "mask_rcnn", "image_size": [800, 1344], "batch_size": 65536}
    large |= {"accumulation_steps": 8, "remat": True, "scan": True, "device_count": 2048, "hosts": 256}
    large |= {"target": "NVIDIA H100 80GB HBM3", "mesh": {"data": 256, "fsdp": 8}, "parameters": 1_234_567_890}
    large["collectives"] = [
        {"kind": "collective-permute", "devices": 2048, "count": 12345, "bytes": 123 * 10**9},
        {"kind": "all-reduce", "devices": 8, "count": 1, "bytes": 10**6},
    ]
    large["traffic"]["unknown_loops"], large["traffic"]["unknown_bytes"] = 2, large["traffic"]["bytes"] // 2
    fields = ("memory", "traffic", "collectives", "modelled")
    for row in large["variants"]:
        row |= {name: large[name] for name in fields}
    large["variants"].append({**large["variants"][0], "change": {"mesh.fsdp": 8}})
    large["variants"][0] |= {"memory": {"total": 2 * 10**12, "fits": False}, "modelled": None}
    return large


def test_text_of_a_pod(report):
    shown = text.describe(pod(report))
    assert max(map(len, shown.splitlines())) <= 80
    assert "pvt_v2_b2_li with mask_rcnn: 1,234,567,890 parameters, float32, remat, scan" in shown
    assert "batches of 65,536 images of 800×1344 in 8 parts" in shown
    assert "2048 × NVIDIA H100 80GB HBM3 on 256 hosts; mesh data 256 × fsdp 8\n" in shown
    assert "The body of 2 loops of unknown length counts once." in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("collective-permute", "all-reduce"))] == [
        ["collective-permute", "2048", "12,345", "123.00", "GB"],
        ["all-reduce", "8", "1", "1.00", "MB"],
    ]
    rows = [line.split() for line in shown.splitlines() if line.startswith("accumulation_steps=2")]
    assert rows[1][1:] == ["1,862.65", "GiB", "NO", "–"] and "--compare" not in shown


def test_text_without_a_data_sheet_or_a_length(report):
    unknown = {**report, "modelled": None, "memory_limit": None}
    shown = text.describe(unknown)
    assert "No time is modelled: there is no data sheet here of " in shown and "fits" not in shown
    shown = text.describe({**report, "modelled": {**report["modelled"], "hours": None}, "steps": None})
    assert "Its length is in epochs: --train_images says how many images there are." in shown


def test_a_program_that_is_too_large(report):
    large = {**report, "memory": {"total": 20 * 2**30, "fits": False}, "memory_limit": 15.75 * 2**30}
    large |= {"traffic": None, "collectives": None, "modelled": None}
    lines = [line.split() for line in text.describe(large).splitlines()]
    assert ["total", "20.00", "GiB"] in lines and ["fits", "NO"] in lines
    assert ["as", "it", "is"] in [line[:3] for line in lines]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("Ran out of memory on HBM, … temporaries (128.00G) exceeds available HBM (15.75G).", 128 * 2**30),
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded …", 41 * 2**29),
        ("INTERNAL: a bug", None),
    ],
)
def test_what_a_program_needs_that_is_too_large(words, size):
    assert planning._needed(Exception(words)) == size


def test_a_compiler_that_refuses(monkeypatch):
    """What is too large becomes a report; anything else is not hidden."""

    def step(words: str) -> planning._Step:
        def fail():
            raise jax.errors.JaxRuntimeError(words)

        lowered = SimpleNamespace(compile=fail)
        program = SimpleNamespace(function=SimpleNamespace(lower=lambda: lowered), abstract=())
        made = planning._Step.__new__(planning._Step)
        options = SimpleNamespace(model=SimpleNamespace(scan=True))
        target = planning.Target(jax.devices(), 1, 1, 1e9, 1e9)
        made.__dict__ |= {"options": options, "target": target, "say": print, "what": "", "program": program}
        made.__dict__["mesh"] = SimpleNamespace(size=1)
        return made

    found = step("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm.").compiled()
    assert found["memory"] == {"total": 20 * 2**30, "fits": False} and found["traffic"] is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        step("INTERNAL: a bug").compiled()


def test_every_change_is_compiled_with_compare(monkeypatch, report):
    compiled = []

    def compile_(step) -> dict:
        compiled.append(step.what)
        return {name: report[name] for name in ("memory", "traffic", "collectives", "modelled")}

    monkeypatch.setattr(planning._Step, "compiled", compile_)
    monkeypatch.setattr(planning._Step, "counted", lambda step: {"counted": report["counted"], "flops": 1})
    config = config_lib.load("configs/digits.py", ["steps=7"])
    found = planning.plan(config, None, compare=True, train_images=None, say=print)
    assert compiled == ["", " with accumulation_steps=2", " with model.remat=True"]
    assert all(row["memory"] == report["memory"] for row in found["variants"]) and found["steps"] == 7


def test_every_program_has_the_same_process_beside_it(monkeypatch):
    """Compiling one after the other, a process grows."""
    sizes = {f"{name}_size_in_bytes": 0 for name in ("argument", "output", "alias", "generated_code")}
    analysis = SimpleNamespace(**sizes, temp_size_in_bytes=7)
    compiled = SimpleNamespace(memory_analysis=lambda: analysis)
    monkeypatch.setattr("pvt_jax.machine.resident_bytes", lambda: 100)
    found = []
    for process in (None, 60):
        step = planning._Step.__new__(planning._Step)
        target = planning.Target(jax.devices(), 1, 1, 1e9, 1e9)
        step.__dict__ |= {"target": target, "process": process, "mesh": SimpleNamespace(size=2)}
        found.append(step.memory(compiled))
    assert [one["process"] for one in found] == [50, 60] and [one["total"] for one in found] == [57, 67]


@pytest.mark.parametrize(
    ("overrides", "devices", "changes"),
    [
        ([], 1, [{"accumulation_steps": 2}, {"model.remat": True}]),
        (["model.remat=True"], 16, [{"accumulation_steps": 2}, {"model.remat": False}, {"mesh.fsdp": 8}]),
        (["batch_size=24"], 4, [{"accumulation_steps": 2}, {"model.remat": True}, {"mesh.fsdp": 4}]),
        # Thirds, as halves of the batch cannot be shared.
        (["batch_size=24"], 8, [{"accumulation_steps": 3}, {"model.remat": True}, {"mesh.fsdp": 8}]),
        (["batch_size=64", "mesh.fsdp=2"], 64, [{"model.remat": True}, {"mesh.fsdp": 1}]),
    ],
)
def test_changes_can_be(overrides, devices, changes):
    options = config_lib.read(config_lib.load("configs/digits.py", overrides))
    assert list(planning._changes(options, devices)) == changes


@dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def test_devices_that_are_not_here(monkeypatch, capfd):
    """A batch that they cannot share is refused before anything is traced."""

    def devices_of(topology: Topology) -> list:
        return [Chip(k, k // 4) for k in range(topology.count)]

    monkeypatch.setattr(Topology, "devices", devices_of)
    monkeypatch.setattr("pvt_jax.planning.topology.check_plugin", lambda platform: None)
    monkeypatch.setattr("pvt_jax.planning.topology.prepare", lambda platform, environment: None)
    target = planning.Target.of(Topology("v5e", (4, 4)))
    assert (target.kind, len(target.devices), target.per_host) == ("TPU v5 lite", 16, 16)
    assert (target.limit, target.memory) == (15.75 * 2**30, 16 * 2**30)
    # Four chips a machine, all with links to each other; GPUs have links in their machine alone.
    assert target.hosts == 4 and Topology("h200", (64,)).hosts([]) == 8
    line = refused(capfd, "--dry_run", "--topology=v5e:128")
    assert line.startswith("batch_size=64 cannot be shared equally (devices: 128, accumulation_steps: 1): choose 128")
    line = refused(capfd, "--dry_run", "--topology=v5e:16", "--config.mesh.fsdp=3")
    assert line == "mesh.fsdp=3 does not divide the number of devices, 16: choose a divisor of it"


def test_flags(capfd, tmp_path):
    assert "required: --workdir" in refused(capfd)
    for flag in ("--topology=v5e:4", "--compare", "--train_images=5", "--json"):
        line = refused(capfd, "--workdir", str(tmp_path), flag)
        assert line == f"{flag.partition('=')[0]} belongs to --dry_run"
    for flag in ("--extend", "--report=x", "--coordinator_address=x", "--num_processes=2", "--process_id=1"):
        line = refused(capfd, "--dry_run", flag)
        assert line == f"--dry_run compiles a training step in one process: leave {flag.partition('=')[0]} away"
    for flag in ("--mode=eval", "--step=best"):
        line = refused(capfd, "--dry_run", flag)
        assert line == "--dry_run compiles a training step: leave --mode and --step away"
    assert refused(capfd, "--dry_run", "--train_images=0") == "--train_images must be above 0, but is 0"
    assert refused(capfd, "--dry_run", "--topology=v5e:7").startswith("--topology=v5e:7 is no slice: v5e has 1x1")
    assert "did you mean 'seed'" in refused(capfd, "--dry_run", "--config.sed=1")


def test_a_missing_plug_in(capfd, monkeypatch):
    monkeypatch.setattr("pvt_jax.planning.topology._is_installed", lambda name: False)
    line = refused(capfd, "--dry_run", "--topology=v5e:4")
    assert line.startswith("compiling for a TPU takes its plug-in, which needs no TPU: pip install 'jax[tpu]==")
    line = refused(capfd, "--dry_run", "--topology=h200:8")
    assert "pip install --no-deps jax-cuda13-plugin==" in line


def test_a_subject_has_the_size_that_its_task_trains_on():
    options = config_lib.read(config_lib.load("configs/digits_segmentation.py", []))
    subject = programs.of_config(options)
    assert subject.config is options and subject.size == subject.task.input_size
