"""The strict merge: full coverage or one line that says what is wrong, and the exceptions to it."""

import json
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.ops.resize import resize_grid
from pvt_jax.weights import names
from pvt_jax.weights.merge import merge
from tests.helpers import reference, state_dicts

WAY_OUT = "list the exceptions in allow_missing and allow_unexpected"


def tensors_of(family="pvt"):
    return state_dicts.weights(state_dicts.shapes(family))


def merged(tensors, family="pvt", changes=None, **options):
    model = state_dicts.toy(family, **(changes or {}))
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    return merge(tensors, state_dicts.expected(model), source="w.pth", image_size=size, **options)


def refused(tensors, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        merged(tensors, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What does not fit.


def test_a_missing_tensor():
    tensors = tensors_of()
    del tensors["block3.0.attn.kv.bias"]
    text = "w.pth does not hold this model: 1 missing: params/stage3/block0/attn/kv/bias. Use another file, or "
    assert refused(tensors) == text + WAY_OUT
    leaves, report = merged(tensors, allow_missing=("stage3/block?/attn/*",))
    assert report.missing == ("params/stage3/block0/attn/kv/bias",) and report.missing[0] not in leaves
    assert not report.plain and len(report.matched) == len(tensors) == len(leaves)
    assert "not in the file, newly initialised: params/stage3/block0/attn/kv/bias" in report.summary()
    assert merged(tensors, allow_missing=report.missing)[1] == report, "a whole path is a pattern too"


def test_a_backbone_alone():
    tensors = tensors_of()
    del tensors["head.weight"], tensors["head.bias"]
    text = "w.pth does not hold this model: 2 missing: params/head/linear/bias, params/head/linear/kernel. It has no "
    assert (
        refused(tensors)
        == text + "classifier: to start from a new one, give allow_missing=['head/linear/*', 'norm/*', 'cls_token']"
    )
    assert len(merged(tensors, allow_missing=("head/*",))[1].missing) == 2


def test_an_unexpected_tensor():
    tensors = tensors_of()
    tensors["extra.weight"] = np.zeros(3, np.float32)
    text = "w.pth does not hold this model: 1 unexpected: extra.weight. Use another file, or "
    assert refused(tensors) == text + WAY_OUT
    leaves, report = merged(tensors, allow_unexpected=("extra.*",))
    assert report.unexpected == ("extra.weight",) and len(leaves) == len(tensors) - 1
    assert report.summary().endswith("; in the file and unused: extra.weight")


def test_a_tensor_of_another_shape():
    tensors = tensors_of()
    tensors["block2.0.mlp.fc1.weight"] = np.zeros((64, 16), np.float32)
    text = (
        "w.pth does not hold this model: 1 of another shape: params/stage2/block0/mlp/fc1/kernel is (16, 64), "
        "here (16, 128). Use another file, or "
    )
    assert refused(tensors) == text + WAY_OUT
    leaves, report = merged(tensors, allow_missing=("stage2/block0/mlp/fc1/*",))
    path = "params/stage2/block0/mlp/fc1/kernel"
    assert report.wrong_shape == ((path, (16, 64), (16, 128)),) and path not in leaves
    assert f"of another shape, newly initialised: {path} is (16, 64), here (16, 128)" in report.summary()


def test_a_tensor_with_another_number_of_dimensions():
    tensors = tensors_of("mit")
    tensors["patch_embed2.proj.weight"] = tensors["patch_embed2.proj.weight"][..., 0]
    assert "params/stage2/patch_embed/kernel is (16, 8, 3), here (3, 3, 8, 16)" in refused(tensors, "mit")


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.complex64])
def test_a_tensor_of_another_type(dtype):
    tensors = tensors_of()
    tensors["norm.weight"] = np.ones(32, dtype)
    text = (
        f"w.pth does not hold this model: 1 of another type: params/norm/scale is {np.dtype(dtype)}, here float32. "
        "Use another file, or "
    )
    assert refused(tensors) == text + WAY_OUT


def test_a_count_that_is_none():
    tensors = tensors_of("resnet basic")
    for wrong in (np.float32(3), np.int64(2**31)):
        tensors["bn1.num_batches_tracked"] = np.asarray(wrong)
        text = f"1 of another type: batch_stats/stem/norm/count is {wrong.dtype}, here int32"
        assert text in refused(tensors, "resnet basic")


