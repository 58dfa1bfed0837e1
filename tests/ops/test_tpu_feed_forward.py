"""Feed-forward networks for TPUs, run here, equal those of layers and keep no map after GELU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.ops import target
from tests.helpers.devices import ONE_TPU
from tests.helpers.feed_forward import (
    GRID,
    LINEAR,
    SIZES,
    V1,
    V2,
    Stack,
    inputs_of_stack,
    layer_and_inputs,
    with_gradients,
)


def compared(layer, sizes, variables, x, plain=None):
    found, expected = (
        jax.jit(partial(with_gradients, one, mesh, sizes))(variables, x)
        for one, mesh in ((layer, ONE_TPU), (plain or layer, None))
    )
    return zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)


@pytest.mark.parametrize("batch", [0, 6])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_result_and_gradients(settings, masked, batch):
    layer, x, variables = layer_and_inputs(settings, batch=batch)
    for one, other in compared(layer, SIZES[:batch] if masked else None, variables, x):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max(initial=0.0)))


@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_bfloat16(settings):
    """The same roundings, but for sums that XLA orders otherwise."""
    layer, x, variables = layer_and_inputs(settings, jnp.bfloat16)
    for one, other in compared(layer, None, variables, x):
        assert one.dtype == other.dtype
        one, other = (np.asarray(part, np.float64) for part in (one, other))
        assert np.linalg.norm(one - other) <= 2**-8 * np.linalg.norm(other)


@pytest.mark.parametrize("how", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str)
def test_blocks_that_are_scanned_and_computed_again(how):
    x, variables = inputs_of_stack()
    for one, other in compared(Stack(how), SIZES, variables, x, Stack({})):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(("settings", "maps"), [(V1, 1), (V2, 2)], ids=["v1", "v2"])
def test_hidden_maps_that_are_kept(settings, maps):
    """That before GELU, and before that the one that is convolved."""
    layer, x, variables = layer_and_inputs(settings)

    def back(variables, x):
        with target.compiled_for(ONE_TPU):
            return jax.vjp(lambda *inputs: layer.apply(*inputs, GRID), variables, x)[1]

    kept = jax.tree.leaves(jax.eval_shape(back, variables, x))
    assert sum(leaf.size == 6 * 15 * 32 for leaf in kept) == maps
