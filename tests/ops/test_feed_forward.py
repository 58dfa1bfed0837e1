"""Feed-forward networks in parts of the batch equal those of the whole batch, and keep no large hidden map."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh

from pvt_jax.ops import feed_forward, target
from tests.helpers.devices import ONE_DEVICE
from tests.helpers.feed_forward import (
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


@pytest.mark.parametrize("cached", [32, 3 * 480, 10**6], ids=["one", "some", "all"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", [V1, V2, LINEAR], ids=["v1", "v2", "linear"])
def test_result_and_gradients(settings, masked, cached, monkeypatch):
    monkeypatch.setattr(feed_forward, "_CACHED_VALUES", cached)
    monkeypatch.setattr(feed_forward, "_KEPT_VALUES", 0)
    layer, x, variables = layer_and_inputs(settings)
    assert_close(layer, ONE_DEVICE, SIZES if masked else None, variables, x)


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("settings", [V1, V2], ids=["v1", "v2"])
def test_any_batch(settings, batch, monkeypatch):
    """None, one that is a part, and one of which two images, the most that fit, are no divisor."""
    monkeypatch.setattr(feed_forward, "_CACHED_VALUES", 2 * 480)
    monkeypatch.setattr(feed_forward, "_KEPT_VALUES", 0)
    layer, x, variables = layer_and_inputs(settings, batch=batch)
    assert_close(layer, ONE_DEVICE, None, variables, x)


@pytest.mark.parametrize("how", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str)
def test_blocks_that_are_scanned_and_computed_again(how, monkeypatch):
    monkeypatch.setattr(feed_forward, "_CACHED_VALUES", 480)
    monkeypatch.setattr(feed_forward, "_KEPT_VALUES", 0)

    x, variables = inputs_of_stack()
    assert_close(Stack(how), ONE_DEVICE, SIZES, variables, x, Stack({}))


def test_several_devices_take_the_plain_form():
    """A loop over images would run on one of them, with all the images."""
    several = Mesh(np.array(jax.devices()[:1] * 2).reshape(2, 1), ("data", "fsdp"))
    for mesh, expected in ((ONE_DEVICE, True), (several, False), (None, False)):
        with target.compiled_for(mesh):
            assert target.is_one_cpu() is expected


@pytest.mark.parametrize("settings", [V1, V2], ids=["v1", "v2"])
def test_no_hidden_map_of_the_batch_is_in_memory(settings, monkeypatch):
    monkeypatch.setattr(feed_forward, "_CACHED_VALUES", 480)
    monkeypatch.setattr(feed_forward, "_KEPT_VALUES", 0)
    layer, x, variables = layer_and_inputs(settings)
    x = jnp.tile(x, (20, 1, 1))

    def bytes_of(mesh):
        plan = jax.jit(partial(with_gradients, layer, mesh, None)).lower(variables, x).compile().memory_analysis()
        return plan.temp_size_in_bytes

    hidden = 120 * 15 * 32 * 4
    assert bytes_of(None) > hidden
    assert bytes_of(ONE_DEVICE) < hidden / 2


def test_what_is_small_is_kept_and_not_computed_again(monkeypatch):
    layer, x, variables = layer_and_inputs(V1)

    def products():
        # A function of its own, or jax would show the trace that it has.
        run = partial(with_gradients, layer, ONE_DEVICE, None)
        return str(jax.make_jaxpr(lambda *inputs: run(*inputs))(variables, x)).count("dot_general[")

    kept = products()
    monkeypatch.setattr(feed_forward, "_CACHED_VALUES", 480)
    monkeypatch.setattr(feed_forward, "_KEPT_VALUES", 0)
    assert products() == kept + 1


def test_less_precision_is_summed_once():
    """Sums of bfloat16 over many parts would be rounded as often."""
    layer, x, variables = layer_and_inputs(V2, jnp.bfloat16)
    for one, other in compared(layer, ONE_DEVICE, None, variables, x):
        np.testing.assert_array_equal(one, other)


@given(count=st.integers(1, 3000), most=st.integers(0, 3000))
def test_parts_are_equal_and_fit(count, most):
    part = feed_forward._part(count, most)
    assert count % part == 0
    assert part <= max(most, 1) or part == count
    # A loop over crumbs would take longer than it saves.
    assert most < 8 or part > most // 8 or part == count
