"""A run compares kernels with XLA before it relies on them."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.ops.kernels import check
from pvt_jax.training.kernels import check_kernels


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
