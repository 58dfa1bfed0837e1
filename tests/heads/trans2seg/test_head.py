"""Trans2Seg's head against a second implementation in float64 NumPy, class by class as in the paper's figure 4."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.trans2seg.class_maps import CLASSES_AT_ONCE
from pvt_jax.heads.trans2seg.head import Trans2SegHead
from pvt_jax.models import create_model
from pvt_jax.trace import traced_multiply_accumulates
from tests.helpers.numpy_models import gelu
from tests.helpers.running import quick_jit

# Tables of 3×2 positions. So many classes that they go in two rounds, of which the second is not full.
TOY: dict[str, Any] = {"dim": 12, "depth": 3, "num_heads": 2, "channels": 6, "image_size": (96, 64)}
CLASSES = 19
assert CLASSES_AT_ONCE < CLASSES < 2 * CLASSES_AT_ONCE
DIMS = {"c2": 5, "c5": 10}
TABLE = (3, 2)


def head(**settings: Any) -> Trans2SegHead:
    return Trans2SegHead(**{"num_classes": CLASSES, **TOY, **settings})


def pyramid(height: int, width: int, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((batch, height >> int(name[1]), width >> int(name[1]), dim)).astype(np.float32)
        for name, dim in DIMS.items()
    }


@functools.cache
def variables() -> Any:
    """Random ones, far from their initial values, so that every one of them counts."""
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name == "count":
            return np.asarray(3, np.int32)
        if name == "var":
            return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        drawn = rng.standard_normal(leaf.shape) * (0.3 if leaf.ndim > 1 else 0.1) + (name == "scale")
        return drawn.astype(np.float32)

    shapes = jax.eval_shape(head().init, jax.random.key(0), pyramid(96, 64))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def evaluate() -> Any:
    return quick_jit(lambda variables, maps, sizes=None: head().apply(variables, maps, sizes=sizes))


@functools.cache
def train() -> Any:
    """(variables, maps, weights) → (logits, batch statistics, gradient of the weighted sum of the logits)."""

    def loss(params: Any, batch_stats: Any, maps: Any, weights: Any) -> Any:
        logits, changed = head().apply(
            {"params": params, "batch_stats": batch_stats}, maps, train=True, mutable=["batch_stats"]
        )
        return (logits * weights).sum(), (logits, changed["batch_stats"])  # pyright: ignore

    def run(variables: Any, maps: Any, weights: Any) -> Any:
        gradient, (logits, changed) = jax.grad(loss, has_aux=True)(
            variables["params"], variables["batch_stats"], maps, weights
        )
        return logits, changed, gradient

    return quick_jit(run)


# The second implementation: on the same trees, but for every class its own maps, [b, k, h, w, c].


def linear(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0.0)


def normed(p: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def mlp(p: Any, x: np.ndarray) -> np.ndarray:
    return linear(p["fc2"], gelu(linear(p["fc1"], x)))


def scores(p: Any, queries: np.ndarray, keys: np.ndarray, heads: int) -> np.ndarray:
    parts = [np.split(linear(p[name], x), heads, -1) for name, x in (("q", queries), ("k", keys))]
    side = parts[0][0].shape[-1]
    return np.stack([q @ k.swapaxes(1, 2) / np.sqrt(side) for q, k in zip(*parts, strict=True)], 1)


def attended(p: Any, queries: np.ndarray, keys: np.ndarray, heads: int) -> np.ndarray:
    weights = np.exp(scores(p, queries, keys, heads))
    weights /= weights.sum(-1, keepdims=True)
    values = np.split(linear(p["v"], keys), heads, -1)
    return linear(p["proj"], np.concatenate([weights[:, i] @ value for i, value in enumerate(values)], -1))


def resized(x: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """[…, h, w, c] bilinear, half-pixel centres, borders repeated."""
    for axis, side in zip((-3, -2), target, strict=True):
        source = x.shape[axis]
        centres = (np.arange(side) + 0.5) * source / side - 0.5
        x = np.apply_along_axis(lambda line: np.interp(centres, np.arange(len(line)), line), axis, x)  # noqa: B023
    return x


def depthwise(kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (-3, -2))
    return np.einsum("...cij,ijc->...c", windows, kernel[:, :, 0])


class Norms:
    """Batch norms by the running statistics, or by the batch's own, of which it keeps mean and unbiased variance."""

    def __init__(self, statistics: Any | None):
        self.statistics, self.found = statistics, {}

    def __call__(self, p: Any, name: str, x: np.ndarray) -> np.ndarray:
        """ReLU of the norm of that name."""
        if self.statistics is None:
            rows = x.reshape(-1, x.shape[-1])
            mean, var = rows.mean(0), rows.var(0)
            self.found[name] = mean, var * (len(rows) / (len(rows) - 1))
        else:
            stats = functools.reduce(lambda tree, key: tree[key], name.split("/"), self.statistics)
            mean, var = stats["mean"], stats["var"]
        norm = functools.reduce(lambda tree, key: tree[key], name.split("/"), p)
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0.0)


