"""Where the annotations and images of a data set are that has COCO's format.

These layouts are found by themselves; {split} is train2017, train or training, and val2017, val, valid, validation or
test:

- annotations/instances_{split}.json, as COCO has it, also {split}.json there; images in {split}, images/{split},
  {split}/images or images;
- {split}/_annotations.coco.json beside the images, as Roboflow exports it; {split}.json, {split}/annotations.json,
  {split}/result.json;
- any other one JSON in the root or in annotations whose name has the word train, and val, valid, validation or test.
"""

import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from pvt_jax.data.headers import printable
from pvt_jax.data.sources import Split
from pvt_jax.data.sources.detection import HALVES, Splits, printable_name
from pvt_jax.data.sources.folder import list_folder, listed
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
    "{split}/result.json",
)
# Where images are, below the root. Beside their annotations comes first.
_IMAGES = ("{split}", "images/{split}", "{split}/images", "images", "JPEGImages", "")
# COCO's other annotations of the same images.
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_")
_PROBES = 64


def find_annotations(root: str, split: Split, splits: Splits, pattern: str = "") -> tuple[str, str]:
    """Returns the path of the annotations of one half, and the name of its split."""
    if pattern and "{split}" not in pattern:
        raise UserError(
            f"detection.annotations '{pattern}' has no {{split}}: write {{split}} where data.train_split and "
            f"data.eval_split go, such as 'annotations/{{split}}.json'"
        )
    names = (splits[split],) if splits[split] else SPLIT_NAMES[split]
    patterns = (pattern,) if pattern else _ANNOTATIONS
    places = [(candidate.replace("{split}", name), name) for candidate in patterns for name in names]
    found = next((place for place in places if os.path.isfile(os.path.join(root, place[0]))), None)
    alike = [] if found or pattern else _with_the_word(root, names)
    if len(alike) == 1:
        found = alike[0]
    if found:
        return os.path.normpath(os.path.join(root, found[0])), found[1]
    folders = list_folder(root)[1]
    beside, below = _jsons(root, ""), _jsons(root, "annotations") if "annotations" in folders else []
    has = sorted([*beside, *(f"{name}/" for name in folders)])
    inside = f", and annotations/ {listed(below)}" if below else ""
    looked_for = f"{listed(patterns)}, with {' or '.join(names)} for {{split}}"
    choices = f"; {listed([place for place, _ in alike])} all could be meant" if alike else ""
    key = {"train": "train_split", "eval": "eval_split"}[split]
    aside = "put some of the images aside for it, or " * (split == "eval" and not splits[split])
    way_out = f"{aside}set detection.annotations, such as 'annotations/{{split}}.json', and data.{key}"
    if not pattern and not splits[split] and len(beside) + len(below) == 1:
        way_out = _about_one_file(root, [*beside, *(f"annotations/{name}" for name in below)][0], split)
    nested = [name for name in folders if any(os.path.isfile(os.path.join(root, name, place)) for place, _ in places)]
    if len(nested) == 1:
        way_out = f"did you mean --config.data.root={os.path.join(root, nested[0])}?"
    raise UserError(
        printable(
            f"no {HALVES[split]} annotations in {root}: looked for {looked_for}{choices}; it holds "
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
        UserError: no such folder, or images that are missing.
    """
    beside = os.path.relpath(os.path.dirname(path), root)
    places = [pattern] if pattern else [*([beside] if beside != "." else []), *_IMAGES]
    names = (split, os.path.splitext(os.path.basename(path))[0].removeprefix("instances_"))
    paths = [os.path.join(root, place.replace("{split}", name)) for place in places for name in names]
    folders = [folder for folder in dict.fromkeys(map(os.path.normpath, paths)) if os.path.isdir(folder)]
    # Label tools write the path as it was on their machine; the last part of it still holds.
    last = [os.path.basename(name) for name in listed_files]
    probes = np.unique(np.linspace(0, len(last) - 1, min(_PROBES, len(last))).astype(np.int64)).tolist()
    choices = [(folder, files) for files in (list(listed_files), last) for folder in folders]
    found = [sum(_exists(os.path.join(folder, files[probe])) for probe in probes) for folder, files in choices]
    if not any(found):
        looked_in = listed([os.path.relpath(folder, root) for folder in folders], 30)
        if pattern and not looked_in:
            raise UserError(
                f"there is no folder {printable(pattern.replace('{split}', split))} in {printable(root)}: set "
                f"detection.image_folder to that of the images, below data.root"
            )
        raise UserError(
            f"none of the images that {printable(path)} lists is there, such as '{printable_name(listed_files[0])}': "
            f"looked in {printable(looked_in)} of {printable(root)}{_other_spelling(folders, last[0])}; put them "
            f"there, or set detection.image_folder"
        )
    folder, files = choices[int(np.argmax(found))]
    check_present(folder, files, path)
    return folder, files


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
                raise UserError(f"cannot list the folder {printable_name(inside)} ({error})") from error
        if tail not in present[head]:
            missing.append(name)
    if missing:
        found = [printable_name(name) for name in missing]
        raise UserError(
            f"{len(missing):,} of the {len(files):,} images that {printable(path)} lists are missing in "
            f"{printable(folder)}: {listed(found, 3)}{_other_spelling([folder], missing[0])}; fetch them, or remove "
            f"them from the annotations"
        )


def _other_spelling(folders: Sequence[str], name: str) -> str:
    """Returns a hint where a folder has the name in another encoding or form of Unicode, or ""."""
    plain = unicodedata.normalize("NFC", os.path.basename(name))
    for folder in folders:
        for other in os.listdir(folder):
            if unicodedata.normalize("NFC", other) == plain and other != os.path.basename(name):
                return f" ({printable(folder)} has that name in another form of Unicode: rename the file)"
            if not _is_utf8(other) and os.fsencode(other).decode("latin-1") == plain:
                return f" ({printable(folder)} has '{printable(other)}', whose name is not UTF-8: rename the file)"
    return ""


def _is_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