def test_several_kinds_are_told_together_and_long_lists_are_cut():
    tensors = tensors_of()
    for name in [name for name in tensors if name.startswith("block4.0.attn")]:
        tensors[name.replace("attn", "attention")] = tensors.pop(name)
    tensors["norm.bias"] = np.zeros(7, np.float32)
    line = refused(tensors)
    assert "6 missing: params/stage4/block0/attn/kv/bias, params/stage4/block0/attn/kv/kernel" in line
    assert "6 unexpected: block4.0.attention.q.weight, block4.0.attention.q.bias" in line
    assert line.count("and 3 more") == 2 and "1 of another shape: params/norm/bias is (7,), here (32,)" in line


@pytest.mark.parametrize("odd", ["\x1b[2J\nerror: all fine", "x" * 100_000, "blocks.².x", f"blocks.{'1' * 5000}.x"])
def test_names_of_a_file_cannot_steer_a_terminal_or_fill_it(odd):
    """Of any module: ``decode_head`` and whatever else stands beside a ``backbone``."""
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["ViTForImageClassification 4"]
    tensors = {**state_dicts.weights(case), odd: np.zeros(3, np.float32)}
    line = refused(tensors, "vit")
    assert "1 unexpected: " in line and line.isprintable() and len(line) < 600
    summary = merged(tensors, "vit", allow_unexpected=("*",))[1].summary()
    assert "in the file and unused: " in summary and summary.isprintable() and len(summary) < 600
    wrapped = {f"backbone.{name}": tensor for name, tensor in tensors_of("vit").items()}
    wrapped |= {f"{number}{odd.replace('.', ' ')}.bias": np.zeros(3, np.float32) for number in range(100)}
    summary = merged(wrapped, "vit")[1].summary()
    assert "of other modules, unused: 0" in summary and summary.isprintable() and len(summary) < 600


@pytest.mark.parametrize("wrong", [(), (16,), (16, 8), (3, 16, 16)])
def test_parts_of_a_tensor_that_do_not_fit(wrong):
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["ViTForImageClassification 4"]
    name = "vit.encoder.layer.0.attention.attention.value.weight"
    line = refused({**state_dicts.weights(case), name: np.zeros(wrong, np.float32)}, "vit")
    assert "parts of one tensor do not match" in line and f"value.weight is {wrong}" in line


def test_two_copies_of_a_model():
    """As a method with a teacher saves them: nothing says which one is meant."""
    tensors = tensors_of()
    copies = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    copies |= {f"model.{name}": tensor + 1 for name, tensor in tensors.items()}
    line = refused(copies)
    assert "twice, with different numbers: reference names under backbone., and reference names under model.; " in line
    assert line.endswith("list those to leave out in allow_unexpected, such as 'model.*'")
    for kept, left_out, added in (("model.", "backbone.*", 1), ("backbone.", "model.*", 0)):
        leaves, report = merged(copies, allow_unexpected=(left_out,))
        assert report.dialect == f"reference names under {kept}"
        np.testing.assert_array_equal(leaves["params/norm/scale"], tensors["norm.weight"] + added)
    plain = {**tensors, **{f"model.{name}": tensor + 1 for name, tensor in tensors.items()}}
    assert "reference names, and reference names under model.; list" in refused(plain)
    assert merged(plain, allow_unexpected=("model.*",))[1].dialect == "reference names"
    same = {prefix + name: tensor for prefix in ("backbone.", "model.") for name, tensor in tensors.items()}
    leaves, report = merged(same)
    assert report.plain and len(leaves) == len(tensors)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "path"), [("head.weight", "head/linear/kernel"), ("pos_embed", "pos_embed")])
def test_numbers_too_large_for_float32(name, path):
    tensors = tensors_of("vit")
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name].flat[-2] = 1e300
    for changes in ({}, {"image_size": 128}):
        assert f"1 with numbers too large for float32: params/{path}." in refused(tensors, "vit", changes)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_weights_with_nan_or_infinity_are_refused_by_name(dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors_of("pvt").items()}
    merged(tensors)
    tensors["block3.0.mlp.fc1.weight"][0, :3] = np.inf, -np.inf, np.nan
    tensors["pos_embed2"][0, 0, 0] = np.nan  # Resizing spreads it.
    for changes in ({}, {"image_size": 128}):
        assert refused(tensors, changes=changes).startswith(
            "w.pth has NaN or infinity in 2 tensors: pos_embed2 (1 of 1,024 numbers), block3.0.mlp.fc1.weight (3 of "
        )
    assert refused(tensors).endswith("use an earlier checkpoint of it, or other weights")
    del tensors["block3.0.mlp.fc1.weight"]
    assert "1 tensor: pos_embed2 (1" in refused(tensors, allow_missing=("stage3/block0/mlp/fc1/kernel",))


