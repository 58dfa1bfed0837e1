"""Weight files by what is in them: PyTorch's two formats and safetensors, read and written as named NumPy arrays."""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from pvt_jax.errors import UserError
from pvt_jax.weights.entries import Weights, choose, under
from pvt_jax.weights.torch_file import PICKLE_MAGIC, ZIP_MAGIC, damaged, open_file, read_torch_file, wrong_file
from pvt_jax.weights.torch_pickle import one_line

# What a folder of the Hugging Face hub holds, the first that is there is taken.
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "C64": "c8", "BOOL": "?"},
        **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
        **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
    }.items()
}


def read_state_dict(path: Path, entry: str = "") -> dict[str, np.ndarray]:
    """The tensors of ``read_weights`` alone."""
    return read_weights(path, entry).tensors


def read_weights(path: Path, entry: str = "") -> Weights:
    """The tensors of a weight file by name, with their own types; scalars such as num_batches_tracked are 0-d arrays.

    The content decides, not the name of the file: a zip file or older stream of ``torch.save``, safetensors, or the
    index of a file in parts. A folder stands for its ``model.safetensors`` or ``pytorch_model.bin``, or the parts that
    their index names; the folder of a model in the cache of the Hugging Face hub for its snapshot. Of a file of a
    training run the weights are taken as ``entries.choose`` says. What is no tensor is left out.

    Raises:
      UserError: it cannot be read, or there are no tensors in it.
    """
    if path.is_dir():
        path = _in_folder(path)
    kind = _kind(path)
    if kind == "index":
        weights = Weights(_read_parts(path))
    elif kind == "safetensors":
        _refuse_part(path)
        weights = Weights(_read_safetensors(path))
    else:
        _refuse_part(path)
        return choose(read_torch_file(path), path, entry)
    return weights._replace(tensors=under(weights.tensors, entry, path)) if entry else weights


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
    """``safetensors``, ``torch`` by the first bytes of a file, or ``index`` (of parts) by its name."""
    with open_file(path) as file:
        head = file.read(16)
        size = file.seek(0, os.SEEK_END)
    if path.name.endswith(".index.json"):
        return "index"
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


def model_folder(folder: Path) -> Path:
    """Where the files of a model are: ``folder``, or in a hub's cache the snapshot that its main branch names.

    Raises:
      UserError: it is a cache of several models, or of several snapshots without a main branch.
    """
    snapshots = folder if folder.name == "snapshots" else folder / "snapshots"
    if not folder.name.startswith("models--") and not (snapshots.is_dir() and (snapshots.parent / "refs").is_dir()):
        if models := sorted(entry.name for entry in folder.glob("models--*") if entry.is_dir()):
            shown = f"{', '.join(map(one_line, models[:3]))}{f' and {len(models) - 3} more' * (len(models) > 3)}"
            raise UserError(f"{folder} is a cache of {len(models)} models: give the folder of one ({shown})")
        return folder
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir()) if snapshots.is_dir() else []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        main = (snapshots.parent / "refs" / "main").read_text(encoding="utf-8").strip()
        found = [entry for entry in found if entry.name == main] or found
    if len(found) != 1:
        names = f" ({', '.join(entry.name for entry in found[:3])})" if found else ""
        raise UserError(f"{folder} has {len(found)} snapshots and no main one{names}: give the folder of one")
    return found[0]


def _in_folder(folder: Path) -> Path:
    folder = model_folder(folder)
    for name in IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
        if (folder / name).is_symlink():
            raise UserError(f"{folder / name} is a link to a file that is not there: download the model again")
    raise UserError(f"no weights in {folder}: it has neither {' nor '.join(IN_FOLDER[::2])}; give the file itself")


def _refuse_part(path: Path) -> None:
    if (found := re.search(r"-(\d{5})-of-(\d{5})\.", path.name)) and int(found[2]) > 1:
        number, count = int(found[1]), int(found[2])
        raise UserError(
            f"{path} is part {number} of {count}: give the folder of all parts, {path.parent}, or the index"
        )


def _read_parts(index: Path) -> dict[str, np.ndarray]:
    folder = index.parent
    try:
        places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        parts = sorted(set(places.values()))
        # An index that names files elsewhere is no index of this folder.
        if not parts or any(part != Path(part).name for part in parts):
            raise ValueError("it names no files of this folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(index, str(error)) from error
    # Looked up in the listing: a name of thousands of characters cannot even be asked for.
    present = {entry.name for entry in folder.iterdir()}
    missing = [part for part in parts if part not in present]
    if missing:
        lacking = one_line(missing[0])
        raise UserError(f"{folder} lacks {lacking}, which {index.name} names: download all of its parts")
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        path = folder / part
        tensors |= (
            _read_safetensors(path) if _kind(path) == "safetensors" else choose(read_torch_file(path), path).tensors
        )
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        lacking = one_line(lost[0])
        raise UserError(f"{folder} lacks {lacking}, which {index.name} names: download all of its parts again")
    return tensors
