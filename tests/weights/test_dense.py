"""Dense models: whole checkpoints of every naming, backbones alone, and what is never loaded in silence."""

import functools
import json
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pvt_jax
from pvt_jax.errors import UserError
from pvt_jax.heads import HEADS
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import load, names, signatures
from pvt_jax.weights.files import read_state_dict, write_safetensors
from pvt_jax.weights.merge import merge
from tests.helpers import dense_toys, reference, state_dicts, torch_files

CASES = [("pvt", "semantic_fpn"), ("mit", "segformer"), ("resnet basic", "semantic_fpn"), ("vit", "segformer")]
BACKBONE_ALONE = {"allow_missing": ("neck/*", "head/*"), "allow_unexpected": ("neck/*", "head/*")}
HUGGING_FACE = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())


@functools.cache
def expected_of(model):
    """Shapes and types of a model's variables."""
    size = getattr(model, "backbone", model).image_size
    method = "features" if getattr(model, "num_classes", None) == 0 else "__call__"
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3)), method=method), jax.random.key(0))


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


def native(tensors, family, head=None, num_classes=7):
    """Leaves by path of the model that these tensors fill."""
    model = dense_toys.toy(family, head, num_classes) if head else state_dicts.toy(family)
    leaves, report = merged(tensors, model)
    assert report.plain
    return leaves


# Whole models.


@pytest.mark.parametrize(("family", "head"), CASES)
def test_there_and_back_bit_for_bit(family, head):
    tensors = dense_toys.weights(family, head)
    for tensor in tensors.values():
        if tensor.size >= 5 and tensor.dtype == np.float32:
            # The largest numbers, a subnormal one, -0.0 and the smallest.
            tensor.view(np.uint32).flat[:5] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000, 0x00000001)
    leaves, report = merged(tensors, dense_toys.toy(family, head))
    assert report.plain and not report.ignored and not report.initialised
    assert report.dialect == "reference names under backbone."
    assert_same_bits(state_dict(leaves), tensors)


def test_layouts_by_single_numbers():
    """Linear maps of the neck and the head are convolutions of side 1 there; those of the levels are linear."""
    tensors = dense_toys.weights("pvt", "semantic_fpn")
    leaves, _ = merged(tensors, dense_toys.toy("pvt", "semantic_fpn"))
    assert leaves["params/neck/lateral_c3/kernel"][9, 5] == tensors["neck.lateral_convs.1.conv.weight"][5, 9, 0, 0]
    assert leaves["params/neck/output_p4/kernel"][2, 1, 3, 7] == tensors["neck.fpn_convs.2.conv.weight"][7, 3, 2, 1]
    branch = leaves["params/head/branch_p5/conv2/kernel"]
    assert branch[2, 1, 3, 7] == tensors["decode_head.scale_heads.3.4.conv.weight"][7, 3, 2, 1]
    mean, count = (leaves[f"batch_stats/head/branch_p4/norm1/{leaf}"] for leaf in ("mean", "count"))
    np.testing.assert_array_equal(mean, tensors["decode_head.scale_heads.2.2.bn.running_mean"])
    assert count.dtype == np.int32 and count == len("decode_head.scale_heads.2.2.bn.num_batches_tracked")
    assert leaves["params/head/classifier/kernel"][11, 6] == tensors["decode_head.conv_seg.weight"][6, 11, 0, 0]

    tensors = dense_toys.weights("mit", "segformer")
    leaves, _ = merged(tensors, dense_toys.toy("mit", "segformer"))
    assert leaves["params/head/linear_c4/kernel"][39, 2] == tensors["decode_head.linear_c3.proj.weight"][2, 39]
    assert leaves["params/head/fuse/kernel"][79, 2] == tensors["decode_head.linear_fuse.conv.weight"][2, 79, 0, 0]
    np.testing.assert_array_equal(leaves["params/head/norm/scale"], tensors["decode_head.linear_fuse.bn.weight"])


