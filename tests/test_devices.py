"""Peaks by the names that jax gives devices."""

import pytest

from pvt_jax.devices import peak_flops


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("NVIDIA H200", 989.4e12, 494.7e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12),
        ("Tesla T4", 8.1e12, 8.1e12),
        ("TPU v4", 275e12, 275e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5e", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("TPU v5p", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
    ],
)
def test_known(kind, bfloat16, float32):
    assert (peak_flops(kind, "bfloat16"), peak_flops(kind, "float32")) == (bfloat16, float32)


@pytest.mark.parametrize("kind", ["cpu", "TPU v4 lite", "TPU v7x", "NVIDIA A10", "NVIDIA L4", ""])
def test_unknown(kind):
    assert peak_flops(kind, "bfloat16") is None
