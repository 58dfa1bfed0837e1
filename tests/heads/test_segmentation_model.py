"""Dense models: every head by its name, its size and its settings, and what all of them share."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.heads.segformer.head import SegFormerHead
from pvt_jax.heads.segmentation_model import SegmentationModel
from pvt_jax.heads.semantic_fpn.head import SemanticFPNHead
from pvt_jax.models import create_model
from pvt_jax.nn.pixels import PixelClassifier
from tests.helpers import numpy_models, reference
from tests.helpers.dense import DIMS, PYRAMID, Patches, random_maps, random_variables
from tests.helpers.running import assert_normal, pictures, quick_jit

# With 150 classes. A backbone has what its classifier has (test_registry.py) without head, class token and last norm:
# PVT-Tiny 12,714,752. Semantic FPN: 2,623,488 in the neck (263,168 in the linear maps, 4 · 590,080 in the convolutions)
# and 1,643,158 in the head (seven convolutions, 1,622,016, their norms 1,792, the classifier 19,350). SegFormer:
# SegformerForSemanticSegmentation of Hugging Face (transformers 5.23) with these sizes. Trans2Seg: 6,586,649 in the
# head, four encoder layers of 657,664, three decoder layers of 1,052,928 and 132,096 of a fourth among them.
PARAMETERS = {
    ("semantic_fpn", "pvt_tiny"): 16_981_398,
    ("semantic_fpn", "pvt_small"): 28_237_974,
    ("semantic_fpn", "pvt_medium"): 47_960_214,
    ("semantic_fpn", "pvt_large"): 65_121_430,
    ("segformer", "mit_b0"): 3_752_694,
    ("segformer", "mit_b1"): 13_715_798,
    ("segformer", "mit_b2"): 27_461_974,
    ("segformer", "mit_b3"): 47_337_814,
    ("segformer", "mit_b4"): 64_108_374,
    ("segformer", "mit_b5"): 84_708_694,
    ("trans2seg", "pvt_small"): 30_557_977,
}
# Small heads, for a small backbone.
TOYS: dict[str, dict[str, Any]] = {
    "segformer": {"channels": 8},
    "semantic_fpn": {"channels": 8, "neck_channels": 6},
    "trans2seg": {"dim": 8, "depth": 1, "num_heads": 2, "channels": 4, "image_size": 64},
}
EVERY_HEAD = pytest.mark.parametrize("head", TOYS)
ALL_HEADS = "detr, faster_rcnn, mask_rcnn, retinanet, segformer, semantic_fpn, trans2seg, vit_frcnn"
NUM_CLASSES = 5


def toy(head: str, backbone: str = "pvt_v2_b0", **settings: Any) -> Any:
    sizes = {**PYRAMID} if backbone != "resnet18" else {"depths": (1, 1, 1, 1), "dims": DIMS}
    return create_model(
        backbone, **{"head": head, "head_settings": TOYS[head], "num_classes": NUM_CLASSES, **sizes, **settings}
    )


def simplest(head: str, **settings: Any) -> Any:
    return toy(head, **settings).clone(backbone=Patches(num_classes=0, norm=True))


def shapes_of(model: Any) -> Any:
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def test_every_head_has_a_known_parameter_count_and_a_toy():
    segmenters = sorted(head for head, row in HEADS.items() if row.model is SegmentationModel)
    assert segmenters == sorted(TOYS) == sorted({head for head, _ in PARAMETERS})


@pytest.mark.parametrize(("head", "name"), PARAMETERS)
def test_parameter_count_is_exact(head, name):
    tree = reference.deep_variables(create_model(name, head=head))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == PARAMETERS[head, name]


def test_the_variables_of_semantic_fpn():
    """The backbone's own, and beside them those of neck and head."""
    tree = shapes_of(create_model("pvt_tiny", head="semantic_fpn", num_classes=7, **PYRAMID))
    backbone = shapes_of_backbone("pvt_tiny")
    assert tree["params"].keys() == {"backbone", "neck", "head"}
    assert tree["params"]["backbone"] == backbone and not backbone.keys() & {"head", "norm", "cls_token"}
    assert tree["params"]["neck"].keys() == {
        f"{kind}{level}" for kind in ("lateral_c", "output_p") for level in range(2, 6)
    }
    branches: dict[str, Any] = {}
    for level, convolutions in ((2, 1), (3, 1), (4, 2), (5, 3)):
        branches[f"branch_p{level}"] = {
            **{f"conv{j}": {"kernel": (3, 3, 128 if j else 256, 128)} for j in range(convolutions)},
            **{f"norm{j}": {"scale": (128,), "bias": (128,)} for j in range(convolutions)},
        }
    assert tree["params"]["head"] == {**branches, "classifier": {"kernel": (128, 7), "bias": (7,)}}
    norms = {
        branch: {name: {"mean": (128,), "var": (128,), "count": ()} for name in params if name.startswith("norm")}
        for branch, params in branches.items()
    }
    assert tree["batch_stats"] == {"head": norms}


