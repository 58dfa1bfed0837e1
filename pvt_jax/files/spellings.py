"""Names of files as another system spells them: forms of Unicode, separators in paths, upper and lower case of endings.

macOS packs archives with names in the form NFD, as e and an accent, where all others write NFC; Windows writes
backslashes, and takes a.JPG for a.jpg.
"""

import os
import unicodedata
from collections.abc import Iterable

from pvt_jax.errors import UserError
from pvt_jax.messages import escaped_name


def composed(name: str) -> str:
    """Returns a name in the form NFC of Unicode."""
    return unicodedata.normalize("NFC", name)


def plain_path(path: str) -> str:
    """Returns a path with slashes, and without "./" before it."""
    return path.replace("\\", "/").removeprefix("./")


class Names:
    """Names that are there, found under other spellings too."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._alike: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """Returns the name that is there, as it is spelled there; None if none is, or several are as near."""
        if name in self._names:
            return name
        if self._alike is None:
            self._alike = {}
            for other in self._names:
                self._alike.setdefault(_loosely(other), []).append(other)
        alike = self._alike.get(_loosely(name.strip()), [])
        found = [other for other in alike if composed(other) == composed(name)] or alike
        return found[0] if len(found) == 1 else None


def _loosely(name: str) -> str:
    stem, ending = os.path.splitext(composed(name))
    return stem + ending.lower()


class Disk:
    """Folders, listed once each: 118,000 single queries take minutes over a network."""

    def __init__(self) -> None:
        self._names: dict[str, Names] = {}
        self._folders: dict[tuple[str, str], str | None] = {}

    def find(self, folder: str, path: str) -> str | None:
        """Returns a path below ``folder`` as it is spelled there; None if it is not there.

        Raises UserError: a folder cannot be listed.
        """
        head, tail = os.path.split(path)
        if (folder, head) not in self._folders:
            self._folders[folder, head] = self._find_folder(folder, head)
        below = self._folders[folder, head]
        name = None if below is None else self._listed(os.path.join(folder, below)).find(tail)
        return None if name is None or below is None else os.path.join(below, name)

    def _find_folder(self, folder: str, path: str) -> str | None:
        if not path or os.path.isdir(os.path.join(folder, path)):
            return path
        return None if os.path.isabs(path) else self.find(folder, path)

    def _listed(self, folder: str) -> Names:
        if folder not in self._names:
            try:
                self._names[folder] = Names(os.listdir(folder) if os.path.isdir(folder) else ())
            except (OSError, ValueError) as error:
                raise UserError(f"cannot list the folder {escaped_name(folder)} ({error})") from error
        return self._names[folder]
