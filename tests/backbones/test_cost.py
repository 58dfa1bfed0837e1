"""Multiply-accumulates: published tables, two counts that know nothing of each other, and XLA's; and kept bytes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.backbones.cost import multiply_accumulates
from pvt_jax.errors import UserError
from pvt_jax.models import create_model, list_models
from pvt_jax.ops.depthwise import depthwise_conv3x3
from pvt_jax.ops.pooling import adaptive_average_pool
from pvt_jax.trace import (
    Products,
    abstract_variables,
    function_products,
    kept_for_backward,
    parameters_by_part,
    traced_multiply_accumulates,
    training_memory,
    tree_bytes,
)
from tests.helpers import reference

# At 224², in units of 10⁹, to the last digit given. PVT and MiT: from the reference's definitions, attention included.
# ResNet and ViT-Base: what torchvision publishes with its weights.
PUBLISHED = {
    "pvt_tiny": 1.933,
    "pvt_small": 3.816,
    "pvt_medium": 6.659,
    "pvt_large": 9.814,
    "pvt_huge_v2": 50.5,
    "pvt_v2_b0": 0.566,
    "pvt_v2_b1": 2.108,
    "pvt_v2_b2": 4.027,
    "pvt_v2_b2_li": 3.889,
    "pvt_v2_b3": 6.897,
    "pvt_v2_b4": 10.101,
    "pvt_v2_b5": 11.717,
    "mit_b5": 11.717,  # the same network as pvt_v2_b5
    "resnet18": 1.81,
    "resnet50": 4.089,
    "vit_base_patch16": 17.564,
}
# timm's, which rounds and counts some more: within a hundredth.
NEARLY = {"vit_tiny_patch16": 1.26, "vit_small_patch16": 4.61, "resnet34": 3.66, "resnet101": 7.8}

PVT = {"dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}
TOYS: dict[str, dict[str, Any]] = {
    "pvt_tiny": {"depths": (2, 1, 1, 1), "image_size": 64, **PVT},
    "pvt_v2_b0": {"depths": (2, 1, 1, 1), **PVT},
    "pvt_v2_b2_li": {"depths": (2, 1, 1, 1), **PVT},
    "vit_tiny_patch16": {"depth": 2, "dim": 24, "num_heads": 3, "patch_size": 8, "image_size": 64},
    "resnet18": {"depths": (2, 1, 3, 1), "dims": (8, 16, 24, 32)},
    "resnet50": {"depths": (2, 1, 3, 1), "dims": (8, 16, 24, 32)},
}


@functools.cache
def toy(name: str, **options: Any) -> Any:
    return create_model(name, **{"num_classes": 7, **TOYS[name], **options})


@functools.cache
def variables_of(name: str) -> Any:
    """They do not depend on the size of the images."""
    return abstract_variables(toy(name), 64, 64)


def formulas(model: Any, height: int, width: int) -> dict[str, tuple[int, int]]:
    return {name: cost[1:] for name, cost in multiply_accumulates(model, height, width).items()}


def traced(model: Any, height: int, width: int, **options: Any) -> dict[str, tuple[int, int]]:
    found = traced_multiply_accumulates(model, height, width, **options)
    return {name: (products.weights, products.attention) for name, products in found.items()}


def total(model: Any, height: int, width: int) -> int:
    return sum(cost.total for cost in multiply_accumulates(model, height, width).values())


# Formulas.


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(name):
    published = str(PUBLISHED[name])
    digits = len(published.partition(".")[2])
    assert f"{total(create_model(name), 224, 224) / 1e9:.{digits}f}" == published


@pytest.mark.parametrize("name", NEARLY)
def test_what_others_count_nearly_alike(name):
    assert total(create_model(name), 224, 224) / 1e9 == pytest.approx(NEARLY[name], rel=0.01)


def test_by_hand():
    """One block a stage on 64×64, every product written out."""
    model = create_model("pvt_tiny", depths=(1, 1, 1, 1), num_classes=7, **PVT)
    costs = multiply_accumulates(model, 64, 64)
    # 16×16 tokens of 8 channels; keys from 2×2 patches of 8×8; hidden 64.
    assert costs["stage1"] == (
        (16, 16, 8),
        256 * 48 * 8 + (256 * 8 * 8 + 4 * 512 * 8 + 4 * 8 * 16 + 256 * 8 * 8 + 2 * 256 * 8 * 64),
        2 * 256 * 4 * 8,
    )
    # 2×2 tokens of 32 channels and the class token, which attends and is attended to; hidden 128.
    assert costs["stage4"] == (
        (2, 2, 32),
        4 * (2 * 2 * 24) * 32 + (5 * 32 * 32 + 5 * 32 * 64 + 5 * 32 * 32 + 2 * 5 * 32 * 128),
        2 * 5 * 5 * 32,
    )
    assert costs["head"] == ((7,), 32 * 7, 0)
    assert costs["stage4"].total == sum(costs["stage4"][1:])


@pytest.mark.parametrize("name", TOYS)
def test_outputs_are_those_of_the_maps(name):
    model, height, width = toy(name), 70, 101
    costs = multiply_accumulates(model, height, width)
    variables, images = variables_of(name), jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    assert costs["head"].output == jax.eval_shape(model.apply, variables, images).shape[1:]
    if "stage1" in costs:
        maps = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
        assert [costs[f"stage{i}"].output for i in (1, 2, 3, 4)] == [found.shape[1:] for found in maps.values()]


def test_pyramid_pooling_widens_the_head_alone():
    for name in TOYS:
        plain, pooled = formulas(toy(name), 64, 64), formulas(toy(name, spp_levels=(1, 2)), 64, 64)
        assert pooled["head"][0] == 5 * plain["head"][0]
        assert {**pooled, "head": plain["head"]} == plain
        assert traced(toy(name, spp_levels=(1, 2)), 64, 64) == pooled


def test_a_change_undone_costs_what_it_is_by_hand():
    """One block a stage on 64×64: 16×16 tokens of 8 channels and a hidden 64 in stage 1."""
    costs = {
        undone: multiply_accumulates(toy("pvt_v2_b0", depths=(1, 1, 1, 1), **{undone: False}), 64, 64)["stage1"]
        for undone in ("position_tables", "overlapping", "depthwise")
    }
    whole = 256 * (7 * 7 * 3) * 8 + (256 * 8 * 8 + 4 * 512 * 8 + 4 * 8 * 16 + 256 * 8 * 8) + 256 * 64 * (2 * 8 + 9)
    assert {undone: cost.weights for undone, cost in costs.items()} == {
        "position_tables": whole,
        "overlapping": whole - 256 * (7 * 7 - 4 * 4) * 3 * 8,
        "depthwise": whole - 256 * 64 * 9,
    }


def test_a_model_without_class_token_has_a_token_less():
    """The last stage of PVT v1 on 64×64: 2×2 tokens of 32 channels, hidden 128; all tokens attend to all."""
    with_token, without = (toy("pvt_tiny", depths=(1, 1, 1, 1), pool=pool) for pool in ("", "mean"))
    one, other = (multiply_accumulates(model, 64, 64) for model in (with_token, without))
    assert one["stage4"].weights - other["stage4"].weights == 4 * 32 * 32 + 2 * 32 * 128
    assert one["stage4"].attention - other["stage4"].attention == 2 * (5 * 5 - 4 * 4) * 32
    assert {**one, "stage4": 0} == {**other, "stage4": 0}


def test_a_module_without_a_formula():
    with pytest.raises(TypeError, match="no formula for the multiply-accumulates of Dense"):
        multiply_accumulates(nn.Dense(3), 64, 64)


# The traced count against the formulas: the same integers, by part.


# Scanned, so that the deep ones trace soon; that it changes nothing is tested below.
@pytest.mark.parametrize("name", list_models())
def test_both_counts_agree_for_every_model(name):
    model = create_model(name, scan=True)
    variables = reference.deep_variables(model)
    # Models of one family differ in numbers, not in formulas: those of a toy each are counted at a second size.
    for height, width in ((224, 224), (256, 832))[: 1 + (name in TOYS)]:
        assert traced(model, height, width, variables=variables) == formulas(model, height, width)


@pytest.mark.parametrize("name", TOYS)
def test_both_counts_agree_however_blocks_are_run(name):
    # Scanned alone is each model above.
    expected = formulas(toy(name), 70, 101)
    for options in ({}, {"remat": True, "scan": True}, {"remat": True, "dtype": jnp.bfloat16}):
        assert traced(toy(name, **options), 70, 101, variables=variables_of(name)) == expected, options


@pytest.mark.parametrize("name", TOYS)
def test_a_batch_costs_as_often_as_it_has_images(name):
    variables = variables_of(name)
    one = traced(toy(name), 64, 96, variables=variables)
    three = traced(toy(name), 64, 96, batch=3, variables=variables)
    assert three == {part: tuple(3 * n for n in counts) for part, counts in one.items()}


SIDES = st.integers(32, 160)


@settings(max_examples=5)
@given(
    data=st.data(),
    height=SIDES,
    width=SIDES,
    name=st.sampled_from(["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"]),
)
def test_both_counts_agree_for_any_pyramid(data, height, width, name):
    def draw(low: int, high: int) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * 4))

    heads = draw(1, 3)
    options = {
        "depths": (1, 1, 1, 1),
        "num_heads": heads,
        "dims": tuple(n * data.draw(st.integers(1, 5)) for n in heads),
        "mlp_ratios": draw(1, 5),
        "sr_ratios": tuple(data.draw(st.integers(1, most)) for most in (8, 4, 2, 1)),
        "num_classes": data.draw(st.integers(1, 9)),
    }
    if name == "pvt_tiny":
        options["pool"] = data.draw(st.sampled_from(["", "token", "mean", "max"]))
    else:
        options |= {key: data.draw(st.booleans()) for key in ("overlapping", "depthwise", "position_tables")}
    if data.draw(st.booleans()):
        options["patch_sizes"] = data.draw(st.sampled_from([(1, 2, 2, 2), (3, 1, 2, 2), (2, 2, 1, 4)]))
    model = create_model(name, **options)
    assert traced(model, height, width) == formulas(model, height, width)


@settings(max_examples=5)
@given(data=st.data(), height=SIDES, width=SIDES, patch=st.integers(3, 32), heads=st.integers(1, 3))
def test_both_counts_agree_for_any_vit(data, height, width, patch, heads):
    options = {"patch_size": patch, "num_heads": heads, "dim": 4 * heads, "depth": 2}
    options |= {"mlp_ratio": data.draw(st.integers(1, 5)), "pool": data.draw(st.sampled_from(["", "mean"]))}
    model = create_model("vit_tiny_patch16", **options)
    assert traced(model, height, width) == formulas(model, height, width)


@settings(max_examples=5)
@given(
    height=SIDES,
    width=SIDES,
    name=st.sampled_from(["resnet18", "resnet50"]),
    depths=st.permutations((1, 1, 1, 2)),
    stem_stride=st.sampled_from([4, 1]),
)
def test_both_counts_agree_for_any_resnet(height, width, name, depths, stem_stride):
    model = create_model(name, depths=depths, dims=(4, 8, 4, 12), stem_stride=stem_stride, num_classes=3)
    assert traced(model, height, width) == formulas(model, height, width)


def test_resampling_is_apart():
    def resampling(name: str, height: int, width: int) -> dict[str, int]:
        found = traced_multiply_accumulates(toy(name), height, width, variables=variables_of(name))
        return {part: products.resampling for part, products in found.items() if products.resampling}

    assert resampling("pvt_tiny", 64, 64) == resampling("vit_tiny_patch16", 64, 64) == {}
    assert resampling("pvt_v2_b0", 70, 101) == resampling("resnet18", 70, 101) == {}
    # Tables of 16², 8², 4² and 2² positions become 16×24 … 2×3; rows keep their number and are multiplied all the same.
    assert set(resampling("pvt_tiny", 64, 96)) == {"stage1", "stage2", "stage3", "stage4"}
    assert set(resampling("vit_tiny_patch16", 64, 96)) == {"patch_embed"}
    # Every stage of linear attention pools; 64×64 makes the last map 2×2, each of the 7 bins a side one row or two.
    assert set(resampling("pvt_v2_b2_li", 64, 64)) == {"stage1", "stage2", "stage3", "stage4"}


# The traced count against XLA, which counts every operation, the element-wise ones too, but no padding.


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [
        ("pvt_tiny", {"depths": (1, 1, 1, 1)}, 1.0, 1.02),
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, 0.99, 1.02),
        ("pvt_v2_b2_li", {"depths": (1, 1, 1, 1)}, 0.99, 1.02),
        ("vit_tiny_patch16", {"depth": 2}, 1.0, 1.02),
        # A fifth of what a 3×3 kernel meets on a 7×7 map is padding.
        ("resnet50", {"depths": (1, 1, 1, 1)}, 0.95, 1.0),
    ],
)
def test_xla_counts_nearly_the_same(name, options, least, most):
    model = create_model(name, **options)
    variables, images = abstract_variables(model, 224, 224), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    analysis = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert analysis is not None
    found = traced_multiply_accumulates(model, 224, 224, variables=variables)
    resampling = sum(products.resampling for products in found.values())
    assert least <= (analysis["flops"] / 2 - resampling) / total(model, 224, 224) <= most


# How a program is read.


class Module(nn.Module):
    """A parameter ``w`` of ``shape`` and a function of it and of the images, in the part ``stem``."""

    function: Any
    shape: tuple[int, ...]

    parts = (("stem", "stem"),)

    @nn.compact
    def __call__(self, images):
        kernel = self.param("w", nn.initializers.zeros, self.shape)
        with jax.named_scope("stem"):
            return self.function(kernel, images)


def products_of(function: Any, shape: tuple[int, ...], height: int = 4, width: int = 6) -> Products:
    found = traced_multiply_accumulates(Module(function, shape), height, width)
    assert set(found) <= {"stem"}
    return found.get("stem", Products())


def convolve(x, kernel, strides=(1, 1), groups=1, padding="SAME"):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=dimensions, feature_group_count=groups
    )


CONSTANT = np.ones((3, 5), np.float32)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda w, x: x @ w, (3, 5), (24 * 3 * 5, 0, 0)),
        (lambda w, x: jnp.einsum("bhwc,cd->dwh", x, w), (3, 5), (24 * 3 * 5, 0, 0)),
        # With a batch axis that both share.
        (lambda w, x: jnp.einsum("bhwc,bhvc->bhwv", x, x + w), (3,), (0, 4 * 6 * 6 * 3, 0)),
        (lambda w, x: x @ CONSTANT, (1,), (0, 0, 24 * 3 * 5)),
        (lambda w, x: w @ CONSTANT, (2, 3), (0, 0, 2 * 3 * 5)),
        (lambda w, x: w @ w, (5, 5), (125, 0, 0)),
        # A matrix that merely has the image's shape is a constant.
        (lambda w, x: x @ jnp.ones((x.shape[-1], 5)), (1,), (0, 0, 24 * 3 * 5)),
        # What a softmax of the image weighs is attention, however it came about.
        (lambda w, x: jax.nn.softmax(x @ w) @ x.swapaxes(2, 3), (3, 3), (24 * 9, 4 * 6 * 3 * 6, 0)),
        (lambda w, x: convolve(x, w), (3, 3, 3, 5), (24 * 9 * 3 * 5, 0, 0)),
        (lambda w, x: convolve(x, w, strides=(2, 3)), (3, 3, 3, 5), (2 * 2 * 9 * 3 * 5, 0, 0)),
        (lambda w, x: convolve(x, w, padding="VALID"), (2, 4, 3, 5), (3 * 3 * 8 * 3 * 5, 0, 0)),
        (lambda w, x: convolve(x, w, groups=3), (3, 3, 1, 6), (24 * 9 * 6, 0, 0)),
        (lambda w, x: depthwise_conv3x3(x, w), (3, 3, 1, 3), (24 * 9 * 3, 0, 0)),
        (lambda w, x: depthwise_conv3x3(x * 2 + w.sum(), w) * 3, (3, 3, 1, 3), (24 * 9 * 3, 0, 0)),
        # The columns first, which is cheaper: [4, 6, 3] → [4, 2, 3] → [2, 2, 3].
        (lambda w, x: adaptive_average_pool(x, 2) * w, (3,), (0, 0, 4 * 2 * 3 * 6 + 2 * 2 * 3 * 4)),
        # Element by element, and sums.
        (lambda w, x: jnp.tanh(x * w + 1).sum(0) / w, (3,), (0, 0, 0)),
        (lambda w, x: jax.jit(jax.checkpoint(lambda x: jax.nn.relu(x @ w)))(x), (3, 5), (24 * 15, 0, 0)),
    ],
)
def test_products_of_one_operation(function, shape, expected):
    found = products_of(function, shape)
    assert (found.weights, found.attention, found.resampling) == expected


def test_a_scan_counts_by_its_length_and_knows_what_is_carried():
    def rounds(w, x):
        def step(carry, kernel):
            # In the first round the carried value is a constant, from the second on it is made of the image.
            return carry @ kernel + x.sum(), carry @ carry.T

        return jax.lax.scan(step, jnp.ones((2, 3)), jnp.broadcast_to(w, (5, 3, 3)))

    found = products_of(rounds, (3, 3))
    assert found == Products(weights=5 * 2 * 3 * 3, attention=5 * 2 * 3 * 2)


def test_a_scan_within_a_scan():
    def inner(x, w):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, None, length=4)[0]

    found = products_of(lambda w, x: jax.lax.scan(lambda y, _: (inner(y, w), None), x, None, length=3)[0], (3, 3))
    assert found == Products(weights=3 * 4 * 24 * 9)


def test_loops_and_branches_that_cannot_be_counted():
    def loop(w, x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ w, x)

    def branch(w, x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x, x)

    with pytest.raises(NotImplementedError, match="matrix products in a while"):
        products_of(loop, (3, 3))
    with pytest.raises(NotImplementedError, match="matrix products in a cond"):
        products_of(branch, (3, 3))


def test_loops_are_left_out_of_what_a_function_multiplies():
    """RoIAlign's interpolation runs in one."""

    def loop(w, x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ w, x @ w)

    def branch(w, x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x, x)

    shapes = jax.ShapeDtypeStruct((3, 3), jnp.float32), jax.ShapeDtypeStruct((8, 3), jnp.float32)
    assert function_products(loop, *shapes) == Products(weights=8 * 3 * 3)
    with pytest.raises(NotImplementedError, match="matrix products in a cond"):
        function_products(branch, *shapes)


