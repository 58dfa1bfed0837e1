"""Where the XML files and images of a data set are that has the format of Pascal VOC.

These layouts are found by themselves, whatever the case of their letters; {split} is train, trainval or training, and
val, valid, validation or test:

- Annotations + JPEGImages (or images) with the stems in ImageSets/Main/{split}.txt, as Pascal VOC has it; or in a list
  for each class, ImageSets/Main/*_{split}.txt, as VoTT exports it: then all that any of them names;
- {split}, XML files beside the images, as Roboflow exports it; {split}/Annotations + {split}/JPEGImages (or images), as
  Label Studio has it; {split}/labels + {split}/data, as FiftyOne has it; Annotations/{split} + JPEGImages/{split} (or
  images).

A stem may be a path, s/x of Annotations/s/x.xml, as CVAT exports it.
"""

import functools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pvt_jax.data.files import EXTENSIONS, list_folder, read_file, scan
from pvt_jax.data.formats.folder import in_other_case
from pvt_jax.data.options import DetectionOptions
from pvt_jax.data.records import SPLIT_WORDS, Request, Split
from pvt_jax.data.text import escaped, listed
from pvt_jax.errors import UserError

# What files of images are called in formats that are not read.
UNREAD = frozenset(("avif", "gif", "heic", "heif", "jfif", "jp2", "jpe", "pbm", "pgm", "ppm", "tga", "tif", "tiff"))
_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "trainval", "training"),
    "eval": ("val", "valid", "validation", "test"),
}
# "*" stands for the name of a class.
_LISTS = ("ImageSets/Main/{split}.txt", "ImageSets/Main/*_{split}.txt", "{split}.txt")
# Folders of the XML files and of the images, and the list of stems where these are not split.
_LAYOUTS = (
    ("Annotations", "JPEGImages", _LISTS[0]),
    ("Annotations", "images", _LISTS[0]),
    ("Annotations", "JPEGImages", _LISTS[1]),
    ("Annotations", "images", _LISTS[1]),
    ("{split}", "{split}", ""),
    ("{split}/Annotations", "{split}/JPEGImages", ""),
    ("{split}/Annotations", "{split}/images", ""),
    ("{split}/labels", "{split}/data", ""),
    ("Annotations/{split}", "JPEGImages/{split}", ""),
    ("Annotations/{split}", "images/{split}", ""),
    ("Annotations", "JPEGImages", _LISTS[2]),
    ("Annotations", "images", _LISTS[2]),
)


@dataclass(frozen=True)
class Layout:
    """Where one half of a data set is.

    Attributes:
        xml_folder, image_folder: their paths.
        lists: paths of the files that name its images; none where it is all that the folders hold.
        of_classes: whether each list is of a class, with a label after each name.
        nested: whether what is in folders below the two belongs to it.
    """

    xml_folder: str
    image_folder: str
    lists: tuple[str, ...]
    of_classes: bool
    nested: bool


