"""DETR's head: against Hugging Face's with the same weights, where it is installed, and by its own rules everywhere."""

import functools
import importlib
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pvt_jax.errors import UserError
from pvt_jax.heads.detr.head import DETRHead
from pvt_jax.heads.detr.loss import Weights, set_losses
from tests.helpers.dense import random_variables
from tests.helpers.running import assert_gradients_are_equal, quick_jit

# Two layers each, so that a layer's input is another one's output; feed-forward networks of an odd size.
TOY: dict[str, Any] = {
    **{"num_classes": 5, "dim": 32, "num_heads": 4, "hidden_dim": 41, "encoder_depth": 2, "decoder_depth": 2},
    **{"num_queries": 9, "dropout_rate": 0.0},
}
OTHER_WEIGHTS = {"class_weight": 1.5, "box_weight": 4.0, "giou_weight": 3.0, "background_weight": 0.2}
CHANNELS, GRID = 24, (3, 4)
# True sizes within the batch's 96 × 128: one fills it, one does not even fill its last row and column of cells.
SIZES = np.array([[96, 128], [40, 75]], np.int32)
REGION = np.array([[96, 128], [64, 96]], np.int32)


def head(**settings: Any) -> Any:
    return DETRHead(**{**TOY, **settings})


@functools.cache
def c5() -> dict[str, np.ndarray]:
    maps = np.random.default_rng(0).standard_normal((2, *GRID, CHANNELS)).astype(np.float32)
    maps[1, 2:], maps[1, :, 3:] = 0, 0
    return {"c5": maps}


def shapes(head: Any, maps: Any, sizes: Any = SIZES) -> Any:
    return jax.eval_shape(functools.partial(head.init, method="detect"), jax.random.key(0), maps, sizes)["params"]


@functools.cache
def parameters() -> Any:
    """Random ones, biases too, so that every one of them counts; boxes and scores are spread over what there is."""
    module = SimpleNamespace(init=functools.partial(head().init, method="detect"))
    params = random_variables(module, c5(), SIZES)["params"]
    params["queries"] *= 3
    for kernel in (params["classifier"]["kernel"], params["box_mlp"]["fc2"]["kernel"]):
        kernel *= 8
    return params


@functools.cache
def outputs(**settings: Any) -> Any:
    """(params, maps, region) → (logits, boxes) of all layers."""
    return quick_jit(lambda params, *inputs: head(**settings).apply({"params": params}, *inputs, method="outputs"))


@functools.cache
def detect(**settings: Any) -> Any:
    return quick_jit(lambda params, *inputs: head(**settings).apply({"params": params}, *inputs, method="detect"))


@functools.cache
def losses(**settings: Any) -> Any:
    """(params, maps, targets, sizes, region, seed) → ((total, parts), gradient)."""

    def total(params: Any, maps: Any, targets: Any, sizes: Any, region: Any, seed: Any) -> Any:
        rngs = {"dropout": jax.random.key(seed)}
        inputs = maps, targets, sizes, region
        parts: Any = head(**settings).apply({"params": params}, *inputs, method="losses", rngs=rngs)
        return sum(parts.values()), parts

    return quick_jit(jax.value_and_grad(total, has_aux=True))


def loss_shapes(targets: Any, **settings: Any) -> Any:
    def run(params: Any, *inputs: Any) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        return head(**settings).apply({"params": params}, *inputs, method="losses", rngs=rngs)

    return jax.eval_shape(run, parameters(), c5(), targets, SIZES, REGION)


def targets(counts: tuple[int, int] = (3, 2), most: int = 4) -> dict[str, np.ndarray]:
    """Objects within ``SIZES``, and padding."""
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, 1, (2, most, 2, 2)), axis=2) * SIZES[:, None, None, ::-1]
    valid = np.arange(most) < np.array(counts)[:, None]
    boxes = np.where(valid[..., None], corners.reshape(2, most, 4), 0.0).astype(np.float32)
    return {"boxes": boxes, "labels": rng.integers(0, 5, (2, most)).astype(np.int32) * valid, "valid": valid}