def test_nan_in_a_tree_is_refused_and_where_nothing_reads_it_is_not():
    tree = {path: np.zeros(x.shape, x.dtype) for path, x in names.flatten(_expected("resnet basic")).items()}
    tree["batch_stats/stem/norm/var"][:2] = np.inf
    line = refused(tree, "resnet basic", native=True)
    assert line.startswith("w.pth has NaN or infinity in 1 tensor: batch_stats/stem/norm/var (2 of 8 numbers). The run")
    tensors = tensors_of()
    tensors["head.weight"][:] = tensors["head.bias"][:] = np.nan
    merged(tensors, changes={"num_classes": 7})
    tensors["other"] = np.float32([np.nan])
    merged(tensors, changes={"num_classes": 7}, allow_unexpected=("other",))


def test_half_of_a_tensor_is_none():
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["PvtForImageClassification"]
    tensors = state_dicts.weights(case)
    del tensors["pvt.encoder.block.3.0.attention.self.value.bias"]
    line = refused(tensors)
    assert (
        "1 missing: params/stage4/block0/attn/kv/bias; 1 unexpected: pvt.encoder.block.3.0.attention.self.key.bias"
        in line
    )


def test_a_file_with_other_names_altogether():
    line = refused({"conv.weight": np.zeros((3, 3), np.float32)}, "vit")
    assert line.startswith("w.pth does not hold this model: 36 missing: ") and "1 unexpected: conv.weight" in line


def test_batch_counts_may_be_missing():
    """Files from before PyTorch 0.4.1, as torchvision's oldest, have none."""
    tensors = {name: t for name, t in tensors_of("resnet basic").items() if not name.endswith("num_batches_tracked")}
    leaves, report = merged(tensors, "resnet basic")
    assert len(leaves) == len(tensors) and all(path.endswith("/count") for path in report.missing)
    del tensors["bn1.running_var"]
    assert "1 missing: batch_stats/stem/norm/var." in refused(tensors, "resnet basic")


# The wrong model.


def golden(name):
    shapes = json.loads((reference.GOLDEN / f"{name}.keys.json").read_text())
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("family", ["pvt", "mit", "vit", "resnet basic"])
def test_the_file_of_another_model_is_named(family):
    for name in ("pvt_small", "pvt_v2_b2_li"):
        line = refused(golden(name), family)
        assert line.endswith(f"It looks like {name}: create that model, or {WAY_OUT}")


def test_the_file_of_another_depth():
    tensors = tensors_of()
    line = refused(tensors, changes={"depths": (1, 1, 1, 1)})
    assert "unexpected: block1.1.norm1.weight" in line and "missing" not in line.split("It looks")[0]
    assert "It looks like a pvt of depths (2, 1, 1, 1) and dims (8, 16, 40, 32): create that model" in line
    line = refused(tensors, changes={"depths": (2, 2, 1, 1)})
    assert "missing: params/stage2/block1/attn/kv/bias" in line and "It looks like a pvt of depths (2, 1, 1, 1)" in line


def test_a_tree_of_another_model():
    tree = {path: np.zeros(x.shape, np.float32) for path, x in names.flatten(_expected("pvt")).items()}
    line = refused(tree, changes={"depths": (1, 1, 1, 1)}, native=True)
    assert "unexpected: params/stage1/block1/" in line and "It looks like a pvt of depths (2, 1, 1, 1)" in line
    line = refused({path: leaf for path, leaf in tree.items() if "cls_token" not in path}, native=True)
    assert line.endswith(f"Create the model with the name and settings in the run's config.json, or {WAY_OUT}")


def _expected(family):
    return state_dicts.expected(state_dicts.toy(family))


def test_a_model_without_reference_names():
    expected = {"params": {"dense": {"kernel": np.zeros((2, 2), np.float32)}}}
    with pytest.raises(
        UserError, match=r"w.pth is a state dict, and this model is none of pvt, pvt_v2, vit, resnet: load an Orbax"
    ):
        merge({"dense.weight": np.zeros((2, 2), np.float32)}, expected, source="w.pth")
    kernel = np.float32([[1, 2], [3, 4]])
    leaves, _ = merge({"params/dense/kernel": kernel}, expected, source="run", native=True)
    np.testing.assert_array_equal(leaves["params/dense/kernel"], kernel)


# What is fitted.


@pytest.mark.parametrize("family", state_dicts.TOYS)
def test_a_classifier_of_other_classes_is_initialised(family):
    leaves, report = merged(tensors_of(family), family, {"num_classes": 7})
    dim = 128 if family == "resnet bottleneck" else 16 if family == "vit" else 32
    kernel, bias = ("params/head/linear/kernel", (dim, 5), (dim, 7)), ("params/head/linear/bias", (5,), (7,))
    assert report.replaced == (kernel, bias) and not report.wrong_shape
    assert not any("head" in path for path in leaves)
    assert "a new classifier, randomly initialised, for other classes (5 → 7)" in report.summary()


