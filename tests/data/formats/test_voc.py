"""Data sets in the format of Pascal VOC: what is read of them, and what is refused."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from pvt_jax.data.formats.voc.source import class_names_of_voc
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.ground_truth import ground_truth
from tests.helpers.detection_data import save, voc_xml
from tests.helpers.voc_data import message, opened, write, write_flat


@pytest.fixture
def root(tmp_path):
    return write_flat(tmp_path)


class TestObjects:
    def test_pixels_count_from_1_and_belong_to_the_box(self, root):
        """A box from pixel 1 to pixel 10 is 10 pixels wide."""
        source = opened(root)
        assert source.class_names == ("cat", "dog") and source.category_ids == (1, 2)
        objects = source.objects(0)
        assert objects.boxes.tolist() == [[0, 0, 10, 20], [10, 1, 30, 19]]
        assert objects.labels.tolist() == [1, 0] and objects.areas.tolist() == [200, 360]
        assert source.sizes().tolist() == [[20, 30], [20, 30]]

    def test_difficult_objects_are_ignored(self, root):
        objects = [("dog", [1, 1, 10, 20]), ("cat", [11, 2, 30, 19])]
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), objects, lambda n: n == 1), "0.jpg")
        source = opened(root)
        assert source.objects(0).crowd.tolist() == [False, True] and source.counts().tolist() == [1, 1]
        truth = ground_truth(source)
        assert [row["iscrowd"] for row in truth["annotations"]] == [0, 1, 0]
        assert truth["images"][0] == {"id": "0", "file_name": source.name(0), "height": 20, "width": 30}
        assert truth["annotations"][0]["bbox"] == [0, 0, 10, 20] and truth["annotations"][0]["category_id"] == 2

    def test_parts_are_no_objects_and_sizes_may_be_missing(self, root):
        content = voc_xml("0.jpg", None, [("dog", [1, 1, 10, 20])])
        part = b"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        write(root / "train/0.xml", content.replace(b"</object>", part), "0.jpg", (21, 31))
        source = opened(root)
        assert source.objects(0).boxes.tolist() == [[0, 0, 10, 20]] and source.sizes()[0].tolist() == [21, 31]
        write(root / "train/0.xml", voc_xml("0.jpg", (0, 0), [("dog", [1, 1, 10, 20])]), "0.jpg", (21, 31))
        assert opened(root).sizes()[0].tolist() == [21, 31]

    def test_images_without_objects(self, root):
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), []), "0.jpg")
        names = ("cat", "dog")
        assert [opened(root, class_names=names, keep_empty=keep).image_id(0) for keep in (False, True)] == ["1", "0"]
        write(root / "train/1.xml", voc_xml("1.jpg", (20, 30), []), "1.jpg")
        assert "no object in" in message(root, class_names=names)

    def test_boxes_at_the_border(self, root):
        objects = [("cat", [0, 0, 10, 10]), ("cat", [25, 5, 36, 9]), ("dog", [4, 4, 4, 9]), ("dog", [5, 5, 9, 9])]
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), objects), "0.jpg")
        source = opened(root)
        assert source.objects(0).boxes.tolist() == [[0, 0, 10, 10], [24, 4, 30, 9], [4, 4, 9, 9]]
        assert "1 box extending beyond the image clipped to it" in source.notes()
        assert "1 box of less than a pixel dropped" in source.notes()

    def test_the_image_that_the_file_names(self, root):
        """Stems may be those of both, and then the file says which; or the stems differ."""
        save(root / "train/0.png", np.zeros((20, 30, 3), np.uint8))
        assert opened(root).name(0).endswith("0.jpg")
        os.rename(root / "train/1.jpg", root / "train/one.jpg")
        content = voc_xml("C:\\photos\\one.jpg", (20, 30), [("cat", [5, 5, 9, 9])])
        (root / "train/1.xml").write_bytes(content)
        source = opened(root)
        assert source.name(1).endswith("one.jpg") and source.image_id(1) == "1"
        assert not [note for note in source.notes() if "images" in note]
        os.rename(root / "train/1.xml", root / "train/2.xml")
        save(root / "train/2.png", np.zeros((20, 30, 3), np.uint8))
        assert opened(root).name(1).endswith("2.png")

    def test_one_of_two_images_of_a_stem(self, root):
        """The file that the XML file names, else the first; the other is told of."""
        save(root / "train/0.png", np.zeros((20, 30, 3), np.uint8))
        path = root / "train/0.xml"
        content = path.read_bytes()
        for named, expected in ((b"0.jpg", "0.jpg"), (b"0.png", "0.png"), (b"photos/0.png", "0.png")):
            path.write_bytes(content.replace(b"0.jpg", named))
            source = opened(root)
            assert source.name(0).endswith(f"train/{expected}") and not [n for n in source.notes() if "stem" in n]
        for named in (b"", b"0", b"0.webp"):
            path.write_bytes(content.replace(b"0.jpg", named))
            source = opened(root)
            assert len(source) == 2 and source.name(0).endswith("0.jpg")
            assert (
                "1 images are left out, such as 0.png: others have the same stem, and the XML files do not say which "
                "is meant"
            ) in source.notes()

    def test_words_for_difficult(self, root):
        content = (root / "train/0.xml").read_bytes()
        assert content.count(b"<difficult>0<") == 2
        for text, difficult in {
            "1": True, "True": True, "true": True, " YES ": True, "1.0": True, "0": False, "False": False, "no": False,
            "": False, "Unspecified": False, "0.0": False, "None": False, "N/A": False,
        }.items():  # fmt: skip
            changed = content.replace(b"<difficult>0<", f"<difficult>{text}<".encode(), 1)
            (root / "train/0.xml").write_bytes(changed)
            assert opened(root).objects(0).crowd.tolist() == [difficult, False]

    def test_a_root_in_other_letters(self, root):
        path = root / "train/0.xml"
        path.write_bytes(path.read_bytes().replace(b"annotation>", b"Annotation>"))
        assert len(opened(root).objects(0)) == 2

    def test_a_namespace_is_ignored(self, root):
        path = root / "train/0.xml"
        content = path.read_bytes()
        default = content.replace(b"<annotation>", b'<annotation xmlns="http://a.org/b">')
        prefixed = content.replace(b"</", b"</a:").replace(b"<annotation>", b'<a:annotation xmlns:a="b">')
        for name in (b"filename", b"size", b"width", b"height", b"depth", b"object", b"name", b"difficult", b"bndbox",
                     b"xmin", b"xmax", b"ymin", b"ymax"):  # fmt: skip
            prefixed = prefixed.replace(b"<" + name + b">", b"<a:" + name + b">")
        for changed in (default, prefixed):
            path.write_bytes(changed)
            assert opened(root).objects(0).boxes.tolist() == [[0, 0, 10, 20], [10, 1, 30, 19]]


class TestClasses:
    def test_are_those_of_training(self, root):
        assert opened(root, "eval").class_names == ("cat", "dog")
        write(root / "valid/2.xml", voc_xml("2.jpg", (20, 30), [("dogs", [3, 4, 8, 16])]), "2.jpg")
        line = message(root, "eval")
        assert f"1 objects in {root / 'valid'} are of 1 unknown class, dogs (did you mean 'dog'?)" in line
        assert f"the classes are those of {root / 'train'} (cat, dog)" in line

    def test_of_pascal_voc(self, root):
        write(root / "train/0.xml", voc_xml("0.jpg", (20, 30), [("tvmonitor", [1, 1, 10, 20])]), "0.jpg")
        source = opened(root, num_classes=20)
        assert source.class_names[0] == "aeroplane" and source.class_names[19] == "tvmonitor"
        assert source.objects(0).labels.tolist() == [19] and source.objects(1).labels.tolist() == [7]

    def test_of_a_file_or_the_config(self, root):
        (root / "classes.txt").write_text("dog\nbird\ncat\n")
        assert opened(root, num_classes=3).objects(0).labels.tolist() == [0, 2]
        source = opened(root, num_classes=1, class_names=("dog",))
        assert len(source) == 1 and source.objects(0).labels.tolist() == [0]
        assert "2 objects of other classes are left out" in source.notes()
        line = message(root, num_classes=1, class_names=("horse",))
        assert "no object in" in line and "is of detection.class_names (horse): they are called cat, dog" in line

    def test_another_number_than_the_model_s(self, root):
        # With 20 they would be those of Pascal VOC, which has both.
        line = message(root, num_classes=7)
        assert "(cat, dog) has 2 classes but model.num_classes is 7: set --config.model.num_classes=2" in line


def replaced(*parts: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        for old, new in parts:
            assert old in content
            content = content.replace(old, new)
        return content

    return edit


REFUSED = [
    (lambda content: content[:-9], "1 XML files cannot be read, the first is 0.xml (unclosed token"),
    (lambda content: b"", "1 XML files cannot be read"),
    (replaced((b"dog", b"caf\xe9")), "1 XML files are not UTF-8, the first is 0.xml (byte 0xE9 in line 1, which reads"),
    (lambda content: b"<?xml version='1.0' encoding='klingon'?>" + content, "1 XML files cannot be read"),
    (lambda content: b"<html></html>", "1 XML files are not in the format of Pascal VOC, the first is 0.xml, of "
     "<html>: their root must be <annotation>: export them as Pascal VOC, or remove them"),
    (lambda content: b"<annotations>" + content + b"</annotations>", "is 0.xml, of <annotations>: their root"),
    (replaced((b"<width>30<", b"<width>99999999999<")), "1 XML files give a size that no image has, the first is "
     "0.xml, 99999999999×20 (width × height): correct it, or remove it to have it measured"),
    (replaced((b"<width>30<", b"<width>inf<")), "the first is 0.xml, inf×20 (width"),
    (replaced((b"<height>20<", b"<height>1e400<")), "the first is 0.xml, 30×inf (width"),
    (replaced((b"<height>20<", b"<height>2147483648<")), "the first is 0.xml, 30×2147483648 (width"),
    (replaced((b"<difficult>0<", b"<difficult>maybe<")),
     "2 objects have a difficult that is neither 1 nor 0, the first is 'maybe' of 'dog' in 0.xml: write 1 or 0 as "
     "difficult"),
    (replaced((b"<name>dog</name>", b"")), "1 objects have no name, the first is in 0.xml"),
    (replaced((b"<name>dog</name>", b"<name> </name>")), "1 objects have no name"),
    (replaced((b"<xmin>1</xmin>", b"")), "1 objects have no bndbox of four numbers, the first is 'dog' in 0.xml"),
    (replaced((b"<xmin>1<", b"<xmin>one<")), "they are xmin, ymin, xmax, ymax"),
    (replaced((b"<xmin>1<", b"<xmin>nan<")), "no bndbox of four numbers"),
    (replaced((b"<xmin>1<", b"<xmin>15<")), "1 of 3 boxes have a negative width or height, the first is 'dog' in "
     "0.xml, xmin 15, ymin 1, xmax 10, ymax 20, of 30×20 (width × height)"),
    (replaced((b"<xmin>1<", b"<xmin>31<"), (b"<xmax>10<", b"<xmax>40<")), "1 of 3 boxes are wholly outside"),
]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("edit,expected", REFUSED)
    def test_content(self, root, edit, expected):
        path = root / "train/0.xml"
        path.write_bytes(edit(path.read_bytes()))
        line = message(root)
        assert expected in line and str(root / "train") in line

    def test_a_declared_encoding_is_read(self, root):
        path = root / "train/0.xml"
        declared = b"<?xml version='1.0' encoding='latin-1'?>" + path.read_bytes().replace(b"dog", b"caf\xe9")
        path.write_bytes(declared)
        assert opened(root).class_names == ("café", "cat")

    def test_missing_images(self, root):
        (root / "train/0.jpg").unlink()
        (root / "train/1.jpg").unlink()
        line = message(root)
        assert f"2 XML files have no image in {root / 'train'}, the first is 0.xml, of image '0.jpg'" in line

    @pytest.mark.parametrize("ending,named", [("heic", "0.heic"), ("NEF", "0.jpg"), ("psd", "")])
    def test_images_of_a_format_that_is_not_read(self, root, ending, named):
        os.rename(root / "train/0.jpg", root / f"train/0.{ending}")
        path = root / "train/0.xml"
        path.write_bytes(path.read_bytes().replace(b"0.jpg", named.encode()))
        assert message(root) == (
            f"{root / 'train'}: 1 XML files are of images in {root / 'train'} whose format is not read, the first is "
            f"0.xml, of image '0.{ending}': convert to JPEG or PNG"
        )

    @pytest.mark.parametrize("ending", [".jfif", ".TIF", ""])
    def test_images_are_known_by_their_content(self, root, ending):
        os.rename(root / "train/0.jpg", root / f"train/0{ending}")
        source = opened(root)
        assert source.name(0) == str(root / f"train/0{ending}") and len(source) == 2

    def test_no_object_at_all(self, root):
        for number in (0, 1):
            (root / f"train/{number}.xml").write_bytes(voc_xml(f"{number}.jpg", (20, 30), []))
        expected = f"no object in the 2 XML files of {root / 'train'}: annotate some, or choose another split"
        assert message(root) == message(root, "eval") == expected
        with pytest.raises(UserError) as caught:
            class_names_of_voc(Request("train", root=str(root), options=ObjectOptions(num_classes=0)))
        assert str(caught.value) == expected

    def test_files_whose_names_are_not_utf8(self, root):
        folder = os.fsencode(root / "train")
        try:
            for suffix in (b".jpg", b".xml"):
                os.rename(folder + b"/0" + suffix, folder + b"/\xe9" + suffix)
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
        source = opened(root)
        assert source.name(1) == f"{root}/train/\\xe9.jpg" and len(source.image(1)) and len(source.objects(1)) == 2
        os.unlink(folder + b"/\xe9.jpg")
        assert "the first is \\xe9.xml" in message(root)
