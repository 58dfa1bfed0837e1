"""Folders and files of data sets: listed, found, read."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.files.headers import THREADS
from pvt_jax.files.kinds import EXTENSIONS, Unread, ending_of, holds_image, is_image, is_known
from pvt_jax.messages import escaped

# What systems, archives and notebooks leave behind; other hidden names are ignored too.
_IGNORED = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
    + ("Thumbs.db", "desktop.ini", "Icon\r")
)
# Of hidden folders those that nobody means as a class.
_HIDDEN_FOLDERS = frozenset(
    (".AppleDouble", ".Spotlight-V100", ".Trash", ".Trash-1000", ".Trashes", ".cache", ".dvc", ".fseventsd", ".git")
    + (".idea", ".ipynb_checkpoints", ".snapshot", ".thumbnails", ".vscode")
)


class Listing(NamedTuple):
    """What is in a folder, in no order: names of files, of folders, and of what leads to neither, as broken links.

    ``hidden`` are hidden images and folders that may be meant to be read, and are not.
    """

    files: list[str]
    folders: list[str]
    broken: list[str]
    hidden: list[str]


class Images(NamedTuple):
    """The ``paths`` of the images below a folder, sorted and relative to it, and a count of what else is there.

    ``broken`` are names of images that lead to no file: broken links, pipes, devices.
    """

    paths: list[str]
    unread: Unread
    broken: Sequence[str] = ()


def find_root(root: str, source: str, what: str) -> str:
    """Returns the absolute path of ``root`` ("~" is expanded); raises UserError where there is no such folder."""
    if not root:
        raise UserError(f"the {source} source needs data.root: the folder that holds {what}")
    root = os.path.abspath(paths.local(root, "data.root"))
    if not os.path.isdir(root):
        state = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"the data folder {escaped(root)} {state}: set data.root to the folder that holds {what}")
    return root


def list_folder(folder: str) -> Listing:
    """Lists a folder, without what is to be ignored; raises UserError where it cannot be listed."""
    listing = Listing([], [], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, is_folder, is_file = entry.name, *_leads_to(entry)
                if name.startswith("."):
                    # macOS keeps what it knows of x.jpg in ._x.jpg on other disks.
                    if name not in _HIDDEN_FOLDERS if is_folder else ending_of(name) in EXTENSIONS and name[1] != "_":
                        listing.hidden.append(name)
                elif is_ignored(name):
                    continue
                elif is_folder:
                    listing.folders.append(name)
                elif is_file:
                    listing.files.append(name)
                else:
                    listing.broken.append(name)
    except OSError as error:
        raise UserError(
            f"cannot list the folder {escaped(folder)} ({error.strerror}): check its permissions"
        ) from error
    return listing


def _leads_to(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """(whether it is a folder, whether it is a file), or leads to one; a link that leads to itself to neither."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by a system or a tool."""
    return name.startswith(".") or name in _IGNORED


def names_in(folder: str) -> list[str]:
    """Returns the names in a folder; none if it cannot be listed."""
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def scan(folder: str, nested: bool = True) -> list[str]:
    """Returns the paths of the files in ``folder``, sorted and relative to it; if ``nested``, of all below it."""
    return sorted(os.path.join(prefix, name) for prefix, listing in _listings(folder, nested) for name in listing.files)


def scan_images(folder: str, nested: bool = True) -> Images:
    """Finds the images in ``folder``, and if ``nested`` below it. Files without a known ending are opened to tell."""
    files, broken, unread = [], [], Unread()
    for prefix, listing in _listings(folder, nested):
        files += [os.path.join(prefix, name) for name in listing.files]
        broken += [os.path.join(prefix, name) for name in listing.broken if is_image(name)]
        unread.add_left_out(listing.broken, listing.hidden)
    found = choose_images(folder, files)
    found.unread.update(unread)
    return found._replace(broken=sorted(broken))


def choose_images(folder: str, paths: Sequence[str]) -> Images:
    """Returns the images among files in ``folder``, and a count of the others."""
    unknown = [path for path in paths if not is_known(path)]
    with ThreadPoolExecutor(THREADS) as pool:
        opened = dict(
            zip(unknown, pool.map(lambda path: holds_image(os.path.join(folder, path)), unknown), strict=True)
        )
    images, unread = [], Unread()
    for path in paths:
        if opened[path] if path in opened else is_image(path):
            images.append(path)
        else:
            unread.add_file(path)
    return Images(sorted(images), unread)


def _listings(folder: str, nested: bool) -> Iterator[tuple[str, Listing]]:
    """Lists ``folder``, and if ``nested`` all folders below it, each with its path relative to it."""
    pending = [""]
    linked = {os.path.realpath(folder)}
    while pending:
        prefix = pending.pop()
        listing = list_folder(os.path.join(folder, prefix))
        yield prefix, listing
        for path in [os.path.join(prefix, name) for name in listing.folders] if nested else ():
            if os.path.islink(os.path.join(folder, path)):
                # Each target once: links may form a cycle.
                target = os.path.realpath(os.path.join(folder, path))
                if target in linked:
                    continue
                linked.add(target)
            pending.append(path)


def read_file(path: str) -> bytes:
    """Returns the bytes of a file that was there when its folder was listed; raises UserError if they are not."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        way_out = "check its permissions" if isinstance(error, PermissionError) else "put it back, or start again"
        raise UserError(f"cannot read {escaped(path)} ({error.strerror}): {way_out}") from error
