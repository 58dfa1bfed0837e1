"""Which format a folder has, and which classes. Configs read it before a model is made."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pvt_jax.data.formats import FORMATS, Format, load
from pvt_jax.data.formats.layouts import NoLayoutError
from pvt_jax.data.formats.tools import known_tool
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, is_ignored
from pvt_jax.messages import escaped, listed

# Entries of a folder that are looked at for files of a kind; a data set shows them sooner.
_MOST_LOOKED_AT = 100_000


def recognise_folder(
    kind: str, folder: str, source: str = "", train_split: str = "", options: Any = None, holdout: float = 0.0
) -> tuple[str, tuple[str, ...]]:
    """Returns the source that reads a folder, and the names of the training classes.

    Raises UserError: it has none of the formats, or not in a layout that is known or that the options describe.

    Args:
        kind: of the records that are wanted, see ``FORMATS``.
        folder: of the data set.
        source: its format if that is known.
        train_split: name of the training data; "" for the usual ones.
        options: what a config says of the annotations; ``num_classes`` is not read.
        holdout: share that is evaluated on, of data that is not divided.
    """
    known = {name: row for name, row in FORMATS.items() if kind in row.openers and row.class_names}
    root = find_root(folder, " or ".join(known), "images and their annotations")
    request = Request("train", root=root, train_split=train_split, options=options, holdout=holdout)
    if source:
        if source not in known:
            raise UserError(f"data.source is '{source}', but a folder is read by {' or '.join(known)}: leave it out")
        return source, load(known[source].class_names)(request)
    candidates = _candidates(root, options.annotations, known)
    if not candidates:
        has = listed(sorted(name for name in os.listdir(root) if not name.startswith("."))) or "nothing"
        raise UserError(
            f"{escaped(folder)} has no annotations in {' or '.join(row.title for row in known.values())}: it holds "
            f"{escaped(has)}; {known_tool(root, options) or 'export your labels in one of these formats'}"
        )
    errors: list[UserError] = []
    for name in candidates:
        try:
            return name, load(known[name].class_names)(request)
        except UserError as error:
            errors.append(error)
    # Files with these extensions lie about for many reasons: where one is in its place, it is the data set.
    raise next((error for error in errors if not isinstance(error, NoLayoutError)), errors[-1])


def _candidates(root: str, annotations: str, known: dict[str, Format]) -> list[str]:
    """Returns the formats whose files are in a folder; only the one whose extension ``annotations`` has, if any."""
    names = (name for name in _files_below(root) if not is_ignored(name))
    extensions = {os.path.splitext(name)[1].lower() for name in islice(names, _MOST_LOOKED_AT)}
    found = [
        name for name, row in known.items() if (load(row.is_in)(root) if row.is_in else row.extension in extensions)
    ]
    return [name for name in found if annotations.lower().endswith(known[name].extension)] or found


def _files_below(root: str) -> Iterator[str]:
    """Yields the names of the files in a folder and below it; folders that cannot be listed are passed over."""
    for _, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from files
