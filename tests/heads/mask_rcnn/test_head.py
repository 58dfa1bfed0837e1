"""Mask R-CNN's head against NumPy, region by region; its sizes; images without objects, with many, and padded."""

import functools
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.heads.detection_model import DetectionModel
from pvt_jax.heads.mask_rcnn.head import MaskRCNNHead
from pvt_jax.models import create_model
from pvt_jax.nn.fpn import FeaturePyramid
from pvt_jax.ops import target
from pvt_jax.ops.matching import sample
from tests.helpers import reference
from tests.helpers.dense import random_variables
from tests.helpers.devices import ONE_DEVICE
from tests.helpers.running import assert_normal, quick_jit
from tests.helpers.two_stage import NumpyHead, iou, totals

Tree = dict[str, Any]

HEAD = MaskRCNNHead(
    num_classes=3,
    channels=8,
    hidden_dim=16,
    anchor_scales=(2.0,),
    rpn_samples=40,
    train_pre_nms=40,
    train_proposals=24,
    pre_nms=30,
    proposals=16,
    samples=20,
    finest_scale=32.0,
    score_threshold=0.2,
    max_detections=12,
)
LOSSES = ("rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")
# The fewer maps, the sooner it is compiled. Regions are read on two; the last one only proposes.
LEVELS = (4, 5, 6)
# Height and width of the padded images, and of the true ones. The second fills its region, and is padded beyond.
PADDED, SIZES = (96, 128), np.array([[90, 128], [64, 96]], np.int32)
REGION = np.array([[96, 128], [64, 96]], np.int32)
# Places for objects in an image.
PLACES = 9


def settings_of(head: MaskRCNNHead) -> Tree:
    return {name: getattr(head, name) for name in MaskRCNNHead.__annotations__}


