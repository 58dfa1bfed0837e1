"""The table, the list and the picture of several runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax import compare
from pvt_jax.training.history import History
from pvt_jax.training.options import RunOptions
from pvt_jax.visualization import curves
from tests.helpers.workdirs import LINES, make_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "one", model={"name": "pvt_v2_b0"})
    lines = [{"step": 4, "split": "train", "loss": 2.5, "images_per_second": 1234.5}]
    make_run(tmp_path / "runs" / "[b]two", lines, None, task="detection", head={"name": "detr"})
    return tmp_path / "runs"


def test_the_table_has_a_line_a_run(runs, capsys):
    assert compare.main(["runs"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert err == "" and rows[0][:4] == ["run", "task", "model", "steps"]
    assert " ".join(rows[2]) == "runs/[b]two detection pvt_tiny + detr 4 AP – – – 2.5 1,234.5 0:00:00"
    assert " ".join(rows[3]) == "runs/one classification pvt_v2_b0 20 of 24 top1 70.00 10 65.50 1.5 16.0 0:00:05"


def test_the_list_has_the_exact_numbers(runs, capsys):
    assert compare.main(["runs/o*", "runs/one/config.json", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "run": "runs/one",
        "task": "classification",
        "model": "pvt_v2_b0",
        "head": "",
        "step": 20,
        "total_steps": 24,
        "metric": "top1",
        "best": 70.0,
        "best_step": 10,
        "last": 65.5,
        "loss": 1.5,
        "images_per_second": 16.0,
        "training_seconds": 5.25,
    }


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(runs, capsys):
    make_run(runs / "new", [])
    with (runs / "one" / "metrics.jsonl").open("a") as file:
        file.write("{\n" + json.dumps(LINES[-1]) + "\n")
    (runs / "notes.txt").write_text("")
    assert compare.main(["runs", "runs/notes.txt", "runs/tow*", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [row["run"] for row in json.loads(out)] == ["runs/[b]two", "runs/one"]
    assert err.splitlines() == [
        "note: runs/notes.txt is no workdir and has none in it: one has config.json and metrics.jsonl",
        "note: no run runs/tow*: give workdirs, folders with workdirs in them, or a pattern",
        "note: runs/new has no metrics yet: the first are written after log_every_steps steps",
        "note: runs/one/metrics.jsonl is damaged in line 9: the rest of it is shown",
    ]
    assert compare.main(["runs/new"]) == 2
    assert capsys.readouterr().err == (
        "error: runs/new has no metrics yet: the first are written after log_every_steps steps\n"
    )


def test_it_needs_no_jax():
    code = "import sys; from pvt_jax import compare; sys.exit(bool({'jax', 'matplotlib', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_matplotlib_the_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert compare.main(["runs", "--plot", "runs.png"]) == 2
    assert capsys.readouterr().err == ("error: --plot needs matplotlib: pip install matplotlib, or leave --plot away\n")


def test_panels_are_the_loss_and_each_metric():
    lines = ({"step": 4, "split": "train", "loss": 0.5}, {"step": 6, "split": "eval", "top1": 9.0, "AP": 8.0})
    metrics = {"a": "top1", "b": "AP", "c": "top1"}
    runs = [History(Path(name), RunOptions(), "m", "", metric, 6, lines, ()) for name, metric in metrics.items()]
    loss, top1, ap = compare._panels(runs)
    assert loss == curves.Panel("training loss", [(name, (4,), (0.5,)) for name in metrics])
    assert top1 == curves.Panel("top1", [("a", (6,), (9.0,)), ("c", (6,), (9.0,))])
    assert ap == curves.Panel("AP", [("b", (6,), (8.0,))])


def test_the_picture_has_a_colour_a_run(runs, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra; make installs it for the tests")
    (runs / "[b]two").rename(runs / "_$x^$")
    assert compare.main(["runs", "--plot", "pictures/runs.png", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "drawn in pictures/runs.png\n" and len(json.loads(out)) == 2
    picture = np.asarray(Image.open("pictures/runs.png").convert("RGB")).astype(int)
    height, width, _ = picture.shape
    assert (height, width) == (633, 2250)
    # matplotlib's first two colours: the second run has three panels of which AP is not its own.
    first, second = ((abs(picture - colour) < 8).all(-1) for colour in ((31, 119, 180), (255, 127, 14)))
    thirds = [slice(k * width // 3, (k + 1) * width // 3) for k in range(3)]
    assert [bool(second[: height * 3 // 4, third].any()) for third in thirds] == [True, False, True]
    assert first[: height * 3 // 4, thirds[0]].any() and not first[: height * 3 // 4, thirds[2]].any()
    assert compare.main(["runs", "--plot", "runs.wav"]) == 2
    assert capsys.readouterr().err == "error: --plot runs.wav has no ending of a picture: take runs.png\n"