def test_a_published_file(tmp_path):
    """As mmsegmentation saves it: wrapped, with a class token, an auxiliary head, and the class names beside it."""
    tensors = dense_toys.weights("pvt", "semantic_fpn")
    extra = {"backbone.cls_token": np.ones((1, 1, 32), np.float32), "auxiliary_head.conv_seg.bias": np.ones(7, "f4")}
    saved = {name: torch_files.tensor(tensor) for name, tensor in {**tensors, **extra}.items()}
    tree = {"meta": {"CLASSES": ("wall", "sky")}, "state_dict": saved, "optimizer": {}}
    (tmp_path / "w.pth").write_bytes(torch_files.zip_bytes(tree))
    variables, report = load.read_variables(tmp_path / "w.pth", dense_toys.toy("pvt", "semantic_fpn"))
    assert report.plain and report.ignored == tuple(extra)
    assert_same_bits(names.to_state_dict(variables), tensors)
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    leaves, report = merged(wrapped, dense_toys.toy("pvt", "semantic_fpn"))
    assert report.plain and report.dialect == "reference names under module.backbone."
    assert_same_bits(state_dict(leaves), tensors)


def test_the_classifier_that_segformer_s_files_have_beside_their_own():
    tensors = dense_toys.weights("mit", "segformer")
    unused = {
        "decode_head.conv_seg.weight": np.ones((7, 20, 1, 1), "f4"),
        "decode_head.conv_seg.bias": np.ones(7, "f4"),
    }
    leaves, report = merged({**tensors, **unused}, dense_toys.toy("mit", "segformer"))
    assert report.plain and report.ignored == tuple(unused)
    assert_same_bits(state_dict(leaves), tensors)


_OF_SEGMENTATION_MODELS = {
    "backbone.": "encoder.",
    **{f"decode_head.linear_c{4 - place}.proj": f"decoder.mlp_stage.{place}.linear" for place in range(4)},
    "decode_head.linear_fuse.conv": "decoder.fuse_stage.0",
    "decode_head.linear_fuse.bn": "decoder.fuse_stage.1",
    "decode_head.linear_pred": "segmentation_head.0",
}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_segformer_of_segmentation_models_pytorch(prefix):
    tensors, renamed = dense_toys.weights("mit", "segformer"), {}
    for name, tensor in tensors.items():
        start = next(start for start in _OF_SEGMENTATION_MODELS if name.startswith(start))
        renamed[prefix + _OF_SEGMENTATION_MODELS[start] + name.removeprefix(start)] = tensor
    assert renamed[f"{prefix}decoder.mlp_stage.0.linear.weight"].shape == (20, 32)  # The coarsest level comes first.
    leaves, report = merged(renamed, dense_toys.toy("mit", "segformer"))
    assert report.plain and not report.ignored and report.dialect == f"reference names under {prefix}encoder."
    assert_same_bits(state_dict(leaves), tensors)
    found = signatures.recognise({name: tensor.shape for name, tensor in renamed.items()})
    assert found and (found.head, found.num_classes) == ("segformer", 7)
    # Its other decoders are none of the heads here, but their encoders may be one of the backbones.
    other = {name: tensor for name, tensor in renamed.items() if name.startswith(f"{prefix}encoder.")}
    other |= {f"{prefix}decoder.blocks.0.conv1.0.weight": np.ones((8, 48, 3, 3), "f4")}
    other |= {f"{prefix}segmentation_head.0.weight": np.ones((7, 8, 3, 3), "f4")}
    assert (
        "Its head is a decoder of segmentation_models_pytorch, which no model here has: list the exceptions in "
        "allow_missing and allow_unexpected; allow_missing=['neck/*', 'head/*'] with "
        "allow_unexpected=['neck/*', 'head/*'] loads the backbone alone"
    ) in refused(other, dense_toys.toy("mit", "segformer"))
    leaves, report = merged(other, dense_toys.toy("mit", "segformer"), **BACKBONE_ALONE)
    assert report.ignored == (f"{prefix}decoder.blocks.0.conv1.0.weight",)
    expected = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    assert_same_bits(state_dict(leaves), expected)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("prefix", ["segformer.", ""])
