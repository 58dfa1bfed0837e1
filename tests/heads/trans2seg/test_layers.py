"""Trans2Seg's encoder layer against its definition in float64 NumPy."""

import numpy as np
import pytest

from pvt_jax.heads.trans2seg.layers import EncoderLayer
from tests.helpers.attention import DIM, HEADS, TRUE_KEYS, attended, normed, random_parameters, tokens
from tests.helpers.numpy_models import gelu
from tests.helpers.running import quick_jit


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
