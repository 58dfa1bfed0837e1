"""PVT v2 and MiT against the reference's own outputs, and against a second implementation in float64 NumPy."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.nn import blocks, layers
from tests.helpers import numpy_models, reference, running
from tests.helpers.running import pictures, quick_jit

# Models small enough to compile soon, with two blocks in a stage where scan and remat have something to do.
HEADS = (1, 2, 3, 4)
SIZES: dict[str, Any] = {"depths": (2, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
DIFFERENCES: dict[str, dict[str, Any]] = {"sr": {}, "linear": {"linear_attention": True}}
TOYS = {kind: running.Toy("pvt_v2_b0", **SIZES, num_heads=HEADS, **settings) for kind, settings in DIFFERENCES.items()}
KINDS = pytest.mark.parametrize("kind", TOYS)


@functools.cache
def toy_weights(kind: str) -> reference.Weights:
    return running.drawn(reference.shapes_v2(**SIZES, **DIFFERENCES[kind]))


def params(weights: reference.Weights) -> Any:
    return {"params": reference.to_flax(weights)}


def oracle(weights: reference.Weights, images: np.ndarray, classify: bool = True, **options: Any) -> Any:
    return numpy_models.pvt_v2(weights, images, HEADS, classify=classify, **options)


# The reference.


# B0 runs block by block, the deeper two scanned: both ways meet the reference, and the deeper ones compile sooner.
@pytest.mark.parametrize(("name", "scan"), [("pvt_v2_b0", False), ("pvt_v2_b2", True), ("pvt_v2_b2_li", True)])
class TestGolden:
    def test_parameters_are_the_reference_s(self, name, scan):
        golden = reference.to_flax(reference.golden_weights(name))
        assert reference.parameter_shapes(create_model(name)) == jax.tree.map(np.shape, golden)
        assert sum(leaf.size for leaf in jax.tree.leaves(golden)) == int(reference.golden(name)["n_params"])

    def test_logits(self, name, scan):
        logits = quick_jit(create_model(name, scan=scan).apply)(
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


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_the_numpy_implementation_is_the_reference(name):
    """The oracle of the tests below is itself held to the reference's outputs."""
    weights, expected = reference.golden_weights(name), reference.golden(name)["logits_224"][:1]
    logits = numpy_models.pvt_v2(weights, pictures(224, 224)[:1], (1, 2, 5, 8), classify=True)
    assert reference.relative_error(logits, expected) < 1e-5


# Image sizes.


# Sizes that 32 divides are the goldens'. Sides of the linear attention's maps are above and below the 7 it pools to, 7
# and 14 themselves, and odd.
@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [
        *(("sr", *size) for size in ((70, 101), (33, 47), (29, 30))),
        *(("linear", *size) for size in ((70, 101), (33, 47), (28, 56), (3, 17))),
    ],
)
def test_any_image_size_agrees_with_numpy(kind, height, width):
    images, weights = pictures(height, width), toy_weights(kind)
    logits, maps = TOYS[kind].both()(params(weights), images)
    running.assert_maps(maps, oracle(weights, images, classify=False))
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert reference.relative_error(logits, oracle(weights, images)) < 2e-5