def test_a_loop_without_products_is_no_obstacle():
    found = products_of(lambda w, x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x) @ w, (3, 3))
    assert found == Products(weights=24 * 9)


def test_parameters_by_part():
    for name in TOYS:
        variables = variables_of(name)
        parts = parameters_by_part(toy(name), variables)
        assert set(parts) == set(multiply_accumulates(toy(name), 64, 64))
        assert sum(parts.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    # The class token and its slot are stage 4's; the final norm, 2 · 32, is the head's, 32 · 7 + 7.
    parts = parameters_by_part(toy("pvt_tiny"), variables_of("pvt_tiny"))
    assert parts["head"] == 64 + 231
    stage = jax.tree.leaves(variables_of("pvt_tiny")["params"]["stage4"])
    assert parts["stage4"] == sum(leaf.size for leaf in stage) + 32


# Bytes.


def shapes(*sizes: tuple[int, ...], dtype: Any = jnp.float32) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(size, dtype) for size in sizes]


def test_kept_bytes_by_hand():
    (w1, w2, bias), (x,) = shapes((3, 5), (5, 2), (2,)), shapes((4, 3))

    def linear(params, x):
        return (x @ params[0]).sum()

    def sines(params, x):
        return (jnp.sin(x @ params[0]) @ params[1] + params[2]).sum()

    assert kept_for_backward(linear, [w1], x) == 0, "the gradient needs x alone, which is an input"
    # sin(x w1) for the gradient of w2, cos(x w1) for that of w1; the bias needs nothing.
    assert kept_for_backward(sines, [w1, w2, bias], x) == 2 * (4 * 5) * 4
    low = shapes((3, 5), (5, 2), (2,), dtype=jnp.bfloat16)
    assert kept_for_backward(sines, low, *shapes((4, 3), dtype=jnp.bfloat16)) == 2 * (4 * 5) * 2
    # Recomputed, nothing but the inputs is kept.
    assert kept_for_backward(jax.checkpoint(sines), [w1, w2, bias], x) == 0


