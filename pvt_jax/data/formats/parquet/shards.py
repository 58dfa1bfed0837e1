"""Shards of a table of images in Parquet files: its columns and labels, and random access to the images."""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvt_jax.errors import UserError
from pvt_jax.files.kinds import content_of
from pvt_jax.messages import escaped, escaped_name, listed

# Columns in the order of preference; the first are the usual names of Hugging Face.
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "class", "category")
# Bytes of decompressed images that a process keeps, and locks for its row groups.
_MOST_KEPT, _LOCKS = 128 << 20, 16


@dataclass(frozen=True)
class Shard:
    """What a file says of its rows.

    Attributes:
        path: of the file.
        column: of the encoded images, as "image.bytes".
        group_rows: how many rows each row group has.
        largest: bytes of the images of the largest row group.
        codes: of each row the class, an index of ``names``, integer [rows].
        names: of classes; of each that a row has, or, ``is_listed``, of all that the schema lists.
    """

    path: str
    column: str
    group_rows: tuple[int, ...]
    largest: int
    codes: np.ndarray
    names: tuple[str, ...]
    is_listed: bool


def import_pyarrow() -> Any:
    """Returns pyarrow, imported when it is needed; raises UserError where it is not installed."""
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"the parquet source needs `pip install pyarrow` ({error})") from error
    return pyarrow


def read_shard(path: str) -> Shard:
    """Reads all of a file but its images.

    Raises UserError: the file cannot be read or is damaged, has no column of images or of labels, paths without images,
    or rows without a class.
    """
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            schema, groups = file.schema_arrow, range(file.metadata.num_row_groups)
            features = _features(schema.metadata)
            column, label = _image_column(path, schema, features), _label_column(path, schema, features)
            chunks = [_chunk(file.metadata.row_group(group), column) for group in groups]
            rows = tuple(file.metadata.row_group(group).num_rows for group in groups)
            labels = file.read(columns=[label], use_threads=False).column(label)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if labels and all(chunk.statistics and chunk.statistics.null_count == chunk.num_values for chunk in chunks):
        raise _paths_alone(path, column.partition(".")[0])
    listed_names = _class_names(features.get(label))
    codes, names = _codes(path, label, labels, listed_names)
    largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    return Shard(path, column, rows, largest, codes, names, bool(names) and names is listed_names)


