"""COCO's JSON, read an element at a time: 860,000 annotations as arrays, and the position of each in the file.

Masks stay in the file and are read on demand: their gigabytes are neither held in memory nor sent to workers.
"""

import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pvt_jax.data.formats.coco.json_text import JsonText
from pvt_jax.data.formats.coco.masks import has_lines, mask_box, mask_problem, mask_size
from pvt_jax.data.formats.coco.values import crowd_flag, measured_area, plain_id, whole_number
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.tools import judged, known_tool
from pvt_jax.data.options import ObjectOptions
from pvt_jax.errors import UserError
from pvt_jax.files.kinds import content_of
from pvt_jax.files.spellings import plain_path
from pvt_jax.files.text import check_utf8
from pvt_jax.messages import escaped

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(eq=False)
class CocoFile:
    """Images, categories and n annotations of a file, in its order.

    Attributes:
        path: of the file.
        image_ids, image_files, image_sizes: of each image; (0, 0) for a size that is not given.
        categories: id, name and super-category of each.
        owners: int64 [n], the index of each annotation's image.
        category_ids: int64 [n].
        boxes: float64 [n, 4], (x, y, width, height).
        areas: float64 [n], NaN if missing or invalid.
        crowd: bool [n].
        ids: int64 [n], or their indices where the file has none.
        repeated_ids: how many annotations have the id of an earlier one.
        spans: int64 [n, 2], the bytes of each annotation in the file, start and end.
        masked: bool [n], whether there is a mask; crowd regions have one, too.
        run_length_sizes: annotation → height and width of a mask of run lengths.
        boxes_of_masks, ignored, partial_masks: how many annotations have no box but a mask, are marked to be ignored,
            and have polygons of less than three points beside others, which are left out.
    """

    path: str
    image_ids: list[int | str] = field(default_factory=list)
    image_files: list[str] = field(default_factory=list)
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    categories: list[tuple[int, str, str]] = field(default_factory=list)
    owners: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    category_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    repeated_ids: int = 0
    spans: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    masked: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    run_length_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    boxes_of_masks: int = 0
    ignored: int = 0
    partial_masks: int = 0


