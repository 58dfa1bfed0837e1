"""Memory in huge pages, for programs on a CPU.

XLA takes the memory of a program from the system with each call and gives it back after it. A training step of PVT
v2-B0 with 16 images has 1.3 GiB: 330,000 pages of 4 KiB, each of which the kernel finds and clears when it is first
touched, which is a third of the processor's time. Pages of 2 MiB cost a fifth of that. glibc asks for them (2.35 and
later), but reads the wish only when a process starts.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pvt_jax.machine import NVIDIA_DRIVER

_VARIABLE, _WISH = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
# "always [madvise] never": programs get huge pages where they ask for them.
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FIRST_GLIBC = (2, 35)
# Of NVIDIA, Google's TPUs, and AMD: with them programs have memory of their own.
_ACCELERATORS = (NVIDIA_DRIVER, Path("/dev/accel0"), Path("/dev/vfio/0"), Path("/dev/kfd"))


def restart_with_huge_pages() -> None:
    """Start this process again, asking for huge pages, if that helps and it has not been done.

    Call it before anything is done, from the module that Python runs. A ``GLIBC_TUNABLES`` that is set, even to
    nothing, is left as it is, and so is a process that a debugger or a profiler follows.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None or not _helps(os.environ):
        return
    os.environ[_VARIABLE] = _WISH
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _helps(environment: Mapping[str, str], setting: Path = _SETTING) -> bool:
    if _VARIABLE in environment or _glibc() < _FIRST_GLIBC:
        return False
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms != "cpu" and (platforms or any(path.exists() for path in _ACCELERATORS)):
        return False
    try:
        return "[madvise]" in setting.read_text()
    except OSError:
        return False


def _glibc() -> tuple[int, ...]:
    """Its version; (0,) on systems without it."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # Windows, macOS
        return (0,)
    numbers = version.split(".")
    return tuple(int(number) for number in numbers) if name == "glibc" and all(map(str.isdigit, numbers)) else (0,)
