"""What accelerators can do at most, from their makers' data sheets."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Floating-point operations per second of dense products on one device of jax.

    Attributes:
      kind: pattern of ``device_kind``; the first row that matches its beginning counts.
      bfloat16: with bfloat16 factors.
      float32: with float32 factors, as jax multiplies them by default: TF32 on GPUs that have it, and a single pass of
        bfloat16 on TPUs.
    """

    kind: str
    bfloat16: float
    float32: float


# NVIDIA: the data sheets of the H200, H100, A100 and T4, without sparsity. The form factors of the H100 differ: that of
# SXM is last. The T4 has tensor cores for float16 alone; XLA computes bfloat16 in float32 there.
# Google: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, "peak compute per chip (bf16)". A chip is one device of jax.
PEAKS = (
    Peak(r"NVIDIA H200", 989.4e12, 494.7e12),
    Peak(r"NVIDIA H100 PCIe", 756e12, 378e12),
    Peak(r"NVIDIA H100 NVL", 835e12, 417.5e12),
    Peak(r"NVIDIA H100", 989.4e12, 494.7e12),
    Peak(r"NVIDIA A100", 312e12, 156e12),
    Peak(r"(NVIDIA |Tesla )?T4", 8.1e12, 8.1e12),
    Peak(r"TPU v4$", 275e12, 275e12),
    Peak(r"TPU v5( lite|e)", 197e12, 197e12),
    Peak(r"TPU v5p?$", 459e12, 459e12),
    Peak(r"TPU v6( lite|e)", 918e12, 918e12),
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Per second and device, for "float32" or "bfloat16"; None where it is not known."""
    for peak in PEAKS:
        if re.match(peak.kind, device_kind):
            return peak.bfloat16 if dtype == "bfloat16" else peak.float32
    return None