def test_an_array_kept_in_two_shapes_counts_once():
    (w, v), (x,) = shapes((3, 6), (6,)), shapes((4, 3))

    def function(params, x):
        y = jnp.tanh(x @ params[0])
        # y twice, as [4, 6] and as [2, 2, 6], each for the gradient of a parameter; v's own views are parameters.
        return (y @ params[1]).sum() + (y.reshape(2, 2, 6) @ params[1]).sum()

    # y for v, and what tanh keeps for x w.
    assert kept_for_backward(function, [w, v], x) == 2 * (4 * 6) * 4


class Perceptron(nn.Module):
    """Two linear maps and a batch norm's worth of statistics: a model small enough to be counted by hand."""

    hidden: int = 5
    num_classes: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        self.variable("batch_stats", "mean", jnp.zeros, (self.hidden,))
        x = images.reshape(len(images), -1)
        x = jnp.sin(nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="stem")(x))
        return nn.Dense(self.num_classes, use_bias=False, dtype=jnp.float32, name="head")(x)


def test_training_memory_by_hand():
    height, width, batch = 4, 3, 7
    parameters = 4 * ((height * width * 3) * 5 + 5 * 2)
    found = training_memory(Perceptron(), height, width, batch)
    assert {name: size for name, size in found.items() if name != "activations"} == {
        "parameters": parameters,
        "batch_stats": 5 * 4,
        "gradients": parameters,
        "images": batch * height * width * 3 * 4,
    }
    # sin and cos of the hidden layer; the loss's own few numbers an image come on top.
    hidden = 2 * batch * 5 * 4
    assert hidden <= found["activations"] <= hidden + batch * 4 * 4 * 2

    low = training_memory(Perceptron(dtype=jnp.bfloat16), height, width, batch)
    assert low["images"] == found["images"] // 2
    assert low["parameters"] == found["parameters"], "parameters stay float32"


