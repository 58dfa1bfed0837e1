"""Files of ``torch.save`` made by hand, without PyTorch: pickles put together from opcodes, good ones and bad ones."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    **{"float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "bool": "Bool"},
    **{"int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte"},
    **{"complex64": "ComplexFloat", "complex128": "ComplexDouble"},
}
DTYPES = [np.dtype(getattr(ml_dtypes, name, name)) for name in STORAGES]


class Code(bytes):
    """Opcodes that leave one object on the stack."""


@dataclass(eq=False)
class Tensor:
    """A tensor of PyTorch: a view of a flat array, which several may share. Offset and strides count elements."""

    storage: np.ndarray
    offset: int
    size: tuple[Any, ...]
    stride: tuple[Any, ...]


def tensor(array: Any) -> Tensor:
    """A contiguous tensor with a storage of its own."""
    storage = np.array(array).reshape(-1)
    return view(storage, storage.reshape(np.shape(array)))


def view(storage: np.ndarray, array: np.ndarray) -> Tensor:
    """The tensor that lies in ``storage`` as ``array``, a view of it, does."""
    start = array.__array_interface__["data"][0] - storage.__array_interface__["data"][0]
    strides = tuple(step // storage.itemsize for step in array.strides)
    return Tensor(storage, start // storage.itemsize if array.size else 0, array.shape, strides)


def name(module: str, attribute: str) -> Code:
    return Code(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())


def stacked_name(module: str, attribute: str) -> Code:
    return Code(code(module) + code(attribute) + pickle.STACK_GLOBAL)


def call(function: bytes, *arguments: Any, opcode: bytes = pickle.REDUCE) -> Code:
    return Code(function + code(arguments) + opcode)


def build(target: Any, state: Any) -> Code:
    return Code(code(target) + code(state) + pickle.BUILD)


def code(value: Any, storage: Callable[[Tensor], Code] | None = None) -> Code:
    """The opcodes for plain values, containers and tensors; ``Code`` stays as it is."""
    several = lambda items: b"".join(code(item, storage) for item in items)  # noqa: E731
    match value:
        case Code():
            return value
        case None:
            return Code(pickle.NONE)
        case bool():
            return Code(pickle.NEWTRUE if value else pickle.NEWFALSE)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return Code(pickle.LONG1 + bytes([len(data)]) + data)
        case float():
            return Code(pickle.BINFLOAT + struct.pack(">d", value))
        case str():
            return Code(pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode())
        case bytes():
            return Code(pickle.SHORT_BINBYTES + bytes([len(value)]) + value)
        case tuple():
            return Code(pickle.MARK + several(value) + pickle.TUPLE)
        case list():
            return Code(pickle.EMPTY_LIST + pickle.MARK + several(value) + pickle.APPENDS)
        case dict():
            return Code(pickle.EMPTY_DICT + pickle.MARK + several(sum(value.items(), ())) + pickle.SETITEMS)
        case Tensor():
            assert storage is not None
            hooks = call(name("collections", "OrderedDict"))
            parts = (storage(value), value.offset, value.size, value.stride, False, hooks)
            return call(name("torch._utils", "_rebuild_tensor_v2"), *parts)
    raise TypeError(type(value))


def program(value: Any, storage: Callable[[Tensor], Code] | None = None) -> bytes:
    """A whole pickle."""
    return pickle.PROTO + b"\x02" + code(value, storage) + pickle.STOP


class Storages:
    """Numbers the storages of tensors in the order in which they are met."""

    def __init__(self, *view_metadata: None):
        self.arrays: list[np.ndarray] = []
        self._view_metadata = view_metadata

    def __call__(self, tensor: Tensor) -> Code:
        keys = [index for index, array in enumerate(self.arrays) if array is tensor.storage]
        if not keys:
            keys = [len(self.arrays)]
            self.arrays.append(tensor.storage)
        kind = name("torch", f"{STORAGES[tensor.storage.dtype.name]}Storage")
        return storage_id(kind, str(keys[0]), tensor.storage.size, *self._view_metadata)


def storage_id(kind: Code, key: Any, count: Any, *view_metadata: Any) -> Code:
    return Code(code(("storage", kind, key, "cpu", count, *view_metadata)) + pickle.BINPERSID)


def zip_bytes(
    value: Any, *, folder: str = "archive", more: Mapping[str, bytes] | None = None, compress: bool = False
) -> bytes:
    """The archive of PyTorch 1.6 and later; ``value`` may be the bytes of a pickle, ``more`` adds entries."""
    storages = Storages()
    data = value if type(value) is bytes else program(value, storages)
    entries = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": array.tobytes() for key, array in enumerate(storages.arrays)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for entry, content in {**entries, **(more or {})}.items():
            archive.writestr(f"{folder}/{entry}", content)
    return buffer.getvalue()


def legacy_bytes(value: Any, *, little_endian: bool = True) -> bytes:
    """The stream before PyTorch 1.6; ``value`` may be the bytes of a pickle."""
    storages = Storages(None)
    body = value if type(value) is bytes else program(value, storages)
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": sizes}
    pickles = [program(0x1950A86A20F9469CFC6C), program(1001), program(system), body]
    keys = program([str(key) for key in range(len(storages.arrays))])
    data = [struct.pack("<q", array.size) + array.tobytes() for array in storages.arrays]
    return b"".join([*pickles, keys, *data])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
