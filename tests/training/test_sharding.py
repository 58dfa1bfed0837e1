"""Where arrays lie on a mesh: rules on abstract meshes of many devices, messages, and one real device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pvt_jax.errors import UserError
from pvt_jax.training import sharding


def mesh(data: int, fsdp: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    tree = {"leaf": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return sharding.state_sharding(tree, mesh(2, fsdp))["leaf"].spec


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512, 2048), PartitionSpec(None, "fsdp")),
        ((2048, 512), PartitionSpec("fsdp", None)),
        # Of equal sides the first.
        ((128, 128), PartitionSpec("fsdp", None)),
        # The largest axis that divides evenly, not the largest.
        ((8, 8, 64, 1001), PartitionSpec(None, None, "fsdp", None)),
        ((1, 3137, 64), PartitionSpec(None, None, "fsdp")),
        # 2^14 numbers are large, fewer are not.
        ((2**14,), PartitionSpec("fsdp")),
        ((2**14 - 4,), PartitionSpec()),
        ((127, 127), PartitionSpec()),
        ((1001, 33), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_large_leaves_are_sharded_along_their_largest_even_axis(shape, expected):
    assert spec(shape, fsdp=4) == expected


@pytest.mark.parametrize("shape", [(512, 2048), (2**14,), ()])
def test_one_shard_means_a_copy_everywhere(shape):
    assert spec(shape, fsdp=1) == PartitionSpec()


def test_shardings_have_the_structure_of_the_state():
    state = {"a": {"b": jax.ShapeDtypeStruct((256, 256), jnp.float32)}, "c": [jax.ShapeDtypeStruct((), jnp.int32)]}
    found = sharding.state_sharding(state, mesh(1, 2))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found["a"]["b"].spec == PartitionSpec("fsdp", None) and found["c"][0].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("batch_size", "data", "fsdp", "parts"), [(8, 1, 1, 1), (8, 2, 2, 2), (1024, 4, 2, 4), (96, 1, 3, 32)]
)
def test_a_batch_that_every_device_shares_equally_passes(batch_size, data, fsdp, parts):
    sharding.check_batch(batch_size, mesh(data, fsdp), parts)


@pytest.mark.parametrize(
    ("batch_size", "parts", "expected"),
    [
        (100, 1, "choose 96 or 104, or another"),
        (100, 4, "choose 96 or 128, or another"),
        (5, 1, "choose 8, or another"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_answered_with_the_nearest(batch_size, parts, expected):
    with pytest.raises(UserError) as error:
        sharding.check_batch(batch_size, mesh(4, 2), parts)
    shares = f"batch_size={batch_size} cannot be shared equally (devices: 8, accumulation_steps: {parts}): "
    assert str(error.value).startswith(shares + expected)


def test_the_mesh_has_all_devices_in_both_axes():
    found = sharding.make_mesh(1)
    assert found.axis_names == ("data", "fsdp") and found.shape["fsdp"] == 1
    assert found.size == jax.device_count()
    assert set(found.axis_types) == {AxisType.Auto}


def test_a_mesh_that_does_not_divide_is_refused():
    wrong = jax.device_count() + 1
    with pytest.raises(UserError, match=f"fsdp={wrong} does not divide the number of devices, {jax.device_count()}"):
        sharding.make_mesh(wrong)


def test_batches_are_split_over_both_axes():
    assert sharding.batch_sharding(sharding.make_mesh(1)).spec == PartitionSpec(("data", "fsdp"))


def test_batches_reach_the_devices_unchanged():
    devices = sharding.make_mesh(1)
    batch = {"image": np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), "label": np.arange(4, dtype=np.int32)}
    found = sharding.to_devices(batch, sharding.batch_sharding(devices))
    for name, value in batch.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
        assert found[name].sharding.spec == PartitionSpec(("data", "fsdp"))


def test_a_lone_host_feeds_the_whole_batch():
    assert sharding.host_block() == (0, 1)
