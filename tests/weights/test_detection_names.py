"""Detectors: mmdetection's files load whole and are written back, and nothing of another head is taken for its own."""

import functools
import json
import re
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pvt_jax
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.heads.mask_rcnn.regions import BoxHead, MaskHead
from pvt_jax.nn.attention import MultiHeadAttention
from pvt_jax.nn.convolution import Convolution
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import load, names, readings, signatures
from pvt_jax.weights.merge import merge
from tests.helpers import dense_toys, detection_names, reference, state_dicts, torch_files

CASES = [
    *(("pvt", head) for head in ("retinanet", "mask_rcnn", "faster_rcnn", "detr")),
    ("mit", "mask_rcnn"),
    ("resnet basic", "retinanet"),
    ("vit", "vit_frcnn"),
]
BACKBONE_ALONE = {"allow_missing": ("neck/*", "head/*"), "allow_unexpected": ("neck/*", "head/*")}


@functools.cache
def toy(family, head, num_classes=7):
    return dense_toys.toy(family, head, num_classes)


@functools.cache
def expected_of(model):
    """Shapes and types of a model's variables."""
    size = getattr(model, "backbone", model).image_size
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def merged(tensors, model, **options):
    size = getattr(model, "backbone", model).image_size
    return merge(tensors, expected_of(model), source="w.pth", image_size=(size, size), **options)


def refused(tensors, model, **options) -> str:
    with pytest.raises(UserError) as caught:
        merged(tensors, model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def state_dict(leaves):
    return names.to_state_dict(names.unflatten(leaves))


def native(tensors, family, head):
    """Leaves by path of the model that these tensors fill."""
    leaves, report = merged(tensors, toy(family, head))
    assert report.plain
    return leaves


def given(family, head, of_run):
    tensors = dense_toys.weights(family, head)
    return native(tensors, family, head) if of_run else tensors


# Whole models.


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_pvt_tiny_of_full_size_has_every_name_and_no_other(head):
    golden = json.loads((reference.GOLDEN / "pvt_tiny.keys.json").read_text())
    shapes = {f"backbone.{name}": tuple(shape) for name, shape in golden.items() if name[:5] not in ("norm.", "head.")}
    del shapes["backbone.cls_token"]
    shapes |= getattr(detection_names, head)((64, 128, 320, 512), 80)
    # Views of one number, as tensors of these sizes would fill hundreds of megabytes.
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    model = pvt_jax.create_model("pvt_tiny", head=head, num_classes=80)
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    leaves, report = merge(tensors, expected, source="w.pth")
    assert report.plain and not report.ignored and not report.initialised
    assert len(leaves) == len(names.flatten(expected))
    recognised = signatures.recognise(shapes)
    assert recognised is not None and str(recognised) == f"pvt_tiny with a {head} head"
    assert recognised.num_classes == 80
    assert recognised.image_size == (224, 224)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_there_and_back_bit_for_bit(family, head):
    tensors = dense_toys.weights(family, head)
    for tensor in tensors.values():
        if tensor.size >= 5 and tensor.dtype == np.float32:
            # The largest numbers, a subnormal one, -0.0 and the smallest.
            tensor.view(np.uint32).flat[:5] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000, 0x00000001)
    leaves, report = merged(tensors, toy(family, head))
    assert report.plain and not report.ignored and not report.initialised
    assert leaves.keys() == names.flatten(expected_of(toy(family, head))).keys()
    assert_same_bits(state_dict(leaves), tensors)
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    assert_same_bits(state_dict(merged(wrapped, toy(family, head))[0]), tensors)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_tree_tells_as_much_as_a_file(family, head):
    shapes = dense_toys.shapes(family, head)
    tree = {path: leaf.shape for path, leaf in native(dense_toys.weights(family, head), family, head).items()}
    recognised = signatures.recognise(shapes)
    assert recognised is not None and recognised == signatures.recognise(tree, native=True)
    assert (recognised.head, recognised.num_classes) == (head, 7)


