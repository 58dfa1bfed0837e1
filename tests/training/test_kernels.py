"""A run compares kernels with XLA before it relies on them."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from pvt_jax import config as config_lib
from pvt_jax import programs
from pvt_jax.errors import UserError
from pvt_jax.ops import target
from pvt_jax.ops.kernels import check
from pvt_jax.training import sharding
from pvt_jax.training.kernels import check_kernels
from pvt_jax.training.optimizer import constant


class Device:
    platform, compute_capability, device_kind = "gpu", "9.0", "NVIDIA H200"


MESH = Mesh(np.array([Device()]).reshape(1, 1), ("data", "fsdp"))


def config_of(*overrides):
    return config_lib.read(config_lib.load("digits", ["model.dtype=bfloat16", *overrides]))


def test_a_kernel_that_is_wrong_stops_the_run(monkeypatch):
    monkeypatch.setattr(check, "differences", lambda mesh: {"attention": 0.004, "layer normalisation": float("inf")})
    with pytest.raises(UserError, match="on NVIDIA H200 the kernel of the layer normalisation differs from XLA by inf"):
        check_kernels(config_of(), MESH, print)
    check_kernels(config_of("kernels=False"), MESH, print)
    check_kernels(config_of("model.dtype=float32"), MESH, print)
    monkeypatch.setattr(check, "differences", lambda mesh: {"attention": 0.004})
    check_kernels(config_of(), MESH, print)


def test_a_kernel_that_does_not_run_stops_the_run(monkeypatch):
    def fail(mesh):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Shared memory size limit exceeded\ndetails")

    monkeypatch.setattr(check, "differences", fail)
    line = (
        r"do not run on NVIDIA H200 \(RESOURCE_EXHAUSTED: Shared memory size limit exceeded\): --config.kernels=False"
    )
    with pytest.raises(UserError, match=line):
        check_kernels(config_of(), MESH, print)


@pytest.mark.parametrize(
    ("overrides", "has"), [((), True), (("accumulation_steps=2",), True), (("kernels=False",), False)]
)
def test_the_step_of_a_run_has_them(monkeypatch, overrides, has):
    # As if this device were a GPU; the step is traced, not compiled.
    monkeypatch.setattr(target, "has_bfloat16_units", lambda device: True)
    sizes = ("batch_size=4", "model.depths=(1,1,1,1)", "model.dims=(32,32,32,32)", "model.num_heads=(1,1,1,1)")
    config = config_of(*sizes, *overrides)
    step = programs.training(programs.of_config(config), 4, sharding.make_mesh(1), constant(1e-3))
    found = str(step.function.trace(*step.abstract).jaxpr).count("pallas_call")
    # Each of four blocks at least: attention, feed-forward network and two norms, forward and backward.
    assert found >= 4 * 8 if has else found == 0
