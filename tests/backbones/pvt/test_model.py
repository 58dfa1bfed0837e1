"""PVT v1 against the reference's own outputs, and against a second implementation in float64 NumPy."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.nn import blocks, layers
from tests.helpers import numpy_models, reference, running
from tests.helpers.running import pictures, quick_jit

# A model small enough to compile soon, with two blocks in a stage where scan and remat have something to do. Its
# tables are for 64×64 images, so that 64×96 resizes them.
HEADS = (1, 2, 3, 4)
SIZES: dict[str, Any] = {"depths": (2, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
toy = running.Toy("pvt_tiny", **SIZES, num_heads=HEADS, image_size=64)


def toy_weights() -> reference.Weights:
    return running.drawn(reference.shapes(**SIZES, table_side=64))


def params(weights: reference.Weights) -> Any:
    return {"params": reference.to_flax(weights)}


# The reference.


# Tiny runs block by block, small scanned: both ways meet the reference, and the deeper one compiles sooner.
@pytest.mark.parametrize(("name", "scan"), [("pvt_tiny", False), ("pvt_small", True)])
class TestGolden:
    def test_parameters_are_the_reference_s(self, name, scan):
        golden = reference.to_flax(reference.golden_weights(name))
        assert reference.parameter_shapes(create_model(name)) == jax.tree.map(np.shape, golden)
        count = sum(leaf.size for leaf in jax.tree.leaves(golden))
        assert count == int(reference.golden(name)["n_params"])

    def test_logits(self, name, scan):
        logits = jax.jit(create_model(name, scan=scan).apply)(
            params(reference.golden_weights(name)), pictures(224, 224)
        )
        assert logits.shape == (2, 1000) and logits.dtype == jnp.float32
        assert reference.relative_error(logits, reference.golden(name)["logits_224"]) < 2e-5

    def test_features(self, name, scan):
        apply = functools.partial(create_model(name, scan=scan).apply, method="features")
        maps = quick_jit(apply)(params(reference.golden_weights(name)), pictures(192, 320, batch=1, seed=1))
        expected = reference.golden(name)
        assert list(maps) == ["c2", "c3", "c4", "c5"]
        for level, found in maps.items():
            assert found.shape[1:3] == (192 >> int(level[1]), 320 >> int(level[1]))
            part = running.golden_part(np.asarray(found))
            assert reference.relative_error(part, expected[level], float(expected[f"{level}_rms"])) < 2e-5


def test_the_numpy_implementation_is_the_reference():
    """The oracle of the tests below is itself held to the reference's outputs."""
    expected, heads = reference.golden("pvt_tiny"), (1, 2, 5, 8)
    weights = reference.golden_weights("pvt_tiny")
    logits = numpy_models.pvt(weights, pictures(224, 224)[:1], heads, classify=True)
    assert reference.relative_error(logits, expected["logits_224"][:1]) < 1e-5


# Image sizes.


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (70, 101), (448, 448), (256, 832), (32, 33)])
def test_any_image_size_agrees_with_numpy(height, width):
    images, weights = pictures(height, width), toy_weights()
    logits = toy.apply()(params(weights), images)
    assert reference.relative_error(logits, numpy_models.pvt(weights, images, HEADS, classify=True)) < 2e-5


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 101)])
def test_features_agree_with_numpy(height, width):
    images, weights = pictures(height, width), toy_weights()
    maps = toy.apply("features")(params(weights), images)
    running.assert_maps(maps, numpy_models.pvt(weights, images, HEADS, classify=False))


def test_large_square_images_run():
    maps = toy.apply("features")(params(toy_weights()), pictures(896, 896, batch=1))
    assert {level: found.shape for level, found in maps.items()} == {
        "c2": (1, 224, 224, 8),
        "c3": (1, 112, 112, 16),
        "c4": (1, 56, 56, 24),
        "c5": (1, 28, 28, 32),
    }
    assert all(np.isfinite(found).all() for found in maps.values())


def test_map_shapes():
    for height, width in ((448, 448), (896, 896), (256, 832), (70, 101), (1333, 800)):
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        maps = jax.eval_shape(functools.partial(toy().apply, method="features"), params(toy_weights()), images)
        found = {level: value.shape for level, value in maps.items()}
        expected = zip((2, 3, 4, 5), SIZES["dims"], strict=True)
        assert found == {f"c{n}": (1, height >> n, width >> n, dim) for n, dim in expected}


