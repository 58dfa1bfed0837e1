"""Where the XML files and images of a data set in the format of Pascal VOC are.

Known layouts are those of ``_LAYOUTS``: Pascal VOC's own, with the stems of each split in ImageSets/Main/{split}.txt;
VoTT's, where each class has a list and a split is all that any of them names; XML files beside the images, of Roboflow;
and those of Label Studio ({split}/Annotations) and FiftyOne ({split}/labels).

A stem may be a path, s/x of Annotations/s/x.xml, as CVAT exports it.
"""

import itertools
import os
from collections.abc import Collection, Sequence

from pvt_jax.data.formats.layouts import (
    HOLD_OUT,
    SPLIT_NAMES,
    VALIDATION,
    Found,
    Layout,
    NoLayoutError,
    Tree,
    find_layout,
    names_in_turn,
    no_layout,
    refuse_holdout,
    split_names,
)
from pvt_jax.data.formats.split_lists import SplitList
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import scan
from pvt_jax.files.kinds import EXTENSIONS, UNREAD
from pvt_jax.messages import escaped, listed

# "*" stands for the name of a class.
_LISTS = ("ImageSets/Main/{split}.txt", "ImageSets/Main/*_{split}.txt", "{split}.txt")
# Folders of the XML files and of the images, and the list of stems where these are not split.
_LAYOUTS = (
    Layout("Annotations", "JPEGImages|images", _LISTS[0]),
    Layout("Annotations", "JPEGImages|images", _LISTS[1]),
    Layout("{split}", "{split}"),
    Layout("{split}/Annotations", "{split}/JPEGImages|images"),
    Layout("{split}/labels", "{split}/data"),
    Layout("Annotations/{split}", "JPEGImages|images/{split}"),
    Layout("Annotations", "JPEGImages|images", _LISTS[2]),
)
# Data that is not divided.
_WHOLE = (
    Layout("Annotations|annotation|annots|xml|xmls|labels", "JPEGImages|images|image|imgs|img"),
    Layout("", ""),
)


def find_folders(root: str, request: Request) -> tuple[Found, bool]:
    """Returns where a split of the data set in ``root`` is, as the config names or in a known layout.

    These are the folders of XML files and of images, and lists of stems where they are not split; and whether files in
    folders below the two belong to it. Raises NoLayoutError: it is nowhere.
    """
    options: ObjectOptions = request.options
    layouts, whole = _LAYOUTS, _WHOLE
    if options.annotations or options.image_folder:
        folders = options.annotations or options.image_folder, options.image_folder or options.annotations
        lists = [()] if "{split}" in folders[0] else [(path,) for path in _LISTS]
        layouts = tuple(Layout(*folders, *path, as_named=True) for path in lists)
        whole = () if "{split}" in folders[0] else (Layout(*folders, as_named=True),)
    tree = Tree(root)
    if request.holdout:
        refuse_holdout(request, _find(tree, layouts, VALIDATION)[0])
    found, nested = _find(tree, layouts, split_names(request.place))
    if not found and request.takes_whole:
        found, nested = _find(tree, whole, ("",))
    if not found:
        raise _not_found(tree, request, layouts)
    return found, nested or len(found.places) > 2


def _find(tree: Tree, layouts: Sequence[Layout], split: Sequence[str]) -> tuple[Found | None, bool]:
    """Returns where the data of a split is, None for nowhere, and whether it includes files in folders below."""

    def has_xml(found: Found, nested: bool) -> bool:
        # One folder may hold those of both splits, with XML files and images apart in it.
        is_whole = nested and found.split and not found.places[2:] and found[0] == found[1]
        return not is_whole and bool(with_extension(scan(found[0], nested), ("xml",)))

    # XML files in folders below come last: they may be a copy, or another layout.
    for names, nested in itertools.product(names_in_turn(split), (False, True)):
        found = find_layout(tree, layouts, names, lambda found, nested=nested: has_xml(found, nested))
        if found:
            return found, nested
    return None, False


def _not_found(tree: Tree, request: Request, layouts: Sequence[Layout]) -> NoLayoutError:
    way_out = (
        f"set data.{request.split}_split, or detection.annotations and image_folder, such as 'xml/{{split}}' and "
        f"'img/{{split}}'"
    )
    if not request.split_name and layouts is _LAYOUTS and not _find(tree, layouts, VALIDATION)[0]:
        way_out = _about_splits(tree, {"train": "train", "eval": "val"}[request.split]) or way_out
    roots = (Layout("Annotations"),)
    return no_layout(tree, request, "images with XML files", layouts, way_out, roots=roots)


def _about_splits(tree: Tree, name: str) -> str:
    """Returns the way out where XML files are not divided into training and evaluation data, else ""."""
    if tree.find("Annotations", any_case=True) and find_layout(tree, (Layout("JPEGImages|images"),), ("",)):
        how = f"write the names of its images, without extension, into ImageSets/Main/{name}.txt, a line each"
    elif _find(tree, _WHOLE, ("",))[0] and not _find(tree, _LAYOUTS, SPLIT_NAMES["train"])[0]:
        how = "put XML files and images into two folders there, train and valid"
    else:
        return ""
    return f"{HOLD_OUT}, or {how}"


def with_extension(paths: Sequence[str], extensions: Collection[str]) -> list[str]:
    """Returns those of ``paths`` that end in one of ``extensions``, in any case of letters."""
    return [path for path in paths if os.path.splitext(path)[1][1:].lower() in extensions]


def read_lists(found: Found, known: Collection[str]) -> tuple[list[str], int]:
    """Returns the stems in the lists of a split, each once, and how many lines repeat one.

    The stems of its XML files are ``known``. Raises UserError: a list cannot be read, names what is not known, or all
    are empty.
    """
    lists, of_classes = found.places[2], "*" in found.layout.patterns[2]
    stems: dict[str, None] = {}
    repeated = 0
    for path in lists:
        read = SplitList(path, known, found[1], EXTENSIONS | UNREAD.keys() | {"xml"}, label_first=of_classes)
        if missing := read.unknown:
            way_out = "add them, or correct the list"
            if missing[0].split()[0] in known:
                way_out = "write the name of an image on each line, and nothing after it"
            raise UserError(
                escaped(
                    f"{path} lists {len(missing):,} images that have no XML file in {found[0]}: "
                    f"{listed(missing, 3)}; {way_out}"
                )
            )
        named = dict.fromkeys(read.stems)
        repeated += len(read.stems) - len(named)
        stems |= named
    if not stems:
        are = "is empty" if len(lists) == 1 else f"and {len(lists) - 1} others are empty"
        raise UserError(f"{escaped(lists[0])} {are}: write the names of images there, without extension, a line each")
    return list(stems), repeated
