"""Saving, keeping and restoring checkpoints, whole and damaged."""

import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.training.store import CheckpointStore


def items(value: float) -> dict:
    """What a run saves, small; one item is empty and one tree has an empty branch, as Optax's states do."""
    return {
        "params": {"a": {"kernel": jnp.full((3, 4), value)}, "b": {"bias": jnp.arange(5.0) + value}},
        "batch_stats": {},
        "opt_state": {"0": {}, "1": {"count": jnp.asarray(int(value), jnp.int32)}},
    }


def abstract(value: float = 0) -> dict:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), items(value))


def opened(tmp_path, **options):
    return CheckpointStore(tmp_path / "checkpoints", **{"keep": 3, **options})


def filled(tmp_path, steps=(1, 2)):
    store = opened(tmp_path)
    for step in steps:
        store.save(step, items(step))
    store.close()


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_saved_step_comes_back_bit_for_bit(tmp_path):
    filled(tmp_path, [7])
    store = opened(tmp_path)
    step, restored = store.restore(abstract())
    assert step == 7
    assert_same(restored, items(7))
    store.close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    store = opened(tmp_path)
    assert store.restore(abstract()) is None and store.steps() == [] and store.best("top1") is None
    store.close()


def test_the_last_and_the_best_are_kept(tmp_path):
    store = opened(tmp_path, keep=2, keep_best=1, best_metric="top1")
    for step, top1 in ((1, None), (2, 50.0), (3, None), (4, 40.0), (5, None), (6, None)):
        store.save(step, items(step), None if top1 is None else {"top1": top1, "loss": 1.0})
    store.wait()
    assert store.steps() == [2, 5, 6] and store.best("top1") == 2
    store.save(7, items(7), {"top1": 60.0})
    store.save(8, items(8))
    store.save(9, items(9))
    store.close()
    store = opened(tmp_path, keep=2, keep_best=1, best_metric="top1")
    assert store.steps() == [7, 8, 9] and store.best("top1") == 7, "read back from disk"
    store.close()


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    store = opened(tmp_path)
    state = items(3)
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 100, tree), donate_argnums=0)
    store.save(3, state)
    add(state)
    store.wait()
    assert_same(store.restore(abstract())[1], items(3))
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: shutil.rmtree(step / "params"),
        lambda step: shutil.rmtree(step / "opt_state"),
        lambda step: (step / "params" / "_METADATA").unlink(),
        lambda step: shutil.rmtree(step / "params" / "d"),
        lambda step: (step / "params" / "manifest.ocdbt").write_bytes(b"short"),
        lambda step: [path.write_bytes(path.read_bytes()[:10]) for path in (step / "params" / "d").iterdir()],
        lambda step: [shutil.rmtree(step), step.mkdir()],
    ],
)
def test_a_damaged_checkpoint_is_put_aside_with_a_warning(tmp_path, damage, caplog):
    filled(tmp_path)
    damage(tmp_path / "checkpoints" / "2")
    store = opened(tmp_path)
    with caplog.at_level(logging.WARNING, "pvt_jax"):
        step, restored = store.restore(abstract())
    assert step == 1
    assert_same(restored, items(1))
    warning = next(record.getMessage() for record in caplog.records if record.name == "pvt_jax")
    assert str(tmp_path / "checkpoints" / "2") in warning and "ignored" in warning and "\n" not in warning
    assert (tmp_path / "checkpoints_damaged" / "2").is_dir(), "nothing is deleted"
    store.save(2, items(2))
    store.wait()
    assert store.restore(abstract())[0] == 2, "its step can be saved again"
    store.close()


def test_a_write_that_was_cut_off_leaves_the_one_before(tmp_path):
    filled(tmp_path)
    shutil.copytree(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp")
    store = opened(tmp_path)
    assert store.restore(abstract())[0] == 2
    store.close()


def test_only_damaged_checkpoints_are_an_error_that_keeps_them(tmp_path):
    filled(tmp_path, [4])
    shutil.rmtree(tmp_path / "checkpoints" / "4" / "params")
    store = opened(tmp_path)
    with pytest.raises(UserError, match=r"none of the checkpoints \[4\] in .* can be read.*move them away"):
        store.restore(abstract())
    assert store.steps() == [4] and not (tmp_path / "checkpoints_damaged").exists()
    store.close()


def test_an_item_that_was_never_saved_moves_nothing(tmp_path):
    filled(tmp_path)
    store = opened(tmp_path)
    with pytest.raises(UserError, match="its item ema_params is not whole"):
        store.restore({**abstract(), "ema_params": abstract()["params"]})
    assert store.steps() == [1, 2]
    store.close()


def test_read_only_leaves_damaged_and_unfinished_checkpoints_in_place(tmp_path):
    filled(tmp_path)
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "2", unfinished)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "params")
    store = opened(tmp_path, read_only=True)
    assert store.restore(abstract())[0] == 1
    store.close()
    assert unfinished.is_dir() and (tmp_path / "checkpoints" / "2").is_dir()


def test_other_shapes_are_named_and_nothing_is_moved(tmp_path):
    filled(tmp_path)
    wanted = abstract()
    wanted["params"]["a"]["kernel"] = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    wanted["params"]["c"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    del wanted["params"]["b"]
    store = opened(tmp_path)
    with pytest.raises(UserError) as caught:
        store.restore(wanted)
    message = str(caught.value)
    assert "params/a/kernel is (3, 4), here (3, 5)" in message
    assert "params/b/bias is unexpected" in message and "params/c is missing" in message
    assert store.steps() == [1, 2]
    store.close()


def test_saved_on_eight_devices_restored_on_one(tmp_path):
    script = f"""
import jax, jax.numpy as jnp, pathlib
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.training.store import CheckpointStore
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
kernel = jax.device_put(jnp.arange(64.0).reshape(16, 4), NamedSharding(mesh, PartitionSpec("fsdp")))
store = CheckpointStore(pathlib.Path({str(tmp_path)!r}) / "checkpoints")
store.save(5, {{"params": {{"kernel": kernel}}}})
store.close()
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    store = opened(tmp_path)
    step, restored = store.restore({"params": {"kernel": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=place)}})
    store.close()
    assert step == 5 and restored["params"]["kernel"].sharding == place
    np.testing.assert_array_equal(restored["params"]["kernel"], np.arange(64.0).reshape(16, 4))
