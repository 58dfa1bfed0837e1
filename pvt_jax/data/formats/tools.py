"""Formats of label tools that are not read: by what their files are known, and how to get from them to one that is.

A new one is a row of ``TOOLS``. Files are judged by their first bytes, as one name stands for many formats.
"""

import os
import re
from dataclasses import dataclass
from itertools import islice

from pvt_jax.data.options import LabelMapOptions
from pvt_jax.files.text import encoding_of
from pvt_jax.messages import escaped

# Bytes of a file, files of an ending, and entries of a folder that are looked at.
_FIRST, _MOST_READ, _MOST_LOOKED_AT = 1 << 16, 20, 100_000


@dataclass(frozen=True)
class Tool:
    """A format.

    Attributes:
        title: what its files are called.
        endings: of its files, in lower case.
        marks: patterns that all are in such a file, but not in others.
        objects, label_maps, classes: the way out where boxes or masks of objects are wanted, where label maps are, and
            where images are classified. {root} is the folder of the data set.
            Without the first and the third a format is passed over there.
    """

    title: str
    endings: tuple[str, ...]
    marks: tuple[str, ...]
    objects: str = ""
    label_maps: str = ""
    classes: str = ""


def _converted(datumaro: str) -> str:
    return (
        f"`pip install datumaro`, and `datum convert -if {datumaro} -i {{root}} -f coco_instances -o NEW -- "
        f"--save-media` writes COCO's JSON to a folder NEW"
    )


_FIFTYONE = (
    "`pip install fiftyone`, and `fiftyone convert --input-type fiftyone.types.KITTIDetectionDataset --input-dir "
    "{root} --output-type fiftyone.types.COCODetectionDataset --output-dir NEW/train` writes COCO's JSON; after the "
    "same for val, set data.root to the folder NEW"
)
_DRAW = "; label maps are drawn from its polygons, each filled with the number of its class"

LABELME = Tool(
    "of labelme",
    (".json",),
    (r'"shapes"\s*:\s*\[', r'"(imagePath|imageData|shape_type|flags)"\s*:'),
    # Objects are read.
    "",
    "add --config.data.source=labelme, which draws label maps from their shapes",
)

TOOLS = (
    Tool(
        "of Supervisely",
        (".json",),
        (r'"size"\s*:\s*\{', r'"objects"\s*:\s*\['),
        "in Supervisely run the app Export to COCO on the project",
        "in Supervisely run the app Export as masks on the project",
    ),
    Tool(
        "of Supervisely",
        (".json",),
        (r'"classes"\s*:\s*\[\s*\{[^{}]*"shape"\s*:\s*"', r'"title"\s*:'),
        "in Supervisely run the app Export to COCO on the project",
        "in Supervisely run the app Export as masks on the project",
    ),
    LABELME,
    Tool(
        "of the VGG Image Annotator",
        (".json",),
        (r'"(shape_attributes|_via_img_metadata)"\s*:',),
        "in VIA choose Annotation, Export Annotations (COCO format), and save the file of each split as "
        "{root}/train.json and {root}/val.json",
    ),
    Tool(
        "of Label Studio",
        (".json",),
        (r'"(from_name|rectanglelabels|polygonlabels|brushlabels)"\s*:',),
        "in Label Studio press Export and choose COCO",
        "in Label Studio press Export and choose Brush labels to PNG, and join the masks of each image in one PNG of "
        "class numbers",
    ),
    Tool(
        "of CreateML",
        (".json",),
        (r'^\s*\[', r'"coordinates"\s*:\s*\{', r'"label"\s*:'),
        "upload it to Roboflow, which reads Create ML JSON, and export it there as COCO JSON",
    ),
    Tool(
        "of Datumaro",
        (".json",),
        (r'"items"\s*:\s*\[', r'"categories"\s*:\s*\{'),
        _converted("datumaro"),
    ),
    Tool(
        "of COCO's panoptic task",
        (".json",),
        # Lists of many images come first, and categories last.
        (r'"(segments_info|isthing)"\s*:',),
        "use the file of its instances, or make one with converters/panoptic2detection_coco_format.py of panopticapi",
        "converters/panoptic2semantic_segmentation.py of panopticapi writes its label maps with --semantic_seg_folder",
    ),
    Tool(
        "a list of detections, COCO's results",
        (".json",),
        (r'^\s*\[\s*\{[^{}]*"image_id"\s*:', r'"score"\s*:'),
        "give the file that these results were made for, with images, annotations and categories",
    ),
    Tool(
        "of CVAT",
        (".xml",),
        (r"<annotations\b", r"<(image|track|meta)\b"),
        "in CVAT choose Actions, Export task dataset, and COCO 1.0 for the task of each split, and unpack them into "
        "folders train and val",
        "in CVAT choose Actions, Export task dataset, and Segmentation mask 1.1",
    ),
    Tool(
        "of YOLO",
        (".txt",),
        (r"\A\s*\d+([ \t]+-?(0?\.\d+|[01](\.\d*)?)([eE]-?\d+)?){4,}\s*($|\n)",),
        # Objects are read.
        "",
        "draw the polygon of each line, which is in fractions of width and height, filled with the number of its class",
    ),
    Tool(
        "of KITTI",
        (".txt",),
        (r"\A\w+ -?\d+(\.\d+)? -?\d+ -?\d+(\.\d+)?( -?\d+(\.\d+)?){11,12}\s*($|\n)",),
        _FIFTYONE,
    ),
    Tool(
        "of Open Images",
        (".csv",),
        (r"\A\W*ImageID,.*\bLabelName\b",),
        _converted("open_images"),
    ),
    Tool(
        "a table of boxes",
        (".csv",),
        (r"(?i)\A[^\n]*\bx_?min\b[^\n]*\by_?max\b",),
        "export COCO's JSON from the tool that wrote it, as Roboflow's COCO JSON; or write one as in "
        "docs/your_images/detection.md",
    ),
    Tool(
        "a table of images and labels",
        (".csv", ".tsv", ".txt", ".jsonl"),
        # By the name of the first column, or the name of an image with something behind it.
        (
            r"(?i)\A\W*(\w*(image|img|file|path|photo|picture)\w*[\"' ]*[,;\t]|id[\"' ]*[,;\t]|file_name\"\s*:"
            r"|([^,;\t\n]+\.(jpe?g|png|tiff?|webp|bmp|gif)[\"' ]*[,;\t]|\S+\.(jpe?g|png|tiff?|bmp)[ \t]+)\W*\w)",
        ),
        classes="copy each image into the folder of its label, as the lines below 'Labels in a table' in "
        "docs/your_images/classification.md do",
    ),
    Tool(
        "a table in Parquet",
        (".parquet",),
        (r"\APAR1",),
        classes="if it holds images and labels, add --config.data.source=parquet",
    ),
    Tool(
        "records of TensorFlow",
        (".tfrecord", ".tfrecords", ".record"),
        (),
        "export COCO's JSON from the tool that wrote them, or set --config.data.source=tfds for a data set of TFDS",
    ),
)  # fmt: skip