def test_layouts_by_single_numbers():
    tensors = dense_toys.weights("pvt", "retinanet")
    leaves, _ = merged(tensors, toy("pvt", "retinanet"))
    # Levels count from 3, and the two that are made of others stand behind them.
    assert leaves["params/neck/lateral_c3/kernel"][9, 5] == tensors["neck.lateral_convs.0.conv.weight"][5, 9, 0, 0]
    assert leaves["params/neck/output_p5/kernel"][2, 1, 3, 7] == tensors["neck.fpn_convs.2.conv.weight"][7, 3, 2, 1]
    assert leaves["params/neck/output_p6/kernel"][2, 1, 31, 7] == tensors["neck.fpn_convs.3.conv.weight"][7, 31, 2, 1]
    assert leaves["params/neck/output_p7/kernel"][0, 1, 23, 7] == tensors["neck.fpn_convs.4.conv.weight"][7, 23, 0, 1]
    assert leaves["params/head/class_conv1/bias"][3] == tensors["bbox_head.cls_convs.1.conv.bias"][3]
    assert (
        leaves["params/head/box_conv0/kernel"][0, 2, 9, 4] == tensors["bbox_head.reg_convs.0.conv.weight"][4, 9, 0, 2]
    )
    # Outputs stay in their order: anchor by anchor, and of each its 7 classes, or its 4 deltas.
    place = 5 * 7 + 3
    assert leaves["params/head/classifier/bias"][place] == tensors["bbox_head.retina_cls.bias"][place]
    assert leaves["params/head/regressor/kernel"][1, 2, 3, 35] == tensors["bbox_head.retina_reg.weight"][35, 3, 1, 2]

    tensors = dense_toys.weights("pvt", "mask_rcnn")
    leaves, _ = merged(tensors, toy("pvt", "mask_rcnn"))
    assert leaves["params/neck/lateral_c2/kernel"][7, 5] == tensors["neck.lateral_convs.0.conv.weight"][5, 7, 0, 0]
    assert leaves["params/head/rpn/conv/kernel"][2, 1, 3, 7] == tensors["rpn_head.rpn_conv.weight"][7, 3, 2, 1]
    assert leaves["params/head/rpn/classifier/kernel"][9, 2] == tensors["rpn_head.rpn_cls.weight"][2, 9, 0, 0]
    assert leaves["params/head/rpn/regressor/kernel"][9, 11] == tensors["rpn_head.rpn_reg.weight"][11, 9, 0, 0]
    # The background is the last of both.
    assert leaves["params/head/box/classifier/bias"][7] == tensors["roi_head.bbox_head.fc_cls.bias"][7]
    assert leaves["params/head/box/fc1/kernel"][3, 19] == tensors["roi_head.bbox_head.shared_fcs.1.weight"][19, 3]
    assert leaves["params/head/box/regressor/kernel"][3, 27] == tensors["roi_head.bbox_head.fc_reg.weight"][27, 3]
    mask = tensors["roi_head.mask_head.conv_logits.weight"]
    assert leaves["params/head/mask/classifier/kernel"][11, 6] == mask[6, 11, 0, 0]

    tensors = dense_toys.weights("pvt", "detr")
    leaves, _ = merged(tensors, toy("pvt", "detr"))
    assert leaves["params/head/input_proj/kernel"][31, 3] == tensors["bbox_head.input_proj.weight"][3, 31, 0, 0]
    assert leaves["params/head/queries"][4, 15] == tensors["bbox_head.query_embedding.weight"][4, 15]
    layer = "bbox_head.transformer.decoder.layers.1"
    for part, row in (("q", 0), ("k", 16), ("v", 32)):
        kernel = leaves[f"params/head/decoder/layer1/cross_attn/{part}/kernel"]
        assert kernel[5, 2] == tensors[f"{layer}.attentions.1.attn.in_proj_weight"][row + 2, 5]
        bias = leaves[f"params/head/decoder/layer1/self_attn/{part}/bias"]
        assert bias[2] == tensors[f"{layer}.attentions.0.attn.in_proj_bias"][row + 2]
    np.testing.assert_array_equal(leaves["params/head/decoder/layer1/norm3/scale"], tensors[f"{layer}.norms.2.weight"])
    np.testing.assert_array_equal(leaves["params/head/box_mlp/fc2/bias"], tensors["bbox_head.fc_reg.bias"])


