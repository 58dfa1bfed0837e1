"""The optimizer against the references' formulas, in NumPy and float64."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.serialization import to_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.training import optimizer as optimizers
from pvt_jax.training.options import OptimizerOptions
from tests.helpers import reference


def timm_cosine(step: int, peak: float, initial: float, final: float, warmup: int, total: int) -> float:
    """timm's CosineLRScheduler with warmup_prefix=False and one cycle, counted in updates."""
    if step < warmup:
        return initial + step * (peak - initial) / warmup
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * min(step, total) / total))


@jax.jit
def rates(schedule: optimizers.Schedule, steps: Any) -> jax.Array:
    """As a step has them, whose argument the schedule is."""
    return jax.vmap(schedule)(steps)


@pytest.mark.parametrize(("warmup", "total"), [(5, 300), (0, 40), (1, 7), (6255, 375_300)])
def test_warmup_cosine_agrees_with_the_formula(warmup, total):
    numbers = {"peak": 1e-3, "initial": 1e-6, "final": 1e-5}
    schedule = optimizers.warmup_cosine(**numbers, warmup_steps=warmup, total_steps=total)
    steps = np.unique(np.concatenate([np.linspace(0, total + 10, 200).astype(np.int32), [0, warmup, total]]))
    found = rates(schedule, steps)
    assert found.dtype == jnp.float32
    expected = [timm_cosine(int(step), **numbers, warmup=warmup, total=total) for step in steps]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(("step", "expected"), [(0, 1e-6), (5, 1e-5 + 0.99e-3 * 0.5 * (1 + math.cos(math.pi / 60)))])
def test_warmup_cosine_takes_plain_numbers(step, expected):
    schedule = optimizers.warmup_cosine(1e-3, 1e-6, 1e-5, warmup_steps=5, total_steps=300)
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-6)
    assert float(schedule(300)) == float(schedule(10_000)) == pytest.approx(1e-5, rel=1e-6)


@settings(max_examples=50)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_learning_rate_scales_with_the_batch(base, batch):
    # The reference: 5e-4 · batch / 512, which is 1e-3 at 1024.
    assert optimizers.scaled_learning_rate(1e-3, 1024, batch) == pytest.approx(5e-4 * batch / 512)
    assert optimizers.scaled_learning_rate(0.1, base, base) == pytest.approx(0.1)


def test_decay_mask_is_the_reference_s_rule_on_reference_names():
    """No decay on 1-d parameters, biases and the class token; position embeddings are decayed."""
    shapes = reference.shapes((1, 1, 1, 1), (8, 16, 24, 32), 5, 64)
    decays = {
        name: np.full(shape, len(shape) > 1 and not name.endswith(".bias") and name != "cls_token")
        for name, shape in shapes.items()
    }
    assert not decays["cls_token"].any() and decays["pos_embed1"].all() and decays["pos_embed4"].all()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    mask = optimizers.decay_mask(reference.to_flax(weights))
    expected = jax.tree.map(lambda leaf: bool(leaf.all()), reference.to_flax(decays))
    assert mask == expected
    # 4 stages of patch, position, q, kv, proj, fc1, fc2; 3 reductions; the head.
    assert sum(jax.tree.leaves(mask)) == 4 * 7 + 3 + 1


TREE = {
    "cls_token": (1, 1, 3),
    "head": {"linear": {"bias": (4,), "kernel": (3, 4)}},
    "norm": {"scale": (3,)},
    "stage1": {"pos_embed": (1, 5, 3)},
}
DECAYED = {"head.linear.kernel", "stage1.pos_embed"}


def random_tree(rng: np.random.Generator, scale: float):
    draw = lambda shape: (scale * rng.standard_normal(shape)).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, TREE, is_leaf=lambda x: isinstance(x, tuple))


