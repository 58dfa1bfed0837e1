"""Lists of the images of a split, a line each, as people and tools write them."""

import os
import re
from collections.abc import Collection, Iterable, Iterator

from pvt_jax.files.folders import read_file
from pvt_jax.files.spellings import Names, plain_path
from pvt_jax.files.text import check_utf8, file_names, is_comment


class SplitList:
    """The lines of a list that name images, in their order.

    A line may be quoted, have an extension, start with the path of the images' folder, and be followed by a label -1, 0
    or 1 as in Pascal VOC's lists of a class. Names may contain blanks and end in a number.

    Args:
        path: of the list.
        known: the stems that are there, paths relative to ``folder``.
        folder: of the images.
        endings: extensions that a name may have, without dots and in lower case; None for any.
        label_first: whether a number at the end is rather a label than part of the name.
        any_rest: whether anything may follow a name, after a blank.

    Attributes:
        stems: what is meant, as it is spelled in ``known``.
        unknown: lines that name nothing there.

    Raises UserError: a line names nothing there, and the file is not UTF-8.
    """

    def __init__(
        self,
        path: str,
        known: Iterable[str],
        folder: str,
        endings: Collection[str] | None,
        *,
        label_first: bool = False,
        any_rest: bool = False,
    ) -> None:
        self._known, self._endings = Names(known), endings
        self._folder = os.path.basename(os.path.normpath(folder))
        self._label_first, self._any_rest = label_first, any_rest
        data = read_file(path)
        meant = [(line, self._meant(line)) for line in file_names(path, data)]
        self.stems = [stem for _, stem in meant if stem is not None]
        self.unknown = [line for line, stem in meant if stem is None and not is_comment(line)]
        if self.unknown:
            check_utf8(path, data)

    def _meant(self, line: str) -> str | None:
        found = (self._known.find(spelling) for spelling in self._spellings(line))
        return next((stem for stem in found if stem is not None), None)

    def _spellings(self, line: str) -> Iterator[str]:
        """Yields the stems that a line may mean, the likeliest first."""
        for name in self._names(line):
            path = plain_path(name)
            # Lists of other tools have the paths of files, some of another machine.
            below = path.rpartition(f"{self._folder}/")[2]
            for choice in dict.fromkeys((name, path, below)):
                stem, ending = os.path.splitext(choice)
                yield choice
                if self._endings is None or ending[1:].lower() in self._endings:
                    yield stem

    def _names(self, line: str) -> list[str]:
        label = r"\s+(?:-1|0|1)"
        quoted = re.fullmatch(rf'"(.+)"(?:{label})?', line)
        labelled = re.fullmatch(rf"(.*\S){label}", line)
        names = [found[1] for found in (quoted, labelled) if found]
        in_order = [*names, line] if self._label_first or quoted else [line, *names]
        return [*in_order, line.split()[0]] if self._any_rest else in_order