def test_a_classifier_of_other_inputs_is_initialised():
    leaves, report = merged(tensors_of("mit"), "mit", {"spp_levels": (1, 2)})
    assert report.replaced[0] == ("params/head/linear/kernel", (32, 5), (160, 5))
    assert report.replaced[1] == ("params/head/linear/bias", (5,), (5,)) and "params/head/linear/bias" not in leaves
    assert "for other inputs and classes ((32, 5) → (160, 5))" in report.summary()


def test_nothing_else_of_the_classifier_is_replaced():
    tensors = tensors_of()
    tensors["head.bias"] = np.zeros(7, np.float32)
    assert "1 of another shape: params/head/linear/bias is (7,), here (5,)" in refused(tensors)
    del tensors["head.bias"]
    assert "1 missing: params/head/linear/bias" in refused(tensors, changes={"num_classes": 7})


@pytest.mark.parametrize("target", [(96, 96), (64, 128), (32, 32)])
def test_position_tables_of_pvt_are_resized_bilinearly(target):
    tensors = tensors_of()
    leaves, report = merged(tensors, changes={"image_size": target})
    grids = [(target[0] // stride, target[1] // stride) for stride in (4, 8, 16, 32)]
    for stage, (side, grid) in enumerate(zip((16, 8, 4, 2), grids, strict=True), start=1):
        table = tensors[f"pos_embed{stage}"]
        found = leaves[f"params/stage{stage}/pos_embed"]
        if stage == 4:
            np.testing.assert_array_equal(found[:, :1], table[:, :1], err_msg="the class token's slot is left alone")
            found, table = found[:, 1:], table[:, 1:]
        expected = resize_grid(jnp.asarray(table.reshape(side, side, -1)), grid, "bilinear")
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-6)
        assert report.resized[stage - 1] == (f"params/stage{stage}/pos_embed", (side, side), grid)
    old, new = "stage1/pos_embed 16×16 → ", "×".join(map(str, grids[0]))
    assert f"position tables resized: {old}{new}, stage2/" in report.summary()


def test_the_position_table_of_a_vit_is_resized_bicubically():
    tensors = tensors_of("vit")
    leaves, report = merged(tensors, "vit", {"image_size": (96, 32)})
    table, found = tensors["pos_embed"], leaves["params/pos_embed"]
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    expected = resize_grid(jnp.asarray(table[0, 1:].reshape(4, 4, 16)), (6, 2), "bicubic")
    np.testing.assert_allclose(found[0, 1:].reshape(6, 2, 16), expected, rtol=0, atol=1e-6)
    assert report.resized == (("params/pos_embed", (4, 4), (6, 2)),)


def test_a_grid_that_is_not_square():
    """Without the size of its images a table of 64 slots is 8×8; a file that says so may hold 4×16."""
    tensors = tensors_of("vit")
    tensors["pos_embed"] = np.random.default_rng(0).standard_normal((1, 65, 16)).astype(np.float32)
    wide = {"image_size": (64, 256)}
    leaves, report = merged(tensors, "vit", wide, source_image_size=(64, 256))
    assert report.plain and leaves["params/pos_embed"].tobytes() == tensors["pos_embed"].tobytes()
    leaves, report = merged(tensors, "vit", wide)
    assert report.resized == (("params/pos_embed", (8, 8), (4, 16)),)
    leaves, report = merged(tensors, "vit", {"image_size": 128}, source_image_size=(64, 256))
    expected = resize_grid(jnp.asarray(tensors["pos_embed"][0, 1:].reshape(4, 16, 16)), (8, 8), "bicubic")
    np.testing.assert_allclose(leaves["params/pos_embed"][0, 1:].reshape(8, 8, 16), expected, rtol=0, atol=1e-6)
    assert report.resized == (("params/pos_embed", (4, 16), (8, 8)),)


def test_a_tree_is_of_the_model_that_it_fits():
    """Unlike a file, which is of square images as all that are published: a run may be of any."""
    tree = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in names.flatten(_expected("vit")).items()}
    tree["params/pos_embed"] = np.random.default_rng(0).standard_normal((1, 17, 16)).astype(np.float32)
    leaves, report = merged(tree, "vit", {"image_size": (32, 128)}, native=True)
    assert report.plain and leaves["params/pos_embed"].tobytes() == tree["params/pos_embed"].tobytes()