def named(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(x, np.float64) for p, x in leaves}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_three_steps_agree_with_adamw_in_float64(clip_norm):
    rng = np.random.default_rng(0)
    b1, b2, eps, decay = 0.9, 0.999, 1e-8, 0.05
    schedule = optimizers.warmup_cosine(1e-2, 1e-3, 1e-4, warmup_steps=2, total_steps=10)
    optimizer = optimizers.adamw(OptimizerOptions(b1=b1, b2=b2, eps=eps, weight_decay=decay, clip_norm=clip_norm))
    params = random_tree(rng, 1.0)
    expected = named(params)
    first = {name: np.zeros_like(value) for name, value in expected.items()}
    second = {name: np.zeros_like(value) for name, value in expected.items()}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    # The norms of these gradients are on both sides of the limit.
    for step, scale in enumerate((1.0, 1e-2, 10.0)):
        grads = random_tree(rng, scale)
        updates, state = update(grads, state, params, learning_rate=schedule(step))
        params = optax.apply_updates(params, updates)

        exact = named(grads)
        norm = math.sqrt(sum(float((g**2).sum()) for g in exact.values()))
        factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
        rate = timm_cosine(step, 1e-2, 1e-3, 1e-4, 2, 10)
        for name, value in expected.items():
            gradient = exact[name] * factor
            first[name] = b1 * first[name] + (1 - b1) * gradient
            second[name] = b2 * second[name] + (1 - b2) * gradient**2
            mean, square = first[name] / (1 - b1 ** (step + 1)), second[name] / (1 - b2 ** (step + 1))
            # Decoupled decay, of the value before the update and by the same rate: torch's AdamW.
            shrunk = value * (1 - rate * decay * (name in DECAYED))
            expected[name] = shrunk - rate * mean / (np.sqrt(square) + eps)
        for name, value in named(params).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_changes_nothing_but_its_count(bad):
    rng = np.random.default_rng(1)
    optimizer = optimizers.adamw(OptimizerOptions(weight_decay=0.1, clip_norm=1.0))
    update = functools.partial(optimizer.update, learning_rate=0.01)
    params = random_tree(rng, 1.0)
    state: optax.ApplyIfFiniteState
    _, state = update(random_tree(rng, 1.0), optimizer.init(params), params)  # pyright: ignore
    grads = random_tree(rng, 1.0)
    grads["norm"]["scale"][1] = bad
    updates, after = update(grads, state, params)
    assert all((np.asarray(update) == 0).all() for update in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, state.inner_state)  # pyright: ignore
    assert (int(after.total_notfinite), int(after.notfinite_count)) == (1, 1)  # pyright: ignore


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e4])
def test_the_guard_and_the_clipping_do_what_optax_s_do(clip):
    """Which look at every element; trees have small arrays, whose squares are summed together, and large ones."""
    rng = np.random.default_rng(3)
    shapes = {"bias": (7,), "scale": (300,), "scalar": (), "kernel": (3, 4), "table": (160, 128), "wide": (20_000,)}
    numbers = OptimizerOptions(weight_decay=0.1, clip_norm=clip)
    inner = optax.adamw(0.01, weight_decay=0.1, mask=optimizers.decay_mask)
    clips = [optax.clip_by_global_norm(clip)] if clip else []
    theirs = optax.apply_if_finite(optax.chain(*clips, inner), max_consecutive_errors=10)
    ours = optimizers.adamw(numbers)
    params = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    expected, found, states = dict(params), dict(params), [theirs.init(params), ours.init(params)]
    for bad in (None, "scalar", "wide", None, "bias", None):
        grads = {name: np.asarray(rng.standard_normal(shape), "f") for name, shape in shapes.items()}
        assert float(optimizers.global_norm(grads)) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-6)
        if bad:
            grads[bad].flat[-1] = np.nan if bad == "scalar" else -np.inf
        updates, states[0] = theirs.update(grads, states[0], expected)
        expected = optax.apply_updates(expected, updates)
        updates, states[1] = ours.update(grads, states[1], found, learning_rate=0.01)
        found = optax.apply_updates(found, updates)
        for name in shapes:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
    counts = [(int(state.total_notfinite), int(state.notfinite_count)) for state in states]  # pyright: ignore
    assert counts == [(3, 0), (3, 0)]


@pytest.mark.parametrize(
    "keys", [{"clip_norm": 0.0}, {"clip_norm": 1.0}, {"layer_decay": 0.5}, {"clip_norm": 1.0, "head_multiplier": 10.0}]
)
def test_the_state_is_that_of_optax_s_adamw_which_older_checkpoints_have(keys):
    options = OptimizerOptions(**{"clip_norm": 0.0, **keys})
    params = {"head": {"kernel": np.ones((2, 3), "f")}}
    inner = optax.adamw(lambda step: 0.01, mask=optimizers.decay_mask)
    parts = [inner, *[optax.identity() for key in keys if key in ("layer_decay", "head_multiplier")]]
    parts = [*[optax.clip_by_global_norm(1.0)] * (options.clip_norm > 0), *parts]
    theirs = optax.apply_if_finite(optax.chain(*parts), max_consecutive_errors=10).init(params)
    optimizer = optimizers.adamw(options)
    found = optimizer.init(params)
    assert jax.tree.structure(found) == jax.tree.structure(theirs)
    assert to_state_dict(found).keys() == to_state_dict(theirs).keys()
    for gradient in (1.0, np.nan, 1.0):
        grads = {"head": {"kernel": np.full((2, 3), gradient, "f")}}
        found = optimizer.update(grads, found, params, learning_rate=0.01)[1]
    counts = [int(leaf) for leaf in jax.tree.leaves(found.inner_state) if leaf.shape == ()]  # pyright: ignore
    # Adam's and the schedule's: of the updates that were made.
    assert counts == [2, 2]


