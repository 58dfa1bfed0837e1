"""Versions and devices, and whether this machine has an accelerator that jax does not see."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from pvt_jax import machine
from pvt_jax.devices import has_bfloat16_units
from pvt_jax.errors import UserError
from pvt_jax.version import __version__

_PCI = Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"
# PCI devices of TPU v2 to v7x, by which jax knows them, too: Google's network cards carry the same vendor.
_TPUS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


def check_environment() -> str:
    """Versions and devices, a line each: the first cell of a notebook.

    Raises:
      UserError: this machine has an NVIDIA GPU or a TPU, and jax computes on the CPU without having been told to with
        ``JAX_PLATFORMS=cpu``.
    """
    devices = jax.devices()
    if devices[0].platform == "cpu" and "cpu" not in os.environ.get("JAX_PLATFORMS", ""):
        _check_unused()
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    lines = [
        f"pvt_jax {__version__}, Python {platform.python_version()}, {versions}",
        f"{len(devices)} device(s): {devices[0].device_kind}",
    ]
    if lacks_bfloat16(devices[0]):
        lines.append(f"note: {bfloat16_note(devices[0])}")
    return "\n".join(lines)


def lacks_bfloat16(device: Any) -> bool:
    """Whether ``device`` is a GPU of before Ampere, such as a T4 or a V100, which emulates bfloat16."""
    return has_bfloat16_units(device) is False


def bfloat16_note(device: Any) -> str:
    """What to do about bfloat16 on a device that lacks it."""
    return f"{device.device_kind} has no bfloat16 units and emulates it: model.dtype=float32 is faster"


def _check_unused() -> None:
    if machine.NVIDIA_DRIVER.exists():
        found, extra = "an NVIDIA GPU", "cuda12"
    elif any(_read(card / "vendor") == _GOOGLE and _read(card / "device") in _TPUS for card in _PCI.glob("*")):
        found, extra = "a TPU", "tpu"
    else:
        return
    version = metadata.version("jax")
    raise UserError(
        f"this machine has {found}, but jax {version} computes on the CPU: pip install 'jax[{extra}]=={version}' and "
        "restart, or set JAX_PLATFORMS=cpu to compute on the CPU"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
