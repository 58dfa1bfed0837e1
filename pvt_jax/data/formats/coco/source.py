"""Images with objects in COCO's format: one JSON of annotations and a folder of images for each split."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pvt_jax.data.formats.class_names import NO_OBJECTS, check_classes, choose_classes
from pvt_jax.data.formats.coco.json_file import CocoFile, read_annotations, read_coco
from pvt_jax.data.formats.coco.layout import find_annotations, find_images
from pvt_jax.data.formats.coco.masks import plain_mask
from pvt_jax.data.formats.layouts import about_split
from pvt_jax.data.formats.object_table import FilesSource, RawObjects, select, tabulate
from pvt_jax.data.objects import Mask, Objects
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, scan_images
from pvt_jax.files.headers import fill_in_sizes
from pvt_jax.messages import escaped, escaped_name, listed, plural


class CocoSource(FilesSource):
    """The images of a file of annotations, in its order.

    Args:
        path: of the annotations.
        spans: int64 [n, 2], where the annotation of each object is in the file.
        masked: bool [n], which objects have masks.
        with_masks: whether ``objects`` returns masks.
        files: arguments of ``FilesSource``.
    """

    def __init__(self, path: str, spans: np.ndarray, masked: np.ndarray, with_masks: bool, *files: Any) -> None:
        super().__init__(*files)
        self._path, self._spans, self._with_masks = path, spans, with_masks
        crowd = self._table.objects.crowd
        self.has_masks = with_masks and bool(masked[~crowd].any())
        self._unmasked = int((~masked & ~crowd).sum())

    def objects(self, index: int) -> Objects:
        found = super().objects(index)
        if not self._with_masks:
            return found
        # They stay in the file, see ``json_file.py``.
        masks = tuple(self._read_masks(self._spans[self._table.of(index)].tolist()))
        return Objects(found.boxes, found.labels, found.crowd, found.areas, found.ids, masks)

    def masks(self, index: int, objects: Objects) -> list[np.ndarray]:
        try:
            return super().masks(index, objects)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                escaped(f"{self._path}: a mask of {self.name(index)} cannot be decoded ({error}): export it again")
            ) from error

    def without_masks(self) -> int:
        return self._unmasked

    def annotations(self) -> list[dict[str, Any]]:
        """Returns the annotations of the file, see ``HasAnnotations``."""
        # Read as when it was opened, so that numbers and ids are understood in the same way.
        file = read_coco(self._path, with_masks=False)
        ids, categories = set(self._image_ids), set(self.category_ids)
        image_ids, category_ids = [file.image_ids[owner] for owner in file.owners.tolist()], file.category_ids.tolist()
        areas = np.where(np.isnan(file.areas), file.boxes[:, 2] * file.boxes[:, 3], file.areas)
        annotations: list[dict[str, Any]] = [
            {
                "id": number + 1,
                "image_id": image_ids[number],
                "category_id": category_ids[number],
                "bbox": file.boxes[number].tolist(),
                "area": float(areas[number]),
                "iscrowd": int(file.crowd[number]),
            }
            for number in range(len(image_ids))
            if image_ids[number] in ids and category_ids[number] in categories
        ]
        if self._with_masks:
            masks = self._read_masks(file.spans[annotation["id"] - 1].tolist() for annotation in annotations)
            for annotation, mask in zip(annotations, masks, strict=True):
                annotation.update({} if mask is None else {"segmentation": mask})
        return annotations

    def _read_masks(self, spans: Iterable[Iterable[int]]) -> list[Mask | None]:
        try:
            return [plain_mask(annotation.get("segmentation")) for annotation in read_annotations(self._path, spans)]
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(
                escaped(f"{self._path} was changed or removed since the run started: put it back, or start again")
            ) from error


def open_coco(request: Request) -> CocoSource:
    """Opens a split of a data set in COCO's format.

    Raises UserError: a file or folder that is missing or laid out in another way; annotations, classes or images that
    are not what they must be, see ``read_coco`` and ``tabulate``; missing images.
    """
    options: ObjectOptions = request.options
    root = find_root(request.root, "coco", "images and annotations in COCO's format")
    path, name = find_annotations(root, request)
    file = read_coco(path, with_masks=options.with_masks)
    where = escaped(path)
    if not file.image_ids:
        raise UserError(f"{where} lists no images: export it again, or choose another split")
    class_names, category_ids = select_classes(file, options.class_names, options.num_classes)
    if request.split == "eval" and not options.class_names and len(class_names) != options.num_classes:
        # The model has as many as the training annotations, which are opened first.
        raise UserError(
            f"{where} has {len(class_names):,} categories ({listed(class_names)}) and the training annotations "
            f"{options.num_classes:,}: list the same categories in both"
        )
    check_classes(where, class_names, options.num_classes, options.class_names)
    folder, files = find_images(root, path, name, file.image_files, options.image_folder)
    sizes = fill_in_sizes(file.image_sizes, lambda image: os.path.join(folder, files[image]), request.upright)
    if options.with_masks:
        _check_run_lengths(file, sizes)
    _check_corners(file, sizes, files)
    raw, numbers = _raw_objects(file, category_ids)

    def first(number: int) -> str:
        return _describe(file, int(numbers[number]), sizes, files)

    table = tabulate(raw, sizes, first, where)
    notes = about_split(name, request) + _notes(file, category_ids, raw) + _on_files(root, folder, name, files, where)
    names = [os.path.relpath(os.path.join(folder, name), root) for name in files]
    table, images = select(table, where, request, notes, names)
    places = numbers[table.places]
    chosen, image_ids = [files[image] for image in images], [file.image_ids[image] for image in images]
    described = root, table, class_names, category_ids, image_ids
    return CocoSource(path, file.spans[places], file.masked[places], options.with_masks, folder, chosen, *described)


def class_names_of_coco(request: Request) -> tuple[str, ...]:
    """Returns the names of the classes of the training annotations ; ``num_classes`` is not read."""
    path, _ = find_annotations(request.root, request)
    return select_classes(read_coco(path, with_masks=False), request.options.class_names)[0]


def select_classes(
    file: CocoFile, wanted: Sequence[str | int] = (), num_classes: int | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns names and category ids of the classes of a file, in the order of their ids; or those ``wanted``.

    Roboflow adds the name of the project as an unused category above all others, and labelme an unused background. They
    are no classes, unless the model has one for them.
    """
    where = escaped(file.path)
    if not file.categories:
        raise UserError(f"{where} lists no categories: export the data set with its classes")
    categories = sorted(file.categories)
    first, *others = categories
    is_root = bool(others) and (first[1] in NO_OBJECTS or all(parent == first[1] for _, _, parent in others))
    if is_root and len(categories) != num_classes and not (file.category_ids == first[0]).any():
        categories = others
    names = [name for _, name, _ in categories]
    for name in names:
        if escaped_name(name) != name:
            raise UserError(
                f"{where} has a class whose name is not a single line of text, '{escaped_name(name)}': rename it"
            )
    if same := sorted({name for name in names if names.count(name) > 1}):
        ids = [str(category_id) for category_id, name, _ in categories if name == same[0]]
        raise UserError(f"{where} names categories {' and '.join(ids)} '{same[0]}': give each class a name of its own")
    chosen = [categories[place] for place in choose_classes(where, names, wanted)]
    return tuple(name for _, name, _ in chosen), tuple(category_id for category_id, _, _ in chosen)