def oracle(params: Any, maps: dict[str, np.ndarray], norms: Norms) -> np.ndarray:
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    heads, depth = TOY["num_heads"], TOY["depth"]
    c2, c5 = (maps[name].astype(np.float64) for name in ("c2", "c5"))
    batch, rows, columns, _ = c5.shape
    dim = TOY["dim"]

    table = p["pos_embed"][0]
    positions = resized(table[1:].reshape(*TABLE, dim), (rows, columns)).reshape(-1, dim)
    x = linear(p["embed"], c5).reshape(batch, -1, dim) + positions
    x = np.concatenate([np.repeat(p["cls_token"] + table[0], batch, 0), x], 1)
    for i in range(depth):
        layer = p[f"encoder{i}"]
        y = normed(layer["norm1"], x)
        x = x + attended(layer["attn"], y, y, heads)
        x = x + mlp(layer["mlp"], normed(layer["norm2"], x))
    encoded = normed(p["norm"], x)[:, 1:]

    queries, memory = np.repeat(p["class_queries"], batch, 0), encoded
    for i in range(depth - 1):
        layer = p[f"decoder{i}"]
        queries = attended(
            layer["attn"], normed(layer["norm_queries"], queries), normed(layer["norm_memory"], memory), heads
        )
        queries, memory = queries + queries, memory + memory
        queries = queries + mlp(layer["mlp_queries"], normed(layer["norm_mlp_queries"], queries)) + p["class_queries"]
        memory = memory + mlp(layer["mlp_memory"], normed(layer["norm_mlp_memory"], memory))
    layer = p[f"decoder{depth - 1}"]
    attention = scores(
        layer["attn"], normed(layer["norm_queries"], queries), normed(layer["norm_memory"], memory), heads
    )
    attention = attention.reshape(batch, heads, CLASSES, rows, columns).transpose(0, 2, 3, 4, 1)

    flat = resized(attention, TABLE).reshape(batch, CLASSES, -1, heads).swapaxes(2, 3)
    refined = mlp(p["refine"], normed(p["refine_norm"], flat)).swapaxes(2, 3)
    attention = attention + attention + resized(refined.reshape(batch, CLASSES, *TABLE, heads), (rows, columns))

    copies = np.repeat(encoded.reshape(batch, 1, rows, columns, dim), CLASSES, 1)
    mix = p["mix"]
    x = np.concatenate([copies, attention], -1)
    x = depthwise(np.concatenate([mix["memory_depthwise"]["kernel"], mix["scores_depthwise"]["kernel"]], -1), x)
    x = np.concatenate(
        [
            norms(p, "mix/memory_norm", x[..., :dim]),
            norms(p, "mix/scores_norm", x[..., dim:]),
        ],
        -1,
    )
    x = x @ np.concatenate([mix["memory_pointwise"]["kernel"], mix["scores_pointwise"]["kernel"]])
    x = separable(p, "smooth", norms(p, "mix/norm", x), norms)
    fine = norms(p, "fine_norm", linear(p["fine"], c2))
    x = separable(p, "prediction", resized(x, c2.shape[1:3]) + fine[:, None], norms)
    x = linear(p["prediction"]["score"], x) + p["prediction"]["score_bias"]
    return x[..., 0].transpose(0, 2, 3, 1)


