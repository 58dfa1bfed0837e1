"""RetinaNet's head against a slow transcription in NumPy, float64; images without objects; padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.heads.retinanet.head import RetinaNetHead
from tests.helpers.running import assert_normal, quick_jit

SMALL = {"num_classes": 3, "channels": 6, "num_convs": 2, "scales_per_octave": 2, "ratios": (0.5, 2.0)}
IMAGE = (64, 96)


def random_maps(height, width, batch=2, channels=6, levels=(3, 5), seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"p{level}": rng.standard_normal(
            (batch, -(-height // 2**level), -(-width // 2**level), channels), dtype=np.float32
        )
        for level in levels
    }


def random_variables(head, maps):
    """Scores of all kinds, and boxes that are mostly within the image."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(head.init, method="detect"), jax.random.key(0), maps, whole(maps))
    draw = lambda leaf: (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype("f4")  # noqa: E731
    variables = jax.tree.map(draw, shapes)
    variables["params"]["classifier"]["bias"] -= np.float32(1.5)
    variables["params"]["regressor"]["kernel"] *= np.float32(0.3)
    variables["params"]["regressor"]["bias"] *= np.float32(0.3)
    return variables


def whole(maps):
    """Sizes of images that fill the batch."""
    batch, rows, columns, _ = maps["p3"].shape
    return np.tile(np.array([8 * rows, 8 * columns], np.int32), (batch, 1))


def targets_of(boxes, labels, slots=3):
    """Of lists of boxes and labels, padded."""
    found = {
        "boxes": np.zeros((len(boxes), slots, 4), np.float32),
        "labels": np.zeros((len(boxes), slots), np.int32),
        "valid": np.zeros((len(boxes), slots), bool),
    }
    for i, (some, classes) in enumerate(zip(boxes, labels, strict=True)):
        found["boxes"][i, : len(some)], found["labels"][i, : len(some)] = np.reshape(some, (-1, 4)), classes
        found["valid"][i, : len(some)] = True
    return found


def losses_of(head):
    return quick_jit(functools.partial(head.apply, method="losses"))


def detect_of(head):
    return quick_jit(functools.partial(head.apply, method="detect"))


def numpy_convolution(x, params):
    kernel, padded = params["kernel"].astype(np.float64), np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[:2]
    parts = [padded[i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3)]
    return sum(parts) + params["bias"]


def numpy_predictions(head, params, maps):
    """Of one image: for each level logits [n, k], deltas [n, 4] and anchors [n, 4], counted out one by one."""
    found = []
    for name, x in maps.items():
        stride, towers = 2 ** int(name[1:]), {"class": x.astype(np.float64), "box": x.astype(np.float64)}
        for branch in towers:
            for i in range(head.num_convs):
                towers[branch] = np.maximum(numpy_convolution(towers[branch], params[f"{branch}_conv{i}"]), 0)
        logits = numpy_convolution(towers["class"], params["classifier"])
        deltas = numpy_convolution(towers["box"], params["regressor"])
        anchors = []
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                for ratio in head.ratios:
                    for i in range(head.scales_per_octave):
                        side = head.octave_base * stride * 2 ** (i / head.scales_per_octave)
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        x0, y0 = column * stride, row * stride
                        anchors.append([x0 - w / 2, y0 - h / 2, x0 + w / 2, y0 + h / 2])
        found.append((logits.reshape(-1, head.num_classes), deltas.reshape(-1, 4), np.array(anchors)))
    return found


def numpy_iou(a, b):
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1)]
    both = sides[0] * sides[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def numpy_losses(head, params, maps, boxes, labels):
    """Both sums of all images, divided by the number of positive anchors."""
    sums, positives = np.zeros(2), 0
    for image, (some, classes) in enumerate(zip(boxes, labels, strict=True)):
        levels = numpy_predictions(head, params, {name: x[image] for name, x in maps.items()})
        logits, deltas, anchors = (np.concatenate(part) for part in zip(*levels, strict=True))
        iou = np.array([[numpy_iou(anchor, box) for box in some] for anchor in anchors]).reshape(len(anchors), -1)
        matched = np.full(len(anchors), -1)
        if len(some):
            best = iou.max(axis=1)
            matched = np.where(
                best >= head.positive_iou, iou.argmax(axis=1), np.where(best < head.negative_iou, -1, -2)
            )
            for number, overlaps in enumerate(iou.T):
                # In exact arithmetic equal, by symmetry; not quite in float64.
                matched[overlaps > overlaps.max() - 1e-9] = number
        positives += (matched >= 0).sum()
        for i in np.flatnonzero(matched != -2):
            for k in range(head.num_classes):
                p = 1 / (1 + math.exp(-logits[i, k]))
                if matched[i] >= 0 and classes[matched[i]] == k:
                    sums[0] -= head.focal_alpha * (1 - p) ** head.focal_gamma * math.log(p)
                else:
                    sums[0] -= (1 - head.focal_alpha) * p**head.focal_gamma * math.log(1 - p)
            if matched[i] >= 0:
                box, anchor = np.array(some[matched[i]], np.float64), anchors[i]
                side, wanted = anchor[2:] - anchor[:2], box[2:] - box[:2]
                move = ((box[2:] + box[:2]) / 2 - (anchor[2:] + anchor[:2]) / 2) / side
                sums[1] += np.abs(deltas[i] - np.concatenate([move, np.log(wanted / side)])).sum()
    return sums / max(positives, 1), positives


def numpy_detections(head, params, maps, size):
    """Decoding and greedy suppression of one image: (box, score, label), the best first."""
    candidates = []
    for logits, deltas, anchors in numpy_predictions(head, params, maps):
        scores = 1 / (1 + np.exp(-logits))
        pairs = sorted(np.ndindex(scores.shape), key=lambda pair: (-scores[pair], pair))[: head.pre_nms]
        for i, k in pairs:
            if scores[i, k] > head.score_threshold:
                side, centre = anchors[i, 2:] - anchors[i, :2], (anchors[i, 2:] + anchors[i, :2]) / 2
                centre = centre + deltas[i, :2] * side
                side = side * np.exp(np.clip(deltas[i, 2:], -math.log(1000 / 16), math.log(1000 / 16)))
                box = np.clip(np.concatenate([centre - side / 2, centre + side / 2]), 0, [size[1], size[0]] * 2)
                candidates.append((box, scores[i, k], k))
    candidates.sort(key=lambda one: -one[1])
    kept = []
    for box, score, label in candidates:
        if all(label != other or numpy_iou(box, better) <= head.nms_threshold for better, _, other in kept):
            kept.append((box, score, label))
    return kept[: head.max_detections], len(candidates)


def test_parameters_are_those_of_mmdetection():
    """Its RetinaHead's: towers 8 · (9 · 256² + 256), classes 9 · 256 · 720 + 720, boxes 9 · 256 · 36 + 36."""
    maps = {f"p{level}": jax.ShapeDtypeStruct((1, 16 >> level, 16 >> level, 256), "float32") for level in (3, 4)}
    init = functools.partial(RetinaNetHead().init, method="detect")
    params = jax.eval_shape(init, jax.random.key(0), maps, np.array([[16, 16]]))["params"]
    convolution = {"kernel": (3, 3, 256, 256), "bias": (256,)}
    assert jax.tree.map(lambda leaf: leaf.shape, params) == {
        **{f"{branch}_conv{i}": convolution for branch in ("class", "box") for i in range(4)},
        "classifier": {"kernel": (3, 3, 256, 720), "bias": (720,)},
        "regressor": {"kernel": (3, 3, 256, 36), "bias": (36,)},
    }
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 4_720_640 + 1_659_600 + 82_980


def test_weights_start_small_and_scores_at_one_in_a_hundred():
    head, maps = RetinaNetHead(num_classes=20, channels=32, num_convs=1), random_maps(64, 64, channels=32)
    init = functools.partial(quick_jit(functools.partial(head.init, method="detect")), jax.random.key(0, impl="rbg"))
    params = jax.tree.map(np.asarray, init(maps, whole(maps))["params"])
    initial = {name: layer["kernel"] for name, layer in params.items()}
    assert_normal(initial, initial, 0.01)
    scores = 1 / (1 + np.exp(-params["classifier"].pop("bias").astype(np.float64)))
    np.testing.assert_allclose(scores, 0.01, rtol=1e-5)
    assert not any(layer["bias"].any() for layer in params.values() if "bias" in layer)


BOXES = [[[3, 5, 40, 60], [30, 10, 90, 50], [32, 8, 88, 52]], [[60, 30, 75, 64]]]
LABELS = [[2, 0, 1], [1]]


@pytest.mark.parametrize(
    "settings", [{}, {"positive_iou": 0.45, "negative_iou": 0.2, "focal_gamma": 1.0, "octave_base": 3.0}]
)
def test_losses_agree_with_numpy(settings):
    head, maps = RetinaNetHead(**SMALL, **settings), random_maps(*IMAGE)
    variables = random_variables(head, maps)
    expected, positives = numpy_losses(head, variables["params"], maps, BOXES, LABELS)
    assert positives > 4
    found = losses_of(head)(variables, maps, targets_of(BOXES, LABELS), whole(maps))
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        "class_loss": ((), jnp.float32),
        "box_loss": ((), jnp.float32),
    }
    np.testing.assert_allclose([found["class_loss"], found["box_loss"]], expected, rtol=1e-5)


