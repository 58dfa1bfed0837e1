"""What accelerators can do at most, from their makers' data sheets."""

import re
from dataclasses import dataclass
from typing import Any

_GIB = 2**30
# What jax takes of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_TAKEN = 0.75


@dataclass(frozen=True)
class Device:
    """One device of jax: operations and bytes per second.

    Attributes:
      kind: pattern of ``device_kind``; the first row that matches its beginning counts.
      bfloat16: floating-point operations of dense products with bfloat16 factors.
      float32: with float32 factors, as jax multiplies them by default: TF32 on GPUs that have it, and a single pass of
        bfloat16 on TPUs.
      memory: bytes of its memory.
      bandwidth: of its memory.
      link: to devices of its host, or of its slice of a TPU pod, in one direction, over all its links.
      network: to other hosts, in one direction; 0: there is none, or the sheet has no number.
      usable: bytes of the memory that programs may take; 0: the share that jax takes of a GPU's by default.
    """

    kind: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    link: float
    network: float = 0.0
    usable: float = 0.0

    @property
    def limit(self) -> float:
        """Bytes of the memory that programs may take."""
        return self.usable or _TAKEN * self.memory


# NVIDIA: the data sheets of the H200, H100, A100 and T4, without sparsity; sheets give both directions of NVLink and
# PCIe together. The form factors of the H100 and A100 differ: that of SXM with most memory is last. Network: the
# adapters of a DGX H200, H100 or A100, of 400 or 200 Gbit/s for each GPU. The T4 has tensor cores for float16 alone;
# XLA computes bfloat16 in float32 there.
# Google: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, per chip, which is one device of jax. Links: half of the
# "bidirectional inter-chip interconnect bandwidth"; of v4 six links of 50 GB/s (arXiv 2304.01433).
# What programs may take of a TPU is what XLA's compiler for it says when a program is too large.
# The memory of the H200, H100 and A100 of SXM is about what programs see of it, more than the 80 GB of two sheets.
# Measured, as a check: a copy on an H200 moves 4.3e12 bytes a second, 0.9 of the sheet.
DEVICES = (
    Device(r"NVIDIA H200", 989.4e12, 494.7e12, 139 * _GIB, 4.8e12, 450e9, 50e9),
    Device(r"NVIDIA H100 PCIe", 756e12, 378e12, 80e9, 2.0e12, 64e9),
    Device(r"NVIDIA H100 NVL", 835e12, 417.5e12, 94e9, 3.9e12, 64e9),
    Device(r"NVIDIA H100", 989.4e12, 494.7e12, 84.943e9, 3.35e12, 450e9, 50e9),
    Device(r"NVIDIA A100-SXM\w*-40GB", 312e12, 156e12, 40e9, 1.555e12, 300e9, 25e9),
    Device(r"NVIDIA A100-PCI\w*-40GB", 312e12, 156e12, 40e9, 1.555e12, 32e9),
    Device(r"NVIDIA A100.*PCI", 312e12, 156e12, 80e9, 1.935e12, 32e9),
    Device(r"NVIDIA A100", 312e12, 156e12, 85.1e9, 2.039e12, 300e9, 25e9),
    Device(r"(NVIDIA |Tesla )?T4", 8.1e12, 8.1e12, 16e9, 320e9, 16e9),
    Device(r"TPU v4$", 275e12, 275e12, 32 * _GIB, 1.2e12, 300e9, usable=30.75 * _GIB),
    Device(r"TPU v5( lite|e)", 197e12, 197e12, 16 * _GIB, 819e9, 200e9, usable=15.75 * _GIB),
    Device(r"TPU v5p?$", 459e12, 459e12, 95.74 * _GIB, 2.765e12, 600e9, usable=95.74 * _GIB),
    Device(r"TPU v6( lite|e)", 918e12, 918e12, 32 * _GIB, 1.638e12, 400e9, usable=31.25 * _GIB),
)


# Compute capability from which an NVIDIA GPU has bfloat16 units, of Ampere.
_BFLOAT16 = 8.0


def has_bfloat16_units(device: Any) -> bool | None:
    """Whether a device of jax is an NVIDIA GPU with bfloat16 units, as of Ampere; None: it is no NVIDIA GPU."""
    capability = getattr(device, "compute_capability", None) or ""
    # AMD's GPUs are called "gpu", too; theirs is as "gfx942".
    is_nvidia = device.platform in ("gpu", "cuda") and re.fullmatch(r"\d+\.\d+", capability)
    return float(capability) >= _BFLOAT16 if is_nvidia else None


def find(device_kind: str) -> Device | None:
    """The row of a device; None where it is not known."""
    return next((device for device in DEVICES if re.match(device.kind, device_kind)), None)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Per second and device, for "float32" or "bfloat16"; None where it is not known."""
    device = find(device_kind)
    return None if device is None else (device.bfloat16 if dtype == "bfloat16" else device.float32)
