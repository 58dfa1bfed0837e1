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
from pvt_jax.models import create_model, layers, list_models, pvt
from tests.helpers import reference

# Confirmed by instantiating the reference models with 1000 classes.
PARAMETERS = {
    "pvt_tiny": 13_229_288,
    "pvt_small": 24_485_864,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "pvt_huge_v2": 304_945_512,
}

# A model small enough to compile soon, with two blocks in a stage where scan and remat have something to do. Its
# tables are for 64×64 images, so that 64×96 resizes them.
HEADS = (1, 2, 3, 4)
SIZES: dict[str, Any] = {"depths": (2, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
TOY: dict[str, Any] = {**SIZES, "num_heads": HEADS, "image_size": 64}


# Most of the time here is compilation, and half of that is optimizing code that runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def toy(**settings: Any) -> Any:
    return create_model("pvt_tiny", **{**TOY, **settings})


@functools.cache
def toy_apply(method: str = "__call__", **settings: Any) -> Any:
    return quick_jit(functools.partial(toy(**settings).apply, method=method))


def toy_weights() -> reference.Weights:
    return {
        key: reference.reference_weight(key, shape) for key, shape in reference.shapes(**SIZES, table_side=64).items()
    }


def pictures(height: int, width: int, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, height, width, 3)).astype(np.float32)


def params(weights: reference.Weights) -> Any:
    return {"params": reference.to_flax(weights)}


# The reference.


def test_every_registered_model_has_a_known_parameter_count():
    assert list_models() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    shapes = jax.tree.leaves(reference.parameter_shapes(create_model(name)), is_leaf=lambda x: isinstance(x, tuple))
    assert sum(math.prod(shape) for shape in shapes) == PARAMETERS[name]


# Tiny runs block by block, small scanned: both ways meet the reference, and the deeper one compiles sooner.
@pytest.mark.parametrize(("name", "scan"), [("pvt_tiny", False), ("pvt_small", True)])
class TestGolden:
    def test_parameters_are_the_reference_s(self, name, scan):
        golden = reference.to_flax(reference.golden_weights(name))
        assert reference.parameter_shapes(create_model(name)) == jax.tree.map(np.shape, golden)
        count = sum(leaf.size for leaf in jax.tree.leaves(golden))
        assert count == int(reference.golden(name)["n_params"]) == PARAMETERS[name]

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
            _, height, width, channels = found.shape
            assert (height, width) == (192 >> int(level[1]), 320 >> int(level[1]))
            part = np.asarray(found)[:, :: max(1, height // 6), :: max(1, width // 6), :: max(1, channels // 16)]
            assert reference.relative_error(part, expected[level], float(expected[f"{level}_rms"])) < 2e-5


def test_the_numpy_implementation_is_the_reference():
    """The oracle of the tests below is itself held to the reference's outputs."""
    expected, heads = reference.golden("pvt_tiny"), (1, 2, 5, 8)
    weights = reference.golden_weights("pvt_tiny")
    logits = reference.pvt(weights, pictures(224, 224)[:1], heads, classify=True)
    assert reference.relative_error(logits, expected["logits_224"][:1]) < 1e-5


# Image sizes.


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (70, 101), (448, 448), (256, 832), (32, 33)])
def test_any_image_size_agrees_with_numpy(height, width):
    images, weights = pictures(height, width), toy_weights()
    logits = toy_apply()(params(weights), images)
    assert reference.relative_error(logits, reference.pvt(weights, images, HEADS, classify=True)) < 2e-5


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 101)])
def test_features_agree_with_numpy(height, width):
    images, weights = pictures(height, width), toy_weights()
    maps = toy_apply("features")(params(weights), images)
    expected = reference.pvt(weights, images, HEADS, classify=False)
    assert list(maps) == list(expected)
    for level, found in maps.items():
        assert found.shape == expected[level].shape
        assert reference.relative_error(found, expected[level]) < 2e-5