def _raw_objects(file: CocoFile, category_ids: Sequence[int]) -> tuple[RawObjects, np.ndarray]:
    """Returns the annotations of the chosen categories, and their indices in the file."""
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    labels = np.array([label_of.get(category_id, -1) for category_id in file.category_ids.tolist()], np.int64)
    numbers = np.flatnonzero(labels >= 0)
    boxes = np.concatenate([file.boxes[:, :2], file.boxes[:, :2] + file.boxes[:, 2:]], axis=1)
    raw = RawObjects(file.owners, boxes, labels, file.crowd, file.areas, file.ids)
    return raw.take(numbers), numbers


def _describe(file: CocoFile, number: int, sizes: np.ndarray, files: Sequence[str]) -> str:
    """Describes an annotation and its box, for messages."""
    box = ", ".join(f"{value:g}" for value in file.boxes[number])
    height, width = sizes[file.owners[number]]
    image = f"{files[file.owners[number]]}, {width}×{height} (width × height)"
    return f"annotation {file.ids[number]}, bbox [{box}] (x, y, width, height) in {image}"


def _on_files(root: str, folder: str, split: str, files: Sequence[str], where: str) -> list[str]:
    """Returns notes on what else is in a folder of the split's own, or where data is not divided."""
    if split and split not in os.path.relpath(folder, root).split(os.sep):
        return []
    found = scan_images(folder)
    unlisted = len(set(found.paths) - set(map(os.path.normpath, files)))
    notes = [f"{plural(unlisted, 'image')} in {escaped(folder)} not listed in {where} left out"] * bool(unlisted)
    return [*notes, *found.unread.note(len(found.paths), folder, but=("json", "txt", "xml"))]


