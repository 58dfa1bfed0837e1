"""Stacks of blocks: any kind of block, and several kinds in turn, run one by one, recomputed or scanned."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pvt_jax.models import create_model
from pvt_jax.nn.blocks import run_blocks
from pvt_jax.ops import target
from pvt_jax.planning.traffic import traffic
from pvt_jax.training.sharding import placed, state_sharding
from tests.helpers.devices import ONE_TPU

ROOT = Path(__file__).resolve().parents[2]


class Affine(nn.Module):
    """x · kernel + its number, then ReLU; ``branch_scales`` multiply the result."""

    number: float = 0.0

    @nn.compact
    def __call__(self, x: Any, grid: Any, branch_scales: Any, sizes: Any = None) -> Any:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], x.shape[-1]))
        x = nn.relu(x @ kernel + self.number)
        return x if branch_scales is None else x * branch_scales[0, :, None, None]


class Stack(nn.Module):
    depth: int
    block: Any
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: Any, scales: Any = None) -> Any:
        return run_blocks(self, self.block, self.depth, x, (1, x.shape[1]), scales, remat=self.remat, scan=self.scan)


def by_hand(params: Any, x: Any, numbers: tuple[float, ...], scales: Any) -> np.ndarray:
    for i in range(len(params)):
        x = jnp.maximum(x @ params[f"block{i}"]["kernel"] + numbers[i % len(numbers)], 0)
        x = x if scales is None else x * scales[i, 0, :, None, None]
    return x


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("numbers", [(0.0,), (1.0, -1.0), (1.0, -1.0, 3.0)])
def test_blocks_take_turns(numbers, scaled):
    """Four blocks: of three kinds the last turn is not a whole one, so nothing is scanned."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 4)), jnp.float32)
    scales = jnp.asarray(rng.uniform(0.5, 1.5, (4, 2, 2)), jnp.float32) if scaled else None
    block = [partial(Affine, number=number) for number in numbers] if len(numbers) > 1 else Affine
    params = Stack(4, block).init(jax.random.key(0), x)["params"]
    assert params.keys() == {f"block{i}" for i in range(4)}
    expected = by_hand(params, x, numbers, scales)
    for options in ({}, {"remat": True}, {"scan": True}, {"remat": True, "scan": True}):
        stack = Stack(4, block, **options)
        assert jax.tree.map(jnp.shape, stack.init(jax.random.key(0), x)["params"]) == jax.tree.map(jnp.shape, params)
        np.testing.assert_allclose(stack.apply({"params": params}, x, scales), expected, rtol=1e-5, atol=1e-5)


class Counted(Affine):
    """Counts how often Python runs it."""

    @nn.compact
    def __call__(self, x: Any, grid: Any, branch_scales: Any, sizes: Any = None) -> Any:
        seen.append(target.current())
        return Affine.__call__(self, x, grid, branch_scales, sizes)


seen: list[target.Target | None] = []


@pytest.mark.parametrize("remat", [False, True])
def test_equal_blocks_are_traced_once_for_each_target(remat):
    x = jnp.ones((2, 3, 4))
    stack = Stack(5, partial(Counted, number=10.0 + remat), remat)
    params = stack.init(jax.random.key(0), x)
    seen.clear()

    def loss(params: Any) -> jax.Array:
        return stack.apply(params, x).sum()  # pyright: ignore

    jax.jit(jax.grad(loss)).lower(params)
    jax.jit(jax.value_and_grad(loss)).lower(params)
    assert seen == [None]
    mesh = jax.make_mesh((1,), ("data",))
    with target.compiled_for(mesh):
        jax.jit(lambda params: loss(params) * 2).lower(params)
    assert seen == [None, target.Target(mesh)]


@pytest.mark.parametrize("remat", [False, True])
def test_blocks_for_a_tpu_are_traced_once_and_inlined(remat):
    """XLA for TPU would copy the maps at each call."""
    x = jnp.ones((2, 3, 4))
    stack = Stack(5, partial(Counted, number=20.0 + remat), remat)
    params = stack.init(jax.random.key(0), x)
    seen.clear()

    def text() -> str:
        # jit keeps what it has traced of one function.
        return jax.jit(jax.grad(lambda params: stack.apply(params, x).sum())).lower(params).as_text()  # pyright: ignore

    with target.compiled_for(ONE_TPU):
        assert not re.findall(r"call @.*_apply", text())
    assert seen == [target.Target(ONE_TPU)]
    assert re.findall(r"call @.*_apply", text())


def moved() -> tuple[int, int]:
    """(bytes of the collectives of a gradient, bytes of the parameters) of a ViT whose matrices two devices share."""
    mesh = jax.make_mesh((1, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    model = create_model("vit_tiny_patch16", num_classes=10, image_size=32, patch_size=4, depth=1, scan=True)
    images = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    x = jax.ShapeDtypeStruct((256, 32, 32, 3), jnp.float32, sharding=images)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    places = state_sharding(params, mesh)

    def loss(params: Any, x: Any) -> jax.Array:
        return (model.apply(params, x) ** 2).mean()  # pyright: ignore

    with target.compiled_for(mesh, kernels=False):
        compiled = jax.jit(jax.grad(loss), out_shardings=places).lower(placed(params, places), x).compile()
    collectives = traffic(compiled.as_text(), 2).collectives
    return sum(one.bytes * one.times for one in collectives), sum(4 * leaf.size for leaf in jax.tree.leaves(params))


def test_sharded_parameters_move_and_maps_stay():
    """Left to itself XLA moves the maps of a scan, 91 MB here, and ten times as much with ten times the images."""
    code = "import json; from tests.nn.test_blocks import moved; print(json.dumps(moved()))"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not found.returncode, found.stderr
    collectives, parameters = json.loads(found.stdout)
    # Gathered forward and backward, and their gradients summed.
    assert parameters < collectives < 3 * parameters
