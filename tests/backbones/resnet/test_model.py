"""ResNet against Hugging Face's outputs, and against a second implementation in float64 NumPy."""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.backbones.resnet import model as resnet
from pvt_jax.backbones.resnet.model import Convolution, ResNet
from pvt_jax.errors import UserError
from tests.helpers import reference

# Those of torchvision's models with 1000 classes.
PARAMETERS = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160}

# A model of each kind of block, with several blocks in a stage where scan and remat have something to do.
TOYS: dict[str, dict[str, Any]] = {
    "basic": {"depths": (2, 1, 1, 1), "dims": (8, 12, 16, 24)},
    "bottleneck": {"depths": (1, 1, 1, 3), "dims": (4, 6, 8, 12)},
}
KINDS = pytest.mark.parametrize("block", TOYS)
COLLECTIONS = ("params", "batch_stats")

# Most of the time here is compilation, and half of that is optimizing code that runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def toy(block: str, **settings: Any) -> ResNet:
    return ResNet(**{"num_classes": 5, "block": block, **TOYS[block], **settings})


@functools.cache
def toy_apply(block: str, method: str = "__call__", **settings: Any) -> Any:
    return quick_jit(functools.partial(toy(block, **settings).apply, method=method))


@functools.cache
def toy_train(block: str, method: str = "__call__", **settings: Any) -> Any:
    """(variables, images, key) → (result, changed collections)."""
    apply = functools.partial(toy(block, **settings).apply, train=True, mutable=["batch_stats"], method=method)
    return quick_jit(lambda variables, images, key: apply(variables, images, rngs={"dropout": key}))


def pictures(height: int, width: int, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, height, width, 3)).astype(np.float32)


# The weights, on torchvision's state-dict names.


def convolutions(block: str) -> list[tuple[int, int]]:
    """(side, channels over the block's) of each convolution of a block."""
    return {"basic": [(3, 1), (3, 1)], "bottleneck": [(1, 1), (3, 1), (1, 4)]}[block]


def weight_shapes(block: str, depths: Sequence[int], dims: Sequence[int], num_classes: int) -> Iterator[Any]:
    def pair(convolution: str, norm: str, *shape: int) -> Iterator[Any]:
        yield f"{convolution}.weight", shape
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm}.{name}", shape[:1]
        yield f"{norm}.num_batches_tracked", ()

    yield from pair("conv1", "bn1", dims[0], 3, 7, 7)
    in_dim = dims[0]
    for i, dim in enumerate(dims):
        for j in range(depths[i]):
            name, out_dim = f"layer{i + 1}.{j}", in_dim
            for k, (side, factor) in enumerate(convolutions(block), start=1):
                yield from pair(f"{name}.conv{k}", f"{name}.bn{k}", dim * factor, out_dim, side, side)
                out_dim = dim * factor
            if j == 0 and (i > 0 or in_dim != out_dim):
                yield from pair(f"{name}.downsample.0", f"{name}.downsample.1", out_dim, in_dim, 1, 1)
            in_dim = out_dim
    yield "fc.weight", (num_classes, in_dim)
    yield "fc.bias", (num_classes,)


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.asarray(3)
    value = reference.reference_weight(key, shape)
    return np.exp(5 * value) if key.endswith("running_var") else value


@functools.cache
def toy_weights(block: str) -> reference.Weights:
    return {key: weight(key, shape) for key, shape in weight_shapes(block, **TOYS[block], num_classes=5)}


NAMES = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.(\d+)\.", r"stage\1.block\2."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"downsample\.0", "shortcut_conv"),
    (r"downsample\.1", "shortcut_norm"),
    (r"^fc\.", "head.linear."),
)
LEAVES = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}


def to_flax(weights: reference.Weights) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in weights.items():
        path, array = key, np.asarray(value)
        for pattern, replacement in NAMES:
            path = re.sub(pattern, replacement, path)
        *folders, leaf = path.split(".")
        node = tree.setdefault("batch_stats" if leaf in LEAVES else "params", {})
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for folder in folders:
            node = node.setdefault(folder, {})
        node[LEAVES.get(leaf, leaf)] = array.astype(np.int32 if array.ndim == 0 else np.float32)
    return tree


# The second implementation.


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    side = kernel.shape[-1]
    pad = (side // 2,) * 2
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("byxcij,ocij->byxo", windows, kernel.astype(np.float64), optimize=True)


def largest_of_three(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-2, -1))


