"""Devices that can be asked for, and what is said where the plug-in that compiles for them is missing."""

import importlib.util
from importlib import metadata

import jax
import pytest

from pvt_jax import devices
from pvt_jax.errors import UserError
from pvt_jax.planning import topology
from pvt_jax.planning.gpu_targets import GPUS, target_config
from pvt_jax.planning.topology import Topology, check_plugin, parse, prepare


@pytest.mark.parametrize(
    ("text", "kind", "sides", "platform", "count", "per_host"),
    [
        ("v5e:16x16", "v5e", (16, 16), "tpu", 256, 256),
        ("v5e:256", "v5e", (16, 16), "tpu", 256, 256),
        ("v5e:1", "v5e", (1, 1), "tpu", 1, 1),
        ("V6E:8", "v6e", (2, 4), "tpu", 8, 8),
        ("v4:4", "v4", (2, 2, 1), "tpu", 4, 4),
        ("v4:8x8x16", "v4", (8, 8, 16), "tpu", 1024, 1024),
        ("v5p:64", "v5p", (4, 4, 4), "tpu", 64, 64),
        ("h100:8", "h100", (8,), "gpu", 8, 8),
        ("h200:64", "h200", (64,), "gpu", 64, 8),
        ("a100:2", "a100", (2,), "gpu", 2, 2),
    ],
)
def test_what_can_be_asked_for(text, kind, sides, platform, count, per_host):
    found = parse(text)
    assert found == Topology(kind, sides)
    assert (found.platform, found.count, found.per_host) == (platform, count, per_host)
    assert parse(str(found)) == found


USAGE = (
    "give a TPU slice (v4, v5e, v5p, v6e), such as v5e:16x16 or v4:4x4x4, or a number of GPUs (a100, h100, h200), "
    "such as h200:64"
)
FLAT = "v5e has 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h300:8", f"--topology has no 'h300' (did you mean 'h200'?): {USAGE}"),
        ("mi300:8", f"--topology has no 'mi300': {USAGE}"),
        ("", f"--topology has no '': {USAGE}"),
        ("h200", f"--topology=h200 has no size: {USAGE}"),
        ("v5e:0", f"--topology=v5e:0 has no size: {USAGE}"),
        ("v5e:4x", f"--topology=v5e:4x has no size: {USAGE}"),
        ("v5e:7", f"--topology=v5e:7 is no slice: {FLAT}"),
        ("v5e:2x2x2", f"--topology=v5e:2x2x2 is no slice: {FLAT}"),
        ("v5e:32x32", f"--topology=v5e:32x32 is no slice: {FLAT}"),
        (
            "v4:2x2",
            "--topology=v4:2x2 is no slice: v4 has 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, …, up to "
            "4,096 chips",
        ),
        (
            "h200:7",
            "--topology=h200:7: GPUs come as 1, 2, 4 or 8, or as whole hosts of 8, such as h200:64",
        ),
        (
            "a100:2x8",
            "--topology=a100:2x8: GPUs come as 1, 2, 4 or 8, or as whole hosts of 8, such as a100:64",
        ),
    ],
)
def test_what_there_is_not(text, message):
    with pytest.raises(UserError) as error:
        parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize(("words", "is_no_slice"), [("INVALID_ARGUMENT: 3x3", True), ("ABORTED: a lock", False)])
def test_what_the_compiler_says_of_a_slice(words, is_no_slice, monkeypatch):
    def refuse(**options):
        assert options == {"platform": "tpu", "topology_name": "v5e:3x3", "chips_per_host_bounds": [2, 2, 1]}
        raise jax.errors.JaxRuntimeError(words)

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", refuse)
    with pytest.raises(UserError if is_no_slice else jax.errors.JaxRuntimeError, match="3x3|a lock"):
        parse("v5e:3x3").devices()


@pytest.fixture
def installed(monkeypatch):
    """Plug-ins by module, and packages by name with their version, that stand in for what is installed."""
    modules, packages = set(), {"jax": "0.9.1"}

    def version(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    def find_spec(name: str):
        if name.startswith("jax_plugins.") and not modules:
            raise ModuleNotFoundError("jax_plugins")
        return object() if name in modules else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(topology.metadata, "version", version)
    return modules, packages


def refused(platform: str) -> str:
    with pytest.raises(UserError) as error:
        check_plugin(platform)
    return str(error.value)


def test_plug_in_of_tpus(installed):
    modules, _ = installed
    assert refused("tpu") == (
        "compiling for a TPU takes its plug-in, which needs no TPU: pip install 'jax[tpu]==0.9.1'"
    )
    modules.add("libtpu")
    check_plugin("tpu")


def test_plug_in_of_gpus_in_the_version_of_jax(installed):
    modules, packages = installed
    install = "pip install --no-deps jax-cuda13-plugin==0.9.1 jax-cuda13-pjrt==0.9.1"
    assert refused("gpu") == f"compiling for a GPU takes two plug-ins, which need no GPU and no CUDA: {install}"
    modules.add("jax_plugins.xla_cuda13")
    packages["jax-cuda13-plugin"] = "0.9.0"
    assert refused("gpu") == f"jax 0.9.1 needs jax-cuda13-plugin 0.9.1, and here is 0.9.0: {install}"
    packages["jax-cuda13-plugin"] = "0.9.1"
    assert refused("gpu") == f"jax 0.9.1 needs jax-cuda13-pjrt 0.9.1, and here is none: {install}"
    packages["jax-cuda13-pjrt"] = "0.9.1"
    check_plugin("gpu")


def test_what_is_installed_to_use_a_gpu_compiles_for_others_too(installed):
    modules, packages = installed
    modules.add("jax_plugins.xla_cuda12")
    packages |= {"jax-cuda12-plugin": "0.9.1", "jax-cuda12-pjrt": "0.9.1"}
    check_plugin("gpu")


def test_environment():
    environment = {"JAX_PLATFORMS": "cuda", "TPU_WORKER_HOSTNAMES": "10.0.0.1"}
    prepare("tpu", environment)
    assert environment == {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "10.0.0.1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    environment = {}
    prepare("gpu", environment)
    assert environment == {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}


@pytest.mark.parametrize("kind", GPUS)
def test_descriptions_of_gpus_agree_with_their_data_sheets(kind):
    text, sheet = target_config(GPUS[kind]), devices.find(GPUS[kind].name)
    assert sheet is not None
    assert f'device_description_str: "{GPUS[kind].name}"' in text
    assert GPUS[kind].bandwidth == pytest.approx(sheet.bandwidth, rel=0.01)
    assert sheet.memory == pytest.approx(GPUS[kind].memory, rel=0.02)
    # Links of 25 GB/s in each direction.
    assert GPUS[kind].links * 25e9 == sheet.link
    assert text.count("{") == text.count("}")
    bytes_of_block = {"a100": 163, "h100": 227, "h200": 227}[kind] * 1024
    assert f"shared_memory_per_block_optin: {bytes_of_block}\n" in text
