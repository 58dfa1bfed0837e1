"""Training checkpoints: the dictionary of tensors under any key and any prefix, and what stands beside it."""

import datetime
import functools
import json
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.errors import UserError
from pvt_jax.weights import load
from pvt_jax.weights.entries import StatedClasses, choose, classes_of_config
from pvt_jax.weights.files import read_state_dict, read_weights, write_safetensors
from pvt_jax.weights.merge import merge
from tests.helpers import dense_toys, state_dicts
from tests.helpers import torch_files as tf
from tests.helpers.torch_files import call, name

ONE = {f"{letter}.weight": np.float32([1, 2]) for letter in "abcd"}
OTHER = {key: array + 1 for key, array in ONE.items()}


def torch_tensors(tensors):
    return {key: tf.tensor(array) for key, array in tensors.items()}


def saved(path: Path, tree) -> Path:
    return tf.write(path / "w.pth", tf.zip_bytes(tree))


def saved_code(path: Path, tree, storages: tf.Storages) -> Path:
    """As ``saved``, with the tensors inside of ``tf.Code`` in ``storages``."""
    numbers = {f"data/{number}": array.tobytes() for number, array in enumerate(storages.arrays)}
    return tf.write(path / "w.pth", tf.zip_bytes(tf.program(tree), more=numbers))


def refused(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


KEYS = st.lists(st.text("abc .-_/é", min_size=1, max_size=6), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(KEYS, st.booleans())
def test_the_dictionary_may_lie_under_any_key(tmp_path_factory, keys, beside):
    tree = torch_tensors(ONE)
    for number, key in enumerate(keys[::-1]):
        tree = {**({f"epoch{number}": 3, "lr": [0.1], "rng": tf.tensor([0.0])} if beside else {}), key: tree}
    assert_same(read_state_dict(saved(tmp_path_factory.getbasetemp(), tree)), ONE)


def test_what_trainers_leave_beside_the_weights_is_named_and_not_read(tmp_path):
    history = tf.build(call(name("mmengine.logging.history_buffer", "HistoryBuffer")), {"_log_history": [1.0]})
    settings = tf.Code(call(name("lightning_fabric.utilities.data", "AttributeDict")) + b"(" + tf.code("lr"))
    settings = tf.Code(settings + tf.code(0.1) + b"u")
    tree = {
        "hyper_parameters": settings,
        "message_hub": {"log_scalars": {"train/lr": history}},
        "date": call(name("datetime", "datetime"), b"\x07\xe8\x01\x01\0\0\0\0\0\0"),
        "best": {(0, 1): 3.0},
        "args": tf.build(call(name("argparse", "Namespace")), {"lr": 0.1}),
        "state_dict": torch_tensors(ONE),
        "optimizer": {"state": {0: {"exp_avg": tf.tensor(np.ones(9))}}},
    }
    weights = read_weights(saved(tmp_path, tree))
    assert_same(weights.tensors, ONE)
    assert weights.notes == (
        "objects beside the weights, not read: lightning_fabric.utilities.data.AttributeDict, "
        "mmengine.logging.history_buffer.HistoryBuffer",
    )
    assert read_weights(saved(tmp_path, {"model": torch_tensors(ONE), "epoch": 3, "optimizer": {}})).notes == ()


@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "ema_state_dict", "teacher", "swa"])
def test_several_copies_are_listed_and_chosen_by_their_key(tmp_path, average):
    tree = {"state_dict": torch_tensors(ONE), average: torch_tensors(OTHER), "epoch": 3}
    weights = read_weights(saved(tmp_path, tree))
    assert_same(weights.tensors, ONE)
    text = f"it also holds {average} (4 tensors), which init.entry (--entry of a command) takes"
    assert weights.notes == (text,)
    path = saved(tmp_path, {"student": torch_tensors(ONE), average + "2": torch_tensors(OTHER)})
    assert f"holds several sets of weights: student (4 tensors), {average}2 (4 tensors). Choose one" in refused(path)
    assert_same(read_state_dict(path, average + "2"), OTHER)
    message = refused(path, entry="ema")
    assert "has no entry 'ema' with tensors: it has student (4 tensors), " in message


