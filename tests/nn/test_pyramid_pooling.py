"""Spatial pyramid pooling and matching against loops over positions, PyTorch, and numbers made by hand."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pvt_jax.errors import UserError
from pvt_jax.nn import pyramid_pooling
from pvt_jax.nn.pyramid_pooling import pyramid_match_kernel, spatial_pyramid_pooling, visual_words, word_histograms

# One program for each shape, where single operations would be compiled one by one.
pooled = jax.jit(spatial_pyramid_pooling, static_argnums=(1, 2))
histograms = jax.jit(word_histograms, static_argnums=2)
sizes = st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9), st.just(3))
pyramids = st.sampled_from([(1,), (3,), (6, 2), (1, 2, 4)])


def numbers(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Pooling.


def overlapping_cells(height: int, width: int, levels: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    for level in levels:
        for i, j in itertools.product(range(level), repeat=2):
            rows, columns = (
                slice(math.floor(k * size / level), math.ceil((k + 1) * size / level))
                for k, size in ((i, height), (j, width))
            )
            yield rows, columns


@settings(max_examples=12)
@given(shape=sizes, levels=pyramids, reduce=st.sampled_from(["max", "mean"]))
def test_pooling_agrees_with_a_loop_over_cells(shape, levels, reduce):
    x = numbers(shape)
    found = pooled(x, levels, reduce)
    cells = [getattr(x[:, rows, columns], reduce)((1, 2)) for rows, columns in overlapping_cells(*shape[1:3], levels)]
    assert found.shape == (shape[0], shape[3] * sum(level**2 for level in levels))
    np.testing.assert_allclose(found, np.concatenate(cells, axis=1), rtol=1e-5, atol=1e-6)


def test_the_order_is_level_row_column_channel():
    x = jnp.asarray([[[1, 2, 3], [4, 5, 6]], [[70, 80, 90], [10, 11, 12]]], jnp.float32)[None, ..., None]
    x = jnp.concatenate([x, -x], axis=-1).reshape(1, 2, 2, 3, 2)[:, :, :, 0]
    found = spatial_pyramid_pooling(x, (1, 2))
    assert found.tolist() == [[70, -1, 1, -1, 4, -4, 70, -70, 10, -10]]


@pytest.mark.parametrize("size", [(7, 7), (13, 9), (2, 3), (1, 1)])
def test_it_is_the_adaptive_pooling_of_pytorch(size):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the loop above checks the same")
    x, levels = numbers((2, *size, 3)), (1, 2, 3, 6)
    maps = torch.from_numpy(x.transpose(0, 3, 1, 2))
    for reduce, layer in (("max", torch.nn.AdaptiveMaxPool2d), ("mean", torch.nn.AdaptiveAvgPool2d)):
        expected = [layer(level)(maps).permute(0, 2, 3, 1).reshape(2, -1).numpy() for level in levels]
        found = pooled(x, levels, reduce)
        np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [(), (1, 0)])
def test_levels_that_are_none(levels):
    said = "the levels of a spatial pyramid must be whole numbers above 0, but are"
    with pytest.raises(UserError, match=said):
        spatial_pyramid_pooling(jnp.zeros((1, 2, 2, 1)), levels)
    with pytest.raises(UserError, match=said):
        word_histograms(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 1)), levels)


# Visual words.


def clusters(seed: int = 0, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Five centres far apart, and 40 features near each, shuffled."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [-20, 5]], np.float64) + offset
    features = (centres[:, None] + 0.3 * rng.standard_normal((5, 40, 2))).reshape(-1, 2)
    return centres, rng.permutation(features).astype(np.float32)


@functools.cache
def learn(num_words: int, iterations: int) -> Any:
    return jax.jit(functools.partial(visual_words, num_words=num_words, iterations=iterations))


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_words_are_the_means_of_well_separated_clusters(offset):
    centres, features = clusters(offset=offset)
    nearest = np.square(features[:, None] - centres).sum(-1).argmin(1)
    expected = np.stack([features[nearest == i].mean(0, dtype=np.float64) for i in range(5)])
    for seed in range(5):
        words = np.asarray(learn(5, 10)(jnp.asarray(features), key=jax.random.key(seed)))
        np.testing.assert_allclose(sorted(words.tolist()), sorted(expected.tolist()), rtol=1e-6, atol=1e-4)


def lloyd(features: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, float]:
    """One iteration of k-means by loops, and the distortion before it."""
    distances = np.square(features[:, None].astype(np.float64) - words).sum(-1)
    nearest = distances.argmin(1)
    means = [features[nearest == k].mean(0, dtype=np.float64) for k in range(len(words))]
    return np.stack(means), distances.min(1).sum()


def test_every_iteration_is_one_of_k_means():
    features, key = numbers((60, 3)), jax.random.key(3)
    words, distortions = np.asarray(learn(4, 0)(jnp.asarray(features), key=key)), []
    for iteration in (1, 2, 3):
        words, distortion = lloyd(features, words)
        distortions.append(distortion)
        np.testing.assert_allclose(learn(4, iteration)(jnp.asarray(features), key=key), words, rtol=1e-4, atol=1e-5)
    assert distortions[0] > distortions[1] > distortions[2]


def test_seeds_are_features_drawn_by_their_squared_distance():
    """Of the features 0, 1 and 3, the second seed follows the first with the squared distances as odds."""
    features = jnp.asarray([[0.0], [1.0], [3.0]])
    keys = jax.random.split(jax.random.key(0), 6000)
    seeds = np.asarray(jax.jit(jax.vmap(lambda key: visual_words(features, 2, key, 0)))(keys))[..., 0]
    chances = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    for (first, second), chance in chances.items():
        share = np.mean((seeds[:, 0] == first) & (seeds[:, 1] == second))
        assert abs(share - chance / 3) < 5 * math.sqrt(chance / 3 / 6000)


def test_the_same_key_gives_the_same_words():
    features = jnp.asarray(numbers((50, 3)))
    words = [np.asarray(learn(6, 5)(features, key=jax.random.key(seed))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(words[0], words[1])
    assert not np.allclose(words[0], words[2])


def test_a_word_nearest_to_none_moves_to_the_farthest_feature(monkeypatch):
    features = jnp.asarray([[0.0], [1.0], [2.0], [9.0], [11.0]])
    # All go to the first word. The three without any take the farthest: 11, 9, and of 0 and 2, equally far, the first.
    seeds = jnp.asarray([[1.0], [1.0], [50.0], [60.0]])
    monkeypatch.setattr(pyramid_pooling, "_seeds", lambda *_: seeds)
    words = visual_words(features, 4, jax.random.key(0), iterations=1)
    assert words.tolist() == [[pytest.approx(23 / 5)], [11.0], [9.0], [0.0]]
    settled = visual_words(features, 4, jax.random.key(0), iterations=5)
    # The first word, between the clusters, loses all, and moves to 2: the farthest of those that go to 0.
    assert settled.tolist() == [[2.0], [11.0], [9.0], [0.5]]


def test_fewer_different_features_than_words():
    words = learn(4, 5)(jnp.asarray([[1.0, 2.0]] * 3 + [[5.0, 6.0]] * 3), key=jax.random.key(0))
    assert {tuple(word) for word in words.tolist()} == {(1.0, 2.0), (5.0, 6.0)}


@pytest.mark.parametrize("num_words", [0, 4])
def test_a_number_of_words_that_cannot_be(num_words):
    said = f"number of visual words must be from 1 to the number of features, 3, but is {num_words}"
    with pytest.raises(UserError, match=said):
        visual_words(jnp.zeros((3, 2)), num_words, jax.random.key(0))


# Histograms.


def histograms_by_loops(maps: np.ndarray, words: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Position by position: its word, and at each level the one cell that it is in."""
    batch, height, width, _ = maps.shape
    last, parts = len(levels) - 1, []
    for i, level in enumerate(levels):
        weight = 1 / 2**last if i == 0 else 1 / 2 ** (last - i + 1)
        counts = np.zeros((batch, level, level, len(words)))
        for b, y, x in itertools.product(range(batch), range(height), range(width)):
            row, column = (
                next(k for k in range(level) if p < (k + 1) * size // level) for p, size in ((y, height), (x, width))
            )
            word = np.square(maps[b, y, x].astype(np.float64) - words).sum(-1).argmin()
            counts[b, row, column, word] += weight / (height * width)
        parts.append(counts.reshape(batch, -1))
    return np.concatenate(parts, axis=1)


@settings(max_examples=12)
@given(shape=sizes, levels=pyramids, num_words=st.integers(1, 5))
def test_histograms_agree_with_a_loop_over_positions(shape, levels, num_words):
    maps, words = numbers(shape), numbers((num_words, shape[3]), seed=1)
    found = histograms(maps, words, levels)
    np.testing.assert_allclose(found, histograms_by_loops(maps, words, levels), rtol=1e-6, atol=1e-7)
    # Each position counts once a level, and the weights of all levels are 1 together.
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)