def test_box_weight_is_that_of_boxes_and_slots_do_not_matter():
    maps = random_maps(*IMAGE)
    variables = random_variables(RetinaNetHead(**SMALL), maps)
    once = losses_of(RetinaNetHead(**SMALL))(variables, maps, targets_of(BOXES, LABELS), whole(maps))
    thrice = losses_of(RetinaNetHead(**SMALL, box_weight=3.0))(
        variables, maps, targets_of(BOXES, LABELS, slots=7), whole(maps)
    )
    np.testing.assert_allclose(thrice["box_loss"], 3 * once["box_loss"], rtol=1e-6)
    np.testing.assert_allclose(thrice["class_loss"], once["class_loss"], rtol=1e-6)


@pytest.mark.parametrize("boxes", [[[], []], [[], BOXES[1]]])
def test_images_without_objects_have_finite_losses_and_gradients(boxes):
    head, maps = RetinaNetHead(**SMALL), random_maps(*IMAGE)
    variables = random_variables(head, maps)
    labels = [[] if not some else LABELS[1] for some in boxes]
    expected, positives = numpy_losses(head, variables["params"], maps, boxes, labels)
    assert bool(positives) == any(boxes)

    def loss(*inputs):
        losses = head.apply(*inputs, method="losses")
        return sum(jax.tree.leaves(losses)), losses

    value_and_gradients = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, losses), gradients = value_and_gradients(variables, maps, targets_of(boxes, labels), whole(maps))
    np.testing.assert_allclose([losses["class_loss"], losses["box_loss"]], expected, rtol=1e-5)
    assert all(np.isfinite(one).all() for one in jax.tree.leaves(gradients))
    assert np.any(gradients[0]["params"]["regressor"]["kernel"]) == bool(positives)
    assert np.any(gradients[0]["params"]["classifier"]["kernel"])


