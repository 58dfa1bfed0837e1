"""Devices that are not here: the kinds and numbers that can be asked for, and the plug-ins that compile for them.

Nothing here imports jax before the environment is what its plug-ins need.
"""

import importlib.util
import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean
from pvt_jax.planning.gpu_targets import GPUS, target_config

_GPUS_PER_HOST = 8


@dataclass(frozen=True)
class TpuKind:
    """Slices of a TPU generation.

    Attributes:
      shapes: by number of chips, the usual ones: any other with as many axes is asked of the compiler.
      most: chips of a pod.
      options: for the compiler, besides the shape.
    """

    shapes: Mapping[int, str]
    most: int
    options: Mapping[str, Any]


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
TPUS = {
    # Both cores of a chip as one device, as jax has them.
    "v4": TpuKind(_CUBES, 4096, {"chip_config_name": "megacore"}),
    "v5e": TpuKind(_FLAT, 256, {}),
    "v5p": TpuKind(_CUBES, 8960, {}),
    "v6e": TpuKind(_FLAT, 256, {}),
}
_PLUGINS = {"tpu": ("libtpu",), "gpu": ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")}
# Variables without which a plug-in looks for a device, or for other workers of a pod. A value that is there stays.
_ENVIRONMENT = {
    "tpu": {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # No TPU is used, so that others may compile or train meanwhile.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    },
    # jax itself is told to use no GPU.
    "gpu": {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
}


@dataclass(frozen=True)
class Topology:
    """Devices that were asked for.

    Attributes:
      kind: a key of ``TPUS`` or ``GPUS``.
      sides: of a TPU slice; the number of GPUs.
    """

    kind: str
    sides: tuple[int, ...]

    @property
    def platform(self) -> str:
        """Which plug-in compiles for it: "tpu" or "gpu"."""
        return "tpu" if self.kind in TPUS else "gpu"

    @property
    def count(self) -> int:
        """Devices of jax."""
        return math.prod(self.sides)

    @property
    def per_host(self) -> int:
        """Devices behind one network adapter and its links; a slice of TPUs has links alone."""
        return self.count if self.platform == "tpu" else min(self.count, _GPUS_PER_HOST)

    def hosts(self, devices: Sequence[Any]) -> int:
        """Machines that the devices are in, each of which reads its own images."""
        if self.platform == "gpu":
            return self.count // self.per_host
        return len({device.process_index for device in devices})

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.sides))}"

    def devices(self) -> list[Any]:
        """jax's descriptions of the devices, to compile for. Raises UserError: there is no such slice."""
        import jax
        from jax.experimental import topologies

        if self.platform == "gpu":
            hosts = self.count // self.per_host
            shape = f"{hosts}x1x{self.per_host}"
            config = target_config(GPUS[self.kind])
            return topologies.get_topology_desc(self.kind, "cuda", target_config=config, topology=shape).devices
        bounds = [min(side, 2) for side in self.sides[:2]] + [1]
        options = {"chips_per_host_bounds": bounds, **TPUS[self.kind].options}
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=str(self), **options).devices
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):
                raise
            raise _no_slice(self.kind, "x".join(map(str, self.sides))) from error


def parse(text: str) -> Topology:
    """Reads ``KIND:SIZE``, as v5e:16x16, v5e:256 or h200:64. Raises UserError: there is no such thing."""
    kind, _, size = text.strip().lower().partition(":")
    known = (*TPUS, *GPUS)
    if kind not in known:
        raise UserError(f"--topology has no {kind!r}{did_you_mean(kind, known)}: {_usage()}")
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,3}){0,2}", size):
        raise UserError(f"--topology={text} has no size: {_usage()}")
    sides = tuple(map(int, size.split("x")))
    if kind in GPUS:
        return _gpus(kind, sides)
    slices = TPUS[kind]
    if len(sides) == 1:
        if sides[0] not in slices.shapes:
            raise _no_slice(kind, size)
        sides = tuple(map(int, slices.shapes[sides[0]].split("x")))
    if len(sides) != len(slices.shapes[4].split("x")) or math.prod(sides) > slices.most:
        raise _no_slice(kind, size)
    return Topology(kind, sides)


def _gpus(kind: str, sides: tuple[int, ...]) -> Topology:
    count = math.prod(sides)
    if len(sides) > 1 or (count % _GPUS_PER_HOST if count > _GPUS_PER_HOST else count not in (1, 2, 4, 8)):
        raise UserError(
            f"--topology={kind}:{'x'.join(map(str, sides))}: GPUs come as 1, 2, 4 or 8, or as whole hosts of "
            f"{_GPUS_PER_HOST}, such as {kind}:64"
        )
    return Topology(kind, sides)


def _usage() -> str:
    return (
        f"give a TPU slice ({', '.join(TPUS)}), such as v5e:16x16 or v4:4x4x4, or a number of GPUs "
        f"({', '.join(GPUS)}), such as h200:64"
    )


def _no_slice(kind: str, size: str) -> UserError:
    shapes = ", ".join(TPUS[kind].shapes.values())
    most = TPUS[kind].most
    beyond = f", …, up to {most:,} chips" if max(TPUS[kind].shapes) < most else ""
    return UserError(f"--topology={kind}:{size} is no slice: {kind} has {shapes}{beyond}")


def check_plugin(platform: str) -> None:
    """Raise UserError unless the compiler for a platform is installed, in the version of jax."""
    version = metadata.version("jax")
    found = [name for name in _PLUGINS[platform] if _is_installed(name)]
    if platform == "tpu" and not found:
        raise UserError(f"compiling for a TPU takes its plug-in, which needs no TPU: pip install 'jax[tpu]=={version}'")
    if platform == "tpu":
        return
    install = f"pip install --no-deps jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}"
    if not found:
        raise UserError(f"compiling for a GPU takes two plug-ins, which need no GPU and no CUDA: {install}")
    cuda = found[0].removeprefix("jax_plugins.xla_")
    for package in (f"jax-{cuda}-plugin", f"jax-{cuda}-pjrt"):
        if (theirs := _version(package)) != version:
            raise UserError(f"jax {version} needs {package} {version}, and here is {theirs}: {install}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def prepare(platform: str, environment: MutableMapping[str, str]) -> None:
    """Set what a plug-in needs in order to compile without a device; to be done before jax is imported."""
    environment["JAX_PLATFORMS"] = "cpu"
    for name, value in _ENVIRONMENT[platform].items():
        environment.setdefault(name, value)