def test_a_copy_may_be_told_by_the_beginning_of_its_names(tmp_path):
    both = {**{f"student.{key}": x for key, x in ONE.items()}, **{f"teacher.{key}": x for key, x in OTHER.items()}}
    write_safetensors(tmp_path / "w.safetensors", both)
    for path in (tmp_path / "w.safetensors", saved(tmp_path, {"state_dict": torch_tensors(both)})):
        assert_same(dict(sorted(read_state_dict(path, "teacher").items())), OTHER)
        assert "has no entry 'ema'" in refused(path, entry="ema")


def test_nested_entries_and_arrays_of_numpy(tmp_path):
    def array(x, protocol_2):
        kind = tf.build(
            call(name("numpy", "dtype"), x.dtype.str[1:], False, True), (3, "<", None, None, None, -1, -1, 0)
        )
        data = call(name("_codecs", "encode"), x.tobytes().decode("latin1"), "latin1") if protocol_2 else x.tobytes()
        made = call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), (0,), b"b")
        return tf.build(made, (1, x.shape, kind, False, data))

    whole = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {"runs": {"best": {"net": {"a": array(whole, True), "b": array(whole.astype("i8"), False)}}}}
    path = saved(tmp_path, tree)
    assert_same(read_state_dict(path), {"a": whole, "b": whole.astype("i8")})
    assert_same(read_state_dict(path, "runs.best.net"), {"a": whole, "b": whole.astype("i8")})


def test_a_module_that_was_saved_whole(tmp_path):
    def module(parameters, modules=None, buffers=None):
        state = {"_parameters": parameters, "_modules": modules or {}, "_buffers": buffers or {}, "training": True}
        state["_non_persistent_buffers_set"] = call(name("builtins", "set"), ["grid"])
        return tf.build(call(name("my.models", "Net")), state)

    storages = tf.Storages()
    weight, mean, grid = (tf.code(tf.tensor(np.float32([number])), storages) for number in (1, 2, 9))
    leaf = module({"weight": weight, "bias": None}, buffers={"mean": mean, "grid": grid})
    found = read_state_dict(saved_code(tmp_path, {"model": module({}, {"0": leaf, "1": leaf}), "epoch": 3}, storages))
    assert {key: float(x[0]) for key, x in found.items()} == {"0.weight": 1, "0.mean": 2, "1.weight": 1, "1.mean": 2}


def test_tensors_that_only_other_code_can_make_are_refused_by_name(tmp_path):
    storages = tf.Storages()
    quantised = call(name("torch._utils", "_rebuild_qtensor"), tf.code(tf.tensor(np.float32([1])), storages), 0, (1,))
    weights = {"w": tf.code(tf.tensor(np.float32([1])), storages), "head.weight": quantised}
    message = refused(saved_code(tmp_path, {"state_dict": weights}, storages))
    assert "holds head.weight as torch._utils._rebuild_qtensor, which only the code that wrote it" in message
    # With attributes, or of a class of one's own, a tensor is made as any other.
    floats = tf.storage_id(name("torch", "FloatStorage"), "0", 2)
    parts = (
        name("torch._utils", "_rebuild_tensor_v2"),
        name("fastai", "TensorBase"),
        (floats, 0, (2,), (1,), False, None),
    )
    own = call(name("torch._tensor", "_rebuild_from_type_v2"), *parts, {"tag": 1})
    data = tf.zip_bytes(tf.program({"w": own}), more={"data/0": np.float32([3, 4]).tobytes()})
    assert read_state_dict(tf.write(tmp_path / "w.pth", data))["w"].tolist() == [3, 4]


def test_objects_without_end_are_refused(tmp_path):
    loop = tf.Code(name("m", "Net") + b")Rq\x01}(" + tf.code("_parameters") + b"}" + tf.code("_modules") + b"}(")
    loop = tf.Code(loop + tf.code("a") + b"h\x01" + tf.code("b") + b"h\x01uub")
    assert "without end" in refused(saved(tmp_path, {"model": loop}))


# Prefixes.

TENSORS = state_dicts.weights(state_dicts.shapes("pvt_v2"))
MODEL = state_dicts.toy("pvt_v2")
WORDS = st.sampled_from(
    ["module", "_orig_mod", "model", "net", "backbone", "encoder", "student", "head", "layers", "x7"]
)
PREFIX = st.lists(st.one_of(WORDS, st.text("abcxyz_19", min_size=1, max_size=5)), min_size=1, max_size=5)


@functools.cache
def expected_of(model):
    side = getattr(model, "backbone", model).image_size
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


def merged(tensors, model=MODEL, **options):
    side = getattr(model, "backbone", model).image_size
    return merge(tensors, expected_of(model), source="w.pth", image_size=(side, side), **options)