def test_large_square_images_run():
    maps = toy_apply("features")(params(toy_weights()), pictures(896, 896, batch=1))
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
    features = toy_apply("features")
    other, inside = np.array(images), np.array(images)
    other[:, 68:] += 100.0
    other[:, :, 100:] -= 100.0
    inside[:, 67, 99] += 100.0
    for level, found in features(variables, images).items():
        np.testing.assert_array_equal(found, features(variables, other)[level])
    assert not np.array_equal(features(variables, images)["c2"], features(variables, inside)["c2"])


def test_pixels_beyond_equal_a_crop():
    images, variables = pictures(70, 101), params(toy_weights())
    whole, cropped = (toy_apply("features")(variables, x) for x in (images, images[:, :68, :100]))
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
    expected = reference.bilinear(table[0].reshape(*source, 4).astype(np.float64), target).reshape(1, -1, 4)
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
    before, after = (toy_apply("features")(params(w), images) for w in (weights, changed))
    for level in before:
        np.testing.assert_array_equal(before[level], after[level])
    logits = toy_apply()(params(changed), images)
    assert reference.relative_error(logits, reference.pvt(changed, images, HEADS, classify=True)) < 2e-5
    assert reference.relative_error(toy_apply()(params(weights), images), np.asarray(logits)) > 1e-2


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
    expected = reference.attention(weights, "attn", x.astype(np.float64), grid, num_heads)
    assert reference.relative_error(found, expected) < 1e-5


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)


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
    expected = reference.pvt(weights, images, HEADS, classify=True)
    assert reference.relative_error(toy_apply()(params(weights), images), expected) < 1e-4
    for norm, epsilon in EXCHANGED.items():
        other = reference.pvt(weights, images, HEADS, classify=True, epsilons={norm: epsilon})
        assert reference.relative_error(other, expected) > 2e-3, f"this test would not notice the epsilon of {norm}"


# Ways to run: the same parameters, results and gradients.


@functools.cache
def with_gradient(**settings: Any) -> Any:
    model = toy(**settings, drop_path_rate=0.5)

    def loss(variables: Any, images: Any, key: Any) -> Any:
        logits = model.apply(variables, images, train=True, rngs={"dropout": key})
        return jnp.sum(jnp.sin(logits)), logits

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("settings", [{"remat": True}, {"scan": True}, {"remat": True, "scan": True}], ids=str)
def test_remat_and_scan_change_no_result(settings):
    assert reference.parameter_shapes(toy(**settings)) == reference.parameter_shapes(toy())
    arguments = params(toy_weights()), pictures(64, 64, batch=3), jax.random.key(5)
    (_, logits), gradient = with_gradient(**settings)(*arguments)
    (_, expected), expected_gradient = with_gradient()(*arguments)
    assert reference.relative_error(logits, np.asarray(expected)) < 1e-5
    assert jax.tree.structure(gradient) == jax.tree.structure(expected_gradient)
    for found, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(float(np.abs(wanted).max()), 1e-3))


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
    images, weights = pictures(32, 48), toy_weights()
    rng = np.random.default_rng(0)
    names = [name for name in weights if re.search(kind, name)]
    direction = {name: rng.standard_normal(weights[name].shape) for name in names}

    def moved(distance: float) -> float:
        nearby = {**weights, **{name: weights[name] + distance * direction[name] for name in names}}
        return float((reference.pvt(nearby, images, HEADS, classify=True) * output_weights()).sum())

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    gradient = output_gradient()(params(weights), images)["params"]
    zeros = {name: np.zeros_like(value) for name, value in weights.items()}
    along = reference.to_flax({**zeros, **direction})
    terms = [
        np.asarray(g, np.float64) * d for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
    ]
    # Of sums with changing sign, the error is relative to the size of what is summed.
    size = math.sqrt(sum(float((term**2).sum()) for term in terms))
    assert abs(sum(float(term.sum()) for term in terms) - slope) < 1e-4 * size
    assert size > 0


def output_weights() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 7)).astype(np.float32)


@functools.cache
def output_gradient() -> Any:
    return quick_jit(jax.grad(lambda v, x: (toy().apply(v, x) * output_weights()).sum()))


