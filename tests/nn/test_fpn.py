"""The feature pyramid by hand; ``test_segmentation_parity.py`` compares it with PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.nn.fpn import FeaturePyramid, enlarged
from tests.helpers.dense import DIMS, random_maps, random_variables
from tests.helpers.running import quick_jit

Tree = dict[str, Any]


def shapes_of(pyramid: FeaturePyramid, maps: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(pyramid.init, jax.random.key(0), maps)["params"])


def test_a_lateral_map_and_a_convolution_for_each_level():
    linear = {f"lateral_c{i + 2}": {"kernel": (dim, 256), "bias": (256,)} for i, dim in enumerate(DIMS)}
    convolution = {f"output_p{level}": {"kernel": (3, 3, 256, 256), "bias": (256,)} for level in (2, 3, 4, 5)}
    maps = random_maps(64, 64)
    assert shapes_of(FeaturePyramid(), maps) == shapes_of(FeaturePyramid(extra_levels="max_pool"), maps)
    assert shapes_of(FeaturePyramid(), maps) == {**linear, **convolution}
    del linear["lateral_c2"], convolution["output_p2"]
    extra = {
        f"output_p{level}": {"kernel": (3, 3, dim, 256), "bias": (256,)} for level, dim in ((6, DIMS[-1]), (7, 256))
    }
    assert shapes_of(FeaturePyramid(first_level=3, extra_levels="convolution"), maps) == {
        **linear,
        **convolution,
        **extra,
    }


@pytest.mark.parametrize("rounding", ["down", "up"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (100, 170)])
def test_what_is_coarser_is_added_at_the_nearest_position(height, width, rounding):
    maps = random_maps(height, width, rounding)
    variables = random_variables(FeaturePyramid(5), maps)
    centre = np.zeros((3, 3, 5, 5), np.float32)
    centre[1, 1] = np.eye(5)
    for level in (2, 3, 4, 5):
        variables["params"][f"output_p{level}"] = {"kernel": centre, "bias": np.zeros(5, np.float32)}
    found = quick_jit(FeaturePyramid(5).apply)(variables, maps)

    above: Any = None
    for level in (5, 4, 3, 2):
        lateral, below = variables["params"][f"lateral_c{level}"], maps[f"c{level}"]
        expected = below.astype(np.float64) @ lateral["kernel"] + lateral["bias"]
        if above is not None:
            rows, columns = (
                [i * old // new for i in range(new)]
                for old, new in zip(above.shape[1:3], below.shape[1:3], strict=True)
            )
            expected += above[:, rows][:, :, columns]
        np.testing.assert_allclose(found[f"p{level}"], expected, rtol=0, atol=1e-5)
        above = expected


def test_the_gradient_of_enlarging_sums_what_came_from_a_position():
    maps = jnp.ones((1, 2, 3, 1))
    for target, counts in (((4, 6), [[4, 4, 4], [4, 4, 4]]), ((3, 7), [[6, 4, 4], [3, 2, 2]])):
        gradient = jax.grad(lambda x, target=target: enlarged(x, target).sum())(maps)
        np.testing.assert_array_equal(gradient[0, :, :, 0], counts)


@pytest.mark.parametrize("extra", ["none", "max_pool", "convolution"])
def test_padding_changes_nothing(extra):
    """Each image's maps are those that it has alone, and 0 beyond, though biases put other values there on the way."""
    pyramid = FeaturePyramid(4, extra_levels=extra)
    images = [random_maps(*size, batch=1) for size in ((96, 64), (160, 96), (128, 128))]
    variables = random_variables(pyramid, images[0])
    sizes = jnp.array([(96, 64), (160, 96), (128, 128)])
    levels = zip((2, 3, 4, 5), DIMS, strict=True)
    padded = {f"c{level}": np.zeros((3, 192 >> level, 160 >> level, dim), np.float32) for level, dim in levels}
    for i, maps in enumerate(images):
        for name, one in maps.items():
            padded[name][i, : one.shape[1], : one.shape[2]] = one[0]
    found = quick_jit(pyramid.apply)(variables, padded, sizes)
    assert len(found) == {"none": 4, "max_pool": 5, "convolution": 6}[extra]
    alone = quick_jit(pyramid.apply)
    for i, maps in enumerate(images):
        for name, one in alone(variables, maps).items():
            rows, columns = one.shape[1:3]
            np.testing.assert_allclose(found[name][i, :rows, :columns], one[0], rtol=0, atol=1e-5)
            outside = np.array(found[name][i])
            outside[:rows, :columns] = 0
            assert not outside.any(), name


def test_weights_start_uniform_by_glorot_and_biases_at_0():
    pyramid = FeaturePyramid(16, extra_levels="convolution")
    init = functools.partial(quick_jit(pyramid.init), jax.random.key(0, impl="rbg"))
    for name, params in init(random_maps(64, 64, batch=1))["params"].items():
        *sides, in_dim, dim = params["kernel"].shape
        bound = np.sqrt(6 / (np.prod(sides) * (in_dim + dim)))
        assert 0.95 * bound < np.abs(params["kernel"]).max() <= bound, name
        assert abs(np.mean(params["kernel"])) < 5 * bound / np.sqrt(3 * params["kernel"].size), name
        assert not params["bias"].any()


def test_maps_have_the_type_of_the_computation():
    maps = random_maps(64, 64)
    variables = random_variables(FeaturePyramid(8), maps)
    found = quick_jit(FeaturePyramid(8, dtype=jnp.bfloat16).apply)(variables, maps)
    for name, expected in quick_jit(FeaturePyramid(8).apply)(variables, maps).items():
        assert found[name].dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found[name], np.float32), expected, rtol=0, atol=0.08)


def test_channels_that_are_none_are_named():
    with pytest.raises(UserError, match="head.neck_channels must be a whole number above 0, but is 0"):
        shapes_of(FeaturePyramid(0), random_maps(64, 64))