@settings(max_examples=25, deadline=None)
@given(PREFIX, st.sampled_from(["pvt", "pvt_v2", "vit", "resnet basic"]))
def test_any_prefix_of_all_names_is_taken_off(words, family):
    tensors = state_dicts.weights(state_dicts.shapes(family))
    prefix = ".".join(words) + "."
    leaves, report = merged({prefix + key: tensor for key, tensor in tensors.items()}, state_dicts.toy(family))
    expected, _ = merged(tensors, state_dicts.toy(family))
    assert report.plain and not report.ignored and report.dialect == f"reference names under {prefix}"
    assert leaves.keys() == expected.keys() and all(leaves[path] is not None for path in expected)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[path])


@pytest.mark.parametrize("prefix", ["net.", "lit.student._orig_mod.module.", "segmentor.model."])
@pytest.mark.parametrize("head", ["semantic_fpn", "mask_rcnn"])
def test_a_dense_model_below_any_prefix(prefix, head):
    tensors = dense_toys.weights("pvt", head)
    model = dense_toys.toy("pvt", head)
    leaves, report = merged({prefix + key: x for key, x in tensors.items()}, model)
    expected, _ = merged(tensors, model)
    assert report.plain and leaves.keys() == expected.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_what_stands_beside_the_prefix_is_reported_and_copies_are_refused():
    inside = {f"net.{key}": x for key, x in TENSORS.items()}
    _, report = merged({**inside, "criterion.weight": np.ones(3, np.float32)})
    assert report.plain and "of other modules, unused: criterion (1)" in report.summary()
    copy = {f"ema.{key}": x + 1 for key, x in TENSORS.items()}
    with pytest.raises(UserError, match=r"holds this model twice, with different numbers.*'ema\.\*'"):
        merged({**inside, **copy})
    leaves, _ = merged({**inside, **copy}, allow_unexpected=("ema.*",))
    np.testing.assert_array_equal(leaves["params/head/linear/bias"], TENSORS["head.bias"])


def test_wrappers_in_the_middle_of_names():
    """torch.compile, FSDP and checkpointing of blocks."""
    words = {"block": "_checkpoint_wrapped_module.", "attn": "_orig_mod.", "mlp": "_fsdp_wrapped_module."}
    renamed = {}
    for key, tensor in TENSORS.items():
        parts = key.split(".")
        renamed[".".join(f"{words.get(p.rstrip('1234'), '')}{p}" for p in parts)] = tensor
    assert renamed.keys() != TENSORS.keys()
    _, report = merged(renamed)
    assert report.plain and not report.ignored


# Files in parts, and the hub's cache.


def parts_of(folder: Path) -> Path:
    folder.mkdir(parents=True)
    names = sorted(ONE)
    places = {key: f"model-{1 + n % 2:05}-of-00002.safetensors" for n, key in enumerate(names)}
    for part in set(places.values()):
        write_safetensors(folder / part, {key: ONE[key] for key in names if places[key] == part})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_an_index_may_be_given_and_a_part_is_refused(tmp_path):
    index = parts_of(tmp_path / "m")
    for path in (index, index.parent):
        found = load.read_checkpoint(path).tensors
        assert_same(dict(sorted(found.items())), ONE)
    assert "is part 1 of 2: give the folder of all" in refused(tmp_path / "m/model-00001-of-00002.safetensors")


