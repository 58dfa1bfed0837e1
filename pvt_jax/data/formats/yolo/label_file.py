"""Label files of YOLO: a line for each object, its class and a box or a polygon, in fractions of width and height.

A box is ``class x y width height`` with its centre, a polygon ``class x y x y x y …``.
"""

from dataclasses import dataclass, field

import numpy as np

from pvt_jax.data.formats.problems import Problems
from pvt_jax.files.text import encoding_of
from pvt_jax.messages import escaped_name

# Fractions that tools write beyond 0 … 1 by rounding.
_TOLERANCE = 0.01
_LINES = "class x y width height, or class and the points of a polygon, x y x y x y …"


@dataclass(eq=False)
class LabelFile:
    """The n objects of an image.

    Attributes:
        lines: the number of the line of each, from 1.
        labels: its class.
        corners: (x1, y1, x2, y2) of its box, in fractions.
        polygons: its points x, y, x, y, … in fractions; [] for one that has a box alone.
        repeated: how many lines were there before, and are left out.
    """

    lines: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    polygons: list[list[float]] = field(default_factory=list)
    repeated: int = 0


def read_labels(data: bytes, file: str, classes: int, problems: Problems, boxes_only: bool = False) -> LabelFile:
    """Returns the content of ``file``; adds what is wrong to ``problems``.

    Args:
        data: the file.
        file: its name, for messages.
        classes: how many there are.
        problems: of the data set.
        boxes_only: what follows a box is not read: key points.
    """
    found, seen = LabelFile(), set()
    for number, line in enumerate(data.decode(encoding_of(data), "replace").splitlines(), start=1):
        cells = line.strip("\ufeff \t").split()
        if not cells:
            continue
        which = f"{file}, line {number}"
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            problems.add("lines of labels are no numbers", f"write {_LINES}", f"{which}: '{escaped_name(line[:60])}'")
            continue
        label, points = values[0], values[1 : 5 if boxes_only else None]
        if not (len(points) == 4 or (len(points) >= 6 and not len(points) % 2)):
            what = f"{which}, which has {len(values)} numbers"
            problems.add("lines of labels are neither a box nor a polygon", f"write {_LINES}", what)
        elif not (label >= 0 and label == int(label)):
            problems.add("lines of labels begin with no class", "write its number, from 0", f"{which}: {cells[0]}")
        elif label >= classes:
            what = f"{which}: class {int(label)}, where names has {classes}, 0 to {classes - 1}"
            problems.add("lines of labels name a class that is not there", "correct it, or add it to names", what)
        elif not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in points):
            way_out = "divide x by the width and y by the height of the image"
            problems.add("lines of labels are no fractions of width and height", way_out, which)
        elif tuple(values) in seen:
            found.repeated += 1
        else:
            seen.add(tuple(values))
            found.lines.append(number)
            found.labels.append(int(label))
            found.corners.append(_corners(points))
            found.polygons.append(points if len(points) > 4 else [])
    return found


def pixels(points: list[float], size: tuple[int, int]) -> list[float]:
    """Returns points in fractions, x, y, x, y, …, in pixels of an image of ``size`` (height, width)."""
    height, width = size
    return (np.asarray(points).reshape(-1, 2).clip(0, 1) * [width, height]).ravel().tolist()


def area(points: list[float]) -> float:
    """Returns the area of a polygon x, y, x, y, …"""
    x, y = np.asarray(points).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _corners(points: list[float]) -> list[float]:
    if len(points) == 4:
        x, y, width, height = points
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