def _notes(file: CocoFile, category_ids: Sequence[int], raw: RawObjects) -> list[str]:
    notes = []
    if left := len(file.category_ids) - len(raw.labels):
        notes.append(f"{left:,} annotations of other classes are left out")
    first, last, count = min(category_ids), max(category_ids), len(category_ids)
    if last - first >= count:
        notes.append(f"category ids {first} … {last} have gaps and are classes 0 … {count - 1}")
    if repeated := len(file.image_files) - len(set(file.image_files)):
        notes.append(f"{repeated:,} image{'s are' if repeated != 1 else ' is'} listed more than once")
    if file.repeated_ids:
        notes.append(f"{file.repeated_ids:,} annotations have the id of another one and are renumbered")
    if file.boxes_of_masks:
        notes.append(f"{plural(file.boxes_of_masks, 'box', 'es')} missing, those around the masks are taken")
    if file.ignored:
        notes.append(f"{plural(file.ignored, 'annotation')} marked with ignore, taken for crowd regions")
    if file.partial_masks:
        notes.append(f"polygons of less than three points left out of {plural(file.partial_masks, 'mask')}")
    if unmeasured := int(np.isnan(raw.areas).sum()):
        what = "s that are missing or no number are those of the boxes"
        one = " that is missing or no number is that of the box"
        notes.append(f"{unmeasured:,} area{what if unmeasured != 1 else one}")
    return notes


def _check_run_lengths(file: CocoFile, sizes: np.ndarray) -> None:
    wrong = [
        number for number, size in file.run_length_sizes.items() if tuple(sizes[file.owners[number]].tolist()) != size
    ]
    if wrong:
        height, width = file.run_length_sizes[wrong[0]]
        image = file.owners[wrong[0]]
        raise UserError(
            escaped(
                f"{file.path}: {len(wrong):,} masks have another size than their images, the first is annotation "
                f"{file.ids[wrong[0]]}, {height}×{width} in {file.image_files[image]}, "
                f"{sizes[image, 0]}×{sizes[image, 1]} (height × width): export masks and images in one size"
            )
        )


def _check_corners(file: CocoFile, sizes: np.ndarray, files: Sequence[str]) -> None:
    """Raises UserError where boxes are most probably (x1, y1, x2, y2).

    A few boxes that extend beyond the image are usual. The signs are, together: of ten boxes or more, over a third
    extend beyond the right or lower border by more than a tenth of a side; and 19 of 20 start within the image and, as
    corners, end within it. In COCO's format such boxes start in the upper left and rarely extend beyond the image.
    """
    known = sizes[file.owners].all(axis=1)
    starts, ends = file.boxes[known, :2], file.boxes[known, 2:]
    sides = sizes[file.owners[known]][:, ::-1]
    out = np.any(starts + ends > 1.1 * sides, axis=1)
    corners = np.all((starts > -1) & (ends > starts) & (ends < sides + 1), axis=1)
    if len(out) >= 10 and out.mean() > 1 / 3 and corners.mean() >= 0.95:
        first = int(np.flatnonzero(known)[np.argmax(out)])
        raise UserError(
            escaped(
                f"{file.path}: {int(out.sum()):,} of {len(out):,} boxes extend far beyond their image, but not if "
                f"they are [x1, y1, x2, y2], the first is {_describe(file, first, sizes, files)}: write each bbox as "
                f"[x, y, width, height], with width x2 - x1 and height y2 - y1"
            )
        )