def test_hugging_face_names(version, prefix):
    """``transformers.keys.json`` lists the encoder's names; linear_projections is what version 5 has in memory."""
    encoder = state_dicts.weights(HUGGING_FACE[f"SegformerForImageClassification {version}"])
    tensors = dense_toys.to_hugging_face(dense_toys.weights("mit", "segformer"), encoder)
    if version == 5:
        tensors = {name.replace("linear_c.", "linear_projections."): tensor for name, tensor in tensors.items()}
    tensors = {name.replace("segformer.", prefix, 1): tensor for name, tensor in tensors.items()}
    leaves, report = merged(tensors, dense_toys.toy("mit", "segformer"))
    assert report.plain and not report.ignored and "SegFormer names" in report.dialect
    head = {name: t for name, t in dense_toys.weights("mit", "segformer").items() if name.startswith("decode_head.")}
    found = state_dict(leaves)
    assert_same_bits({name: tensor for name, tensor in found.items() if name in head}, head)
    classifier, _ = merged(encoder, state_dicts.toy("mit"))
    expected = {f"backbone.{name}": t for name, t in state_dict(classifier).items() if not name.startswith("head.")}
    assert_same_bits({name: tensor for name, tensor in found.items() if name not in head}, expected)


def test_names_of_live_transformers(tmp_path):
    """What the installed transformers holds and what it writes, each tensor found where its number says."""
    torch = pytest.importorskip("torch", reason="needs torch, which is in no requirements file")
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is in no requirements file")
    sizes = {"depths": [2, 1, 1, 1], "hidden_sizes": [8, 16, 40, 32], "num_attention_heads": [1, 2, 5, 4]}
    config = transformers.SegformerConfig(num_labels=7, decoder_hidden_size=20, **sizes)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    held = theirs.state_dict()
    with torch.no_grad():
        for name, tensor in state_dicts.weights({name: tuple(value.shape) for name, value in held.items()}).items():
            held[name].copy_(torch.tensor(tensor))
    theirs.save_pretrained(tmp_path)
    model = dense_toys.toy("mit", "segformer")
    written, report = merged(read_state_dict(tmp_path), model)
    assert report.plain and not report.ignored
    in_memory, _ = merged({name: value.numpy() for name, value in held.items()}, model)
    assert_same_bits(state_dict(written), state_dict(in_memory))
    # One number a tensor, by the modules of the live model itself.
    head = theirs.decode_head
    for path, tensor in {
        "params/head/linear_c2/bias": head.linear_projections[0].proj.bias,
        "params/head/linear_c5/bias": head.linear_projections[3].proj.bias,
        "batch_stats/head/norm/var": head.batch_norm.running_var,
        "params/head/norm/bias": head.batch_norm.bias,
        "params/head/classifier/bias": head.classifier.bias,
    }.items():
        np.testing.assert_array_equal(written[path], tensor.detach().numpy(), err_msg=path)
    kernel = head.linear_fuse.weight.detach().numpy()
    np.testing.assert_array_equal(written["params/head/fuse/kernel"], kernel[:, :, 0, 0].T)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_dense_run(family, head, tmp_path):
    model, tensors = dense_toys.toy(family, head), dense_toys.weights(family, head)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(3, names.unflatten(native(tensors, family, head)))
    store.close()
    settings = {**dense_toys.SETTINGS[head][0], "name": head}
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "x"}, "head": settings}))
    variables, report = load.read_variables(tmp_path, model)
    assert report.plain and set(variables) == {"params", "batch_stats"}
    assert_same_bits(names.to_state_dict(variables), tensors)
    config = load.read_checkpoint(tmp_path).model
    assert config == {"name": "x", "head": head, "head_settings": dense_toys.SETTINGS[head][0]}


def test_counts_may_be_missing_and_nothing_else():
    tensors = dense_toys.weights("mit", "segformer")
    del tensors["decode_head.linear_fuse.bn.num_batches_tracked"]
    _, report = merged(tensors, dense_toys.toy("mit", "segformer"))
    assert report.missing == ("batch_stats/head/norm/count",)
    del tensors["decode_head.linear_fuse.bn.running_mean"]
    line = refused(tensors, dense_toys.toy("mit", "segformer"))
    assert "1 missing: batch_stats/head/norm/mean. Use another file" in line


