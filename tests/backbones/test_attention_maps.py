"""``attention_maps``: names, shapes and values against NumPy and Hugging Face."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.nn.layers import AttentionMap
from tests.helpers import numpy_models, reference, running
from tests.helpers.running import pictures

# Small models of every kind of attention, images of 64×96, and what their maps should be: block → rows and columns of
# the queries and of the keys.
HEADS, SIZES = (1, 2, 3, 4), {"depths": (2, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 7}
STAGES = ("stage1/block0", "stage1/block1", "stage2/block0", "stage3/block0", "stage4/block0")
QUERIES = [(16, 24), (16, 24), (8, 12), (4, 6), (2, 3)]
TOYS = {
    "pvt": running.Toy("pvt_tiny", **SIZES, num_heads=HEADS, image_size=64),
    "pvt_v2": running.Toy("pvt_v2_b0", **SIZES, num_heads=HEADS),
    "pvt_v2_linear": running.Toy("pvt_v2_b2_li", **SIZES, num_heads=HEADS),
    "vit": running.Toy("vit_tiny_patch16", depth=12, dim=16, num_heads=2, num_classes=7, image_size=64),
}
WEIGHTS = {
    "pvt": reference.shapes(**SIZES, table_side=64),
    "pvt_v2": reference.shapes_v2(**SIZES),
    "pvt_v2_linear": reference.shapes_v2(**SIZES, linear_attention=True),
    "vit": reference.vit_shapes(12, 16, 16, 64, 7),
}
GRIDS = {
    "pvt": list(zip(STAGES, QUERIES, [(2, 3)] * 5, strict=True)),
    "pvt_v2": list(zip(STAGES, QUERIES, [(2, 3)] * 5, strict=True)),
    "pvt_v2_linear": list(zip(STAGES, QUERIES, [(7, 7)] * 5, strict=True)),
    "vit": [(f"block{i}", (4, 6), (4, 6)) for i in range(12)],
}
KINDS = pytest.mark.parametrize("kind", TOYS)


def numpy_attention(kind: str, weights: reference.Weights, images: np.ndarray) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    if kind == "vit":
        numpy_models.vit(weights, images, 2, kept=kept)
    else:
        run = numpy_models.pvt if kind == "pvt" else numpy_models.pvt_v2
        run(weights, images, HEADS, classify=True, kept=kept)
    return kept


@functools.cache
def found(kind: str) -> dict[str, AttentionMap]:
    """Of images of 64×96, compiled."""
    variables = {"params": reference.to_flax(running.drawn(WEIGHTS[kind]))}
    return TOYS[kind].apply("attention_maps")(variables, pictures(64, 96))


@KINDS
def test_every_block_has_a_map_in_the_order_of_computation(kind):
    # Compiled functions return dicts sorted by name; block10 comes after block9.
    variables = {"params": reference.to_flax(running.drawn(WEIGHTS[kind]))}
    order = []
    jax.eval_shape(
        lambda v, x: order.extend(TOYS[kind]().apply(v, x, method="attention_maps")), variables, pictures(64, 96)
    )
    assert order == [name for name, _, _ in GRIDS[kind]]
    assert sorted(found(kind)) == sorted(order)


@KINDS
def test_shapes_are_told(kind):
    for name, queries, keys in GRIDS[kind]:
        one = found(kind)[name]
        last = name.startswith("stage4") or kind == "vit"
        extra = int(last and kind in ("pvt", "vit"))
        assert (one.query_grid, one.key_grid, one.extra_tokens) == (queries, keys, extra)
        # The class token is a key only where keys are not reduced.
        expected = (queries[0] * queries[1] + extra, keys[0] * keys[1] + extra)
        heads = 2 if kind == "vit" else HEADS[int(name[5]) - 1]
        assert one.weights.shape == (2, heads, *expected) and one.weights.dtype == jnp.float32


@KINDS
def test_weights_agree_with_numpy(kind):
    weights = running.drawn(WEIGHTS[kind])
    expected = numpy_attention(kind, weights, pictures(64, 96))
    assert len(expected) == len(GRIDS[kind])
    for (name, _, _), wanted in zip(GRIDS[kind], expected, strict=True):
        one = np.asarray(found(kind)[name].weights)
        assert reference.relative_error(one, wanted) < 2e-5
        np.testing.assert_allclose(one.sum(-1), 1.0, atol=1e-5)
        # What is compared is not the same everywhere.
        assert one.std() > 1e-2 * one.mean()


@pytest.mark.parametrize(
    ("kind", "settings"), [("pvt", {"scan": True}), ("pvt_v2", {"remat": True, "scan": True}), ("vit", {"scan": True})]
)
def test_scanned_and_recomputed_models_have_them_too(kind, settings):
    variables = {"params": reference.to_flax(running.drawn(WEIGHTS[kind]))}
    maps = TOYS[kind].apply("attention_maps", **settings)(variables, pictures(64, 96))
    for name, one in found(kind).items():
        assert reference.relative_error(maps[name].weights, np.asarray(one.weights)) < 1e-5


def test_they_are_float32_in_a_model_of_bfloat16():
    variables = {"params": reference.to_flax(running.drawn(WEIGHTS["pvt_v2"]))}
    maps = TOYS["pvt_v2"].apply("attention_maps", dtype=jnp.bfloat16)(variables, pictures(64, 96))
    for name, one in maps.items():
        assert one.weights.dtype == jnp.float32
        np.testing.assert_allclose(one.weights.sum(-1), 1.0, atol=1e-5)
        assert reference.relative_error(one.weights, np.asarray(found("pvt_v2")[name].weights)) < 0.1


def test_a_model_without_attention_says_so():
    model: Any = create_model("resnet18", depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(UserError) as error:
        jax.eval_shape(functools.partial(model.apply, method="attention_maps"), variables, jnp.zeros((1, 32, 32, 3)))
    assert str(error.value) == "ResNet has no attention: attention_maps is for the transformers"


@pytest.mark.parametrize("kind", ["pvt_v2", "pvt_v2_linear"])
def test_weights_agree_with_hugging_face(kind):
    from tests.helpers import oracles

    linear = kind == "pvt_v2_linear"
    model, weights = oracles.hf_pvt_v2(**SIZES, num_heads=HEADS, linear_attention=linear)
    expected = oracles.hf_attention(model, pictures(64, 96))
    variables = {"params": reference.to_flax(weights)}
    maps = TOYS[kind].apply("attention_maps")(variables, pictures(64, 96))
    assert len(expected) == len(maps)
    for (name, _, _), wanted in zip(GRIDS[kind], expected, strict=True):
        assert reference.relative_error(maps[name].weights, wanted) < 2e-5


@pytest.mark.parametrize("kind", ["pvt", "pvt_v2_linear", "vit"])
def test_padding_changes_nothing_and_is_told(kind):
    variables = {"params": reference.to_flax(running.drawn(WEIGHTS[kind]))}
    images, size = pictures(96, 128), (96, 64)
    padded = TOYS[kind].apply("attention_maps")(variables, images, jnp.array([size, (64, 128)]))
    alone = TOYS[kind].apply("attention_maps")(variables, images[:1, :96, :64], jnp.array([size]))
    for name in ("block11",) if kind == "vit" else ("stage1/block1", "stage4/block0"):
        one = padded[name]
        rows, columns = one.key_sizes[0].tolist()
        assert alone[name].key_grid == (rows, columns)
        weights = np.asarray(one.of_keys()[0])
        np.testing.assert_allclose(weights[:rows, :columns], alone[name].of_keys()[0], atol=1e-5)
        assert not weights[rows:].any() and not weights[:, columns:].any()


def test_weights_of_keys_are_those_of_the_class_token_or_the_mean_of_the_queries():
    weights = jnp.arange(2 * 3 * 5 * 5, dtype=jnp.float32).reshape(2, 3, 5, 5)
    token = AttentionMap(weights, (2, 2), (2, 2), 1).of_keys()
    np.testing.assert_allclose(token, np.asarray(weights)[:, :, 0, 1:].mean(1).reshape(2, 2, 2))
    plain = AttentionMap(weights[:, :, :4], (2, 2), (1, 5))
    np.testing.assert_allclose(plain.of_keys(), np.asarray(weights)[:, :, :4].mean((1, 2))[:, None])
    padded = AttentionMap(weights[:, :, :4], (2, 2), (1, 5), 0, jnp.array([[1, 2], [2, 1]]))
    expected = [np.asarray(weights)[row][:, queries].mean((0, 1)) for row, queries in ((0, [0, 1]), (1, [0, 2]))]
    np.testing.assert_allclose(padded.of_keys()[:, 0], expected)