def test_a_published_file(tmp_path):
    """As mmcv's runner writes it: the optimizer's states and NumPy's numbers beside the weights."""
    tensors = dense_toys.weights("pvt", "mask_rcnn")
    saved = {name: torch_files.tensor(tensor) for name, tensor in tensors.items()}
    dtype = torch_files.call(torch_files.name("numpy", "dtype"), "f8", False, True)
    scalar = torch_files.call(torch_files.name("numpy.core.multiarray", "scalar"), dtype, struct.pack("<d", 36.7))
    moments = {"step": 7, "exp_avg": torch_files.tensor(np.zeros(3, np.float32))}
    tree = {
        "meta": {
            **{"mmdet_version": "2.13.0+c976cb5", "config": "model = dict(\n    type='MaskRCNN')\n", "epoch": 12},
            **{"CLASSES": ("person", "bicycle"), "hook_msgs": {"best": scalar}, "lr": [0.0002], "iter": 87960},
        },
        "state_dict": saved,
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.0002, "betas": (0.9, 0.999), "params": [0]}]},
    }
    (tmp_path / "w.pth").write_bytes(torch_files.zip_bytes(tree))
    (tmp_path / "old.pth").write_bytes(torch_files.legacy_bytes(tree))
    for path in (tmp_path / "w.pth", tmp_path / "old.pth"):
        leaves, report = merged(load.read_checkpoint(path).tensors, toy("pvt", "mask_rcnn"))
        assert report.plain and not report.ignored
        assert_same_bits(state_dict(leaves), tensors)


def test_a_file_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch, which is in no requirements file")
    tensors = dense_toys.weights("pvt", "retinanet")
    parameters = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(parameters)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    held = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    meta = {"score": np.float64(36.7), "seed": np.int64(3), "CLASSES": ("person",), "time": "Mon"}
    torch.save({"meta": meta, "state_dict": held, "optimizer": optimizer.state_dict()}, tmp_path / "w.pth")
    leaves, report = merged(load.read_checkpoint(tmp_path / "w.pth").tensors, toy("pvt", "retinanet"))
    assert report.plain
    assert_same_bits(state_dict(leaves), tensors)


@pytest.mark.parametrize(("family", "head"), [("pvt", "detr"), ("vit", "vit_frcnn")])
def test_a_run(family, head, tmp_path):
    tensors = dense_toys.weights(family, head)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(3, names.unflatten(native(tensors, family, head)))
    store.close()
    variables, report = load.read_variables(tmp_path, toy(family, head))
    assert report.plain
    assert_same_bits(names.to_state_dict(variables), tensors)


# mmdetection's own writing of the backbones, which its model zoo has.


def to_mmdetection(tensors, first_block):
    """What its ``pvt_convert`` makes of the reference's tensors."""
    found = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if stage := re.fullmatch(r"pos_embed(\d)", name):
            i = int(stage[1]) - 1
            found[f"layers.{i}.1.0.pos_embed"] = tensor[:, 1:] if i == 3 else tensor
        elif stage := re.fullmatch(r"patch_embed(\d)\.(\w+)", module):
            found[f"layers.{int(stage[1]) - 1}.0.{stage[2].replace('proj', 'projection')}.{leaf}"] = tensor
        elif stage := re.fullmatch(r"norm(\d)", module):
            found[f"layers.{int(stage[1]) - 1}.2.{leaf}"] = tensor
        elif stage := re.fullmatch(r"block(\d)\.(\d+)\.(.+)", module):
            block = f"layers.{int(stage[1]) - 1}.1.{int(stage[2]) + first_block}"
            inner = stage[3].replace("attn.proj", "attn.attn.out_proj")
            if inner == "attn.q":
                both = np.concatenate([tensor, tensors[name.replace("attn.q", "attn.kv")]])
                found[f"{block}.attn.attn.in_proj_{leaf}"] = both
                continue
            for old, place in (("mlp.fc1", 0), ("mlp.dwconv.dwconv", 1), ("mlp.fc2", 3 if first_block else 4)):
                inner = inner.replace(old, f"ffn.layers.{place}")
            wide = tensor[:, :, None, None] if "ffn" in inner and tensor.ndim == 2 else tensor
            if inner != "attn.kv":
                found[f"{block}.{inner}.{leaf}"] = wide
    return {f"backbone.{name}": tensor for name, tensor in found.items()}


