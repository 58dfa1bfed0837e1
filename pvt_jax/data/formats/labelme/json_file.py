"""labelme's JSON: an image, and shapes on it, each with a label. Shapes of one label and group are one object."""

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pvt_jax.data.formats.class_names import NO_OBJECTS
from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.objects import Mask, decode_mask
from pvt_jax.files.spellings import plain_path
from pvt_jax.files.text import encoding_of
from pvt_jax.messages import escaped_name

# Points and lines have no area.
_DRAWN = ("polygon", "rectangle", "circle", "mask")
_CIRCLE = 36
# A part of an object: its kind, its points [n, 2], and the PNG of a mask, or "".
Part = tuple[str, np.ndarray, str]
# Points further away are no pixels, and would fill the memory when drawn.
_FARTHEST = 100_000


@dataclass(eq=False)
class Shape:
    """An object: its label, and the parts that it consists of."""

    label: str
    parts: list[Part] = field(default_factory=list)

    @property
    def box(self) -> list[float]:
        """(x1, y1, x2, y2) around all parts."""
        points = np.concatenate([_extent(kind, points) for kind, points, _ in self.parts])
        # The corners of a mask are its first and last pixel.
        ends = 1.0 if any(kind == "mask" for kind, _, _ in self.parts) else 0.0
        return [*points.min(axis=0).tolist(), *(points.max(axis=0) + ends).tolist()]

    @property
    def is_outlined(self) -> bool:
        """Whether it is more than a rectangle."""
        return any(kind != "rectangle" for kind, _, _ in self.parts)

    def mask(self, size: tuple[int, int]) -> Mask:
        """Its mask in an image of ``size`` (height, width): polygons, or bool [h, w] where a part is one of pixels."""
        if all(kind != "mask" for kind, _, _ in self.parts):
            return [_outline(kind, points).ravel().tolist() for kind, points, _ in self.parts]
        found = np.zeros(size, bool)
        for kind, points, png in self.parts:
            if kind == "mask":
                (left, top), pixels = _pixels(points, png)
                part = pixels[max(-top, 0) :, max(-left, 0) :]
                at = found[max(top, 0) : max(top, 0) + part.shape[0], max(left, 0) : max(left, 0) + part.shape[1]]
                at |= part[: at.shape[0], : at.shape[1]]
            else:
                found |= decode_mask([_outline(kind, points).ravel().tolist()], size) > 0
        return found


@dataclass(eq=False)
class LabelmeFile:
    """The content of a file: the path of its image, height and width ((0, 0) where not given), and its objects.

    ``drawn`` are all parts with their labels in the order of the file, also of what is no object. ``lines`` counts
    points and lines, which are left out.
    """

    image: str
    size: tuple[int, int]
    shapes: list[Shape] = field(default_factory=list)
    drawn: list[tuple[str, Part]] = field(default_factory=list)
    lines: int = 0

    def label_map(self, values: Mapping[str, int], size: tuple[int, int]) -> np.ndarray:
        """Returns uint8 [*size], the value of the label of the last part on each pixel; 0 where there is none.

        As labelme2voc.py of labelme draws them: edges belong to a shape. Raises KeyError for a label without a value.
        """
        image = Image.new("L", (size[1], size[0]))
        draw = ImageDraw.Draw(image)
        for label, (kind, points, png) in self.drawn:
            value = values[label]
            if kind == "mask":
                place, pixels = _pixels(points, png)
                image.paste(value, place, Image.fromarray(pixels))
            elif kind == "polygon":
                draw.polygon([(x, y) for x, y in points.tolist()], fill=value, outline=value)
            else:
                (left, top), (right, bottom) = (ends.tolist() for ends in _ends(kind, points))
                shape = draw.ellipse if kind == "circle" else draw.rectangle
                shape((left, top, right, bottom), fill=value, outline=value)
        return np.array(image)


