"""Where the files of a data set are: one finder for the layouts of all formats.

A format's layouts are rows of patterns, paths below the root of the data set. In a pattern

- {split} stands for the name of the split, one of ``SPLIT_NAMES`` unless the config names it;
- a|b, within one part of the path, stands for either of the two;
- "*" in the last part stands for any characters of a file's name;
- an extension, such as .json, says that it is a file; others are folders.

Names spelled exactly so come first, then those in other upper and lower case. Data for testing is evaluated on only
where there is none for validation, in any layout and spelling.
"""

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pvt_jax.data.formats.tools import known_tool
from pvt_jax.data.records import SPLIT_WORDS, Request, Split
from pvt_jax.errors import UserError
from pvt_jax.files.folders import list_folder
from pvt_jax.messages import escaped, listed

# The likelier first.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train2017", "train", "trainval", "training"),
    "eval": ("val2017", "val", "valid", "validation", "test"),
}
# What is taken for lack of anything else.
_LAST = "test"
# What data that is to be divided must not have.
VALIDATION = tuple(name for name in SPLIT_NAMES["eval"] if name != _LAST)
# What may be listed beside its parts.
_BOTH = "trainval"
_HOLDOUT = "--config.data.holdout=0.2"
# The way out where there is data that is not divided.
HOLD_OUT = f"add {_HOLDOUT}, which keeps a fifth of the images for evaluation"
# Folders whose own folders are tried, too, where a data set may have been unpacked: listing many takes time.
_MOST_OPENED = 50


class NoLayoutError(UserError):
    """A folder has none of the layouts of a format."""


def split_names(request: Request) -> tuple[str, ...]:
    """Returns the names that the wanted split may have in the data set."""
    return (request.split_name,) if request.split_name else SPLIT_NAMES[request.split]