def judged(name: str, data: bytes) -> Tool | None:
    """Returns the format of a file from its name and its first and last bytes; None if it is none of ``TOOLS``."""
    ending = os.path.splitext(name)[1].lower()
    rows = [row for row in TOOLS if ending in row.endings]
    text = data[: 2 * _FIRST].decode(encoding_of(data), "replace") if rows else ""
    return next((row for row in rows if all(re.search(mark, text) for mark in row.marks)), None)


def tool_of(path: str) -> Tool | None:
    """Returns the format of a file from its name and its first bytes; None if it is none of ``TOOLS``."""
    try:
        with open(path, "rb") as file:
            first = file.read(_FIRST)
            file.seek(max(len(first), os.path.getsize(path) - _FIRST))
            return judged(path, first + file.read(_FIRST))
    except OSError:
        return None


def _way_out(tool: Tool, options: object) -> str:
    """What to do about a format where ``options`` are those of objects, label maps or, None, classes; or ""."""
    if options is None:
        return tool.classes
    if isinstance(options, LabelMapOptions):
        return tool.label_maps or (f"{tool.objects}{_DRAW}" if tool.objects else "")
    return tool.objects


def known_tool(root: str, options: object, path: str = "") -> str:
    """Returns which format of a tool a data set has, and what to do; "" if none is recognised.

    Args:
        root: its folder.
        options: what the config says of it: ``LabelMapOptions``, ``ObjectOptions``, or None for classes of images.
        path: of the file to judge; "" for those below the root.
    """
    judgements = ((file, tool_of(file)) for file in ([path] if path else _files(root)))
    found = next(((file, tool, how) for file, tool in judgements if tool and (how := _way_out(tool, options))), None)
    if not found:
        return ""
    file, tool, how = found
    how = how.replace("{root}", root)
    return escaped(f"{os.path.relpath(file, root)} is {tool.title}, a format that is not read: {how}")


def _files(root: str) -> list[str]:
    """Returns some files of each ending that a tool's files have, those of the upper folders first."""
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    endings = {ending for row in TOOLS for ending in row.endings}
    found: dict[str, list[str]] = {ending: [] for ending in sorted(endings)}
    for path in islice(paths, _MOST_LOOKED_AT):
        alike = found.get(os.path.splitext(path)[1].lower())
        if alike is not None and len(alike) < _MOST_READ:
            alike.append(path)
    return [path for alike in found.values() for path in alike]
