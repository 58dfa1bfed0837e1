"""Folders and files of data sets: listed, found, read."""

import os

from pvt_jax import paths
from pvt_jax.data.text import escaped
from pvt_jax.errors import UserError

EXTENSIONS = frozenset(("jpg", "jpeg", "png", "bmp", "webp"))
# What archives and notebooks leave behind; other hidden names are ignored too.
_IGNORED = frozenset(("__MACOSX", ".ipynb_checkpoints"))


def find_root(root: str, source: str, what: str) -> str:
    """Returns the absolute path of ``root`` ("~" is expanded); raises UserError where there is no such folder."""
    if not root:
        raise UserError(f"the {source} source needs data.root: the folder that holds {what}")
    root = os.path.abspath(paths.local(root, "data.root"))
    if not os.path.isdir(root):
        state = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the data folder {escaped(root)} {state}: set data.root to the folder that holds {what}")
    return root


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Returns the names of the files and of the folders in ``folder``, without those to ignore, in no order."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _IGNORED:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
    except OSError as error:
        raise UserError(
            f"cannot list the folder {escaped(folder)} ({error.strerror}): check its permissions"
        ) from error
    return files, folders


def names_in(folder: str) -> list[str]:
    """Returns the names in a folder; none if it cannot be listed."""
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def scan(folder: str, nested: bool = True) -> list[str]:
    """Returns the paths of the files in ``folder``, sorted and relative to it; if ``nested``, of all below it."""
    paths: list[str] = []
    pending = [""]
    linked = {os.path.realpath(folder)}
    while pending:
        prefix = pending.pop()
        files, folders = list_folder(os.path.join(folder, prefix))
        paths += [os.path.join(prefix, name) for name in files]
        for path in [os.path.join(prefix, name) for name in folders] if nested else ():
            if os.path.islink(os.path.join(folder, path)):
                # Each target once: links may form a cycle.
                target = os.path.realpath(os.path.join(folder, path))
                if target in linked:
                    continue
                linked.add(target)
            pending.append(path)
    return sorted(paths)


def is_image(path: str) -> bool:
    """Whether a file's name ends as that of an image."""
    return os.path.splitext(path)[1][1:].lower() in EXTENSIONS


def scan_images(folder: str) -> list[str]:
    """Returns the paths of all images below ``folder``, sorted and relative to it."""
    return [path for path in scan(folder) if is_image(path)]


def read_file(path: str) -> bytes:
    """Returns the bytes of a file that was there when its folder was listed; raises UserError if they are not."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        way_out = "check its permissions" if isinstance(error, PermissionError) else "put it back, or start again"
        raise UserError(f"cannot read {escaped(path)} ({error.strerror}): {way_out}") from error