def test_pixels_beyond_the_last_whole_patch_change_nothing():
    images, variables = pictures(70, 101), params(toy_weights())
    features = toy.apply("features")
    other, inside = np.array(images), np.array(images)
    other[:, 68:] += 100.0
    other[:, :, 100:] -= 100.0
    inside[:, 67, 99] += 100.0
    for level, found in features(variables, images).items():
        np.testing.assert_array_equal(found, features(variables, other)[level])
    assert not np.array_equal(features(variables, images)["c2"], features(variables, inside)["c2"])


def test_pixels_beyond_equal_a_crop():
    images, variables = pictures(70, 101), params(toy_weights())
    whole, cropped = (toy.apply("features")(variables, x) for x in (images, images[:, :68, :100]))
    for level in whole:
        assert reference.relative_error(whole[level], np.asarray(cropped[level])) < 2e-5


@pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31), (8, 8)])
def test_too_small_images_are_named(height, width):
    with pytest.raises(UserError) as error:
        jax.eval_shape(toy().apply, params(toy_weights()), jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    assert str(error.value) == (
        f"an image of {height}×{width} is too small: stage 1 has stride 4 and reduces its map by 8 for attention, "
        "so both sides must be at least 32"
    )


# Position embeddings.


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((56, 56), (112, 112)),
        ((56, 56), (64, 208)),
        ((56, 56), (17, 25)),
        ((28, 28), (24, 40)),
        ((14, 14), (9, 30)),
        ((7, 7), (2, 3)),
        ((7, 7), (1, 1)),
        ((1, 1), (3, 2)),
        ((5, 9), (9, 5)),
    ],
)
def test_position_resize_is_bilinear_with_half_pixel_centres(source, target):
    table = np.random.default_rng(3).standard_normal((1, source[0] * source[1], 4)).astype(np.float32)
    resized = layers.resize_position_embedding(jnp.asarray(table), source, target)
    expected = numpy_models.bilinear(table[0].reshape(*source, 4).astype(np.float64), target).reshape(1, -1, 4)
    np.testing.assert_allclose(resized, expected, rtol=0, atol=5e-5)


def test_position_resize_to_its_own_size_is_the_identity():
    table = jax.random.normal(jax.random.key(0), (1, 15, 4))
    np.testing.assert_array_equal(layers.resize_position_embedding(table, (3, 5), (3, 5)), table)


def test_tables_can_be_made_for_images_that_are_not_square():
    tree = reference.parameter_shapes(toy(image_size=(64, 160)))
    found = [tree[f"stage{i}"]["pos_embed"] for i in (1, 2, 3, 4)]
    assert found == [(1, 16 * 40, 8), (1, 8 * 20, 16), (1, 4 * 10, 24), (1, 2 * 5 + 1, 32)]


def test_the_slot_of_the_class_token_serves_the_class_token_alone():
    images, weights = pictures(64, 96), toy_weights()
    changed = {**weights, "pos_embed4": weights["pos_embed4"].copy()}
    changed["pos_embed4"][:, 0] += np.linspace(-2, 2, 32, dtype=np.float32)
    before, after = (toy.apply("features")(params(w), images) for w in (weights, changed))
    for level in before:
        np.testing.assert_array_equal(before[level], after[level])
    logits = toy.apply()(params(changed), images)
    assert reference.relative_error(logits, numpy_models.pvt(changed, images, HEADS, classify=True)) < 2e-5
    assert reference.relative_error(toy.apply()(params(weights), images), np.asarray(logits)) > 1e-2


# Layers.


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize(("sr_ratio", "grid"), [(1, (3, 5)), (2, (4, 6)), (2, (5, 7))])
def test_spatial_reduction_attention_agrees_with_numpy(sr_ratio, grid, num_heads):
    dim = 8
    names = {"q": (dim, dim), "kv": (2 * dim, dim), "proj": (dim, dim)}
    names |= {"sr": (dim, dim, sr_ratio, sr_ratio), "norm": (dim,)} if sr_ratio > 1 else {}
    weights = {}
    for name, shape in names.items():
        weights[f"attn.{name}.weight"] = 2 * reference.reference_weight(f"attn.{name}.weight", shape)
        weights[f"attn.{name}.bias"] = reference.reference_weight(f"attn.{name}.bias", shape[:1])
    x = np.random.default_rng(0).standard_normal((2, grid[0] * grid[1], dim)).astype(np.float32)
    layer = layers.SpatialReductionAttention(dim, num_heads, sr_ratio)
    found = jax.jit(lambda p, x: layer.apply({"params": p}, x, grid))(reference.to_flax(weights)["attn"], x)
    expected = numpy_models.attention(weights, "attn", x.astype(np.float64), grid, num_heads)
    assert reference.relative_error(found, expected) < 1e-5