def test_a_norm_that_overflows_skips_the_update():
    params = {"kernel": np.ones((2, 2), "f")}
    optimizer = optimizers.adamw(OptimizerOptions(clip_norm=1.0))
    grads = {"kernel": np.full((2, 2), 1e20, "f")}
    updates, state = optimizer.update(grads, optimizer.init(params), params, learning_rate=0.01)
    assert not np.asarray(updates["kernel"]).any()  # pyright: ignore
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state.total_notfinite) == 1  # pyright: ignore


# Fine-tuning.

# By hand, the layer of every parameter whose path begins like this; pyramids of five blocks.
PYRAMID = {"depths": (1, 2, 1, 1), "image_size": 64}
BLOCKS = {"stage1/block0": 1, "stage2/block0": 2, "stage2/block1": 3, "stage3/block0": 4, "stage4/block0": 5, "head": 6}
PATCHES = {
    f"stage{i}/{name}": layer for i, layer in ((1, 0), (2, 2), (3, 4), (4, 5)) for name in ("patch_embed", "patch_norm")
}
TABLES = {"stage1/pos_embed": 0, "stage2/pos_embed": 2, "stage3/pos_embed": 4, "stage4/pos_embed": 5}
NORMS = {"stage1/norm": 1, "stage2/norm": 2, "stage3/norm": 4, "stage4/norm": 5}
LAYERS = {
    "pvt_tiny": (PYRAMID, {**BLOCKS, **PATCHES, **TABLES, "cls_token": 5, "norm": 6}),
    "pvt_v2_b0": (PYRAMID, {**BLOCKS, **PATCHES, **NORMS}),
    "pvt_v2_b2_li": (PYRAMID, {**BLOCKS, **PATCHES, **NORMS}),
    "mit_b0": (PYRAMID, {**BLOCKS, **PATCHES, **NORMS}),
    "resnet18": (PYRAMID, {**BLOCKS, "stem": 0}),
    "resnet50": (PYRAMID, {**BLOCKS, "stem": 0}),
    "vit_tiny_patch16": (
        {"image_size": 64},
        {
            **{"patch_embed": 0, "cls_token": 0, "pos_embed": 0, "norm": 13, "head": 13},
            **{"block0": 1, "block1": 2, "block2": 3, "block3": 4, "block4": 5, "block5": 6, "block6": 7},
            **{"block7": 8, "block8": 9, "block9": 10, "block10": 11, "block11": 12},
        },
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_numbered_from_the_image_to_the_head(name):
    settings, expected = LAYERS[name]
    model = create_model(name, num_classes=3, **settings)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    found: dict[str, set[int]] = {}
    for path, number in named(optimizers.layer_numbers(params)).items():
        parts = path.split(".")
        beginning = "/".join(parts[: 2 if parts[0].startswith("stage") else 1])
        found.setdefault(beginning, set()).add(int(number))
    assert found == {beginning: {layer} for beginning, layer in expected.items()}


def test_a_parameter_outside_of_all_rules_has_no_layer():
    params = {"waist": {"kernel": np.zeros(1)}, "stage1": {"block0": {"bias": np.zeros(1)}}}
    with pytest.raises(UserError, match="layer_decay has no layer for the parameter waist/kernel"):
        optimizers.layer_numbers(params)


def test_one_update_with_layer_decay_by_hand():
    """Two blocks: the update of layer l, decay of weights included, is halved 3 - l times."""
    halved = {"patch_embed": 3, "block0": 2, "block1": 1, "head": 0}
    rng = np.random.default_rng(2)
    params, grads = ({n: {"kernel": rng.standard_normal((4, 4)).astype("f")} for n in halved} for _ in range(2))
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 0.0}
    optimizer = optimizers.adamw(OptimizerOptions(**numbers, layer_decay=0.5))
    state = optimizer.init(params)
    updates: Any = optimizer.update(grads, state, params, learning_rate=0.01)[0]
    for name, times in halved.items():
        # Adam's first step is the sign of the gradient.
        expected = -0.01 / 2**times * (np.sign(grads[name]["kernel"]) + 0.1 * params[name]["kernel"])
        np.testing.assert_allclose(updates[name]["kernel"], expected, rtol=1e-4)
    # The head alone, as with a frozen backbone, keeps the full rate.
    alone = {"head": params["head"]}
    head: Any = optimizer.update({"head": grads["head"]}, optimizer.init(alone), alone, learning_rate=0.01)[0]
    np.testing.assert_allclose(head["head"]["kernel"], updates["head"]["kernel"], rtol=1e-6)


def test_the_one_position_table_of_vit_is_not_decayed():
    model = create_model("vit_tiny_patch32", num_classes=3, image_size=64)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    mask = optimizers.decay_mask(params)
    assert (mask["pos_embed"], mask["cls_token"]) == (False, False)
    # The patches, 12 blocks of q, kv, proj, fc1 and fc2, and the head.
    assert sum(jax.tree.leaves(mask)) == 1 + 12 * 5 + 1


def test_split_parts_the_head_from_the_backbone():
    params = {"head": {"linear": 1}, "norm": 2, "stage1": {"head": 3}}
    assert optimizers.split(params, "") == (params, {})
    assert optimizers.split(params, "backbone") == ({"head": {"linear": 1}}, {"norm": 2, "stage1": {"head": 3}})
    assert optimizers.split({}, "backbone") == ({}, {})
    dense = {"backbone": {"stage1": 1, "head": 2}, "neck": {"output_p2": 3}, "head": {"classifier": 4}}
    trained = {name: dense[name] for name in ("neck", "head")}
    assert optimizers.split(dense, "backbone") == (trained, {"backbone": dense["backbone"]})


@pytest.mark.parametrize("of_dense_model", [True, False])
def test_split_parts_stem_and_first_stage(of_dense_model):
    fixed = {"stem": {"conv": 1, "norm": {"scale": 2}}, "stage1": {"block0": {"conv1": 3}}}
    rest = {"stage2": {"block0": {"stem": 4, "stage1": 5}}}
    head = {"head": {"stage1": 6, "stem": 7}}
    if of_dense_model:
        fixed, rest = {"backbone": fixed}, {"backbone": rest}
        whole = {"backbone": fixed["backbone"] | rest["backbone"], **head}
    else:
        whole = {**fixed, **rest, **head}
    assert optimizers.split(whole, "stage1") == ({**rest, **head}, fixed)
    assert optimizers.joined(*optimizers.split(whole, "stage1")) == whole


# Dense tasks.


def test_warmup_poly_agrees_with_mmcv():
    """mmcv's PolyLrUpdaterHook and its linear warm-up, which scales the curve's own rate of each step."""
    peak, first, final, warmup, total = 6e-5, 6e-8, 0.0, 1500, 160_000
    for power in (1.0, 0.9):
        schedule = optimizers.warmup_poly(peak, first, final, warmup, total, power)
        steps = np.unique(np.concatenate([np.linspace(0, total, 300).astype(np.int32), [1, warmup - 1, warmup]]))
        found = rates(schedule, steps)
        for step, rate in zip(steps.tolist(), np.asarray(found), strict=True):
            curve = (peak - final) * (1 - step / total) ** power + final
            expected = curve * (1 - (1 - min(step / warmup, 1)) * (1 - first / peak))
            # Ours starts from the rate itself, mmcv's from a share of the curve, which has fallen a little.
            assert rate == pytest.approx(expected, rel=1e-4, abs=2e-10)


def test_warmup_step_agrees_with_mmdetection():
    """Drops at 8 and 11 epochs of 7330 steps, warm-up of 500 from a thousandth: its StepLrUpdaterHook's own rule."""
    schedule = optimizers.warmup_step(1e-4, 1e-7, 0.0, 500, (8 * 7330, 11 * 7330), 0.1)
    steps = np.array([0, 250, 499, 500, 8 * 7330 - 1, 8 * 7330, 11 * 7330 - 1, 11 * 7330, 12 * 7330 - 1])

    def expected(step: int) -> float:
        rate = 1e-4 * 0.1 ** sum(step // 7330 >= epoch for epoch in (8, 11))
        return rate if step >= 500 else rate * (1 - (1 - step / 500) * (1 - 0.001))

    np.testing.assert_allclose(rates(schedule, steps), [expected(int(step)) for step in steps], rtol=1e-6)


def test_warmup_step_stops_at_the_final_rate_and_needs_no_warmup():
    schedule = optimizers.warmup_step(1.0, 0.5, 0.05, 0, (2, 4), 0.1)
    expected = [1, 1, 0.1, 0.1, 0.05, 0.05]
    np.testing.assert_allclose([schedule(step) for step in range(6)], expected, rtol=1e-6)
    np.testing.assert_allclose(rates(schedule, np.arange(6)), expected, rtol=1e-6)


def test_without_a_warmup_poly_starts_at_the_peak():
    schedule = optimizers.warmup_poly(2e-4, 1e-6, 0.0, 0, 100, 0.9)
    assert [float(schedule(step)) for step in (0, 100, 120)] == [pytest.approx(2e-4), 0.0, 0.0]
    assert float(schedule(50)) == pytest.approx(2e-4 * 0.5**0.9)


def dense_tree(value: Any) -> Any:
    return {
        "backbone": {
            "stage1": {
                "block0": {
                    "norm1": {"scale": value(4)},
                    "attn": {"sr_norm": {"bias": value(4)}, "q": {"bias": value(4)}},
                },
                "pos_embed": value(1, 4, 4),
            },
            "cls_token": value(1, 1, 4),
            "pos_embed": value(1, 4, 4),
        },
        "neck": {"output_p2": {"kernel": value(3, 3, 4, 4), "bias": value(4)}},
        "head": {
            "norm": {"scale": value(4)},
            "classifier": {"kernel": value(4, 2), "bias": value(2)},
            "class_queries": value(1, 2, 4),
            "pos_embed": value(1, 4, 4),
        },
    }


def test_what_decays_in_each_recipe():
    params = dense_tree(lambda *shape: np.zeros(shape))
    not_decayed = {
        mode: {name for name, decays in named(optimizers.decay_mask(params, mode)).items() if not decays}
        for mode in ("matrices", "all_but_norms", "all_but_backbone_norms", "all")
    }
    block = "backbone.stage1.block0."
    norms = {f"{block}norm1.scale", f"{block}attn.sr_norm.bias", "head.norm.scale"}
    biases = {f"{block}attn.q.bias", "neck.output_p2.bias", "head.classifier.bias"}
    assert not_decayed["all"] == set()
    assert not_decayed["all_but_norms"] == norms
    assert not_decayed["all_but_backbone_norms"] == norms - {"head.norm.scale"}
    assert not_decayed["matrices"] == norms | biases | {
        f"{part}.{name}"
        for part, name in (
            *(("backbone", "cls_token"), ("backbone", "pos_embed")),
            *(("head", "class_queries"), ("head", "pos_embed")),
        )
    }


def test_parts_have_their_own_learning_rates():
    params = dense_tree(lambda *shape: np.ones(shape, np.float32))
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0}
    optimizer = optimizers.adamw(OptimizerOptions(**numbers, backbone_multiplier=0.1, head_multiplier=10.0))
    update = functools.partial(optimizer.update, learning_rate=0.01)
    updates = named(update(params, optimizer.init(params), params)[0])
    expected = {"backbone": -0.001, "neck": -0.01, "head": -0.1}
    for name, change in updates.items():
        np.testing.assert_allclose(change, expected[name.split(".")[0]], rtol=1e-5, err_msg=name)
    # A classifier's backbone has no such name.
    classifier = {"head": params["head"], **params["backbone"]}
    updates = named(update(classifier, optimizer.init(classifier), classifier)[0])
    assert {name.startswith("head") for name, u in updates.items() if np.allclose(u, -0.1)} == {True}
    assert {name.startswith("head") for name, u in updates.items() if np.allclose(u, -0.001)} == {False}


def test_layers_of_a_dense_model_are_those_of_its_backbone():
    model = create_model("pvt_tiny", num_classes=3, **PYRAMID)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    backbone = {name: branch for name, branch in params.items() if name not in ("head", "norm", "cls_token")}
    dense = {"backbone": backbone, "neck": {"lateral_c2": 1}, "head": {"stage1": {"block0": 1}}}
    found = optimizers.layer_numbers(dense)
    numbers = optimizers.layer_numbers(params)
    assert found["backbone"] == {name: numbers[name] for name in backbone}
    assert (found["neck"], found["head"]) == ({"lateral_c2": 6}, {"stage1": {"block0": 6}})
