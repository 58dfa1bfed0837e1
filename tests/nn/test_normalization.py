"""Batch norm against its definition in float64 NumPy, and against PyTorch where it is installed."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.nn.normalization import BatchNorm

SHAPES = [(7, 5), (2, 3, 4, 5), (2, 1, 1, 3), (1, 3, 1, 2)]


def values(shape: tuple[int, ...], seed: int = 0, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(np.float32)


def variables(dim: int) -> Any:
    rng = np.random.default_rng(9)
    params = {"scale": rng.standard_normal(dim), "bias": rng.standard_normal(dim)}
    stats = {"mean": rng.standard_normal(dim), "var": rng.uniform(0.2, 3.0, dim)}
    tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"params": params, "batch_stats": stats})
    tree["batch_stats"]["count"] = jnp.asarray(3, jnp.int32)
    return tree


def train(tree: Any, x: Any, **settings: Any) -> tuple[jax.Array, Any]:
    apply = functools.partial(BatchNorm(**settings).apply, use_running_average=False, mutable=["batch_stats"])
    out, changed = jax.jit(apply)(tree, x)
    return out, changed["batch_stats"]


def evaluate(tree: Any, x: np.ndarray) -> jax.Array:
    return BatchNorm().apply(tree, jnp.asarray(x), use_running_average=True)  # pyright: ignore


def start(x: np.ndarray, use_running_average: bool = True) -> Any:
    return BatchNorm().init(jax.random.key(0), jnp.asarray(x), use_running_average)


def normalised(tree: Any, x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    scale, bias = (np.asarray(tree["params"][name], np.float64) for name in ("scale", "bias"))
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias


@pytest.mark.parametrize("shape", SHAPES)
def test_training_normalises_with_the_batch_and_tracks_its_unbiased_variance(shape):
    x, tree = values(shape, offset=2.0), variables(shape[-1])
    rows = x.astype(np.float64).reshape(-1, shape[-1])
    out, stats = train(tree, x)
    np.testing.assert_allclose(out, normalised(tree, x, rows.mean(0), rows.var(0)), rtol=1e-5, atol=1e-5)
    for name, batch in (("mean", rows.mean(0)), ("var", rows.var(0, ddof=1))):
        np.testing.assert_allclose(stats[name], 0.9 * tree["batch_stats"][name] + 0.1 * batch, rtol=2e-6, atol=1e-6)
    assert stats["count"] == 4 and stats["count"].dtype == jnp.int32


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_normalises_with_the_running_statistics(shape):
    x, tree = values(shape), variables(shape[-1])
    out = evaluate(tree, x)
    mean, var = (np.asarray(tree["batch_stats"][name], np.float64) for name in ("mean", "var"))
    np.testing.assert_allclose(out, normalised(tree, x, mean, var), rtol=1e-5, atol=1e-5)


def test_it_is_the_batch_norm_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the tests above check the same in NumPy")
    tree, layer = variables(5), torch.nn.BatchNorm2d(5)
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    stored = {**tree["params"], **tree["batch_stats"]}
    layer.load_state_dict(
        {names[name]: torch.tensor(np.asarray(stored[name])) for name in names}
        | {"num_batches_tracked": torch.tensor(3)}
    )
    for seed in range(3):
        x = values((2, 3, 4, 5), seed, offset=1.0)
        expected = layer(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
        out, tree["batch_stats"] = train(tree, x)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(tree["batch_stats"][name], getattr(layer, f"running_{name}"), rtol=1e-5)
    assert int(tree["batch_stats"]["count"]) == int(layer.num_batches_tracked) == 6
    expected = layer.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(evaluate(tree, x), expected, rtol=1e-5, atol=1e-5)


def test_gradients_agree_with_differences_of_numpy():
    x, tree = values((2, 3, 2, 4)), variables(4)
    weights, direction = values(x.shape, 1), values(x.shape, 2)

    def loss(x: Any) -> Any:
        out, _ = BatchNorm().apply(tree, x, use_running_average=False, mutable=["batch_stats"])
        return jnp.sum(weights * jnp.sin(out))

    def moved(distance: float) -> float:
        y = x.astype(np.float64) + distance * direction
        rows = y.reshape(-1, 4)
        return float((weights * np.sin(normalised(tree, y, rows.mean(0), rows.var(0)))).sum())

    first = jax.grad(loss)
    _, second = jax.jit(lambda x: jax.jvp(first, (x,), (direction,)))(x)
    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    curvature = (moved(1e-3) - 2 * moved(0.0) + moved(-1e-3)) / 1e-6
    np.testing.assert_allclose(np.sum(jax.jit(first)(x) * direction), slope, rtol=1e-4)
    np.testing.assert_allclose(np.sum(second * direction), curvature, rtol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 100.0, 3000.0])
def test_values_far_from_zero_keep_their_variance(offset):
    x = values((8, 64, 64, 2), offset=offset)
    rows = x.astype(np.float64).reshape(-1, 2)
    tree = start(x)
    out, stats = train(tree, x)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.1 * rows.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(out, normalised(tree, x, rows.mean(0), rows.var(0)), atol=2e-4 + offset * 2e-7)


@pytest.mark.parametrize("value", [0.0, 1e8])
def test_a_constant_channel_gives_the_bias(value):
    tree = variables(3)
    out, stats = train(tree, np.full((4, 5, 5, 3), value, np.float32))
    np.testing.assert_allclose(out, np.broadcast_to(tree["params"]["bias"], out.shape), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 * tree["batch_stats"]["var"], rtol=1e-6)


def test_bfloat16_in_and_out_and_float32_between():
    x, tree = jnp.asarray(values((4, 8, 8, 3), offset=5.0), jnp.bfloat16), variables(3)
    rows = np.asarray(x, np.float64).reshape(-1, 3)
    out, stats = train(tree, x, dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(stats["var"], 0.9 * tree["batch_stats"]["var"] + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    expected = normalised(tree, np.asarray(x, np.float64), rows.mean(0), rows.var(0))
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=2**-8, atol=1e-5)
    init = functools.partial(BatchNorm(jnp.bfloat16).init, use_running_average=False)
    abstract = jax.eval_shape(init, jax.random.key(0), x)
    types = {name: leaf.dtype.name for part in abstract.values() for name, leaf in part.items()}
    assert types == {"scale": "float32", "bias": "float32", "mean": "float32", "var": "float32", "count": "int32"}


@pytest.mark.parametrize("use_running_average", [False, True])
def test_initialising_leaves_the_statistics_of_nothing_seen(use_running_average):
    tree = start(values((1, 1, 1, 2), offset=7.0), use_running_average)
    expected = {
        "params": {"scale": np.ones(2), "bias": np.zeros(2)},
        "batch_stats": {"mean": np.zeros(2), "var": np.ones(2), "count": np.zeros(())},
    }
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_training_needs_mutable_statistics():
    with pytest.raises(UserError, match=r'apply with mutable=\["batch_stats"\]'):
        BatchNorm().apply(variables(2), jnp.zeros((3, 2)), use_running_average=False)


def test_one_value_has_no_variance():
    with pytest.raises(UserError, match=r"cannot train on one value per channel, a feature map of 1×1×1×2: use larger"):
        train(variables(2), values((1, 1, 1, 2)))


SHARDED = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from pvt_jax.nn.normalization import BatchNorm
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.load(sys.argv[1])
    model = BatchNorm()
    variables = jax.device_put(model.init(jax.random.key(0), x, True), NamedSharding(mesh, PartitionSpec()))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert len(x.addressable_shards) == 4
    out, changed = jax.jit(lambda v, x: model.apply(v, x, False, mutable=["batch_stats"]))(variables, x)
    np.savez(sys.argv[2], out=out, **changed["batch_stats"])
"""


def test_statistics_are_those_of_the_whole_batch_whatever_its_sharding(tmp_path):
    """Four devices whose images differ much: the statistics of a device's own part would be others."""
    x = values((8, 3, 3, 2)) + np.arange(8, dtype=np.float32)[:, None, None, None]
    np.save(tmp_path / "x.npy", x)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED), str(tmp_path / "x.npy"), str(tmp_path / "out.npz")],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    out, stats = train(start(x), x)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["out"], out, rtol=1e-5, atol=1e-6)
        for name in ("mean", "var", "count"):
            np.testing.assert_allclose(found[name], stats[name], rtol=1e-6)
