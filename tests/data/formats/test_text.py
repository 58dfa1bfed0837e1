"""Text as editors write it: encodings, line ends, blank lines, comments and spellings, in every list and annotation."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvt_jax.data.formats import LABEL_MAPS, OBJECTS, open_source
from pvt_jax.data.formats.class_names import read_names
from pvt_jax.data.formats.coco import json_file
from pvt_jax.data.formats.split_lists import SplitList
from pvt_jax.data.options import LabelMapOptions, ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.spellings import Names
from tests.helpers.detection_data import save, voc_xml

# Shrinking and deadlines cost more than they tell here.
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Each begins with ASCII, by which UTF-16 without a byte order mark is known.
NAMES = st.lists(
    st.builds("{}{}".format, st.sampled_from("abcz"), st.text("ab cZé狗ёß😀-_.", max_size=8).map(str.rstrip)),
    min_size=2,
    max_size=6,
    unique_by=lambda name: unicodedata.normalize("NFC", name),
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
ENDS = st.sampled_from(["\n", "\r\n", "\r", " \n", "\t\r\n\r\n", "\n\n \n"])


def message(read: Any, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def objects(root: Path, source: str, split: Any = "train", **options: Any) -> Any:
    return open_source(OBJECTS, source, Request(split, root=str(root), options=ObjectOptions(**options)))


class TestClassNames:
    @FEW
    @given(names=NAMES, encoding=ENCODINGS, end=ENDS, is_cut=st.booleans(), number=st.sampled_from([None, 0, 1]))
    def test_are_what_was_written(self, tmp_path, names, encoding, end, is_cut, number):
        lines = names if number is None else [f"{place} {name}" for place, name in enumerate(names, start=number)]
        text = end.join(["# as drawn by a person", *lines])
        (tmp_path / "classes.txt").write_bytes((text + end * (not is_cut)).encode(encoding))
        assert read_names(str(tmp_path / "classes.txt")) == tuple(names)

    @pytest.mark.parametrize(
        ("encoding", "name", "first"), [("cp1252", "café", 0xE9), ("cp932", "猫", 0x94), ("gb18030", "狗", 0xB9)]
    )
    def test_other_encodings_are_refused_with_how_the_line_reads(self, tmp_path, encoding, name, first):
        path = tmp_path / "classes.txt"
        path.write_bytes(f"dog\r\n{name}\r\nbird".encode(encoding))
        line = message(read_names, str(path))
        assert line.startswith(f"{path} is not UTF-8: byte 0x{first:02X} in line 2, which reads '")
        assert f"'{name}' in {encoding.upper()}" in line
        assert line.endswith("; save it as UTF-8, as `iconv -f CP1252 -t UTF-8` does")
        # No encoding is offered in which a character would be cut.
        assert (encoding == "cp1252") == (" or " not in line)

    def test_labelme_s_first_line_is_no_class(self, tmp_path):
        """Its pixels are 255 in the label maps that labelme exports, and the background is 0."""
        path = tmp_path / "labels.txt"
        path.write_text("__ignore__\n_background_\ncat\n")
        assert read_names(str(path)) == ("_background_", "cat")

    def test_comments(self, tmp_path):
        path = tmp_path / "classes.txt"
        path.write_text("#\n$\n")
        assert read_names(str(path)) == ("#", "$")
        path.write_text("#classes\ncat\n")
        assert message(read_names, str(path)) == (
            f"{path} has a line '#classes' that is either a comment or a class: write a blank after the # of a "
            f"comment, or number all lines, as in '0 classes'"
        )
        path.write_text("# none\n\n")
        assert "is empty: write the name of a class on each line" in message(read_names, str(path))


class TestLists:
    @FEW
    @given(
        names=NAMES.map(lambda names: [name.replace(".", "-") for name in names]),
        encoding=ENCODINGS,
        end=ENDS,
        form=st.sampled_from(["NFC", "NFD"]),
        spelling=st.sampled_from(["{}", "{}.JPG", "{}.jpg", "./{}.png", "images/{}.jpg", "C:\\data\\images\\{}.jpg"]),
    )
    def test_name_images_however_they_are_spelled(self, tmp_path, names, encoding, end, form, spelling):
        names = list({unicodedata.normalize("NFC", name): name for name in names}.values())
        known = [unicodedata.normalize(form, name) for name in names]
        text = end.join(["# drawn", *(spelling.format(unicodedata.normalize("NFC", name)) for name in names), ""])
        (tmp_path / "train.txt").write_bytes(text.encode(encoding))
        read = SplitList(str(tmp_path / "train.txt"), known, "/data/images", {"jpg", "png"})
        assert (read.stems, read.unknown) == (known, [])

    def test_names_in_another_encoding(self, tmp_path):
        """Where the file's name itself is in it, the bytes are the name; else the list cannot be read."""
        path = tmp_path / "train.txt"
        path.write_bytes(b"caf\xe9\n")
        assert SplitList(str(path), ["caf\udce9"], "images", {"jpg"}).stems == ["caf\udce9"]
        line = message(SplitList, str(path), ["café"], "images", {"jpg"})
        assert line.startswith(f"{path} is not UTF-8: byte 0xE9 in line 1, which reads 'café' in CP1252")

    def test_of_label_maps(self, tmp_path):
        for name in ("images/cafe\u0301 1.jpg", "images/b.JPG", "masks/café 1.png", "masks/b.PNG"):
            save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / "a.png").rename(tmp_path / name)
        (tmp_path / "train.txt").write_bytes("\ufeffcafé 1\r\n".encode("utf-8"))
        (tmp_path / "val.txt").write_bytes("b.jpg b.png\r\n".encode("utf-16"))
        found = {
            split: open_source(
                LABEL_MAPS, "label_folder", Request(split, root=str(tmp_path), options=LabelMapOptions(num_classes=2))
            )
            for split in ("train", "eval")
        }
        assert [unicodedata.normalize("NFC", found["train"].name(0)), len(found["train"])] == [
            str(tmp_path / "images/café 1.jpg"),
            1,
        ]
        assert found["eval"].name(0) == str(tmp_path / "images/b.JPG") and found["train"][0]["label_map"]


