"""Conventions of label tools: what they write, or leave out, where COCO and Pascal VOC say something else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import segmentation_folder
from pvt_jax import config as config_lib
from pvt_jax.data.formats import LABEL_MAPS, OBJECTS, open_source
from pvt_jax.data.formats.class_names import alike
from pvt_jax.data.formats.coco.masks import mask_box, mask_problem, plain_mask
from pvt_jax.data.formats.recognise import recognise_folder
from pvt_jax.data.objects import decode_mask, run_lengths
from pvt_jax.data.options import LabelMapOptions, ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.ground_truth import ground_truth
from pvt_jax.tasks.segmentation.checks import SegmentationChecks
from tests.helpers.detection_data import save, write_json

SIZE = (30, 40)
SQUARE = [5, 6, 25, 6, 25, 16, 5, 16]


def opened(root: Path, masks: bool = False) -> Any:
    source, names = recognise_folder(OBJECTS, str(root), options=ObjectOptions())
    options = ObjectOptions(num_classes=len(names), with_masks=masks)
    return open_source(OBJECTS, source, Request("train", root=str(root), options=options))


def coco(root: Path, annotations: list[dict[str, Any]], categories: list[dict[str, Any]], **image: Any) -> Path:
    save(root / "train/1.png", np.zeros((*SIZE, 3), np.uint8))
    row = {"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1], **image}
    write_json(root / "train.json", {"images": [row], "annotations": annotations, "categories": categories})
    return root


def row(category: Any = 1, **rest: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": [5, 6, 20, 10], **rest}


CATS = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


class TestCoco:
    @pytest.mark.parametrize("box", [None, [], "absent"])
    def test_a_box_that_is_missing_is_that_of_the_mask(self, tmp_path, box):
        kept = row(segmentation=[SQUARE])
        kept.pop("bbox") if box == "absent" else kept.update(bbox=box)
        source = opened(coco(tmp_path, [kept, row(2)], CATS))
        assert source.objects(0).boxes.tolist() == [[5, 6, 25, 16]] * 2
        assert "1 box missing, those around the masks are taken" in source.notes()
        assert ground_truth(source)["annotations"][0]["bbox"] == [5, 6, 20, 10]

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_box_around_any_mask(self, data):
        height, width = SIZE
        x, y = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
        right, bottom = data.draw(st.integers(x + 1, width)), data.draw(st.integers(y + 1, height))
        mask = np.zeros(SIZE, bool)
        mask[y:bottom, x:right] = True
        expected = [x, y, right - x, bottom - y]
        lengths = run_lengths(mask, SIZE)
        assert mask_box(lengths) == expected
        assert mask_box([[x, y, right, y, right, bottom, x, bottom]]) == expected
        # As Python shows bytes, its backslashes doubled.
        shown = {**lengths, "counts": str(lengths["counts"].encode())}
        assert mask_problem(shown) is None
        np.testing.assert_array_equal(decode_mask(plain_mask(shown) or [], SIZE), mask)

    def test_lines_beside_polygons_are_left_out(self, tmp_path):
        source = opened(coco(tmp_path, [row(segmentation=[[1, 1, 9, 9], SQUARE, []]), row(2)], CATS), masks=True)
        assert source.objects(0).masks == ([SQUARE], None)
        assert "polygons of less than three points left out of 1 mask" in source.notes()

    @pytest.mark.parametrize("key", ["ignore", "iscrowd"])
    def test_what_is_to_be_ignored(self, tmp_path, key):
        source = opened(coco(tmp_path, [row(**{key: 1}), row(2, **{key: 0})], CATS))
        assert source.objects(0).crowd.tolist() == [True, False]
        said = "1 annotation marked with ignore, taken for crowd regions" in source.notes()
        assert said == (key == "ignore")

    @pytest.mark.parametrize("name", ["__background__", "_background_", "__ignore__"])
    def test_a_background_is_no_class(self, tmp_path, name):
        categories = [{"id": 0, "name": name}, *CATS]
        source = opened(coco(tmp_path / "a", [row(1), row(2)], categories))
        assert source.class_names == ("cat", "dog") and source.objects(0).labels.tolist() == [0, 1]
        # Unless something is of it.
        assert opened(coco(tmp_path / "b", [row(0), row(2)], categories)).class_names[0] == name

    def test_ids_and_names_as_texts(self, tmp_path):
        categories = [{"id": "10", "name": " cat"}, {"id": "9", "name": "dog \n"}]
        source = opened(coco(tmp_path, [row("10"), row("9")], categories))
        assert source.class_names == ("dog", "cat") and source.objects(0).labels.tolist() == [1, 0]
        assert source.category_ids == (9, 10)

    @pytest.mark.parametrize("sides", [{"height": 0, "width": 0}, {"height": -1, "width": -1}, {"width": None}])
    def test_sizes_that_were_not_measured(self, tmp_path, sides):
        assert opened(coco(tmp_path, [row()], CATS, **sides)).sizes().tolist() == [list(SIZE)]

    @pytest.mark.parametrize(
        "name", ["https://a.b/c/1.png?v=2#x", "C:\\data\\train\\1.png", "./1.png", "1.png ", "train/1.PNG", "/x/1.png"]
    )
    def test_names_of_files(self, tmp_path, name):
        source = opened(coco(tmp_path, [row()], CATS, file_name=name))
        assert source.name(0) == str(tmp_path / "train/1.png")

    def test_another_ending_is_said(self, tmp_path):
        with pytest.raises(UserError, match=r"\(.*/train has '1.png': correct the ending\)"):
            opened(coco(tmp_path, [row()], CATS, file_name="1.jpg"))


class TestVoc:
    BOX = "<bndbox><xmin>6</xmin><ymin>7</ymin><xmax>25</xmax><ymax>16</ymax></bndbox>"

    def write(self, root: Path, stem: str, text: str, image: str = "") -> None:
        if image:
            save(root / "train" / image, np.zeros((*SIZE, 3), np.uint8))
        (root / "train").mkdir(parents=True, exist_ok=True)
        (root / f"train/{stem}.xml").write_text(f"<annotation>{text}</annotation>", "utf-8")

    @pytest.mark.parametrize(
        "text",
        [
            f"<object><name>cat</name>{BOX}</object>",
            f"<Object><Name>cat</Name>{BOX.replace('x', 'X').replace('bnd', 'Bnd')}</Object>",
            f"<objects><object><name>cat</name>{BOX}</object></objects>",
            f"<size><width>0</width><height>0</height></size><object><name> cat\n</name>{BOX}</object>",
            f"<object><name>cat</name>{BOX.replace('</', '.0</', 1).replace('16', ' 16.0 ')}</object>",
            f"<object><name>old</name><deleted>1</deleted>{BOX}</object><object><name>cat</name>{BOX}</object>",
        ],
    )
    def test_objects(self, tmp_path, text):
        self.write(tmp_path, "1", text, "1.png")
        source = opened(tmp_path)
        assert source.class_names == ("cat",) and source.sizes().tolist() == [list(SIZE)]
        assert source.objects(0).boxes.tolist() == [[5, 6, 25, 16]]

    @pytest.mark.parametrize(
        ("image", "text"),
        [
            ("zz.png", "<filename>1.png</filename><path>C:\\a\\zz.png</path>"),
            ("a b.png", "<filename>a%20b.png</filename>"),
            ("1.png", "<filename>other.png</filename>"),
            ("1.png", "<filename></filename>"),
        ],
    )
    def test_names_of_the_image(self, tmp_path, image, text):
        self.write(tmp_path, "1", f"{text}<object><name>cat</name>{self.BOX}</object>", image)
        assert opened(tmp_path).name(0) == str(tmp_path / "train" / image)

    def test_an_image_of_two_files(self, tmp_path):
        for stem in ("1", "2"):
            self.write(tmp_path, stem, f"<filename>2.png</filename><object><name>a</name>{self.BOX}</object>", "2.png")
        with pytest.raises(UserError) as caught:
            opened(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}/train: 1 images have several XML files, the first is 2.png, of 1.xml, 2.xml: give each image "
            f"one, or correct <filename>"
        )
        save(tmp_path / "train/1.png", np.zeros((*SIZE, 3), np.uint8))
        source = opened(tmp_path)
        assert [source.name(index)[-5:] for index in (0, 1)] == ["1.png", "2.png"]
        note = "1 XML files name another image than that of their own name, which is taken, such as 1.xml"
        assert note in source.notes()

    @pytest.mark.parametrize("shape", ["robndbox", "polygon"])
    def test_other_shapes_are_named(self, tmp_path, shape):
        self.write(tmp_path, "1", f"<object><name>cat</name><{shape}/></object>", "1.png")
        with pytest.raises(UserError, match=f"the first is 'cat' in 1.xml, which is a {shape}: they are xmin"):
            opened(tmp_path)

    def test_a_background_is_no_class(self, tmp_path):
        self.write(tmp_path, "1", f"<object><name>cat</name>{self.BOX}</object>", "1.png")
        (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
        source = opened(tmp_path)
        assert source.class_names == ("cat",) and source.objects(0).labels.tolist() == [0]


def test_classes_that_are_spelled_alike_are_said():
    assert alike(["Cat", "dog", "cat", "traffic light", "trafficlight"]) == [
        "'Cat' and 'cat', 'traffic light' and 'trafficlight' are classes of their own, though they are spelled alike"
    ]
    assert alike(["cat", "dog"]) == []


class TestLabelMaps:
    @pytest.fixture
    def root(self, tmp_path):
        """Of two classes where 0 is ignored: 1 and 2."""
        for split in ("train", "val"):
            save(tmp_path / f"images/{split}/1.png", np.zeros((8, 8, 3), np.uint8))
            save(tmp_path / f"masks/{split}/1.png", np.arange(64, dtype=np.uint8).reshape(8, 8) % 3)
        return tmp_path

    def source(self, root: Path, split: Any = "train", **options: Any) -> Any:
        request = Request(split, root=str(root), options=LabelMapOptions(**options))
        return open_source(LABEL_MAPS, "label_folder", request)

    @pytest.mark.parametrize("first", ["ignore", "void", "Unlabeled", "background", "_background_"])
    def test_a_name_of_what_is_ignored_is_no_class(self, root, first):
        (root / "classes.txt").write_text(f"{first}\nroad\nsky\n")
        source = self.source(root, num_classes=2, reduce_zero_label=True)
        assert source.class_names == ("road", "sky")
        assert source.encoding.decode(source[0]["label_map"], "")[0].tolist() == [255, 0, 1, 255, 0, 1, 255, 0]
        assert self.source(root, num_classes=3).class_names == (first, "road", "sky")
        config = config_lib.load(f"{segmentation_folder.__file__}:{root}", ["segmentation.reduce_zero_label=True"])
        assert config.model.num_classes == 2

    def test_an_ignored_name_that_is_trained_is_said(self, root):
        for first, is_said in (("ignore", True), ("background", False)):
            (root / "classes.txt").write_text(f"{first}\nroad\nsky\n")
            halves = [self.source(root, split, num_classes=3) for split in ("train", "eval")]
            line = SegmentationChecks(3).validate(*halves)
            said = (
                "class 0 is 'ignore', which is trained and counted as any other: if 0 in the label maps is to be "
                "ignored, set --config.segmentation.reduce_zero_label=True; if 0 is 'road', take the name off the "
                "list"
            )
            assert line.endswith(said) == is_said