def faint(weights: reference.Weights) -> reference.Weights:
    """Weights for which the variance before every norm is about 1e-6, so that its epsilon decides its output."""
    small = {}
    for key, value in weights.items():
        residual = re.search(r"^pos_embed|^cls_token|^patch_embed.*norm|attn\.proj|mlp\.fc2", key)
        before_norm = re.search(r"^patch_embed.*proj", key)
        factor = 1e-3 if residual or before_norm else 1.0
        # What this convolution reads has passed a norm whose epsilon halves it already.
        factor = 2e-3 if ".attn.sr." in key else factor
        small[key] = value * np.float32(factor)
    # From the second stage on the convolution reads the faint residual stream.
    for stage in (2, 3, 4):
        small[f"patch_embed{stage}.proj.weight"] = weights[f"patch_embed{stage}.proj.weight"]
    return small


EXCHANGED = {"patch": 1e-6, "sr": 1e-6, "block": 1e-5, "final": 1e-5}


def test_the_epsilon_of_every_norm_is_the_reference_s():
    images, weights = pictures(64, 96), faint(toy_weights())
    expected = numpy_models.pvt(weights, images, HEADS, classify=True)
    assert reference.relative_error(toy.apply()(params(weights), images), expected) < 1e-4
    for norm, epsilon in EXCHANGED.items():
        other = numpy_models.pvt(weights, images, HEADS, classify=True, epsilons={norm: epsilon})
        assert reference.relative_error(other, expected) > 2e-3, f"this test would not notice the epsilon of {norm}"


# Ways to run: the same parameters, results and gradients.


@pytest.mark.parametrize("settings", [{"scan": True}, {"remat": True, "scan": True}], ids=str)
def test_remat_and_scan_change_no_result(settings):
    assert reference.parameter_shapes(toy(**settings)) == reference.parameter_shapes(toy())
    arguments = params(toy_weights()), pictures(64, 64), output_weights(), jax.random.key(5)
    logits, gradient = toy.gradient(**settings, drop_path_rate=0.5)(*arguments)
    expected, expected_gradient = toy.gradient(drop_path_rate=0.5)(*arguments)
    assert reference.relative_error(logits, np.asarray(expected)) < 1e-5
    running.assert_gradients_are_equal(gradient, expected_gradient)


@pytest.mark.parametrize(
    "kind",
    [
        r"pos_embed",
        r"cls_token",
        r"patch_embed.*proj\.weight",
        r"patch_embed.*proj\.bias",
        r"attn\.sr\.weight",
        r"attn\.sr\.bias",
        r"attn\.(q|kv|proj)\.weight",
        r"attn\.(q|kv|proj)\.bias",
        r"mlp\.fc[12]\.weight",
        r"mlp\.fc[12]\.bias",
        r"norm\d?\.weight",
        r"norm\d?\.bias",
        r"head\.weight",
        r"head\.bias",
    ],
)
def test_gradients_agree_with_differences_of_numpy(kind):
    """The slope of the NumPy model in a random direction of all parameters of one kind."""
    images, weights = pictures(64, 48), toy_weights()
    _, gradient = toy.gradient()(params(weights), images, output_weights())
    running.assert_slope(
        lambda nearby: numpy_models.pvt(nearby, images, HEADS, classify=True) * output_weights(),
        gradient,
        weights,
        kind,
    )


def output_weights() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 7)).astype(np.float32)


def test_bfloat16_computes_near_float32_and_answers_in_float32():
    images, variables = pictures(64, 96), params(toy_weights())
    logits = toy.apply(dtype=jnp.bfloat16)(variables, images)
    exact = toy.apply()(variables, images)
    assert logits.dtype == jnp.float32
    assert 1e-5 < reference.relative_error(logits, np.asarray(exact)) < 0.05
    tree = jax.eval_shape(toy(dtype=jnp.bfloat16).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    maps = jax.eval_shape(functools.partial(toy(dtype=jnp.bfloat16).apply, method="features"), variables, images)
    assert {found.dtype for found in maps.values()} == {jnp.dtype("bfloat16")}


# Stochastic depth.


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), rate=st.floats(0.0, 0.9), depth=st.sampled_from([1, 2, 9]))
def test_stochastic_depth_scales_are_zero_or_one_over_keep(seed, rate, depth):
    scales = np.asarray(layers.stochastic_depth_scales(jax.random.key(seed), rate, depth, 5))
    assert scales.shape == (depth, 2, 5)
    for block in range(depth):
        keep = 1.0 - (rate * block / (depth - 1) if depth > 1 else 0.0)
        values = scales[block].ravel()
        assert np.all((values == 0) | (np.abs(values * keep - 1) < 1e-5))
    # The first block never drops.
    np.testing.assert_array_equal(scales[0], 1.0)


