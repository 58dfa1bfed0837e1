"""How tests of models run them: compiled in haste, on pictures and weights that everyone can rebuild."""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from pvt_jax.models import create_model
from tests.helpers import reference

# Most of the time of these tests is compilation, and half of that is optimizing code that runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def pictures(height: int, width: int, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, height, width, 3)).astype(np.float32)


def drawn(shapes: dict[str, tuple[int, ...]]) -> reference.Weights:
    """Weights of these names and shapes."""
    return {name: reference.reference_weight(name, shape) for name, shape in shapes.items()}


class Toy:
    """A model small enough to compile soon; every way to run it is compiled once."""

    def __init__(self, name: str, **settings: Any):
        self.name, self.settings = name, settings

    def __call__(self, **settings: Any) -> Any:
        return create_model(self.name, **{**self.settings, **settings})

    @functools.cache  # noqa: B019
    def apply(self, method: str = "__call__", **settings: Any) -> Any:
        return quick_jit(functools.partial(self(**settings).apply, method=method))

    @functools.cache  # noqa: B019
    def both(self) -> Any:
        """(variables, images) → class scores and maps, in one program."""
        model = self()
        return quick_jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))

    @functools.cache  # noqa: B019
    def gradient(self, **settings: Any) -> Any:
        """(variables, images, output_weights, key) → logits, gradient of their weighted sum; training with a key."""
        model = self(**settings)

        def loss(variables: Any, images: Any, output_weights: Any, key: Any) -> Any:
            training = {} if key is None else {"train": True, "rngs": {"dropout": key}}
            logits = model.apply(variables, images, **training)
            return (logits * output_weights).sum(), logits

        def run(variables: Any, images: Any, output_weights: Any, key: Any = None) -> Any:
            (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(variables, images, output_weights, key)
            return logits, gradient["params"]

        return quick_jit(run)


def assert_gradients_are_equal(found: Any, expected: Any) -> None:
    """Equal but for rounding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(float(np.abs(other).max()), 1e-3))


def assert_slope(
    oracle: Callable[[reference.Weights], np.ndarray], gradient: Any, weights: reference.Weights, kind: str
) -> None:
    """The gradient of ``oracle(weights).sum()``, along a random direction of all parameters whose names match ``kind``.

    Of sums with changing sign, the error is relative to the size of what is summed.
    """
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(w.shape) for name, w in weights.items() if re.search(kind, name)}
    assert direction

    def moved(distance: float) -> float:
        nearby = {name: weights[name] + distance * step for name, step in direction.items()}
        return float(oracle({**weights, **nearby}).sum())

    # So near that hardly a ReLU changes sides on the way.
    slope = (moved(1e-7) - moved(-1e-7)) / 2e-7
    along = reference.to_flax({**{name: np.zeros_like(value) for name, value in weights.items()}, **direction})
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
    terms = [np.asarray(g, np.float64) * step for g, step in pairs]
    size = np.sqrt(sum(float((term**2).sum()) for term in terms))
    assert size > 0
    assert abs(sum(float(term.sum()) for term in terms) - slope) < 1e-4 * size


def assert_maps(found: dict[str, Any], expected: dict[str, np.ndarray], tolerance: float = 2e-5) -> None:
    assert list(found) == list(expected) == ["c2", "c3", "c4", "c5"]
    for level, one in found.items():
        assert one.shape == expected[level].shape
        assert reference.relative_error(one, expected[level]) < tolerance, level


def golden_part(maps: np.ndarray) -> np.ndarray:
    """The values of a whole map that the golden files hold."""
    _, height, width, channels = maps.shape
    return maps[:, :: max(1, height // 6), :: max(1, width // 6), :: max(1, channels // 16)]


def initial_values(model: Any, side: int = 64) -> dict[str, np.ndarray]:
    """Initial parameters by their path, words joined by dots."""
    # The hardware generator: the default one, unrolled for every parameter, takes long to compile.
    tree = quick_jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros((1, side, side, 3), np.float32))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def assert_normal(initial: dict[str, np.ndarray], names: Iterable[str], deviation: float) -> None:
    """Independent draws from a normal distribution that is not truncated at two deviations."""
    for name in names:
        values = initial[name].ravel()
        assert abs(values.std() - deviation) < 5 * deviation / np.sqrt(2 * values.size), name
        assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size), name
        if values.size > 2**16:
            assert np.abs(values).max() > 3.8 * deviation, name
            assert abs((values**4).mean() / (values**2).mean() ** 2 - 3) < 0.2, name


def assert_uniform(initial: dict[str, np.ndarray], names: Iterable[str]) -> None:
    """Draws from U(-1/√fan_in, 1/√fan_in), weights and biases."""
    for name in names:
        bound = 1 / np.sqrt(np.prod(initial[name.replace("bias", "kernel")].shape[:3]))
        values = initial[name].ravel()
        assert np.abs(values).max() <= bound, name
        assert np.abs(values).max() > 0.9 * bound, name
        # The deviation of a uniform's sample variance is √(4/45 / n) of bound².
        assert abs(values.var() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / 45 / values.size), name
