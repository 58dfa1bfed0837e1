"""The training step with a linear objective, whose every number NumPy can follow."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.training import optimizer as optimizers
from pvt_jax.training.options import OptimizerOptions
from pvt_jax.training.state import TrainState
from pvt_jax.training.step import split_parts, train_step

SAMPLES, INPUTS = 8, 3


class Linear:
    """Mean squared error of ``x · w``; ``prepare`` adds noise to x, ``loss`` adds noise to the loss's value alone.

    ``batch_stats`` count the calls, keep the mean of the last part's x, and the random draws of the last four calls.
    """

    def __init__(self, noise: float = 0.0):
        self.noise = noise

    def prepare(self, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        return {**batch, "x": batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape)}

    def loss(
        self, variables: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any], dict[str, jax.Array]]:
        error = batch["x"] @ variables["params"]["kernel"] - batch["y"][:, None]
        draw = self.noise * jax.random.normal(key)
        value = jnp.mean(error**2) + draw
        if "batch_stats" not in variables:
            return value, {}, {"loss_noise": draw}
        old = variables["batch_stats"]
        draws = jnp.roll(old["draws"], 1).at[0].set(draw)
        stats = {"calls": old["calls"] + 1, "mean": batch["x"].mean(0), "draws": draws}
        return value, {"batch_stats": stats}, {"loss_noise": draw}


def schedule(step: Any) -> jax.Array:
    return jnp.float32(0.01) * (step + 1)


OPTIMIZER = optimizers.adamw(OptimizerOptions(weight_decay=0.0))


def start(*, ema: bool = True, stats: bool = True) -> TrainState:
    variables: dict[str, Any] = {"params": {"kernel": jnp.asarray([[1.0], [-2.0], [0.5]])}}
    if stats:
        variables["batch_stats"] = {"calls": jnp.zeros(()), "mean": jnp.zeros(INPUTS), "draws": jnp.zeros(4)}
    return TrainState.create(variables, OPTIMIZER, ema=ema)


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((SAMPLES, INPUTS)).astype(np.float32)
    return {"x": x, "y": (x @ [2.0, 1.0, -1.0]).astype(np.float32)}


@functools.cache
def stepper(*, noise: float = 0.0, seed: int = 0, accumulation_steps: int = 1, ema_decay: float = 0.9) -> Any:
    return jax.jit(
        functools.partial(
            train_step,
            objective=Linear(noise),
            optimizer=OPTIMIZER,
            schedule=schedule,
            key=jax.random.key(seed),
            accumulation_steps=accumulation_steps,
            ema_decay=ema_decay,
        )
    )


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_metrics_are_those_of_the_batch():
    examples, state = batch(), start()
    after, metrics = stepper()(state, examples)
    error = examples["x"].astype(np.float64) @ np.array([1.0, -2.0, 0.5]) - examples["y"]
    gradient = 2 * examples["x"].T.astype(np.float64) @ error / SAMPLES
    assert {name: value.shape for name, value in metrics.items()} == dict.fromkeys(metrics, ())
    assert float(metrics["loss"]) == pytest.approx((error**2).mean(), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert float(metrics["learning_rate"]) == pytest.approx(0.01)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"]), int(after.step)) == (0, 0, 1)
    # Adam's first step moves every parameter by the learning rate, against its gradient's sign.
    moved = np.asarray(after.params["kernel"] - state.params["kernel"])[:, 0]
    np.testing.assert_allclose(moved, -0.01 * np.sign(gradient), rtol=1e-4)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_computes_the_same_update(parts):
    examples = batch()
    whole, whole_metrics = stepper()(start(stats=False), examples)
    found, metrics = stepper(accumulation_steps=parts)(start(stats=False), examples)
    for name in ("loss", "grad_norm", "learning_rate"):
        assert float(metrics[name]) == pytest.approx(float(whole_metrics[name]), rel=1e-6)
    # Adam's moments are linear and quadratic in the gradient; the update itself hides its size at the first step.
    for found_leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(found_leaf, expected, rtol=2e-6, atol=1e-8)


def test_accumulation_hands_batch_statistics_from_part_to_part():
    examples = batch()
    after, _ = stepper(accumulation_steps=4)(start(), examples)
    assert float(after.batch_stats["calls"]) == 4
    # Part j holds every fourth example from j on.
    np.testing.assert_allclose(after.batch_stats["mean"], examples["x"][3::4].mean(0), rtol=1e-6)


def test_accumulated_parts_have_their_own_randomness():
    step = stepper(noise=0.3, accumulation_steps=4)
    first, _ = step(start(), batch())
    second, _ = step(first, batch())
    assert len({*np.asarray(first.batch_stats["draws"]), *np.asarray(second.batch_stats["draws"])} - {0.0}) == 8


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_of_the_loss_are_means_over_the_parts_of_a_batch(parts):
    """As the loss itself is; they are reported beside it."""
    after, metrics = stepper(noise=0.3, accumulation_steps=parts)(start(), batch())
    draws = np.asarray(after.batch_stats["draws"])[:parts]
    assert metrics["loss_noise"].shape == () and np.unique(draws).size == parts
    np.testing.assert_allclose(metrics["loss_noise"], draws.mean(), rtol=1e-6)
    assert abs(float(metrics["loss_noise"])) > 1e-3


class Branches:
    """The sum of all parameters' squares, less an example: every gradient and decay that is not stopped shows."""

    def prepare(self, batch: jax.Array, key: jax.Array) -> jax.Array:
        return batch

    def loss(self, variables: Any, batch: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any], Any]:
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(variables["params"])) - batch.mean(), {}, {}


