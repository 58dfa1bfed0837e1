"""PyTorch's files: read as PyTorch reads them, refused by name where they hold code, and one line where damaged."""

import copyreg
import pickle
import struct
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pvt_jax.errors import UserError
from pvt_jax.weights.torch_file import read_torch_file
from tests.helpers import torch_files as tf
from tests.helpers.torch_files import Code, Tensor, call, code, name, program, stacked_name

FORMATS = {"zip": tf.zip_bytes, "legacy": tf.legacy_bytes}
in_both = pytest.mark.parametrize("layout", FORMATS)
ordered_dict = name("collections", "OrderedDict")


def read(tmp_path, data: bytes):
    return read_torch_file(tf.write(tmp_path / "weights.pth", data))


def refusal(tmp_path, data: bytes) -> str:
    """The one line with which the file is refused; it names the file."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, data)
    message = str(caught.value)
    assert "weights.pth" in message and "\n" not in message
    return message


def assert_same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@in_both
@pytest.mark.parametrize("dtype", tf.DTYPES, ids=str)
def test_types(tmp_path, layout, dtype):
    array = np.array([[0, 1, 3], [7, 2, 0]]).astype(dtype)
    assert_same(read(tmp_path, FORMATS[layout]({"x": tf.tensor(array)}))["x"], array)


@in_both
def test_shared_storages_and_views_that_are_not_contiguous(tmp_path, layout):
    storage = np.arange(24, dtype=np.float32)
    cube = storage.reshape(2, 3, 4)
    arrays = {
        "whole": cube,
        "transposed": cube.transpose(2, 0, 1),
        "column": cube[1, :, 2],
        "every_other": storage[1::2],
        "scalar": cube[1, 2, 3],
        "expanded": np.broadcast_to(cube[:, :1], (2, 5, 4)),
        "empty": cube[:0],
    }
    tree = {key: tf.view(storage, np.asarray(array)) for key, array in arrays.items() if key != "scalar"}
    tree["scalar"] = Tensor(storage, 23, (), ())
    found = read(tmp_path, FORMATS[layout](tree))
    for key, array in arrays.items():
        assert_same(found[key], np.asarray(array))
        assert not found[key].flags.writeable or not found[key].size
    assert np.shares_memory(found["whole"], found["transposed"])


@st.composite
def views(draw):
    """A flat array and a view of it, made by NumPy."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
    storage = draw(hnp.arrays(draw(st.sampled_from(tf.DTYPES[:3] + tf.DTYPES[4:10])), int(np.prod(shape)) + 3))
    array = storage[draw(st.integers(0, 3)) :][: int(np.prod(shape))].reshape(shape)
    array = array.transpose(draw(st.permutations(range(len(shape)))))
    for axis in range(array.ndim):
        steps = slice(draw(st.integers(0, 2)), None, draw(st.integers(1, 3)))
        array = np.moveaxis(np.moveaxis(array, axis, 0)[steps], 0, axis)
    return storage, array


@in_both
@given(drawn=st.dictionaries(st.text(max_size=8), views(), max_size=4))
def test_any_view_comes_back(tmp_path_factory, layout, drawn):
    tree = {key: tf.view(storage, array) for key, (storage, array) in drawn.items()}
    path = tmp_path_factory.getbasetemp() / f"property_{layout}.pth"
    found = read_torch_file(tf.write(path, FORMATS[layout](tree)))
    assert list(found) == list(drawn)
    for key, (_, array) in drawn.items():
        assert_same(found[key], array)


