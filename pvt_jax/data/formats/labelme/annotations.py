"""The labelled images of a split: which JSON file belongs to which image, and which labels there are."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pvt_jax.data.formats.labelme.json_file import LabelmeFile, read_labelme
from pvt_jax.data.formats.layouts import Found, Layout, NoLayoutError, Tree, about_place, find_data, no_layout
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.tools import LABELME, tool_of
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import choose_images, read_file, scan
from pvt_jax.files.headers import THREADS
from pvt_jax.files.kinds import stem_of
from pvt_jax.files.spellings import Names
from pvt_jax.messages import escaped, escaped_name, listed, plural

_LAYOUTS = (Layout("{split}"), Layout("annotations|labels|images/{split}"))
_WHOLE = (Layout(""),)
# Files by which a folder is judged.
_MOST_JUDGED = 20


@dataclass(eq=False)
class Annotations:
    """The labelled images of a split: paths of images and JSON files below the root, their content, and notes."""

    where: str
    images: list[str]
    paths: list[str]
    files: list[LabelmeFile]
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """Of all objects."""
        return [shape.label for file in self.files for shape in file.shapes]


def is_labelme(root: str) -> bool:
    """Whether a folder looks like a data set of labelme: by the first JSON files in it."""
    paths = [path for path in scan(root) if path.lower().endswith(".json")][:_MOST_JUDGED]
    return any(tool_of(os.path.join(root, path)) is LABELME for path in paths)


def read_annotations(request: Request) -> Annotations:
    """Returns what a split holds; raises UserError if there is none, or something in it is wrong."""
    tree = Tree(request.root)
    found = find_data(tree, request, _LAYOUTS, _WHOLE, _has_json)
    if found is None:
        way_out = f"put images and their JSON files into {os.path.join(tree.root, 'train')} and val"
        raise no_layout(tree, request, "images of labelme", _LAYOUTS, way_out, whole=_WHOLE, accepts=_has_json)
    below = os.path.relpath(found[0], tree.root)
    every = [os.path.normpath(os.path.join(below, path)) for path in scan(found[0])]
    everywhere, unread, _ = choose_images(tree.root, scan(tree.root) if below != "." else every)
    problems, result = Problems(found[0]), Annotations(found[0], [], [], [], about_place(tree, found, request))
    images, by_stem = Names(everywhere), {stem_of(path): path for path in everywhere}
    paths = [path for path in every if path.lower().endswith(".json")]
    others, lines = 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(lambda path: read_file(os.path.join(tree.root, path)), paths)
        for path, data in zip(paths, contents, strict=True):
            file = read_labelme(data, path, problems)
            if file is None:
                others += 1
                continue
            named = os.path.normpath(os.path.join(os.path.dirname(path), file.image)) if file.image else ""
            beside = os.path.join(os.path.dirname(path), os.path.basename(file.image))
            image = by_stem.get(stem_of(path)) or images.find(named) or images.find(beside)
            if image is None:
                which = f"{escaped(path)}, of image '{escaped_name(file.image)}'"
                problems.add("JSON files have no image", "fetch the images, or remove the JSON files", which)
                continue
            lines += file.lines
            result.images.append(image)
            result.paths.append(path)
            result.files.append(file)
    problems.check()
    here = {path for path in everywhere if path in set(every)}
    if unlabelled := len(here - set(result.images)):
        result.notes.append(f"{plural(unlabelled, 'image')} without a JSON file left out")
    if others:
        result.notes.append(f"{plural(others, 'JSON file')} without shapes of labelme left out")
    if lines:
        result.notes.append(f"{lines:,} points and lines, which have no area, left out")
    return result


def _has_json(found: Found) -> bool:
    """Whether a folder has JSON files of labelme; one that is not divided has no folder of a split."""
    return is_labelme(found[0])


def training_labels(found: Annotations, request: Request) -> tuple[tuple[str, ...], str]:
    """Returns the labels of the training shapes, sorted, and where they are from; or what a run has learned.

    ``found`` is the split that is opened. Raises UserError: there are none.
    """
    train = found
    if request.split == "eval" and not request.holdout:
        try:
            train = read_annotations(replace(request, split="train"))
        except NoLayoutError:
            if not request.learned:
                raise
            return request.learned, "the run"
    names = tuple(sorted(set(train.labels)))
    if not names:
        raise UserError(f"no shape in {escaped(train.where)} has an area: annotate some, or choose another split")
    return names, f"{escaped(train.where)} ({listed([escaped_name(name) for name in names])})"
