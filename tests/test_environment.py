"""Versions and devices in a line each; an accelerator that jax does not see is an error."""

from types import SimpleNamespace

import flax
import jax
import pytest

from pvt_jax import check_environment, environment
from pvt_jax.errors import UserError


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without accelerators whose user has set no platform; its folder of PCI devices."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(environment.machine, "NVIDIA_DRIVER", tmp_path / "nvidia")
    monkeypatch.setattr(environment, "_PCI", tmp_path / "pci")
    return tmp_path


def plug(machine, vendor: str, device: str) -> None:
    card = machine / "pci" / f"card{device}"
    card.mkdir(parents=True)
    (card / "vendor").write_text(f"{vendor}\n")
    (card / "device").write_text(f"{device}\n")


def test_versions_and_devices_are_said(machine):
    first, second = check_environment().splitlines()
    assert f"jax {jax.__version__}," in first and f"flax {flax.__version__}," in first and "Python 3." in first
    assert second == f"{jax.device_count()} device(s): cpu"


def test_an_unused_gpu_stops(machine, monkeypatch):
    (machine / "nvidia").touch()
    with pytest.raises(
        UserError, match=rf"an NVIDIA GPU, but .* the CPU: pip install 'jax\[cuda12\]=={jax.__version__}'"
    ):
        check_environment()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    check_environment()


def test_an_unused_tpu_stops(machine):
    plug(machine, "0x1ae0", "0x0063")
    with pytest.raises(UserError, match=r"has a TPU, but .* pip install 'jax\[tpu\]=="):
        check_environment()


def test_a_network_card_of_google_is_no_tpu(machine):
    plug(machine, "0x1ae0", "0x0042")
    plug(machine, "0x8086", "0x0063")
    assert "cpu" in check_environment()


def gpu(kind: str, capability: str) -> SimpleNamespace:
    return SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "lacks"),
    [
        (gpu("Tesla T4", "7.5"), True),
        (gpu("NVIDIA A100", "8.0"), False),
        (gpu("NVIDIA B200", "10.0"), False),
        (gpu("AMD MI300", "gfx942"), False),
        (SimpleNamespace(platform="cpu", device_kind="cpu"), False),
    ],
    ids=lambda value: getattr(value, "device_kind", ""),
)
def test_which_devices_lack_bfloat16(device, lacks):
    assert environment.lacks_bfloat16(device) is lacks


def test_bfloat16_on_such_a_gpu_is_noted(machine, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [gpu("Tesla T4", "7.5")])
    assert check_environment().splitlines()[-1] == (
        "note: Tesla T4 has no bfloat16 units and emulates it: model.dtype=float32 is faster"
    )
