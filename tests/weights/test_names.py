"""Names: every tensor of every dialect finds its place, and the way back gives the same bits."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pvt_jax
from pvt_jax.errors import UserError
from pvt_jax.models import MODELS
from pvt_jax.weights import names, signatures
from pvt_jax.weights.files import read_state_dict
from pvt_jax.weights.merge import merge
from tests.helpers import reference, state_dicts

GOLDEN = ("pvt_tiny", "pvt_small", "pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b2_li")
HUGGING_FACE = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())


def load(tensors, model, **options):
    """(nested variables, report) of tensors that must fit."""
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    expected = state_dicts.expected(model)
    leaves, report = merge(tensors, expected, source="test.pth", image_size=size, **options)
    assert leaves.keys() == names.flatten(expected).keys()
    return names.unflatten(leaves), report


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", GOLDEN)
def test_the_names_and_shapes_of_the_reference(name):
    """``tests/golden/*.keys.json`` list what the reference's own models hold."""
    golden = json.loads((reference.GOLDEN / f"{name}.keys.json").read_text())
    tree = reference.deep_variables(pvt_jax.create_model(name))
    leaves = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in names.flatten(tree).items()}
    found = {key: list(tensor.shape) for key, tensor in names.to_state_dict(leaves).items()}
    assert found == golden


@pytest.mark.parametrize("family", state_dicts.TOYS)
def test_there_and_back_bit_for_bit(family):
    tensors = state_dicts.weights(state_dicts.shapes(family))
    some = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    bits = tensors[some].view(np.uint32)
    # The largest numbers, subnormal ones, -0.0, and the smallest.
    bits.flat[:6] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000, 0x00800000, 0x00000001)
    variables, report = load(tensors, state_dicts.toy(family))
    assert report.plain and not report.ignored and report.dialect == "reference names"
    assert_same_bits(names.to_state_dict(variables), tensors)


@pytest.mark.parametrize("family", ["pvt", "pvt_v2 linear", "mit"])
def test_the_tree_of_a_pyramid_is_that_of_an_independent_conversion(family):
    tensors = state_dicts.weights(state_dicts.shapes(family))
    variables, _ = load(tensors, state_dicts.toy(family))
    expected = names.flatten(reference.to_flax(tensors))
    found = names.flatten(variables["params"])
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_layouts_by_single_numbers():
    tensors = state_dicts.weights(state_dicts.shapes("resnet basic"))
    variables, _ = load(tensors, state_dicts.toy("resnet basic"))
    block, weight = variables["params"]["stage2"]["block0"], tensors["layer2.0.conv1.weight"]
    assert block["conv1"]["kernel"][1, 2, 3, 4] == weight[4, 3, 1, 2]
    assert variables["params"]["head"]["linear"]["kernel"][7, 3] == tensors["fc.weight"][3, 7]
    shortcut = variables["batch_stats"]["stage2"]["block0"]["shortcut_norm"]
    np.testing.assert_array_equal(shortcut["mean"], tensors["layer2.0.downsample.1.running_mean"])
    np.testing.assert_array_equal(shortcut["var"], tensors["layer2.0.downsample.1.running_var"])
    assert shortcut["count"].dtype == np.int32
    assert shortcut["count"] == tensors["layer2.0.downsample.1.num_batches_tracked"]


def test_queries_keys_and_values_of_a_vit():
    tensors = state_dicts.weights(state_dicts.shapes("vit"))
    rows = np.repeat(np.float32([1, 2, 3]), 16)
    tensors["blocks.1.attn.qkv.bias"] = rows
    tensors["blocks.1.attn.qkv.weight"] = np.outer(rows, np.arange(16, dtype=np.float32))
    attention = load(tensors, state_dicts.toy("vit"))[0]["params"]["block1"]["attn"]
    np.testing.assert_array_equal(attention["q"]["bias"], np.full(16, 1))
    np.testing.assert_array_equal(attention["kv"]["bias"], [2] * 16 + [3] * 16)
    np.testing.assert_array_equal(attention["q"]["kernel"], np.outer(np.arange(16), np.full(16, 1)))
    np.testing.assert_array_equal(attention["kv"]["kernel"][5], [10] * 16 + [15] * 16)


def to_timm(name: str) -> str:
    """The name in timm's pvt_v2 of a tensor that the reference calls ``name``."""
    name = name.replace("patch_embed1", "patch_embed").replace("dwconv.dwconv", "dwconv")
    name = re.sub(r"^patch_embed(\d)", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
    name = re.sub(r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.", name)
    return re.sub(r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm.", name)


@pytest.mark.parametrize("family", ["pvt_v2", "pvt_v2 linear"])
def test_timm_names(family):
    tensors = state_dicts.weights(state_dicts.shapes(family))
    renamed = {to_timm(name): tensor for name, tensor in tensors.items()}
    assert "stages.0.blocks.1.mlp.dwconv.weight" in renamed and "stages.3.downsample.proj.bias" in renamed
    variables, report = load(renamed, state_dicts.toy(family))
    assert report.dialect == "timm names" and report.plain
    assert_same_bits(names.to_state_dict(variables), tensors)


@pytest.mark.parametrize("prefix", ["", "encoder.", "net.model."])
def test_names_of_timm_s_feature_extractors(prefix):
    """``features_only=True`` flattens ``stages``."""
    tensors = state_dicts.weights(state_dicts.shapes("pvt_v2"))
    flat = {key: re.sub(r"^stages\.", "stages_", to_timm(key)) for key in tensors}
    assert "stages_0.blocks.1.mlp.dwconv.weight" in flat.values()
    variables, report = load({prefix + flat[key]: x for key, x in tensors.items()}, state_dicts.toy("pvt_v2"))
    assert report.dialect == "timm names" + f" under {prefix}" * bool(prefix) and report.plain
    assert_same_bits(names.to_state_dict(variables), tensors)


def to_mmpretrain_vit(name: str, attention: str) -> str:
    """The name, in mmpretrain's ViT without prefix, of a tensor that the reference calls ``name``."""
    name = re.sub(r"^blocks\.", "layers.", name.replace("patch_embed.proj", "patch_embed.projection"))
    name = re.sub(r"\.norm(?=\d)", ".ln", re.sub(r"^norm\.", "ln1.", name))
    name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
    if attention == "attn.attn":  # mmsegmentation's.
        name = name.replace("attn.qkv.", "attn.attn.in_proj_").replace("attn.proj", "attn.attn.out_proj")
    return name


@pytest.mark.parametrize("around", ["", "module."])
@pytest.mark.parametrize("family", state_dicts.TOYS)
def test_mmpretrain_s_classifier_stands_beside_its_backbone(family, around):
    tensors = state_dicts.weights(state_dicts.shapes(family))
    renamed = {
        f"{around}head.fc.{name.partition('.')[2]}"
        if name.startswith(("head.", "fc."))
        else f"{around}backbone.{name}": x
        for name, x in tensors.items()
    }
    assert {f"{around}head.fc.weight", f"{around}head.fc.bias"} <= renamed.keys()
    variables, report = load(renamed, state_dicts.toy(family))
    assert report.plain and not report.ignored and report.dialect == f"reference names under {around}backbone."
    assert_same_bits(names.to_state_dict(variables), tensors)
    # The number of classes is told, too.
    assert signatures.recognise({name: tensor.shape for name, tensor in renamed.items()}).num_classes == 5


@pytest.mark.parametrize("attention", ["attn", "attn.attn"])
def test_the_vit_of_mmpretrain_and_mmsegmentation(attention):
    tensors = state_dicts.weights(state_dicts.shapes("vit"))
    renamed = {
        f"head.layers.{name}" if name.startswith("head.") else f"backbone.{to_mmpretrain_vit(name, attention)}": tensor
        for name, tensor in tensors.items()
    }
    assert {"backbone.ln1.weight", "backbone.layers.1.ln2.bias", "backbone.layers.0.ffn.layers.0.0.bias"} <= set(
        renamed
    )
    assert ("backbone.layers.0.attn.attn.in_proj_weight" in renamed) == (attention == "attn.attn")
    variables, report = load(renamed, state_dicts.toy("vit"))
    assert report.plain and report.dialect == "mmpretrain and mmsegmentation ViT names under backbone."
    assert_same_bits(names.to_state_dict(variables), tensors)
    distilled = {**renamed, "backbone.dist_token": np.zeros((1, 1, 16), "f4")}
    with pytest.raises(UserError, match=r"It is distilled: no model here has its second token"):
        load({**distilled, "head.layers.head_dist.bias": np.zeros(5, "f4")}, state_dicts.toy("vit"))


# Hugging Face: what the file holds → where it belongs, a few of each kind, by hand.
_PVT_BLOCK = {
    "attention.self.query.bias": "attn/q/bias",
    "attention.self.layer_norm.weight": "attn/sr_norm/scale",
    "attention.output.dense.bias": "attn/proj/bias",
    "layer_norm_1.weight": "norm1/scale",
    "layer_norm_2.bias": "norm2/bias",
    "mlp.dense1.bias": "mlp/fc1/bias",
    "mlp.dense2.bias": "mlp/fc2/bias",
}
_PLACES = {
    "PvtForImageClassification": {
        "pvt.encoder.patch_embeddings.3.cls_token": "cls_token",
        "pvt.encoder.patch_embeddings.2.position_embeddings": "stage3/pos_embed",
        "pvt.encoder.patch_embeddings.1.projection.bias": "stage2/patch_embed/bias",
        "pvt.encoder.patch_embeddings.1.layer_norm.weight": "stage2/patch_norm/scale",
        "pvt.encoder.layer_norm.bias": "norm/bias",
        "pvt.encoder.block.0.1.attention.self.sequence_reduction.bias": "stage1/block1/attn/sr/bias",
        **{f"pvt.encoder.block.0.1.{theirs}": f"stage1/block1/{ours}" for theirs, ours in _PVT_BLOCK.items()},
        "classifier.bias": "head/linear/bias",
    },
    "PvtV2ForImageClassification": {
        "pvt_v2.encoder.layers.1.patch_embedding.proj.bias": "stage2/patch_embed/bias",
        "pvt_v2.encoder.layers.1.patch_embedding.layer_norm.bias": "stage2/patch_norm/bias",
        "pvt_v2.encoder.layers.1.layer_norm.bias": "stage2/norm/bias",
        "pvt_v2.encoder.layers.0.blocks.1.attention.layer_norm.bias": "stage1/block1/attn/sr_norm/bias",
        "pvt_v2.encoder.layers.0.blocks.1.attention.spatial_reduction.bias": "stage1/block1/attn/sr/bias",
        "pvt_v2.encoder.layers.0.blocks.1.attention.proj.bias": "stage1/block1/attn/proj/bias",
        "pvt_v2.encoder.layers.0.blocks.1.layer_norm_2.bias": "stage1/block1/norm2/bias",
        "pvt_v2.encoder.layers.0.blocks.1.mlp.dwconv.dwconv.bias": "stage1/block1/mlp/dwconv/bias",
        "classifier.bias": "head/linear/bias",
    },
    "SegformerForImageClassification 4": {
        "segformer.encoder.patch_embeddings.1.proj.bias": "stage2/patch_embed/bias",
        "segformer.encoder.patch_embeddings.1.layer_norm.bias": "stage2/patch_norm/bias",
        "segformer.encoder.layer_norm.1.bias": "stage2/norm/bias",
        "segformer.encoder.block.0.1.attention.self.sr.bias": "stage1/block1/attn/sr/bias",
        **{f"segformer.encoder.block.0.1.{theirs}": f"stage1/block1/{ours}" for theirs, ours in _PVT_BLOCK.items()},
    },
    "SegformerForImageClassification 5": {
        "segformer.stages.1.layer_norm.bias": "stage2/norm/bias",
        "segformer.stages.0.blocks.1.attention.sequence_reduction.layer_norm.bias": "stage1/block1/attn/sr_norm/bias",
        "segformer.stages.0.blocks.1.attention.o_proj.bias": "stage1/block1/attn/proj/bias",
        "segformer.stages.0.blocks.1.layernorm_before.bias": "stage1/block1/norm1/bias",
    },
    "ViTForImageClassification 4": {
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.bias": "patch_embed/bias",
        "vit.encoder.layer.1.attention.output.dense.bias": "block1/attn/proj/bias",
        "vit.encoder.layer.1.intermediate.dense.bias": "block1/mlp/fc1/bias",
        "vit.encoder.layer.1.output.dense.bias": "block1/mlp/fc2/bias",
        "vit.encoder.layer.1.layernorm_after.bias": "block1/norm2/bias",
        "vit.layernorm.bias": "norm/bias",
    },
    "ViTForImageClassification 5": {
        "vit.layers.1.attention.q_proj.bias": "block1/attn/q/bias",
        "vit.layers.1.attention.o_proj.bias": "block1/attn/proj/bias",
        "vit.layers.1.layernorm_before.bias": "block1/norm1/bias",
    },
    "ResNetForImageClassification basic": {
        "resnet.embedder.embedder.normalization.bias": "stem/norm/bias",
        "resnet.encoder.stages.0.layers.1.layer.1.normalization.bias": "stage1/block1/norm2/bias",
        "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias": "stage2/block0/shortcut_norm/bias",
        "classifier.1.bias": "head/linear/bias",
    },
    "ResNetForImageClassification bottleneck": {
        "resnet.encoder.stages.2.layers.0.layer.2.normalization.weight": "stage3/block0/norm3/scale",
    },
}
_FAMILIES = {
    "Pvt": "pvt",
    "PvtV2": "pvt_v2",
    "Segformer": "mit",
    "ViT": "vit",
    "DeiT": "vit",
    "ResNet basic": "resnet basic",
    "ResNet bottleneck": "resnet bottleneck",
}


def family_of(case: str) -> str:
    return _FAMILIES[re.sub(r"For\w+| [45]$", "", case)]


def joined(tensors) -> dict[str, np.ndarray]:
    """Keys and values, of a ViT queries, keys and values, put together by hand."""
    found = {}
    for name, tensor in tensors.items():
        key = re.search(r"\bkey\b|\bk_proj\b", name)
        if key is None:
            if not re.search(r"\b(value|v_proj)\b", name):
                found[name] = tensor
            continue
        others = ("query", "value") if key[0] == "key" else ("q_proj", "v_proj")
        query, value = (tensors[name[: key.start()] + other + name[key.end() :]] for other in others)
        if "vit." in name:
            found.pop(name[: key.start()] + others[0] + name[key.end() :], None)
            found[name] = np.concatenate([query, tensor, value])
        else:
            found[name] = np.concatenate([tensor, value])
    if any("vit." in name for name in tensors):
        found = {name: tensor for name, tensor in found.items() if not re.search(r"\b(query|q_proj)\b", name)}
    return found


def contents(tensors) -> list[bytes]:
    """What a state dict holds, whatever the names."""
    return sorted(tensor.tobytes() for tensor in tensors.values())


@pytest.mark.parametrize("case", _PLACES)
def test_hugging_face_names(case):
    """``transformers.keys.json`` lists what transformers 5.23 writes to files (4) and has in memory (5)."""
    tensors = state_dicts.weights(HUGGING_FACE[case])
    variables, report = load(tensors, state_dicts.toy(family_of(case)))
    assert report.dialect.startswith("transformers") and report.plain and not report.ignored
    params = names.flatten(variables["params"])
    for theirs, ours in _PLACES[case].items():
        np.testing.assert_array_equal(params[ours], tensors[theirs], err_msg=theirs)
    assert contents(names.to_state_dict(variables)) == contents(joined(tensors))


@pytest.mark.parametrize("case", _PLACES)
def test_hugging_face_names_without_the_prefix_of_the_model(case):
    prefix = re.escape(next(iter(_PLACES[case])).split(".")[0] + ".")
    tensors = state_dicts.weights(HUGGING_FACE[case])
    bare = {re.sub(f"^{prefix}", "", name): tensor for name, tensor in tensors.items()}
    assert bare.keys() != tensors.keys()
    model = state_dicts.toy(family_of(case))
    found, expected = (names.to_state_dict(load(t, model)[0]) for t in (bare, tensors))
    assert_same_bits(found, expected)


_ATTENTION = {
    "PvtForImageClassification": ("pvt.encoder.block.1.0.attention.self", "key", "value"),
    "PvtV2ForImageClassification": ("pvt_v2.encoder.layers.1.blocks.0.attention", "key", "value"),
    "SegformerForImageClassification 4": ("segformer.encoder.block.1.0.attention.self", "key", "value"),
    "SegformerForImageClassification 5": ("segformer.stages.1.blocks.0.attention", "k_proj", "v_proj"),
    "ViTForImageClassification 4": ("vit.encoder.layer.0.attention.attention", "key", "value"),
    "ViTForImageClassification 5": ("vit.layers.0.attention", "k_proj", "v_proj"),
}


@pytest.mark.parametrize("case", _ATTENTION)
def test_keys_come_before_values(case):
    tensors, (module, key, value) = state_dicts.weights(HUGGING_FACE[case]), _ATTENTION[case]
    for name, number in ((f"{module}.{key}", 2), (f"{module}.{value}", 3)):
        for leaf in ("weight", "bias"):
            tensors[f"{name}.{leaf}"] = np.full_like(tensors[f"{name}.{leaf}"], number)
    params = load(tensors, state_dicts.toy(family_of(case)))[0]["params"]
    attention = (params if "ViT" in case else params["stage2"])["block0"]["attn"]
    expected = [2] * 16 + [3] * 16
    np.testing.assert_array_equal(attention["kv"]["bias"], expected)
    np.testing.assert_array_equal(attention["kv"]["kernel"], np.tile(np.float32(expected), (16, 1)))
    assert set(np.unique(attention["q"]["kernel"])).isdisjoint({2, 3})


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "encoder.", "module.backbone.", "model.module."])
def test_wrappers_around_the_names(prefix):
    for tensors in (
        state_dicts.weights(state_dicts.shapes("mit")),
        state_dicts.weights(HUGGING_FACE["SegformerForImageClassification 4"]),
    ):
        wrapped = {prefix + name: tensor for name, tensor in tensors.items()}
        model = state_dicts.toy("mit")
        variables, report = load(wrapped, model)
        assert report.dialect.endswith(f"names under {prefix}") and report.plain and not report.ignored
        assert_same_bits(names.to_state_dict(variables), names.to_state_dict(load(tensors, model)[0]))


def test_names_that_no_reference_has():
    with pytest.raises(
        UserError, match="the reference has no names for this model: it is none of pvt, pvt_v2, vit, resnet"
    ):
        names.to_state_dict({"params": {"dense": {"kernel": jnp.zeros((2, 2))}}})
    variables = names.unflatten({"params/stem/conv/kernel": np.zeros((7, 7, 3, 8)), "params/neck/kernel": np.zeros(3)})
    with pytest.raises(UserError, match="the reference has no name for params/neck/kernel"):
        names.to_state_dict(variables)


@pytest.mark.parametrize(
    "case", ["Pvt", "PvtV2", "PvtV2 linear", "Segformer", "ViT", "ResNet basic", "ResNet bottleneck"]
)
def test_class_scores_of_live_transformers(case, tmp_path):
    """The installed transformers: what it holds and what it writes give the class scores that it computes."""
    torch = pytest.importorskip("torch", reason="needs torch, which is in no requirements file")
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is in no requirements file")

    kind, _, variant = case.partition(" ")
    sizes = {"depths": [2, 1, 1, 1], "hidden_sizes": [8, 16, 40, 32], "num_attention_heads": [1, 2, 5, 4]}
    options = {
        "Pvt": {**sizes, "mlp_ratios": [8, 8, 4, 4], "image_size": 64},
        "PvtV2": {**sizes, "mlp_ratios": [8, 8, 4, 4], "linear_attention": variant == "linear"},
        "Segformer": sizes,
        "ViT": {
            **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
            **{"image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6},
        },
        "ResNet": {
            **{"depths": [2, 1, 1, 1], "layer_type": variant, "embedding_size": 8},
            "hidden_sizes": [8, 16, 24, 32] if variant == "basic" else [32, 64, 96, 128],
        },
    }[kind]
    config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    held = theirs.state_dict()
    with torch.no_grad():
        for name, tensor in state_dicts.weights({name: tuple(value.shape) for name, value in held.items()}).items():
            held[name].copy_(torch.tensor(np.abs(tensor) + 0.5 if name.endswith("running_var") else tensor))
        images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()
    theirs.save_pretrained(tmp_path)
    model = state_dicts.toy({"Segformer": "mit", "PvtV2 linear": "pvt_v2 linear"}.get(case, _FAMILIES.get(case)))
    written, report = load(read_state_dict(tmp_path), model)
    assert report.plain and not report.ignored
    in_memory, _ = load({name: value.numpy() for name, value in held.items()}, model)
    assert_same_bits(names.to_state_dict(written), names.to_state_dict(in_memory))
    found = jax.jit(model.apply)(written, images)
    assert reference.relative_error(found, expected) < 1e-4


# Recognition.


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_tells_its_model(name):
    golden = json.loads((reference.GOLDEN / f"{name}.keys.json").read_text())
    recognised = signatures.recognise({key: tuple(shape) for key, shape in golden.items()})
    assert recognised is not None and str(recognised.signature) == name and recognised.num_classes == 1000
    assert recognised.image_size == (None if "v2" in name else (224, 224))


@pytest.mark.parametrize("case", HUGGING_FACE)
def test_a_file_of_unknown_size_tells_its_sizes(case):
    recognised = signatures.recognise({key: tuple(shape) for key, shape in HUGGING_FACE[case].items()})
    family = family_of(case).split(" ")[0].replace("mit", "pvt_v2")
    assert recognised is not None and recognised.signature.family == family and recognised.num_classes == 5
    depths = (2,) if family == "vit" else (2, 1, 1, 1)
    assert str(recognised.signature).startswith(f"a {family} of depths {depths} and dims (")
    assert recognised.image_size == ((64, 64) if family in ("pvt", "vit") else None)


@pytest.mark.parametrize("family", state_dicts.TOYS)
def test_a_tree_tells_as_much_as_a_file(family):
    shapes = {path: leaf.shape for path, leaf in names.flatten(state_dicts.expected(state_dicts.toy(family))).items()}
    assert signatures.recognise(shapes, native=True) == signatures.recognise(state_dicts.shapes(family))


def test_other_files_are_not_recognised():
    assert (
        signatures.recognise({"conv.weight": (3, 3), "fc.weight": (10, 3), "layer1.0.conv1.weight": (8, 8, 3, 3)})
        is None
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_registry_is_recognised_by_its_own_shapes(name):
    model = pvt_jax.create_model(name, num_classes=3, image_size=64)
    shapes = {path: leaf.shape for path, leaf in names.flatten(reference.deep_variables(model)).items()}
    recognised = signatures.recognise(shapes, native=True)
    # One network under two names.
    same = "pvt_v2_b5 or mit_b5" if name in ("pvt_v2_b5", "mit_b5") else name
    assert recognised is not None and str(recognised) == same and recognised.num_classes == 3
    assert recognised.image_size == ((64, 64) if name.startswith(("vit", "pvt")) and "v2" not in name[:6] else None)