def names_in_turn(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the names of a split in groups; where nothing has a name of the first one, the next is tried."""
    first, last = ([name for name in names if (name == _LAST) == is_last] for is_last in (False, True))
    return [tuple(some) for some in (first, last) if some]


def about_place(tree: "Tree", found: "Found", request: Request) -> list[str]:
    """Returns notes as ``about_split``, or on the same layout under another name of the split, which is not read."""
    if request.split_name or found.split in (_LAST, _BOTH):
        return about_split(found.split, request)
    others = [
        repr(name)
        for name in SPLIT_NAMES[request.split]
        if name not in (found.split, _LAST, _BOTH)
        and any(places != found.places for places in found.layout.places(tree, name, any_case=True))
    ]
    return [f"'{found.split}' is used, and {listed(others)} beside it is not"] * bool(others)


class Layout:
    """Patterns of the places that a format needs; see the module.

    ``as_named``: whether a config names the places, which then are files or folders without alternatives.
    """

    def __init__(self, *patterns: str, as_named: bool = False) -> None:
        self.patterns = patterns
        self._is_there = os.path.exists if as_named else None
        parts = [[part.split("|") for part in pattern.split("/")] for pattern in patterns]
        choices = [["/".join(chosen) for chosen in itertools.product(*pattern)] for pattern in parts]
        self._choices = [patterns] if as_named else list(itertools.product(*choices))

    def __str__(self) -> str:
        return " + ".join(dict.fromkeys(self.patterns))

    def places(self, tree: "Tree", name: str, any_case: bool) -> "list[tuple[tuple[str, ...], ...]]":
        """Returns the paths of all patterns, for each choice of alternatives that is there for the split ``name``."""
        found = (
            tuple(tree.find(pattern.replace("{split}", name), any_case, self._is_there) for pattern in patterns)
            for patterns in self._choices
        )
        return [places for places in found if all(places)]


@dataclass(frozen=True)
class Found:
    """A layout that is there.

    Attributes:
        layout: which one.
        split: the name of the split.
        places: for each pattern the absolute paths, several where it has a "*".
    """

    layout: Layout
    split: str
    places: tuple[tuple[str, ...], ...]

    def __getitem__(self, pattern: int) -> str:
        return self.places[pattern][0]


class Tree:
    """The folder of a data set. Folders in it are listed once, as that is slow over a network."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.list = functools.cache(list_folder)

    def find(
        self, place: str, any_case: bool = False, is_there: Callable[[str], bool] | None = None
    ) -> tuple[str, ...]:
        """Returns the absolute paths of what is at ``place`` below the root: one, several of a "*", or none.

        With ``any_case`` upper and lower case may differ, unless several names then match.
        """
        folder, name = os.path.split(place)
        if "*" in name and is_there is None:
            first, _, last = name.partition("*")
            same = str.lower if any_case else str
            return tuple(
                os.path.join(path, other)
                for path in self.find(folder, any_case)
                for other in sorted(self.list(path)[0])
                if len(other) >= len(name) - 1
                and same(other).startswith(same(first))
                and same(other).endswith(same(last))
            )
        is_there = is_there or (os.path.isfile if os.path.splitext(place)[1] else os.path.isdir)
        spellings = [os.path.join(self.root, place), *([self._spelled(place)] if any_case else [])]
        return tuple(os.path.normpath(path) for path in spellings if path and is_there(path))[:1]

    def _spelled(self, place: str) -> str:
        """Returns the path whose upper and lower case differs at most; "" if there is none, or several are."""
        found = self.root
        for part in filter(None, place.split("/")):
            names = [name for kind in self.list(found) for name in kind] if os.path.isdir(found) else []
            alike = [part] if part in names else [name for name in names if name.lower() == part.lower()]
            if len(alike) != 1:
                return ""
            found = os.path.join(found, alike[0])
        return found


def find_layout(
    tree: Tree,
    layouts: Sequence[Layout],
    names: Sequence[str],
    accepts: Callable[[Found], bool] = lambda found: True,
    cases: Sequence[bool] = (False, True),
) -> Found | None:
    """Returns the first layout that is there; None if none is.

    Args:
        tree: the data set.
        layouts, names: of the format, and of the split, the likelier first.
        accepts: what else the format wants of it.
        cases: whether other upper and lower case counts, in this order.
    """
    for some in names_in_turn(names):
        for any_case, layout, name in itertools.product(cases, layouts, some):
            for places in layout.places(tree, name, any_case):
                if accepts(found := Found(layout, name, places)):
                    return found
    return None


def find_data(
    tree: Tree,
    request: Request,
    layouts: Sequence[Layout],
    whole: Sequence[Layout] = (),
    accepts: Callable[[Found], bool] = lambda found: True,
    cases: Sequence[bool] = (False, True),
) -> Found | None:
    """Returns where the data of a request is, before it is divided where ``request.holdout`` says so.

    Raises UserError: data to be divided has validation data already.

    Args:
        tree, request: the data set, and which part of it is wanted.
        layouts: of the format.
        whole: of data that is not divided, without {split}.
        accepts, cases: of ``find_layout``.
    """
    if request.holdout:
        refuse_holdout(request, find_layout(tree, layouts, VALIDATION, accepts, cases))
    found = find_layout(tree, layouts, split_names(request.place), accepts, cases)
    return found or (find_layout(tree, whole, ("",), accepts, cases) if request.takes_whole else None)


def refuse_holdout(request: Request, found: "Found | None") -> None:
    """Raises UserError if there is validation data, ``found``, beside data that is to be divided."""
    if found:
        raise UserError(
            f"data.holdout={request.holdout:g} is for data without a validation split, but there is one, "
            f"{escaped(found.places[-1][0])}: leave data.holdout out to evaluate on it, or move it away"
        )


def about_split(split: str, request: Request) -> list[str]:
    """Returns a note where data for testing is evaluated on for lack of any for validation; else none."""
    if request.split_name or split != _LAST or request.split != "eval":
        return []
    return [f"'{_LAST}' is used, as there is no {' or '.join(SPLIT_NAMES['eval'][1:-1])}"]


def no_layout(
    tree: Tree,
    request: Request,
    what: str,
    layouts: Sequence[Layout],
    way_out: str,
    *,
    holds: str = "",
    choices: str = "",
    roots: Sequence[Layout] = (),
    whole: Sequence[Layout] = (),
    accepts: Callable[[Found], bool] = lambda found: True,
    names_tools: bool = True,
) -> NoLayoutError:
    """Returns the error for a data set in none of the ``layouts``.

    Args:
        tree, request: the data set, and which part of it is wanted.
        what: the wanted files, such as "images and label maps".
        layouts: what was looked for.
        way_out: what to do about it, unless one folder below looks like the data set.
        holds: what is there, if it is more than folders.
        choices: what could be meant, but is not alone.
        roots: layouts by which a folder below is recognised; ``layouts`` if not given.
        whole, accepts: of ``find_data``.
        names_tools: whether files of ``TOOLS`` in the data set, which this format is none of, say what to do.
    """
    names = split_names(request.place)
    below = sorted(tree.list(tree.root)[1])
    # Archives often unpack into a folder of their own.
    inside = [os.path.join(folder, name) for folder in below[:_MOST_OPENED] for name in _folders(tree, folder)]
    nested = [
        path
        for path in (os.path.join(tree.root, folder) for folder in [*below, *inside])
        if os.path.basename(path).lower() not in itertools.chain(*SPLIT_NAMES.values())
        and find_layout(Tree(path), roots or layouts, names, accepts)
    ]
    above = os.path.dirname(tree.root)
    if not nested and os.path.basename(tree.root).lower() in itertools.chain(*SPLIT_NAMES.values()):
        nested = [above] * bool(find_layout(Tree(above), roots or layouts, names, accepts))
    undivided = [*([tree.root] if not request.takes_whole else []), *(os.path.join(tree.root, name) for name in below)]
    if find_layout(tree, layouts, VALIDATION, accepts):
        undivided = []
    undivided = [path for path in undivided[:_MOST_OPENED] if find_layout(Tree(path), whole, ("",), accepts)]
    training = () if request.takes_whole or request.split_name else SPLIT_NAMES["train"]
    if len(nested) == 1:
        way_out = f"did you mean --config.data.root={nested[0]}?"
    elif undivided[:1] == [tree.root] or (request.split == "eval" and find_layout(tree, layouts, training, accepts)):
        way_out = way_out if way_out.startswith(HOLD_OUT) else f"{HOLD_OUT}, or {way_out}"
    elif len(undivided) == 1:
        way_out = f"did you mean --config.data.root={undivided[0]}{f' {_HOLDOUT}' * (not request.takes_whole)}?"
    elif request.split == "train" and names_tools:
        way_out = known_tool(tree.root, request.options) or way_out
    looked_for = ", ".join(
        str(layout) or "the folder itself" for layout in [*layouts, *(whole if request.takes_whole else ())]
    )
    return NoLayoutError(
        escaped(
            f"no {SPLIT_WORDS[request.split]} {what} in {tree.root}: looked for {looked_for}, with "
            f"{' or '.join(names)} for {{split}}{choices}; it holds {holds or listed(below) or 'no folder'}; {way_out}"
        )
    )


def _folders(tree: Tree, folder: str) -> list[str]:
    return sorted(tree.list(os.path.join(tree.root, folder))[1])
