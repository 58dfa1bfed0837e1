"""Attention and layer norm by their definitions in float64 NumPy, for layers of transformers."""

from typing import Any

import jax
import numpy as np

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
