"""Which images a person means: files, folders and globs, and what each is called in the output."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.files.folders import scan_images
from pvt_jax.messages import escaped


@dataclass(frozen=True)
class Chosen:
    """Images in the order in which they were given, each once.

    Attributes:
      paths: of the files.
      stems: of the files that are written for each, without ending: paths relative to the given folder, or the file's
        name; each once.
      notes: what else folders hold.
    """

    paths: tuple[str, ...]
    stems: tuple[str, ...]
    notes: tuple[str, ...]


def choose(given: Sequence[str]) -> Chosen:
    """The images that paths, folders and globs name; a file that is named itself is taken whatever its ending.

    Raises UserError: a path does not exist, or there is no image in a folder.
    """
    found: dict[str, str] = {}
    notes = []
    for text in given:
        place = paths.local(text, "PATH")
        places = [place]
        if not os.path.lexists(place) and glob.has_magic(place):
            places = sorted(glob.glob(place, recursive=True))
        if not any(map(os.path.lexists, places)):
            raise UserError(f"there is no {escaped(text)}: give files, folders or globs of images")
        for path in places:
            if not os.path.isdir(path):
                found.setdefault(path, os.path.basename(path))
                continue
            images = scan_images(path)
            if not images.paths and len(places) == 1:
                held = f", only {images.unread}" if images.unread else ""
                raise UserError(f"there is no image in {escaped(path)}{held}: give a folder of images")
            notes += images.unread.note(len(images.paths), path)
            # What leads nowhere gets a line that says so.
            for inside in sorted([*images.paths, *images.broken]):
                found.setdefault(os.path.join(path, inside), inside)
    return Chosen(tuple(found), _distinct(list(found.values())), tuple(notes))


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Names without their endings; with them where two would be one, and numbered where they still would."""
    # Case does not tell files apart everywhere.
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stem.casefold() for stem in stems)
    stems = [name if counts[stem.casefold()] > 1 else stem for name, stem in zip(names, stems, strict=True)]
    taken: set[str] = set()
    distinct = []
    for stem in stems:
        candidate, number = stem, 2
        while candidate.casefold() in taken:
            candidate, number = f"{stem}_{number}", number + 1
        taken.add(candidate.casefold())
        distinct.append(candidate)
    return tuple(distinct)