class Images:
    """The encoded images of all rows of shards, by number. Each thread and process may read it.

    A row group is read as a whole, so a few are kept. ``files`` are the path and the column of each shard, and
    ``group_rows`` the rows of its row groups. Pickled, it is these alone.
    """

    def __init__(self, files: Sequence[tuple[str, str]], group_rows: Sequence[Sequence[int]]) -> None:
        self._files, self._group_rows = tuple(files), tuple(map(tuple, group_rows))
        counts = [len(rows) for rows in self._group_rows]
        self._file_of = np.repeat(np.arange(len(counts)), counts)
        self._first_group = np.cumsum([0, *counts])
        self._starts = np.cumsum([0, *(count for rows in self._group_rows for count in rows)])
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock, self._locks = threading.Lock(), tuple(threading.Lock() for _ in range(_LOCKS))
        # Footers; each reading opens a file anew, as a reader of pyarrow is for one thread.
        self._footers: dict[int, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._files, self._group_rows)

    def __getitem__(self, row: int) -> bytes:
        """Returns an encoded image, b"" for none; raises UserError if the file is no longer there or is damaged."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        # Threads that want one row group wait for the first of them.
        with self._locks[group % _LOCKS]:
            return self._group(group)[row - int(self._starts[group])].as_py() or b""

    def place(self, row: int) -> tuple[str, int]:
        """Returns the path of a row's file, and the number of the row in it, from 0."""
        file = int(self._file_of[np.searchsorted(self._starts, row, "right") - 1])
        return self._files[file][0], row - int(self._starts[self._first_group[file]])

    def _group(self, group: int) -> Any:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
        images = self._read(group)
        with self._lock:
            self._kept[group] = images
            size = sum(kept.nbytes for kept in self._kept.values())
            while size > _MOST_KEPT and len(self._kept) > 1:
                size -= self._kept.popitem(last=False)[1].nbytes
        return images

    def _read(self, group: int) -> Any:
        pyarrow, number = import_pyarrow(), int(self._file_of[group])
        path, column = self._files[number]
        try:
            with pyarrow.parquet.ParquetFile(path, memory_map=True, metadata=self._footers.get(number)) as file:
                self._footers[number] = file.metadata
                within = group - int(self._first_group[number])
                table = file.read_row_group(within, columns=[column], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error
        images = table.column(0)
        # An image may be missing as a whole.
        return pyarrow.compute.struct_field(images, [0]) if pyarrow.types.is_struct(images.type) else images


def _chunk(group: Any, column: str) -> Any:
    chunks = (group.column(number) for number in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == column)


def _unreadable(path: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno:
        # pyarrow's own text repeats the path.
        reason = os.strerror(error.errno)
        return UserError(f"cannot read {escaped(path)} ({reason}): put it back, or check its permissions")
    try:
        with open(path, "rb") as file:
            content = content_of(file.read(4096))
    except OSError:
        content = ""
    if content:
        return UserError(f"{escaped(path)} is no Parquet file: it is {content}")
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{escaped(path)} is no Parquet file, or is damaged ({escaped_name(reason)}): fetch it again")


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Returns what Hugging Face's library says of the columns; nothing if another has written the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_names(feature: dict[str, Any] | None) -> tuple[str, ...]:
    names = (feature or {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _column(path: str, schema: Any, features: dict[str, Any], usual: Sequence[str], kind: str, what: str) -> str:
    """Returns the name of a column: a usual one, or that of the only feature of the ``kind``."""
    typed = [name for name in schema.names if features.get(name, {}).get("_type") == kind]
    found = [name for name in usual if name in schema.names] or typed * (len(typed) == 1)
    if not found:
        columns = listed([escaped_name(name) for name in schema.names]) or "no columns"
        raise UserError(f"{escaped(path)} has no column of {what}, {' or '.join(usual)}: it has {columns}; rename one")
    return found[0]


def _image_column(path: str, schema: Any, features: dict[str, Any]) -> str:
    types = import_pyarrow().types

    name = _column(path, schema, features, _IMAGES, "Image", "images")
    kind, place = schema.field(name).type, name
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, place = kind.field("bytes").type, f"{name}.bytes"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_struct(kind) or types.is_null(kind):
        raise _paths_alone(path, name)
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise UserError(
            f"{escaped(path)} has {kind} in column '{escaped_name(name)}': images are encoded files, as binary or in "
            f"Hugging Face's struct of bytes and path"
        )
    return place


def _label_column(path: str, schema: Any, features: dict[str, Any]) -> str:
    types = import_pyarrow().types

    name = _column(path, schema, features, _LABELS, "ClassLabel", "labels")
    kind = schema.field(name).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(
            f"{escaped(path)} has {kind} in column '{escaped_name(name)}': a class is one integer or one string"
        )
    return name


def _paths_alone(path: str, column: str) -> UserError:
    return UserError(
        f"{escaped(path)} has paths and no images in column '{escaped_name(column)}': embed the images, as "
        f"docs/your_images/classification.md says, or set data.source=folder or metadata for the files themselves"
    )


def _codes(path: str, label: str, labels: Any, known: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the class of each row as an index, and the names that it indexes; ``known`` are those of the schema."""
    if labels.null_count:
        first = labels.is_null().index(True).as_py()
        raise UserError(
            f"{escaped(path)}: {labels.null_count:,} rows have no class in column '{escaped_name(label)}', the first "
            f"is row {first}: add it, or remove them"
        )
    # One dictionary for all row groups.
    coded = labels.cast(labels.type.value_type) if hasattr(labels.type, "value_type") else labels
    coded = coded.combine_chunks().dictionary_encode()
    values, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    if values and isinstance(values[0], str):
        return codes.astype(np.int32), tuple(values)
    most = len(known) or np.inf
    if wrong := [value for value in values if not 0 <= value < most]:
        row = int(np.flatnonzero(codes == values.index(wrong[0]))[0])
        range_ = f"0 to {len(known) - 1}, which its schema names" if known else "0 and more"
        hidden = "; -1 stands for labels that are kept back, choose another split" * (wrong[0] == -1)
        raise UserError(f"{escaped(path)} has the label {wrong[0]} in row {row}: classes are {range_}{hidden}")
    if known:
        return np.array(values, np.int32)[codes] if values else codes.astype(np.int32), known
    return codes.astype(np.int32), tuple(map(str, values))
