"""Reading PyTorch's files without PyTorch, and without running anything that is in them.

Both layouts of ``torch.save`` are read: the zip archive of PyTorch 1.6 and later (ARCHIVE/data.pkl with the numbers in
ARCHIVE/data/KEY), and the stream before it (magic number, version, system, the pickle, the keys, then each storage
with its count).
"""

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.weights.torch_pickle import Machine, Storage, UnsupportedError, one_line

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, with read-only NumPy arrays for tensors.

    Storages, sizes, strides and offsets are respected: tensors that share a storage share memory here too. bfloat16 and
    float8 come as the types of ml_dtypes. Ordered dictionaries come as ``dict``, ``torch.Size`` as ``tuple``; what else
    training scripts save beside the weights (settings, dates, NumPy scalars, objects of any package) as inert
    ``Opaque``. Entries of dictionaries whose key is a tuple or an object are left out.

    Raises:
      UserError: it is no such file, it is damaged, or it names functions of the standard library.
    """
    with open_file(path) as file:
        head = file.read(16)
        size = file.seek(0, 2)
        file.seek(0)
        try:
            if head.startswith(ZIP_MAGIC):
                return _read_zip(path, file, size)
            if head.startswith(PICKLE_MAGIC):
                return _read_legacy(path, file.read())
        except UserError:
            raise
        except UnsupportedError as error:
            raise UserError(f"{path} holds {error}") from error
        except MemoryError as error:
            raise UserError(f"{path} does not fit into the memory of this machine: use one with more") from error
        # What the readers of a damaged file raise is of any kind, and only its cause is of interest.
        except Exception as error:
            raise damaged(path, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
    raise wrong_file(path, head, size)


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of ``~`` or ``~user``; a UserError if that is no place on this machine."""
    return Path(paths.local(path, "the path"))


def open_file(path: Path) -> BinaryIO:
    """``path`` opened for reading bytes; a UserError says why it cannot be."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def damaged(path: Path, reason: str) -> UserError:
    """The error for a file of the right kind that cannot be read whole."""
    return UserError(f"{path} is damaged or was not downloaded whole ({one_line(reason)}): download or copy it again")


def wrong_file(path: Path, head: bytes, size: int) -> UserError:
    """The error for a file that, by its first bytes, holds no weights."""
    way_out = "give a file of torch.save or a .safetensors file"
    if not size:
        return damaged(path, "it is empty")
    start = head.lstrip()
    if start.startswith(b"<"):
        return UserError(f"{path} is a web page, not weights: the download got an error page, download it again")
    if start.startswith(b"version https"):
        return UserError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull, or download the file itself")
    if start.startswith(b"\x1f\x8b"):
        return UserError(f"{path} is compressed with gzip: unpack it first (gunzip), then {way_out}")
    if start.startswith(b"\x89HDF"):
        return UserError(f"{path} is an HDF5 file of Keras or TensorFlow: {way_out}")
    return UserError(f"{path} holds no weights in a known format: {way_out}, or download it again if it should be one")


def _read_zip(path: Path, file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip archive but not a file of torch.save: it has no data.pkl; give another")
        # PyTorch compresses nothing: entries that are larger than the file would be a bomb.
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise UserError(f"{path} has compressed entries, which torch.save never writes: save it again with PyTorch")
        if sum(max(info.file_size, info.compress_size) for info in entries.values()) > size:
            raise ValueError("its entries are larger than the file")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in entries:
            raise UserError(f"{path} is a TorchScript program: save its state_dict() with torch.save instead")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise _big_endian(path)
        buffers: dict[str, bytes] = {}

        def storage(dtype: np.dtype, key: str, count: int) -> Storage:
            if key not in buffers:
                buffers[key] = archive.read(f"{folder}data/{key}")
            if count * dtype.itemsize > len(buffers[key]):
                raise ValueError(f"storage {key} has {len(buffers[key])} bytes, not {count} elements")
            return Storage(buffers[key], dtype, count)

        return Machine(path, archive.read(pickles[0]), storage=storage).run()


def _read_legacy(path: Path, data: bytes) -> Any:
    machine = Machine(path, data)
    if machine.run() != _LEGACY_MAGIC:
        raise UserError(f"{path} is a pickle but not a file of torch.save: give one, or a .safetensors file")
    header = Machine(path, data, machine.position)
    if header.run() != _LEGACY_VERSION:
        raise ValueError("an unknown version of the format")
    system = Machine(path, data, header.position)
    if not system.run().get("little_endian"):
        raise _big_endian(path)
    # Tensors come before what is in them: they are views of memory that is filled afterwards.
    buffers: dict[str, tuple[bytearray, int]] = {}
    promised = 0

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        nonlocal promised
        if key not in buffers:
            promised += count * dtype.itemsize
            if promised > len(data):
                raise ValueError("its storages are larger than the file")
            buffers[key] = bytearray(count * dtype.itemsize), count
        elif len(buffers[key][0]) != count * dtype.itemsize:
            raise ValueError("a storage with two sizes")
        return Storage(memoryview(buffers[key][0]).toreadonly(), dtype, count)

    body = Machine(path, data, system.position, storage)
    result = body.run()
    keys = Machine(path, data, body.position)
    names, position = keys.run(), keys.position
    if not isinstance(names, list) or any(type(name) is not str for name in names) or len(names) != len(buffers):
        raise ValueError("its storages are not those that its tensors are in")
    for name in names:
        buffer, count = buffers[name]
        if struct.unpack_from("<q", data, position)[0] != count or position + 8 + len(buffer) > len(data):
            raise EOFError("it ends early")
        buffer[:] = data[position + 8 : position + 8 + len(buffer)]
        position += 8 + len(buffer)
    return result


def _big_endian(path: Path) -> UserError:
    return UserError(f"{path} was written on a big-endian machine: load it there and save it as .safetensors")