def separable(p: Any, name: str, x: np.ndarray, norms: Norms) -> np.ndarray:
    part = functools.reduce(lambda tree, key: tree[key], name.split("/"), p)
    x = norms(p, f"{name}/depthwise_norm", depthwise(part["depthwise"]["kernel"], x))
    return norms(p, f"{name}/pointwise_norm", linear(part["pointwise"], x))


def assert_near(found: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() < tolerance * np.abs(expected).max()


# The size of the tables, one that is not square, and one that 32 does not divide.
@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 128), (70, 101), (64, 64)])
def test_class_scores_are_those_of_the_definition(height, width):
    maps = pyramid(height, width)
    expected = oracle(variables()["params"], maps, Norms(variables()["batch_stats"]))
    assert expected.shape == (2, height // 4, width // 4, CLASSES)
    assert expected.std((0, 1, 2)).min() > 0.01
    found = evaluate()(variables(), maps)
    assert found.dtype == jnp.float32
    assert_near(found, expected)


def test_training_takes_the_statistics_of_all_classes_and_its_gradient_is_the_slope():
    maps = pyramid(64, 96)
    params, rng = variables()["params"], np.random.default_rng(5)
    weights = rng.standard_normal((2, 16, 24, CLASSES)).astype(np.float32)
    logits, changed, gradient = train()(variables(), maps, weights)
    norms = Norms(None)
    assert_near(logits, oracle(params, maps, norms))

    copies, values = CLASSES * 2 * 2 * 3, 2 * 2 * 3
    for name, (mean, var) in norms.found.items():
        old, new = (
            functools.reduce(lambda tree, key: tree[key], name.split("/"), tree)
            for tree in (variables()["batch_stats"], changed)
        )
        if name == "mix/memory_norm":
            # A value each, not a copy for every class.
            var = var * ((copies - 1) / copies) * (values / (values - 1))
        assert new["count"] == 4
        np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-4, atol=1e-5)
    assert len(norms.found) == len(jax.tree.leaves(changed)) / 3

    # Along several random directions, each of all parameters. So near that hardly a ReLU changes sides on the way.
    for _ in range(3):
        direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)

        def moved(distance: float, direction: Any = direction) -> float:
            near = jax.tree.map(lambda x, step: x + distance * step, params, direction)
            return float((oracle(near, maps, Norms(None)) * weights).sum())

        slope = (moved(1e-7) - moved(-1e-7)) / 2e-7
        terms = jax.tree.map(lambda g, step: (np.asarray(g, np.float64) * step).ravel(), gradient, direction)
        along = np.concatenate(jax.tree.leaves(terms))
        assert abs(along.sum() - slope) < 1e-3 * np.sqrt((along**2).sum())


def test_every_parameter_learns():
    gradient = train()(variables(), pyramid(64, 96), np.random.default_rng(6).standard_normal((2, 16, 24, CLASSES)))[2]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # Rows, columns, and in a table every position have a gradient of their own.
        assert (np.abs(leaf) > 1e-6 * np.abs(leaf).max()).mean() > 0.9, jax.tree_util.keystr(path)
        assert np.abs(leaf).max() > 1e-4, jax.tree_util.keystr(path)


