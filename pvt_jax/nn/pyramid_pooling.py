"""Spatial pyramids over a feature map: max pooling into a vector of fixed length, and matching of visual words.

Pooling is that of "Spatial Pyramid Pooling in Deep Convolutional Networks" (arXiv 1406.4729, section 2.2). Matching is
"Beyond Bags of Features: Spatial Pyramid Matching" (Lazebnik, Schmid and Ponce, CVPR 2006, section 3): ``visual_words``
from many features, ``word_histograms`` of each image, ``pyramid_match_kernel`` between images. Levels are grid sides:
(1, 2, 4) is the whole map, its quarters and its sixteenths. All functions can be jitted and have static shapes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pvt_jax.errors import UserError
from pvt_jax.ops.pooling import spans

# Elements that ``pyramid_match_kernel`` compares at a time.
_BLOCK_SIZE = 2**24


def spatial_pyramid_pooling(
    maps: Float[Array, "b h w c"], levels: Sequence[int], reduce: Literal["max", "mean"] = "max"
) -> Float[Array, "b d"]:
    """Maximum or mean over the cells of l × l grids, l in ``levels``: a vector of fixed length for maps of any size.

    As in PyTorch's adaptive pooling, cell i spans floor(i h / l) to ceil((i + 1) h / l): cells may overlap, and none
    is empty even where the map is smaller than the grid. The order is level, row, column, channel; the length
    c · Σ l².

    Raises:
      UserError: there are no levels, or one is not above 0.
    """
    _check_levels(levels)
    reduction = {"max": jnp.max, "mean": jnp.mean}[reduce]
    cells = [_over_cells(maps, spans(maps.shape[1], level), spans(maps.shape[2], level), reduction) for level in levels]
    return jnp.concatenate(cells, axis=1)


def visual_words(
    features: Float[Array, "n c"], num_words: int, key: PRNGKeyArray, iterations: int = 20
) -> Float[Array, "k c"]:
    """The dictionary of ``num_words`` visual words, float32: k-means, seeded by k-means++ (Arthur, Vassilvitskii).

    ``features`` are sampled from the local features of all images. A word of an empty cluster moves to the feature
    farthest from its word. The same key gives the same words. Memory is O(n · k).

    Raises:
      UserError: there are fewer features than words.
    """
    n = features.shape[0]
    if not 0 < num_words <= n:
        raise UserError(f"the number of visual words must be from 1 to the number of features, {n}, but is {num_words}")
    features = features.astype(jnp.float32)

    def update(_: Any, words: Float[Array, "k c"]) -> Float[Array, "k c"]:
        nearest = _nearest_word(features, words)
        # Sums by matmul: a scatter-add has no fixed order on some devices, and rounding would depend on it.
        member = jax.nn.one_hot(nearest, num_words, axis=0)
        sizes = member.sum(1)
        means = jnp.matmul(member, features, precision="highest") / jnp.maximum(sizes, 1.0)[:, None]
        distance = jnp.square(features - words[nearest]).sum(-1)
        farthest = features[jax.lax.top_k(distance, num_words)[1]]
        empty = sizes == 0
        return jnp.where(empty[:, None], farthest[jnp.cumsum(empty) - 1], means)

    return jax.lax.fori_loop(0, iterations, update, _seeds(features, num_words, key))


def word_histograms(
    maps: Float[Array, "b h w c"], words: Float[Array, "k c"], levels: Sequence[int] = (1, 2, 4)
) -> Float[Array, "b d"]:
    """Histograms of visual words in each cell of the pyramid, weighted by level: float32, d = k · Σ l².

    Each position counts for its nearest word, in one cell of each level: cell i spans floor(i h / l) to
    floor((i + 1) h / l). Counts are fractions of the h · w positions. ``levels`` should double; level 0 weighs
    1 / 2^L and level l of 1 … L weighs 1 / 2^(L - l + 1) (equation 3 of the paper), so the weights sum to 1. The
    order is level, row, column, word.

    Raises:
      UserError: there are no levels, or one is not above 0.
    """
    _check_levels(levels)
    batch, height, width, channels = maps.shape
    nearest = _nearest_word(maps.astype(jnp.float32).reshape(-1, channels), words.astype(jnp.float32))
    counts = jax.nn.one_hot(nearest, words.shape[0]).reshape(batch, height, width, -1)
    last, histograms = len(levels) - 1, []
    for i, level in enumerate(levels):
        weight = 2.0 ** -(last if i == 0 else last - i + 1)
        cells = _over_cells(counts, _disjoint(height, level), _disjoint(width, level), jnp.sum)
        histograms.append(cells * (weight / (height * width)))
    return jnp.concatenate(histograms, axis=1)


def pyramid_match_kernel(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """Histogram intersection Σ min(a_i, b_j) of images' ``word_histograms``; 1 for an image and itself.

    Rows of ``a`` are taken in blocks, so that memory does not grow with m · n · d.
    """
    block = max(1, min(a.shape[0], _BLOCK_SIZE // max(b.size, 1)))
    return jax.lax.map(lambda row: jnp.minimum(row, b).sum(-1), a, batch_size=block)


def _over_cells(
    maps: Float[Array, "b h w c"],
    rows: Sequence[tuple[int, int]],
    columns: Sequence[tuple[int, int]],
    reduction: Callable[..., Array],
) -> Float[Array, "b d"]:
    """``reduction`` of each cell, given the spans of rows and columns; first over rows, then over columns."""
    bands = jnp.stack([reduction(maps[:, start:stop], axis=1) for start, stop in rows], axis=1)
    cells = jnp.stack([reduction(bands[:, :, start:stop], axis=2) for start, stop in columns], axis=2)
    return cells.reshape(maps.shape[0], -1)


def _disjoint(size: int, level: int) -> list[tuple[int, int]]:
    return [(i * size // level, (i + 1) * size // level) for i in range(level)]


def _check_levels(levels: Sequence[int]) -> None:
    if not levels or not all(isinstance(level, int) and level > 0 for level in levels):
        raise UserError(f"the levels of a spatial pyramid must be whole numbers above 0, but are {tuple(levels)}")


def _nearest_word(features: Float[Array, "n c"], words: Float[Array, "k c"]) -> Int[Array, "n"]:
    """Index of the nearest word; the first on ties."""
    # |x - w|² without |x|², which all words share; relative to the words' centre, so that no large numbers cancel.
    centre = words.mean(0)
    features, words = features - centre, words - centre
    products = jnp.matmul(features, words.T, precision="highest")
    return jnp.argmin(jnp.square(words).sum(-1) - 2.0 * products, axis=-1)


def _seeds(features: Float[Array, "n c"], num_words: int, key: PRNGKeyArray) -> Float[Array, "k c"]:
    """k-means++: the first at random, each next with probability ∝ its squared distance to the nearest one drawn."""
    keys = jax.random.split(key, num_words)
    start = features[jax.random.randint(keys[0], (), 0, features.shape[0])]

    def draw(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        word, distance = carry
        distance = jnp.minimum(distance, jnp.square(features - word).sum(-1))
        word = features[jax.random.categorical(key, jnp.log(distance))]
        return (word, distance), word

    unknown = jnp.full(features.shape[0], jnp.inf)
    _, drawn = jax.lax.scan(draw, (start, unknown), keys[1:])
    return jnp.concatenate([start[None], drawn])