@pytest.mark.parametrize("name", ["pvt_v2_b2_li"])
def test_activations_grow_with_the_batch_alone(name):
    variables = variables_of(name)
    two, three, five = (
        training_memory(toy(name), 64, 64, batch, variables=variables)["activations"] for batch in (2, 3, 5)
    )
    assert five - three == 2 * (three - two)
    assert two < 2.2 * (three - two), "only a few constants do not grow"


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "vit_tiny_patch16", "resnet18"])
def test_what_recomputing_and_bfloat16_save(name):
    variables = variables_of(name)
    plain, recomputed, low = (
        training_memory(toy(name, **options), 64, 64, 4, variables=variables)
        for options in ({}, {"remat": True}, {"dtype": "bfloat16"})
    )
    assert recomputed["activations"] < 0.7 * plain["activations"]
    assert {**recomputed, "activations": 0} == {**plain, "activations": 0}
    assert low["activations"] < plain["activations"] and low["images"] == plain["images"] // 2
    assert plain["parameters"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert (plain["batch_stats"] > 0) == name.startswith("resnet")


def test_tree_bytes():
    tree = {"a": jax.ShapeDtypeStruct((3, 5), jnp.bfloat16), "b": [np.zeros(4, np.int32), np.zeros((), np.uint8)]}
    assert tree_bytes(tree) == 30 + 16 + 1


def test_sizes_that_a_model_refuses():
    with pytest.raises(UserError, match="too small"):
        traced_multiply_accumulates(toy("pvt_tiny"), 31, 64)
    with pytest.raises(UserError, match="one value per channel"):
        training_memory(toy("resnet18"), 32, 32, 1)
