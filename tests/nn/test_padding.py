"""Images padded to one shape: inside their true sizes the maps of every backbone are those of each image alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.models import create_model
from pvt_jax.ops import padding
from tests.helpers import reference
from tests.helpers.running import assert_gradients_are_equal, pictures, quick_jit

# Every family, with blocks for scan and remat. The tables are for 64×64, which is also one of the true sizes; of the
# others one is larger on one side and smaller on the other, and one is as large as the padded images. The maps that
# linear attention pools to 7×7 have sides above and below 7.
PYRAMID: dict[str, Any] = {"depths": (2, 1, 1, 1), "dims": (8, 16, 24, 32)}
TRANSFORMER: dict[str, Any] = {**PYRAMID, "num_heads": (1, 2, 3, 4)}
TOYS: dict[str, dict[str, Any]] = {
    "pvt_tiny": {**TRANSFORMER, "image_size": 64},
    "pvt_v2_b0": TRANSFORMER,
    "pvt_v2_b2_li": TRANSFORMER,
    "vit_tiny_patch16": {"depth": 2, "dim": 24, "num_heads": 3, "image_size": 64},
    "resnet18": {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)},
    "resnet50": {"depths": (1, 1, 1, 3), "dims": (4, 6, 8, 12)},
}
FAMILIES = pytest.mark.parametrize("name", TOYS)
SIZES = np.asarray([(64, 64), (96, 32), (96, 128)], np.int32)
PADDED = (96, 128)


def model(name: str, **settings: Any) -> Any:
    return create_model(name, **{"num_classes": 0, **TOYS[name], **settings})


@functools.cache
def variables(name: str) -> Any:
    """Drawn for every variable, norms and biases too: a backbone that has no bias has nothing in its padding."""
    rng = np.random.default_rng(0)
    init = functools.partial(model(name).init, method="features")
    tree = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        x, kind = rng.standard_normal(leaf.shape).astype(np.float32), path[-1].key
        if kind == "kernel":
            return x / np.sqrt(np.prod(leaf.shape[:-1])).astype(np.float32)
        if kind == "count":
            return np.zeros((), np.int32)
        return {"var": np.exp(x / 2), "scale": 1 + x / 5}.get(kind, x / 2)

    return jax.tree_util.tree_map_with_path(drawn, tree)


@functools.cache
def features(name: str, **settings: Any) -> Any:
    """(variables, images, sizes) → maps."""
    apply = model(name, **settings).apply
    return quick_jit(lambda v, x, sizes: apply(v, x, sizes=sizes, method="features"))


@functools.cache
def images() -> np.ndarray:
    """One for each of the true sizes, zero beyond."""
    whole = pictures(*PADDED, batch=len(SIZES))
    for image, (height, width) in zip(whole, SIZES, strict=True):
        image[height:] = image[:, width:] = 0
    return whole


@functools.cache
def alone(name: str, i: int) -> dict[str, np.ndarray]:
    """Maps of one image without its padding."""
    height, width = SIZES[i]
    return jax.device_get(features(name)(variables(name), images()[i : i + 1, :height, :width], None))


@functools.cache
def padded(name: str) -> dict[str, np.ndarray]:
    return jax.device_get(features(name)(variables(name), images(), SIZES))


@FAMILIES
def test_the_maps_are_those_of_each_image_alone(name):
    found = padded(name)
    for i, size in enumerate(SIZES):
        for level, expected in alone(name, i).items():
            assert found[level].shape[1:3] == tuple(side >> int(level[1]) for side in PADDED)
            height, width = size >> int(level[1])
            assert reference.relative_error(found[level][i, :height, :width], expected[0]) < 1e-5, (level, size)


@FAMILIES
def test_the_maps_are_zero_in_the_padding(name):
    for level, maps in padded(name).items():
        for one, size in zip(maps, SIZES >> int(level[1]), strict=True):
            outside = np.ones(one.shape[:2], bool)
            outside[: size[0], : size[1]] = False
            assert not one[outside].any() and (one[~outside] != 0).any(-1).all(), level


@FAMILIES
def test_without_sizes_padding_is_image(name):
    """What the tests above compare would differ: every family sees zeros as pixels like others."""
    for i in (0, 1):
        maps = features(name)(variables(name), images()[i : i + 1], None)
        for level, expected in alone(name, i).items():
            height, width = SIZES[i] >> int(level[1])
            if level == "c2" and name.startswith("resnet"):
                continue  # Sees little else than its own pixels.
            assert reference.relative_error(maps[level][0, :height, :width], expected[0]) > 1e-2, level


@FAMILIES
def test_pixels_in_the_padding_have_no_influence(name):
    other = images().copy()
    for image, (height, width) in zip(other, SIZES, strict=True):
        image[height:] = image[:, width:] = np.nan
    for level, maps in features(name)(variables(name), other, SIZES).items():
        np.testing.assert_array_equal(maps, padded(name)[level])


@FAMILIES
def test_remat_and_scan_change_no_map(name):
    maps = features(name, remat=True, scan=True)(variables(name), images(), SIZES)
    for level, found in maps.items():
        assert reference.relative_error(found, padded(name)[level]) < 1e-5, level


# Of the convolutional networks PVT v2 alone, which has all of their parts. One block a stage is compiled sooner.
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pvt_tiny", {"depths": (1, 1, 1, 1)}),
        ("pvt_v2_b2_li", {"depths": (1, 1, 1, 1)}),
        ("vit_tiny_patch16", {"depth": 1}),
    ],
)
def test_gradients_are_those_of_the_images_alone(name, settings):
    height, width = 96, 64
    pixels = pictures(height, width)
    weights = [np.random.default_rng(i).standard_normal((dim,)).astype(np.float32) for i, dim in enumerate(dims(name))]

    def gradient(images: Any, sizes: Any, **others: Any) -> Any:
        apply = model(name, **settings, **others).apply

        def loss(parameters: Any, images: Any, sizes: Any) -> Any:
            maps = apply({"params": parameters}, images, sizes=sizes, method="features")
            return sum((one * w).sum() for one, w in zip(maps.values(), weights, strict=True))

        return quick_jit(jax.grad(loss, (0, 1)))(variables(name)["params"], images, sizes)

    expected, of_pixels = gradient(pixels, None)
    wide = np.pad(pixels, ((0, 0), (0, 0), (0, 32), (0, 0)))
    found, of_wide = gradient(wide, np.full((2, 2), (height, width), np.int32), remat=True, scan=True)
    assert_gradients_are_equal(found, expected)
    assert_gradients_are_equal(of_wide[:, :, :width], of_pixels)
    assert not np.any(of_wide[:, :, width:])


def dims(name: str) -> list[int]:
    return [maps.shape[-1] for maps in padded(name).values()]


def test_bfloat16_stays_bfloat16():
    for name in TOYS:
        apply = functools.partial(model(name, dtype=jnp.bfloat16).apply, method="features")
        maps = jax.eval_shape(
            lambda v, x, sizes, apply=apply: apply(v, x, sizes=sizes), variables(name), images(), SIZES
        )
        assert {found.dtype for found in maps.values()} == {jnp.dtype("bfloat16")}


def test_an_image_of_no_size_gives_zeros():
    """What fills up a batch: nothing that is not a number, which a sum over the batch would spread."""
    for name in TOYS:
        maps = features(name)(variables(name), images(), np.stack([SIZES[0], SIZES[0] * 0, SIZES[2]]))
        for level, found in maps.items():
            assert not np.any(found[1])
            np.testing.assert_allclose(found[0], padded(name)[level][0], rtol=1e-5, atol=1e-5)


def test_the_part_that_is_image():
    sizes, ones = jnp.asarray([(2, 1), (0, 3), (3, 4)]), jnp.ones((3, 3, 4, 2))
    expected = np.zeros((3, 3, 4), bool)
    expected[0, :2, :1] = expected[2] = True
    np.testing.assert_array_equal(padding.inside(sizes, (3, 4)), expected)
    np.testing.assert_array_equal(padding.zero_outside(ones, sizes), np.repeat(expected[..., None], 2, -1))
    assert padding.zero_outside(ones, None) is ones
    np.testing.assert_array_equal(padding.shrunk(sizes, 2), [(1, 0), (0, 1), (1, 2)])
    assert padding.shrunk(None, 2) is None


def test_padding_follows_the_strides_of_other_patches():
    """PVT v1 at strides of 1, 2, 4 and 8, as for images of 32²; ``test_undone.py`` of PVT v2 has its own."""
    settings = {"patch_sizes": (1, 2, 2, 2), "depths": (1, 1, 1, 1), "sr_ratios": (4, 2, 1, 1), "image_size": 32}
    small = model("pvt_tiny", **settings)
    assert small.strides == (1, 2, 4, 8)
    init = functools.partial(small.init, method="features")
    tree = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape).astype(np.float32), tree)
    whole = pictures(32, 32)
    apply = quick_jit(functools.partial(small.apply, method="features"))
    expected, found = apply(drawn, whole[:, :, :16]), apply(drawn, whole, sizes=np.full((2, 2), (32, 16), np.int32))
    for (level, maps), stride in zip(found.items(), small.strides, strict=True):
        assert reference.relative_error(maps[:, :, : 16 // stride], np.asarray(expected[level])) < 1e-5, level
        assert not np.any(maps[:, :, 16 // stride :])