def test_a_histogram_made_by_hand():
    """Three by three positions: the middle row and column go to the second half, as floor(3 / 2) is 1."""
    words = jnp.asarray([[0.0], [10.0]])
    maps = jnp.asarray([[1, 9, 9], [9, 2, 2], [9, 2, 9]], jnp.float32)[None, :, :, None]
    found = np.asarray(histograms(maps, words, (1, 2)))[0] * 9
    whole = [4, 5]
    quarters = [1, 0, 0, 2, 0, 2, 3, 1]
    assert found.tolist() == pytest.approx([0.5 * count for count in whole + quarters])
    three = np.asarray(word_histograms(maps, words))[0] * 9
    assert three[:2].tolist() == pytest.approx([1, 5 / 4]) and three[2:10].sum() == pytest.approx(9 / 4)
    assert three[10:].sum() == pytest.approx(9 / 2)


def test_words_far_from_zero_are_told_apart():
    words = np.array([[5000.0, 0.0], [5000.0, 0.5]], np.float32)
    maps = (words[None, None] + 0.2).astype(np.float32)
    assert word_histograms(jnp.asarray(maps), jnp.asarray(words), (1,)).tolist() == [[0.5, 0.5]]


def test_histograms_of_bfloat16_maps_count_exactly():
    maps = jnp.zeros((1, 40, 40, 2), jnp.bfloat16).at[0, 0, 0].set(1)
    found = word_histograms(maps, jnp.asarray([[0.0, 0.0], [1.0, 1.0]]), (1,))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [[1599 / 1600, 1 / 1600]], rtol=1e-6)