class _Tree:
    """A data set's folders, each listed once: over a network that is slow."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._list = functools.cache(list_folder)

    def find(self, path: str) -> str:
        """Returns the path of what is at ``path`` below the root, in another case of letters if need be; "" of none."""
        if os.path.exists(os.path.join(self.root, path)):
            return os.path.normpath(os.path.join(self.root, path))
        found = in_other_case(self.root, path, os.path.exists, self._names_in)
        return os.path.normpath(os.path.join(self.root, found)) if found else ""

    def _names_in(self, folder: str) -> list[str]:
        return [name for kind in self._list(folder) for name in kind] if os.path.isdir(folder) else []

    def lists(self, pattern: str) -> tuple[str, ...]:
        """Returns the paths of the files at ``pattern`` below the root, whose last part may start with "*"."""
        folder, name = os.path.split(pattern)
        if not name.startswith("*"):
            path = self.find(pattern)
            return (path,) if os.path.isfile(path) else ()
        folder = self.find(folder)
        names = sorted(self._list(folder)[0]) if os.path.isdir(folder) else []
        return tuple(os.path.join(folder, other) for other in names if other.lower().endswith(name[1:].lower()))


def find_layout(root: str, request: Request) -> Layout:
    """Returns where one half of the data set in ``root`` is, as ``options`` say or in a layout that is known.

    Raises:
        UserError: there is none.
    """
    options: DetectionOptions = request.options
    names = (request.split_name,) if request.split_name else _SPLIT_NAMES[request.split]
    layouts = _LAYOUTS
    if options.annotations or options.image_folder:
        xml_folder = options.annotations or options.image_folder
        image_folder = options.image_folder or options.annotations
        layouts = tuple((xml_folder, image_folder, path) for path in (("",) if "{split}" in xml_folder else _LISTS))
    tree = _Tree(root)
    # XML files in folders below come last: they may be a copy, or another layout.
    for nested in (False, True):
        for folders_and_list in layouts:
            for name in names:
                xml_folder, image_folder, path = (part.replace("{split}", name) for part in folders_and_list)
                xml_folder, image_folder, lists = tree.find(xml_folder), tree.find(image_folder), tree.lists(path)
                if not (os.path.isdir(xml_folder) and os.path.isdir(image_folder)) or (path and not lists):
                    continue
                # One folder may hold those of both, and XML files and images may again be apart in it.
                if nested and not path and xml_folder == image_folder:
                    continue
                if with_extension(scan(xml_folder, nested), ("xml",)):
                    lists = lists if path else ()
                    return Layout(xml_folder, image_folder, lists, "*" in path, nested or bool(path))
    raise UserError(escaped(_not_found(tree, request, layouts, names)))


def _not_found(tree: _Tree, request: Request, layouts: Sequence[tuple[str, str, str]], names: Sequence[str]) -> str:
    root, split = tree.root, request.split
    below = sorted(list_folder(root)[1])
    looked_for = "; ".join(" + ".join(dict.fromkeys(path for path in layout if path)) for layout in layouts)
    key = {"train": "train_split", "eval": "eval_split"}[split]
    way_out = f"set data.{key}, or detection.annotations and image_folder, such as 'xml/{{split}}' and 'img/{{split}}'"
    if not request.split_name and layouts is _LAYOUTS:
        way_out = _about_halves(tree, names[0]) or way_out
    nested = [os.path.join(folder, name) for folder in below for name in ("", *_folders(os.path.join(root, folder)))]
    nested = [os.path.normpath(folder) for folder in nested if tree.find(os.path.join(folder, "Annotations"))]
    if len(nested) == 1 and os.path.basename(nested[0]).lower() not in names:
        way_out = f"did you mean --config.data.root={os.path.normpath(os.path.join(root, nested[0]))}?"
    return (
        f"no {SPLIT_WORDS[split]} images with XML files in {root}: looked for {looked_for}, with {' or '.join(names)} "
        f"for {{split}}; it holds {listed(below) or 'no folder'}; {way_out}"
    )


def _about_halves(tree: _Tree, name: str) -> str:
    """Returns the way out where there are XML files that are not divided into training and evaluation, else ""."""
    if tree.find("Annotations") and (tree.find("JPEGImages") or tree.find("images")):
        return f"write the names of its images, without extension, into ImageSets/Main/{name}.txt, a line each"
    if with_extension(scan(tree.root, False), ("xml",)):
        return "put XML files and images into two folders there, train and valid"
    return ""


def _folders(folder: str) -> list[str]:
    return sorted(list_folder(folder)[1])


def with_extension(paths: Sequence[str], extensions: Collection[str]) -> list[str]:
    """Returns those of ``paths`` that end in one of ``extensions``, in any case of letters."""
    return [path for path in paths if os.path.splitext(path)[1][1:].lower() in extensions]


def read_lists(layout: Layout, known: Collection[str]) -> tuple[list[str], int]:
    """Returns the stems that the lists of a half name, each once, and how many lines of a list name one again.

    Args:
        layout: of the half.
        known: the stems of its XML files.

    Raises:
        UserError: a list cannot be read, names what is not known, or all are empty.
    """
    stems: dict[str, None] = {}
    repeated = 0
    for path in layout.lists:
        # Windows' editor puts the mark of UTF-8 first.
        lines = [os.fsdecode(line).strip() for line in read_file(path).removeprefix(b"\xef\xbb\xbf").splitlines()]
        meant = [(line, _meant(line, known, layout.of_classes)) for line in lines if line]
        if missing := [line for line, stem in meant if stem is None]:
            way_out = "add them, or correct the list"
            if missing[0].split()[0] in known:
                way_out = "write the name of an image on each line, and nothing after it"
            raise UserError(
                escaped(
                    f"{path} lists {len(missing):,} images that have no XML file in {layout.xml_folder}: "
                    f"{listed(missing, 3)}; {way_out}"
                )
            )
        found = dict.fromkeys(stem for _, stem in meant if stem is not None)
        repeated += len(meant) - len(found)
        stems |= found
    if not stems:
        are = "is empty" if len(layout.lists) == 1 else f"and {len(layout.lists) - 1} others are empty"
        raise UserError(
            f"{escaped(layout.lists[0])} {are}: write the names of images there, without extension, a line each"
        )
    return list(stems), repeated


def _meant(line: str, known: Collection[str], of_classes: bool) -> str | None:
    """Returns which of the ``known`` stems a line of a list names, or None.

    It may have a label after it, -1, 0 or 1; be quoted; have an extension. A name may have blanks, and end in a number.
    """
    label = r"\s+(?:-1|0|1)"
    quoted = re.fullmatch(rf'"(.+)"(?:{label})?', line)
    labelled = re.fullmatch(rf"(.*\S){label}", line)
    names = [found[1] for found in (quoted, labelled) if found]
    for name in [*names, line] if of_classes or quoted else [line, *names]:
        stem, extension = os.path.splitext(name)
        if name in known:
            return name
        if stem in known and extension[1:].lower() in EXTENSIONS | UNREAD | {"xml"}:
            return stem
    return None