class Oracle:
    """ResNet in NumPy on torchvision's names; ``after`` holds the running statistics after a pass in training."""

    def __init__(self, weights: reference.Weights, block: str, train: bool = False, branch_scales: Any = None):
        self.weights, self.block, self.train, self.branch_scales = weights, block, train, branch_scales
        self.after: dict[str, np.ndarray] = {}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale, bias, mean, var = (
            self.weights[f"{name}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        if self.train:
            rows = x.reshape(-1, x.shape[-1])
            self.after[f"{name}.running_mean"] = 0.9 * mean + 0.1 * rows.mean(0)
            self.after[f"{name}.running_var"] = 0.9 * var + 0.1 * rows.var(0, ddof=1)
            self.after[f"{name}.num_batches_tracked"] = np.asarray(4)
            mean, var = rows.mean(0), rows.var(0)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def run_block(self, x: np.ndarray, name: str, stride: int, branch_scale: Any) -> np.ndarray:
        branch, sides = x, [side for side, _ in convolutions(self.block)]
        for k, _ in enumerate(sides, start=1):
            branch = convolve(branch, self.weights[f"{name}.conv{k}.weight"], stride if k == sides.index(3) + 1 else 1)
            branch = self.norm(branch, f"{name}.bn{k}")
            branch = np.maximum(branch, 0) if k < len(sides) else branch
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(convolve(x, self.weights[f"{name}.downsample.0.weight"], stride), f"{name}.downsample.1")
        return np.maximum(x + branch * np.reshape(branch_scale, (-1, 1, 1, 1)), 0)

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        small = self.weights["conv1.weight"].shape[-1] == 3
        x = convolve(images.astype(np.float64), self.weights["conv1.weight"], 1 if small else 2)
        x = np.maximum(self.norm(x, "bn1"), 0)
        x = x if small else largest_of_three(x)
        maps, blocks = {}, 0
        for i in range(4):
            for j in range(TOYS[self.block]["depths"][i]):
                scale = 1.0 if self.branch_scales is None else self.branch_scales[blocks, 0]
                x = self.run_block(x, f"layer{i + 1}.{j}", 2 if i > 0 and j == 0 else 1, scale)
                blocks += 1
            maps[f"c{i + 2}"] = x
        return maps

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self.features(images)["c5"].mean((1, 2)) @ self.weights["fc.weight"].T + self.weights["fc.bias"]


def assert_trees_are_near(found: Any, expected: Any, tolerance: float) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        size = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * size, err_msg=jax.tree_util.keystr(path))


def test_a_stem_for_small_images():
    weights = {**toy_weights("basic"), "conv1.weight": weight("conv1.weight", (8, 3, 3, 3))}
    variables, images = to_flax(weights), pictures(21, 34)
    maps, expected = (
        toy_apply("basic", "features", stem_stride=1)(variables, images),
        Oracle(weights, "basic").features(images),
    )
    assert [maps[level].shape[1:3] for level in ("c2", "c3", "c4", "c5")] == [(21, 34), (11, 17), (6, 9), (3, 5)]
    for level, found in maps.items():
        assert reference.relative_error(found, expected[level]) < 2e-5
    model = toy("basic", stem_stride=1)
    assert model.strides == (1, 2, 4, 8) and toy("basic").strides == (4, 8, 16, 32)
    with pytest.raises(UserError, match="model.stem_stride must be 4 or 1, but is 2"):
        toy("basic", stem_stride=2).init(jax.random.key(0), jnp.asarray(images))


# The reference.


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_exact(name):
    model = ResNet(num_classes=1000, **resnet.VARIANTS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]
    assert resnet.VARIANTS.keys() == PARAMETERS.keys()


@KINDS
class TestGolden:
    """Outputs of Hugging Face's ResNet (transformers 5.23, PyTorch 2.13) for ``toy_weights``, images of 70×101.

    Its model has the stride in the 3×3 convolution; maps c2 to c5 are every third row and column; ``after`` are the
    running statistics after one pass in training.
    """

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        return reference.golden("resnet_toy")

    def test_names_are_the_reference_s(self, block):
        assert sorted(toy_weights(block)) == self.values[f"{block}/keys"].tolist()

    def test_evaluation(self, block):
        variables, images = to_flax(toy_weights(block)), pictures(70, 101)
        logits = toy_apply(block)(variables, images)
        assert reference.relative_error(logits, self.values[f"{block}/logits"]) < 2e-5
        for level, found in toy_apply(block, "features", scan=True)(variables, images).items():
            assert reference.relative_error(found[:, ::3, ::3], self.values[f"{block}/{level}"]) < 2e-5

    def test_training(self, block):
        logits, changed = toy_train(block)(to_flax(toy_weights(block)), pictures(70, 101), jax.random.key(0))
        assert reference.relative_error(logits, self.values[f"{block}/train_logits"]) < 5e-5
        prefix = f"{block}/after/"
        after = {key.removeprefix(prefix): v for key, v in self.values.items() if key.startswith(prefix)}
        after |= {key: np.asarray(4) for key in toy_weights(block) if key.endswith("num_batches_tracked")}
        assert_trees_are_near(changed, to_flax(after), 1e-5)

    def test_the_numpy_implementation_is_the_reference(self, block):
        oracle = Oracle(toy_weights(block), block)
        assert reference.relative_error(oracle.logits(pictures(70, 101)), self.values[f"{block}/logits"]) < 1e-5
        oracle = Oracle(toy_weights(block), block, train=True)
        assert reference.relative_error(oracle.logits(pictures(70, 101)), self.values[f"{block}/train_logits"]) < 1e-5
        for key, value in oracle.after.items():
            if not key.endswith("num_batches_tracked"):
                np.testing.assert_allclose(value, self.values[f"{block}/after/{key}"], rtol=1e-5, atol=1e-6)


# Image sizes.


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 33)])
@KINDS
def test_any_image_size_agrees_with_numpy(block, height, width):
    weights, images = toy_weights(block), pictures(height, width)
    maps, expected = toy_apply(block, "features")(to_flax(weights), images), Oracle(weights, block).features(images)
    assert list(maps) == list(expected) == ["c2", "c3", "c4", "c5"]
    for level, found in maps.items():
        assert found.shape[1:3] == (-(-height // 2 ** int(level[1])), -(-width // 2 ** int(level[1])))
        assert reference.relative_error(found, expected[level]) < 2e-5


@pytest.mark.parametrize("name", PARAMETERS)
def test_map_shapes(name):
    model = ResNet(num_classes=7, **resnet.VARIANTS[name])
    images = jax.ShapeDtypeStruct((1, 800, 1333, 3), jnp.float32)
    maps, _ = jax.eval_shape(functools.partial(model.init_with_output, method="features"), jax.random.key(0), images)
    factor = 4 if name in ("resnet50", "resnet101") else 1
    sizes = {"c2": (200, 334, 64), "c3": (100, 167, 128), "c4": (50, 84, 256), "c5": (25, 42, 512)}
    assert {k: v.shape for k, v in maps.items()} == {k: (1, h, w, factor * dim) for k, (h, w, dim) in sizes.items()}


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2)])
def test_convolutions_pad_by_half_their_kernel(side, stride, size):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *size, 3)), jnp.float32)
    layer = Convolution(4, side, stride)
    variables = layer.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"]).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(layer.apply(variables, x), convolve(np.asarray(x), kernel, stride), rtol=1e-4, atol=1e-5)


