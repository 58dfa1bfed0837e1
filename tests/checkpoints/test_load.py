"""``load_variables``: from a workdir, a checkpoints folder or one step, checked against the model."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pvt_jax
from pvt_jax.checkpoints.store import CheckpointStore
from pvt_jax.errors import UserError

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 40, 32), "num_classes": 10, "image_size": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, model, params of step 1, params of step 2)."""
    model = pvt_jax.create_model("pvt_tiny", **SIZES)
    params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
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
    other = pvt_jax.create_model("pvt_tiny", **{**SIZES, "num_classes": 7})
    with pytest.raises(UserError, match=r"params/head/linear/bias is \(10,\), here \(7,\)"):
        pvt_jax.load_variables(workdir, other)
    deeper = pvt_jax.create_model("pvt_tiny", **{**SIZES, "depths": (2, 1, 1, 1)})
    with pytest.raises(UserError, match="stage1/block1/.* is missing"):
        pvt_jax.load_variables(workdir, deeper)


def test_a_folder_without_checkpoints(run, tmp_path):
    with pytest.raises(UserError, match="no Orbax checkpoint in"):
        pvt_jax.load_variables(tmp_path, run[1])
    with pytest.raises(UserError, match="no Orbax checkpoint in"):
        pvt_jax.load_variables(tmp_path / "nowhere", run[1])


def test_saved_on_eight_devices_loaded_on_one(run, tmp_path):
    script = f"""
import jax, pathlib
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import pvt_jax
from pvt_jax.checkpoints.store import CheckpointStore
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
