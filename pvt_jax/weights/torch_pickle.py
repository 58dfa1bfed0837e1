"""The pickles inside PyTorch's files, run by a machine that can do nothing but build tensors.

A pickle is a program for a small stack machine, and Python's own unpickler calls whatever that program names. The
machine here knows only the opcodes that ``torch.save`` writes, and builds only tensors, containers and inert records:
no name of the file is ever imported, looked up or called. What training leaves beside the tensors, objects of whatever
packages, becomes a record of its name and arguments. Names of the standard library other than plain data are refused,
although they would do nothing here: whoever wrote them meant to run code. Nor can a small file make it take much memory
or time: what it builds is bounded by the file's length.
"""

import math
import pickle
import pickletools
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pvt_jax.errors import UserError

# A tensor may name an element of its storage many times (an expanded one): up to this many bytes of it are believed.
# Each that a model asks for is copied whole, and a file of kilobytes can hold hundreds of them.
_EXPANDED_BYTES = 2**20
# As many as NumPy's arrays have. The product of a longer size would be a number of megabytes.
_DIMENSIONS = 64


class UnsupportedError(Exception):
    """A part of an intact file that cannot be read here, and the way out."""


@dataclass(eq=False, slots=True)
class Opaque:
    """An object of a checkpoint other than a tensor: its class by name, and what it was built from. It is inert.

    ``entries`` are those that it has as a dictionary.
    """

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """A name in a pickle, of a class, a function, or a type such as torch.float16. Nothing is behind it."""

    name: str


@dataclass(frozen=True)
class Storage:
    """``count`` items of ``dtype`` in a read-only ``buffer``, which may be longer."""

    buffer: bytes | memoryview
    dtype: np.dtype
    count: int