def test_names_that_are_as_near_are_not_guessed():
    assert Names(["a.jpg", "a.JPG"]).find("a.Jpg") is None
    assert Names(["a.jpg", "a.JPG"]).find("a.JPG") == "a.JPG"
    assert Names(["e\u0301.jpg", "\u00e9.JPG"]).find("\u00e9.jpg") == "e\u0301.jpg"
    assert Names(["A.jpg"]).find("a.jpg") is None


class TestCoco:
    @FEW
    @given(names=NAMES, encoding=ENCODINGS, indent=st.sampled_from([None, 1]), form=st.sampled_from(["NFC", "NFD"]))
    def test_in_any_encoding(self, tmp_path, names, encoding, indent, form):
        """Names, files and masks, which are read from their own bytes, are those that were written."""
        root = tmp_path / encoding / form / str(abs(hash((*names, indent))))
        files = [f"{number}é{name.replace('.', '')}.jpg" for number, name in enumerate(names)]
        for file in files:
            save(root / "train" / (unicodedata.normalize(form, file)[:-4] + ".JPG"), np.zeros((8, 9, 3), np.uint8))
        polygons = [[[0, 0, number + 2, 0, number + 2, 3, 0, 3]] for number in range(len(names))]
        content = {
            "info": {"author": "é狗😀"},
            "images": [{"id": file, "file_name": file, "height": 8, "width": 9} for file in files],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
            "annotations": [
                {"note": "é😀", "image_id": file, "category_id": number, "bbox": [0, 0, number + 2, 3],
                 "segmentation": polygons[number]}
                for number, file in enumerate(files)
            ],
        }  # fmt: skip
        text = json.dumps(content, ensure_ascii=False, indent=indent)
        (root / "train.json").write_bytes(text.encode(encoding))
        source = objects(root, "coco", num_classes=len(names), with_masks=True)
        assert source.class_names == tuple(names) and len(source) == len(names)
        for index in range(len(names)):
            assert Path(source.name(index)).name[:-4] == unicodedata.normalize(form, files[index])[:-4]
            found = source.objects(index)
            assert found.labels.tolist() == [index] and found.masks == (polygons[index],)
        file = json_file.read_coco(str(root / "train.json"), with_masks=True)
        assert list(json_file.read_annotations(file.path, file.spans.tolist())) == content["annotations"]


class TestVoc:
    @FEW
    @given(
        name=st.sampled_from(["café", "猫", "狗", "Straße"]),
        declared=st.sampled_from(["", "utf-8", "UTF-16", "cp1252", "shift_jis", "gb2312", "GBK", "iso-8859-1"]),
        written=st.sampled_from(["", "utf-8-sig", "utf-16"]),
        before=st.sampled_from(["", "\n", "\r\n "]),
    )
    def test_xml_in_any_encoding(self, tmp_path, name, declared, written, before):
        # What a byte order mark says counts more than what the file declares.
        encoding = written or ("utf-8" if declared.upper().startswith("UTF") else declared) or "utf-8"
        text = voc_xml("0.jpg", None, [("NAME", [1, 1, 5, 6])]).decode().replace("NAME", name)
        declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
        try:
            data = ((before if not written else "") + declaration + text).encode(encoding)
        except UnicodeEncodeError:
            return
        save(tmp_path / "train/0.jpg", np.zeros((8, 9, 3), np.uint8))
        (tmp_path / "train/0.xml").write_bytes(data)
        source = objects(tmp_path, "voc", num_classes=1)
        assert source.class_names == (name,) and source.objects(0).boxes.tolist() == [[0, 0, 5, 6]]

    def test_images_in_another_form_of_unicode(self, tmp_path):
        for number, (image, named) in enumerate(
            [("e\u0301.JPG", "é.jpg"), ("b.jpg", "nowhere.jpg"), ("c.PNG", "c.png")]
        ):
            save(tmp_path / "train/a.jpg", np.zeros((8, 9, 3), np.uint8))
            (tmp_path / "train/a.jpg").rename(tmp_path / "train" / image)
            stem = ["é", "b", "other"][number]
            (tmp_path / f"train/{stem}.xml").write_bytes(voc_xml(named, None, [("x", [1, 1, 5, 6])]))
        source = objects(tmp_path, "voc", num_classes=1)
        assert [Path(source.name(index)).name for index in range(3)] == ["b.jpg", "c.PNG", "e\u0301.JPG"]
        assert source.sizes().tolist() == [[8, 9]] * 3
