"""Weight files by what is in them: PyTorch's two formats and safetensors, read and written as named NumPy arrays."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from pvt_jax.errors import UserError
from pvt_jax.weights.torch_file import PICKLE_MAGIC, ZIP_MAGIC, damaged, open_file, read_torch_file, wrong_file
from pvt_jax.weights.torch_pickle import one_line

# Where training scripts put the weights, the first that is there is taken.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module")
# What a folder of the Hugging Face hub holds, the first that is there is taken.
_IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "C64": "c8", "BOOL": "?"},
        **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
        **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
    }.items()
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a weight file by name, with their own types; scalars such as num_batches_tracked are 0-d arrays.

    The content decides, not the name of the file: a zip file or older stream of ``torch.save``, or safetensors. A
    folder stands for its ``model.safetensors`` or ``pytorch_model.bin``, or the parts that their index names. A file of
    a training run is unwrapped: of ``model``, ``state_dict``, ``model_state_dict``, ``model_state`` and ``module`` the
    first that holds a dictionary is taken (a moving average, ``model_ema``, never is). What is no tensor is left out.

    Raises:
      UserError: it cannot be read, or there are no tensors in it.
    """
    if path.is_dir():
        return _read_folder(path)
    if _kind(path) == "safetensors":
        return _read_safetensors(path)
    tree = read_torch_file(path)
    for _ in range(len(_WRAPPERS)):
        inner = [tree[key] for key in _WRAPPERS if isinstance(tree, dict) and isinstance(tree.get(key), dict)]
        tree = inner[0] if inner else tree
    tensors = tree.items() if isinstance(tree, dict) else ()
    tensors = {key: value for key, value in tensors if isinstance(key, str) and isinstance(value, np.ndarray)}
    if not tensors:
        found = "no dictionary"
        if isinstance(tree, dict):
            found = f"only {one_line(', '.join(key for key in tree if isinstance(key, str))) or 'an empty dictionary'}"
        raise UserError(
            f"{path} holds no named tensors ({found}): save the weights with torch.save(model.state_dict(), …)"
        )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a safetensors file carries beside its tensors; empty for files of other kinds."""
    if _kind(path) != "safetensors":
        return {}
    with _safetensors_errors(path), safetensors.safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` (arrays by name) and ``metadata``; the file is at ``path`` whole or not at all.

    Folders above it are made. A file that is there is replaced.

    Raises:
      UserError: there is no space or no permission, or an array's type has no place in the format.
    """
    # The library writes the memory of an array as it lies, so it must lie in order.
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    try:
        data = safetensors.numpy.save(arrays, metadata=dict(metadata or {}) or None)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot write {path} as safetensors ({error}): convert the arrays to another type") from error
    # Not the library's own saving: its file is private to the user, and its errors have no cause to act on.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Make room or fix the permission, or write elsewhere"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _kind(path: Path) -> str:
    """``safetensors`` or ``torch`` by the first bytes of a file."""
    with open_file(path) as file:
        head = file.read(16)
        size = file.seek(0, os.SEEK_END)
    # Eight bytes of length, then that much of JSON; first, because a length may begin as a pickle does. A file that was
    # cut in the middle is still of this kind.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:
        return "safetensors"
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return "torch"
    raise wrong_file(path, head, size)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with _safetensors_errors(path):
        entries = safetensors.deserialize(path.read_bytes())
        unknown = sorted({entry["dtype"] for _, entry in entries} - _DTYPES.keys())
        if unknown:
            raise UserError(f"{path} has tensors of type {unknown[0]}, which NumPy lacks: save it with another type")
        if not entries:
            raise UserError(f"{path} holds no tensors: give another file")
        return {
            name: np.frombuffer(bytes(entry["data"]), _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in entries
        }


@contextlib.contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from error


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    found = [folder / name for name in _IN_FOLDER if (folder / name).is_file()]
    if not found:
        raise UserError(f"no weights in {folder}: it has neither {' nor '.join(_IN_FOLDER[::2])}; give the file itself")
    if found[0].suffix != ".json":
        return read_state_dict(found[0])
    try:
        places = dict(json.loads(found[0].read_text(encoding="utf-8"))["weight_map"])
        parts = sorted(set(places.values()))
        # An index that names files elsewhere is no index of this folder.
        if not parts or any(part != Path(part).name for part in parts):
            raise ValueError("it names no files of this folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(found[0], str(error)) from error
    # Looked up in the listing: a name of thousands of characters cannot even be asked for.
    present = {entry.name for entry in folder.iterdir()}
    missing = [part for part in parts if part not in present]
    if missing:
        lacking = one_line(missing[0])
        raise UserError(f"{folder} lacks {lacking}, which {found[0].name} names: download all of its parts")
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        tensors.update(read_state_dict(folder / part))
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        lacking = one_line(lost[0])
        raise UserError(f"{folder} lacks {lacking}, which {found[0].name} names: download all of its parts again")
    return tensors
