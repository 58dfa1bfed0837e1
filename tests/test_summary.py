"""The command: its JSON, its text, and one line for every bad flag."""

import json
import re
import subprocess
import sys

from pvt_jax import summary
from pvt_jax.backbones import cost
from pvt_jax.models import create_model
from pvt_jax.trace import training_memory
from tests.helpers.command import ROOT


def refused(capsys, *flags: str) -> str:
    assert summary.main(flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def printed(capsys, *flags: str) -> str:
    assert summary.main(flags) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json(capsys):
    report = json.loads(printed(capsys, "pvt_tiny", "--json", "--batch_size", "2"))
    chosen = ("name", "image_size", "num_classes", "dtype", "remat", "batch_size")
    assert [report[key] for key in chosen] == ["pvt_tiny", [224, 224], 1000, "float32", False, 2]
    assert report["parameters"] == 13_229_288 and round(report["macs"] / 1e9, 3) == 1.933
    assert report["counts_agree"] is True and report["traced_macs"] == report["macs"]
    assert report["resampling_macs"] == 0 and "compiled" not in report

    parts = report["parts"]
    assert list(parts) == ["stage1", "stage2", "stage3", "stage4", "head"]
    assert [part["output"] for part in parts.values()] == [
        [56, 56, 64],
        [28, 28, 128],
        [14, 14, 320],
        [7, 7, 512],
        [1000],
    ]
    for key in ("parameters", "macs", "attention_macs"):
        assert sum(part[key] for part in parts.values()) == report[key]
    # Two blocks; 3136 queries and 7 × 7 keys of 64 channels, twice.
    assert parts["stage1"]["attention_macs"] == 2 * 2 * 3136 * 49 * 64
    assert parts["head"] == {
        "output": [1000],
        "parameters": 2 * 512 + 512 * 1000 + 1000,
        "macs": 512_000,
        "attention_macs": 0,
        "traced_macs": 512_000,
        "traced_attention_macs": 0,
    }

    memory = report["memory"]
    assert memory["parameters"] == memory["gradients"] == 4 * 13_229_288
    # Two moments; the schedule's and Adam's step, and the guard's two counts and one flag.
    assert memory["optimizer_state"] == 2 * memory["parameters"] + 4 * 4 + 1
    assert memory["images"] == 2 * 224 * 224 * 3 * 4 and memory["batch_stats"] == 0
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert memory["activations"] == training_memory(create_model("pvt_tiny"), 224, 224, 2)["activations"]


def test_flags_reach_the_model(capsys):
    flags = ["--image_size", "64", "96", "--num_classes", "7", "--dtype", "bfloat16", "--remat", "--batch_size", "3"]
    report = json.loads(printed(capsys, "resnet18", "--json", *flags))
    assert report["image_size"] == [64, 96] and report["dtype"] == "bfloat16" and report["remat"] is True
    assert list(report["parts"]) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert report["parts"]["stem"]["output"] == [16, 24, 64] and report["parts"]["head"]["output"] == [7]
    assert report["memory"]["images"] == 3 * 64 * 96 * 3 * 2
    # Mean and variance of 4800 channels, and a count for each of 20 norms.
    assert report["memory"]["batch_stats"] == 4 * (2 * 4800 + 20)
    expected = training_memory(create_model("resnet18", num_classes=7, dtype="bfloat16", remat=True), 64, 96, 3)
    assert report["memory"]["activations"] == expected["activations"]


def test_text(capsys):
    text = printed(capsys, "vit_tiny_patch16", "--image_size", "96", "--batch_size", "1")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "vit_tiny_patch16: images of 96×96, 1000 classes"
    table = {line.split()[0]: line for line in lines[2:7]}
    assert list(table) == ["part", "patch_embed", "blocks", "head", "total"]
    assert re.fullmatch(r"patch_embed +6×6×192 +185,664 +5\.3 M +0\.0 M +2\.5%", table["patch_embed"])
    assert len({len(line) for line in table.values()}) == 1, "columns end together"
    # 36 + 1 tokens of 192 channels, twelve blocks of 12 C² and 2 n C a token.
    blocks = 12 * 37 * (12 * 192**2 + 2 * 37 * 192)
    share = blocks / (blocks + 36 * 768 * 192 + 192_000)
    assert re.search(
        rf"^blocks .* {blocks / 1e6:.1f} M +{12 * 2 * 37 * 37 * 192 / 1e6:.1f} M +{share:.1%}$", text, re.M
    )
    assert re.search(r"^total +5,717,416 +", text, re.M)
    assert "FLOPs ≈ 2 × MACs" in text and "for one image" in text and "Two counts agree" in text
    assert "of resampling by fixed matrices" in text, "the table of 14×14 positions"
    assert "Training on a batch of 1, float32\n" in text
    assert re.search(rf"^parameters +{5_717_416 * 4 / 2**20:.2f} MiB$", text, re.M)
    assert "batch statistics" not in text and "XLA" not in text


def test_text_of_large_numbers(capsys):
    text = printed(capsys, "vit_base_patch4", "--image_size", "512", "--remat", "--dtype", "bfloat16")
    assert max(map(len, text.splitlines())) <= 80
    # 128² patches of 48 numbers; all in units of 10⁹, as the whole is 6340 of them.
    assert re.search(
        rf"^patch_embed +128×128×768 +2,447,616 +{128**2 * 48 * 768 / 1e9:.1f} G +0\.0 G +0\.0%$", text, re.M
    )
    assert "Training on a batch of 128, bfloat16, blocks recomputed\n" in text
    assert re.search(r"^total, if all is held at once +[\d,]+\.\d\d GiB$", text, re.M)


def test_counts_that_differ_are_said_loudly(capsys, monkeypatch):
    right = cost.multiply_accumulates

    def wrong(*arguments):
        costs = right(*arguments)
        return {**costs, "stage4": costs["stage4"]._replace(weights=1)}

    monkeypatch.setattr(cost, "multiply_accumulates", wrong)
    flags = ["resnet18", "--image_size", "32", "--batch_size", "2"]
    assert summary.main(flags) == 1
    out, err = capsys.readouterr()
    assert "THE TWO COUNTS DIFFER" in out and "agree" not in out
    assert err.startswith("error: ") and "this is a bug" in err and err.count("\n") == 1
    assert summary.main([*flags, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["counts_agree"] is False and report["parts"]["stage4"]["macs"] == 1 < report["traced_macs"]


def test_a_part_that_only_attention_is_wrong_in(capsys, monkeypatch):
    """Totals agree, the parts do not."""
    right = cost.multiply_accumulates

    def wrong(*arguments):
        costs = right(*arguments)
        moved = costs["blocks"]._replace(weights=costs["blocks"].weights + 1, attention=costs["blocks"].attention - 1)
        return {**costs, "blocks": moved}

    monkeypatch.setattr(cost, "multiply_accumulates", wrong)
    assert summary.main(["vit_tiny_patch32", "--image_size", "32", "--batch_size", "2"]) == 1
    assert "trust neither" in capsys.readouterr().err


def test_compiled_memory(capsys):
    """What XLA says of a toy's step: its arguments are exactly the state, the batch, the learning rate and the key."""
    sizes = {"depths": "1,1,1,1", "dims": "8,16,24,32", "num_heads": "1,2,3,4", "image_size": "32"}
    flags = ["pvt_tiny", "--image_size", "32", "--batch_size", "2", "--num_classes", "5", "--compile"]
    for key, value in sizes.items():
        flags += ["--set", f"{key}={value}"]
    assert summary.main([*flags, "--json"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"compiling the training step for cpu: .*\ncompiled in \d+ s\n", err)
    report = json.loads(out)
    found, memory = report["compiled"], report["memory"]
    # uint8 images and int32 labels.
    batch = 2 * 32 * 32 * 3 + 2 * 4
    # The number of the step is one more; whether the last update was finite is not asked for.
    state = memory["parameters"] + memory["optimizer_state"] + 4 - 1
    # A float32 and two uint32.
    assert found["arguments"] == state + batch + 4 + 8
    # The new state takes the place of the old; five scalars are metrics.
    assert memory["parameters"] + memory["optimizer_state"] <= found["aliased"] < found["outputs"]
    assert found["temporary"] > 0 and found["seconds"] >= 0 and found["backend"] == "cpu"
    assert found["total"] == found["arguments"] + found["outputs"] - found["aliased"] + found["temporary"]
    text = summary.describe(report)
    assert "What XLA allocates for this on cpu\n" in text and re.search(r"^temporary +\d+\.\d\d MiB$", text, re.M)
    report["compiled"]["devices"] = 8
    assert "What XLA allocates for this on each of 8 devices of cpu\n" in summary.describe(report)


def test_bad_flags(capsys):
    line = refused(capsys, "pvt_smal")
    assert "'pvt_smal'" in line and "did you mean 'pvt_small'" in line
    assert "NAME" in refused(capsys)
    assert "(see python -m pvt_jax.summary --help)" in refused(capsys, "pvt_tiny", "--imagesize", "32")
    assert "--image_size" in refused(capsys, "pvt_tiny", "--image_size", "large")
    assert "one or two sides above 0, but got 1 2 3" in refused(capsys, "pvt_tiny", "--image_size", "1", "2", "3")
    assert "but got 0 64" in refused(capsys, "pvt_tiny", "--image_size", "0", "64")
    assert "--batch_size must be above 0, but is 0" in refused(capsys, "pvt_tiny", "--batch_size", "0")
    assert "--num_classes must be above 0, but is -1" in refused(capsys, "pvt_tiny", "--num_classes", "-1")
    assert "'float16'" in refused(capsys, "pvt_tiny", "--dtype", "float16")


def test_sizes_that_the_model_refuses(capsys):
    line = refused(capsys, "pvt_tiny", "--image_size", "64", "31")
    assert "an image of 64×31 is too small" in line and "at least 32" in line
    line = refused(capsys, "resnet18", "--image_size", "32", "--batch_size", "1")
    assert "batch norm cannot train on one value per channel" in line


def test_a_bad_flag_is_answered_before_jax_is_imported():
    code = "import sys; from pvt_jax import summary; summary.main(['x', '--batch_size=0']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n" and done.stderr.startswith("error: --batch_size")


def test_as_a_module():
    command = [sys.executable, "-m", "pvt_jax.summary", "resnet18", "--image_size", "32", "--batch_size", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["parameters"] == 11_689_512
