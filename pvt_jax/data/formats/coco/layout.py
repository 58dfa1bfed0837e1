"""Where the annotations and images of a data set in COCO's format are.

Known layouts are those of ``_ANNOTATIONS``: COCO's own, those of Roboflow ({split}/_annotations.coco.json), of CVAT
with an export for each split ({split}/annotations/instances_default.json), of Label Studio ({split}/result.json) and of
FiftyOne ({split}/labels.json). The only JSON in the root or in annotations that has the name of the split as a word in
its own name counts, too.
Images are beside their annotations or in one of ``_IMAGES``.

Images listed by a path on another machine, or with %20 for a space, are also looked for by their file name and by the
decoded name; and all in other forms of Unicode and with endings in other upper and lower case.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit

import numpy as np

from pvt_jax.data.formats.layouts import (
    HOLD_OUT,
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
from pvt_jax.data.formats.tools import judged
from pvt_jax.data.records import Request, Split
from pvt_jax.errors import UserError
from pvt_jax.files.folders import names_in
from pvt_jax.files.spellings import Disk
from pvt_jax.messages import escaped, escaped_name, listed

_ANNOTATIONS = (
    Layout("annotations/instances_{split}.json"),
    Layout("{split}/_annotations.coco.json"),
    Layout("annotations/{split}.json"),
    Layout("{split}.json"),
    Layout("{split}/annotations.json"),
    Layout("{split}/annotations/instances_default.json"),
    Layout("{split}/result.json"),
    Layout("{split}/labels.json"),
)
# Below the root; the folder of the annotations comes first.
_IMAGES = (
    "{split}", "images/{split}", "{split}/images", "{split}/images/default", "{split}/data", "images", "JPEGImages", "",
)  # fmt: skip
# COCO's other annotations of the same images.
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_")
_PROBES = 64
# Bytes of a file by which it is judged.
_FIRST = 1 << 16
# Folders of a data set that are looked into.
_MOST_OPENED = 50


def find_annotations(root: str, request: Request) -> tuple[str, str]:
    """Returns the path of the annotations of a split, and what the data set calls it; "" if it is not divided."""
    pattern = request.options.annotations
    if pattern and "{split}" not in pattern and not request.takes_whole:
        raise NoLayoutError(
            f"detection.annotations '{pattern}' has no {{split}}: write {{split}} where data.train_split and "
            f"data.eval_split go, such as 'annotations/{{split}}.json'; if it is one file for all, {HOLD_OUT}"
        )
    tree = Tree(root)
    layouts = (Layout(pattern, as_named=True),) if pattern else _ANNOTATIONS
    if request.holdout and "{split}" in (pattern or "{split}"):
        refuse_holdout(request, _find(tree, layouts, VALIDATION)[0])
    found, alike = _find(tree, layouts, split_names(request.place))
    if found:
        return found[0], found.split if "{split}" in (pattern or "{split}") else ""
    whole = _whole(tree) if request.takes_whole and not (pattern or alike) else []
    if len(whole) == 1:
        return whole[0], ""
    raise _no_annotations(tree, request, layouts, [os.path.relpath(path, root) for path in [*alike, *whole]])


def _find(tree: Tree, layouts: Sequence[Layout], names: Sequence[str]) -> tuple[Found | None, list[str]]:
    """Returns the annotations of a split that has one of ``names``; or None, and what could be meant."""
    for some in names_in_turn(names):
        if found := find_layout(tree, layouts, some, lambda found: os.path.isfile(found[0]), cases=(False,)):
            return found, []
        if layouts is not _ANNOTATIONS:
            continue
        alike = _with_the_word(tree, some)
        if len(alike) == 1:
            return Found(layouts[0], alike[0][1], ((alike[0][0],),)), []
        if alike:
            return None, [path for path, _ in alike]
        if found := find_layout(tree, layouts, some, cases=(True,)):
            return found, []
    return None, []


def _whole(tree: Tree) -> list[str]:
    """Returns the files that look like annotations of COCO, in the root, else in annotations, else one folder below."""
    folders = tree.list(tree.root)[1]
    for some in ([""], [name for name in folders if name.lower() == "annotations"], sorted(folders)[:_MOST_OPENED]):
        paths = [os.path.join(tree.root, folder, name) for folder in some for name in _jsons(tree, folder)]
        found = [path for path in paths if not os.path.basename(path).lower().startswith(_OTHERS)]
        if found := [path for path in found if _looks_like_coco(path)]:
            return found
    return []


def _no_annotations(tree: Tree, request: Request, layouts: Sequence[Layout], alike: Sequence[str]) -> NoLayoutError:
    folders = tree.list(tree.root)[1]
    beside, below = _jsons(tree, ""), _jsons(tree, "annotations") if "annotations" in folders else []
    is_usual = layouts is _ANNOTATIONS and not request.split_name
    aside = f"{HOLD_OUT}, or " * (request.split == "eval" and not request.split_name and not request.takes_whole)
    way_out = f"{aside}set detection.annotations, such as 'annotations/{{split}}.json', and data.{request.split}_split"
    whole = [os.path.relpath(path, tree.root) for path in _whole(tree)] if is_usual and not alike else []
    is_alone = len(whole) == 1 and os.path.dirname(whole[0]).lower() in ("", "annotations")
    if is_alone and not request.takes_whole and not _find(tree, layouts, VALIDATION)[0]:
        way_out = _about_one_file(tree.root, whole[0], request.split)
    elif request.takes_whole and alike:
        way_out = f"set detection.annotations to one of them, such as '{alike[0]}'"
    has = listed(sorted([*beside, *(f"{name}/" for name in folders)])) or "no folder and no JSON"
    return no_layout(
        tree,
        request,
        "annotations",
        layouts,
        way_out,
        holds=f"{has}{f', and annotations/ {listed(below)}' * bool(below)}",
        choices=f"; {listed(alike)} all could be meant" * bool(alike),
    )


def _looks_like_coco(path: str) -> bool:
    """Whether a file begins as JSON with one of the lists of COCO's format, and as none of another tool.

    With categories alone it is the ``notes.json`` that Label Studio writes beside YOLO's labels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_FIRST)
    except OSError:
        return False
    lists = {*re.findall(rb'"(images|annotations|categories)"', data.replace(b"\0", b""))}
    if len(data) < _FIRST:
        lists -= {b"categories"}
    return bool(lists) and not judged(path, data)