def relative(boxes: np.ndarray) -> np.ndarray:
    """(centre x, centre y, width, height) by the true size."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    height, width = SIZES[:, :1], SIZES[:, 1:]
    parts = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return np.stack(parts, -1).astype(np.float32)


# Hugging Face's names of ours, as patterns; matrices are transposed there.
NAMES = (
    (r"input_proj", "model.input_projection"),
    (r"queries", "model.query_position_embeddings.kernel"),
    (r"(encoder|decoder)\.layer(\d)\.", r"model.\1.layers.\2."),
    (r"encoder(.*)\.(attn|self_attn)\.(\w+)", r"encoder\1.self_attn.\3_proj"),
    (r"decoder(.*)\.self_attn\.([qkv]|proj)\.", r"decoder\1.self_attn.\2_proj."),
    (r"cross_attn\.(\w+)", r"encoder_attn.\1_proj"),
    (r"proj_proj", "o_proj"),
    (r"norm1", "self_attn_layer_norm"),
    (r"(decoder.*)norm2", r"\1encoder_attn_layer_norm"),
    (r"norm[23]", "final_layer_norm"),
    (r"^decoder\.norm", "model.decoder.layernorm"),
    (r"^classifier", "class_labels_classifier"),
    (r"box_mlp\.fc(\d)", r"bbox_predictor.layers.\1"),
    (r"kernel|scale", "weight"),
)


def their_names(tree: Any) -> dict[str, Any]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = leaf
    return found


def hugging_face(device: str = "cpu", channels: int = CHANNELS, **settings: Any) -> Any:
    """Their whole model, whose backbone is small and ends in so many channels; it skips where they are not."""
    from tests.helpers.oracles import torch

    package = "transformers.models"
    resnet = importlib.import_module(f"{package}.resnet.configuration_resnet").ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, channels],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage4"],
    )
    configuration = importlib.import_module(f"{package}.detr.configuration_detr").DetrConfig(
        use_timm_backbone=False, backbone_config=resnet, **settings
    )
    with torch.device(device):
        return importlib.import_module(f"{package}.detr.modeling_detr").DetrForObjectDetection(configuration)


def hugging_face_toy() -> tuple[Any, Any]:
    """(their model with ``parameters``, PyTorch); in place of a backbone it has one that gives ``c5``."""
    from tests.helpers.oracles import torch

    module = hugging_face(
        num_labels=TOY["num_classes"],
        d_model=TOY["dim"],
        num_queries=TOY["num_queries"],
        dropout=0.0,
        **{f"{part}_layers": TOY[f"{part}_depth"] for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": TOY["num_heads"] for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": TOY["hidden_dim"] for part in ("encoder", "decoder")},
    )
    state = {name: torch.from_numpy(np.asarray(leaf)) for name, leaf in their_names(parameters()).items()}
    for name, value in state.items():
        if value.ndim == 2 and "query" not in name:
            state[name] = value.T.reshape(*value.T.shape, *((1, 1) if "input" in name else ()))
    missing = module.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("model.backbone.") for name in missing.missing_keys)

    class GivenMap(torch.nn.Module):
        def forward(self, _: Any) -> Any:
            return [torch.from_numpy(c5()["c5"].transpose(0, 3, 1, 2).copy())]

    module.model.backbone.model = GivenMap()
    return module.eval(), torch


def their_inputs(torch: Any, padded: bool) -> dict[str, Any]:
    """Images that only have a size, and where they are true."""
    images = torch.zeros(2, 3, 96, 128)
    mask = torch.ones(2, 96, 128)
    if padded:
        for one, (height, width) in zip(mask, SIZES, strict=True):
            one[height:], one[:, width:] = 0, 0
    return {"pixel_values": images, "pixel_mask": mask}


@pytest.mark.parametrize("padded", [False, True])
def test_outputs_of_all_layers_are_hugging_face_s(padded):
    module, torch = hugging_face_toy()
    layers: list[Any] = []
    for layer in module.model.decoder.layers:
        layer.register_forward_hook(lambda *found: layers.append(found[-1]))
    with torch.no_grad():
        last = module(**their_inputs(torch, padded))
        # Not by their auxiliary_loss=True, which also hands what comes after the norm to the next layer.
        normed = module.model.decoder.layernorm(torch.stack(layers))
        expected = module.class_labels_classifier(normed), module.bbox_predictor(normed).sigmoid()
    logits, boxes = outputs()(parameters(), c5(), REGION if padded else None)
    assert logits.shape == (2, 2, 9, 6) and boxes.shape == (2, 2, 9, 4)
    np.testing.assert_allclose(logits, expected[0].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(boxes, expected[1].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits[-1], last.logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(boxes[-1], last.pred_boxes.numpy(), rtol=0, atol=1e-4)
    # What is compared is far from being the same for all queries, layers and images.
    for axis in range(3):
        assert np.ptp(boxes, axis=axis).max() > 0.05


def test_losses_and_their_gradients_are_hugging_face_s():
    """Without auxiliary losses, which their decoder takes of other outputs: see above."""
    module, torch = hugging_face_toy()
    objects = targets()
    theirs = [
        {"class_labels": torch.tensor(labels[valid]).long(), "boxes": torch.tensor(boxes[valid])}
        for boxes, labels, valid in zip(relative(objects["boxes"]), objects["labels"], objects["valid"], strict=True)
    ]
    found = module(**their_inputs(torch, True), labels=theirs)
    found.loss.backward()

    def last_layer(params: Any, *inputs: Any) -> Any:
        parts: Any = head().apply({"params": params}, *inputs, method="losses")
        return parts["class_loss"] + parts["box_loss"] + parts["giou_loss"]

    loss, gradient = quick_jit(jax.value_and_grad(last_layer))(parameters(), c5(), objects, SIZES, REGION)
    np.testing.assert_allclose(loss, float(found.loss.detach()), rtol=1e-5)
    expected = {
        name: parameter.grad.numpy() for name, parameter in module.named_parameters() if parameter.grad is not None
    }
    ours = their_names(gradient)
    # Softmax does not change where all keys move alike, and the first queries, all zeros, get the same from any key.
    vain = {name for name in ours if re.search(r"k_proj\.bias|decoder\.layers\.0\.self_attn\.[qk]_proj", name)}
    assert len(vain) == 6 + 3
    for name in vain:
        assert max(np.abs(ours.pop(name)).max(), np.abs(expected.pop(name)).max()) < 1e-6
    wanted = {}
    for name in ours:
        value = expected[name].squeeze()
        wanted[name] = value.T if value.ndim == 2 and "query" not in name else value
    assert_gradients_are_equal(ours, wanted)
    assert len(wanted) == len(expected) == len(jax.tree.leaves(parameters())) - len(vain)


# On 512 channels, PVT-Small's. Six encoder layers of 1,315,072 (attention 263,168, feed-forward 1,050,880, two norms),
# six decoder layers of 1,578,752, the last norm 512, queries 25,600, the map's projection 131,328, boxes 132,612, and
# 257 a class.
NUMBERS = {80: 17_673_813, 91: 17_676_640}


@pytest.mark.parametrize("num_classes", NUMBERS)
def test_number_of_parameters(num_classes):
    maps = {"c5": jnp.zeros((1, 2, 2, 512))}
    tree = shapes(DETRHead(num_classes), maps, np.array([[64, 64]]))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == NUMBERS[num_classes]


@pytest.mark.parametrize("num_classes", NUMBERS)
def test_number_of_parameters_is_hugging_face_s(num_classes):
    module = hugging_face("meta", channels=512, num_labels=num_classes)
    backbone = sum(one.numel() for one in module.model.backbone.parameters())
    assert sum(one.numel() for one in module.parameters()) - backbone == NUMBERS[num_classes]


def test_the_losses_are_those_of_all_layers_with_boxes_by_true_sizes():
    objects = targets()
    logits, boxes = outputs()(parameters(), c5(), REGION)
    target = jax.tree.map(jnp.asarray, (relative(objects["boxes"]), objects["labels"], objects["valid"]))
    weights = Weights(*OTHER_WEIGHTS.values())
    by_layer = quick_jit(set_losses)
    expected = np.array([by_layer(*layer, *target, weights) for layer in zip(logits, boxes, strict=True)])
    (total, parts), _ = losses(**OTHER_WEIGHTS)(parameters(), c5(), objects, SIZES, REGION, 0)
    names = "class_loss", "box_loss", "giou_loss", "auxiliary_loss"
    wanted = dict(zip(names, [*expected[1], expected[0].sum()], strict=True))
    assert parts.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)


def test_a_single_layer_has_no_auxiliary_loss():
    assert loss_shapes(targets(), decoder_depth=1).keys() == {"class_loss", "box_loss", "giou_loss"}


@pytest.mark.parametrize("counts", [(3, 0), (0, 0)])
def test_images_without_objects_train(counts):
    (total, parts), gradient = losses(**OTHER_WEIGHTS)(parameters(), c5(), targets(counts), SIZES, REGION, 0)
    assert np.isfinite(total) and float(parts["class_loss"]) > 0
    assert (float(parts["box_loss"]) > 0) == any(counts)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["input_proj"]["kernel"]).max() > 0


def test_dropout_is_everywhere_and_follows_its_key():
    def run(seed: int, **settings: Any) -> Any:
        return losses(**settings)(parameters(), c5(), targets(), SIZES, REGION, seed)

    first, again, other = run(0, dropout_rate=0.1), run(0, dropout_rate=0.1), run(1, dropout_rate=0.1)
    assert first[0][0] == again[0][0] != other[0][0]
    jax.tree.map(np.testing.assert_array_equal, first[1], again[1])
    # In each layer: attention weights, hidden numbers, and what each branch adds.
    rates = []

    def count(next_call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if type(context.module).__name__ == "Dropout" and not keywords.get(
            "deterministic", context.module.deterministic
        ):
            rates.append(context.module.rate)
        return next_call(*arguments, **keywords)

    with nn.intercept_methods(count):
        loss_shapes(targets(), dropout_rate=0.1)
    assert rates == [0.1] * (2 * 4 + 2 * 6)


def test_a_padded_image_gives_what_it_gives_alone():
    logits, boxes = outputs()(parameters(), c5(), REGION)
    strange = {"c5": c5()["c5"].copy()}
    strange["c5"][1, 2:], strange["c5"][1, :, 3:] = 1e3, -1e3
    alone = {"c5": c5()["c5"][1:, :2, :3]}
    detected = detect()(parameters(), strange, SIZES, REGION)
    for found, expected in zip((logits, boxes), outputs()(parameters(), alone, None), strict=True):
        np.testing.assert_allclose(found[:, 1:], expected, rtol=0, atol=1e-5)
    for name, expected in detect()(parameters(), alone, SIZES[1:], None).items():
        np.testing.assert_allclose(detected[name][1:], expected, rtol=1e-4, atol=1e-4, err_msg=name)
    _, whole = outputs()(parameters(), c5(), None)
    assert np.abs(whole[:, 1] - boxes[:, 1]).max() > 1e-3


def numpy_detections(logits: Any, boxes: Any, size: Any, threshold: float, most: int) -> list[Any]:
    """(box, score, label) of one image's detections."""
    found = []
    for scores, (x, y, width, height) in zip(logits.astype(np.float64), boxes.astype(np.float64), strict=True):
        probabilities = (np.exp(scores) / np.exp(scores).sum())[:-1]
        corners = [(x - width / 2) * size[1], (y - height / 2) * size[0]]
        corners += [(x + width / 2) * size[1], (y + height / 2) * size[0]]
        found.append((np.clip(corners, 0, [size[1], size[0]] * 2), probabilities.max(), probabilities.argmax()))
    return sorted((one for one in found if one[1] > threshold), key=lambda one: -one[1])[:most]