@pytest.mark.parametrize(("family", "first_block"), [("pvt", 1), ("pvt_v2", 0)])
@pytest.mark.parametrize("side", [64, 96])
def test_the_model_zoo_of_mmdetection(family, first_block, side):
    classifier = state_dicts.weights(state_dicts.shapes(family))
    classifier = {name: t for name, t in classifier.items() if name[:5] not in ("norm.", "head.", "cls_t")}
    head = dense_toys.weights("pvt", "retinanet")
    head = {name: tensor for name, tensor in head.items() if not name.startswith("backbone.")}
    zoo = {**to_mmdetection(classifier, first_block), **head}
    name, settings = state_dicts.TOYS[family]
    own = {"head": "retinanet", "head_settings": dense_toys.SETTINGS["retinanet"][0]}
    model = pvt_jax.create_model(name, **{**settings, "num_classes": 7, "image_size": side}, **own)
    leaves, report = merged(zoo, model)
    assert not report.missing and not report.unexpected and not report.ignored and "mmdetection" in report.dialect
    assert [stage[0] for stage in report.resized] == (
        [f"params/backbone/stage{i}/pos_embed" for i in (1, 2, 3, 4)] if side == 96 and first_block else []
    )
    expected, _ = merged({**{f"backbone.{key}": t for key, t in classifier.items()}, **head}, model)
    if first_block:
        # The slot of the class token, which mmdetection leaves out and a backbone does not read.
        table = leaves["params/backbone/stage4/pos_embed"]
        assert not table[:, 0].any() and table[:, 1:].any()
        expected["params/backbone/stage4/pos_embed"][:, 0] = 0
    assert_same_bits(leaves, expected)
    recognised = signatures.recognise({key: tensor.shape for key, tensor in zoo.items()})
    assert recognised is not None and (recognised.head, recognised.num_classes) == ("retinanet", 7)
    assert recognised.signature == signatures.recognise(state_dicts.shapes(family)).signature


# Arithmetic of the layouts.


def subtree(leaves, module):
    start = f"params/head/{module}/"
    return {
        "params": names.unflatten(
            {path[len(start) :]: jnp.asarray(leaves[path]) for path in leaves if path.startswith(start)}
        )
    }


def applied(module, variables, *arguments) -> Any:
    return module.apply(variables, *arguments)


def channels_first(rng, *shape):
    """Features [n, rows, columns, c] and the same as [n, c, rows, columns]."""
    x = rng.standard_normal(shape).astype(np.float32)
    return jnp.asarray(x), np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def relu(x):
    return np.maximum(x, 0)


