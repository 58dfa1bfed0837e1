"""Where a traced program is going to run, and what follows for how it is computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from pvt_jax.devices import has_bfloat16_units

# Beyond it a kernel computes more again than it saves of moving: with d channels a feed-forward network of h hidden
# ones moves some 24 h bytes a token less, and computes 6 d h FLOPs more.
_WIDEST = 128


@dataclass(frozen=True)
class Target:
    """The devices of a program, and whether it uses ``ops.kernels`` where they run.

    With ``interpret`` jax's interpreter runs kernels, in any type and on any device.
    """

    mesh: Mesh
    kernels: bool = True
    interpret: bool = False


_TARGET: ContextVar[Target | None] = ContextVar("target", default=None)


@contextmanager
def compiled_for(mesh: Mesh | None, *, kernels: bool = True, interpret: bool = False) -> Iterator[None]:
    """What is traced inside runs on the devices of ``mesh``, which share the leading axis of images and maps.

    Without one, as in a program that is exported for several platforms, every layer takes the form that runs anywhere.
    """
    token = _TARGET.set(None if mesh is None else Target(mesh, kernels, interpret))
    try:
        yield
    finally:
        _TARGET.reset(token)


def for_devices(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """``function``, traced for the devices of ``mesh`` and without ``ops.kernels``: evaluation and prediction.

    Each device keeps the images that it was given, and one CPU, or TPUs, take their own forms of layers.
    """

    def traced(*arguments: Any) -> Any:
        with compiled_for(mesh, kernels=False):
            return function(*arguments)

    # Profiles and logs show the name; a ``partial`` has none of its own.
    traced.__name__ = getattr(function, "func", function).__name__
    return traced


def current() -> Target | None:
    """What ``compiled_for`` has set."""
    return _TARGET.get()


def interprets() -> bool:
    """Whether jax's interpreter runs kernels."""
    target = current()
    return target is not None and target.interpret


def has_kernels(dtype: DTypeLike, *widths: int) -> bool:
    """Whether layers that compute in ``dtype``, with channels of these ``widths``, use ``ops.kernels``.

    They do in bfloat16, on NVIDIA GPUs that have it (Ampere and later).
    """
    target = current()
    # Blocks of a kernel have 32 or 64 channels.
    if target is None or not target.kernels or any(width % 32 or width > _WIDEST for width in widths):
        return False
    is_bfloat16 = jnp.dtype(dtype) == jnp.bfloat16
    return target.interpret or (is_bfloat16 and has_bfloat16_units(target.mesh.devices.flat[0]) is True)


def is_one_cpu() -> bool:
    """Whether the program is for one CPU device, where loops cost little and caches are large."""
    target = current()
    return target is not None and target.mesh.size == 1 and target.mesh.devices.flat[0].platform == "cpu"


def is_tpu() -> bool:
    """Whether the program is for TPUs."""
    target = current()
    return target is not None and target.mesh.devices.flat[0].platform == "tpu"


def on_each_device(function: Callable[..., Any], batched: Sequence[bool], summed: Sequence[bool]) -> Callable[..., Any]:
    """``function`` of the images that each device holds: what a compiler cannot divide is divided here.

    Args:
      function: of arrays, to a tuple of arrays.
      batched: of each argument, whether its leading axis is the batch; otherwise all devices get all of it.
      summed: of each result, whether it is a sum over the batch; otherwise its leading axis is the batch.
    """
    target = current()
    if target is None or target.mesh.size == 1:
        return function
    mesh, axes = target.mesh, target.mesh.axis_names
    split, whole = PartitionSpec(axes), PartitionSpec()

    def of_a_device(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        results = function(*arguments)
        return tuple(jax.lax.psum(one, axes) if add else one for one, add in zip(results, summed, strict=True))

    return jax.shard_map(
        of_a_device,
        mesh=mesh,
        in_specs=tuple(split if one else whole for one in batched),
        out_specs=tuple(whole if one else split for one in summed),
        check_vma=False,
    )


def of_each_device(x: jax.Array) -> jax.Array:
    """``x``, of which each device holds the images that it was given: its leading axis is the batch."""
    target = current()
    if target is None or target.mesh.size == 1:
        return x
    split = NamedSharding(target.mesh, PartitionSpec(target.mesh.axis_names))
    return jax.lax.with_sharding_constraint(x, split)