def grid_at(level: int, size: Any) -> tuple[int, int]:
    return -(-size[0] // 2**level), -(-size[1] // 2**level)


def random_pyramid(levels: tuple[int, ...] = LEVELS) -> Tree:
    rng, maps = np.random.default_rng(0), {}
    for level in levels:
        x = rng.standard_normal((2, *grid_at(level, PADDED), 8)).astype(np.float32)
        for image, size in enumerate(REGION):
            rows, columns = grid_at(level, size)
            x[image, rows:] = 0
            x[image, :, columns:] = 0
        maps[f"p{level}"] = x
    return maps


def alone(maps: Tree, image: int) -> Tree:
    """The maps [h, w, c] that this image has by itself."""
    found = {}
    for name, x in maps.items():
        rows, columns = grid_at(int(name[1:]), REGION[image])
        found[name] = x[image, :rows, :columns]
    return found


def random_targets(counts: tuple[int, int]) -> Tree:
    """So many objects in each image; other places are 0.

    Sides are below those of anchors by less than the stride: no two anchors overlap an object most, by the same IoU.
    """
    rng, boxes = np.random.default_rng(1), np.zeros((2, PLACES, 4), np.float32)
    for image, count in enumerate(counts):
        side = rng.uniform(25, 31, (count, 2)) * rng.integers(1, 3, (count, 1))
        corner = rng.uniform(0, 1, (count, 2)) * (SIZES[image, ::-1] - side)
        boxes[image, :count] = np.concatenate([corner, corner + side], axis=1)
    valid = np.arange(PLACES) < np.array(counts)[:, None]
    labels = np.where(valid, rng.integers(0, 3, (2, PLACES)), 0).astype(np.int32)
    masks = np.where(valid[..., None, None], rng.integers(0, 256, (2, PLACES, 6, 6)), 0).astype(np.uint8)
    return {"boxes": boxes, "labels": labels, "valid": valid, "masks": masks}


def there(targets: Tree, image: int) -> Tree:
    """The objects that an image has."""
    return {name: values[image][targets["valid"][image]] for name, values in targets.items()}


@functools.cache
def variables(head: Any = HEAD, levels: tuple[int, ...] = LEVELS) -> Tree:
    init = functools.partial(head.init, method="detect")
    drawn = random_variables(SimpleNamespace(init=init), random_pyramid(levels), SIZES)
    # Some confident scores, and boxes near their anchors.
    kernel = drawn["params"]["box"]["classifier"]["kernel"]
    kernel -= kernel.mean(0)
    kernel *= 6
    drawn["params"]["rpn"]["regressor"]["kernel"] *= 0.3
    return drawn


@functools.cache
def learner() -> Any:
    """(variables, maps, targets, key, weights of the losses) → losses, gradients of parameters and maps."""

    def run(params: Tree, maps: Tree, targets: Tree, key: Any, weights: Any) -> Any:
        def total(params: Tree, maps: Tree) -> Any:
            # The form for one CPU; test_used_slots.py shows that the other computes the same.
            with target.compiled_for(ONE_DEVICE):
                losses: Any = HEAD.apply(
                    params, maps, targets, *map(jnp.asarray, (SIZES, REGION)), method="losses", rngs={"sample": key}
                )
            return sum(weight * losses[name] for weight, name in zip(weights, LOSSES, strict=True)), losses

        (_, losses), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(params, maps)
        return losses, gradients

    return quick_jit(run)


def learn(targets: Tree, maps: Tree | None = None, weights: Any = (1, 1, 1, 1, 1), seed: int = 0) -> Any:
    weights = np.array(weights, np.float32)
    return learner()(variables(), maps or random_pyramid(), targets, jax.random.key(seed), weights)


@functools.cache
def detect(head: Any = HEAD) -> Any:
    return quick_jit(functools.partial(head.apply, method="detect"))


class Draws:
    """What the head draws of an image's candidates, by their places among those that NumPy has.

    In the head there are more, which it never draws: beyond the region, and where there are no objects.
    """

    def __init__(self, image: int, valid: np.ndarray, seed: int = 0):
        key = nn.apply(lambda head: head.make_rng("sample"), HEAD)({}, rngs={"sample": jax.random.key(seed)})
        of_anchors, of_regions = (jax.random.split(one)[image] for one in jax.random.split(key))
        self.keys = {"rpn": of_anchors, "regions": of_regions}
        inside = []
        for level in LEVELS:
            grid = np.zeros((*grid_at(level, PADDED), 3), bool)
            rows, columns = grid_at(level, REGION[image])
            grid[:rows, :columns] = True
            inside.append(grid.ravel())
        self.usable = {
            "rpn": np.concatenate(inside),
            "regions": np.concatenate([valid, np.ones(HEAD.train_proposals, bool)]),
        }
        self.counts: dict[str, tuple[int, int]] = {}

    def __call__(self, stage: str, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        usable = self.usable[stage]
        places = np.flatnonzero(usable)[: len(matched)]
        padded = np.full(len(usable), -2)
        padded[places] = matched
        count, share = ((HEAD.rpn_samples, 0.5), (HEAD.samples, 0.25))[stage == "regions"]
        drawn = _sample(padded, self.keys[stage], count=count, positive_share=share)
        found = np.searchsorted(places, drawn.indices)
        positive = found[np.asarray(drawn.positive)]
        background = found[np.asarray(drawn.valid & ~drawn.positive)]
        assert (matched[positive] >= 0).all() and (matched[background] == -1).all()
        self.counts[stage] = len(positive), len(background)
        return positive, background


_sample = quick_jit(sample, static_argnames=("count", "positive_share"))


def numpy_losses(head: NumpyHead, maps: Tree, targets: Tree, proposals: Any = (None, None)) -> tuple[Tree, Any]:
    """The losses of the batch, and the numbers of positive and background candidates of each image and stage."""
    terms, counts = [], []
    for image in (0, 1):
        draws = Draws(image, targets["valid"][image])
        objects = there(targets, image)
        terms.append(head.losses(alone(maps, image), objects, SIZES[image], draws, proposals[image]))
        counts.append(draws.counts)
    return totals(terms), counts


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (9, 8)])
def test_losses_are_those_of_numpy(counts):
    maps, targets = random_pyramid(), random_targets(counts)
    expected, numbers = numpy_losses(NumpyHead(variables()["params"], settings_of(HEAD)), maps, targets)
    found, gradients = learn(targets)
    assert set(found) == set(expected) == set(LOSSES)
    for name, loss in found.items():
        assert loss.dtype == jnp.float32 and loss.shape == ()
        np.testing.assert_allclose(loss, expected[name], rtol=2e-5, atol=1e-7, err_msg=name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    for image, count in enumerate(counts):
        positive, background = numbers[image]["regions"]
        assert count <= positive <= 5 or positive == 5
        assert positive + background == HEAD.samples
        assert (numbers[image]["rpn"][0] > 0) == (count > 0)
    if counts == (9, 8):
        assert numbers[0]["regions"] == numbers[1]["regions"] == (5, 15)


def test_what_boxes_learn_does_not_move_the_proposals():
    targets = random_targets((3, 1))
    _, (params, _) = learn(targets, weights=(0, 0, 1, 1, 1))
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["params"]["rpn"]))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves([params["params"][part] for part in ("box", "mask")]))
    _, (params, _) = learn(targets, weights=(1, 1, 0, 0, 0))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(params["params"]["rpn"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves([params["params"][part] for part in ("box", "mask")]))


def test_gradients_are_the_slopes_of_numpy():
    """Along random directions of all parameters, and of the maps; proposals stay where they are."""
    maps, targets, weights = random_pyramid(), random_targets((3, 1)), np.array([1.0, 0.5, 2.0, 3.0, 1.5])
    _, gradients = learn(targets, weights=weights)
    start = variables()["params"]
    head = NumpyHead(start, settings_of(HEAD))
    proposals = [
        head.proposals(head.levels(alone(maps, image)), SIZES[image], HEAD.train_pre_nms, HEAD.train_proposals)
        for image in (0, 1)
    ]
    rng = np.random.default_rng(0)
    for part in ("rpn", "box", "mask", "maps"):
        tree = maps if part == "maps" else start[part]
        along = jax.tree.map(lambda x: rng.standard_normal(x.shape) * (x != 0), tree)

        def moved(distance: float, tree=tree, along=along, part=part) -> float:
            tree = jax.tree.map(lambda x, step: x + distance * step, tree, along)
            params = start if part == "maps" else {**start, part: tree}
            losses, _ = numpy_losses(
                NumpyHead(params, settings_of(HEAD)), tree if part == "maps" else maps, targets, proposals
            )
            return float(sum(weight * losses[name] for weight, name in zip(weights, LOSSES, strict=True)))

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        gradient = gradients[1] if part == "maps" else gradients[0]["params"][part]
        terms = jax.tree.leaves(jax.tree.map(lambda g, step: np.float64(g) * step, gradient, along))
        size = np.sqrt(sum((term**2).sum() for term in terms))
        assert abs(sum(term.sum() for term in terms) - slope) < 1e-3 * size, part


def assert_detections(found: Tree, image: int, expected: Any) -> None:
    count = len(expected)
    assert found["valid"][image].tolist() == [True] * count + [False] * (len(found["valid"][image]) - count)
    boxes, scores, labels = (np.array(part) for part in zip(*expected, strict=True))
    assert found["labels"][image, :count].tolist() == labels.tolist()
    np.testing.assert_allclose(found["boxes"][image, :count], boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"][image, :count], scores, rtol=0, atol=1e-5)
    for values in found.values():
        assert not values[image, count:].any()


def test_detections_are_those_of_numpy():
    """Of padded images; NumPy sees each alone."""
    maps = random_pyramid()
    found = detect()(variables(), maps, SIZES, REGION)
    assert found["masks"].shape == (2, 12, 28, 28)
    assert [found[name].dtype for name in ("boxes", "scores", "masks", "labels")] == [jnp.float32] * 3 + [jnp.int32]
    head = NumpyHead(variables()["params"], settings_of(HEAD))
    both = [head.detections(alone(maps, image), SIZES[image]) for image in (0, 1)]
    assert [len(expected) for expected in both] == [12, 8]
    assert {label for expected in both for _, _, label in expected} == {0, 1, 2}
    for image, expected in enumerate(both):
        assert_detections(found, image, expected)
        for i, (box, _, label) in enumerate(expected):
            mask = 1 / (1 + np.exp(-head.mask(alone(maps, image), box, label)))
            np.testing.assert_allclose(found["masks"][image, i], mask, rtol=0, atol=1e-4)


def test_one_map_and_many_scales_are_a_detector_too():
    """Faster R-CNN on a ViT: anchors of five scales at stride 16, and no masks."""
    head: Any = HEAD.clone(masks=False, anchor_scales=(1, 2, 4, 8, 16), score_threshold=0.0)
    drawn, maps = variables(head, (4,)), random_pyramid((4,))
    assert not head.needs_masks and HEAD.needs_masks
    assert set(drawn["params"]) == {"rpn", "box"}
    assert drawn["params"]["rpn"]["classifier"]["kernel"].shape == (8, 15)
    # Without a region, all that there is of a map is image.
    found = detect(head)(drawn, maps, SIZES)
    assert set(found) == {"boxes", "scores", "labels", "valid"}
    for image in (0, 1):
        expected = NumpyHead(drawn["params"], settings_of(head)).detections({"p4": maps["p4"][image]}, SIZES[image])
        assert len(expected) == HEAD.max_detections
        assert_detections(found, image, expected)


def test_one_object_is_soon_learnt():
    """Parameters and maps together; then it is found, with its class and its mask."""
    targets = random_targets((1, 1))
    # The upper half of each object.
    targets["masks"][:, 0] = np.where(np.arange(6)[:, None] < 3, 255, 0)
    state = (variables(), random_pyramid())
    moments = (jax.tree.map(np.zeros_like, state),) * 2
    losses = []
    for step in range(40):
        key = jax.random.key(step)
        found, gradients = learner()(*state, targets, key, np.ones(5, np.float32))
        losses.append(float(sum(found.values())))
        state, moments = adam(step, state, gradients, moments)
    assert max(losses[-5:]) < 0.15 * losses[0]
    found = detect()(*state, SIZES, REGION)
    for image in (0, 1):
        assert found["valid"][image, 0] and found["labels"][image, 0] == targets["labels"][image, 0]
        assert iou(np.asarray(found["boxes"][image, 0]), targets["boxes"][image, 0]) > 0.75
        assert found["masks"][image, 0, :11].mean() > 0.9
        assert found["masks"][image, 0, 17:].mean() < 0.1


@quick_jit
def adam(step: Any, state: Any, gradients: Any, moments: Any) -> Any:
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, moments[1], gradients)
    scale = 0.02 * jnp.sqrt(1 - 0.99 ** (step + 1.0)) / (1 - 0.9 ** (step + 1.0))
    return jax.tree.map(lambda x, m, v: x - scale * m / (jnp.sqrt(v) + 1e-8), state, first, second), (first, second)


def parameters(tree: Tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


# Sums of recipes' sizes by hand: weights and biases of each layer.
RPN = 9 * 256 * 256 + 256 + 256 * 3 + 3 + 256 * 12 + 12
BOX = 7 * 7 * 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 81 + 81 + 1024 * 320 + 320
MASK = 4 * (9 * 256 * 256 + 256) + 4 * 256 * 256 + 256 + 256 * 80 + 80
PYRAMID = (64 + 128 + 320 + 512 + 4) * 256 + 4 * (9 * 256 * 256 + 256)


@pytest.mark.parametrize(
    ("name", "millions"), [("pvt_tiny", 32.88), ("pvt_small", 44.14), ("pvt_medium", 63.86), ("pvt_large", 81.02)]
)
def test_parameters_of_mask_rcnn_are_those_of_the_papers_models(name, millions):
    neck = FeaturePyramid(first_level=2, extra_levels="max_pool")
    backbone: Any = create_model(name, num_classes=0)
    shapes = reference.deep_variables(DetectionModel(backbone, MaskRCNNHead(), neck))["params"]
    assert round(parameters(shapes) / 1e6, 2) == millions
    assert {part: parameters(tree) for part, tree in shapes["head"].items()} == {"rpn": RPN, "box": BOX, "mask": MASK}
    assert parameters(shapes["neck"]) == PYRAMID


def test_weights_start_as_in_mmdetection():
    head = MaskRCNNHead(num_classes=5, channels=16, hidden_dim=32)
    init = quick_jit(functools.partial(head.init, method="detect"))
    maps = {"p2": np.zeros((1, 4, 4, 16), np.float32)}
    tree = init(jax.random.key(0, impl="rbg"), maps, np.array([[16, 16]], np.int32))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    initial = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    assert not any(leaf.any() for name, leaf in initial.items() if name.endswith("bias"))
    deviations = {
        "rpn.conv": 0.01,
        "rpn.classifier": 0.01,
        "rpn.regressor": 0.01,
        "box.classifier": 0.01,
        "box.regressor": 0.001,
        **{f"mask.conv{j}": np.sqrt(2 / (9 * 16)) for j in range(4)},
        "mask.upsample": np.sqrt(2 / (4 * 16)),
        "mask.classifier": np.sqrt(2 / 5),
    }
    for name, deviation in deviations.items():
        assert_normal(initial, [f"{name}.kernel"], deviation)
    for name, (fan_in, fan_out) in {"box.fc0": (7 * 7 * 16, 32), "box.fc1": (32, 32)}.items():
        bound = np.sqrt(6 / (fan_in + fan_out))
        assert 0.95 * bound < np.abs(initial[f"{name}.kernel"]).max() <= bound


def test_scores_losses_and_boxes_are_float32_whatever_the_computation():
    head = HEAD.clone(dtype=jnp.bfloat16)
    maps = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_pyramid())
    run, drawn = head.apply, variables()
    sizes = jnp.asarray(SIZES), jnp.asarray(REGION)
    learn = functools.partial(run, method="losses", rngs={"sample": jax.random.key(0)})
    losses = jax.eval_shape(learn, drawn, maps, random_targets((1, 2)), *sizes)
    found = jax.eval_shape(functools.partial(run, method="detect"), drawn, maps, *sizes)
    types = {name: leaf.dtype for name, leaf in {**losses, **found}.items()}
    assert {types.pop(name) for name in ("labels", "valid")} == {jnp.dtype(jnp.int32), jnp.dtype(bool)}
    assert set(types.values()) == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_classes": 0}, "model.num_classes must be above 0, but is 0"),
        ({"channels": 0}, "head.channels must be a whole number above 0, but is 0"),
        ({"max_detections": 0}, "head.max_detections must be a whole number above 0, but is 0"),
        ({"proposals": -1}, "head.proposals must be a whole number above 0, but is -1"),
        ({"nms_threshold": 50.0}, "head.nms_threshold must be from 0 to 1, but is 50.0"),
        ({"anchor_scales": ()}, r"head.anchor_scales must be one or more numbers above 0, but is \(\)"),
        (
            {"box_std": (0.1, 0.1, 0.2, 0.0)},
            r"head.box_std must be one or more numbers above 0, but is \(0.1, 0.1, ",
        ),
        ({"finest_scale": -1.0}, "head.finest_scale must be above 0, but is -1.0"),
        (
            {"anchor_ratios": (1.0, -1.0)},
            r"head.anchor_ratios must be one or more numbers above 0, but is \(1.0, -1.0\)",
        ),
        (
            {"rpn_negative_iou": 0.8},
            "head.rpn_negative_iou must be at most head.rpn_positive_iou, but they are 0.8 and 0.7",
        ),
        (
            {"samples": 3},
            "head.samples times head.positive_share must be 1 or more to train masks, but they are 3 and 0.25",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, line):
    with pytest.raises(UserError, match=line):
        jax.eval_shape(
            functools.partial(HEAD.clone(**settings).init, method="detect"), jax.random.key(0), random_pyramid(), SIZES
        )