class _Reader:
    """Collects the elements of the three lists of a file, in any order of the lists."""

    def __init__(self, path: str, with_masks: bool) -> None:
        self.file = CocoFile(path)
        self.problems = Problems(path)
        self._with_masks = with_masks
        self._boxes, self._areas = array("d"), array("d")
        self._crowd, self._masked = array("b"), array("b")
        self._ids, self._spans = array("q"), array("q")
        self._image_ids: list[Any] = []
        self._category_ids: list[Any] = []
        self._are_texts = False

    def image(self, element: Any, start: int, end: int) -> None:
        file, problems = self.file, self.problems
        get: Any = element.get if isinstance(element, dict) else {}.get
        image_id, name, size = plain_id(get("id")), get("file_name"), (get("height") or 0, get("width") or 0)
        if not isinstance(image_id, str) and whole_number(image_id) is None:
            way_out = "number the images, and let image_id of the annotations say the same"
            problems.add("images have an id that is no whole number", way_out, _short(element))
        elif not isinstance(name, str) or not name or "\0" in name:
            problems.add("images have no file_name", "add it", _short(element))
        elif not all(type(side) in (int, float) and abs(side) < 2**31 and side == int(side) for side in size):
            problems.add("images have a height or width that is no size", "correct it", _short(element))
        else:
            file.image_ids.append(image_id)
            file.image_files.append(plain_path(name))
            # Tools write 0 or -1 for what they did not measure.
            file.image_sizes.append((int(size[0]), int(size[1])) if min(size) > 0 else (0, 0))

    def category(self, element: Any, start: int, end: int) -> None:
        get: Any = element.get if isinstance(element, dict) else {}.get
        category_id, name = self._category_id(get("id")), get("name")
        if category_id is None:
            self.problems.add("categories have an id that is no whole number", "number them", _short(element))
        elif not isinstance(name, str | int) or not str(name).strip():
            self.problems.add("categories have no name", "add it", _short(element))
        else:
            self.file.categories.append((category_id, str(name).strip(), str(get("supercategory") or "").strip()))

    def _category_id(self, value: Any) -> int | None:
        """Returns an id of a category, also a text of digits, which then all annotations have."""
        is_text = isinstance(value, str) and value.isascii() and value.isdigit()
        self._are_texts |= is_text
        return whole_number(int(value) if is_text else value)

    def annotation(self, element: Any, start: int, end: int) -> None:
        number = len(self._areas)
        try:
            box = array("d", element.get("bbox") or ())
            if not box:
                box = array("d", mask_box(element.get("segmentation")))
                self.file.boxes_of_masks += bool(box)
        except (TypeError, AttributeError, OverflowError):
            box = array("d")
        if len(box) != 4 or not math.isfinite(sum(box)):
            way_out = "a bbox is [x, y, width, height] in pixels"
            if isinstance(element, dict) and not element.get("bbox"):
                tool = judged(self.file.path, json.dumps(element).encode())
                way_out = f"the file is {tool.title}, a format that is not read: {tool.objects}" if tool else way_out
            self.problems.add("annotations have no bbox of four numbers", way_out, _short(element))
            return
        get = element.get
        mask, crowd, annotation_id = get("segmentation"), crowd_flag(get("iscrowd")), whole_number(get("id"))
        # As mmdetection, training leaves out what is to be ignored; COCO's own evaluation knows iscrowd alone.
        is_ignored = not crowd and bool(crowd_flag(get("ignore")))
        self.file.ignored += is_ignored
        if crowd is None:
            way_out = "write 1 for a crowd region, and 0 for an object"
            self.problems.add("annotations have an iscrowd that is neither 0 nor 1", way_out, _short(element))
        self._boxes.extend(box)
        self._areas.append(measured_area(get("area")))
        self._crowd.append(bool(crowd) or is_ignored)
        self._masked.append(bool(mask))
        self._spans.extend((start, end))
        self._ids.append(number if annotation_id is None else annotation_id)
        self._image_ids.append(plain_id(get("image_id")))
        self._category_ids.append(plain_id(get("category_id")))
        if not mask or not self._with_masks:
            return
        self.file.partial_masks += has_lines(mask)
        if problem := mask_problem(mask):
            what, way_out = problem
            self.problems.add(f"annotations have {what}", way_out, _short(element))
        elif isinstance(mask, dict) and (size := mask_size(mask)):
            self.file.run_length_sizes[number] = size

    def finish(self) -> CocoFile:
        """Returns what was collected; raises UserError for what is wrong with it."""
        file, problems = self.file, self.problems
        categories = [category_id for category_id, *_ in file.categories]
        for what, ids in (("images", file.image_ids), ("categories", categories)):
            for same in [key for key, times in Counter(ids).items() if times > 1]:
                problems.add(f"ids of {what} are given twice", "give each its own", f"id {same!r}")
        file.crowd, file.masked = (np.array(flags, bool) for flags in (self._crowd, self._masked))
        file.boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        file.areas = np.array(self._areas, np.float64)
        file.spans = np.array(self._spans, np.int64).reshape(-1, 2)
        file.ids = np.array(self._ids, np.int64)
        file.repeated_ids = len(file.ids) - len(np.unique(file.ids))
        file.owners = self._places("image_id", self._image_ids, file.image_ids, "images")
        if self._are_texts:
            self._category_ids = [self._category_id(value) for value in self._category_ids]
        places = self._places("category_id", self._category_ids, categories, "categories")
        problems.check()
        file.category_ids = np.array([categories[place] for place in places.tolist()], np.int64)
        return file

    def _places(self, key: str, values: list[Any], known: list[Any], where: str) -> np.ndarray:
        """Returns the index of each value in ``known``, int64; reports those that are not there."""
        place = {known_id: number for number, known_id in enumerate(known)}
        places = [place.get(value, -1) if type(value) in (int, str) else -1 for value in values]
        unknown = [number for number, found in enumerate(places) if found < 0]
        of_text = {str(known_id): known_id for known_id in known} if unknown else {}
        for number in unknown:
            value = values[number]
            first = f"annotation {self._ids[number]}, whose {key} is {_cut(repr(value))}"
            what, way_out = f"an unknown {key}", f"remove them, or add what is missing to {where}"
            if type(value) in (int, str) and str(value) in of_text:
                # 1 and "1": tables of texts are written so.
                first += f" where {where} have {of_text[str(value)]!r}"
                what = f"{'a text' if isinstance(value, str) else 'a number'} as {key}"
                way_out = f"write it as the ids of {where} are written"
            self.problems.add(f"annotations have {what}", way_out, first)
        return np.array(places, np.int64)