@pytest.mark.parametrize("settings", [{}, {"score_threshold": 0.7, "max_detections": 4}], ids=["all", "few"])
def test_detections(settings):
    threshold, most = settings.get("score_threshold", 0.0), settings.get("max_detections", 100)
    logits, boxes = (np.asarray(part[-1]) for part in outputs()(parameters(), c5(), REGION))
    found = detect(**settings)(parameters(), c5(), SIZES, REGION)
    number = min(most, 9)
    assert {name: (one.shape, str(one.dtype)) for name, one in found.items()} == {
        "boxes": ((2, number, 4), "float32"),
        "scores": ((2, number), "float32"),
        "labels": ((2, number), "int32"),
        "valid": ((2, number), "bool"),
    }
    missing = 0
    for b in range(2):
        expected = numpy_detections(logits[b], boxes[b], SIZES[b], threshold, most)
        left = number - len(expected)
        missing += left
        assert found["valid"][b].tolist() == [True] * len(expected) + [False] * left
        wanted = zip(*(expected + left * [(np.zeros(4), 0.0, 0)]), strict=True)
        for name, values in zip(("boxes", "scores", "labels"), wanted, strict=True):
            np.testing.assert_allclose(found[name][b], np.stack(values), rtol=1e-5, atol=1e-4)
    assert (missing > 0) == (threshold > 0)
    assert (found["boxes"][..., 2:] == SIZES[:, None, ::-1]).any(), "one box at least reaches beyond its image"


