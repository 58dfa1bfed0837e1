"""The device mesh, and how batches and parameters lie on it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pvt_jax.errors import UserError

_BATCH = PartitionSpec(("data", "fsdp"))

# Sharding a leaf smaller than this costs more in messages than it saves in memory.
SMALLEST_SHARDED_LEAF = 2**14


def make_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices as a mesh of axes ``data`` and ``fsdp``; parameters are sharded over ``fsdp``, batches over both.

    Devices stand in the order of their hosts, so that every host holds one contiguous block of each batch
    (``jax.make_mesh`` may interleave them on TPU). Axes are Auto: under Explicit ones the weight gradient of a
    batch-sharded convolution fails. ``devices`` are others than those that are here, to compile for.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    if len(devices) % fsdp:
        raise UserError(
            f"mesh.fsdp={fsdp} does not divide the number of devices, {len(devices)}: choose a divisor of it"
        )
    grid = np.array(devices).reshape(len(devices) // fsdp, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_batch(batch_size: int, mesh: Mesh, accumulation_steps: int) -> None:
    """Raise UserError unless every device gets equally many images of every part of a batch."""
    parts = mesh.size * accumulation_steps
    if batch_size % parts:
        lower, upper = batch_size // parts * parts, -(-batch_size // parts) * parts
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise UserError(
            f"batch_size={batch_size} cannot be shared equally (devices: {mesh.size}, accumulation_steps: "
            f"{accumulation_steps}): choose {nearest}, or another accumulation_steps"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, _BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def copied(tree: Any, mesh: Mesh) -> Any:
    """A copy of ``tree`` on every device. All hosts must pass the same values."""
    # ``jax.device_put`` takes no keys for the devices of several hosts.
    return jax.jit(lambda leaves: leaves, out_shardings=replicated(mesh))(tree)


def state_sharding(abstract_state: Any, mesh: Mesh) -> Any:
    """Per leaf: large arrays split over ``fsdp`` along their largest axis that divides evenly, others replicated."""
    fsdp = mesh.shape["fsdp"]

    def of_leaf(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, side in enumerate(leaf.shape) if side % fsdp == 0]
        if fsdp == 1 or not axes or leaf.size < SMALLEST_SHARDED_LEAF:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if axis == largest else None for axis in range(leaf.ndim))))

    return jax.tree.map(of_leaf, abstract_state)


def placed(abstract: Any, shardings: Any) -> Any:
    """``abstract``, a tree of shapes and types, with a sharding, or that of each leaf, in its leaves."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, abstract)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, shardings
    )


def of(abstract: Any) -> Any:
    """The sharding of each leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def host_block() -> tuple[int, int]:
    """(number, count): which contiguous block of a global batch this host feeds, and how many blocks there are."""
    return jax.process_index(), jax.process_count()


def to_devices(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This host's block of a global batch → global arrays, split over the devices."""
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """This host's block of an array that is split over the devices by its leading axis."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
