"""Whole runs of configs/digits_detection.py, shrunk: resumed to the bit, on many devices, results, pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from pvt_jax import main
from pvt_jax.tasks.detection.task import Detection
from tests.helpers.command import arguments, finish, records, run_here
from tests.helpers.few_scenes import few_scenes, start_on_few  # noqa: F401
from tests.helpers.programs import shared_programs  # noqa: F401
from tests.helpers.runs import assert_same_end, final_state, losses, saved_steps, stop_after

STEPS = 8
# A network of a few channels; scenes at half their size.
TINY = {
    "model__depths": "(1,1,1,1)",
    "model__dims": "(8,16,20,32)",
    "model__num_heads": "(1,1,1,2)",
    "init__checkpoint": "",
    "head__channels": "8",
    "head__neck_channels": "8",
    "detection__short_sides": "(64,)",
    "detection__long_side": "64",
    "head__train_proposals": "32",
    "head__proposals": "16",
    "head__max_detections": "10",
    "batch_size": "8",
    "evaluation__batch_size": "16",
}


def flags_of(workdir, **overrides):
    """Mask R-CNN, which draws anchors and proposals at random, for 8 steps, with drop-path and a moving average."""
    options = {
        **TINY,
        "steps": str(STEPS),
        "checkpoint__every_steps": "2",
        "evaluation__every_steps": "4",
        "evaluation__pictures": "3",
        "ema_decay": "0.9",
        "optimizer__warmup_steps": "2",
        "model__drop_path_rate": "0.2",
        "head__hidden_dim": "16",
        "log_every_steps": "1",
        **overrides,
    }
    return arguments(workdir, config="configs/digits_detection.py:mask_rcnn", **options)


pytestmark = pytest.mark.usefixtures("few_scenes", "shared_programs")


@pytest.fixture(scope="module")
def whole(few_scenes, shared_programs, tmp_path_factory):  # noqa: F811
    """The workdir of the run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    out, _ = run_here(flags_of(workdir))
    assert out.startswith(f"done: step {STEPS}  AP ") and "AP/" not in out
    return workdir


def test_the_run_learns_and_logs_the_parts_of_its_loss(whole):
    assert set(final_state(whole, STEPS)) == {"params", "ema_params", "opt_state"}
    assert losses(whole)[-1] < losses(whole)[0]
    parts = {"rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss"}
    for record in records(whole):
        assert sum(record[part] for part in parts) == pytest.approx(record["loss"], rel=1e-5)
    last = records(whole, "eval")[-1]
    assert {"AP", "AP50", "AR", "mask_AP", "mask_AP50", "ema_AP", "ema_mask_AP", "AP/7", "mask_AP/7"} <= set(last)


def test_stopped_and_resumed_to_the_bit(whole, tmp_path, monkeypatch):
    """What is drawn at random of anchors and proposals included."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, Detection, 3)
        run_here(flags_of(workdir), code=143)
    before = saved_steps(workdir)[-1]
    _, err = run_here(flags_of(workdir))
    assert f"resuming after step {before}" in err
    assert_same_end(workdir, whole, STEPS)


def test_four_devices_equal_one(whole, tmp_path):
    """Losses are means over the samples of the whole batch, wherever its parts lie; what is drawn is the same."""
    workdir = tmp_path / "run"
    # Evaluated at the end alone, where it is always.
    finish(start_on_few(flags_of(workdir, evaluation__every_steps="100"), devices=4))
    for part in ("loss", "rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss"):
        found, expected = ([record[part] for record in records(folder)] for folder in (workdir, whole))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4, err_msg=part)


def test_results_are_written_as_coco_has_them(whole):
    """Those of the last evaluation; the moving average's are apart."""
    found = json.loads((whole / "results" / "detections.json").read_text())
    assert {path.name for path in (whole / "results").iterdir()} == {"detections.json", "ema_detections.json"}
    assert found and set(found[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert all(0 <= row["image_id"] < 32 and 0 <= row["category_id"] < 10 for row in found)
    x, y, width, height = np.array([row["bbox"] for row in found]).T
    # In pixels of the scenes, which the network saw at half their size.
    assert min(x.min(), y.min()) >= 0 and (x + width).max() <= 128.001 and (y + height).max() <= 128.001
    assert (x + width).max() > 64 and found[0]["segmentation"]["size"] == [128, 128]


def test_pictures_are_in_the_workdir(whole):
    for step in (4, STEPS):
        files = sorted((whole / "pictures" / str(step)).iterdir())
        # The first, the middle and the last of 32 scenes.
        assert [file.name for file in files] == ["000000.png", "000015.png", "000031.png"]
        # Two panels of 128 pixels at least.
        assert all(Image.open(file).width >= 2 * 128 for file in files)


def test_evaluation_alone_writes_the_same_results(whole, tmp_path, capsys):
    before = (whole / "results" / "detections.json").read_bytes()
    (whole / "results" / "detections.json").unlink()
    assert main.main([*flags_of(whole), "--mode", "eval"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"evaluated: step {STEPS}  AP {records(whole, 'eval')[-1]['AP']:.4g}")
    assert (whole / "results" / "detections.json").read_bytes() == before
