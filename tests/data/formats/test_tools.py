"""Formats of label tools that are not read are named, with a way out of that tool."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats import LABEL_MAPS, OBJECTS, open_source
from pvt_jax.data.formats.folder import open_folder
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.formats.tools import TOOLS
from pvt_jax.data.options import LabelMapOptions, ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from tests.helpers.detection_data import save, write_coco, write_voc

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
VIA = {"a.jpg9": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect", **BOX}}]}}
LABEL_STUDIO = [{"annotations": [{"result": [{"from_name": "box", "value": {**BOX, "rectanglelabels": ["cat"]}}]}]}]
YOLO = "0 0.5 0.5 0.25 0.3\n1 0.25 .2 1 1.0\n"
CVAT = '<?xml version="1.0"?>\n<annotations><version>1.1</version><image id="0" name="0.jpg"/></annotations>'
KITTI = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"

# Name of a file, what is in it, what it is, and the way out for objects.
FILES: list[tuple[str, Any, str, str]] = [
    (
        "meta.json",
        {"classes": [{"title": "cat", "shape": "rectangle"}]},
        "of Supervisely",
        "in Supervisely run the app Export to COCO on the project",
    ),
    ("ds0/ann/a.jpg.json", {"size": {"height": 2}, "objects": []}, "of Supervisely", "run the app Export to COCO"),
    (
        "via_region_data.json",
        VIA,
        "of the VGG Image Annotator",
        "Annotation, Export Annotations (COCO format), and save",
    ),
    ("train.json", VIA, "of the VGG Image Annotator", "in VIA choose Annotation"),
    ("project-1.json", LABEL_STUDIO, "of Label Studio", "in Label Studio press Export and choose COCO"),
    ("train/result.json", LABEL_STUDIO, "of Label Studio", "in Label Studio press Export and choose COCO"),
    (
        "train/_annotations.createml.json",
        [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": BOX}]}],
        "of CreateML",
        "upload it to Roboflow",
    ),
    (
        "annotations/train.json",
        {"categories": {"label": {}}, "items": []},
        "of Datumaro",
        "`datum convert -if datumaro",
    ),
    (
        "annotations/panoptic_train2017.json",
        {"annotations": [{"segments_info": []}]},
        "of COCO's panoptic",
        "instances",
    ),
    ("train.json", [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a list of detections", "were made for"),
    ("annotations.xml", CVAT, "of CVAT", "in CVAT choose Actions, Export task dataset, and COCO 1.0 for the task of"),
    (
        "training/label_2/0.txt",
        KITTI,
        "of KITTI",
        "--input-type fiftyone.types.KITTIDetectionDataset --input-dir {root} ",
    ),
    ("boxes.csv", "ImageID,Source,LabelName,XMin,XMax,YMin,YMax\n", "of Open Images", "`datum convert -if open_images"),
    ("train/a.csv", "filename,class,xmin,ymin,xmax,ymax\n", "a table of boxes", "as Roboflow's COCO JSON"),
    ("a.tfrecord", "", "records of TensorFlow", "set --config.data.source=tfds"),
]


# Tables of what images show.
TABLES = [
    ("labels.csv", "image,label\na.jpg,cat\n"),
    ("train.csv", '"id";"breed"\r\n"a";"cat"\r\n'),
    ("train/_classes.csv", "filename, cat, dog\na.jpg, 1, 0\n"),
    ("no_header.csv", "my cat.JPG,cat\n"),
    ("a.tsv", "img_path\tclass\nx/a.png\t0\n"),
    ("train.txt", "images/a.png 3\n"),
    ("train/metadata.jsonl", '{"file_name": "a.jpg", "label": "cat"}\n'),
]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, "utf-8")


def objects(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        recognise_folder(OBJECTS, str(root), options=ObjectOptions())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def label_maps(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        options = LabelMapOptions(num_classes=2)
        open_source(LABEL_MAPS, "label_folder", Request("train", root=str(root), options=options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "title", "way_out"), FILES)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_is_named_with_a_way_out(tmp_path, name, content, title, way_out, mark):
    write(tmp_path / name, content if isinstance(content, str) else mark + json.dumps(content, indent=2))
    line = objects(tmp_path)
    assert f" is {title}" in line and way_out.replace("{root}", str(tmp_path)) in line
    assert ", a format that is not read: " in line and "{" not in line.rpartition("not read: ")[2]
    if "segments_info" not in str(content):
        assert "split " + Path(name).name not in line


def test_all_are_tried():
    tried = {title for _, _, title, _ in FILES}
    tried |= {"a table of images and labels", "a table in Parquet", "of YOLO", "of labelme"}
    assert tried >= {row.title.partition(" task")[0].partition(",")[0] for row in TOOLS}


@pytest.mark.parametrize(("name", "content"), TABLES)
@pytest.mark.parametrize("folders", [(), ("train",), ("images",)])
def test_a_table_of_labels_is_named_where_images_are_classified(tmp_path, name, content, folders):
    write(tmp_path / "set" / name, content)
    for folder in folders:
        save(tmp_path / "set" / folder / "a.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        open_folder(Request("train", root=str(tmp_path / "set")))
    assert f"{Path(name).name} is a table of images and labels, a format that is not read: copy each" in str(
        caught.value
    )
    assert str(caught.value).endswith("'Labels in a table' in docs/your_images/classification.md do")
    assert "a format that is not read" not in objects(tmp_path / "set") + label_maps(tmp_path / "set")


@pytest.mark.parametrize("text", ["a.jpg\nb.jpg\n", "See a.jpg for more, or b.jpg\n", "cat\ndog\n", "1,2\n", ""])
def test_other_texts_are_no_tables_of_labels(tmp_path, text):
    for name in ("a.csv", "a.txt"):
        write(tmp_path / name, text)
    write(tmp_path / "train.json", VIA)  # Objects are no classes.
    with pytest.raises(UserError, match=r"it holds no folder; put images into .*<class>/\*.jpg"):
        open_folder(Request("train", root=str(tmp_path)))


@pytest.mark.parametrize("images", [1, 3000])
def test_a_panoptic_file_under_the_name_of_one_that_is_read(tmp_path, images):
    segments = [{"id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "area": 9, "iscrowd": 0}]
    written = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 8, "width": 8, "url": "x" * 40} for k in range(images)],
        "annotations": [{"image_id": k, "file_name": f"{k}.png", "segments_info": segments} for k in range(images)],
        "categories": [{"id": 7, "name": "cat", "isthing": 1}],
    }
    write(tmp_path / "a/train.json", written)
    line = objects(tmp_path / "a")
    assert f"{images:,} annotations have no bbox of four numbers, the first is" in line
    assert line.endswith(
        "the file is of COCO's panoptic task, a format that is not read: use the file of its instances, or make one "
        "with converters/panoptic2detection_coco_format.py of panopticapi"
    )
    # By its own name, however far down its annotations begin.
    write(tmp_path / "b/annotations/panoptic_train2017.json", written)
    assert "annotations/panoptic_train2017.json is of COCO's panoptic task" in objects(tmp_path / "b")
    assert label_maps(tmp_path / "b").endswith("writes its label maps with --semantic_seg_folder")


def test_a_file_of_cvat_in_the_folder_of_a_split(tmp_path):
    write(tmp_path / "train/annotations.xml", CVAT)
    assert "of <annotations>: their root must be <annotation>: in CVAT choose Actions, Export task" in objects(tmp_path)


def test_label_maps_have_ways_of_their_own(tmp_path):
    write(tmp_path / "a/annotations.xml", CVAT)
    assert label_maps(tmp_path / "a").endswith(
        "it holds no folder; annotations.xml is of CVAT, a format that is not read: in CVAT choose Actions, Export "
        "task dataset, and Segmentation mask 1.1"
    )
    write(tmp_path / "b/train.json", VIA)
    assert label_maps(tmp_path / "b").endswith(
        "; label maps are drawn from its polygons, each filled with the number of its class"
    )
    write(tmp_path / "c/labels/train/a.txt", YOLO)
    save(tmp_path / "c/images/train/a.png", np.zeros((2, 2, 3), np.uint8))
    line = label_maps(tmp_path / "c")
    assert (
        f"no label maps in {tmp_path}/c/labels/train (it holds 1 .txt): a.txt is of YOLO, a format that is not read: "
        in line
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.json", {"a": 1}),
        ("counts.txt", "1\n2\n"),
        ("train.txt", "0 1 2\n"),
        ("a.csv", "image,label\n"),
        ("notes.xml", "<notes/>"),
        ("z/all.json", {"images": [], "categories": [], "annotations": [{"segmentation": {"size": [1, 2]}}]}),
    ],
)
def test_others_are_not_taken_for_one(tmp_path, name, content):
    write(tmp_path / name, content)
    assert "a format that is not read" not in objects(tmp_path) + label_maps(tmp_path)
    assert "split notes.json" not in objects(tmp_path)


def test_what_is_read_is_read_beside_them(tmp_path):
    """Files of the tool lie about where its export is."""
    for kind, written in (("coco", write_coco), ("voc", write_voc)):
        written(tmp_path / kind, count=1, eval_count=1, size=(32, 32))
        for number, (name, content, _, _) in enumerate(FILES):
            write(tmp_path / kind / f"raw{number}" / Path(name).name, content)
        assert recognise_folder(OBJECTS, str(tmp_path / kind), options=ObjectOptions())[0] == kind
    (tmp_path / "coco/annotations/instances_val2017.json").unlink()
    with pytest.raises(
        UserError, match="^no evaluation annotations in .*; add --config.data.holdout=0.2, which .*, or move"
    ):
        open_source(
            OBJECTS, "coco", Request("eval", root=str(tmp_path / "coco"), options=ObjectOptions(num_classes=10))
        )
