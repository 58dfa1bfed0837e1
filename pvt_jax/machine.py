"""What this process runs on, and with which versions; without importing jax."""

import os
import platform
from importlib import metadata
from pathlib import Path

# There where a GPU of NVIDIA can be used.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def processor() -> str:
    """As "AMD EPYC, 2 cores": its name, and how many of its cores this process may use."""
    return f"{_name()}, {cores()} core{'s' * (cores() != 1)}"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of the packages that compute, by name."""
    return {name: metadata.version(name) for name in _PACKAGES}


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
