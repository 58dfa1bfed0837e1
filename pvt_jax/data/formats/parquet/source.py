"""Images and classes in Parquet files, as a repository of the Hugging Face Hub holds them in its folder ``data``.

A row has an encoded image, ``image``, binary or a struct of bytes and path, and its class, ``label``, an integer or a
string. Classes are those that Hugging Face's library lists in the schema, else the labels of the training rows, sorted.
"""

import operator
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from pvt_jax.data.formats.class_names import check_known, sorted_names
from pvt_jax.data.formats.holdout import part_of
from pvt_jax.data.formats.layouts import (
    SPLIT_NAMES,
    Found,
    Layout,
    NoLayoutError,
    Tree,
    about_place,
    find_data,
    no_layout,
)
from pvt_jax.data.formats.parquet.shards import Images, Shard, read_shard
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root
from pvt_jax.files.headers import THREADS
from pvt_jax.messages import byte_count, escaped, escaped_name, listed, plural

_ROOT = ("parquet", "data/train-00000-of-00001.parquet")
_LAYOUTS = tuple(
    Layout(f"{above}{files}")
    for files in ("{split}-*.parquet", "{split}.parquet", "{split}/*.parquet")
    for above in ("data/", "")
)
_WHOLE = (Layout("data/*.parquet"), Layout("*.parquet"))
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")
# Bytes of a row group from which reading single images of it is slow.
_LARGE = 64 << 20


class ParquetSource:
    """Rows of shards, in their order.

    Args:
        root: what ``str`` returns.
        images: of all rows.
        rows: the chosen ones, integer [n].
        labels: of these, int32 [n].
        class_names: which labels index.
        notes: on the files.
    """

    def __init__(
        self,
        root: str,
        images: Images,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        notes: Sequence[str],
    ) -> None:
        self._root, self._images, self._rows, self._notes = root, images, rows, tuple(notes)
        self.labels, self.class_names = labels, tuple(class_names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ClassificationRecord:
        index = operator.index(index)
        return {"image": self._images[self._row(index)], "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        """Returns the path of the file and the number of the row in it."""
        path, row = self._images.place(self._row(operator.index(index)))
        return escaped(f"{path} row {row}")

    def notes(self) -> tuple[str, ...]:
        return self._notes

    def __str__(self) -> str:
        return escaped(self._root)

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self}")
        return int(self._rows[index])


def open_parquet(request: Request) -> ParquetSource:
    """Opens a split of a data set in Parquet files.

    Raises UserError: files that are missing, damaged or of something else, rows without a class, or an unknown class.
    """
    request = replace(request, root=find_root(request.root, *_ROOT))
    tree, found = _find(request)
    shards = _shards(found)
    if request.split == "train" or request.holdout:
        names = _names(shards)
    else:
        try:
            names = _names(_shards(_find(replace(request, split="train"))[1]))
        except NoLayoutError:
            if not request.learned:
                raise
            names = request.learned
    labels = np.concatenate([_labels(shard, names) for shard in shards])
    images = Images([(shard.path, shard.column) for shard in shards], [shard.group_rows for shard in shards])
    where = escaped(os.path.commonpath([shard.path for shard in shards]))
    if not len(labels):
        raise UserError(f"{where} has no rows: choose another split, or fetch the files again")
    # Files are cut anew when data is written again, and paths of images need not differ: a row is known by its place.
    places = map(images.place, range(len(labels) if request.holdout else 0))
    ids = [f"{os.path.relpath(path, request.root)} row {row}" for path, row in places]
    chosen, divided = part_of(ids or [""] * len(labels), request, where, labels)
    notes = [*about_place(tree, found, request), *divided, *_on_groups(shards)]
    return ParquetSource(request.root, images, np.flatnonzero(chosen), labels[chosen], names, notes)


def class_names_of_parquet(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes. Raises UserError: as ``open_parquet``."""
    request = replace(request, split="train", root=find_root(request.root, *_ROOT))
    return _names(_shards(_find(request)[1]))


def _find(request: Request) -> tuple[Tree, Found]:
    tree = Tree(request.root)
    if found := find_data(tree, request, _LAYOUTS, _WHOLE, _is_whole):
        return tree, found
    way_out = "put the files of each split there, or set data.train_split and data.eval_split"
    # Files of other splits say what could be meant.
    listing = [tree.list(folder) for folder in (tree.root, os.path.join(tree.root, "data")) if os.path.isdir(folder)]
    holds = listed(sorted({escaped_name(name) for some in listing for name in [*some.folders, *some.files]}))
    raise no_layout(
        tree,
        request,
        "Parquet files",
        _LAYOUTS,
        way_out,
        holds=holds,
        whole=_WHOLE,
        accepts=_is_whole,
        names_tools=False,
    )


def _is_whole(found: Found) -> bool:
    """Whether files are those of a split, or of none."""
    known = {name for names in SPLIT_NAMES.values() for name in names}
    files = map(os.path.basename, found.places[0])
    return bool(found.split) or not any(re.split(r"[-.]", name.lower())[0] in known for name in files)


def _shards(found: Found) -> list[Shard]:
    paths = found.places[0]
    _check_complete(paths)
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read_shard, paths))


def _check_complete(paths: Sequence[str]) -> None:
    """Raises UserError: shards are missing, which are numbered as in ``train-00000-of-00002``."""
    there = set(paths)
    for path in paths:
        if numbers := _SHARD.search(os.path.basename(path)):
            folder, name = os.path.split(path)
            stem, rest = name[: numbers.start()], name[numbers.end() :]
            count = int(numbers[2])
            # Of one set: some end in a hash of their content.
            same = re.compile(re.escape(stem) + r"-(\d{5})-of-" + numbers[2] + r"\b")
            have = {int(one[1]) for other in there if (one := same.match(os.path.basename(other)))}
            if missing := sorted({*range(count)} - have):
                first = f"{stem}-{missing[0]:05d}-of-{numbers[2]}{rest}"
                raise UserError(
                    escaped(
                        f"{folder} lacks {len(missing):,} of {plural(count, 'file')}, the first is {first}: fetch "
                        f"them, or take -of-{numbers[2]} out of the names of the others to do without"
                    )
                )
            return


def _names(shards: Sequence[Shard]) -> tuple[str, ...]:
    """Returns the names of the classes: as listed, or those of all rows, sorted."""
    if complete := next((shard.names for shard in shards if shard.is_listed), None):
        return complete
    return sorted_names(name for shard in shards for name in shard.names)


def _labels(shard: Shard, names: Sequence[str]) -> np.ndarray:
    """Returns the classes of a shard's rows, int32; raises UserError if the training data has not all of them."""
    number_of = {name: number for number, name in enumerate(names)}
    used = np.unique(shard.codes).tolist()
    check_known(shard.path, (shard.names[code] for code in used), names)
    numbers = np.array([number_of.get(name, -1) for name in shard.names], np.int32)
    return numbers[shard.codes] if len(numbers) else np.zeros(0, np.int32)


def _on_groups(shards: Sequence[Shard]) -> list[str]:
    """Returns a note if row groups are large; none if not."""
    largest = max(shards, key=lambda shard: shard.largest)
    if largest.largest < _LARGE:
        return []
    return [
        f"reading one image reads {byte_count(largest.largest)}, the row group of {escaped(largest.path)} that it is "
        f"in; groups of 100 rows, to_parquet(…, batch_size=100), are faster"
    ]