def _tensor(storage: Any, offset: int, size: Any, stride: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """The array at ``offset`` (in elements) with ``size`` and ``stride`` in ``storage``, without copying."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a storage, a size or strides")
    if len(size) > _DIMENSIONS:
        raise ValueError(f"a tensor of {len(size)} dimensions")
    numbers = (offset, *size, *stride)
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers) or len(size) != len(stride):
        raise ValueError("a tensor with a wrong size, stride or offset")
    dtype = dtype or storage.dtype
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    count = math.prod(size)
    if not count:
        return np.empty(size, dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= available:
        raise ValueError(f"a tensor of size {size} reaches past the {available} elements of its storage")
    if count > available and count * dtype.itemsize > _EXPANDED_BYTES:
        raise ValueError(f"a tensor of size {size} out of only {available} elements")
    # The stride of a dimension of one element means nothing and may be anything.
    strides = tuple(step * dtype.itemsize if n > 1 else dtype.itemsize for n, step in zip(size, stride, strict=True))
    return np.ndarray(size, dtype, storage.buffer, offset * dtype.itemsize, strides)


def _rebuild_tensor_v2(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> np.ndarray:
    _check_metadata(metadata)
    return _tensor(storage, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> np.ndarray:
    _check_metadata(metadata)
    return _tensor(storage, offset, size, stride, _DTYPES[dtype.name])


def _check_metadata(metadata: Any) -> None:
    # PyTorch states here that the numbers of a view have another sign than those in its storage.
    if metadata:
        raise UnsupportedError("a conjugated or negated view: save it again after .resolve_conj().resolve_neg()")


def _rebuild_parameter(data: Any, *_: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise ValueError("a parameter without a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    """A tensor with attributes, or of a class of its own, which is made as any other; else a record."""
    rebuild = _CALLS.get(function.name) if isinstance(function, Name) else None
    if rebuild is None or rebuild is _rebuild_from_type or not isinstance(arguments, tuple):
        return Opaque(getattr(kind, "name", "a tensor of an unknown kind"), (arguments, *rest))
    return rebuild(*arguments)


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    if not isinstance(numbers, tuple | list):
        raise ValueError("a size that is no list")
    return tuple(numbers)


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    if not isinstance(pairs, tuple | list):
        raise ValueError("a dictionary of something that is no list")
    for key, value in pairs:
        _set(result, key, value)
    return result


def _default_dictionary(*_: Any) -> dict[Any, Any]:
    # Its entries follow. The default of those that are not there has no use in a file of weights.
    return {}


# Everything that a pickle may call. These are the functions of this module, not those that are named.
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _default_dictionary,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
}
_STORAGES: dict[str, np.dtype] = {
    f"{module}.{name}Storage": np.dtype(dtype)
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in {
        **{"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Bool": "?"},
        **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Untyped": "u1"},
        **{"ComplexFloat": "c8", "ComplexDouble": "c16"},
    }.items()
}
_DTYPES: dict[str, np.dtype] = {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("float64", "float32", "float16", "bfloat16", "bool", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
}
# Of the standard library, what is data. Each becomes an Opaque, whatever it is called with.
_PLAIN = {
    *("argparse.Namespace", "collections.Counter", "collections.deque", "collections.UserDict", "_codecs.encode"),
    *("decimal.Decimal", "fractions.Fraction", "functools.partial", "types.SimpleNamespace", "uuid.UUID"),
    *("time.struct_time", "zoneinfo.ZoneInfo", "zoneinfo.ZoneInfo._unpickle", "_io.BytesIO", "_io.StringIO"),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone", "tzinfo")),
    *(
        f"{copy}.{name}"
        for copy in ("copyreg", "copy_reg")
        for name in ("_reconstructor", "__newobj__", "__newobj_ex__")
    ),
    *(f"pathlib.{pure}{kind}Path" for pure in ("", "Pure") for kind in ("", "Posix", "Windows")),
    *(f"pathlib._local.{pure}{kind}Path" for pure in ("", "Pure") for kind in ("", "Posix", "Windows")),
    *("typing.Any", "typing.Dict", "typing.List", "typing.Optional", "typing.Tuple", "typing.Union"),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in (
            *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range"),
            *("set", "slice", "str", "tuple"),
        )
    ),
}
_STANDARD = sys.stdlib_module_names | {"__builtin__", "copy_reg", "commands", "nt", "os", "posix"}
# Modules by whose names, deeper in those of a package, code is reached.
_REACHED = {
    "os",
    "sys",
    "subprocess",
    "posix",
    "nt",
    "shutil",
    "builtins",
    "__builtin__",
    "importlib",
    "ctypes",
    "socket",
}


def _is_refused(full: str) -> bool:
    first, *rest = full.split(".")
    if full in _CALLS or full in _PLAIN:
        return False
    return first in _STANDARD or any(part in _REACHED for part in rest)


def _set(target: dict[Any, Any], key: Any, value: Any) -> None:
    # Hashing a tuple nested a million deep overflows the stack of the interpreter. No tensor of a model has such a key.
    if isinstance(key, tuple | Opaque | Name | np.ndarray):
        return
    if type(key) not in (str, int, float, bool, bytes, type(None)):
        raise ValueError(f"a dictionary with a key of type {type(key).__name__}")
    # Nor the longest numbers: unlike text, they are hashed again each time.
    if type(key) is int and key.bit_length() > 63:
        raise ValueError(f"a dictionary with a key of {key.bit_length()} bits")
    target[key] = value


class Machine:
    """Runs one pickle in ``data`` from ``position``; afterwards ``position`` is behind it.

    ``storage`` finds what a tensor is in: called with its dtype, key and number of elements. ``path`` is for messages.
    """

    def __init__(self, path: Path, data: bytes, position: int = 0, storage: Callable[..., Storage] | None = None):
        self.path, self.data, self.position = path, data, position
        self._storage = storage
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        """The object that the pickle builds. What is wrong with a damaged one comes as an exception of any kind."""
        while (opcode := self._take(1)) != pickle.STOP:
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                names = {entry.code: entry.name for entry in pickletools.opcodes}
                raise UserError(
                    f"refused the opcode {names.get(opcode.decode('latin1'), opcode)} in the pickle of {self.path}, "
                    "which no file of tensors has: it is damaged or made to do harm. Download it again, or use a "
                    ".safetensors file"
                )
            operation(self)
        return self.pop()

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise EOFError("it ends early")
        taken, self.position = self.data[self.position : end], end
        return taken

    def number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def take_sized(self, code: str) -> bytes:
        return self._take(self.number(code))

    def line(self) -> str:
        end = self.data.index(b"\n", self.position)
        return self._take(end + 1 - self.position)[:-1].decode()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def pop_marked(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def remember(self, key: int | None = None) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        self.push(self._memo[key])

    def push_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(items[::-1]))

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        full = f"{module}.{name}"
        if _is_refused(full):
            raise UserError(
                f"refused to load {one_line(full)} from {self.path}: a weight file runs no code. Save it again with "
                "torch.save(model.state_dict(), …) or as .safetensors"
            )
        self.push(Name(full))

    def name_on_stack(self) -> None:
        name = self.pop()
        self.name(self.pop(), name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name | Opaque) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        # Calls copy their lists: a long one that is passed again and again would take memory without end.
        self._copied += len(arguments) + sum(len(item) for item in arguments if isinstance(item, list | tuple))
        if self._copied > 4 * len(self.data):
            raise ValueError("calls with more arguments than the file can hold")
        if function.name in _CALLS:
            self.push(_CALLS[function.name](*arguments))
        elif function.name in _STORAGES or function.name in _DTYPES:
            raise ValueError(f"a call of {function.name}")
        else:
            self.push(Opaque(function.name, arguments))

    def call_with_keywords(self) -> None:
        keywords = self.pop()
        self.call()
        if not isinstance(keywords, dict) or not isinstance(self._stack[-1], Opaque):
            raise ValueError("keywords for something that takes none")

    def build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):  # state_dict() hangs the versions of modules on its dictionary.
            raise ValueError(f"a state for a {type(target).__name__}")

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError(f"items for a {type(target).__name__}")

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict | Opaque) or len(items) % 2:
            raise ValueError(f"entries for a {type(target).__name__}")
        entries = target.entries if isinstance(target, Opaque) else target
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(entries, key, value)

    def persistent(self) -> None:
        identity = self.pop()
        # The oldest layout keeps the source of a module's class beside its name.
        if (
            isinstance(identity, tuple)
            and len(identity) == 4
            and identity[0] == "module"
            and isinstance(identity[1], Name)
        ):
            self.push(identity[1])
            return
        if self._storage is None or not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise ValueError("something is stored beside the pickle that is no tensor")
        kind, key, _, count, *view = identity[1:]
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Name) else None
        if dtype is None or type(key) is not str or type(count) is not int or count < 0 or any(view):
            raise ValueError("a storage of an unknown kind")
        self.push(self._storage(dtype, key, count))


def one_line(text: str, length: int = 160) -> str:
    """``text`` of a file as part of one line of a message: bounded, without breaks or what steers a terminal."""
    shown = text if len(text) <= length else f"{text[: length - 1]}…"
    return "".join(character if character.isprintable() else "?" for character in shown)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


# Protocols 2 to 5, and of those what torch.save writes. INST, OBJ, EXT1 and other ways to call are missing.
_OPERATIONS: dict[bytes, Callable[[Machine], Any]] = {
    pickle.PROTO: lambda m: m.number("<B"),
    pickle.FRAME: lambda m: m.number("<Q"),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.take_sized("<B"), "little", signed=True)),
    pickle.LONG4: lambda m: m.push(int.from_bytes(m.take_sized("<i"), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(_text(m.take_sized("<B"))),
    pickle.BINUNICODE: lambda m: m.push(_text(m.take_sized("<I"))),
    pickle.BINUNICODE8: lambda m: m.push(_text(m.take_sized("<Q"))),
    # The strings of Python 2, with which the oldest files were written.
    pickle.SHORT_BINSTRING: lambda m: m.push(_text(m.take_sized("<B"))),
    pickle.BINSTRING: lambda m: m.push(_text(m.take_sized("<i"))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take_sized("<B")),
    pickle.BINBYTES: lambda m: m.push(m.take_sized("<I")),
    pickle.BINBYTES8: lambda m: m.push(m.take_sized("<Q")),
    pickle.BYTEARRAY8: lambda m: m.push(m.take_sized("<Q")),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.EMPTY_SET: lambda m: m.push(Opaque("builtins.set", ())),
    pickle.MARK: lambda m: m.mark(),
    pickle.POP: lambda m: m.pop(),
    pickle.POP_MARK: lambda m: m.pop_marked(),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_marked())),
    pickle.TUPLE1: lambda m: m.push_tuple(1),
    pickle.TUPLE2: lambda m: m.push_tuple(2),
    pickle.TUPLE3: lambda m: m.push_tuple(3),
    pickle.FROZENSET: lambda m: m.push(Opaque("builtins.frozenset", tuple(m.pop_marked()))),
    pickle.APPEND: lambda m: m.extend([m.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.pop_marked()),
    pickle.ADDITEMS: lambda m: m.extend(m.pop_marked()),
    pickle.SETITEM: lambda m: m.update([m.pop(), m.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.update(m.pop_marked()),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(),
    pickle.BINGET: lambda m: m.recall(m.number("<B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.number("<I")),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.name_on_stack(),
    pickle.REDUCE: lambda m: m.call(),
    pickle.NEWOBJ: lambda m: m.call(),
    pickle.NEWOBJ_EX: lambda m: m.call_with_keywords(),
    pickle.BUILD: lambda m: m.build(),
    pickle.BINPERSID: lambda m: m.persistent(),
}
