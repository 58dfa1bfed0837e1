"""Which weights a query has, and where they are drawn: numbers by hand, and a model made to look for its own colour."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.models import create_model
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.visualization.attention import HEAT, attention_of_query, overlay_attention

BLACK, GREY = np.zeros((60, 100, 3), np.uint8), np.full((60, 100, 3), 100, np.uint8)
BLACK_TO_WHITE = ((0, 0, 0), (255, 255, 255))


def numbered(query_grid: tuple[int, int], key_grid: tuple[int, int], extra_tokens: int = 0) -> AttentionMap:
    """Weights whose digits are image, head, query (two) and key (two)."""
    queries = query_grid[0] * query_grid[1] + extra_tokens
    keys = key_grid[0] * key_grid[1] + (extra_tokens if key_grid == query_grid else 0)
    image, head, query, key = np.ogrid[:2, :3, :queries, :keys]
    weights = 100000.0 * image + 10000 * head + 100 * query + key
    return AttentionMap(jnp.asarray(weights, jnp.float32), query_grid, key_grid, extra_tokens)


# Which weights.


@pytest.mark.parametrize(
    ("query", "position"),
    [
        ((0, 0), 0),
        ((0.24, 0.99), 5),  # the first of 4 rows, the last of 6 columns
        ((0.25, 0.5), 9),
        ((0.5, 0.17), 13),
        ((0.99, 0), 18),
        ((1, 1), 23),  # the very edge is of the last patch
    ],
)
def test_a_point_stands_for_the_patch_that_holds_it(query, position):
    found = attention_of_query(numbered((4, 6), (2, 3)), query, image=1, head=2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 120000 + 100 * position + np.array([[0, 1, 2], [3, 4, 5]]))


def test_heads_are_averaged():
    found = attention_of_query(numbered((4, 6), (2, 3)), (0, 0))
    np.testing.assert_array_equal(found, 10000 + np.array([[0, 1, 2], [3, 4, 5]]))


def test_the_class_token_asks_and_its_own_share_is_left_out():
    attention = numbered((2, 3), (2, 3), extra_tokens=1)
    keys = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(attention_of_query(attention, None, head=0), keys)
    np.testing.assert_array_equal(attention_of_query(attention, (0.9, 0.1), head=0), 100 * (1 + 3) + keys)


def test_a_patch_finds_the_other_patch_of_its_colour():
    """A ViT with identities as queries and keys, on noise of 3 × 5 patches of which two are the same."""
    model = create_model("vit_tiny_patch4", num_classes=2, depth=1, dim=48, num_heads=1, image_size=(12, 20))
    picture = np.random.default_rng(0).standard_normal((1, 12, 20, 3)).astype(np.float32)
    picture[:, 8:, 12:16] = picture[:, :4, 4:8]
    shapes = jax.eval_shape(model.init, jax.random.key(0), picture)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["patch_embed"]["kernel"] = np.eye(48, dtype=np.float32).reshape(4, 4, 3, 48)
    params["block0"]["norm1"]["scale"] += 1
    params["block0"]["attn"]["q"]["kernel"] += np.eye(48)
    params["block0"]["attn"]["kv"]["kernel"][:, :48] += np.eye(48)

    variables = jax.tree.map(jnp.asarray, {"params": params})
    maps: Any = model.apply(variables, jnp.asarray(picture), method="attention_maps")
    found = attention_of_query(maps["block0"], (0.1, 0.3))
    assert found.shape == (3, 5)
    pair = np.zeros((3, 5))
    pair[0, 1] = pair[2, 3] = 0.5
    np.testing.assert_allclose(found, pair, atol=0.02)

    # Drawn over the picture at four times its size, the two are the brightest; the query's patch is framed.
    drawn = overlay_attention(np.zeros((48, 80, 3), np.uint8), found, opacity=1, colours=BLACK_TO_WHITE)[..., 0]
    assert drawn[8, 24] > 200 and drawn[40, 56] > 200
    assert drawn[24, 40] < 30


# Where they are drawn.


def test_weights_are_enlarged_and_blended():
    picture = np.full((2, 4, 3), 100, np.uint8)
    drawn = overlay_attention(picture, np.array([[0.0, 0.2]]), opacity=1, colours=BLACK_TO_WHITE)
    assert drawn.dtype == np.uint8 and drawn.shape == (2, 4, 3)
    # Half-pixel centres: the columns lie 0, 1/4, 3/4 and 1 of the way.
    assert drawn.tolist() == [[[v] * 3 for v in (0, 64, 191, 255)]] * 2
    drawn = overlay_attention(picture, np.array([[0.0, 0.2]]), opacity=0.25, colours=BLACK_TO_WHITE)
    assert drawn[0, :, 0].tolist() == [75, 91, 123, 139]
    assert (picture == 100).all()


def test_colours_are_mixed_from_their_neighbours():
    colours = ((0, 0, 0), (200, 0, 100), (0, 250, 100))
    drawn = overlay_attention(np.zeros((1, 4, 3), np.uint8), np.array([[0.0, 1.0]]), opacity=1, colours=colours)
    assert drawn[0].tolist() == [[0, 0, 0], [100, 0, 50], [100, 125, 100], [0, 250, 100]]


@pytest.mark.parametrize("cell", [(0, 0), (0, 3), (5, 0), (5, 3), (2, 1), (3, 2)])
def test_a_peak_stays_where_its_key_is(cell):
    """6 × 4 keys over 90 × 40 pixels: cells of 15 × 10."""
    weights = np.zeros((6, 4), np.float32)
    weights[cell] = 0.01
    drawn = overlay_attention(np.zeros((90, 40, 3), np.uint8), weights, opacity=1, colours=BLACK_TO_WHITE)[..., 0]
    row, column = cell
    brightest = np.argwhere(drawn == 255)
    assert len(brightest) and (brightest // (15, 10) == cell).all()
    # Nothing reaches beyond the neighbours' centres.
    rows, columns = np.nonzero(drawn)
    assert rows.min() >= 15 * row - 8 and rows.max() < 15 * (row + 1) + 8
    assert columns.min() >= 10 * column - 5 and columns.max() < 10 * (column + 1) + 5
    if 0 < row < 5 and 0 < column < 3:
        centre = (drawn * np.indices(drawn.shape)).sum((1, 2)) / drawn.sum(dtype=np.int64)
        np.testing.assert_allclose(centre, (15 * row + 7, 10 * column + 4.5), atol=1e-6)


def test_only_ratios_of_weights_count():
    weights = np.random.default_rng(0).random((3, 5))
    drawn = overlay_attention(BLACK, weights, opacity=1)
    np.testing.assert_array_equal(overlay_attention(BLACK, weights * 2.0**-9, opacity=1), drawn)
    assert (drawn == HEAT[-1]).all(-1).sum() >= 1
    nothing = overlay_attention(GREY, np.zeros((3, 5)), opacity=0.6)
    assert (nothing == 40).all()


def test_no_opacity_is_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(overlay_attention(picture, np.eye(3), opacity=0), picture)


@pytest.mark.parametrize(
    ("query", "query_grid", "box"),
    [
        ((0.5, 0.5), None, (20, 40, 40, 60)),  # rows 20 to 40, columns 40 to 60
        ((0.0, 1.0), (6, 10), (0, 10, 90, 100)),
        ((0.99, 0.5), (7, 3), (51, 60, 33, 67)),  # 60 / 7 and 100 / 3 pixels: every pixel that the patch touches
    ],
)
def test_the_patch_of_the_query_is_framed(query, query_grid, box):
    plain = overlay_attention(GREY, np.ones((3, 5)))
    drawn = overlay_attention(GREY, np.ones((3, 5)), query, query_grid)
    top, bottom, left, right = box
    expected = plain.copy()
    expected[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = 0
    expected[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = 255
    expected[top:bottom, left:right] = plain[top:bottom, left:right]
    np.testing.assert_array_equal(drawn, expected)


def test_colours_rise_in_equal_steps_of_lightness():
    """CIE L* of sRGB, IEC 61966-2-1 and CIE 15: what is attended to more looks lighter, in print too."""
    srgb = np.array(HEAT) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)
    np.testing.assert_allclose(np.diff(lightness), 12, atol=1)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": None}, r"no class token: give the query as \(y, x\)"),
        ({"query": (0.5, 1.2)}, r"the query \(0.5, 1.2\) is outside the picture: give y and x as fractions"),
        ({"query": (112, 60)}, r"the query \(112, 60\) is outside the picture"),
        ({"query": (0.5, float("nan"))}, "outside the picture"),
        ({"query": (0, 0), "image": 2}, "there is no image 2: the maps have 2, counted from 0"),
        ({"query": (0, 0), "head": -1}, "there is no attention head -1: the maps have 3"),
    ],
)
def test_queries_that_do_not_exist(arguments, message):
    with pytest.raises(UserError, match=message):
        attention_of_query(numbered((4, 6), (2, 3)), **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"picture": BLACK / 255}, r"must be uint8 \[height, width, 3\], but is float64 \[60, 100, 3\]"),
        ({"picture": BLACK[..., 0]}, r"but is uint8 \[60, 100\]"),
        ({"picture": BLACK[:0]}, r"but is uint8 \[0, 100, 3\]"),
        ({"weights": np.ones(4)}, r"weights must be \[rows, columns\].*but are \[4\]"),
        ({"weights": np.array([[1.0, -0.1]])}, "weights must be finite and at least 0"),
        ({"weights": np.array([[1.0, np.nan]])}, "weights must be finite and at least 0"),
        ({"query": (0.5, -0.1)}, r"the query \(0.5, -0.1\) is outside the picture"),
        ({"opacity": 60}, "the opacity must be from 0 to 1, but is 60"),
        ({"colours": ((0, 0, 0),)}, "at least two rows of red, green and blue in 0..255"),
        ({"colours": ((0, 0, 0), (255, 300, 0))}, "at least two rows of red, green and blue in 0..255"),
    ],
)
def test_overlays_that_cannot_be(changed, message):
    with pytest.raises(UserError, match=message):
        overlay_attention(**{"picture": BLACK, "weights": np.ones((2, 2)), **changed})
