"""Whole runs of configs/digits_segmentation.py, shrunk: resumed to the bit, on many devices, pictures, bad input."""

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from pvt_jax import main
from pvt_jax.tasks.segmentation.task import Segmentation
from tests.helpers.command import arguments, finish, records, run_here
from tests.helpers.few_scenes import few_scenes, start_on_few  # noqa: F401
from tests.helpers.programs import shared_programs  # noqa: F401
from tests.helpers.runs import assert_same_end, final_state, losses, saved_steps, stop_after

STEPS = 12


def flags_of(workdir, **overrides):
    """12 steps with everything random switched on, and a poly schedule; scenes at half their size."""
    options = {
        "steps": str(STEPS),
        "batch_size": "8",
        "checkpoint__every_steps": "2",
        "evaluation__every_steps": "6",
        "evaluation__batch_size": "16",
        "evaluation__pictures": "3",
        "ema_decay": "0.9",
        "optimizer__warmup_steps": "2",
        "model__drop_path_rate": "0.2",
        "head__channels": "16",
        "segmentation__scale": "(64, 64)",
        "segmentation__crop_size": "(64, 64)",
        **overrides,
    }
    return arguments(workdir, config="configs/digits_segmentation.py", **options)


pytestmark = pytest.mark.usefixtures("few_scenes", "shared_programs")


@pytest.fixture(scope="module")
def whole(few_scenes, shared_programs, tmp_path_factory):  # noqa: F811
    """The workdir of the run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    out, _ = run_here(flags_of(workdir))
    assert out.startswith(f"done: step {STEPS}  miou ") and "iou/" not in out
    return workdir


def test_the_run_learns_and_logs_each_class(whole):
    assert set(final_state(whole, STEPS)) == {"params", "batch_stats", "ema_params", "opt_state"}
    assert losses(whole)[-1] < losses(whole)[0]
    last = records(whole, "eval")[-1]
    assert {"miou", "mean_accuracy", "pixel_accuracy", "iou/background", "iou/7", "ema_miou", "ema_iou/7"} <= set(last)
    ious = [value for name, value in last.items() if name.startswith("iou/")]
    assert last["miou"] == pytest.approx(np.mean(ious)) and len(ious) == 11


def test_stopped_and_resumed_to_the_bit(whole, tmp_path, monkeypatch):
    """Batch statistics and the average of the parameters included."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, Segmentation, 3)
        run_here(flags_of(workdir), code=143)
    before = saved_steps(workdir)[-1]
    _, err = run_here(flags_of(workdir))
    assert f"resuming after step {before}" in err
    assert_same_end(workdir, whole, STEPS)


def test_four_devices_equal_one(whole, tmp_path):
    """The batch norms of the head see the whole batch, wherever its parts lie."""
    workdir = tmp_path / "run"
    finish(start_on_few(flags_of(workdir), devices=4))
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-3)
    found, expected = (final_state(folder, STEPS)["batch_stats"] for folder in (workdir, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=5e-3), found, expected)
    assert records(workdir, "eval")[-1]["pixel_accuracy"] == pytest.approx(
        records(whole, "eval")[-1]["pixel_accuracy"], abs=0.5
    )


def test_pictures_are_in_the_workdir_and_in_tensorboard(whole):
    for step in (6, STEPS):
        files = sorted((whole / "pictures" / str(step)).iterdir())
        # The first, the middle and the last of 32 scenes.
        assert [file.name for file in files] == ["000000.png", "000015.png", "000031.png"]
        # Three panels of 128 pixels at least.
        assert all(Image.open(file).width >= 3 * 128 for file in files)
    (events,) = (whole / "tensorboard").iterdir()
    tags = [value.tag for event in read_events(events) for value in event.summary.value if value.HasField("image")]
    assert tags == ["eval/000000", "eval/000015", "eval/000031"] * 2


def read_events(path):
    data, position = path.read_bytes(), 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        yield Event.FromString(data[position + 12 : position + 12 + length])
        position += length + 16


def test_starts_from_the_backbone_of_a_digits_classifier(tmp_path, capsys):
    """Frozen, it stays as it is to the bit, while neck and head are trained."""
    classifier = tmp_path / "classifier"
    assert main.main(arguments(classifier, steps="1")) == 0
    flags = flags_of(
        tmp_path / "run",
        steps="2",
        init__checkpoint=str(classifier),
        optimizer__frozen="backbone",
        evaluation__pictures="0",
        ema_decay="0.0",
    )
    assert main.main(flags) == 0
    said = capsys.readouterr().err
    assert "neck and head newly initialised" in said
    before = final_state(classifier, 1)["params"]
    after = final_state(tmp_path / "run", 2)["params"]
    backbone = {name: branch for name, branch in before.items() if name not in ("head", "norm", "cls_token")}
    for branch in (backbone, after["backbone"]):
        for stage in branch.values():
            stage.pop("pos_embed")  # Resampled for the other image size.
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], backbone)
    assert not (tmp_path / "run" / "pictures").exists()
