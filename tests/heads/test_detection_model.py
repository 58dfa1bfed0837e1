"""Detectors: every head on every family of backbones, their sizes, and images that are padded or show nothing."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.models import create_model
from pvt_jax.nn.fpn import FeaturePyramid
from tests.helpers import reference
from tests.helpers.dense import DIMS, PYRAMID, Patches, random_variables
from tests.helpers.running import pictures, quick_jit

# A backbone without classifier has what test_registry.py says without classifier, class token and last norm.
BACKBONES = {"pvt_tiny": 12_714_752, "pvt_small": 23_971_328, "pvt_medium": 43_693_568, "pvt_large": 60_854_784}
# Weights and biases of each layer, by hand, for 80 classes.
CONVOLUTION = 9 * 256 * 256 + 256
RETINANET = {
    "neck": (128 + 320 + 512 + 3) * 256 + 3 * CONVOLUTION + (9 * 512 * 256 + 256) + CONVOLUTION,
    "head": 8 * CONVOLUTION + 9 * 256 * 720 + 720 + 9 * 256 * 36 + 36,
}
MASK_RCNN = {
    "neck": (64 + 128 + 320 + 512 + 4) * 256 + 4 * CONVOLUTION,
    "head": (CONVOLUTION + 257 * 3 + 257 * 12)
    + (7 * 7 * 256 * 1024 + 1024 + 1025 * 1024 + 1025 * 81 + 1025 * 320)
    + (4 * CONVOLUTION + 4 * 256 * 256 + 256 + 257 * 80),
}
PARAMETERS = {
    ("retinanet", "pvt_tiny"): 22_964_724,
    ("retinanet", "pvt_small"): 34_221_300,
    ("retinanet", "pvt_medium"): 53_943_540,
    ("retinanet", "pvt_large"): 71_104_756,
    ("mask_rcnn", "pvt_tiny"): 32_882_160,
    ("mask_rcnn", "pvt_small"): 44_138_736,
    ("mask_rcnn", "pvt_medium"): 63_860_976,
    ("mask_rcnn", "pvt_large"): 81_022_192,
}
# Heads of a few channels. All candidates are learnt from, so that losses do not depend on a draw.
REGIONS: dict[str, Any] = {
    "channels": 8,
    "neck_channels": 8,
    "hidden_dim": 16,
    "rpn_samples": 4096,
    "rpn_positive_share": 1.0,
    "train_pre_nms": 24,
    "train_proposals": 24,
    "pre_nms": 24,
    "proposals": 24,
    "samples": 32,
    "positive_share": 1.0,
    "score_threshold": 0.2,
    "max_detections": 10,
}
TOYS: dict[str, dict[str, Any]] = {
    "retinanet": {"channels": 8, "neck_channels": 8, "num_convs": 1, "pre_nms": 40, "max_detections": 10},
    "mask_rcnn": REGIONS,
    "faster_rcnn": REGIONS,
    "vit_frcnn": {**REGIONS, "anchor_scales": (2, 4)},
    "detr": {"dim": 8, "num_heads": 2, "hidden_dim": 16, "encoder_depth": 1, "decoder_depth": 2, "num_queries": 9},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "pvt_tiny": PYRAMID,
    "pvt_v2_b0": PYRAMID,
    "vit_tiny_patch16": {"depth": 1, "dim": 16, "num_heads": 2},
    "resnet18": {"depths": (1, 1, 1, 1), "dims": DIMS},
}
EVERY_HEAD = pytest.mark.parametrize("head", TOYS)
# Those that take long to compile: Faster R-CNN on one map stands for that on a pyramid, which is within Mask R-CNN.
COMPILED = pytest.mark.parametrize("head", [head for head in TOYS if head != "faster_rcnn"])
NUM_CLASSES = 3


def toy(head: str, backbone: str = "pvt_v2_b0", **settings: Any) -> Any:
    chosen = {"num_classes": NUM_CLASSES, "image_size": 64, **FAMILIES[backbone], **settings}
    return create_model(backbone, head=head, head_settings=TOYS[head], **chosen)


@functools.cache
def simplest(head: str) -> Any:
    """On a ViT where that is what the head is for; with three of the five levels that Mask R-CNN looks at."""
    if head == "vit_frcnn":
        return toy(head, "vit_tiny_patch16")
    fewer = {"neck": FeaturePyramid(8, first_level=3)} if head == "mask_rcnn" else {}
    return toy(head).clone(backbone=Patches(num_classes=0), **fewer)


@functools.cache
def variables_of(head: str) -> Any:
    """Random, with scores of all kinds and boxes that are mostly within the image."""
    model = simplest(head)
    variables = random_variables(model, jnp.zeros((1, 64, 64, 3)))
    found = variables["params"]["head"]
    regressors = {"retinanet": [found], "detr": []}.get(head, [found.get("rpn"), found.get("box")])
    for part in regressors:
        part["regressor"]["kernel"] *= np.float32(0.3)
    return variables


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_every_detector_has_a_toy():
    assert sorted(TOYS) == sorted(head for head, row in HEADS.items() if row.model is DetectionModel)


@pytest.mark.parametrize(("head", "name"), PARAMETERS)
def test_parameter_count_is_exact(head, name):
    shapes = reference.deep_variables(create_model(name, head=head))["params"]
    parts = {"backbone": BACKBONES[name], **(RETINANET if head == "retinanet" else MASK_RCNN)}
    assert {part: count(tree) for part, tree in shapes.items()} == parts
    assert sum(parts.values()) == PARAMETERS[head, name]


# Faster R-CNN is Mask R-CNN without its last part.
BUILT = [(head, name) for head in TOYS for name in FAMILIES if head != "faster_rcnn" or name == "pvt_v2_b0"]


@pytest.mark.parametrize(("head", "backbone"), BUILT)
def test_every_head_stands_on_every_family(head, backbone):
    """And what is detected has the form that evaluation reads."""
    model, images = toy(head, backbone), jnp.zeros((2, 64, 96, 3))
    found, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images, jnp.array([[50, 96], [64, 70]])), jax.random.key(0)
    )
    assert variables["params"].keys() == {"backbone", "head", *(["neck"] if HEADS[head].neck else [])}
    number = 9 if head == "detr" else 10
    expected = {
        "boxes": ((2, number, 4), jnp.float32),
        "scores": ((2, number), jnp.float32),
        "labels": ((2, number), jnp.int32),
        "valid": ((2, number), jnp.bool_),
    }
    if head == "mask_rcnn":
        expected["masks"] = ((2, number, 28, 28), jnp.float32)
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == expected


@EVERY_HEAD
def test_properties(head):
    model = toy(head, dtype=jnp.bfloat16)
    assert model.num_classes == NUM_CLASSES and model.dtype == model.head.dtype == jnp.bfloat16
    assert model.neck is None or model.neck.dtype == jnp.bfloat16
    assert model.needs_masks == (head == "mask_rcnn")
    assert create_model("pvt_tiny", head=head).num_classes == 80


@EVERY_HEAD
def test_unknown_settings_are_refused(head):
    with pytest.raises(UserError, match=f"head '{head}' has no setting 'max_detection': did you mean 'max_detections'"):
        create_model("pvt_tiny", head=head, head_settings={"max_detection": 10})
    with pytest.raises(UserError, match="no setting 'dtype'"):
        create_model("pvt_tiny", head=head, head_settings={"dtype": jnp.bfloat16})
    with pytest.raises(UserError, match="model.spp_levels is for the classifier"):
        create_model("pvt_tiny", head=head, spp_levels=(1, 2))
    with pytest.raises(UserError, match="model.pool is for the classifier, which a dense model does not have: leave"):
        create_model("pvt_tiny", head=head, pool="mean")


def test_settings_of_a_neck_without_one():
    with pytest.raises(UserError, match="head 'detr' has no setting 'neck_channels'"):
        create_model("pvt_tiny", head="detr", head_settings={"neck_channels": 8})
    with pytest.raises(UserError, match="head.masks must be True or False, but is 0"):
        create_model("pvt_tiny", head="mask_rcnn", head_settings={"masks": 0})
    model = create_model("pvt_tiny", head="retinanet", head_settings={"neck_channels": 0})
    with pytest.raises(UserError, match="head.neck_channels must be a whole number above 0, but is 0"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


# Sizes of two images, what a backbone sees of each, and the batch that they are padded to; their objects, of which the
# last place is padding.
SIZES, REGION, PADDED = np.array([(60, 90), (64, 70)], np.int32), (64, 96), (96, 160)
MASKS = np.zeros((2, 3, 6, 6), np.uint8)
MASKS[:, :, :4] = 255
TARGETS: dict[str, Any] = {
    "boxes": np.array(
        [[[3, 5, 40, 60], [30, 10, 89, 50], [0, 0, 0, 0]], [[4, 9, 50, 60], [0, 0, 0, 0], [0, 0, 0, 0]]], np.float32
    ),
    "labels": np.array([[2, 0, 0], [1, 0, 0]], np.int32),
    "valid": np.array([[True, True, False], [True, False, False]]),
    "masks": MASKS,
}


def padded_images() -> np.ndarray:
    """As the task makes them: 0 beyond their sizes."""
    images = pictures(*PADDED)
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[height:], image[:, width:] = 0, 0
    return images


def losses_of(model: Any, variables: Any, images: Any, targets: Any, sizes: Any, padded: bool, seed: int = 0) -> Any:
    targets = {name: jnp.asarray(x) for name, x in targets.items() if name != "masks" or model.needs_masks}
    keys = {"dropout": jax.random.key(seed), "sample": jax.random.key(seed + 1)}
    options = {"padded": padded, "method": "losses", "rngs": keys, "mutable": ["batch_stats"]}
    return model.apply(variables, images, targets, sizes, **options)[0]


def without_dropout(head: str) -> Any:
    model = simplest(head)
    return model.clone(head=model.head.clone(dropout_rate=0.0)) if head == "detr" else model


@functools.cache
def step(head: str) -> Any:
    """(parameters, padded images, targets) → (loss, its parts), gradients of parameters and images."""
    model = without_dropout(head)

    def total(params: Any, images: Any, targets: Any) -> Any:
        parts = losses_of(model, {"params": params}, images, targets, jnp.asarray(SIZES), True)
        return sum(parts.values()), parts

    return quick_jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


@COMPILED
def test_padding_changes_nothing(head):
    """Detections and losses of two images are those without any padding but that to multiples of 32."""
    model, variables, images = without_dropout(head), variables_of(head), padded_images()

    @functools.partial(quick_jit, static_argnums=2)
    def run(variables: Any, images: Any, padded: bool) -> Any:
        found = model.apply(variables, images, jnp.asarray(SIZES), padded)
        # A step has those of padded images.
        return found, {} if padded else losses_of(model, variables, images, TARGETS, jnp.asarray(SIZES), False)

    detections, _ = run(variables, images, True)
    (_, losses), _ = step(head)(variables["params"], images, TARGETS)
    expected, expected_losses = run(variables, images[:, : REGION[0], : REGION[1]], False)
    valid = np.asarray(expected["valid"])
    # There is something to compare.
    assert (valid.sum(1) > 3).all()
    for name in ("valid", "labels"):
        np.testing.assert_array_equal(detections[name], expected[name])
    for name in {"boxes", "scores", "masks"} & expected.keys():
        tolerance = 2e-3 if name == "boxes" else 1e-4
        np.testing.assert_allclose(detections[name], expected[name], rtol=0, atol=tolerance, err_msg=name)
        assert np.any(detections[name]) and not np.any(np.asarray(detections[name])[~valid])
    assert (np.diff(detections["scores"]) <= 0).all()
    assert detections["boxes"].min() >= 0 and (detections["boxes"] <= np.tile(SIZES[:, None, ::-1], 2)).all()
    assert losses.keys() == expected_losses.keys()
    for name, value in expected_losses.items():
        assert value > 0
        np.testing.assert_allclose(losses[name], value, rtol=2e-4, err_msg=name)


@COMPILED
def test_images_without_objects_have_finite_losses_and_gradients(head):
    """One image without an object, then both; the shapes are the same, so that it is compiled once."""
    params, images = variables_of(head)["params"], padded_images()
    for counts in ((2, 1), (0, 1), (0, 0)):
        valid = np.arange(3) < np.array(counts)[:, None]
        targets = {**TARGETS, "valid": valid, "boxes": np.where(valid[..., None], TARGETS["boxes"], 0)}
        (loss, parts), gradients = step(head)(params, images, targets)
        assert np.isfinite(loss) and float(loss) == pytest.approx(float(sum(parts.values())), rel=1e-6)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        # Without objects there are no boxes to learn, but that there are none.
        of_objects = {name: float(value) for name, value in parts.items() if not name.endswith("class_loss")}
        of_objects.pop("auxiliary_loss", None)
        assert all((value > 0) == any(counts) for value in of_objects.values()), of_objects
        assert all(float(value) > 0 for name, value in parts.items() if name.endswith("class_loss"))
        assert np.abs(gradients[1]).max() > 0
    assert step(head)._cache_size() == 1


def test_sizes_do_not_compile_anew():
    model, variables = simplest("retinanet"), variables_of("retinanet")
    run: Any = quick_jit(lambda variables, images, sizes: model.apply(variables, images, sizes))
    shapes = [run(variables, pictures(64, 64), np.array(sizes, np.int32)) for sizes in ([[64, 64]] * 2, SIZES - 27)]
    assert run._cache_size() == 1
    assert np.abs(shapes[0]["boxes"] - shapes[1]["boxes"]).max() > 1
    # Without sizes all is image.
    whole = quick_jit(model.apply)(variables, pictures(64, 64))
    np.testing.assert_array_equal(whole["valid"], shapes[0]["valid"])
    np.testing.assert_allclose(whole["boxes"], shapes[0]["boxes"], atol=1e-3)


def test_a_backbone_that_is_not_trained_is_in_evaluation():
    """Its batch statistics stay, and none of its branches is dropped."""
    model = toy("retinanet", "resnet18", drop_path_rate=0.5)
    variables, images = random_variables(model, jnp.zeros((1, 64, 64, 3))), padded_images()

    @functools.partial(quick_jit, static_argnums=1)
    def run(seed: Any, train_backbone: bool) -> Any:
        keys = {"dropout": jax.random.key(seed), "sample": jax.random.key(seed)}
        options = {"rngs": keys, "mutable": ["batch_stats"], "method": "losses", "train_backbone": train_backbone}
        targets = {name: jnp.asarray(x) for name, x in TARGETS.items()}
        return model.apply(variables, jnp.asarray(images), targets, jnp.asarray(SIZES), **options)

    (first, changed), (again, _) = run(0, False), run(1, False)
    assert first == again
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    (first, changed), (again, _) = run(0, True), run(1, True)
    assert first["class_loss"] != again["class_loss"]
    same = jax.tree.map(np.array_equal, changed["batch_stats"], variables["batch_stats"])
    assert not any(jax.tree.leaves(same))
