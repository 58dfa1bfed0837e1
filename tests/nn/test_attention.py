"""Attention between two sets of tokens against its definition in float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.nn.attention import MultiHeadAttention
from tests.helpers.attention import DIM, HEADS, TRUE_KEYS, attended, random_parameters, tokens
from tests.helpers.running import quick_jit


@pytest.mark.parametrize("true_keys", [None, TRUE_KEYS], ids=["all keys", "masked"])
def test_attention_is_its_definition(true_keys):
    queries, keys, values = tokens(4, 0), tokens(5, 1), tokens(5, 2)
    attention = MultiHeadAttention(DIM, HEADS)
    params = random_parameters(attention, queries, keys, values)
    assert jax.tree.map(np.shape, params) == {
        **{name: {"kernel": (DIM, DIM)} for name in ("q", "k", "v")},
        "proj": {"kernel": (DIM, DIM), "bias": (DIM,)},
    }
    mask = None if true_keys is None else np.arange(5) < true_keys[:, None]
    if true_keys is not None:
        # Were the scores of what is masked only pushed down, these would come up again.
        keys[1, 2:], values[1, 2:] = 1e3, 1e6
    found = quick_jit(attention.apply)({"params": params}, queries, keys, values, mask)
    np.testing.assert_allclose(found, attended(params, queries, keys, values, true_keys)[0], rtol=1e-5, atol=1e-5)


def test_scores_need_two_matrices():
    queries, keys = tokens(4, 0), tokens(5, 1)
    attention = MultiHeadAttention(DIM, HEADS)
    whole = random_parameters(attention, queries, keys, keys)
    found = jax.eval_shape(lambda *inputs: attention.init(jax.random.key(0), *inputs, method="scores"), queries, keys)
    assert jax.tree.map(np.shape, found["params"]) == {name: {"kernel": (DIM, DIM)} for name in ("q", "k")}
    used = {"params": {name: whole[name] for name in ("q", "k")}}
    scores = quick_jit(lambda *inputs: attention.apply(used, *inputs, method="scores"))(queries, keys)
    np.testing.assert_allclose(scores, attended(whole, queries, keys, keys)[1], rtol=1e-5, atol=1e-5)


def test_scores_and_softmax_are_float32():
    """In bfloat16 scores of 100 and 100.2 would be equal."""
    queries, keys = jnp.full((1, 1, 2), 10.0), jnp.array([[[10.0, 0.0], [10.0, 0.02]]])
    attention = MultiHeadAttention(2, 1, jnp.bfloat16)
    identity = {name: {"kernel": np.eye(2, dtype=np.float32)} for name in ("q", "k", "v")}
    params = {**identity, "proj": {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}}
    scores: Any = attention.apply({"params": params}, queries, keys, method="scores")
    assert scores.dtype == jnp.float32
    assert float(scores[0, 0, 0, 1] - scores[0, 0, 0, 0]) == pytest.approx(0.2 / np.sqrt(2), rel=0.02)
    values = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    out: Any = attention.apply({"params": params}, queries, keys, values)
    assert out.dtype == jnp.bfloat16
    assert float(out[0, 0, 1]) == pytest.approx(1 / (1 + np.exp(-0.2 / np.sqrt(2))), abs=4e-3)


def test_attention_drops_weights_in_training_only():
    queries, keys = tokens(4, 0), tokens(50, 1)
    attention = MultiHeadAttention(DIM, HEADS, biased=True, dropout_rate=0.25)
    params = random_parameters(attention, queries, keys, keys)
    # Of keys that are all alike a query gets the share of weights that is kept, enlarged.
    params["proj"] = {"kernel": np.eye(DIM, dtype=np.float32), "bias": np.zeros(DIM, np.float32)}
    params["v"] = {"kernel": np.zeros((DIM, DIM), np.float32), "bias": np.ones(DIM, np.float32)}
    params["q"] = jax.tree.map(np.zeros_like, params["q"])

    def run(params: Any, queries: Any, keys: Any, train: bool) -> Any:
        rngs = {"dropout": jax.random.key(0)} if train else {}
        return attention.apply({"params": params}, queries, keys, keys, train=train, rngs=rngs)

    run = quick_jit(run, static_argnames="train")
    np.testing.assert_allclose(run(params, queries, keys, train=False), 1.0, rtol=1e-5)
    kept = np.asarray(run(params, queries, keys, train=True))[..., :: DIM // HEADS] * 50 * 0.75
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)
    # 24 draws of 50 weights.
    assert abs(kept.mean() / 50 - 0.75) < 0.05 and kept.std() > 1