def test_the_folder_of_a_model_in_the_hub_s_cache(tmp_path):
    model = tmp_path / "hub" / "models--org--name"
    snapshot = model / "snapshots" / "abc"
    parts_of(model / "blobs")
    snapshot.mkdir(parents=True)
    for blob in (model / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(blob)
    (snapshot / "config.json").write_text('{"image_size": 64}')
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    for path in (model, model / "snapshots", snapshot, snapshot / "model.safetensors.index.json"):
        assert_same(dict(sorted(load.read_checkpoint(path).tensors.items())), ONE)
    assert load.read_checkpoint(model).image_size == (64, 64)
    (model / "snapshots" / "abd").mkdir()
    assert_same(dict(sorted(load.read_checkpoint(model).tensors.items())), ONE)
    (model / "refs" / "main").unlink()
    with pytest.raises(UserError, match=r"has 2 snapshots and no main one \(abc, abd\): give the folder of one"):
        load.read_checkpoint(model)
    with pytest.raises(UserError, match=r"is a cache of 1 models: give the folder of one \(models--org--name\)"):
        load.read_checkpoint(tmp_path / "hub")
    for blob in (model / "blobs").iterdir():
        blob.unlink()
    assert "is a link to a file that is not there: download the model again" in refused(snapshot)


def test_entries_and_averages_are_for_files_that_have_them(tmp_path):
    path = saved(tmp_path, {"state_dict": torch_tensors(ONE), "model_ema": torch_tensors(OTHER)})
    assert_same(load.read_checkpoint(path, entry="model_ema").tensors, OTHER)
    with pytest.raises(UserError, match=r"leave ema out, or name the one of a file with init\.entry"):
        load.read_checkpoint(path, ema=True)
    (tmp_path / "run/checkpoints/3/params").mkdir(parents=True)
    with pytest.raises(UserError, match="is of a run, which has no entries"):
        load.read_checkpoint(tmp_path / "run", entry="model_ema")


def test_what_pytorch_itself_writes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is no dependency, only an oracle here")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.no_decay = True
    expected = {key: x.numpy() for key, x in net.state_dict().items()}
    trees = {
        "date": {"net": net.state_dict(), "date": datetime.datetime.now(datetime.UTC), "path": tmp_path, "d": net[0]},
        "keys": {"state_dict": net.state_dict(), "best": {(0, 1): np.float64(3), np.int64(3): 1}, "u": {1, 2}},
        "namespace": {"weights": net.state_dict(), "n": types.SimpleNamespace(a=1), "rng": np.random.default_rng()},
        "optimizer": {
            "model": net.state_dict(),
            "opt": torch.optim.AdamW(net.parameters()),
            "f": torch.nn.functional.relu,
        },
        "module": net,
        "modules": {"ema": net, "epoch": 3},
        "numpy": {"state_dict": expected},
    }
    for label, tree in trees.items():
        for old in (False, True):
            path = tmp_path / f"{label}.pth"
            torch.save(tree, path, _use_new_zipfile_serialization=not old)
            assert_same(read_state_dict(path), expected)
    torch.save({"w": tagged, "half": torch.tensor([1.5]).half(), "brain": torch.tensor([1.5]).bfloat16()}, path)
    assert {key: x.astype(np.float64).tolist() for key, x in read_state_dict(path).items()} == {
        **{"w": [1, 1], "half": [1.5], "brain": [1.5]}
    }


COLOURS = ((120, 120, 120), (6, 230, 230))


@pytest.mark.parametrize(
    ("meta", "palette"),
    [
        ({"CLASSES": ("wall", "sky"), "PALETTE": [list(colour) for colour in COLOURS], "epoch": 12}, COLOURS),
        ({"CLASSES": ["wall", "sky"], "PALETTE": None}, None),
        ({"CLASSES": ("wall", "sky"), "PALETTE": np.array(COLOURS, np.uint8)}, COLOURS),
        ({"dataset_meta": {"classes": ("wall", "sky"), "palette": list(COLOURS)}, "CLASSES": None}, COLOURS),
        ({"dataset_meta": {"CLASSES": ("wall", "sky"), "PALETTE": [(0, 0, 0)]}}, None),  # not one a class
        ({"dataset_meta": {"classes": ("wall", "sky"), "palette": [(0, 0, 256), (0, 0, 1)]}}, None),
    ],
)
def test_classes_beside_the_weights(meta, palette):
    assert choose({"meta": meta, "state_dict": ONE}, Path("w.pth")).classes == StatedClasses(("wall", "sky"), palette)


@pytest.mark.parametrize(
    "meta", [None, 3, {}, {"CLASSES": None}, {"CLASSES": ()}, {"CLASSES": "ab"}, {"CLASSES": ("a", 3)}, {"classes": {}}]
)
def test_no_classes_beside_the_weights(meta):
    assert choose({"meta": meta, "state_dict": ONE}, Path("w.pth")).classes is None


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "tench", "1": "goldfish"}, ("tench", "goldfish")),
        ({"1": "goldfish", "0": "tench"}, ("tench", "goldfish")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),  # what transformers makes up
        ({"1": "tench", "2": "goldfish"}, None),
        ({"0": "tench", "1": 3}, None),
        (["tench"], None),
        ({}, None),
    ],
)
def test_classes_of_a_hugging_face_config(labels, names):
    assert classes_of_config({"id2label": labels}) == (names and StatedClasses(names))
    assert classes_of_config([labels]) is None
