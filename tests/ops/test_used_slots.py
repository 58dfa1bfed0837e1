"""The loss over the used slots equals that over all, and is computed at the smallest size that holds them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvt_jax.ops import target
from pvt_jax.ops.used_slots import loss_of_used_slots
from tests.helpers.devices import ONE_DEVICE

COUNT, IMAGES = 13, 2
# All 13 slots, and half, a quarter and an eighth of them, rounded up.
SIZES = (2, 4, 7, 13)


def loss(weights, features, slots, others):
    found = jnp.tanh(features @ weights["kernel"] + others[slots["which"]])
    return jnp.where(slots["used"], (found**2).sum(-1), 0.0).sum() / jnp.maximum(slots["used"].sum(), 1)


@cache
def step(mesh):
    def run(used, weights, features, slots, others):
        with target.compiled_for(mesh):
            of = partial(loss_of_used_slots, loss, used)
            value, back = jax.vjp(lambda *inputs: of(*inputs, slots, others), weights, features)
            return value, back(jnp.float32(3.0))

    return jax.jit(run)


@given(st.lists(st.integers(0, COUNT), min_size=IMAGES, max_size=IMAGES), st.integers(0, 99))
def test_value_and_gradients_are_those_of_all(counts, seed):
    rng = np.random.default_rng(seed)
    weights = {"kernel": rng.standard_normal((4, 3)).astype(np.float32)}
    features = rng.standard_normal((IMAGES, COUNT, 4)).astype(np.float32)
    slots = {
        "used": np.arange(COUNT) < np.array(counts)[:, None],
        "which": rng.integers(0, 5, (IMAGES, COUNT), dtype=np.int32),
    }
    inputs = np.int32(max(counts)), weights, features, slots, rng.standard_normal((5, 3)).astype(np.float32)
    for found, expected in zip(
        jax.tree.leaves(step(ONE_DEVICE)(*inputs)), jax.tree.leaves(step(None)(*inputs)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mesh", [ONE_DEVICE, None], ids=["one CPU", "elsewhere"])
def test_as_few_as_hold_them_are_computed(mesh):
    def number(weights, features, slots, others):
        return weights * features.shape[1] + 0.0 * features.sum()

    @jax.jit
    def run(used):
        with target.compiled_for(mesh):
            return loss_of_used_slots(number, used, 1.0, jnp.zeros((1, COUNT)), (), ())

    for used in range(COUNT + 1):
        fewest = next(size for size in SIZES if size >= used)
        assert run(np.int32(used)) == (fewest if mesh is ONE_DEVICE else COUNT)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 1), (128, 16)])
def test_any_number_of_slots(count, size):
    def number(weights, features, slots, others):
        return weights * features.shape[1]

    with target.compiled_for(ONE_DEVICE):
        value = loss_of_used_slots(number, jnp.int32(0), jnp.float32(1), jnp.zeros((1, count)), (), ())
    assert value == size
