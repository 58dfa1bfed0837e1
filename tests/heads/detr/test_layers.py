"""DETR's layers and positions against their definitions in float64 NumPy."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.heads.detr.layers import PostNormDecoderLayer, PostNormEncoderLayer, sine_positions
from tests.helpers.attention import HEADS, TRUE_KEYS, attended, normed, random_parameters, tokens
from tests.helpers.running import quick_jit


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
