"""Where the annotations and images of a data set are that has COCO's format.

These layouts are found by themselves; {split} is train2017, train or training, and val2017, val, valid, validation or
test:

- annotations/instances_{split}.json, as COCO has it, also {split}.json there; images in {split}, images/{split},
  {split}/images or images;
- {split}/_annotations.coco.json beside the images, as Roboflow exports it; {split}.json, {split}/annotations.json,
  {split}/result.json;
- {split}/annotations/instances_default.json, as each task of CVAT is exported; images in {split}/images/default,
  {split}/images or {split};
- {split}/labels.json, as FiftyOne exports it; images in {split}/data;
- these in other upper and lower case, such as Train;
- any other one JSON in the root or in annotations whose name has the word train, and val, valid, validation or test.

An image that is listed by its path on another machine, or with %20 for a space, is looked for by the last part of its
path, and as the name is without such codes.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np

from pvt_jax.data.files import list_folder, names_in
from pvt_jax.data.formats.folder import in_other_case
from pvt_jax.data.records import SPLIT_WORDS, Request, Split
from pvt_jax.data.text import escaped, escaped_name, listed
from pvt_jax.errors import UserError

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train2017", "train", "training"),
    "eval": ("val2017", "val", "valid", "validation", "test"),
}
_ANNOTATIONS = (
    "annotations/instances_{split}.json",
    "{split}/_annotations.coco.json",
    "annotations/{split}.json",
    "{split}.json",
    "{split}/annotations.json",
    "{split}/annotations/instances_default.json",
    "{split}/result.json",
    "{split}/labels.json",
)
# Where images are, below the root. Beside their annotations comes first.
_IMAGES = (
    "{split}",
    "images/{split}",
    "{split}/images",
    "{split}/images/default",
    "{split}/data",
    "images",
    "JPEGImages",
    "",
)
# COCO's other annotations of the same images.
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_")
_PROBES = 64


def find_annotations(root: str, request: Request) -> tuple[str, str]:
    """Returns the path of the annotations of one half, and the name of its split."""
    split, pattern = request.split, request.options.annotations
    if pattern and "{split}" not in pattern:
        raise UserError(
            f"detection.annotations '{pattern}' has no {{split}}: write {{split}} where data.train_split and "
            f"data.eval_split go, such as 'annotations/{{split}}.json'"
        )
    names = (request.split_name,) if request.split_name else SPLIT_NAMES[split]
    patterns = (pattern,) if pattern else _ANNOTATIONS
    places = [(candidate.replace("{split}", name), name) for candidate in patterns for name in names]
    found = next((place for place in places if os.path.isfile(os.path.join(root, place[0]))), None)
    alike = [] if found or pattern else _with_the_word(root, names)
    if len(alike) == 1:
        found = alike[0]
    if not found and not alike and not pattern:
        spelled = ((in_other_case(root, place, os.path.isfile), name) for place, name in places)
        found = next(((place, name) for place, name in spelled if place), None)
    if found:
        return os.path.normpath(os.path.join(root, found[0])), found[1]
    folders = list_folder(root)[1]
    beside, below = _jsons(root, ""), _jsons(root, "annotations") if "annotations" in folders else []
    has = sorted([*beside, *(f"{name}/" for name in folders)])
    inside = f", and annotations/ {listed(below)}" if below else ""
    looked_for = f"{listed(patterns)}, with {' or '.join(names)} for {{split}}"
    choices = f"; {listed([place for place, _ in alike])} all could be meant" if alike else ""
    key = {"train": "train_split", "eval": "eval_split"}[split]
    aside = "put some of the images aside for it, or " * (split == "eval" and not request.split_name)
    way_out = f"{aside}set detection.annotations, such as 'annotations/{{split}}.json', and data.{key}"
    if not pattern and not request.split_name and len(beside) + len(below) == 1:
        way_out = _about_one_file(root, [*beside, *(f"annotations/{name}" for name in below)][0], split)
    nested = [name for name in folders if any(os.path.isfile(os.path.join(root, name, place)) for place, _ in places)]
    if len(nested) == 1:
        way_out = f"did you mean --config.data.root={os.path.join(root, nested[0])}?"
    raise UserError(
        escaped(
            f"no {SPLIT_WORDS[split]} annotations in {root}: looked for {looked_for}{choices}; it holds "
            f"{listed(has) or 'no folder and no JSON'}{inside}; {way_out}"
        )
    )


def _about_one_file(root: str, name: str, split: Split) -> str:
    """Returns the way out where there is one file of annotations, and more than one is wanted."""
    if name == "_annotations.coco.json":
        return f"did you mean the folder above, {os.path.dirname(root)}?"
    halves = (
        f"split {name} into train.json and val.json" if split == "train" else "move some images to one called val.json"
    )
    return f"training and evaluation need a file each: {halves}"


def _jsons(root: str, folder: str) -> list[str]:
    return sorted(name for name in list_folder(os.path.join(root, folder))[0] if name.lower().endswith(".json"))


def _with_the_word(root: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the JSONs in the root or in annotations whose name has one of ``names`` as a word, and that name."""
    folders = [folder for folder in ("", "annotations") if os.path.isdir(os.path.join(root, folder))]
    paths = [os.path.join(folder, name) for folder in folders for name in _jsons(root, folder)]
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

    Args:
        root: of the data set.
        path, split: as ``find_annotations`` returns them.
        listed_files: paths of the images as the annotations have them.
        pattern: the folder below the root, with {split}; "" for layouts that are known.

    Raises:
        UserError: no such folder, images that are missing, or several that would be one file.
    """
    beside = os.path.relpath(os.path.dirname(path), root)
    places = [pattern] if pattern else [*([beside] if beside != "." else []), *_IMAGES]
    names = (split, os.path.splitext(os.path.basename(path))[0].removeprefix("instances_"))
    paths = [os.path.join(root, place.replace("{split}", name)) for place in places for name in names]
    folders = [folder for folder in dict.fromkeys(map(os.path.normpath, paths)) if os.path.isdir(folder)]
    spellings = _spellings(listed_files)
    choice = _choose(folders, spellings)
    if not choice and not pattern:
        others = [in_other_case(root, os.path.relpath(path, root), os.path.isdir) for path in paths]
        others = [os.path.normpath(os.path.join(root, other)) for other in others if other]
        choice = _choose(others, spellings)
        folders = list(dict.fromkeys([*folders, *others]))
    if not choice:
        looked_in = listed([os.path.relpath(folder, root) for folder in folders], 30)
        if pattern and not looked_in:
            raise UserError(
                f"there is no folder {escaped(pattern.replace('{split}', split))} in {escaped(root)}: set "
                f"detection.image_folder to that of the images, below data.root"
            )
        raise UserError(
            f"none of the images that {escaped(path)} lists is there, such as '{escaped_name(listed_files[0])}': "
            f"looked in {escaped(looked_in)} of {escaped(root)}{_other_spelling(folders, listed_files[0])}; put "
            f"them there, or set detection.image_folder"
        )
    folder, files = choice
    _check_distinct(listed_files, files, folder, path)
    check_present(folder, files, path)
    return folder, files


def _spellings(listed_files: Sequence[str]) -> list[list[str]]:
    """Returns the paths of images as they may be on the disk, the likeliest first."""
    # Label tools write the path as it was on their machine, of which the last part still holds, or as that of a URL.
    spellings = [list(listed_files), [os.path.basename(name) for name in listed_files]]
    if any("%" in name for name in listed_files):
        plain = [unquote(name) for name in listed_files]
        spellings[1:1] = [plain]
        spellings.append([os.path.basename(name) for name in plain])
    return spellings


def _choose(folders: Sequence[str], spellings: Sequence[list[str]]) -> tuple[str, list[str]] | None:
    """Returns the folder and the spelling in which most of the images tried are there; None if none is."""
    choices = [(folder, files) for files in spellings for folder in folders]
    count = len(spellings[0])
    probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64)).tolist()
    found = [sum(_exists(os.path.join(folder, files[probe])) for probe in probes) for folder, files in choices]
    return choices[int(np.argmax(found))] if any(found) else None


def _check_distinct(listed_files: Sequence[str], files: Sequence[str], folder: str, path: str) -> None:
    """Raises UserError where images that are listed by different paths would be one file."""
    first: dict[str, str] = {}
    for listed_file, file in zip(listed_files, files, strict=True):
        other = first.setdefault(file, listed_file)
        if other != listed_file:
            raise UserError(
                f"{escaped(path)} lists '{escaped_name(other)}' and '{escaped_name(listed_file)}', and both "
                f"would be '{escaped_name(file)}' in {escaped(folder)}: keep the folders that they are in below "
                f"{escaped(folder)}, or set detection.image_folder to where these folders are"
            )


def _exists(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except (ValueError, UnicodeEncodeError):
        return False


def check_present(folder: str, files: Sequence[str], path: str) -> None:
    """Raises UserError unless all ``files``, which ``path`` lists, are in ``folder`` or below it."""
    # Whole folders are listed: to ask for 118,000 files one by one takes minutes over a network.
    present: dict[str, set[str]] = {}
    missing = []
    for name in files:
        head, tail = os.path.split(name)
        if head not in present:
            inside = os.path.join(folder, head)
            try:
                present[head] = set(os.listdir(inside)) if os.path.isdir(inside) else set()
            except (OSError, ValueError) as error:
                raise UserError(f"cannot list the folder {escaped_name(inside)} ({error})") from error
        if tail not in present[head]:
            missing.append(name)
    if missing:
        found = [escaped_name(name) for name in missing]
        raise UserError(
            f"{len(missing):,} of the {len(files):,} images that {escaped(path)} lists are missing in "
            f"{escaped(folder)}: {listed(found, 3)}{_other_spelling([folder], missing[0])}; fetch them, or remove "
            f"them from the annotations"
        )


def _other_spelling(folders: Sequence[str], name: str) -> str:
    """Returns a hint where a folder has the name in another encoding, form of Unicode or case, or below it, or ""."""
    head, tail = os.path.split(name)
    plain = unicodedata.normalize("NFC", tail)
    inside = [os.path.normpath(os.path.join(folder, head)) for folder in folders]
    for folder in dict.fromkeys([*inside, *folders]):
        for other in names_in(folder):
            if other == tail:
                continue
            here, normal = escaped(folder), unicodedata.normalize("NFC", other)
            if normal == plain:
                return f" ({here} has that name in another form of Unicode: rename the file)"
            if not _is_utf8(other) and os.fsencode(other).decode("latin-1") == plain:
                return f" ({here} has '{escaped(other)}', whose name is not UTF-8: rename the file)"
            if normal.lower() == plain.lower():
                return f" ({here} has '{escaped(other)}', in another upper and lower case: rename the file)"
    for folder in folders:
        for below in sorted(names_in(folder)):
            if _exists(os.path.join(folder, below, tail)):
                return f" ({escaped(os.path.join(folder, below))} has it: move what is there up)"
    return ""


def _is_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