# The kernel.


@settings(max_examples=10)
@given(m=st.integers(1, 7), n=st.integers(1, 6), block=st.sampled_from([1, 12, 60, 2**24]))
def test_the_kernel_is_the_intersection_in_blocks_of_any_size(m, n, block):
    a, b = np.abs(numbers((m, 6))), np.abs(numbers((n, 6), seed=1))
    expected = [[sum(min(x, y) for x, y in zip(u, v, strict=True)) for v in b.tolist()] for u in a.tolist()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid_pooling, "_BLOCK_SIZE", block)
        found = pyramid_match_kernel(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_memory_of_the_kernel_is_bounded():
    """4096² images of 2,000 numbers would take 134 GB at once."""
    images = jax.ShapeDtypeStruct((4096, 2000), jnp.float32)
    program = jax.make_jaxpr(pyramid_match_kernel)(images, images)
    largest = max(math.prod(v.aval.shape) for eqn in inner_equations(program.jaxpr) for v in eqn.outvars)
    assert largest == 4096 * 4096


def inner_equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from inner_equations(value.jaxpr)


def test_levels_make_the_kernel_of_the_paper():
    """An image matches itself with 1. One whose words stand elsewhere matches at the coarse levels alone."""
    words = jnp.eye(2)
    first = jnp.zeros((1, 4, 4, 2)).at[..., 0].set(1).at[0, :2, :2].set(jnp.asarray([0.0, 1.0]))
    elsewhere = first[:, ::-1, ::-1]
    nearby = jnp.zeros((1, 4, 4, 2)).at[..., 0].set(1).at[0, :2, 2:].set(jnp.asarray([0.0, 1.0]))
    kernel = pyramid_match_kernel(*[histograms(jnp.concatenate([first, elsewhere, nearby]), words)] * 2)
    # The whole matches in full (1/4); of the quarters (1/4) and sixteenths (1/2) two in four.
    expected = np.where(np.eye(3) == 1, 1.0, 1 / 4 + (1 / 4 + 1 / 2) * 2 / 4)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_real_digits_are_told_apart_and_better_with_their_layout():
    """Nearest neighbours under the kernel, over words of the 3×3 surroundings of each pixel."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)[:900].astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    maps = jnp.asarray(patches.reshape(900, 6, 6, 9))
    words = learn(24, 10)(maps[:200].reshape(-1, 9), key=jax.random.key(0))

    def accuracy(levels: tuple[int, ...]) -> float:
        found = histograms(maps, words, levels)
        kernel = jax.jit(pyramid_match_kernel)(found[600:], found[:600])
        return float(np.mean(labels[:600][np.asarray(kernel).argmax(1)] == labels[600:900]))

    bag, pyramid = accuracy((1,)), accuracy((1, 2, 4))
    # Chance is 10 %.
    assert bag > 0.5
    assert pyramid > max(0.85, bag + 0.1)