def test_padded_images_give_what_each_gives_alone():
    sizes = np.array([[64, 96], [96, 32], [96, 96]], np.int32)
    maps = pyramid(96, 96, batch=3)
    for name, stride in (("c2", 4), ("c5", 32)):
        for one, (height, width) in zip(maps[name], sizes // stride, strict=True):
            one[height:], one[:, width:] = 0.0, 0.0
    found = evaluate()(variables(), maps, sizes)
    for i, (height, width) in enumerate(sizes):
        rows, columns = height // 4, width // 4
        alone = {"c2": maps["c2"][i : i + 1, :rows, :columns], "c5": maps["c5"][i : i + 1]}
        alone["c5"] = alone["c5"][:, : height // 32, : width // 32]
        expected = oracle(variables()["params"], alone, Norms(variables()["batch_stats"]))
        assert_near(found[i : i + 1, :rows, :columns], expected)
    assert np.isfinite(found).all()


def test_a_query_is_a_class():
    """Queries in another order give the classes in that order, in evaluation and in training."""
    order = np.random.default_rng(2).permutation(CLASSES)
    maps = pyramid(64, 96)
    params = {**variables()["params"], "class_queries": variables()["params"]["class_queries"][:, order]}
    permuted = {**variables(), "params": params}
    assert_near(evaluate()(permuted, maps), np.asarray(evaluate()(variables(), maps))[..., order])
    weights = np.zeros((2, 16, 24, CLASSES), np.float32)
    assert_near(train()(permuted, maps, weights)[0], np.asarray(train()(variables(), maps, weights)[0])[..., order])


def test_all_classes_are_never_held_at_stride_4():
    """In evaluation by no program, in training by nothing that the backward pass is given."""
    classes = 10 * CLASSES_AT_ONCE
    model, maps = head(num_classes=classes), pyramid(128, 128, batch=1)
    tree = jax.eval_shape(model.init, jax.random.key(0), maps)
    all_classes = 32 * 32 * classes * TOY["channels"]
    evaluation = jax.jit(model.apply).lower(tree, maps).compile().memory_analysis()
    assert evaluation is not None and evaluation.temp_size_in_bytes < 4 * all_classes

    def pull_back(params: Any, batch_stats: Any, maps: Any) -> Any:
        def forward(params: Any) -> Any:
            given = {"params": params, "batch_stats": batch_stats}
            return model.apply(given, maps, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(forward, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(pull_back, tree["params"], tree["batch_stats"], maps))
    assert 0 < max(leaf.size for leaf in kept) < all_classes / 10


def test_computes_in_bfloat16_and_scores_in_float32():
    half, maps = head(dtype=jnp.bfloat16), pyramid(64, 96)
    shapes = jax.eval_shape(half.init, jax.random.key(0), maps)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes["params"])} == {jnp.dtype("float32")}
    found = quick_jit(half.apply)(variables(), maps)
    assert found.dtype == jnp.float32
    expected = oracle(variables()["params"], maps, Norms(variables()["batch_stats"]))
    assert 1e-4 * expected.std() < np.abs(np.asarray(found) - expected).std() < 0.03 * expected.std()


def test_initial_values():
    small, maps = Trans2SegHead(40, depth=2, image_size=128), pyramid(64, 64, batch=1)
    # What is not given back is not compiled.
    found = quick_jit(lambda key, maps: small.init(key, maps)["params"])(jax.random.key(0, impl="rbg"), maps)
    for name in ("class_queries", "pos_embed", "cls_token"):
        assert abs(found[name].std() - 0.02) < 5 * 0.02 / np.sqrt(2 * found[name].size)
    for kernel in (found["embed"], found["encoder1"]["attn"]["v"], found["refine"]["fc2"]):
        assert abs(kernel["kernel"].std() - 0.02) < 5 * 0.02 / np.sqrt(2 * kernel["kernel"].size)
    # PyTorch's default for convolutions.
    mix, prediction = found["mix"], found["prediction"]
    for kernel, fan_in in (
        (mix["memory_depthwise"], 9),
        (mix["memory_pointwise"], 256 + 8),
        (mix["scores_pointwise"], 256 + 8),
        (prediction["pointwise"], 64),
        (found["fine"], DIMS["c2"]),
        (prediction["score"], 64),
    ):
        assert 0.9 / np.sqrt(fan_in) < np.abs(kernel["kernel"]).max() <= 1 / np.sqrt(fan_in)
    assert 0 < abs(float(prediction["score_bias"][0])) <= 1 / 8


@functools.cache
def paper_s_model() -> tuple[SegmentationModel, Any]:
    backbone: Any = create_model("pvt_small", num_classes=0)
    model = SegmentationModel(backbone, Trans2SegHead(150))
    images = jnp.zeros((1, 512, 512, 3))
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), images))


