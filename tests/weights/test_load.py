"""``load_variables``: from a run, a file, a folder of Hugging Face or a known name, checked against the model."""

import json
import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pvt_jax
from pvt_jax.errors import UserError
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import load
from pvt_jax.weights.files import write_safetensors
from pvt_jax.weights.names import flatten, to_state_dict
from tests.helpers import reference, state_dicts, torch_files
from tests.helpers.dense import random_variables

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 40, 32), "num_classes": 10, "image_size": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, model, params of step 1, params of step 2)."""
    model = pvt_jax.create_model("pvt_tiny", **SIZES)
    params = random_variables(model, np.zeros((1, 32, 32, 3), np.float32))["params"]
    workdir = tmp_path_factory.mktemp("run")
    store = CheckpointStore(workdir / "checkpoints")
    later = jax.tree.map(lambda x: x + 1, params)
    store.save(1, {"params": params, "ema_params": jax.tree.map(lambda x: x * 2, params)})
    store.save(2, {"params": later})
    store.close()
    return workdir, model, params, later


def test_workdir_checkpoints_and_step_folders(run):
    workdir, model, params, later = run
    for path, expected in (
        (workdir, later),
        (workdir / "checkpoints", later),
        (str(workdir / "checkpoints" / "1"), params),
    ):
        variables = pvt_jax.load_variables(path, model)
        assert set(variables) == {"params"}
        jax.tree.map(np.testing.assert_array_equal, variables["params"], expected)
        assert jax.tree.structure(variables["params"]) == jax.tree.structure(expected)


def test_moving_average(run):
    workdir, model, params, _ = run
    variables = pvt_jax.load_variables(workdir / "checkpoints" / "1", model, ema=True)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), variables["params"], params)
    with pytest.raises(UserError, match="has no ema_params"):
        pvt_jax.load_variables(workdir, model, ema=True)


def test_another_model_is_refused_by_name_of_the_parameters(run):
    workdir = run[0]
    deeper = pvt_jax.create_model("pvt_tiny", **{**SIZES, "depths": (2, 1, 1, 1)})
    with pytest.raises(
        UserError, match="18 missing: params/stage1/block1/.* looks like a pvt of depths .1, 1, 1, 1. and"
    ):
        pvt_jax.load_variables(workdir, deeper)
    wider = pvt_jax.create_model("pvt_tiny", **{**SIZES, "dims": (8, 16, 40, 64)})
    with pytest.raises(UserError, match=r"of another shape: .* looks like a pvt of .* and dims \(8, 16, 40, 32\)"):
        pvt_jax.load_variables(workdir, wider)


def test_a_folder_without_checkpoints(run, tmp_path):
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}: give a workdir"):
        pvt_jax.load_variables(tmp_path, run[1])
    with pytest.raises(UserError, match=f"there is no {tmp_path / 'nowhere'}: give a workdir, an Orbax folder, a .pth"):
        pvt_jax.load_variables(tmp_path / "nowhere", run[1])
    with pytest.raises(UserError, match="there is no pvt_smal: .* or a known name, such as pvt_small"):
        pvt_jax.load_variables("pvt_smal", run[1])


def test_a_damaged_checkpoint(run, tmp_path):
    step = shutil.copytree(run[0] / "checkpoints" / "2", tmp_path / "2")
    shutil.rmtree(step / "params" / "d")
    with pytest.raises(
        UserError, match=f"{step} is damaged or half written: .*. Use another step of the run"
    ) as caught:
        pvt_jax.load_variables(tmp_path, run[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["00000002", "2", "0002"])
def test_steps_may_be_written_with_zeros_before_them(run, tmp_path, name):
    shutil.copytree(run[0] / "checkpoints" / "1", tmp_path / "checkpoints" / "00000001")
    shutil.copytree(run[0] / "checkpoints" / "2", tmp_path / "checkpoints" / name)
    source = load.read_checkpoint(tmp_path)
    assert source.described == str(tmp_path / "checkpoints" / name)
    np.testing.assert_array_equal(source.tensors["params/norm/bias"], run[3]["norm"]["bias"])


def test_what_is_no_step_or_half_of_one_is_passed_over(run, tmp_path, caplog):
    checkpoints = shutil.copytree(run[0] / "checkpoints", tmp_path / "run" / "checkpoints")
    (checkpoints / "7").write_text("a file")
    (checkpoints / "²").mkdir()
    assert load.read_checkpoint(tmp_path / "run").described == str(checkpoints / "2") and not caplog.records
    (checkpoints / "9").mkdir()
    assert load.read_checkpoint(tmp_path / "run").described == str(checkpoints / "2")
    assert f"checkpoint {checkpoints / '9'} is half written and is ignored" in caplog.text
    (tmp_path / "half" / "checkpoints" / "9").mkdir(parents=True)
    with pytest.raises(UserError, match="checkpoints/9 has neither params nor ema_params: it is half written"):
        load.read_checkpoint(tmp_path / "half")


def test_the_home_of_nobody(run):
    with pytest.raises(UserError, match="no home folder is known for ~nobody-of-this-name/x.pth: write the whole path"):
        pvt_jax.load_variables("~nobody-of-this-name/x.pth", run[1])


@pytest.mark.parametrize("wrong", [0, -64, 2**20, True, (64,), (64, 0), "64", None])
def test_a_model_with_an_impossible_image_size(run, wrong):
    model = SimpleNamespace(image_size=wrong)
    with pytest.raises(
        UserError, match="the image_size of a model is a side or .height, width.*1 to 16384 pixels, not"
    ):
        load.match_to_model(load.read_checkpoint(run[0]), model)


# Fine-tuning from a run: the same fitting as for files.


def test_a_run_of_other_classes(run, caplog):
    workdir, _, _, later = run
    other = pvt_jax.create_model("pvt_tiny", **{**SIZES, "num_classes": 7})
    variables, report = load.read_variables(workdir, other)
    assert report.replaced[0] == ("params/head/linear/kernel", (32, 10), (32, 7))
    assert report.dialect == "pvt_jax names" and report.source == str(workdir / "checkpoints" / "2")
    assert variables["params"]["head"]["linear"]["kernel"].shape == (32, 7)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["stage4"], later["stage4"])
    with caplog.at_level(logging.INFO, "pvt_jax"):
        pvt_jax.load_variables(workdir, other)
        pvt_jax.load_variables(workdir, run[1])
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "pvt_jax"] == [
        ("WARNING", report.summary()),
        ("INFO", f"{workdir / 'checkpoints' / '2'} (pvt_jax names): {len(jax.tree.leaves(later))} parameters loaded"),
    ]


def test_what_is_new_is_drawn_with_the_key(run):
    other = pvt_jax.create_model("pvt_tiny", **{**SIZES, "num_classes": 7})
    key, images = jax.random.key(3), jnp.zeros((1, 32, 32, 3))
    # Compiled, nothing else is drawn.
    expected = jax.jit(lambda: other.init(key, images)["params"]["head"]["linear"]["kernel"])()
    found = load.read_variables(run[0], other, key=key)[0]["params"]["head"]["linear"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert 0.01 < float(expected.std()) < 0.03
    default = load.read_variables(run[0], other)[0]["params"]["head"]["linear"]["kernel"]
    assert np.abs(default - expected).max() > 0.01


def test_a_run_of_another_image_size(run, tmp_path):
    """The tables of the run are 8×8 positions; its config may say that these are 4×16 of wide images."""
    workdir = shutil.copytree(run[0], tmp_path / "run")
    larger = pvt_jax.create_model("pvt_tiny", **{**SIZES, "image_size": 64})
    _, report = load.read_variables(workdir, larger)
    assert report.resized[0] == ("params/stage1/pos_embed", (8, 8), (16, 16)) and len(report.resized) == 4
    (workdir / "config.json").write_text(json.dumps({"model": {"image_size": [16, 64]}}))
    _, report = load.read_variables(workdir, larger)
    assert report.resized[0] == ("params/stage1/pos_embed", (4, 16), (16, 16))


# Files.


@pytest.fixture(scope="module")
def toy():
    """(model, reference state dict)."""
    return state_dicts.toy("vit"), state_dicts.weights(state_dicts.shapes("vit"))


def as_torch(tensors):
    return {name: torch_files.tensor(array) for name, array in tensors.items()}


def assert_holds(path, toy, **options):
    model, tensors = toy
    variables, report = load.read_variables(path, model, **options)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    found = to_state_dict(variables)
    assert found.keys() == tensors.keys()
    for name in tensors:
        np.testing.assert_array_equal(found[name], tensors[name], err_msg=name)
    return report


def test_files_of_every_kind(toy, tmp_path):
    tensors = toy[1]
    files = {
        "zip.pth": torch_files.zip_bytes(as_torch(tensors)),
        "legacy.pth": torch_files.legacy_bytes(as_torch(tensors)),
        "run.pth": torch_files.zip_bytes({"model": as_torch(tensors), "epoch": 3}),
    }
    write_safetensors(tmp_path / "w.safetensors", tensors, {"format": "pt"})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in (*files, "w.safetensors"):
        report = assert_holds(tmp_path / name, toy)
        assert report.plain and report.source == str(tmp_path / name)
    with pytest.raises(UserError, match="zip.pth has no moving average: only checkpoints of runs do, so leave ema out"):
        pvt_jax.load_variables(tmp_path / "zip.pth", toy[0], ema=True)


def test_a_folder_of_hugging_face(toy, tmp_path):
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["ViTForImageClassification 4"]
    write_safetensors(tmp_path / "model.safetensors", state_dicts.weights(case), {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 64, "model_type": "vit"}))
    report = load.read_variables(tmp_path, toy[0])[1]
    assert report.dialect == "transformers names" and report.plain


def test_the_image_size_in_a_file(toy, tmp_path):
    """16 positions are 4×4, unless the file says that its images are wide."""
    path = tmp_path / "w.safetensors"
    model = state_dicts.toy("vit", image_size=(32, 128))
    for stated, grid in (
        ("[32, 128]", None),
        ("[64, 64]", (4, 4)),
        ("[7, 7]", (4, 4)),
        ("what?", (4, 4)),
        ("64", (4, 4)),
        ("true", (4, 4)),
        ("[-64, -64]", (4, 4)),
        ("[200000, 200000]", (4, 4)),
        ("[" * 100_000, (4, 4)),
        ("1" * 5000, (4, 4)),
    ):
        write_safetensors(path, toy[1], {"image_size": stated})
        report = load.read_variables(path, model)[1]
        assert report.resized == (() if grid is None else (("params/pos_embed", grid, (2, 8)),)), stated


def test_a_known_name(toy, tmp_path, monkeypatch):
    write_safetensors(tmp_path / "cached.safetensors", toy[1], {})
    known = {"some/name": SimpleNamespace(model="vit_tiny_patch16", head="")}
    known["dense"] = SimpleNamespace(model="mit_b0", head="segformer")
    monkeypatch.setattr(load, "KNOWN", known)
    monkeypatch.setattr(
        load, "fetch_known", lambda name: tmp_path / {"some/name": "cached.safetensors"}.get(name, "dense")
    )
    assert_holds("some/name", toy)
    assert load.read_checkpoint("some/name").model == {"name": "vit_tiny_patch16"}
    write_safetensors(tmp_path / "dense", toy[1], {})
    assert load.read_checkpoint("dense").model == {"name": "mit_b0", "head": "segformer"}


def test_a_file_that_shares_its_name_with_known_weights_comes_first(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_safetensors(tmp_path / "pvt_tiny", toy[1], {})
    assert_holds("pvt_tiny", toy)


def test_allowed_exceptions_of_a_file(toy, tmp_path):
    model, tensors = toy
    path = tmp_path / "w.pth"
    kept = {name: array for name, array in tensors.items() if not name.startswith("head")}
    path.write_bytes(torch_files.zip_bytes(as_torch({**kept, "extra": np.zeros(2, np.float32)})))
    with pytest.raises(UserError, match="2 missing: params/head/linear/bias, .*; 1 unexpected: extra"):
        pvt_jax.load_variables(path, model)
    options = {"allow_missing": ["head/*"], "allow_unexpected": ["extra"]}
    variables = pvt_jax.load_variables(path, model, **options)
    assert flatten(variables).keys() == flatten(state_dicts.expected(model)).keys()
    np.testing.assert_array_equal(variables["params"]["head"]["linear"]["bias"], np.zeros(5))


def test_batch_statistics(tmp_path):
    model, tensors = state_dicts.toy("resnet basic"), state_dicts.weights(state_dicts.shapes("resnet basic"))
    (tmp_path / "w.pth").write_bytes(torch_files.zip_bytes(as_torch(tensors)))
    variables = pvt_jax.load_variables(tmp_path / "w.pth", model)
    assert (
        set(variables) == {"params", "batch_stats"}
        and variables["batch_stats"]["stem"]["norm"]["count"].dtype == jnp.int32
    )
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(4, variables)
    store.close()
    assert_holds(tmp_path, (model, tensors))
    shutil.rmtree(tmp_path / "checkpoints" / "4" / "batch_stats")
    with pytest.raises(UserError, match="missing: batch_stats/stage1/block0/norm1/mean"):
        pvt_jax.load_variables(tmp_path, model)


def test_saved_on_eight_devices_loaded_on_one(run, tmp_path):
    script = f"""
import jax, pathlib
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import pvt_jax
from pvt_jax.training.store import CheckpointStore
from pvt_jax.training.sharding import make_mesh
model = pvt_jax.create_model("pvt_tiny", **{SIZES!r})
params = pvt_jax.load_variables({str(run[0])!r}, model)["params"]
place = NamedSharding(make_mesh(8), PartitionSpec("fsdp"))
place_whole = NamedSharding(make_mesh(8), PartitionSpec())
spread = lambda x: jax.device_put(x, place if x.shape[0] % 8 == 0 else place_whole)
store = CheckpointStore(pathlib.Path({str(tmp_path)!r}) / "checkpoints")
store.save(5, {{"params": jax.tree.map(spread, params)}})
store.close()
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    variables = pvt_jax.load_variables(tmp_path, run[1])
    jax.tree.map(np.testing.assert_array_equal, variables["params"], run[3])