def test_a_grid_that_is_not_square_and_is_the_model_s():
    tensors = tensors_of("vit")
    tensors["pos_embed"] = np.zeros((1, 7, 16), np.float32)
    assert merged(tensors, "vit", {"image_size": (32, 48)})[1].plain
    assert "params/pos_embed is (1, 7, 16), here (1, 17, 16)" in refused(tensors, "vit")
    # Images of another size than the table has slots for say nothing about it.
    assert "params/pos_embed is (1, 7, 16)" in refused(tensors, "vit", source_image_size=(64, 64))
    assert "params/pos_embed is (1, 17, 8), here (1, 5, 16)" in refused(
        {**tensors, "pos_embed": np.zeros((1, 17, 8), np.float32)}, "vit", {"image_size": 32}
    )


def test_half_precision_becomes_float32():
    tensors = tensors_of("resnet basic")
    exact = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items() if tensor.ndim == 4}
    exact |= {name: tensor.astype(np.float16) for name, tensor in tensors.items() if name.endswith("running_mean")}
    leaves, report = merged({**tensors, **exact}, "resnet basic")
    assert {leaf.dtype for leaf in leaves.values()} == {np.dtype("float32"), np.dtype("int32")}
    expected = exact["conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(leaves["params/stem/conv/kernel"], expected)
    assert report.converted == {"bfloat16": 14, "float16": 14}
    assert "to float32 from bfloat16 (14), float16 (14)" in report.summary() and report.plain


# Other modules.


def test_the_backbone_of_a_detector():
    tensors = tensors_of()
    kept = [name for name in tensors if name.split(".")[0] not in ("norm", "head")]
    detector = {f"backbone.{name}": tensors[name] for name in kept}
    others = ("neck.lateral_convs.0.conv.weight", "neck.fpn_convs.3.conv.bias", "bbox_head.retina_cls.weight")
    detector |= {name: np.zeros(3, np.float32) for name in others}
    line = refused(detector)
    assert "4 missing: params/head/linear/bias, params/head/linear/kernel, params/norm/bias" in line
    assert "unexpected" not in line.removesuffix(WAY_OUT)
    leaves, report = merged(detector, allow_missing=("head/*", "norm/*"))
    assert report.ignored == others and report.unexpected == () and len(leaves) == len(kept)
    assert report.dialect == "reference names under backbone."
    assert "of other modules, unused: neck (2), bbox_head (1)" in report.summary()
    unknown = {**detector, "backbone.pos_drop.weight": np.zeros(3, np.float32)}
    assert "1 unexpected: backbone.pos_drop.weight" in refused(unknown, allow_missing=("head/*", "norm/*"))


def test_the_encoder_of_a_segmenter_of_hugging_face():
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["SegformerForImageClassification 4"]
    tensors = {name: t for name, t in state_dicts.weights(case).items() if not name.startswith("classifier")}
    others = ("decode_head.linear_c.0.proj.weight", "decode_head.batch_norm.num_batches_tracked")
    tensors |= {name: np.zeros(3, np.float32) for name in others}
    leaves, report = merged(tensors, "mit", allow_missing=("head/*",))
    assert report.ignored == others and not report.unexpected
    assert report.missing == ("params/head/linear/bias", "params/head/linear/kernel")


def test_the_pooler_of_hugging_face_s_vit():
    case = json.loads((reference.GOLDEN / "transformers.keys.json").read_text())["ViTForImageClassification 4"]
    tensors = {name.removeprefix("vit."): tensor for name, tensor in state_dicts.weights(case).items()}
    tensors["pooler.dense.weight"] = np.zeros((16, 16), np.float32)
    assert merged(tensors, "vit")[1].ignored == ("pooler.dense.weight",)


@pytest.mark.parametrize("case", ["DeiTForImageClassificationWithTeacher 4", "DeiTForImageClassificationWithTeacher 5"])
def test_a_distilled_deit(case):
    """Its second token takes part in attention: without it these are the weights of no model."""
    tensors = state_dicts.weights(json.loads((reference.GOLDEN / "transformers.keys.json").read_text())[case])
    line = refused(tensors, "vit")
    assert "3 unexpected: " in line and "missing:" not in line and "shape" not in line
    assert re.search(r"It is distilled: .* second token, .* list these tensors in allow_unexpected", line)
    leaves, report = merged(tensors, "vit", allow_unexpected=("*distillation*",))
    np.testing.assert_array_equal(
        leaves["params/pos_embed"], np.delete(tensors["deit.embeddings.position_embeddings"], 1, axis=1)
    )
    np.testing.assert_array_equal(leaves["params/head/linear/bias"], tensors["cls_classifier.bias"])
    assert len(report.unexpected) == 3 and not report.missing