def test_parameters_and_the_published_number():
    """By hand, from the layers of arXiv 2101.08461: d = 256, 4 + 4 layers, hidden 3 d, 8 heads; tables of 16²."""
    d, positions, heads, hid = 256, 16 * 16, 8, 64
    norm, network = 2 * d, 2 * d * 3 * d + 3 * d + d
    attention = 4 * d * d + d
    refine = 2 * positions * 3 * positions + 3 * positions + positions
    tables = d + (1 + positions) * d + 150 * d
    encoder = 4 * (attention + network + 2 * norm)
    decoder = 3 * (attention + 2 * network + 4 * norm) + (2 * d * d + 2 * norm)
    separable = 9 * hid + 2 * hid + hid * hid + 2 * hid
    first = 9 * (d + heads) + 2 * (d + heads) + (d + heads) * hid + 2 * hid
    convolutions = first + 2 * separable + (64 * hid + 2 * hid) + (hid + 1)
    ours = (512 * d + d) + tables + encoder + norm + decoder + refine + 2 * positions + convolutions
    params = paper_s_model()[1]["params"]
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in ("backbone", "head")}
    assert count["head"] == ours == 6_586_649
    # PVT-Small (24,485,864) without classifier, class token and final norm.
    assert count["backbone"] == 24_485_864 - 513_000 - 512 - 1_024

    # The reference also has a refinement in the decoder's first layers, whose results it drops, and in the last one
    # networks, values and projection, whose results nothing takes. The papers count these, but neither norms of
    # tokens nor what belongs to no layer: tables and tokens. So they come to 32.1 M, and with ResNet-50 (23,508,032
    # without classifier), at stride 16 and so with tables of 32², to 56.1 M.
    def published(backbone: int, c2: int, c5: int, positions: int) -> float:
        refine = 2 * positions * 3 * positions + 3 * positions + positions
        layers = 4 * (attention + network) + 4 * (attention + 2 * network + refine)
        return (backbone + c5 * d + d + layers + convolutions + (c2 - 64) * hid) / 1e6

    layer_norms = 2 * (64 + 128 + 320 + 512) + 4 * (3 * 64 + 4 * 128 + 6 * 320 + 3 * 512)
    layer_norms += 2 * (3 * 64 + 4 * 128 + 6 * 320)
    pos_embed = 3136 * 64 + 784 * 128 + 196 * 320 + 50 * 512
    assert round(published(count["backbone"] - layer_norms - pos_embed, 64, 512, 16 * 16), 1) == 32.1
    assert round(published(23_508_032, 256, 2048, 32 * 32), 1) == 56.1


def test_multiply_accumulates_of_the_paper_s_model():
    """By hand, at 512² with 150 classes."""
    d, tokens, classes, hid, fine = 256, 16 * 16, 150, 64, 128 * 128
    attention, network = 4 * d * d, 6 * d * d
    products = tokens * 512 * d
    products += 4 * ((tokens + 1) * (attention + network) + 2 * (tokens + 1) ** 2 * d)
    products += 3 * (classes * (2 * d * d + network) + tokens * (2 * d * d + network) + 2 * classes * tokens * d)
    products += classes * d * d + tokens * d * d + classes * tokens * d
    products += classes * 8 * 6 * tokens * tokens
    products += tokens * (9 * d + d * hid) + classes * tokens * (9 * 8 + 8 * hid)
    products += classes * tokens * (9 * hid + hid * hid) + fine * 64 * hid
    products += classes * fine * (9 * hid + hid * hid + hid)
    model, variables = paper_s_model()
    head = traced_multiply_accumulates(model, 512, 512, variables=variables)["head"]
    assert head.weights + head.attention == products == 13_961_312_256


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_classes": 0}, "model.num_classes must be above 0, but is 0"),
        ({"depth": 0}, "head.depth must be a whole number above 0, but is 0"),
        ({"channels": -6}, "head.channels must be a whole number above 0, but is -6"),
        ({"num_heads": 5}, "head.dim must be a multiple of head.num_heads, 5, but is 12"),
        (
            {"image_size": (96, 31)},
            r"head.image_size must be a side of at least 32, or \(height, width\), but is \(96, ",
        ),
        ({"image_size": (96,)}, r"head.image_size must be a side of at least 32, or \(height, width\), but is \(96,"),
    ],
)
def test_settings_that_make_no_head(settings, line):
    with pytest.raises(UserError, match=line):
        jax.eval_shape(head(**settings).init, jax.random.key(0), pyramid(64, 64))