def shapes_of_backbone(name: str) -> Any:
    backbone = create_model(name, num_classes=0, **PYRAMID)
    images = jnp.zeros((1, 64, 64, 3))
    tree = jax.eval_shape(functools.partial(backbone.init, method="features"), jax.random.key(0), images)
    return jax.tree.map(lambda leaf: leaf.shape, tree["params"])


def test_the_variables_of_segformer():
    tree = shapes_of(create_model("mit_b2", head="segformer", num_classes=7, **PYRAMID))
    assert tree["params"].keys() == {"backbone", "head"}
    assert tree["params"]["backbone"] == shapes_of_backbone("mit_b2")
    assert tree["params"]["head"] == {
        **{f"linear_c{i + 2}": {"kernel": (dim, 768), "bias": (768,)} for i, dim in enumerate(DIMS)},
        "fuse": {"kernel": (4 * 768, 768)},
        "norm": {"scale": (768,), "bias": (768,)},
        "classifier": {"kernel": (768, 7), "bias": (7,)},
    }
    assert tree["batch_stats"] == {"head": {"norm": {"mean": (768,), "var": (768,), "count": ()}}}


@pytest.mark.parametrize(
    ("name", "settings", "channels"),
    [("mit_b1", {}, 256), ("mit_b5", {}, 768), ("mit_b5", {"channels": 12}, 12), ("pvt_v2_b5", {}, 256)],
)
def test_segformer_is_wider_on_larger_encoders_unless_told(name, settings, channels):
    model: Any = create_model(name, head="segformer", head_settings=settings)
    assert model.head.channels == channels and model.num_classes == model.head.num_classes == 150


@EVERY_HEAD
@pytest.mark.parametrize("backbone", ["pvt_tiny", "resnet18"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_class_scores_at_stride_4(head, backbone, dtype):
    model = toy(head, backbone, dtype=dtype)
    assert model.num_classes == NUM_CLASSES and model.dtype == dtype
    for height, width in ((64, 96), (100, 70)):
        images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
        logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        rows, columns = (-(-height // 4), -(-width // 4)) if backbone == "resnet18" else (height // 4, width // 4)
        assert logits.shape == (2, rows, columns, NUM_CLASSES)
        assert logits.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}


@EVERY_HEAD
def test_padding_changes_nothing(head):
    """Images of two sizes in one batch have the scores that they have alone, whatever stands beyond their ends."""
    model, images, sizes = simplest(head), pictures(96, 128), [(64, 96), (96, 64)]
    variables = random_variables(model, images)
    found = quick_jit(lambda v, x, s: model.apply(v, x, sizes=s))(variables, images, jnp.array(sizes))
    alone = quick_jit(model.apply)
    for i, (height, width) in enumerate(sizes):
        expected = alone(variables, images[i : i + 1, :height, :width])[0]
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found[i, : height // 4, : width // 4], expected, rtol=0, atol=2e-5)


def test_padded_images_are_not_trained_on():
    model, images = toy("segformer"), jnp.zeros((2, 64, 64, 3))
    with pytest.raises(UserError, match="sizes of padded images are for evaluation: batch norm would include the pad"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, True, jnp.full((2, 2), 32)), images)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 101)])
