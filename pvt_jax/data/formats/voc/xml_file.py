"""XML files in the format of Pascal VOC."""

import math
import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

from pvt_jax.data.formats.problems import Problems
from pvt_jax.data.formats.tools import judged
from pvt_jax.files.text import encoding_of, not_utf8
from pvt_jax.messages import escaped_name

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Tools write any of these, and 1.0, 0.0 and Unspecified.
_DIFFICULT = {"true": True, "yes": True}
_DIFFICULT |= dict.fromkeys(("false", "no", "", "unspecified", "unknown", "none", "null", "n/a", "nan"), False)
# What roLabelImg and LabelMe write in place of a bndbox.
_OTHER_SHAPES = ("robndbox", "polygon", "segm", "points")
# What the first line of a file says of its encoding, and what the parser itself reads.
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_PARSED = ("UTF-8", "US-ASCII", "ISO-8859-1")
# Pixels. No image that can be decoded has a longer side, and it fits in int32.
_MOST_PIXELS = 1_000_000


@dataclass(eq=False)
class XmlFile:
    """The content of an XML file.

    Attributes:
        images: paths of its image as written there, the likelier first; often of another machine, or of another name.
        size: its height and width, (0, 0) where they are not given.
        names, corners, difficult: of each object: its class, (xmin, ymin, xmax, ymax), whether it is difficult.
    """

    images: tuple[str, ...]
    size: tuple[int, int]
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def read_xml(data: bytes, file: str, problems: Problems) -> XmlFile | None:
    """Returns the content of ``file``, or None; adds what is wrong to ``problems``."""
    try:
        tree = ElementTree.fromstring(_plain(data))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if wrong := not_utf8(data):
            way_out = "save them as UTF-8, or declare their encoding in their first line"
            problems.add("XML files are not UTF-8", way_out, f"{file} ({wrong})")
        else:
            problems.add("XML files cannot be read", "correct them, or export them again", f"{file} ({error})")
        return None
    for element in tree.iter():
        # Namespaces and upper case are ignored.
        element.tag = element.tag.rpartition("}")[2].lower()
    if tree.tag != "annotation":
        tool = judged(file, data)
        way_out = tool.objects if tool else "export them as Pascal VOC, or remove them"
        way_out = f"their root must be <annotation>: {way_out}"
        problems.add("XML files are not in the format of Pascal VOC", way_out, f"{file}, of <{escaped_name(tree.tag)}>")
        return None
    images = ((tree.findtext(key) or "").strip().replace("\\", "/") for key in ("filename", "path"))
    found = XmlFile(tuple(filter(None, images)), _size(tree, file, problems))
    # Some tools have them in a list of their own.
    for element in tree.iter("object"):
        # LabelMe keeps what was deleted.
        if _number(element.findtext("deleted")) != 1:
            _read_object(element, file, found, problems)
    return found


def _read_object(element: ElementTree.Element, file: str, found: XmlFile, problems: Problems) -> None:
    name = " ".join((element.findtext("name") or "").split())
    box = element.find("bndbox")
    corners = [_number(None if box is None else box.findtext(corner)) for corner in CORNERS]
    stated = (element.findtext("difficult") or "").strip()
    difficult = {1.0: True, 0.0: False}.get(_number(stated), _DIFFICULT.get(stated.lower()))
    if not name:
        problems.add("objects have no name", "add it", f"in {file}")
    elif not all(map(math.isfinite, corners)):
        way_out = f"they are {', '.join(CORNERS)}"
        instead = [f", which is a {tag}" for tag in _OTHER_SHAPES if box is None and element.find(tag) is not None]
        which = f"'{escaped_name(name)}' in {file}{''.join(instead[:1])}"
        problems.add("objects have no bndbox of four numbers", way_out, which)
    elif difficult is None:
        which = f"'{escaped_name(stated)}' of '{escaped_name(name)}' in {file}"
        problems.add("objects have a difficult that is neither 1 nor 0", "write 1 or 0 as difficult", which)
    else:
        found.names.append(name)
        found.corners.append(corners)
        found.difficult.append(difficult)


def _size(tree: ElementTree.Element, file: str, problems: Problems) -> tuple[int, int]:
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    if any(side > _MOST_PIXELS for side in (height, width)):
        which = f"{file}, {width:.15g}×{height:.15g} (width × height)"
        problems.add("XML files give a size that no image has", "correct it, or remove it to have it measured", which)
        return 0, 0
    is_known = height >= 1 and width >= 1
    return (int(height), int(width)) if is_known else (0, 0)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _plain(data: bytes) -> bytes | str:
    """Returns the text of an XML file where the parser would not read its encoding, else the file.

    The parser knows no encodings of several bytes a letter but UTF-8 and UTF-16, and takes what the first line declares
    for true: programs for Windows also write UTF-8 there that they call UTF-16. Raises LookupError, UnicodeDecodeError.
    """
    data = data.lstrip(b"\r\n\t ")
    encoding, declared = encoding_of(data), _DECLARED.match(data)
    if encoding != "utf-8":
        return data.decode(encoding)
    name = declared[1].decode("ascii") if declared else encoding
    if name.upper() in _PARSED:
        return data
    return data.decode(encoding if name.upper().startswith("UTF") else name)