# Training.


@functools.cache
def with_gradient(block: str, **settings: Any) -> Any:
    """(params, variables, images) → ((loss, (logits, changed collections)), gradient)."""
    model = toy(block, **settings)

    def loss(params: Any, variables: Any, images: Any) -> Any:
        logits, changed = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), (logits, changed)

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def gradient_of_toy(block: str, **settings: Any) -> Any:
    variables = to_flax(toy_weights(block))
    return with_gradient(block, **settings)(variables["params"], variables, pictures(40, 56, batch=3))


@KINDS
def test_gradients_agree_with_differences_of_numpy(block):
    """In training mode, through the statistics of the batch: the slope in random directions, by kind of parameter."""
    weights, images = toy_weights(block), pictures(40, 56, batch=3)
    gradient = gradient_of_toy(block)[1]
    trained = {k: v for k, v in weights.items() if not re.search("running|num_batches", k)}
    for kind in (r"conv\d\.weight", r"downsample\.0\.weight", r"(bn\d|downsample\.1)\.(weight|bias)", r"fc\."):
        rng = np.random.default_rng(0)
        direction = {k: rng.standard_normal(v.shape) if re.search(kind, k) else 0 * v for k, v in trained.items()}

        def moved(distance: float, direction: reference.Weights = direction) -> float:
            nearby = {k: v + distance * direction[k] if k in direction else v for k, v in weights.items()}
            return float(np.sin(Oracle(nearby, block, train=True).logits(images)).sum())

        slope = (moved(1e-7) - moved(-1e-7)) / 2e-7
        along = to_flax(direction)["params"]
        terms = [
            np.asarray(g, np.float64) * d
            for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
        ]
        # Of sums with changing sign, the error is relative to the size of what is summed.
        size = math.sqrt(sum(float((term**2).sum()) for term in terms))
        assert size > 0.01
        assert abs(sum(float(term.sum()) for term in terms) - slope) < 1e-3 * size, kind