def read_labelme(data: bytes, file: str, problems: Problems) -> LabelmeFile | None:
    """Returns the content of ``file``, None if it is none of labelme; adds what is wrong to ``problems``."""
    try:
        content = json.loads(data.decode(encoding_of(data)))
    except (ValueError, RecursionError) as error:
        problems.add("JSON files cannot be read", "correct them, or save them again", f"{file} ({error})")
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    sides: list[Any] = [content.get(name) for name in ("imageHeight", "imageWidth")]
    height, width = (int(side) if type(side) in (int, float) and 0 < side < 2**31 else 0 for side in sides)
    found = LabelmeFile(_path(content.get("imagePath")), (height, width) if height and width else (0, 0))
    groups: dict[Any, Shape] = {}
    for number, shape in enumerate(content["shapes"], start=1):
        _read_shape(shape, f"{file}, shape {number}", found, groups, problems)
    return found


def _read_shape(shape: Any, which: str, found: LabelmeFile, groups: dict[Any, Shape], problems: Problems) -> None:
    get: Any = shape.get if isinstance(shape, dict) else {}.get
    label, kind, group = get("label"), get("shape_type") or "polygon", get("group_id")
    if not isinstance(label, str) or not label.strip():
        problems.add("shapes have no label", "add it", which)
        return
    label = " ".join(label.split())
    if kind not in _DRAWN:
        found.lines += label not in NO_OBJECTS
        return
    points = _points(get("points"))
    fewest = {"polygon": 3, "mask": 2}.get(kind, 2)
    if points is None or len(points) < fewest or (kind == "circle" and len(points) != 2):
        what = f"{which}, a {kind} '{escaped_name(label)}'"
        problems.add("shapes have no points [[x, y], …] of their kind", "correct them, or remove the shape", what)
        return
    png = get("mask") if kind == "mask" else ""
    if kind == "mask" and not _is_png(png):
        problems.add("shapes have no mask, though that is their kind", "save the file again", which)
        return
    found.drawn.append((label, (kind, points, png)))
    if label in NO_OBJECTS:
        return
    key = (label, group) if isinstance(group, int | str) else object()
    if key not in groups:
        groups[key] = Shape(label)
        found.shapes.append(groups[key])
    groups[key].parts.append(found.drawn[-1][1])


def _points(points: Any) -> np.ndarray | None:
    try:
        found = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        return None
    is_drawable = found.ndim == 2 and found.shape[1:] == (2,) and bool((np.abs(found) <= _FARTHEST).all())
    return found if is_drawable else None


def _is_png(text: Any) -> bool:
    try:
        return isinstance(text, str) and base64.b64decode(text, validate=True).startswith(b"\x89PNG\r\n\x1a\n")
    except (binascii.Error, ValueError):
        return False


def _extent(kind: str, points: np.ndarray) -> np.ndarray:
    """Returns points whose bounds are those of a part."""
    if kind != "circle":
        return points
    radius = math.dist(*points)
    return np.stack([points[0] - radius, points[0] + radius])


def _ends(kind: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the upper left and the lower right corner of a part."""
    extent = _extent(kind, points)
    return extent.min(axis=0), extent.max(axis=0)


def _pixels(points: np.ndarray, png: str) -> tuple[tuple[int, int], np.ndarray]:
    """Returns the (left, top) pixel of a mask, and bool [h, w] of its pixels."""
    left, top = np.floor(points.min(axis=0)).astype(int).tolist()
    with Image.open(io.BytesIO(base64.b64decode(png)), formats=("PNG",)) as image:
        return (left, top), np.asarray(image.convert("L")) > 0


def _outline(kind: str, points: np.ndarray) -> np.ndarray:
    if kind == "rectangle":
        (left, top), (right, bottom) = _ends(kind, points)
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if kind == "circle":
        angles = np.linspace(0, 2 * np.pi, _CIRCLE, endpoint=False)
        return points[0] + math.dist(*points) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points


def _path(path: Any) -> str:
    return plain_path(path) if isinstance(path, str) else ""