@in_both
def test_a_training_checkpoint(tmp_path, layout):
    """What the recipes of PVT and DeiT save: wrapped in more, with a namespace, and with what state_dict() adds."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    storages = tf.Storages(*([None] if layout == "legacy" else []))
    parameter = call(name("torch._utils", "_rebuild_parameter"), code(tf.tensor(weight), storages), True, None)
    dtype = tf.build(call(name("numpy", "dtype"), "f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    scalar = call(name("numpy.core.multiarray", "scalar"), dtype, call(name("_codecs", "encode"), "\0" * 8, "latin1"))
    # OrderedDict(), then its entries, then its attribute _metadata.
    model = Code(ordered_dict + b")R" + pickle.MARK + code("w") + parameter + pickle.SETITEMS)
    model = tf.build(model, {"_metadata": call(ordered_dict)})
    tree = {
        "model": model,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "args": tf.build(call(name("argparse", "Namespace"), opcode=pickle.NEWOBJ), {"lr": 0.1, "device": "cuda"}),
        "best": scalar,
        "pairs": call(ordered_dict, [["a", 1], ["b", 2]]),
        "size": call(name("torch", "Size"), (2, 3)),
    }
    body = program(tree)
    if layout == "zip":
        data = tf.zip_bytes(body, more={"data/0": weight.tobytes()})
    else:
        data = tf.legacy_bytes(body)[: -len(program([]))] + program(["0"]) + struct.pack("<q", 6) + weight.tobytes()
    found = read(tmp_path, data)
    assert_same(found["model"]["w"], weight)
    assert list(found["model"]) == ["w"]
    assert found["optimizer"]["param_groups"] == [{"lr": 1e-3, "params": [0]}]
    assert found["args"].name == "argparse.Namespace" and found["args"].state == {"lr": 0.1, "device": "cuda"}
    assert found["best"].name == "numpy.core.multiarray.scalar"
    assert found["pairs"] == {"a": 1, "b": 2} and found["size"] == (2, 3)


def test_types_without_a_storage_of_their_own(tmp_path):
    """uint16 and float8 lie in storages of bytes, with their type beside them."""
    for dtype, kind in ((np.dtype("uint16"), "uint16"), (np.dtype(ml_dtypes.float8_e4m3fn), "float8_e4m3fn")):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        identity = tf.storage_id(name("torch.storage", "UntypedStorage"), "0", array.nbytes)
        parts = (identity, 3, (3,), (1,), False, None, name("torch", kind))
        data = program(call(name("torch._utils", "_rebuild_tensor_v3"), *parts))
        assert_same(read(tmp_path, tf.zip_bytes(data, more={"data/0": array.tobytes()})), array[1])


def test_a_default_dictionary(tmp_path):
    tree = Code(call(name("collections", "defaultdict"), name("builtins", "list")) + code("w") + code(3) + b"s")
    assert read(tmp_path, tf.zip_bytes(program(tree))) == {"w": 3}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_views_with_another_sign_than_their_storage(tmp_path, version):
    """``x.conj().imag`` is the imaginary part with its sign changed, and only the metadata say so."""
    dtype = (name("torch", "float32"),) if version == "v3" else ()
    function, parts = name("torch._utils", f"_rebuild_tensor_{version}"), (floats, 1, (2,), (2,), False, None, *dtype)

    def data(*metadata):
        numbers = np.float32([1, 2, 3, 4]).tobytes()
        return tf.zip_bytes(program({"w": call(function, *parts, *metadata)}), more={"data/0": numbers})

    for harmless in ((), (None,), ({},)):
        assert read(tmp_path, data(*harmless))["w"].tolist() == [2, 4]
    message = refusal(tmp_path, data({"neg": True}))
    assert message.endswith("holds a conjugated or negated view: save it again after .resolve_conj().resolve_neg()")


@pytest.mark.parametrize("folder", ["archive", "pvt tiny", "модель", "a/b"])
def test_the_archive_may_be_called_anything(tmp_path, folder):
    assert read(tmp_path, tf.zip_bytes({"x": tf.tensor([1.0])}, folder=folder))["x"] == [1.0]


# A pickle that makes the folder MARKER when Python's own unpickler reads it, by every way to call something.
def folder_makers(marker: str) -> dict[str, bytes]:
    make = f"__import__('os').mkdir({marker!r})"
    posix = "posix"
    return {
        "GLOBAL": program(call(name(posix, "mkdir"), marker)),
        "STACK_GLOBAL": program(call(stacked_name("os", "mkdir"), marker)),
        "dotted": pickle.PROTO + b"\x04" + call(stacked_name("os", "path.os.mkdir"), marker) + pickle.STOP,
        "through an allowed module": pickle.PROTO
        + b"\x04"
        + call(stacked_name("collections", "_sys.modules.__class__.__base__"))
        + pickle.POP
        + call(stacked_name("argparse", "_os.mkdir"), marker)
        + pickle.STOP,
        "eval": program(call(name("builtins", "eval"), make)),
        "exec of Python 2": program(call(name("__builtin__", "eval"), make)),
        "getattr": program(call(call(name("builtins", "getattr"), name("os", "path"), "os"))),
        "INST": b"(" + code(marker) + b"i" + b"posix\nmkdir\n.",
        "OBJ": b"(" + name(posix, "mkdir") + code(marker) + b"o.",
        "EXT1": b"\x80\x02\x82\xf0" + code((marker,)) + b"R.",
        "NEWOBJ": program(call(name("subprocess", "Popen"), ["mkdir", marker], opcode=pickle.NEWOBJ)),
        "BUILD": program(
            Code(
                tf.build(
                    call(name("functools", "partial"), name(posix, "getcwd")),
                    (name(posix, "mkdir"), (marker,), {}, None),
                )
                + b")R"
            )
        ),
    }


@in_both
@pytest.mark.parametrize("way", folder_makers(""))
def test_nothing_in_a_file_is_run(tmp_path, layout, way):
    marker = tmp_path / "made"
    data = folder_makers(str(marker))[way]
    copyreg.add_extension("posix", "mkdir", 0xF0)
    try:
        if way not in ("getattr", "NEWOBJ"):  # Those two fail in Python too, after having called something.
            pickle.loads(data)
            assert marker.is_dir(), "this test's pickle is harmless"
            marker.rmdir()
        message = refusal(tmp_path, FORMATS[layout](data))
    finally:
        copyreg.remove_extension("posix", "mkdir", 0xF0)
    assert not marker.exists()
    named = {
        **{"GLOBAL": "posix.mkdir", "STACK_GLOBAL": "os.mkdir", "dotted": "os.path.os.mkdir", "INST": "opcode INST"},
        **{"through an allowed module": "collections._sys.modules", "eval": "builtins.eval", "OBJ": "posix.mkdir"},
        **{"exec of Python 2": "__builtin__.eval", "getattr": "builtins.getattr", "EXT1": "opcode EXT1"},
        **{"NEWOBJ": "subprocess.Popen", "BUILD": "posix.getcwd"},
    }
    assert f"refused to load {named[way]}" in message or f"refused the {named[way]}" in message


def test_a_refused_name_says_what_to_do_and_cannot_steer_a_terminal(tmp_path):
    message = refusal(tmp_path, tf.zip_bytes(program(call(name("os", "getcwd")))))
    assert "refused to load os.getcwd from" in message and "a weight file runs no code" in message
    assert "torch.save(model.state_dict(), …) or as .safetensors" in message
    assert "\x1b" not in refusal(tmp_path, tf.zip_bytes(program(stacked_name("os", "a\x1b[2J\n" + "b" * 10**6))))


@pytest.mark.parametrize(
    "names",
    [
        *[("os", "system"), ("nt", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("_pickle", "loads")],
        *[("runpy", "run_path"), ("torch", "os.system"), ("numpy.testing", "sys.modules"), ("webbrowser", "open")],
        *[("operator", "attrgetter"), ("pathlib", "os.system"), ("datetime", "sys.exit"), ("types", "FunctionType")],
    ],
    ids=str,
)
def test_names_that_reach_code_are_refused_and_others_are_inert(tmp_path, names):
    assert f"refused to load {'.'.join(names)} from" in refusal(tmp_path, tf.zip_bytes({"x": stacked_name(*names)}))


@given(
    st.lists(st.text("abcdefgh_", min_size=1, max_size=8), min_size=2, max_size=4),
    st.sampled_from([pickle.REDUCE, pickle.NEWOBJ]),
)
def test_objects_of_any_package_are_records(tmp_path_factory, words, opcode):
    module, last = "pkg." + ".".join(words[:-1]), words[-1]
    made = tf.build(call(name(module, last), {"a": 1}, opcode=opcode), {"lr": 0.1})
    made = Code(made + pickle.MARK + code("k") + code(2) + pickle.SETITEMS)
    path = tf.write(tmp_path_factory.getbasetemp() / "objects.pth", tf.zip_bytes({"x": made, "w": tf.tensor([1.0])}))
    found = read_torch_file(path)
    assert found["x"].name == f"{module}.{last}" and found["x"].arguments == ({"a": 1},)
    assert found["x"].state == {"lr": 0.1} and found["x"].entries == {"k": 2} and found["w"] == [1.0]


rebuild = name("torch._utils", "_rebuild_tensor_v2")
floats = tf.storage_id(name("torch", "FloatStorage"), "0", 4)
ODD = {
    "a dictionary of a number": call(ordered_dict, 5),
    "a dictionary of text": call(ordered_dict, "ab"),
    "too many arguments": call(ordered_dict, [], [], []),
    "arguments that are no tuple": Code(ordered_dict + code([]) + pickle.REDUCE),
    "a size of text": call(name("torch", "Size"), "abc"),
    "a tensor of nothing": call(rebuild),
    "a tensor without storage": call(rebuild, {}, 0, (1,), (1,), False, None),
    "a storage that is called": call(name("torch", "FloatStorage"), 4),
    "a parameter of a number": call(name("torch._utils", "_rebuild_parameter"), 1, True, None),
    "text that is called": call(code("os.system"), "true"),
    "a tensor that is called": call(call(rebuild, floats, 0, (4,), (1,), False, None), 1),
    "state for a tensor": tf.build(call(rebuild, floats, 0, (4,), (1,), False, None), {"shape": (9,)}),
    "state for a name": tf.build(ordered_dict, (None, {"__call__": 1})),
    "entries for a name": Code(ordered_dict + pickle.MARK + code("a") + code(1) + pickle.SETITEMS),
    "a key that is a list": Code(b"}" + code([]) + code(1) + b"s"),
    "half an entry": Code(b"}(" + code("a") + b"u"),
    "an unknown type": tf.storage_id(name("torch", "float32"), "0", 4),
    "a number as key of a storage": tf.storage_id(name("torch", "FloatStorage"), 0, 4),
    "a negative storage": tf.storage_id(name("torch", "FloatStorage"), "0", -4),
    "a path as key of a storage": tf.storage_id(name("torch", "FloatStorage"), "../data.pkl", 4),
    "a module beside the pickle": Code(code(("module", "a", "b", "c", "d")) + pickle.BINPERSID),
    "an empty stack": Code(b"0"),
    "a mark too few": Code(b"t"),
    "an unknown memo": Code(b"h\x07"),
    "text that is no text": Code(b"X\x02\0\0\0\xff\xfe"),
}
WRONG_TENSORS = {
    "past the storage": (0, (5,), (1,)),
    "past it by its offset": (1, (4,), (1,)),
    "past it by a stride": (0, (2,), (4,)),
    "past it by far": (0, (2**62, 4), (2**62, 1)),
    "before it": (-1, (1,), (1,)),
    "backwards": (3, (4,), (-1,)),
    "of negative size": (0, (-1,), (1,)),
    "of half a size": (0, (1.5,), (1,)),
    "of size true": (0, (True,), (1,)),
    "of one stride too few": (0, (2, 2), (1,)),
    "of too many dimensions": (0, (1,) * 100, (1,) * 100),
    "expanded beyond memory": (0, (2**40, 4), (0, 1)),
    "expanded beyond a megabyte": (0, (2**18 + 1,), (0,)),
    "empty and beyond memory": (0, (0, 2**62, 2**62), (1, 1, 1)),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_programs_are_damaged_files(tmp_path, odd):
    data = tf.zip_bytes(program(ODD[odd]), more={"data/0": b"\0" * 16})
    assert "download or copy it again" in refusal(tmp_path, data)


@in_both
@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_tensors_stay_within_their_storages(tmp_path, layout, wrong):
    good = {"x": Tensor(np.zeros(4, np.float32), 0, (2, 2), (2, 1))}
    assert read(tmp_path, FORMATS[layout](good))["x"].shape == (2, 2)
    data = FORMATS[layout]({"x": Tensor(np.zeros(4, np.float32), *WRONG_TENSORS[wrong])})
    assert "damaged" in refusal(tmp_path, data)


def bombs() -> dict[str, bytes]:
    """Small files that would make a careless reader take memory or time without end."""
    laughs = b"]" + b"".join(b"q\x01](" + b"h\x01" * 10 + b"e" for _ in range(30))
    long = code(list(range(20_000))) + b"q\x01"
    sides = Code(code(2**62) + b"q\x010(" + b"h\x01" * 200_000 + b"t")
    number = b"\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000 + b"q\x010"
    return {
        "a distant memo": tf.zip_bytes(b"\x80\x02]r\xff\xff\xff\xff0."),
        "long text": tf.zip_bytes(b"\x80\x02X\xff\xff\xff\xffa."),
        "very long bytes": tf.zip_bytes(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fa."),
        "bytes that are allocated first": tf.zip_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a."),
        "a name of nested lists": tf.zip_bytes(b"\x80\x02" + laughs + code("x") + b"\x93."),
        "a size of nested lists": tf.zip_bytes(
            program(call(rebuild, floats, 0, Code(laughs), (1,))), more={"data/0": b"0" * 16}
        ),
        "a size of many dimensions": tf.zip_bytes(
            program(call(rebuild, floats, 0, sides, sides)), more={"data/0": b"0" * 16}
        ),
        "a long number as key": tf.zip_bytes(b"\x80\x02" + number + b"}(" + b"h\x01N" * 200_000 + b"u."),
        "one list many times": tf.zip_bytes(
            b"\x80\x02(" + long + b"".join(name("torch", "Size") + b"h\x01\x85R" for _ in range(9000)) + b"t."
        ),
        "a large storage": tf.zip_bytes(
            program(tf.storage_id(name("torch", "FloatStorage"), "0", 2**60)), more={"data/0": b""}
        ),
        "a large storage of the old kind": tf.legacy_bytes(
            program(tf.storage_id(name("torch", "FloatStorage"), "0", 2**40))
        ),
        "many storages of the old kind": tf.legacy_bytes(
            program([tf.storage_id(name("torch", "ByteStorage"), str(key), 20_000) for key in range(900)])
        ),
        "compressed entries": tf.zip_bytes({"x": tf.tensor(np.zeros(10**6))}, compress=True),
    }


@pytest.mark.parametrize("bomb", bombs())
def test_small_files_take_little_memory_and_time(tmp_path, bomb):
    data = bombs()[bomb]
    tracemalloc.start()
    started = time.process_time()
    try:
        refusal(tmp_path, data)
        assert time.process_time() - started < 5
        assert tracemalloc.get_traced_memory()[1] < 60 * len(data) + 2**24
    finally:
        tracemalloc.stop()


def test_deep_nesting_alone_is_harmless(tmp_path):
    assert isinstance(read(tmp_path, tf.zip_bytes(b"\x80\x02)" + b"\x85" * 10**5 + b".")), tuple)
    # As a key it would be hashed.
    assert read(tmp_path, tf.zip_bytes(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")) == {}


def example() -> dict[str, Tensor]:
    storage = np.arange(12, dtype=np.float32)
    return {"a.weight": tf.view(storage, storage.reshape(3, 4).T), "a.bias": tf.tensor(np.arange(3, dtype=np.int64))}


def check_example(found):
    assert_same(found["a.weight"], np.arange(12, dtype=np.float32).reshape(3, 4).T)
    assert_same(found["a.bias"], np.arange(3, dtype=np.int64))


@in_both
def test_a_file_cut_anywhere_is_one_line(tmp_path, layout):
    data = FORMATS[layout](example())
    check_example(read(tmp_path, data))
    for length in range(len(data)):
        assert "download" in refusal(tmp_path, data[:length])


def test_a_changed_byte_of_an_archive_is_noticed_or_does_not_matter(tmp_path):
    data = tf.zip_bytes(example())
    noticed = 0
    for position in range(len(data)):
        for mask in (0xFF, 1 << position % 8):
            changed = data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
            try:
                check_example(read(tmp_path, changed))
            except UserError:
                noticed += 1
    assert noticed > len(data)


def test_a_changed_byte_of_a_pickle_never_does_more_than_fail(tmp_path):
    """Archives with a fitting checksum, and the old format, which has none: another result or one line."""
    storages = tf.Storages()
    good = program(example(), storages)
    entries = {f"data/{key}": array.tobytes() for key, array in enumerate(storages.arrays)}
    check_example(read(tmp_path, tf.zip_bytes(good, more=entries)))
    old = tf.legacy_bytes(example())
    failed = 0
    for data, wrap in ((good, lambda body: tf.zip_bytes(body, more=entries)), (old, bytes)):
        for position in range(len(data)):
            for mask in (0xFF, 1 << position % 8):
                changed = data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
                try:
                    read(tmp_path, wrap(changed))
                except UserError as error:
                    failed += 1
                    assert "\n" not in str(error)
    assert failed > len(good) + len(old)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    for content in (data, b"\x80\x02" + data, tf.zip_bytes(b"\x80\x02" + data + b".")):
        try:
            read_torch_file(tf.write(path, content))
        except UserError:
            continue


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>Not Found</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, not the weights"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip: unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file of Keras or TensorFlow"),
        (b"hello", "holds no weights in a known format"),
        (pickle.dumps({"a": 1}), "is a pickle but not a file of torch.save"),
        (tf.zip_bytes({}).replace(b"data.pkl", b"data.npy"), "has no data.pkl"),
        (tf.zip_bytes({}, more={"constants.pkl": b""}), "is a TorchScript program"),
        (tf.zip_bytes({}, more={"byteorder": b"big"}), "big-endian"),
        (tf.legacy_bytes({}, little_endian=False), "big-endian"),
        (tf.zip_bytes({"x": tf.tensor(np.zeros(99))}, compress=True), "compressed entries"),
    ],
)
def test_other_files_are_told_by_their_kind(tmp_path, data, words):
    assert words in refusal(tmp_path, data)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere.pth: No such file"):
        read_torch_file(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_files_that_pytorch_wrote(tmp_path, new, protocol):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is no dependency, only an oracle here")
    import argparse

    linear = torch.nn.Linear(3, 2)
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        **{"t": base.permute(2, 0, 1), "slice": base[1, ::2, 1:3], "expanded": torch.ones(1).expand(5, 4)},
        **{"bfloat16": torch.ones(2, dtype=torch.bfloat16) * 3, "count": torch.tensor(7), "w": linear.weight},
        **{"empty": torch.zeros(0, 3), "bool": torch.tensor([True, False]), "complex": torch.tensor([1 + 2j])},
    }
    optimizer = torch.optim.Adam(linear.parameters())
    linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {
        "model": linear.state_dict(),
        **{"optimizer": optimizer.state_dict(), "args": argparse.Namespace(device=torch.device("cpu"), lr=0.1)},
        **{"best": np.float64(81.2), "array": np.ones(3), "size": base.shape, "tensors": tensors},
    }
    path = tmp_path / "weights.pth"
    torch.save(tree, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    found = read_torch_file(path)
    for key, tensor in [*tensors.items(), *tree["model"].items()]:
        array = {**found["tensors"], **found["model"]}[key]
        assert array.shape == tuple(tensor.shape) and array.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert array.tolist() == tensor.tolist()
    assert found["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert found["optimizer"]["state"][0]["exp_avg"].shape == (2, 3)
