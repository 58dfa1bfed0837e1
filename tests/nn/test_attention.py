"""Attention between two sets of tokens against its definition in float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.nn.attention import (
    EncoderLayer,
    MultiHeadAttention,
    PostNormDecoderLayer,
    PostNormEncoderLayer,
    sine_positions,
)
from tests.helpers.numpy_models import gelu
from tests.helpers.running import quick_jit

DIM, HEADS = 12, 3
TRUE_KEYS = np.array([5, 2])  # of each sample, of 5


def tokens(number: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((2, number, DIM)).astype(np.float32)


def random_parameters(module: Any, *inputs: Any) -> Any:
    """Parameters far from their initial values, so that every one of them counts."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (0.4 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)


def attended(p: Any, queries: Any, keys: Any, values: Any, true_keys: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(result, scores), token by token."""

    def linear(name: str, x: Any, part: Any = slice(None)) -> Any:
        return x @ p[name]["kernel"][:, part] + p[name].get("bias", np.zeros(DIM))[part]

    out, scores = np.zeros(queries.shape), np.zeros((len(queries), HEADS, queries.shape[1], keys.shape[1]))
    side = DIM // HEADS
    for b, query_tokens in enumerate(queries.astype(np.float64)):
        known = keys.shape[1] if true_keys is None else true_keys[b]
        for head in range(HEADS):
            part = slice(head * side, (head + 1) * side)
            key, value = linear("k", keys[b], part), linear("v", values[b, :known], part)
            for n, token in enumerate(query_tokens):
                scores[b, head, n] = key @ linear("q", token, part) / np.sqrt(side)
                weights = np.exp(scores[b, head, n, :known])
                out[b, n, part] = weights @ value / weights.sum()
    return linear("proj", out), scores


def normed(p: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


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


@pytest.mark.parametrize("true_keys", [None, TRUE_KEYS], ids=["all tokens", "masked"])
def test_encoder_layer_is_its_definition(true_keys):
    x = tokens(5, 3)
    layer = EncoderLayer(HEADS, mlp_ratio=2)
    params = random_parameters(layer, x)
    mask = None if true_keys is None else np.arange(5) < true_keys[:, None]
    found = quick_jit(layer.apply)({"params": params}, x, mask)
    y = normed(params["norm1"], x.astype(np.float64))
    y = x + attended(params["attn"], y, y, y, true_keys)[0]
    hidden = normed(params["norm2"], y) @ params["mlp"]["fc1"]["kernel"] + params["mlp"]["fc1"]["bias"]
    assert hidden.shape[-1] == 2 * DIM
    y = y + gelu(hidden) @ params["mlp"]["fc2"]["kernel"] + params["mlp"]["fc2"]["bias"]
    for b, known in enumerate([5, 5] if true_keys is None else true_keys):
        np.testing.assert_allclose(found[b, :known], y[b, :known], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("true_keys", [None, TRUE_KEYS], ids=["all tokens", "masked"])
def test_layers_with_the_norm_last_are_their_definitions(true_keys):
    """Positions go to queries and keys, and values are without; a layer of the encoder, then one of the decoder."""
    x, positions, queries, places = tokens(5, 3), tokens(5, 4), tokens(4, 5), tokens(4, 6)[:1]
    encoder, decoder = PostNormEncoderLayer(HEADS, 7, 0.5), PostNormDecoderLayer(HEADS, 7, 0.5)
    params = random_parameters(encoder, x, positions), random_parameters(decoder, queries, places, x, positions)
    mask = None if true_keys is None else np.arange(5) < true_keys[:, None]

    def run(params: Any, x: Any, positions: Any, queries: Any, places: Any, mask: Any) -> Any:
        memory: Any = encoder.apply({"params": params[0]}, x, positions, mask)
        return memory, decoder.apply({"params": params[1]}, queries, places, memory, positions, mask)

    memory, decoded = quick_jit(run)(params, x, positions, queries, places, mask)

    def fed(p: Any, x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(x @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)
        assert hidden.shape[-1] == 7
        return x + hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"]

    p, y = params[0], x.astype(np.float64)
    y = normed(p["norm1"], y + attended(p["attn"], y + positions, y + positions, y, true_keys)[0])
    y = normed(p["norm2"], fed(p["mlp"], y))
    for b, known in enumerate([5, 5] if true_keys is None else true_keys):
        np.testing.assert_allclose(memory[b, :known], y[b, :known], rtol=1e-5, atol=1e-5)
    p, z = params[1], queries.astype(np.float64)
    z = normed(p["norm1"], z + attended(p["self_attn"], z + places, z + places, z)[0])
    z = normed(p["norm2"], z + attended(p["cross_attn"], z + places, y + positions, y, true_keys)[0])
    z = normed(p["norm3"], fed(p["mlp"], z))
    np.testing.assert_allclose(decoded, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [None, [[2, 3], [1, 2]]], ids=["all image", "padded"])
def test_sine_positions_are_their_definition(sizes):
    found = sine_positions((2, 3), 8, None if sizes is None else jnp.array(sizes))
    assert found.shape == (1 if sizes is None else 2, 6, 8) and found.dtype == jnp.float32
    for b, (rows, columns) in enumerate(sizes or [[2, 3]]):
        for row, column in np.ndindex(rows, columns):
            y, x = 2 * np.pi * (row + 1) / rows, 2 * np.pi * (column + 1) / columns
            # Of 8 channels 4 are a row's: two wave lengths, of which the second is √10000 times the first.
            expected = [wave(place / length) for place in (y, x) for length in (1, 100) for wave in (np.sin, np.cos)]
            np.testing.assert_allclose(found[b, 3 * row + column], expected, rtol=0, atol=2e-5)


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
