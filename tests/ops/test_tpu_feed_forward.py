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
    assert_close,
    compared,
    inputs_of_stack,
    layer_and_inputs,
    with_gradients,
)


@pytest.mark.parametrize("batch", [0, 6])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_result_and_gradients(settings, masked, batch):
    layer, x, variables = layer_and_inputs(settings, batch=batch)
    assert_close(layer, ONE_TPU, SIZES[:batch] if masked else None, variables, x)


@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_bfloat16(settings):
    """The same roundings, but for sums that XLA orders otherwise."""
    layer, x, variables = layer_and_inputs(settings, jnp.bfloat16)
    for one, other in compared(layer, ONE_TPU, None, variables, x):
        assert one.dtype == other.dtype
        one, other = (np.asarray(part, np.float64) for part in (one, other))
        assert np.linalg.norm(one - other) <= 2**-8 * np.linalg.norm(other)


@pytest.mark.parametrize("how", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str)
def test_blocks_that_are_scanned_and_computed_again(how):
    x, variables = inputs_of_stack()
    assert_close(Stack(how), ONE_TPU, SIZES, variables, x, Stack({}))


@pytest.mark.parametrize(("settings", "maps"), [(V1, 1), (V2, 2)], ids=["v1", "v2"])
def test_hidden_maps_that_are_kept(settings, maps):
    """That before GELU, and before that the one that is convolved."""
    layer, x, variables = layer_and_inputs(settings)

    def back(variables, x):
        with target.compiled_for(ONE_TPU):
            return jax.vjp(lambda *inputs: layer.apply(*inputs, GRID), variables, x)[1]

    kept = jax.tree.leaves(jax.eval_shape(back, variables, x))
    assert sum(leaf.size == 6 * 15 * 32 for leaf in kept) == maps


@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_gradients_start_behind_a_barrier(settings):
    """Values are the same without it, but XLA would keep the map after GELU."""
    layer, x, variables = layer_and_inputs(settings)
    for mesh, barriers in ((ONE_TPU, 1), (None, 0)):
        # A function of its own, or jax would show the trace that it has.
        run = partial(with_gradients, layer, mesh, None)
        text = str(jax.make_jaxpr(lambda *inputs, run=run: run(*inputs))(variables, x))
        assert text.count("optimization_barrier[") + text.count("optimization_barrier ") == barriers


@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_derivative_of_a_gradient(settings):
    """A Hessian times a vector, as the plain network gives it."""
    layer, x, variables = layer_and_inputs(settings)

    def product(mesh):
        def gradient(x):
            with target.compiled_for(mesh):
                return jax.grad(lambda x: jnp.sum(layer.apply(variables, x, GRID) ** 2))(x)

        return jax.jvp(gradient, (x,), (jnp.cos(x),))[1]

    np.testing.assert_allclose(product(ONE_TPU), product(None), rtol=1e-4, atol=1e-4)