def test_frozen_parameters_stay_to_the_bit():
    backbone = {name: {"kernel": jnp.full(3, 0.1)} for name in ("stem", "stage1", "stage2")}
    params = {"backbone": backbone, "head": {"kernel": jnp.full(2, 0.7)}}
    optimizer = optimizers.adamw(OptimizerOptions(weight_decay=0.5, decayed="all"))
    state = TrainState.create({"params": params}, optimizer, ema=True, frozen="stage1")
    numbers: Any = {"key": jax.random.key(0), "accumulation_steps": 2, "ema_decay": 0.9, "frozen": "stage1"}
    step = functools.partial(train_step, objective=Branches(), optimizer=optimizer, schedule=schedule, **numbers)
    after, metrics = jax.jit(step)(state, jnp.ones(4))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for found in (after.params, after.ema_params):
        for name in ("stem", "stage1"):
            assert_equal(found["backbone"][name], backbone[name])
        for one, before in ((found["backbone"]["stage2"], backbone["stage2"]), (found["head"], params["head"])):
            assert (np.asarray(one["kernel"]) < np.asarray(before["kernel"])).all()
    assert float(metrics["grad_norm"]) == pytest.approx(2 * np.sqrt(3 * 0.1**2 + 2 * 0.7**2), rel=1e-6)
    # Two moments of each of the two arrays that are trained.
    assert sum(leaf.ndim == 1 for leaf in jax.tree.leaves(after.opt_state)) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_update_that_is_not_finite_is_skipped(bad, parts):
    step = stepper(accumulation_steps=parts)
    before, _ = step(start(), batch(0))
    poison = batch(1)
    poison["y"][3] = bad
    skipped, metrics = step(before, poison)
    assert not np.isfinite(metrics["loss"])
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"]), int(skipped.step)) == (1, 1, 2)
    for name in ("params", "batch_stats", "ema_params"):
        assert_equal(getattr(skipped, name), getattr(before, name))
    assert_equal(skipped.opt_state.inner_state, before.opt_state.inner_state)

    # The schedule waits: the next update has the learning rate, and the result, of a run that never saw that batch.
    after, metrics = step(skipped, batch(2))
    direct, direct_metrics = step(before, batch(2))
    assert float(metrics["learning_rate"]) == float(direct_metrics["learning_rate"]) == pytest.approx(0.02)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"]), int(after.step)) == (1, 0, 3)
    for name in ("params", "batch_stats", "ema_params"):
        assert_equal(getattr(after, name), getattr(direct, name))


def test_skips_in_a_row_are_counted():
    poison, state, rows = batch(), start(), []
    poison["x"][0, 0] = np.nan
    for examples in (poison, poison, batch(), poison):
        state, metrics = stepper()(state, examples)
        rows.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
    assert rows == [(1, 1), (2, 2), (2, 0), (3, 1)]