@pytest.mark.parametrize("of_run", [False, True])
@pytest.mark.parametrize(("family", "head"), CASES[:2])
def test_a_classifier_of_other_classes_is_initialised(family, head, of_run):
    tensors = dense_toys.weights(family, head)
    tensors = native(tensors, family, head) if of_run else tensors
    leaves, report = merged(tensors, dense_toys.toy(family, head, 4), native=of_run)
    dim = dense_toys.SETTINGS[head][1]
    kernel, bias = (f"params/head/classifier/{leaf}" for leaf in ("kernel", "bias"))
    assert report.replaced == ((kernel, (dim, 7), (dim, 4)), (bias, (7,), (4,)))
    assert not {kernel, bias} & leaves.keys() and len(leaves) == len(report.matched)
    assert "a new classifier, randomly initialised, for other classes (7 → 4)" in report.summary()
    assert not report.missing and not report.unexpected


def test_queries_of_other_classes_are_initialised():
    """Trans2Seg's queries are one a class: [1, classes, dim]."""

    def tree(classes):
        leaves = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in native(backbone_of("mit"), "mit").items()}
        dense = {names.in_dense(path): leaf for path, leaf in leaves.items() if "/head/" not in path}
        return {**dense, "params/head/class_queries": np.ones((1, classes, 6), np.float32)}

    leaves, report = merge(tree(7), names.unflatten(tree(4)), source="run", native=True)
    assert "params/head/class_queries" not in leaves and len(report.replaced) == 1
    assert "for other classes (7 → 4)" in report.summary()
    recognised = signatures.recognise({path: leaf.shape for path, leaf in tree(7).items()}, native=True)
    assert recognised is not None and (recognised.head, recognised.num_classes) == ("trans2seg", 7)
    with pytest.raises(
        UserError,
        match="no name for params/head/class_queries: .* with one of the heads semantic_fpn, segformer, .* has",
    ):
        names.to_state_dict(names.unflatten(tree(7)))


# A backbone alone.


def backbone_of(family):
    """The whole classifier's state dict."""
    return state_dicts.weights(state_dicts.shapes(family))


def assert_holds_backbone(leaves, report, family, head):
    expected = {f"backbone.{name}": tensor for name, tensor in backbone_of(family).items()}
    expected = {name: expected[name] for name in dense_toys.backbone_shapes(family)}
    assert all(names.submodel_of(path) == "backbone" for path in leaves)
    assert_same_bits(state_dict(leaves), expected)
    parts = ("neck", "head") if head == "semantic_fpn" else ("head",)
    assert report.initialised == parts and not report.plain
    assert {names.submodel_of(path) for path in report.missing} == set(parts)
    words = "neck and head newly initialised" if len(parts) == 2 else "head newly initialised"
    assert f"; a backbone; {words}" in report.summary() and "not in the file" not in report.summary()


@pytest.mark.parametrize("prefix", ["", "backbone.", "module."])
@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_classifier_fills_the_backbone(family, head, prefix):
    tensors = {prefix + name: tensor for name, tensor in backbone_of(family).items()}
    leaves, report = merged(tensors, dense_toys.toy(family, head))
    assert_holds_backbone(leaves, report, family, head)
    kept = {name.removeprefix("backbone.") for name in dense_toys.backbone_shapes(family)}
    assert {name.removeprefix(prefix) for name in report.ignored} == backbone_of(family).keys() - kept
    assert "of other modules, unused: " in report.summary()


@pytest.mark.parametrize(("family", "head"), CASES)
def test_the_run_of_a_classifier_fills_the_backbone(family, head):
    leaves, report = merged(native(backbone_of(family), family), dense_toys.toy(family, head), native=True)
    assert_holds_backbone(leaves, report, family, head)
    assert "params/head/linear/kernel" in report.ignored and not report.unexpected
    assert re.search(r"of other modules, unused: .*\bhead \(2\)", report.summary())


