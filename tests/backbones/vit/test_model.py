"""ViT against a second implementation in float64 NumPy; against Hugging Face's in ``test_parity.py``."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.nn import blocks
from tests.helpers import numpy_models, reference, running
from tests.helpers.running import pictures, quick_jit

# A model small enough to compile soon. Its table is for 64×64 images, so that 64×96 resizes it.
HEADS, PATCH = 2, 16
SIZES: dict[str, Any] = {"depth": 3, "dim": 24, "num_classes": 7}
toy = running.Toy("vit_tiny_patch16", **SIZES, num_heads=HEADS, image_size=64)


@functools.cache
def toy_weights() -> reference.Weights:
    return running.drawn(reference.vit_shapes(**SIZES, patch=PATCH, table_side=64))


def params(weights: reference.Weights) -> Any:
    return {"params": reference.to_flax(weights)}


def logits_of(weights: reference.Weights, images: np.ndarray, **options: Any) -> np.ndarray:
    return numpy_models.vit(weights, images, HEADS, **options)[0]


# Image sizes, and the pyramid that a columnar network does not have by itself.


def triangle(grid: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """[b, h, w, c] → [b, *target, c] by weights that fall linearly to 0 at one pixel of the coarser grid."""
    matrices = []
    for old, new in zip(grid.shape[1:3], target, strict=True):
        scale = max(old / new, 1.0)
        centres = (np.arange(new) + 0.5) * old / new - 0.5
        weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(old)) / scale, 0)
        matrices.append(weights / weights.sum(1, keepdims=True))
    return np.einsum("yh,bhwc,xw->byxc", matrices[0], grid, matrices[1])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (70, 101), (128, 33), (32, 32)])
def test_any_image_size_agrees_with_numpy(height, width):
    images, weights = pictures(height, width), toy_weights()
    logits, maps = toy.both()(params(weights), images)
    expected, last = numpy_models.vit(weights, images, HEADS)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert reference.relative_error(logits, expected) < 2e-5
    assert last.shape[1:3] == (height // PATCH, width // PATCH)
    running.assert_maps(maps, {f"c{n}": triangle(last, (height >> n, width >> n)) for n in (2, 3, 4, 5)})


def test_one_level_is_the_last_map_itself():
    images, weights = pictures(64, 96), toy_weights()
    _, maps = toy.both()(params(weights), images)
    assert reference.relative_error(maps["c4"], numpy_models.vit(weights, images, HEADS)[1]) < 1e-5


@pytest.mark.parametrize(("patch", "sides"), [(4, (5, 9)), (32, (32, 70))])
def test_other_patches_agree_with_numpy(patch, sides):
    weights = running.drawn(reference.vit_shapes(**SIZES, patch=patch, table_side=64))
    model = create_model(f"vit_small_patch{patch}", **SIZES, num_heads=HEADS, image_size=64)
    images = pictures(*sides)
    assert reference.relative_error(quick_jit(model.apply)(params(weights), images), logits_of(weights, images)) < 2e-5


@pytest.mark.parametrize("patch", [4, 16, 32])
def test_map_shapes(patch):
    model = create_model(f"vit_base_patch{patch}", **SIZES, num_heads=HEADS)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    for height, width in ((448, 448), (256, 832), (70, 101), (33, 32)):
        images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        maps = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
        found = {level: value.shape for level, value in maps.items()}
        assert found == {f"c{n}": (1, height >> n, width >> n, 24) for n in (2, 3, 4, 5)}


@pytest.mark.parametrize(
    ("method", "height", "width", "least"),
    [("__call__", 15, 64, 16), ("features", 64, 31, 32), ("features", 16, 16, 32)],
)
def test_too_small_images_are_named(method, height, width, least):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    with pytest.raises(UserError) as error:
        jax.eval_shape(functools.partial(toy().apply, method=method), params(toy_weights()), images)
    assert str(error.value) == f"an image of {height}×{width} is too small: both sides must be at least {least}"


def test_pixels_beyond_the_last_whole_patch_change_nothing():
    images, variables = pictures(70, 101), params(toy_weights())
    other = np.array(images)
    other[:, 64:] += 100.0
    other[:, :, 96:] -= 100.0
    for one, two in zip(*(jax.tree.leaves(toy.both()(variables, x)) for x in (images, other)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_tables_can_be_made_for_images_that_are_not_square():
    model = toy(image_size=(32, 80))
    assert reference.parameter_shapes(model)["pos_embed"] == (1, 1 + 2 * 5, 24)
    images, weights = pictures(32, 80), toy_weights()
    table = reference.reference_weight("other.pos_embed", (1, 1 + 2 * 5, 24))
    found = quick_jit(model.apply)(params({**weights, "pos_embed": table}), images)
    # The oracle's table is square: there the positions come with the pixels.
    plain = {**weights, "pos_embed": np.zeros_like(weights["pos_embed"])}
    plain["pos_embed"][:, 0] = table[:, 0]
    expected = logits_of(plain, images + pixels_of(table[0, 1:].reshape(2, 5, 24), weights))
    assert reference.relative_error(found, expected) < 2e-5


def pixels_of(embedded: np.ndarray, weights: reference.Weights) -> np.ndarray:
    """[rows, columns, c] → a picture whose patches embed to it, but for the bias. A patch has more numbers than c."""
    rows, columns, dim = embedded.shape
    inverse = np.linalg.pinv(weights["patch_embed.proj.weight"].reshape(dim, -1).astype(np.float64))
    patches = (embedded @ inverse.T).reshape(rows, columns, 3, PATCH, PATCH)
    return patches.transpose(0, 3, 1, 4, 2).reshape(rows * PATCH, columns * PATCH, 3)


# Ways to run: the same parameters, results and gradients.


@pytest.mark.parametrize("settings", [{"remat": True}, {"scan": True}], ids=str)
def test_remat_and_scan_change_no_result(settings):
    assert reference.parameter_shapes(toy(**settings)) == reference.parameter_shapes(toy())
    arguments = params(toy_weights()), pictures(32, 48), output_weights(), jax.random.key(5)
    logits, gradient = toy.gradient(**settings, drop_path_rate=0.5)(*arguments)
    expected, expected_gradient = toy.gradient(drop_path_rate=0.5)(*arguments)
    assert reference.relative_error(logits, np.asarray(expected)) < 1e-5
    running.assert_gradients_are_equal(gradient, expected_gradient)


@pytest.mark.parametrize(
    "names",
    [
        r"pos_embed",
        r"cls_token",
        r"patch_embed.proj\.weight",
        r"patch_embed.proj\.bias",
        r"attn\.(qkv|proj)\.weight",
        r"attn\.(qkv|proj)\.bias",
        r"mlp\.fc[12]\.weight",
        r"mlp\.fc[12]\.bias",
        r"norm\d?\.weight",
        r"norm\d?\.bias",
        r"head\.weight",
        r"head\.bias",
    ],
)
def test_gradients_agree_with_differences_of_numpy(names):
    """The slope of the NumPy model in a random direction of all parameters of one kind."""
    images, weights = pictures(32, 48), toy_weights()
    _, gradient = toy.gradient()(params(weights), images, output_weights())
    running.assert_slope(lambda nearby: logits_of(nearby, images) * output_weights(), gradient, weights, names)


def output_weights() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 7)).astype(np.float32)


def test_the_epsilon_of_every_norm_is_the_reference_s():
    """With a residual stream of which the variance is about 1e-6, so that the epsilon decides what a norm gives."""
    quiet = r"^pos_embed|^cls_token|^patch_embed|attn\.proj|mlp\.fc2"
    weights = {key: w * np.float32(1e-3 if re.search(quiet, key) else 1) for key, w in toy_weights().items()}
    images = pictures(64, 96)
    expected = logits_of(weights, images)
    assert reference.relative_error(toy.apply()(params(weights), images), expected) < 1e-4
    for norm in ("block", "final"):
        other = logits_of(weights, images, epsilons={norm: 1e-5})
        assert reference.relative_error(other, expected) > 2e-3, f"this test would not notice the epsilon of {norm}"


def test_bfloat16_computes_near_float32_and_answers_in_float32():
    images, variables = pictures(64, 96), params(toy_weights())
    logits = toy.apply(dtype=jnp.bfloat16)(variables, images)
    exact = toy.apply()(variables, images)
    assert logits.dtype == jnp.float32
    assert 1e-5 < reference.relative_error(logits, np.asarray(exact)) < 0.05
    model = toy(dtype=jnp.bfloat16)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    maps = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
    assert {found.dtype for found in maps.values()} == {jnp.dtype("bfloat16")}


# Stochastic depth.


def test_training_multiplies_the_branches_by_the_drawn_scales(monkeypatch):
    scales = np.random.default_rng(0).choice([0.0, 1.0, 1.5], (3, 2, 2)).astype(np.float32)
    monkeypatch.setattr(blocks, "stochastic_depth_scales", lambda *arguments: jnp.asarray(scales))
    images, weights = pictures(64, 64), toy_weights()
    model, key = toy(drop_path_rate=0.5), jax.random.key(0)
    found = quick_jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": key}))(params(weights), images)
    assert reference.relative_error(found, logits_of(weights, images, branch_scales=scales)) < 2e-5
    kept = logits_of(weights, images)
    assert all(reference.relative_error(found[i], kept[i]) > 1e-2 for i in range(2))


def test_stochastic_depth_acts_only_in_training():
    images, variables = pictures(64, 96), params(toy_weights())
    plain = toy.apply()(variables, images)
    np.testing.assert_array_equal(toy.apply(drop_path_rate=0.5)(variables, images), plain)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(functools.partial(toy(drop_path_rate=0.5).apply, train=True), variables, images)


# Initialisation.


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    return running.initial_values(create_model("vit_tiny_patch16", depth=1))


def test_initial_values(initial):
    linear = [n for n in initial if re.search(r"\.(q|kv|proj|fc1|fc2|linear)\.kernel$|pos_embed$|^cls_token$", n)]
    patches = [n for n in initial if n.startswith("patch_embed.")]
    scales = [n for n in initial if n.endswith(".scale")]
    biases = [n for n in initial if n.endswith(".bias") and n not in patches]
    assert (len(linear), len(patches), len(scales), len(biases)) == (5 + 1 + 2, 2, 3, 5 + 1 + 3)
    assert len(initial) == 8 + 2 + 3 + 9
    running.assert_normal(initial, linear, 0.02)
    running.assert_uniform(initial, patches)
    assert all((initial[name] == 1).all() for name in scales)
    assert all((initial[name] == 0).all() for name in biases)


def test_parameters_do_not_depend_on_the_first_call():
    expected = reference.parameter_shapes(toy())
    assert expected == jax.tree.map(np.shape, reference.to_flax(toy_weights()))
    assert reference.parameter_shapes(toy(scan=True, remat=True), method="features") == expected
    assert reference.parameter_shapes(toy(), 70, 101) == expected