class InfiniteLoss(Linear):
    """A loss that overflows with a gradient that does not."""

    def loss(self, variables: Any, batch: Any, key: jax.Array) -> Any:
        value, changed, parts = super().loss(variables, batch, key)
        return value + jax.lax.stop_gradient(jnp.where(batch["y"].sum() > 1e3, jnp.inf, 0.0)), changed, parts


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is():
    step = jax.jit(
        functools.partial(
            train_step,
            objective=InfiniteLoss(),
            optimizer=OPTIMIZER,
            schedule=schedule,
            key=jax.random.key(0),
            accumulation_steps=1,
            ema_decay=0.9,
        )
    )
    state, examples = start(), batch()
    examples["y"][0] = 1e4
    after, metrics = step(state, examples)
    assert int(metrics["skipped"]) == 1
    assert_equal(after.params, state.params)
    assert_equal(after.ema_params, state.ema_params)


def test_the_moving_average_is_of_the_parameters_after_the_update():
    state = start()
    average = np.asarray(state.params["kernel"], np.float64)
    for seed in range(5):
        state, _ = stepper(ema_decay=0.9)(state, batch(seed))
        average = 0.9 * average + 0.1 * np.asarray(state.params["kernel"], np.float64)
        np.testing.assert_allclose(state.ema_params["kernel"], average, rtol=1e-6)
    assert np.abs(average - np.asarray(state.params["kernel"])).max() > 1e-2
    assert_equal(state.variables(ema=True)["params"], state.ema_params)
    assert_equal(state.variables()["params"], state.params)
    assert_equal(state.variables()["batch_stats"], state.batch_stats)


def test_no_average_is_kept_when_it_is_off():
    state, _ = stepper(ema_decay=0.0)(start(ema=False, stats=False), batch())
    assert state.ema_params == {} and state.batch_stats == {}
    assert set(state.variables()) == {"params"}


def test_randomness_depends_on_seed_and_step_alone():
    noisy = stepper(noise=0.3, seed=1)
    first, again = (noisy(start(), batch()) for _ in range(2))
    assert_equal(first, again)
    _, other_seed = stepper(noise=0.3, seed=2)(start(), batch())
    _, other_step = noisy(start().replace(step=jnp.int32(1)), batch())
    losses = {float(metrics["loss"]) for metrics in (first[1], other_seed, other_step)}
    assert len(losses) == 3
    # The state's history has no part in it: the same step of another state draws the same noise.
    moved, _ = noisy(start(), batch(5))
    fresh = start().replace(params=moved.params, step=moved.step)
    assert float(noisy(moved, batch(6))[1]["loss"]) == float(noisy(fresh, batch(6))[1]["loss"])


def test_the_whole_batch_is_prepared_before_it_is_parted():
    """Augmentation draws do not depend on how many parts a batch is computed in."""
    after = [stepper(noise=0.3, accumulation_steps=parts)(start(stats=False), batch())[0] for parts in (1, 4)]
    np.testing.assert_allclose(after[0].params["kernel"], after[1].params["kernel"], rtol=1e-6)
    first, second = (jax.tree.leaves(state.opt_state) for state in after)
    for one, four in zip(first, second, strict=True):
        np.testing.assert_allclose(one, four, rtol=2e-6, atol=1e-8)


def test_the_loss_falls():
    state, losses = start(), []
    for step in range(60):
        state, metrics = stepper()(state, batch(step))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.02 * losses[0]


@settings(max_examples=12)
@given(parts=st.integers(1, 6), each=st.integers(1, 5))
def test_split_parts_takes_every_nth_example(parts, each):
    x = np.arange(parts * each * 2).reshape(parts * each, 2)
    found = np.asarray(split_parts(jnp.asarray(x), parts))
    assert found.shape == (parts, each, 2)
    for j in range(parts):
        np.testing.assert_array_equal(found[j], x[j::parts])


def test_a_state_goes_to_disk_as_plain_dicts_and_back():
    state, _ = stepper()(start(), batch())
    items = state.to_items()
    assert set(items) == {"params", "batch_stats", "ema_params", "opt_state"}

    def check(tree: Any) -> None:
        if isinstance(tree, dict):
            assert all(isinstance(key, str) for key in tree)
            for branch in tree.values():
                check(branch)
        else:
            assert isinstance(tree, jax.Array)

    check(items)
    back = start().from_items(1, items)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert_equal(back, state)
    assert isinstance(back.opt_state, optax.ApplyIfFiniteState)
    assert_equal(stepper()(back, batch(9)), stepper()(state, batch(9)))
