"""The script that times the parts of detection, on a toy: its parts make the whole, and its inputs are what it says."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments.detection_parts import detection_parts
from pvt_jax.models import create_model
from tests.helpers.dense import PYRAMID, random_variables

TOY = {
    "head_settings": {"channels": 8, "neck_channels": 8, "num_convs": 1, "octave_base": 1.0, "pre_nms": 50},
    **PYRAMID,
}
SIZE = (64, 128)


@pytest.fixture(scope="module")
def case():
    model = create_model("pvt_tiny", head="retinanet", num_classes=80, **TOY)
    # Scores so different that two programs rank them alike; with this bias none of them is above 0.05.
    variables = random_variables(model, jax.numpy.zeros((1, *SIZE, 3)))
    return detection_parts.Case("toy", model, detection_parts.with_bias(variables, -30.0), SIZE, 2)


def test_parts_make_the_whole(case):
    by_parts, whole = (case.calls[part]() for part in ("decoding, all", "whole"))
    assert whole["valid"].sum() > 20
    for name in ("boxes", "scores", "labels", "valid"):
        np.testing.assert_allclose(by_parts[name], whole[name], rtol=1e-4, atol=1e-3, err_msg=name)


def test_inputs_of_decoding_are_none_all_and_the_worst(case):
    # Levels of 8×16, 4×8, 2×4, 1×2 and 1×1 locations, 9 anchors each, and at most 50 pairs of a level.
    assert case.facts["candidates"] == {"none": 0, "all": 5 * 50, "objects": 3 * 50 + 2 * 9 + 9}
    assert case.facts["detections"]["none"] == 0
    assert case.facts["detections"]["all"] > 20
    assert case.facts["detections"]["objects"] == detection_parts.OBJECTS


def test_command_prints_and_writes_times(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(detection_parts, "create_model", functools.partial(create_model, **TOY))
    path = tmp_path / "results.json"
    flags = ["--models", "pvt_tiny", "--image_sizes", "64x96", "--dtype", "bfloat16", "--rounds", "2", "--steps", "2"]
    assert detection_parts.main([*flags, "--json", str(path)]) == 0

    header, _, row, *_ = capsys.readouterr().out.splitlines()
    assert row.startswith("| pvt_tiny | 64×96 | ") and row.count("|") == header.count("|")
    (result,) = json.loads(path.read_text())["cases"]
    assert {part: len(times) for part, times in result["seconds"].items()} == dict.fromkeys(detection_parts.PARTS, 4)
    medians = {part: np.median(times) for part, times in result["seconds"].items()}
    summed = sum(medians[part] for part in ("backbone", "FPN", "heads", "decoding, all"))
    assert result["medians"]["sum"] == pytest.approx(summed)
    assert result["images_per_second"] == pytest.approx(1 / medians["whole"])


def test_mistakes_are_one_line(capsys):
    assert detection_parts.main(["--models", "pvt_tiniest"]) == 2
    assert "did you mean 'pvt_tiny'?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        detection_parts.main(["--image_sizes", "800by"])
    assert "'800by' is not an image size: give it as 224 or 800x1344" in capsys.readouterr().err