def test_eight_devices_keep_their_images():
    """No map, token or prediction of a device's images goes to another; only the parameters' gradients are added."""
    script = """
import re
import subprocess
import sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from pvt_jax.heads.detr.head import DETRHead
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
head = DETRHead(3, dim=8, num_heads=2, hidden_dim=8, encoder_depth=1, decoder_depth=2, num_queries=4)
maps = {"c5": jax.ShapeDtypeStruct((8, 2, 3, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))}
shapes = jax.eval_shape(lambda x: head.init(jax.random.key(0), x, method="outputs"), maps)
whole = NamedSharding(mesh, PartitionSpec())
params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)
slopes = jax.grad(lambda p, x: sum(jnp.square(y).sum() for y in head.apply(p, x, method="outputs")))
text = jax.jit(slopes, out_shardings=whole).lower(params, maps).compile().as_text()
assert "all-reduce" in text
moved = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in text]
assert not moved, [line[:200] for line in text.splitlines() if moved[0] in line]
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_bfloat16_keeps_scores_and_boxes_in_float32():
    logits, boxes = outputs(dtype=jnp.bfloat16)(parameters(), c5(), REGION)
    assert logits.dtype == boxes.dtype == jnp.float32
    exact = outputs()(parameters(), c5(), REGION)
    for found, expected in zip((logits, boxes), exact, strict=True):
        assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    # Numbers of which bfloat16 has few.
    assert np.mean(np.asarray(boxes) == np.asarray(boxes.astype(jnp.bfloat16), np.float32)) < 0.1
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes(head(dtype=jnp.bfloat16), c5()))} == {"float32"}


def test_initial_values_are_the_authors():
    """Xavier-uniform matrices in the transformer, q, k and v as one; elsewhere PyTorch's default; queries normal."""
    settings = {"dim": 64, "hidden_dim": 96, "encoder_depth": 1, "decoder_depth": 1, "num_queries": 50}
    init = quick_jit(functools.partial(head(**settings).init, method="detect"))
    tree = init(jax.random.key(0, impl="rbg"), c5(), SIZES)["params"]
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert abs(flat.pop("queries").std() - 1) < 0.1
    for name, value in flat.items():
        kernel = flat[name.replace("bias", "kernel")] if "norm" not in name else value
        if "norm" in name or "attn" in name and "bias" in name:
            np.testing.assert_array_equal(value, float("scale" in name), err_msg=name)
            continue
        fan_in, fan_out = kernel.shape
        bound = 1 / np.sqrt(fan_in)
        if "kernel" in name and name.startswith(("encoder", "decoder")):
            bound = np.sqrt(6 / (fan_in + (3 if re.search(r"\.[qkv]\.", name) else 1) * fan_out))
        assert 0 < np.abs(value).max() <= bound, name
        if value.size > 1000:
            assert np.abs(value).max() > 0.99 * bound, name
            assert abs(value.std() - bound / np.sqrt(3)) < 0.03 * bound, name


def test_more_objects_than_queries():
    with pytest.raises(UserError, match="head.num_queries is 9, but there are images with up to 12 objects: set it"):
        loss_shapes(targets(most=12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "model.num_classes must be above 0, but is 0"),
        ({"num_queries": 0}, "head.num_queries must be a whole number above 0, but is 0"),
        ({"decoder_depth": 0}, "head.decoder_depth must be a whole number above 0, but is 0"),
        ({"dim": 30, "num_heads": 5}, "head.dim must be a multiple of 4 and of head.num_heads, 5, but is 30"),
        ({"dim": 32, "num_heads": 5}, "head.dim must be a multiple of 4 and of head.num_heads, 5, but is 32"),
        ({"dropout_rate": 1.0}, "head.dropout_rate must be at least 0 and below 1, but is 1.0"),
        ({"score_threshold": -0.1}, "head.score_threshold must be at least 0 and below 1, but is -0.1"),
        ({"giou_weight": -2.0}, "head.giou_weight must be at least 0, but is -2.0"),
        ({"background_weight": 0.0}, "head.background_weight must be above 0, but is 0.0"),
    ],
)
def test_settings_that_no_model_can_use(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        shapes(head(**settings), c5())