def test_segformer_s_head_is_equation_4(height, width):
    """In the paper's order: linear maps, resampling, concatenation, and a linear map of four times as many channels."""
    head, maps = SegFormerHead(NUM_CLASSES, channels=12), random_maps(height, width, "up")
    variables = random_variables(head, maps)
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    parts = []
    for level in (5, 4, 3, 2):
        linear = params[f"linear_c{level}"]
        x = maps[f"c{level}"].astype(np.float64) @ linear["kernel"] + linear["bias"]
        parts.append(np.stack([numpy_models.bilinear(one, maps["c2"].shape[1:3]) for one in x]))
    x = (np.concatenate(parts, -1) @ params["fuse"]["kernel"] - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = np.maximum(x * params["norm"]["scale"] + params["norm"]["bias"], 0)
    expected = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    found = quick_jit(head.apply)(variables, maps)
    assert reference.relative_error(found, expected) < 1e-5
    # Each class score is a sum of 12 products of numbers with 8 bits, and so is each of those.
    half = quick_jit(SegFormerHead(NUM_CLASSES, channels=12, dtype=jnp.bfloat16).apply)(variables, maps)
    assert half.dtype == jnp.float32
    assert 1e-4 < reference.relative_error(half, expected) < 0.05


def test_bfloat16_scores_of_semantic_fpn_are_near():
    maps = {name.replace("c", "p"): one for name, one in random_maps(64, 64, dims=(8,) * 4).items()}
    head = functools.partial(SemanticFPNHead, NUM_CLASSES, channels=8)
    variables = random_variables(head(), maps)
    expected = np.asarray(quick_jit(head().apply)(variables, maps))
    found = quick_jit(head(dtype=jnp.bfloat16).apply)(variables, maps)
    assert found.dtype == jnp.float32
    assert 1e-4 < reference.relative_error(found, expected) < 0.05


@pytest.mark.parametrize("head", ["semantic_fpn", "segformer"])
def test_training_takes_the_statistics_of_the_batch_once(head):
    """Of the backbone only where that is trained: ``train_backbone=False`` leaves it as in evaluation."""
    model, images = simplest(head), pictures(64, 64)
    variables = random_variables(model, images)

    def step(train_backbone: bool | None) -> Any:
        options: Any = {"train_backbone": train_backbone, "mutable": ["batch_stats"]}
        return quick_jit(lambda v, x, key: model.apply(v, x, True, rngs={"dropout": key}, **options))

    train = step(None)
    (logits, changed), again, other = (train(variables, images, jax.random.key(seed)) for seed in (0, 0, 1))
    frozen = step(False)(variables, images, jax.random.key(0))
    old = variables["batch_stats"]
    for one, all_change in (changed["batch_stats"], True), (frozen[1]["batch_stats"], False):
        for part in ("backbone", "head"):
            for before, after in zip(jax.tree.leaves(old[part]), jax.tree.leaves(one[part]), strict=True):
                if part == "backbone" and not all_change:
                    np.testing.assert_array_equal(before, after)
                else:
                    assert np.all(before != after) if before.ndim else after == before + 1
    assert np.abs(frozen[0] - logits).max() > 0.1
    # What is dropped depends on the key alone.
    np.testing.assert_array_equal(logits, again[0])
    assert np.abs(other[0] - logits).max() > 0.01


def test_a_frozen_backbone_s_maps_are_those_of_evaluation():
    model, images = simplest("segformer", head_settings={"channels": 8, "dropout_rate": 0.0}), pictures(64, 64)
    variables = random_variables(model, images)
    head = {kind: variables[kind]["head"] for kind in ("params", "batch_stats")}

    @quick_jit
    def run(variables: Any, head: Any, images: Any) -> Any:
        maps = model.apply(variables, images, method=lambda bound, x: bound.backbone.features(x))
        options: Any = {"train": True, "mutable": ["batch_stats"]}
        frozen, _ = model.apply(variables, images, train_backbone=False, **options)
        return frozen, model.head.apply(head, maps, **options)[0]

    np.testing.assert_allclose(*run(variables, head, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("whole_channels", [True, False])
def test_dropout_of_channels_or_of_numbers(whole_channels):
    """Of ones, with the identity as linear map, the scores are what was kept, divided by its share."""
    classifier = PixelClassifier(400, 0.1, jnp.float32, whole_channels, 0.01)
    variables = {"params": {"kernel": jnp.eye(400), "bias": jnp.zeros(400)}}
    x = jnp.ones((3, 5, 4, 400))
    scores = np.asarray(classifier.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = scores > 0
    np.testing.assert_allclose(scores, kept / 0.9, rtol=1e-6)
    everywhere = (kept == kept[:, :1, :1]).all((1, 2))
    assert everywhere.all() if whole_channels else everywhere.mean() < 0.3
    draws = kept[:, 0, 0] if whole_channels else kept
    assert abs(draws.mean() - 0.9) < 5 * math.sqrt(0.09 / draws.size)
    np.testing.assert_array_equal(classifier.apply(variables, x, train=False), x)


def test_initial_weights_are_those_of_the_references():
    maps = random_maps(32, 32, batch=1, dims=(16, 16, 16, 16))
    trees = {
        "semantic_fpn": (SemanticFPNHead(50, channels=32), {name.replace("c", "p"): x for name, x in maps.items()}),
        "segformer": (SegFormerHead(50, channels=64), maps),
    }
    initial: dict[str, np.ndarray] = {}
    for head, (module, inputs) in trees.items():
        tree = quick_jit(module.init)(jax.random.key(0, impl="rbg"), inputs)["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            initial[f"{head}.{jax.tree_util.keystr(path, simple=True, separator='.')}"] = np.asarray(leaf)
    kernels = {name for name in initial if name.endswith("kernel")}
    convolutions = {name for name in kernels if "conv" in name}
    assert len(convolutions) == 7
    assert_normal(initial, convolutions, math.sqrt(2 / (9 * 32)))
    assert_normal(initial, ["semantic_fpn.classifier.kernel"], 0.01)
    assert_normal(initial, {name for name in kernels if name.startswith("segformer")}, 0.02)
    for name in initial.keys() - kernels:
        assert (initial[name] == name.endswith("scale")).all(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head": "semantic"},
            f"unknown head 'semantic': did you mean 'semantic_fpn'? The heads are {ALL_HEADS}",
        ),
        (
            {"head": "segformer", "head_settings": {"chanels": 8}},
            "head 'segformer' has no setting 'chanels': did you mean 'channels'?",
        ),
        (
            {"head": "segformer", "head_settings": {"neck_width": 8}},
            "head 'segformer' has no setting 'neck_width': it has channels, dropout_rate",
        ),
        (
            {"head": "semantic_fpn", "head_settings": {"num_classes": 8}},
            "head 'semantic_fpn' has no setting 'num_classes': it has channels, dropout_rate, neck_channels",
        ),
        (
            {"head": "segformer", "drop_path": 0.1},
            "model 'pvt_v2_b0' has no setting 'drop_path': did you mean 'drop_path_rate'?",
        ),
        (
            {"head_settings": {"channels": 8}},
            f"settings of a head without a head: name one of {ALL_HEADS}",
        ),
        (
            {"head": "segformer", "spp_levels": (1, 2)},
            "model.spp_levels is for the classifier, which a dense model does not have: leave it out",
        ),
    ],
)
def test_a_head_or_setting_that_is_none_is_named(settings, message):
    with pytest.raises(UserError) as error:
        create_model("pvt_v2_b0", **settings)
    assert str(error.value) == message


@pytest.mark.parametrize("head", ["semantic_fpn", "segformer"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "model.num_classes must be above 0, but is 0"),
        ({"head_settings": {"channels": 0}}, "head.channels must be a whole number above 0, but is 0"),
        ({"head_settings": {"dropout_rate": 1.0}}, "head.dropout_rate must be at least 0 and below 1, but is 1.0"),
    ],
)
def test_impossible_numbers_are_named(head, settings, message):
    with pytest.raises(UserError) as error:
        shapes_of(toy(head, **settings))
    assert str(error.value) == message