@pytest.mark.parametrize(
    "settings", [{"pre_nms": 30, "max_detections": 12}, {"nms_threshold": 0.2, "score_threshold": 0.3}]
)
def test_detections_agree_with_decoding_and_greedy_suppression(settings):
    head, maps = RetinaNetHead(**SMALL, **settings), random_maps(*IMAGE)
    variables = random_variables(head, maps)
    # Boxes are cut to the image's own size, which may be smaller than what the backbone sees.
    sizes = np.array([IMAGE, (50, 77)], np.int32)
    found = detect_of(head)(variables, maps, sizes)
    assert {name: one.shape[1:] for name, one in found.items()} == {
        "boxes": (head.max_detections, 4),
        **dict.fromkeys(("scores", "labels", "valid"), (head.max_detections,)),
    }
    assert found["labels"].dtype == jnp.int32
    for i, size in enumerate(sizes):
        one = {name: x[i] for name, x in maps.items()}
        expected, candidates = numpy_detections(head, variables["params"], one, size)
        assert len(expected) > 9
        assert candidates > 1.3 * len(expected)
        boxes, scores, labels = (np.array(part) for part in zip(*expected, strict=True))
        detections = {name: np.asarray(x[i]) for name, x in found.items()}
        np.testing.assert_array_equal(detections["valid"], np.arange(head.max_detections) < len(expected))
        valid = detections["valid"]
        np.testing.assert_array_equal(detections["labels"][valid], labels)
        np.testing.assert_allclose(detections["scores"][valid], scores, rtol=1e-5)
        np.testing.assert_allclose(detections["boxes"][valid], boxes, atol=1e-3)
        assert not any(x[~valid].any() for x in detections.values())
        assert (np.diff(detections["scores"][valid]) <= 0).all()


def test_of_equal_scores_the_first_anchors_and_classes_come_first():
    """All weights 0: the same scores everywhere, 1 > 0 = 2 of the first anchor of a location, less of the others."""
    head = RetinaNetHead(**SMALL, pre_nms=7, nms_threshold=1.0, max_detections=20)
    maps = random_maps(32, 32, levels=(3, 4))
    variables = jax.tree.map(np.zeros_like, random_variables(head, maps))
    bias = variables["params"]["classifier"]["bias"].reshape(4, 3)
    bias[:] = -1.0
    bias[0], bias[2] = [0.5, 1.0, 0.5], [0.5, -1.0, -1.0]
    sizes = whole(maps)
    found = detect_of(head)(variables, maps, sizes)
    expected, _ = numpy_detections(head, variables["params"], {name: x[0] for name, x in maps.items()}, sizes[0])
    assert len(expected) == 14  # seven of each level: on the coarse one 4 locations × 1, then 0 and 2 of the first ones
    np.testing.assert_array_equal(found["labels"][0][:14], [label for _, _, label in expected])
    np.testing.assert_allclose(found["boxes"][0][:14], [box for box, _, _ in expected], atol=1e-4)