def test_training_changes_the_statistics_and_so_needs_them_mutable():
    variables, images = to_flax(toy_weights("basic")), jnp.asarray(pictures(32, 32))
    for scan in (False, True):
        with pytest.raises(UserError, match=r'apply with mutable=\["batch_stats"\]'):
            toy("basic", scan=scan).apply(variables, images, train=True)
    _, changed = toy("basic").apply(variables, images, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


def test_frozen_norms_train_with_the_running_statistics():
    variables, images = to_flax(toy_weights("basic")), pictures(40, 56)
    model = toy("basic", frozen_norm=True)

    def loss(params: Any, images: Any) -> Any:
        # Without mutable collections.
        logits = model.apply({**variables, "params": params}, images, train=True)
        return jnp.sum(logits[:, 0]), logits  # pyright: ignore

    gradient, logits = quick_jit(jax.grad(loss, has_aux=True))(variables["params"], images)
    assert reference.relative_error(logits, Oracle(toy_weights("basic"), "basic").logits(images)) < 2e-5
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


# Only the bottlenecks' toy has a stage that is long enough for a scan.
@pytest.mark.parametrize(
    ("block", "settings"), [("basic", {"remat": True}), ("bottleneck", {"remat": True, "scan": True})], ids=str
)
def test_remat_and_scan_change_no_result(block, settings):
    (_, (logits, changed)), gradient = gradient_of_toy(block, **settings)
    (_, (expected, expected_changed)), expected_gradient = gradient_of_toy(block)
    assert reference.relative_error(logits, np.asarray(expected)) < 2e-5
    assert_trees_are_near(changed, expected_changed, 1e-5)
    assert_trees_are_near(gradient, expected_gradient, 5e-4)
    assert all(leaf == 4 for leaf in jax.tree.leaves(changed) if leaf.dtype == jnp.int32)


@KINDS
def test_training_multiplies_the_branches_by_the_drawn_scales(block, monkeypatch):
    depth = sum(TOYS[block]["depths"])
    scales = np.random.default_rng(0).choice([0.0, 1.0, 1.5], (depth, 2, 2)).astype(np.float32)
    monkeypatch.setattr("pvt_jax.nn.blocks.stochastic_depth_scales", lambda *_: jnp.asarray(scales))
    images, weights = pictures(64, 64), toy_weights(block)
    # Whichever way the blocks are run.
    settings = {"basic": {"remat": True}, "bottleneck": {"scan": True}}[block]
    found, _ = toy_train(block, drop_path_rate=0.25, **settings)(to_flax(weights), images, jax.random.key(0))
    expected = Oracle(weights, block, train=True, branch_scales=scales).logits(images)
    assert reference.relative_error(found, expected) < 5e-5
    kept = Oracle(weights, block, train=True).logits(images)
    assert reference.relative_error(expected, kept) > 1e-2


def test_stochastic_depth_acts_only_in_training():
    variables, images = to_flax(toy_weights("basic")), pictures(32, 32)
    kept = Oracle(toy_weights("basic"), "basic").logits(images)
    settings = {"drop_path_rate": 0.5, "frozen_norm": True}
    assert reference.relative_error(toy_apply("basic", **settings)(variables, images), kept) < 2e-5
    # Either sample keeps the last block in half of the draws.
    draws = [toy_train("basic", **settings)(variables, images, jax.random.key(seed))[0] for seed in range(8)]
    assert max(reference.relative_error(logits, kept) for logits in draws) > 1e-2
    assert len({np.asarray(logits).tobytes() for logits in draws}) > 2


# Settings.


def test_bfloat16_computes_near_float32_and_answers_in_float32():
    variables, images = to_flax(toy_weights("bottleneck")), pictures(64, 96)
    exact = Oracle(toy_weights("bottleneck"), "bottleneck").logits(images)
    logits = toy_apply("bottleneck", dtype=jnp.bfloat16)(variables, images)
    assert logits.dtype == jnp.float32
    assert 1e-5 < reference.relative_error(logits, exact) < 0.05
    model = toy("bottleneck", dtype=jnp.bfloat16)
    apply = functools.partial(model.apply, method="features", train=True, mutable=["batch_stats"])
    maps, changed = jax.eval_shape(apply, variables, images)
    assert {found.dtype for found in maps.values()} == {jnp.dtype("bfloat16")}
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    types = jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert types["batch_stats"] == jax.tree.map(lambda leaf: leaf.dtype, changed["batch_stats"])
    assert {str(dtype) for dtype in jax.tree.leaves(types["params"])} == {"float32"}


def shapes_of(model: ResNet, size: tuple[int, int] = (64, 64), **arguments: Any) -> Any:
    init = functools.partial(model.init, **arguments)
    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *size, 3))))