def test_stochastic_depth_statistics():
    depth, batch, rate = 4, 20_000, 0.6
    dropped = np.asarray(layers.stochastic_depth_scales(jax.random.key(0), rate, depth, batch)) == 0
    for block in range(1, depth):
        expected = rate * block / (depth - 1)
        sigma = math.sqrt(expected * (1 - expected) / batch)
        np.testing.assert_allclose(dropped[block].mean(-1), expected, atol=5 * sigma)
    # Samples, branches and blocks draw separately: the correlation of any two rows of draws is noise.
    correlation = np.corrcoef(dropped[1:].reshape(-1, batch)) - np.eye(6)
    assert np.abs(correlation).max() < 5 / math.sqrt(batch)


def test_training_multiplies_the_branches_by_the_drawn_scales(monkeypatch):
    scales = np.random.default_rng(0).choice([0.0, 1.0, 1.5], (5, 2, 2)).astype(np.float32)
    monkeypatch.setattr(blocks, "stochastic_depth_scales", lambda *arguments: jnp.asarray(scales))
    images, weights = pictures(64, 64), toy_weights()
    model = toy(drop_path_rate=0.5)
    key = jax.random.key(0)
    found = quick_jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": key}))(params(weights), images)
    expected = numpy_models.pvt(weights, images, HEADS, classify=True, branch_scales=scales)
    assert reference.relative_error(found, expected) < 2e-5
    # Two samples that drop other branches differ from the undropped; each depends on its own column alone.
    kept = numpy_models.pvt(weights, images, HEADS, classify=True)
    assert all(reference.relative_error(found[i], kept[i]) > 1e-2 for i in range(2))


def test_stochastic_depth_acts_only_in_training():
    images, variables = pictures(64, 64), params(toy_weights())
    np.testing.assert_array_equal(toy.apply(drop_path_rate=0.5)(variables, images), toy.apply()(variables, images))
    rate_zero = quick_jit(functools.partial(toy().apply, train=True))(variables, images)
    np.testing.assert_array_equal(rate_zero, toy.apply()(variables, images))


def test_training_with_stochastic_depth_needs_a_key():
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(
            functools.partial(toy(drop_path_rate=0.5).apply, train=True), params(toy_weights()), pictures(64, 64)
        )


# Initialisation.


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    return running.initial_values(create_model("pvt_tiny", depths=(1, 1, 1, 1)))


def test_initial_values_of_linear_maps_and_embeddings(initial):
    names = [n for n in initial if re.search(r"\.(q|kv|proj|fc1|fc2|linear)\.kernel$|pos_embed$|^cls_token$", n)]
    assert len(names) == 4 * 5 + 1 + 4 + 1
    running.assert_normal(initial, names, 0.02)


def test_initial_values_of_convolutions(initial):
    names = [n for n in initial if re.search(r"\.(patch_embed|sr)\.(kernel|bias)$", n)]
    assert len(names) == 2 * (4 + 3)
    running.assert_uniform(initial, names)


def test_initial_values_of_norms_and_biases(initial):
    scales = [n for n in initial if n.endswith(".scale")]
    biases = [n for n in initial if n.endswith(".bias") and not re.search(r"\.(patch_embed|sr)\.bias$", n)]
    assert len(scales) == 4 * 3 + 3 + 1 and len(biases) == len(scales) + 4 * 5 + 1
    assert all((initial[name] == 1).all() for name in scales)
    assert all((initial[name] == 0).all() for name in biases)


@pytest.mark.parametrize("settings", [{}, {"scan": True, "remat": True}], ids=str)
def test_parameters_do_not_depend_on_the_first_call(settings):
    expected = reference.parameter_shapes(toy())
    assert reference.parameter_shapes(toy(**settings), method="features") == expected
    assert reference.parameter_shapes(toy(**settings), 70, 101) == expected
