"""Blocks of transformers by kernels, run by jax's interpreter, equal those without, with the same parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pvt_jax.nn.blocks import Block, run_blocks
from pvt_jax.nn.normalization import LayerNorm
from pvt_jax.ops import target
from tests.helpers.devices import ONE_DEVICE

GRID = (3, 4)
V2 = {"depthwise": True, "fan_out_init": True}


class Stack(nn.Module):
    settings: dict
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x, sizes):
        block = partial(Block, 32, 1, 2, 1, jnp.float32, **self.settings)
        scales = jnp.array([[[1.0, 2.0], [0.0, 1.0]], [[2.0, 0.5], [1.0, 0.0]]])
        return run_blocks(self, block, 2, x, GRID, scales, sizes, remat=self.remat, scan=self.scan)


@pytest.mark.parametrize(
    ("settings", "how", "masked"),
    [
        ({}, {}, True),
        ({}, {"scan": True}, False),
        (V2, {"remat": True}, False),
        (V2, {"scan": True, "remat": True}, True),
        ({**V2, "pooled_side": 2}, {"scan": True}, True),
    ],
)
def test_blocks_and_their_gradients(settings, how, masked):
    sizes = jnp.array([[3, 4], [2, 3]]) if masked else None
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 32)), jnp.float32)
    variables = Stack(settings).init(jax.random.key(0), x, sizes)
    # No parameter is 0 or 1, where a mistake might not show.
    variables = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), variables)

    def both(variables, x, by_kernels):
        with target.compiled_for(ONE_DEVICE if by_kernels else None, interpret=True):
            result, back = jax.vjp(lambda *inputs: Stack(settings, **how).apply(*inputs, sizes), variables, x)
            return result, back(jnp.cos(result))

    run = jax.jit(both, static_argnums=2)
    found, expected = run(variables, x, True), run(variables, x, False)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))
    text = jax.make_jaxpr(both, static_argnums=2)(variables, x, True).pretty_print()
    assert text.count("pallas_call") >= 8 and "pallas_call" not in str(run.trace(variables, x, False).jaxpr)


def test_parameters_do_not_depend_on_the_form():
    x = jnp.zeros((2, 12, 32))
    with target.compiled_for(ONE_DEVICE, interpret=True):
        found = Stack(V2).init(jax.random.key(0), x, None)
    jax.tree.map(np.testing.assert_array_equal, found, Stack(V2).init(jax.random.key(0), x, None))


@pytest.mark.parametrize(
    "settings", [{}, {"use_bias": False}, {"use_scale": False}, {"scale_init": nn.initializers.zeros}]
)
def test_settings_of_a_layer_norm_hold_in_either_form(settings):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 32)), jnp.float32)
    norm = LayerNorm(1e-5, jnp.float32, **settings)
    with target.compiled_for(ONE_DEVICE, interpret=True):
        found, variables = norm.init_with_output(jax.random.key(0), x)
    expected, plain = norm.init_with_output(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