@KINDS
def test_variables_do_not_depend_on_the_first_call(block):
    expected = jax.tree.map(np.shape, to_flax(toy_weights(block)))
    assert shapes_of(toy(block)) == expected
    assert shapes_of(toy(block), (70, 101), method="features") == expected
    assert shapes_of(toy(block, scan=True, remat=True, image_size=(32, 96)), (32, 32), train=True) == expected


def test_the_classifier_can_pool_a_pyramid():
    model = toy("basic", spp_levels=(1, 2))
    variables = to_flax(toy_weights("basic"))
    assert shapes_of(model)["params"]["head"]["linear"]["kernel"] == (24 * 5, 5)
    kernel = np.random.default_rng(2).standard_normal((24 * 5, 5)).astype(np.float32)
    bias = variables["params"]["head"]["linear"]["bias"]
    variables["params"]["head"]["linear"] = {"kernel": kernel, "bias": bias}
    images = pictures(70, 101)
    # A map of 3 × 4: halves of its rows share the middle one.
    c5 = Oracle(toy_weights("basic"), "basic").features(images)["c5"]
    cells = [c5, c5[:, :2, :2], c5[:, :2, 2:], c5[:, 1:, :2], c5[:, 1:, 2:]]
    expected = np.concatenate([cell.max((1, 2)) for cell in cells], axis=1) @ kernel + bias
    found = quick_jit(model.apply)(variables, images)
    assert reference.relative_error(found, expected) < 2e-5


def test_initial_values():
    model = ResNet(num_classes=50, depths=(1, 1, 1, 1), dims=(16, 32, 32, 64), block="bottleneck")
    variables = quick_jit(model.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 32, 32, 3)))
    counted = dict.fromkeys(("kernel", "scale", "bias", "mean", "var", "count"), 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        kind, values = name.split(".")[-1], np.asarray(leaf).ravel()
        counted[kind] += 1
        if kind == "kernel":
            expected = 0.02 if "head" in name else math.sqrt(2 / (leaf.shape[0] * leaf.shape[1] * leaf.shape[3]))
            assert abs(values.std() - expected) < 5 * expected / math.sqrt(2 * values.size), name
            # Not truncated at two deviations.
            assert values.size < 1000 or np.abs(values).max() > 2.5 * expected, name
        else:
            assert (values == {"scale": 1, "var": 1}.get(kind, 0)).all(), name
    # Stem, three a block, and four shortcuts; the head has a kernel and a bias more.
    norms = 1 + 4 * 3 + 4
    assert counted == {
        "kernel": norms + 1,
        "bias": norms + 1,
        **dict.fromkeys(("scale", "mean", "var", "count"), norms),
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"depths": (2, 2, 2)}, "model.depths must be four whole numbers above 0"),
        ({"dims": (8, 8, 8, 0)}, "model.dims must be four whole numbers above 0"),
        ({"block": "wide"}, "model.block must be one of basic, bottleneck, but is 'wide'"),
        ({"spp_levels": (1, 0)}, "model.spp_levels must be whole numbers above 0"),
    ],
)
def test_sizes_no_model_can_have(settings, expected):
    with pytest.raises(UserError, match=expected):
        shapes_of(ResNet(**{"num_classes": 5, **TOYS["basic"], "block": "basic", **settings}))