def test_padding_changes_nothing():
    """Each image of a batch has the detections and, but for the common number of positives, the losses it has alone."""
    head = RetinaNetHead(**SMALL)

    @quick_jit
    def run(variables, maps, targets, sizes, region=None):
        losses = head.apply(variables, maps, targets, sizes, region, method="losses")
        return losses, head.apply(variables, maps, sizes, region, method="detect")

    sizes = np.array([(60, 90), (128, 33)], np.int32)
    region = -(-sizes // 32) * 32
    images = [random_maps(*size, batch=1, seed=i) for i, size in enumerate(region)]
    boxes = [BOXES[0], [[4, 90, 30, 120]]]
    variables, targets = random_variables(head, images[0]), targets_of(boxes, LABELS)
    # Biases would fill the padding, and what is seen there would be detected.
    variables["params"]["class_conv0"]["bias"] += 1
    padded = random_maps(128, 128)
    for name, x in padded.items():
        x[:] = 0
        for i, maps in enumerate(images):
            x[i, : maps[name].shape[1], : maps[name].shape[2]] = maps[name][0]
    total, found = run(variables, padded, targets, sizes, region)
    sums, positives = np.zeros(2), 0
    for i, maps in enumerate(images):
        one, alone = run(variables, maps, {name: x[i : i + 1] for name, x in targets.items()}, sizes[i : i + 1])
        assert np.asarray(alone["valid"]).sum() > 5
        for name, values in alone.items():
            np.testing.assert_allclose(found[name][i], values[0], rtol=1e-5, atol=1e-4, err_msg=name)
        expected, number = numpy_losses(head, variables["params"], maps, boxes[i : i + 1], LABELS[i : i + 1])
        np.testing.assert_allclose([one["class_loss"], one["box_loss"]], expected, rtol=1e-5)
        sums, positives = sums + expected * number, positives + number
    np.testing.assert_allclose([total["class_loss"], total["box_loss"]], sums / positives, rtol=1e-5)


def test_half_precision_ends_with_the_last_convolutions():
    head, half = RetinaNetHead(**SMALL), RetinaNetHead(**SMALL, dtype=jnp.bfloat16)
    maps, targets = random_maps(*IMAGE), targets_of(BOXES, LABELS)
    variables = random_variables(head, maps)
    narrow = {name: jnp.asarray(x, jnp.bfloat16) for name, x in maps.items()}
    found = detect_of(half)(variables, narrow, whole(maps))
    assert found["boxes"].dtype == found["scores"].dtype == jnp.float32
    # Were they rounded to 8 bits, there would hardly be more than some dozens of different scores in 0.25 … 1.
    scores = np.asarray(found["scores"])[np.asarray(found["valid"])]
    rounded = np.asarray(jnp.asarray(scores, jnp.bfloat16), np.float32)
    assert (scores != rounded).mean() > 0.9

    def gradient(head, maps):
        losses = functools.partial(head.apply, method="losses")
        total = lambda *inputs: sum(jax.tree.leaves(losses(*inputs)))  # noqa: E731
        return quick_jit(jax.value_and_grad(total))(variables, maps, targets, whole(maps))

    (loss, exact), (close, gradients) = gradient(head, maps), gradient(half, narrow)
    np.testing.assert_allclose(close, loss, rtol=0.02)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact), strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "model.num_classes must be above 0, but is 0"),
        ({"channels": 0}, "head.channels must be a whole number above 0, but is 0"),
        ({"num_convs": -1}, "head.num_convs must be a whole number of at least 0, but is -1"),
        ({"scales_per_octave": 0}, "head.scales_per_octave must be a whole number above 0, but is 0"),
        ({"pre_nms": 0}, "head.pre_nms must be a whole number above 0, but is 0"),
        ({"max_detections": 0}, "head.max_detections must be a whole number above 0, but is 0"),
        ({"octave_base": 0.0}, "head.octave_base must be above 0, but is 0.0"),
        ({"ratios": ()}, r"head.ratios must be one or more numbers above 0, but is \(\)"),
        ({"ratios": (1.0, 0.0)}, r"head.ratios must be one or more numbers above 0, but is \(1.0, 0.0\)"),
        ({"score_threshold": 1.5}, "head.score_threshold must be from 0 to 1, but is 1.5"),
        ({"nms_threshold": -0.1}, "head.nms_threshold must be from 0 to 1, but is -0.1"),
        ({"focal_alpha": 2.0}, "head.focal_alpha must be from 0 to 1, but is 2.0"),
        ({"focal_gamma": -1.0}, "head.focal_gamma must be at least 0, but is -1.0"),
        ({"box_weight": -1.0}, "head.box_weight must be at least 0, but is -1.0"),
        ({"negative_iou": 0.6}, "head.negative_iou must be above 0 and at most head.positive_iou, .* 0.6 and 0.5"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    maps = random_maps(32, 32)
    with pytest.raises(UserError, match=message):
        random_variables(RetinaNetHead(**{**SMALL, **settings}), maps)