def test_the_box_head_reads_regions_as_mmdetection_flattens_them():
    tensors = dense_toys.weights("pvt", "mask_rcnn")
    leaves, _ = merged(tensors, toy("pvt", "mask_rcnn"))
    ours, theirs = channels_first(np.random.default_rng(0), 3, 7, 7, 24)
    logits, deltas = applied(BoxHead(7, 20), subtree(leaves, "box"), ours[None])
    x = theirs.reshape(3, -1).astype(np.float64)
    tensors = {name.removeprefix("roi_head.bbox_head."): tensor for name, tensor in tensors.items()}
    for name in ("shared_fcs.0", "shared_fcs.1"):
        x = relu(x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"])
    np.testing.assert_allclose(logits[0], x @ tensors["fc_cls.weight"].T + tensors["fc_cls.bias"], atol=1e-4)
    expected = (x @ tensors["fc_reg.weight"].T + tensors["fc_reg.bias"]).reshape(3, 7, 4)
    np.testing.assert_allclose(deltas[0], expected, atol=1e-4)
    assert float(jnp.abs(logits).max()) > 0.5


def padded_convolution(x, weight, bias):
    """3×3, with padding 1, of [n, c, rows, columns]."""
    rows, columns = x.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = [
        np.einsum("nchw,dc->ndhw", x[:, :, u : u + rows, v : v + columns], weight[:, :, u, v])
        for u in range(3)
        for v in range(3)
    ]
    return sum(parts) + bias[:, None, None]


def test_the_mask_head_enlarges_as_a_transposed_convolution():
    tensors = dense_toys.weights("pvt", "mask_rcnn")
    leaves, _ = merged(tensors, toy("pvt", "mask_rcnn"))
    tensors = {name.removeprefix("roi_head.mask_head."): tensor for name, tensor in tensors.items()}
    ours, x = channels_first(np.random.default_rng(1), 2, 4, 4, 24)
    labels = jnp.array([[6, 2]])
    logits = applied(MaskHead(7, 12), subtree(leaves, "mask"), ours[None], labels)
    for i in range(4):
        x = relu(padded_convolution(x, tensors[f"convs.{i}.conv.weight"], tensors[f"convs.{i}.conv.bias"]))
    enlarged = np.zeros((2, 12, 8, 8))
    for i, j, u, v in np.ndindex(4, 4, 2, 2):
        # Each input is spread over a block of 2 × 2 outputs.
        enlarged[:, :, 2 * i + u, 2 * j + v] = x[:, :, i, j] @ tensors["upsample.weight"][:, :, u, v]
    enlarged = relu(enlarged + tensors["upsample.bias"][:, None, None])
    scores = np.einsum("nchw,kc->nkhw", enlarged, tensors["conv_logits.weight"][:, :, 0, 0])
    scores += tensors["conv_logits.bias"][:, None, None]
    np.testing.assert_allclose(logits[0], scores[[0, 1], [6, 2]], atol=1e-4)


def test_the_last_convolution_of_retinanet_is_anchors_by_classes():
    tensors = dense_toys.weights("pvt", "retinanet")
    leaves, _ = merged(tensors, toy("pvt", "retinanet"))
    ours, theirs = channels_first(np.random.default_rng(2), 1, 3, 5, 12)
    found = applied(Convolution(63, jax.nn.initializers.zeros), subtree(leaves, "classifier"), ours)
    expected = padded_convolution(theirs, tensors["bbox_head.retina_cls.weight"], tensors["bbox_head.retina_cls.bias"])
    # mmdetection's order: [n, anchors · classes, rows, columns] → [n, rows · columns · anchors, classes].
    expected = expected.transpose(0, 2, 3, 1).reshape(1, -1, 7)
    np.testing.assert_allclose(found.reshape(1, -1, 7), expected, atol=1e-4)


def test_heads_of_torch_give_the_same():
    torch = pytest.importorskip("torch", reason="needs torch, which is in no requirements file")
    tensors = {**dense_toys.weights("pvt", "mask_rcnn"), **dense_toys.weights("pvt", "detr")}
    boxes, _ = merged(dense_toys.weights("pvt", "mask_rcnn"), toy("pvt", "mask_rcnn"))
    queries, _ = merged(dense_toys.weights("pvt", "detr"), toy("pvt", "detr"))

    def filled(module, name):
        module.load_state_dict({key: torch.tensor(tensors[f"{name}.{key}"]) for key in module.state_dict()})
        return module

    rng = np.random.default_rng(3)
    ours, theirs = channels_first(rng, 2, 7, 7, 24)
    logits, _ = applied(BoxHead(7, 20), subtree(boxes, "box"), ours[None])
    box = "roi_head.bbox_head"
    layers = ((1176, 20, "shared_fcs.0"), (20, 20, "shared_fcs.1"), (20, 8, "fc_cls"))
    first, second, last = (filled(torch.nn.Linear(a, b), f"{box}.{name}") for a, b, name in layers)
    with torch.no_grad():
        x = last(second(first(torch.tensor(theirs).flatten(1)).relu()).relu())
    np.testing.assert_allclose(logits[0], x.numpy(), atol=1e-4)

    ours, theirs = channels_first(rng, 2, 5, 5, 24)
    logits = applied(MaskHead(7, 12), subtree(boxes, "mask"), ours[None], jnp.array([[0, 5]]))
    mask = "roi_head.mask_head"
    with torch.no_grad():
        x = torch.tensor(theirs)
        for i in range(4):
            x = filled(torch.nn.Conv2d(12 if i else 24, 12, 3, padding=1), f"{mask}.convs.{i}.conv")(x).relu()
        x = filled(torch.nn.ConvTranspose2d(12, 12, 2, stride=2), f"{mask}.upsample")(x).relu()
        x = filled(torch.nn.Conv2d(12, 7, 1), f"{mask}.conv_logits")(x)
    np.testing.assert_allclose(logits[0], x.numpy()[[0, 1], [0, 5]], atol=1e-4)

    asking, asked = (rng.standard_normal((1, n, 16)).astype(np.float32) for n in (5, 9))
    attention = MultiHeadAttention(16, 2, biased=True)
    given = (jnp.asarray(x) for x in (asking, asked, asked))
    found = applied(attention, subtree(queries, "decoder/layer1/cross_attn"), *given)
    theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    filled(theirs, "bbox_head.transformer.decoder.layers.1.attentions.1.attn")
    with torch.no_grad():
        expected = theirs(*(torch.tensor(x) for x in (asking, asked, asked)))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


# Other classes.


@pytest.mark.parametrize("of_run", [False, True])
@pytest.mark.parametrize(
    ("head", "modules"),
    [
        ("retinanet", ["classifier"]),
        ("faster_rcnn", ["box/classifier", "box/regressor"]),
        ("mask_rcnn", ["box/classifier", "box/regressor", "mask/classifier"]),
        ("detr", ["classifier"]),
    ],
)
def test_what_depends_on_the_classes_is_initialised(head, modules, of_run):
    leaves, report = merged(given("pvt", head, of_run), toy("pvt", head, 4), native=of_run)
    paths = {f"params/head/{module}/{leaf}" for module in modules for leaf in ("kernel", "bias")}
    assert {path for path, _, _ in report.replaced} == paths and not report.wrong_shape
    assert names.flatten(expected_of(toy("pvt", head, 4))).keys() - leaves.keys() == paths
    started = ", ".join(f"head/{module}" for module in modules) if len(modules) > 1 else "a new classifier"
    started = started if len(modules) == 1 else f"new {started}"
    assert f"; {started}, randomly initialised, for other classes (7 → 4)" in report.summary()


def test_a_regressor_that_is_the_same_for_all_classes_is_not_one_of_other_classes():
    tensors = dense_toys.weights("pvt", "faster_rcnn")
    tensors["roi_head.bbox_head.fc_reg.weight"] = tensors["roi_head.bbox_head.fc_reg.weight"][:4]
    tensors["roi_head.bbox_head.fc_reg.bias"] = tensors["roi_head.bbox_head.fc_reg.bias"][:4]
    line = refused(tensors, toy("pvt", "faster_rcnn"))
    assert "2 of another shape: params/head/box/regressor/bias is (4,), here (28,), params/head/box/regressor" in line
    more = dense_toys.weights("pvt", "retinanet")
    more["bbox_head.retina_reg.weight"] = more["bbox_head.retina_reg.weight"][:12]
    assert "1 of another shape: params/head/regressor/kernel" in refused(more, toy("pvt", "retinanet"))


def test_a_region_of_another_size():
    tensors = dense_toys.weights("pvt", "faster_rcnn")
    tensors["roi_head.bbox_head.shared_fcs.0.weight"] = np.zeros((20, 24 * 25), np.float32)
    line = refused(tensors, toy("pvt", "faster_rcnn"))
    assert "1 of another shape: params/head/box/fc0/kernel is (600, 20), here (1176, 20)" in line


# Heads that have something in common.


@pytest.mark.parametrize("of_run", [False, True])
def test_a_mask_rcnn_without_its_masks(of_run):
    tensors = given("pvt", "mask_rcnn", of_run)
    leaves, report = merged(tensors, toy("pvt", "faster_rcnn"), native=of_run)
    assert report.plain and len(report.ignored) == 12
    assert f"of other modules, unused: {'head' if of_run else 'roi_head.mask_head'} (12)" in report.summary()
    boxes = {name: t for name, t in dense_toys.weights("pvt", "mask_rcnn").items() if ".mask_head." not in name}
    assert_same_bits(state_dict(leaves), boxes)


@pytest.mark.parametrize("of_run", [False, True])
def test_masks_for_a_faster_rcnn_are_asked_for(of_run):
    tensors = given("pvt", "faster_rcnn", of_run)
    line = refused(tensors, toy("pvt", "mask_rcnn"), native=of_run)
    assert "12 missing: params/head/mask/classifier/bias" in line and "unexpected:" not in line
    assert "with a faster_rcnn head: create that model, or list the exceptions" in line
    leaves, report = merged(tensors, toy("pvt", "mask_rcnn"), native=of_run, allow_missing=("head/mask/*",))
    assert {path.split("/")[2] for path in report.missing} == {"mask"} and "params/head/box/fc0/kernel" in leaves


@pytest.mark.parametrize("of_run", [False, True])
@pytest.mark.parametrize(
    ("here", "there"), [("mask_rcnn", "retinanet"), ("retinanet", "mask_rcnn"), ("semantic_fpn", "retinanet")]
)
def test_the_head_of_another_kind(here, there, of_run):
    """Nothing of the neck either, where its numbers stand for other levels."""
    tensors = given("pvt", there, of_run)
    line = refused(tensors, toy("pvt", here), native=of_run)
    assert f"dims (8, 16, 40, 32) with a {there} head: create that model, or list the exceptions" in line
    assert "missing: " in line and "unexpected: " in line and "params/head/" not in line.split("It looks")[1]
    leaves, report = merged(tensors, toy("pvt", here), native=of_run, **BACKBONE_ALONE)
    assert {names.submodel_of(path) for path in leaves} == {"backbone"}
    assert len(leaves) == len(dense_toys.backbone_shapes("pvt")) and not report.wrong_shape


@pytest.mark.parametrize("of_run", [False, True])
def test_a_neck_of_the_same_levels_is_taken_unless_it_is_left_out(of_run):
    tensors = given("pvt", "semantic_fpn", of_run)
    model = toy("pvt", "mask_rcnn")
    exceptions = {"allow_missing": ("head/*",), "allow_unexpected": ("head/*",)}
    leaves, _ = merged(tensors, model, native=of_run, **exceptions)
    assert {names.submodel_of(path) for path in leaves} == {"backbone", "neck"}
    leaves, _ = merged(tensors, model, native=of_run, **BACKBONE_ALONE)
    assert {names.submodel_of(path) for path in leaves} == {"backbone"}


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize("of_run", [False, True])
def test_a_detector_s_backbone_for_a_classifier(head, of_run):
    tensors = given("pvt", head, of_run)
    exceptions = ("head/*", "norm/*", "cls_token")
    model = state_dicts.toy("pvt")
    assert f"with a {head} head: create that model" in refused(tensors, model, native=of_run)
    leaves, report = merged(tensors, model, native=of_run, allow_missing=exceptions)
    assert len(leaves) == len(dense_toys.backbone_shapes("pvt")) and not report.unexpected
    assert "of other modules, unused: neck" in report.summary()


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_classifier_for_a_detector(family, head):
    leaves, report = merged(state_dicts.weights(state_dicts.shapes(family)), toy(family, head))
    assert {names.submodel_of(path) for path in leaves} == {"backbone"}
    wanted = names.flatten(expected_of(toy(family, head)))
    assert leaves.keys() == {path for path in wanted if names.submodel_of(path) == "backbone"}
    parts = "head" if head == "detr" else "neck and head"
    assert f"a backbone; {parts} newly initialised" in report.summary()


# Heads that no model here has, by some names of each.
FOREIGN = {
    "ATSS's": ("bbox_head.cls_convs.0.conv.weight", "bbox_head.cls_convs.0.gn.weight", "bbox_head.atss_cls.weight"),
    "GFL's": ("bbox_head.cls_convs.0.conv.weight", "bbox_head.integral.project", "bbox_head.gfl_cls.bias"),
    "FCOS's": ("bbox_head.cls_convs.0.conv.weight", "bbox_head.conv_cls.weight", "bbox_head.conv_centerness.bias"),
    "Cascade R-CNN's": (
        *("rpn_head.rpn_conv.weight", "roi_head.bbox_head.0.shared_fcs.0.weight"),
        *("roi_head.bbox_head.2.fc_cls.bias", "roi_head.mask_head.0.convs.0.conv.weight"),
    ),
    "Sparse R-CNN's": (
        *("rpn_head.init_proposal_bboxes.weight", "rpn_head.init_proposal_features.weight"),
        *("roi_head.bbox_head.0.fc_cls.weight", "roi_head.bbox_head.0.attention.attn.in_proj_weight"),
    ),
    "a later DETR's": ("bbox_head.cls_branches.0.weight", "bbox_head.transformer.level_embeds"),
    "of mmdetection 1": ("rpn_head.rpn_conv.weight", "bbox_head.shared_fcs.0.weight", "mask_head.upsample.weight"),
    "a detector's": ("bbox_head.scores.weight",),
}


@pytest.mark.parametrize("here", ["retinanet", "mask_rcnn", "detr"])
@pytest.mark.parametrize("whose", FOREIGN)
def test_heads_of_others_are_named(whose, here):
    backbone = {name: t for name, t in dense_toys.weights("pvt", "retinanet").items() if name.startswith("backbone.")}
    # Their necks count levels from where they will.
    neck = {name: np.zeros(shape, np.float32) for name, shape in detection_names.pyramid((8, 16, 40, 32), 24).items()}
    foreign = {name: np.zeros((3, 3), np.float32) for name in FOREIGN[whose]}
    tensors = {**backbone, **neck, **foreign}
    line = refused(tensors, toy("pvt", here))
    assert f"Its head is {whose}, which no model here has: list the exceptions" in line
    assert signatures.dense_head({name: tensor.shape for name, tensor in tensors.items()}) == (None, None)
    leaves, report = merged(tensors, toy("pvt", here), **BACKBONE_ALONE)
    assert {names.submodel_of(path) for path in leaves} == {"backbone"}
    assert set(report.unexpected) == {*neck, *foreign}


def test_the_neck_of_an_unknown_head_is_taken_whole_or_not():
    tensors = dense_toys.weights("pvt", "mask_rcnn")
    cascade = {
        name.replace("bbox_head.", "bbox_head.0.").replace("mask_head.", "mask_head.0."): tensor
        for name, tensor in tensors.items()
    }
    exceptions = {"allow_missing": ("neck/*", "head/*"), "allow_unexpected": ("head/*",)}
    leaves, _ = merged(cascade, toy("pvt", "mask_rcnn"), **exceptions)
    assert {names.submodel_of(path) for path in leaves} == {"backbone", "neck"}
    # Its levels begin one finer than RetinaNet's, and four of its convolutions would fit.
    line = refused(cascade, toy("pvt", "retinanet"), **exceptions)
    assert "16 unexpected: neck.lateral_convs.0.conv.weight" in line and "of another shape" not in line


def test_the_mark_of_a_head_is_no_other_s():
    for head in HEADS:
        assert readings.foreign_head([f"{head}.weight"]) is None
    for family, head in CASES:
        shapes = dense_toys.shapes(family, head)
        assert [other for other in HEADS if names.compatible(head, other)] == (
            ["mask_rcnn", "faster_rcnn"] if head in ("mask_rcnn", "faster_rcnn") else [head]
        )
        assert signatures.dense_head(shapes) == (head, 7)