def test_a_classifier_of_hugging_face_fills_the_backbone():
    tensors = state_dicts.weights(HUGGING_FACE["SegformerForImageClassification 4"])
    leaves, report = merged(tensors, dense_toys.toy("mit", "segformer"))
    assert report.initialised == ("head",) and set(report.ignored) == {"classifier.weight", "classifier.bias"}
    assert len(leaves) == len(dense_toys.backbone_shapes("mit"))


@pytest.mark.parametrize("of_run", [False, True])
def test_a_backbone_must_be_whole_and_hold_nothing_else(of_run):
    tensors, model = backbone_of("mit"), dense_toys.toy("mit", "segformer")
    given = native(tensors, "mit") if of_run else dict(tensors)
    gone = "params/stage3/norm/scale" if of_run else "norm3.weight"
    line = refused({name: t for name, t in given.items() if name != gone}, model, native=of_run)
    assert "1 missing: params/backbone/stage3/norm/scale. " in line and "looks like" not in line
    extra = "params/extra/kernel" if of_run else "extra.weight"
    line = refused({**given, extra: np.zeros((2, 2), np.float32)}, model, native=of_run)
    assert f"1 unexpected: {'params/' if of_run else ''}extra" in line


def test_position_tables_are_resampled_as_those_of_a_classifier():
    tensors = backbone_of("pvt")
    dense, report = merged(tensors, dense_toys.toy("pvt", "semantic_fpn", image_size=96))
    classifier, of_classifier = merged(tensors, state_dicts.toy("pvt", image_size=96))
    assert [(names.in_backbone(path), *grids) for path, *grids in report.resized] == list(of_classifier.resized)
    assert len(report.resized) == 4 and "stage1/pos_embed 16×16 → 24×24" in report.summary()
    for stage in (1, 2, 3, 4):
        table = dense[f"params/backbone/stage{stage}/pos_embed"]
        np.testing.assert_array_equal(table, classifier[f"params/stage{stage}/pos_embed"])
    vit, report = merged(backbone_of("vit"), dense_toys.toy("vit", "segformer", image_size=96))
    expected, _ = merged(backbone_of("vit"), state_dicts.toy("vit", image_size=96))
    np.testing.assert_array_equal(vit["params/backbone/pos_embed"], expected["params/pos_embed"])