def test_bfloat16_computes_near_float32_and_answers_in_float32():
    images, variables = pictures(64, 96), params(toy_weights())
    logits = toy_apply(dtype=jnp.bfloat16)(variables, images)
    exact = toy_apply()(variables, images)
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
    monkeypatch.setattr(pvt, "stochastic_depth_scales", lambda *arguments: jnp.asarray(scales))
    images, weights = pictures(64, 64), toy_weights()
    model = toy(drop_path_rate=0.5)
    key = jax.random.key(0)
    found = quick_jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": key}))(params(weights), images)
    expected = reference.pvt(weights, images, HEADS, classify=True, branch_scales=scales)
    assert reference.relative_error(found, expected) < 2e-5
    # Two samples that drop other branches differ from the undropped; each depends on its own column alone.
    kept = reference.pvt(weights, images, HEADS, classify=True)
    assert all(reference.relative_error(found[i], kept[i]) > 1e-2 for i in range(2))


def test_stochastic_depth_acts_only_in_training():
    images, variables = pictures(64, 64), params(toy_weights())
    np.testing.assert_array_equal(toy_apply(drop_path_rate=0.5)(variables, images), toy_apply()(variables, images))
    rate_zero = quick_jit(functools.partial(toy().apply, train=True))(variables, images)
    np.testing.assert_array_equal(rate_zero, toy_apply()(variables, images))


def test_training_with_stochastic_depth_needs_a_key():
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(
            functools.partial(toy(drop_path_rate=0.5).apply, train=True), params(toy_weights()), pictures(64, 64)
        )


# Initialisation.


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    model = create_model("pvt_tiny", depths=(1, 1, 1, 1))
    # The hardware generator: the default one, unrolled for every parameter, takes long to compile.
    tree = quick_jit(model.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 64, 64, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def test_initial_values_of_linear_maps_and_embeddings(initial):
    names = [n for n in initial if re.search(r"\.(q|kv|proj|fc1|fc2|linear)\.kernel$|pos_embed$|^cls_token$", n)]
    assert len(names) == 4 * 5 + 1 + 4 + 1
    for name in names:
        values = initial[name].ravel()
        assert abs(values.std() - 0.02) < 5 * 0.02 / math.sqrt(2 * values.size), name
        assert abs(values.mean()) < 5 * 0.02 / math.sqrt(values.size), name
        if values.size > 2**16:
            # Not truncated at two deviations, and with a normal's kurtosis.
            assert np.abs(values).max() > 3.8 * 0.02, name
            assert abs((values**4).mean() / (values**2).mean() ** 2 - 3) < 0.2, name


def test_initial_values_of_convolutions(initial):
    names = [n for n in initial if re.search(r"\.(patch_embed|sr)\.(kernel|bias)$", n)]
    assert len(names) == 2 * (4 + 3)
    for name in names:
        bound = 1 / math.sqrt(math.prod(initial[name.replace("bias", "kernel")].shape[:3]))
        values = initial[name].ravel()
        assert np.abs(values).max() <= bound, name
        assert np.abs(values).max() > 0.9 * bound, name
        # The deviation of a uniform's sample variance is √(4/45 / n) of bound².
        assert abs(values.var() - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / values.size), name


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


# The registry.


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown model 'pvt_smal': did you mean 'pvt_small'.*pvt_huge_v2"):
        create_model("pvt_smal")


def test_an_unknown_setting_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="model 'pvt_tiny' has no setting 'drop_path': did you mean 'drop_path_rate'"):
        create_model("pvt_tiny", drop_path=0.1)
    with pytest.raises(UserError, match="no setting 'parents'"):
        create_model("pvt_tiny", parents=None)


def test_a_model_has_1000_classes_unless_told():
    assert create_model("pvt_tiny").num_classes == 1000  # pyright: ignore
    assert create_model("pvt_tiny", num_classes=3).num_classes == 3  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"depths": (2, 2, 2)}, "model.depths must be four whole numbers above 0"),
        ({"mlp_ratios": (8, 8, 4, 0)}, "model.mlp_ratios must be four whole numbers above 0"),
        ({"num_heads": (3, 2, 5, 8)}, "64 is none of 3"),
    ],
)
def test_sizes_no_model_can_have(settings, expected):
    model = create_model("pvt_tiny", **settings)
    with pytest.raises(UserError, match=expected):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