def read_coco(path: str, *, with_masks: bool) -> CocoFile:
    """Reads a file of COCO's format; ``with_masks`` also checks its masks.

    Raises UserError: no such file, no JSON, neither UTF-8 nor UTF-16, another format; images, categories or annotations
    that are not what they must be; ids that are given twice, or that nothing has.
    """
    text = JsonText.read(path)
    reader = _Reader(path, with_masks)
    takers = {"images": reader.image, "categories": reader.category, "annotations": reader.annotation}
    keys, lists = _walk(path, text, takers)
    for key in takers:
        if key not in lists:
            holds = "it is something else" if key in keys else f"it holds {', '.join(sorted(keys)[:8]) or 'nothing'}"
            way_out = known_tool(os.path.dirname(path), ObjectOptions(), path)
            way_out = way_out or "export the data set in the format of COCO, instances"
            raise UserError(f"{escaped(path)} has no list '{key}' ({escaped(holds)}): {way_out}")
    return reader.finish()


def _walk(path: str, file: JsonText, takers: dict[str, Callable[[Any, int, int], None]]) -> tuple[set[str], set[str]]:
    """Calls the takers with each element of the top-level lists and its position.

    Returns all top-level keys, and those of the lists that were taken.

    Only one element at a time exists as Python objects: those of the whole file would take gigabytes.
    """
    decode = json.JSONDecoder().raw_decode
    keys: set[str] = set()
    lists: set[str] = set()
    start = 0
    text, at = file.units, file.start

    def skip(at: int, expected: str = "") -> int:
        at = _SPACE.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]
        if expected and text[at : at + 1] not in tuple(expected):
            raise json.JSONDecodeError(f"Expecting {' or '.join(expected)}", text, at)
        return at

    try:
        at = skip(at)
        if text[at : at + 1] == "[":
            way_out = known_tool(os.path.dirname(path), ObjectOptions(), path) or "export it in that format"
            raise UserError(f"{escaped(path)} is a list, and COCO's format an object: {way_out}")
        at = skip(skip(at, "{") + 1, '"}')
        while text[at] != "}":
            key, at = decode(text, at)
            keys.add(key)
            at = skip(skip(at, ":") + 1)
            if key in takers and text[at : at + 1] == "[":
                lists.add(key)
                at = skip(at + 1)
                while text[at : at + 1] != "]":
                    start = at
                    element, at = decode(text, at)
                    # Names and ids may have characters of several units.
                    if not text[start:at].isascii():
                        element = json.loads(file.decoded(start, at))
                    takers[key](element, start * file.width, at * file.width)
                    at = skip(at, ",]")
                    if text[at] == ",":
                        at = skip(at + 1)
                        if text[at : at + 1] == "]":
                            raise json.JSONDecodeError("Expecting value", text, at)
                at += 1
            else:
                _, at = decode(text, at)
            at = skip(at, ",}")
            if text[at] == ",":
                at = skip(at + 1, '"')
        end = skip(at + 1)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except UnicodeDecodeError as error:
        check_utf8(path, error.object, file.line(start))
        raise
    except json.JSONDecodeError as error:
        if text[file.start : file.start + 1] not in tuple("{[") and (content := content_of(_first_bytes(file))):
            raise UserError(f"{escaped(path)} is no JSON: it is {content}") from error
        cut = "the file ends too early, as if it was cut: fetch or export it again"
        wrong = f"{error.msg} at line {error.lineno}, column {error.colno}: correct it there, or export it again"
        raise UserError(f"{escaped(path)} is no JSON: {cut if error.pos >= len(text.rstrip()) else wrong}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{escaped(path)} is no JSON of COCO ({error}): export it again") from error
    return keys, lists


def _first_bytes(file: JsonText) -> bytes:
    return file.units[file.start : file.start + 4096].encode("latin-1", "replace")


def read_annotations(path: str, spans: Iterable[Iterable[int]]) -> Iterator[Any]:
    """Yields the annotations in the bytes start to end, ``spans``, of a file that ``read_coco`` has read."""
    with open(path, "rb") as file:
        for start, end in spans:
            file.seek(start)
            yield json.loads(file.read(end - start))


def _short(element: Any) -> str:
    """Returns an element in a few words, for a message; masks are long."""
    return _cut(
        json.dumps(
            {key: element[key] for key in element if key != "segmentation"} if isinstance(element, dict) else element
        )
    )


def _cut(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]}…"