@KINDS
def test_map_shapes(kind):
    for height, width in ((448, 448), (256, 832), (70, 101), (1333, 800)):
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        apply = functools.partial(TOYS[kind]().apply, method="features")
        maps = jax.eval_shape(apply, params(toy_weights(kind)), images)
        found = {level: value.shape for level, value in maps.items()}
        sides = {n: (-(-height // 2**n), -(-width // 2**n)) for n in (2, 3, 4, 5)}
        assert found == {f"c{n}": (1, *sides[n], dim) for n, dim in zip(sides, SIZES["dims"], strict=True)}


@pytest.mark.parametrize(("height", "width"), [(28, 64), (64, 28), (8, 8)])
def test_too_small_images_are_named(height, width):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    with pytest.raises(UserError) as error:
        jax.eval_shape(TOYS["sr"]().apply, params(toy_weights("sr")), images)
    assert str(error.value) == (
        f"an image of {height}×{width} is too small: stage 1 has stride 4 and reduces its map by 8 for attention, "
        "so both sides must be at least 29"
    )


# Variants.


def test_mit_has_a_smaller_feed_forward():
    """SegFormer's encoder is the same network; its ratio of 4 is what tells the first two stages apart."""
    weights = running.drawn(reference.shapes_v2(**SIZES, mlp_ratios=(4, 4, 4, 4)))
    model = create_model("mit_b0", **SIZES, num_heads=HEADS)
    assert reference.parameter_shapes(model) == jax.tree.map(np.shape, reference.to_flax(weights))
    images = pictures(64, 96)
    assert reference.relative_error(quick_jit(model.apply)(params(weights), images), oracle(weights, images)) < 2e-5


def test_linear_attention_has_no_use_for_the_reductions():
    images, variables = pictures(64, 96), params(toy_weights("linear"))
    other = TOYS["linear"].apply(sr_ratios=(64, 64, 64, 64))(variables, images)
    np.testing.assert_array_equal(other, TOYS["linear"].apply()(variables, images))


# Layers.


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("grid", [(3, 5), (1, 4)])
def test_feed_forward_agrees_with_numpy(rectified, grid):
    dim, hidden = 4, 12
    weights = running.drawn(
        {
            **{"mlp.fc1.weight": (hidden, dim), "mlp.fc1.bias": (hidden,)},
            **{"mlp.dwconv.dwconv.weight": (hidden, 1, 3, 3), "mlp.dwconv.dwconv.bias": (hidden,)},
            **{"mlp.fc2.weight": (dim, hidden), "mlp.fc2.bias": (dim,)},
        }
    )
    x = pictures(*grid, batch=2).repeat(2, -1)[..., :dim].reshape(2, -1, dim)
    layer = layers.FeedForward(dim, hidden, depthwise=True, rectified=rectified)
    found = jax.jit(lambda p, x: layer.apply({"params": p}, x, grid))(reference.to_flax(weights)["mlp"], x)
    first = numpy_models.linear(weights, "mlp.fc1", x).reshape(2, *grid, hidden)
    first = np.maximum(first, 0) if rectified else first
    second = numpy_models.gelu(numpy_models.overlapping_convolution(weights, "mlp.dwconv.dwconv", first, 1))
    expected = numpy_models.linear(weights, "mlp.fc2", second.reshape(2, -1, hidden))
    assert reference.relative_error(found, expected) < 1e-5


def faint(weights: reference.Weights) -> reference.Weights:
    """Weights for which the variance before every norm is about 1e-6, so that its epsilon decides its output."""
    small = {}
    for key, value in weights.items():
        quiet = re.search(r"^patch_embed|attn\.proj|mlp\.fc2", key)
        # What this convolution reads has passed a norm whose epsilon halves it already.
        small[key] = value * np.float32(1e-3 if quiet else 2e-3 if ".attn.sr." in key else 1.0)
    return small


EXCHANGED = {"patch": 1e-6, "sr": 1e-6, "block": 1e-5, "final": 1e-5}


@KINDS
def test_the_epsilon_of_every_norm_is_the_reference_s(kind):
    images, weights = pictures(64, 96), faint(toy_weights(kind))
    expected = oracle(weights, images)
    assert reference.relative_error(TOYS[kind].apply()(params(weights), images), expected) < 1e-4
    for norm, epsilon in EXCHANGED.items():
        other = oracle(weights, images, epsilons={norm: epsilon})
        assert reference.relative_error(other, expected) > 2e-3, f"this test would not notice the epsilon of {norm}"


# Ways to run: the same parameters, results and gradients.


@pytest.mark.parametrize(("kind", "settings"), [("sr", {"remat": True}), ("linear", {"scan": True})], ids=str)
def test_remat_and_scan_change_no_result(kind, settings):
    toy = TOYS[kind]
    assert reference.parameter_shapes(toy(**settings)) == reference.parameter_shapes(toy())
    arguments = params(toy_weights(kind)), pictures(64, 48), output_weights()
    logits, gradient = toy.gradient(**settings)(*arguments)
    expected, expected_gradient = toy.gradient()(*arguments)
    assert reference.relative_error(logits, np.asarray(expected)) < 1e-5
    running.assert_gradients_are_equal(gradient, expected_gradient)


@pytest.mark.parametrize(
    "names",
    [
        r"patch_embed.*proj\.weight",
        r"patch_embed.*proj\.bias",
        r"attn\.sr\.weight",
        r"attn\.sr\.bias",
        r"attn\.(q|kv|proj)\.weight",
        r"attn\.(q|kv|proj)\.bias",
        r"mlp\.fc[12]\.weight",
        r"mlp\.fc[12]\.bias",
        r"dwconv\.weight",
        r"dwconv\.bias",
        r"norm\d?\.weight",
        r"norm\d?\.bias",
        r"head\.weight",
        r"head\.bias",
    ],
)
@KINDS
def test_gradients_agree_with_differences_of_numpy(kind, names):
    """The slope of the NumPy model in a random direction of all parameters of one kind."""
    images, weights = pictures(64, 48), toy_weights(kind)
    _, gradient = TOYS[kind].gradient()(params(weights), images, output_weights())
    running.assert_slope(lambda nearby: oracle(nearby, images) * output_weights(), gradient, weights, names)


def output_weights() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 7)).astype(np.float32)


@KINDS
def test_bfloat16_computes_near_float32_and_answers_in_float32(kind):
    images, variables = pictures(64, 96), params(toy_weights(kind))
    logits = TOYS[kind].apply(dtype=jnp.bfloat16)(variables, images)
    exact = TOYS[kind].apply()(variables, images)
    assert logits.dtype == jnp.float32
    assert 1e-5 < reference.relative_error(logits, np.asarray(exact)) < 0.05
    model = TOYS[kind](dtype=jnp.bfloat16)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    maps = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
    assert {found.dtype for found in maps.values()} == {jnp.dtype("bfloat16")}


# Stochastic depth.


def test_training_multiplies_the_branches_by_the_drawn_scales(monkeypatch):
    scales = np.random.default_rng(0).choice([0.0, 1.0, 1.5], (5, 2, 2)).astype(np.float32)
    drawn_with = []
    monkeypatch.setattr(blocks, "stochastic_depth_scales", lambda *a: drawn_with.append(a[1:]) or jnp.asarray(scales))
    images, weights = pictures(64, 64), toy_weights("sr")
    model = TOYS["sr"](drop_path_rate=0.5)
    key = jax.random.key(0)
    found = quick_jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": key}))(params(weights), images)
    assert drawn_with == [(0.5, 5, 2)]
    assert reference.relative_error(found, oracle(weights, images, branch_scales=scales)) < 2e-5
    kept = oracle(weights, images)
    assert all(reference.relative_error(found[i], kept[i]) > 1e-2 for i in range(2))


def test_stochastic_depth_acts_only_in_training():
    images, variables = pictures(64, 96), params(toy_weights("sr"))
    plain = TOYS["sr"].apply()(variables, images)
    np.testing.assert_array_equal(TOYS["sr"].apply(drop_path_rate=0.5)(variables, images), plain)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(functools.partial(TOYS["sr"](drop_path_rate=0.5).apply, train=True), variables, images)


# Initialisation.


@pytest.fixture(scope="module", params=DIFFERENCES)
def initial(request) -> dict[str, np.ndarray]:
    return running.initial_values(create_model("pvt_v2_b0", depths=(1, 1, 1, 1), **DIFFERENCES[request.param]), side=32)


def test_initial_values_of_linear_maps(initial):
    names = [n for n in initial if re.search(r"\.(q|kv|proj|fc1|fc2|linear)\.kernel$", n)]
    assert len(names) == 4 * 5 + 1
    running.assert_normal(initial, names, 0.02)


def test_initial_values_of_convolutions(initial):
    """N(0, √(2 / fan_out)), with the fan of one channel where the convolution is depthwise."""
    names = [n for n in initial if re.search(r"\.(patch_embed|sr|dwconv)\.kernel$", n)]
    linear = "stage4.block0.attn.sr.kernel" in initial
    assert len(names) == 4 + 4 + (4 if linear else 3)
    for name in names:
        side, _, _, dim = initial[name].shape
        fan_out = side * side * (1 if "dwconv" in name else dim)
        running.assert_normal(initial, [name], (2 / fan_out) ** 0.5)


def test_initial_values_of_norms_and_biases(initial):
    scales = [n for n in initial if n.endswith(".scale")]
    biases = [n for n in initial if n.endswith(".bias")]
    assert len(scales) == 4 * 4 + (4 if "stage4.block0.attn.sr.kernel" in initial else 3)
    assert len(biases) == len([n for n in initial if n.endswith(".kernel")]) + len(scales)
    assert all((initial[name] == 1).all() for name in scales)
    assert all((initial[name] == 0).all() for name in biases)


@KINDS
def test_parameters_do_not_depend_on_the_first_call(kind):
    toy = TOYS[kind]
    expected = reference.parameter_shapes(toy())
    assert expected == jax.tree.map(np.shape, reference.to_flax(toy_weights(kind)))
    assert reference.parameter_shapes(toy(scan=True, remat=True), method="features") == expected
    assert reference.parameter_shapes(toy(image_size=(96, 32)), 70, 101) == expected