def test_what_is_initialised_is_drawn_and_reported(tmp_path, caplog):
    write_safetensors(tmp_path / "w.safetensors", backbone_of("mit"))
    model = dense_toys.toy("mit", "segformer")
    with caplog.at_level(logging.INFO, "pvt_jax"):
        variables = pvt_jax.load_variables(tmp_path / "w.safetensors", model, key=jax.random.key(3))
    (record,) = [record for record in caplog.records if record.name == "pvt_jax"]
    assert record.levelname == "WARNING" and "; a backbone; head newly initialised" in record.getMessage()
    images = jnp.zeros((1, 64, 64, 3))
    expected = jax.jit(lambda key: model.init(key, images)["params"]["head"]["linear_c3"]["kernel"])(jax.random.key(3))
    found = variables["params"]["head"]["linear_c3"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert 0.01 < float(found.std()) < 0.03
    assert variables["batch_stats"]["head"]["norm"]["count"] == 0


def test_a_backbone_without_classifier(tmp_path):
    """``num_classes=0``: as the backbone of a dense model, and from one."""
    model = state_dicts.toy("pvt", num_classes=0)
    write_safetensors(tmp_path / "w.safetensors", backbone_of("pvt"))
    variables, report = load.read_variables(tmp_path / "w.safetensors", model)
    assert report.plain and set(report.ignored) == {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    dense = native(dense_toys.weights("pvt", "semantic_fpn"), "pvt", "semantic_fpn")
    leaves, report = merged(dense, model, native=True)
    assert report.plain and {names.submodel_of(path) for path in report.ignored} == {"neck", "head"}
    assert leaves.keys() == names.flatten(variables).keys()
    np.testing.assert_array_equal(leaves["params/stage4/pos_embed"], dense["params/backbone/stage4/pos_embed"])


# A dense checkpoint for a classifier.


@pytest.mark.parametrize("of_run", [False, True])
def test_the_backbone_of_a_dense_model_for_a_classifier(of_run):
    tensors = dense_toys.weights("mit", "segformer")
    given = native(tensors, "mit", "segformer") if of_run else tensors
    line = refused(given, state_dicts.toy("mit"), native=of_run)
    assert "2 missing: params/head/linear/bias, params/head/linear/kernel" in line and "unexpected:" not in line
    assert "dims (8, 16, 40, 32) with a segformer head: create that model" in line
    leaves, report = merged(given, state_dicts.toy("mit"), native=of_run, allow_missing=("head/*",))
    assert "head (16)" in report.summary() and not report.unexpected and not report.initialised
    np.testing.assert_array_equal(leaves["params/stage3/norm/bias"], tensors["backbone.norm3.bias"])
    assert len(leaves) == len(dense_toys.backbone_shapes("mit"))


# What is wrong, and the way out.


@pytest.mark.parametrize("of_run", [False, True])
@pytest.mark.parametrize(("here", "there"), [("segformer", "semantic_fpn"), ("semantic_fpn", "segformer")])
def test_the_head_of_another_kind(here, there, of_run):
    """The classifiers fit each other's shapes, and are not taken for each other."""
    settings = {"segformer": {"channels": 12}, "semantic_fpn": {"channels": 20, "neck_channels": 24}}[here]
    model = dense_toys.toy("mit", here, head_settings=settings)
    tensors = dense_toys.weights("mit", there)
    if there == "segformer":
        tensors |= {"decode_head.conv_seg.weight": np.ones((7, 20, 1, 1), np.float32)}
        tensors |= {"decode_head.conv_seg.bias": np.ones(7, np.float32)}
    given = tensors
    if of_run:
        given = native(dense_toys.weights("mit", there), "mit", there)
    line = refused(given, model, native=of_run)
    assert f"dims (8, 16, 40, 32) with a {there} head: create that model, or list the exceptions" in line
    assert "allow_missing=['neck/*', 'head/*'] with allow_unexpected=['neck/*', 'head/*'] loads the backbone" in line
    leaves, report = merged(given, model, native=of_run, **BACKBONE_ALONE)
    assert all(names.submodel_of(path) == "backbone" for path in leaves)
    assert len(leaves) == len(dense_toys.backbone_shapes("mit")) and not report.initialised and not report.plain
    others = [name for name in given if not name.startswith(("backbone.", "params/backbone/"))]
    assert set(report.unexpected) == set(others)
    assert "not in the file, newly initialised: " in report.summary()
    with pytest.raises(UserError, match="unexpected"):
        merged(given, model, native=of_run, allow_missing=BACKBONE_ALONE["allow_missing"])


@pytest.mark.parametrize("of_run", [False, True])
def test_another_backbone_is_named(of_run):
    tensors = dense_toys.weights("mit", "segformer")
    given = native(tensors, "mit", "segformer") if of_run else tensors
    line = refused(given, dense_toys.toy("mit", "segformer", depths=(1, 1, 1, 1)), native=of_run)
    assert (
        "It looks like a pvt_v2 of depths (2, 1, 1, 1) and dims (8, 16, 40, 32) with a segformer head: create" in line
    )
    line = refused(given, dense_toys.toy("pvt", "semantic_fpn"), native=of_run)
    assert "It looks like a pvt_v2 of depths" in line and "missing: params/backbone/" in line
    # A list of exceptions for the head does not let another backbone pass.
    line = refused(given, dense_toys.toy("pvt", "semantic_fpn"), native=of_run, **BACKBONE_ALONE)
    assert "missing: params/backbone/" in line


def test_a_classifier_of_another_backbone():
    line = refused(backbone_of("resnet basic"), dense_toys.toy("mit", "segformer"))
    assert "missing: params/backbone/" in line and "It looks like a resnet of depths (2, 1, 1, 1)" in line
    assert "params/head" not in line


def test_half_a_head():
    tensors = dense_toys.weights("pvt", "semantic_fpn")
    without = {name: t for name, t in tensors.items() if not name.startswith("decode_head.scale_heads.2.2.")}
    line = refused(without, dense_toys.toy("pvt", "semantic_fpn"))
    assert "5 missing: batch_stats/head/branch_p4/norm1/mean, batch_stats/head/branch_p4/norm1/var" in line
    neck = {name: t for name, t in tensors.items() if not name.startswith("decode_head.")}
    line = refused(neck, dense_toys.toy("pvt", "semantic_fpn"))
    assert "missing: batch_stats/head/branch_p2/norm0/mean" in line


def test_a_head_of_other_channels():
    line = refused(dense_toys.weights("mit", "segformer"), dense_toys.toy("mit", "segformer", head_settings={}))
    assert "13 of another shape: batch_stats/head/norm/mean is (20,), here (256,)" in line


def to_mmsegmentation(name: str, tensors) -> dict[str, np.ndarray]:
    """What mmsegmentation's own MiT has for a tensor of the reference; queries, keys and values are one tensor."""
    tensor = tensors[name]
    name = re.sub(r"patch_embed(\d)\.proj", lambda m: f"layers.{int(m[1]) - 1}.0.projection", name)
    name = re.sub(r"patch_embed(\d)\.norm", lambda m: f"layers.{int(m[1]) - 1}.0.norm", name)
    name = re.sub(r"^norm(\d)", lambda m: f"layers.{int(m[1]) - 1}.2", name)
    original, name = name, re.sub(r"^block(\d)", lambda m: f"layers.{int(m[1]) - 1}.1", name)
    if ".attn.q." in name:
        both = np.concatenate([tensor, tensors[original.replace(".q.", ".kv.")]])
        return {name.replace("attn.q.", "attn.attn.in_proj_"): both}
    if ".attn.kv." in name:
        return {}
    if re.search(r"mlp\.fc\d\.weight", name):
        tensor = tensor[:, :, None, None]
    for old, new in (("mlp.fc1", "0"), ("mlp.dwconv.dwconv", "1"), ("mlp.fc2", "4")):
        name = name.replace(old, f"ffn.layers.{new}")
    return {name.replace("attn.proj", "attn.attn.out_proj"): tensor}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_mmsegmentation_s_own_mit(prefix):
    tensors = backbone_of("mit")
    renamed = {}
    for name in tensors:
        if not name.startswith("head."):
            renamed |= {prefix + key: value for key, value in to_mmsegmentation(name, tensors).items()}
    assert f"{prefix}layers.0.1.1.attn.attn.in_proj_bias" in renamed and f"{prefix}layers.3.0.norm.weight" in renamed
    leaves, report = merged(renamed, dense_toys.toy("mit", "segformer"))
    assert (
        report.dialect.startswith("mmsegmentation MiT and mmdetection PVT v2 names")
        and not report.unexpected
        and not report.ignored
    )
    expected = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    assert_same_bits(state_dict(leaves), {f"backbone.{name}": tensor for name, tensor in expected.items()})
    head = {"decode_head.convs.0.conv.weight": np.zeros((20, 8, 1, 1), np.float32)}
    head |= {"decode_head.fusion_conv.conv.weight": np.zeros((20, 80, 1, 1), np.float32)}
    head |= {"decode_head.conv_seg.weight": np.zeros((7, 20, 1, 1), np.float32)}
    if prefix:
        line = refused({**renamed, **head}, dense_toys.toy("mit", "segformer"))
        assert "3 unexpected: decode_head.convs.0.conv.weight" in line
        assert (
            "Its head is mmsegmentation's own head of SegFormer, with a norm for every level, which no model here has: "
            "list the exceptions in allow_missing and allow_unexpected; allow_missing=['neck/*', 'head/*'] with" in line
        )
        leaves, report = merged({**renamed, **head}, dense_toys.toy("mit", "segformer"), **BACKBONE_ALONE)
        assert len(leaves) == len(expected) and report.unexpected == tuple(head)
        line = refused({**renamed, **head}, dense_toys.toy("mit", "semantic_fpn", head_settings={"channels": 20}))
        assert (
            "missing: " in line
            and "params/head/classifier"
            not in merged(
                {**renamed, **head},
                dense_toys.toy("mit", "semantic_fpn", head_settings={"channels": 20}),
                **BACKBONE_ALONE,
            )[0]
        )


@pytest.mark.parametrize("wrong", [(), (17, 16)])
def test_rows_that_are_no_three_parts(wrong):
    tensors = backbone_of("mit")
    renamed = {key: value for name in tensors for key, value in to_mmsegmentation(name, tensors).items()}
    renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("head.")}
    renamed["layers.1.1.0.attn.attn.in_proj_weight"] = np.zeros(wrong, np.float32)
    line = refused(renamed, dense_toys.toy("mit", "segformer"))
    assert "of another shape: params/backbone/stage2/block0/attn/" in line


def test_a_detector_s_backbone_and_neck():
    tensors = dense_toys.weights("pvt", "semantic_fpn")
    detector = {name: t for name, t in tensors.items() if not name.startswith("decode_head.")}
    detector |= {
        "rpn_head.rpn_cls.weight": np.zeros((3, 24, 1, 1), "f4"),
        "roi_head.bbox_head.fc_cls.bias": np.zeros(3),
    }
    line = refused(detector, dense_toys.toy("pvt", "semantic_fpn"))
    assert "2 unexpected: rpn_head.rpn_cls.weight, roi_head.bbox_head.fc_cls.bias" in line
    assert "Its head is a detector's, which no model here has" in line
    exceptions = {"allow_missing": ("head/*",), "allow_unexpected": ("head/*",)}
    leaves, report = merged(detector, dense_toys.toy("pvt", "semantic_fpn"), **exceptions)
    assert {names.submodel_of(path) for path in leaves} == {"backbone", "neck"}
    np.testing.assert_array_equal(leaves["params/neck/output_p2/bias"], tensors["neck.fpn_convs.0.conv.bias"])
    assert all(names.submodel_of(path) == "head" for path in report.missing)


def test_two_copies_of_a_head():
    tensors = dense_toys.weights("mit", "segformer")
    copies = {**tensors, **{f"model.{name}": t + 1 for name, t in tensors.items() if name.startswith("decode_head.")}}
    line = refused(copies, dense_toys.toy("mit", "segformer"))
    assert "twice, with different numbers: reference names, and reference names under model.; list" in line
    leaves, _ = merged(copies, dense_toys.toy("mit", "segformer"), allow_unexpected=("model.*",))
    assert_same_bits(state_dict(leaves), tensors)


# Recognition.


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_tree_tells_as_much_as_a_file(family, head):
    shapes = dense_toys.shapes(family, head)
    tree = {path: leaf.shape for path, leaf in native(dense_toys.weights(family, head), family, head).items()}
    recognised = signatures.recognise(shapes)
    assert recognised is not None and recognised == signatures.recognise(tree, native=True)
    assert (recognised.head, recognised.num_classes) == (head, 7)
    assert recognised.signature == signatures.recognise(state_dicts.shapes(family)).signature
    assert str(recognised).endswith(f"with a {head} head")
    assert recognised.image_size == ((64, 64) if family in ("pvt", "vit") else None)


def test_hugging_face_s_segformer_is_recognised():
    encoder = state_dicts.weights(HUGGING_FACE["SegformerForImageClassification 4"])
    tensors = dense_toys.to_hugging_face(dense_toys.weights("mit", "segformer"), encoder)
    recognised = signatures.recognise({name: tensor.shape for name, tensor in tensors.items()})
    assert recognised is not None and (recognised.head, recognised.num_classes) == ("segformer", 7)


def test_models_of_the_registry_are_named_with_their_heads():
    for name, head in (("mit_b0", "segformer"), ("pvt_small", "semantic_fpn")):
        leaves = names.flatten(expected_of(pvt_jax.create_model(name, head=head)))
        recognised = signatures.recognise({path: leaf.shape for path, leaf in leaves.items()}, native=True)
        assert str(recognised) == f"{name} with a {head} head" and recognised.num_classes == 150


def test_the_heads_with_names_are_those_of_the_models():
    assert set(pvt_jax.models.list_heads()) <= HEADS.keys()