def _about_one_file(root: str, name: str, split: Split) -> str:
    """Returns the way out where there is one file of annotations, and more than one is wanted."""
    if name == "_annotations.coco.json":
        return f"did you mean the folder above, {os.path.dirname(root)}?"
    how = (
        f"split {name} into train.json and val.json" if split == "train" else "move some images to one called val.json"
    )
    return f"{HOLD_OUT}, or {how}"


def _jsons(tree: Tree, folder: str) -> list[str]:
    return sorted(name for name in tree.list(os.path.join(tree.root, folder))[0] if name.lower().endswith(".json"))


def _with_the_word(tree: Tree, names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the JSONs in the root or in annotations whose name has one of ``names`` as a word, and that name."""
    folders = ["", *tree.find("annotations")]
    paths = [os.path.join(tree.root, folder, name) for folder in folders for name in _jsons(tree, folder)]
    paths = [path for path in paths if not os.path.basename(path).lower().startswith(_OTHERS)]
    for name in names:
        word = re.compile(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9])")
        if found := [(path, name) for path in paths if word.search(os.path.basename(path).lower())]:
            return found
    return []


def find_images(
    root: str, path: str, split: str, listed_files: Sequence[str], pattern: str = ""
) -> tuple[str, list[str]]:
    """Returns the folder of the images and their paths below it.

    Raises UserError: no such folder, images that are missing, or several that would be one file.

    Args:
        root: of the data set.
        path, split: as ``find_annotations`` returns them.
        listed_files: paths of the images as the annotations have them.
        pattern: the folder below the root, with {split}; "" for the known layouts.
    """
    tree, beside = Tree(root), os.path.relpath(os.path.dirname(path), root)
    patterns = [pattern] if pattern else [*([beside] if beside != "." else []), *_IMAGES]
    names = (split, os.path.splitext(os.path.basename(path))[0].removeprefix("instances_"))
    places = [pattern.replace("{split}", name) for pattern in patterns for name in names]
    disk, spellings, choice, folders = Disk(), _spellings(listed_files), None, []
    others = [os.path.join(tree.root, name) for name in sorted(tree.list(tree.root)[1])[:_MOST_OPENED]]
    for any_case in (False,) if pattern else (False, True, None):
        found = [folder for place in places for folder in tree.find(place, bool(any_case), os.path.isdir)]
        # Data that is not divided may have images in a folder of any name.
        folders = list(dict.fromkeys([*folders, *(others if any_case is None and not split else found)]))
        if choice := _choose(folders, spellings, _exists) or _choose(folders, spellings, disk.find):
            break
    if not choice:
        looked_in = listed([os.path.relpath(folder, root) for folder in folders], 30)
        if pattern and not looked_in:
            raise UserError(
                f"there is no folder {escaped(places[0])} in {escaped(root)}: set detection.image_folder to that of "
                f"the images, below data.root"
            )
        raise UserError(
            f"none of the images that {escaped(path)} lists is there, such as '{escaped_name(listed_files[0])}': "
            f"looked in {escaped(looked_in)} of {escaped(root)}{_other_spelling(folders, listed_files[0])}; put "
            f"them there, or set detection.image_folder"
        )
    folder, names = choice
    found = [
        disk.find(folder, name) or _of_url(disk, folder, listed_file)
        for name, listed_file in zip(names, listed_files, strict=True)
    ]
    files = [name if file is None else file for name, file in zip(names, found, strict=True)]
    _check_distinct(listed_files, files, folder, path)
    if missing := [name for name, file in zip(names, found, strict=True) if file is None]:
        raise UserError(
            f"{len(missing):,} of the {len(files):,} images that {escaped(path)} lists are missing in "
            f"{escaped(folder)}: {listed([escaped_name(name) for name in missing], 3)}"
            f"{_other_spelling([folder], missing[0])}; fetch them, or remove them from the annotations"
        )
    return folder, files


def _spellings(listed_files: Sequence[str]) -> list[list[str]]:
    """Returns the paths that images may have on the disk, the likeliest first."""
    # Label tools write paths of their own machine, whose last part still holds, or those of URLs.
    spellings = [list(listed_files), [os.path.basename(name) for name in listed_files]]
    if any("%" in name or "://" in name for name in listed_files):
        plain = [_path_of_url(name) for name in listed_files]
        spellings[1:1] = [plain]
        spellings.append([os.path.basename(name) for name in plain])
    return spellings


def _path_of_url(name: str) -> str:
    """Returns the path in a URL, without what follows it; of other names what %20 and the like stand for."""
    return unquote(urlsplit(name).path if "://" in name else name)


def _of_url(disk: Disk, folder: str, name: str) -> str | None:
    """Returns the file of one URL among names of other kinds."""
    return disk.find(folder, os.path.basename(_path_of_url(name))) if "://" in name else None


def _choose(
    folders: Sequence[str], spellings: Sequence[list[str]], find: Callable[[str, str], object]
) -> tuple[str, list[str]] | None:
    """Returns the folder and spelling with most of the probed images, as ``find`` finds them; None if none is there."""
    choices = [(folder, files) for files in spellings for folder in folders]
    count = len(spellings[0])
    probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64)).tolist()
    found = [sum(bool(find(folder, files[probe])) for probe in probes) for folder, files in choices]
    return choices[int(np.argmax(found))] if any(found) else None


def _check_distinct(listed_files: Sequence[str], files: Sequence[str], folder: str, path: str) -> None:
    """Raises UserError where images listed by different paths would be one file."""
    first: dict[str, str] = {}
    for listed_file, file in zip(listed_files, files, strict=True):
        other = first.setdefault(file, listed_file)
        if other != listed_file:
            raise UserError(
                f"{escaped(path)} lists '{escaped_name(other)}' and '{escaped_name(listed_file)}', and both "
                f"would be '{escaped_name(file)}' in {escaped(folder)}: keep the folders that they are in below "
                f"{escaped(folder)}, or set detection.image_folder to where these folders are"
            )


def _exists(folder: str, path: str) -> bool:
    try:
        return os.path.isfile(os.path.join(folder, path))
    except (ValueError, UnicodeEncodeError):
        return False


def _other_spelling(folders: Sequence[str], name: str) -> str:
    """Returns a hint where a name differs in encoding or case, or is in a folder below; else ""."""
    head, tail = os.path.split(name)
    plain = unicodedata.normalize("NFC", tail)
    inside = [os.path.normpath(os.path.join(folder, head)) for folder in folders]
    for folder in dict.fromkeys([*inside, *folders]):
        for other in names_in(folder):
            if other == tail:
                continue
            here, normal = escaped(folder), unicodedata.normalize("NFC", other)
            if not _is_utf8(other) and os.fsencode(other).decode("latin-1") == plain:
                return f" ({here} has '{escaped(other)}', whose name is not UTF-8: rename the file)"
            if os.path.splitext(normal)[0] == os.path.splitext(plain)[0]:
                return f" ({here} has '{escaped(other)}': correct the ending)"
            if normal.lower() == plain.lower():
                return f" ({here} has '{escaped(other)}', in another upper and lower case: rename the file)"
    for folder in folders:
        for below in sorted(names_in(folder)):
            if _exists(os.path.join(folder, below), tail):
                return f" ({escaped(os.path.join(folder, below))} has it: move what is there up)"
    return ""


def _is_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
