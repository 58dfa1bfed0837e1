"""Weight files of every kind as named arrays, and safetensors written so that others read it."""

import json
import os
import stat
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pvt_jax.errors import UserError
from pvt_jax.weights.files import read_metadata, read_state_dict, write_safetensors
from tests.helpers import torch_files as tf

WEIGHTS = {
    "norm.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "norm.num_batches_tracked": np.array(7, np.int64),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
}
TENSORS = {key: tf.tensor(array) for key, array in WEIGHTS.items()}


def assert_weights(found, expected=WEIGHTS):
    assert list(found) == list(expected) or sorted(found) == sorted(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def header_file(path, header: dict | bytes, data: bytes = b"") -> None:
    """A safetensors file by its definition: length, header, numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
def test_the_content_decides_and_not_the_name(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    for data in (tf.zip_bytes(TENSORS), tf.legacy_bytes(TENSORS)):
        assert_weights(read_state_dict(tf.write(path, data)))
        assert read_metadata(path) == {}
    write_safetensors(path, WEIGHTS, {"model": "pvt_tiny"})
    assert_weights(read_state_dict(path))
    assert read_metadata(path) == {"model": "pvt_tiny"}


@pytest.mark.parametrize("length", [128, 384, 0x4B50])
def test_headers_whose_length_looks_like_another_format(tmp_path, length):
    """128 is also the byte that every pickle begins with, and 0x4B50 is PK, as in a zip archive."""
    path = tmp_path / "weights"
    header = {"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    header["__metadata__"] = {"pad": "p" * (length - len(json.dumps({**header, "__metadata__": {"pad": ""}})))}
    header_file(path, header, b"ab")
    assert read_state_dict(path)["x"].tolist() == [97, 98]


def test_wrappers(tmp_path):
    path = tmp_path / "weights.pth"
    one, other = {"w": tf.tensor([1.0])}, {"w": tf.tensor([2.0])}
    for tree, expected in (
        ({"model": one, "state_dict": other, "epoch": 3}, 1),
        ({"epoch": 3, "state_dict": one, "model_ema": other}, 1),
        ({"model_state_dict": one}, 1),
        ({"model_state": one}, 1),
        ({"module": one}, 1),
        ({"state_dict": {"model": one}, "module": other}, 1),
        ({"model": tf.tensor([5.0]), "state_dict": one}, 1),
        ({"w": tf.tensor([1.0]), "model.scale": tf.tensor([9.0])}, 1),
    ):
        assert read_state_dict(tf.write(path, tf.zip_bytes(tree)))["w"] == [expected]
    mixed = {"w": tf.tensor([1.0]), 3: tf.tensor([2.0]), "epoch": 3, "list": [tf.tensor([4.0])]}
    assert list(read_state_dict(tf.write(path, tf.zip_bytes(mixed)))) == ["w"]


def test_files_without_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    for tree, found in (({"epoch": 3, "lr": 0.1}, "only epoch, lr"), ([1], "no dictionary"), ({}, "an empty dict")):
        message = refusal(tf.write(path, tf.zip_bytes(tree)))
        assert "holds no named tensors" in message and found in message and "model.state_dict()" in message
    looped = b"\x80\x02}q\x01" + tf.code("model") + b"h\x01s."
    assert "only model" in refusal(tf.write(path, tf.zip_bytes(looped)))
    assert "only moving average" in refusal(tf.write(path, tf.zip_bytes({"moving average": {"w": 1.0}})))
    write_safetensors(path, {})
    assert "holds no tensors" in refusal(path)


def test_what_is_no_weight_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    assert "No such file" in refusal(path)
    assert "it is empty" in refusal(tf.write(path, b""))
    assert "is a web page" in refusal(tf.write(path, b"<html>404 Not Found</html>"))
    assert "no weights in a known format" in refusal(tf.write(path, b'{"a": 1}' * 20))
    assert "refused to load os.system" in refusal(tf.write(path, tf.zip_bytes(tf.program(tf.name("os", "system")))))
    with pytest.raises(UserError, match="cannot read"):
        read_metadata(tmp_path / "nowhere")


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, WEIGHTS)
    data = path.read_bytes()
    for length in range(len(data)):
        assert "download" in refusal(tf.write(path, data[:length]))
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for header in (
        {"x": {**entry, "data_offsets": [0, 800]}},
        {"x": {**entry, "shape": [3]}},
        {"x": {**entry, "shape": [2**62, 4]}},
        {"x": {**entry, "dtype": "F33"}},
        {"x": entry, "y": entry},
        b"{not json}",
        b'{"a": ' * 1000,
    ):
        header_file(path, header, bytes(8))
        assert "download or copy it again" in refusal(path)
    header_file(path, {"x": entry}, bytes(8))
    assert read_state_dict(path)["x"].tolist() == [0, 0]
    header_file(path, {"x": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}, bytes(8))
    assert "type F8_E8M0" in refusal(path)
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]
        try:
            read_state_dict(tf.write(path, changed))
            read_metadata(path)
        except UserError as error:
            assert "\n" not in str(error)


WRITABLE = [dtype for dtype in tf.DTYPES if dtype.name != "complex128"] + [np.dtype(ml_dtypes.float8_e4m3fn)]


@given(
    arrays=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda key: key != "__metadata__"),
        hnp.arrays(st.sampled_from(WRITABLE[:3] + WRITABLE[4:10]), hnp.array_shapes(min_dims=0, min_side=0)),
        min_size=1,
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=3),
    transpose=st.booleans(),
)
def test_what_is_written_comes_back(tmp_path_factory, arrays, metadata, transpose):
    arrays = {key: array.T if transpose else array for key, array in arrays.items()}
    path = tmp_path_factory.getbasetemp() / "property.safetensors"
    write_safetensors(path, arrays, metadata)
    assert_weights(read_state_dict(path), arrays)
    assert read_metadata(path) == metadata
    theirs = safetensors.numpy.load_file(path)
    assert_weights(theirs, arrays)


@pytest.mark.parametrize("dtype", WRITABLE, ids=str)
def test_every_type(tmp_path, dtype):
    arrays = {"x": np.array([[0, 1, 3], [7, 2, 0]]).astype(dtype)}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    assert_weights(read_state_dict(tmp_path / "x.safetensors"), arrays)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    write_safetensors(path, WEIGHTS)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    with pytest.raises(UserError, match="cannot write .*weights.safetensors as safetensors .*another type"):
        write_safetensors(path, {"x": np.array([1 + 2j])})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*weights.safetensors: No space left on device. Make room"):
        write_safetensors(path, {"x": np.zeros(3)})
    monkeypatch.undo()
    assert_weights(read_state_dict(path))
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.safetensors"]
    with pytest.raises(UserError, match="cannot write .*: Not a directory"):
        write_safetensors(path / "below" / "weights.safetensors", WEIGHTS)
    write_safetensors(path, {"x": np.zeros(3)})
    assert list(read_state_dict(path)) == ["x"]


def test_folders_of_the_hub(tmp_path):
    message = refusal(tmp_path)
    assert "no weights in" in message and "model.safetensors nor pytorch_model.bin" in message
    tf.write(tmp_path / "pytorch_model.bin", tf.zip_bytes({"old": tf.tensor([1.0])}))
    assert list(read_state_dict(tmp_path)) == ["old"]
    write_safetensors(tmp_path / "model.safetensors", WEIGHTS)
    assert_weights(read_state_dict(tmp_path))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_folders_in_parts(tmp_path, kind):
    stem, suffix = kind.split(".")
    names = {key: f"{stem}-{part}-of-2.{suffix}" for part, key in enumerate(("norm.weight", "half"))}
    for key, part in names.items():
        if suffix == "bin":
            tf.write(tmp_path / part, tf.legacy_bytes({key: TENSORS[key]}))
        else:
            write_safetensors(tmp_path / part, {key: WEIGHTS[key]})
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": names}))
    assert_weights(read_state_dict(tmp_path), {key: WEIGHTS[key] for key in names})
    index.write_text(json.dumps({"weight_map": {**names, "more": names["half"]}}))
    assert "lacks more, which" in refusal(tmp_path)
    index.write_text(json.dumps({"weight_map": {**names, "more": "elsewhere.bin"}}))
    assert "lacks elsewhere.bin, which" in refusal(tmp_path)
    for odd in ({**names, "\x1b[2J\n" + "x" * 9999: names["half"]}, {**names, "more": "\x1b[2J\n" + "x" * 9999}):
        index.write_text(json.dumps({"weight_map": odd}))
        message = refusal(tmp_path)
        assert "lacks ?[2J?xxx" in message and message.isprintable() and len(message) < 600
    for damaged in (
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": 3}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../secret.bin"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        "[" * 100_000,
        '{"weight_map": ' + "1" * 5000 + "}",
    ):
        index.write_text(damaged)
        assert f"{kind}.index.json is damaged" in refusal(tmp_path)


def test_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is no dependency, only an oracle here")
    from safetensors.torch import load_file

    write_safetensors(tmp_path / "weights.safetensors", {**WEIGHTS, "t": np.arange(6.0).reshape(2, 3).T})
    found = load_file(tmp_path / "weights.safetensors")
    assert found["half"].dtype == torch.bfloat16 and found["half"].tolist() == [1.5, -2]
    assert found["norm.num_batches_tracked"].shape == () and found["norm.num_batches_tracked"].item() == 7
    assert found["norm.weight"].tolist() == WEIGHTS["norm.weight"].tolist()
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
