"""What devices can do, by the names that jax gives them."""

import pytest

from pvt_jax.devices import DEVICES, find, peak_flops


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


@pytest.mark.parametrize(
    ("kind", "memory", "bandwidth", "link"),
    [
        ("NVIDIA H200", 139 * 2**30, 4.8e12, 450e9),
        ("NVIDIA H100 80GB HBM3", 84.943e9, 3.35e12, 450e9),
        ("NVIDIA H100 PCIe", 80e9, 2.0e12, 64e9),
        ("NVIDIA A100-SXM4-40GB", 40e9, 1.555e12, 300e9),
        ("NVIDIA A100-SXM4-80GB", 85.1e9, 2.039e12, 300e9),
        ("NVIDIA A100-PCIE-40GB", 40e9, 1.555e12, 32e9),
        ("NVIDIA A100 80GB PCIe", 80e9, 1.935e12, 32e9),
        ("TPU v5 lite", 16 * 2**30, 819e9, 200e9),
    ],
)
def test_memory_and_links(kind, memory, bandwidth, link):
    device = find(kind)
    assert device is not None and (device.memory, device.bandwidth, device.link) == (memory, bandwidth, link)


def test_programs_may_take_less_than_all_memory():
    assert all(0.7 * device.memory < device.limit <= device.memory for device in DEVICES)
    assert {device.limit / device.memory for device in DEVICES if device.kind.startswith("NVIDIA")} == {0.75}
