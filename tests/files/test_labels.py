"""Label maps: what is stored, what it becomes, and what is refused."""

import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.labels import IGNORE, LabelEncoding, distinct_colours

SMALL = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)


def file(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey_png(rows: list[list[int]], bits: int) -> bytes:
    """A grey PNG with ``bits`` a pixel, written by hand: Pillow writes 8 and 16 alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def palette_image(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, "P")
    # Colours that say nothing about the indices: all but one are the same.
    image.putpalette([200, 10, 10] * 255 + [0, 0, 0])
    return image


def message(encoding: LabelEncoding, data, error=UserError) -> str:
    with pytest.raises(error) as caught:
        encoding.decode(data, "maps/a.png")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("maps/a.png")
    return line


class TestDecode:
    @given(
        st.data(),
        st.integers(1, 9),
        st.booleans(),
        st.sets(st.integers(0, 12), max_size=3),
        st.sampled_from(["uint8", "uint16", "int32"]),
    )
    def test_each_pixel_by_itself(self, data, num_classes, reduced, ignored, dtype):
        values = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=20))
        mapping = data.draw(st.none() | st.dictionaries(st.integers(0, 12), st.integers(0, num_classes - 1)))
        if mapping is not None:
            reduced = False
        encoding = LabelEncoding(num_classes, tuple(ignored), reduced, mapping)
        expected, unknown = [], []
        for value in values:
            label = value - reduced if mapping is None else mapping.get(value, -1)
            if value in ignored and value not in (mapping or ()) or reduced and value == 0:
                label = IGNORE
            elif not 0 <= label < num_classes:
                unknown.append(value)
            expected.append(label)
        stored = np.array([values], dtype)
        found = encoding.inspect(stored, "a")
        assert found.unknown == tuple(sorted(set(unknown))) and found.size == (1, len(values))
        assert found.values == tuple(sorted(set(values)))
        if unknown:
            assert "label" in message(encoding, stored)
            return
        decoded = encoding.decode(stored, "a")
        assert decoded.dtype == np.uint8 and decoded.tolist() == [expected]
        assert found.classes == set(expected) - {IGNORE}

    @pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
    def test_palette_gives_indices_never_colours(self, form):
        assert LabelEncoding(4).decode(file(palette_image(SMALL), form), "a").tolist() == SMALL.tolist()

    def test_grey_as_opencv_reads_it(self):
        stored = np.random.default_rng(0).integers(0, 256, (30, 17), np.uint8)
        data = file(Image.fromarray(stored))
        by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(LabelEncoding(255).decode(data, "a"), by_opencv)
        assert np.array_equal(by_opencv, stored)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_grey_of_few_and_many_bits_is_not_stretched(self, bits):
        largest = min(2**bits - 1, 150)
        rows = [[0, largest, largest // 2], [1, 0, largest]]
        assert LabelEncoding(151).decode(grey_png(rows, bits), "a").tolist() == rows

    def test_palettes_of_few_bits(self):
        for bits in (1, 2, 4):
            stored = (np.arange(6, dtype=np.uint8) % 2**bits).reshape(2, 3)
            data = file(palette_image(stored), bits=bits)
            assert LabelEncoding(16).decode(data, "a").tolist() == stored.tolist()

    def test_black_and_white(self):
        image = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
        assert LabelEncoding(2).decode(file(image), "a").tolist() == [[0, 1, 1]]

    def test_16_bits_with_values_beyond_a_byte(self):
        stored = np.array([[0, 3], [65535, 1000]], np.uint16)
        encoding = LabelEncoding(2, (65535,), mapping={0: 1, 3: 0, 1000: 1})
        assert encoding.decode(file(Image.fromarray(stored)), "a").tolist() == [[1, 0], [255, 1]]
        assert "label 1000 is outside 0…3" in message(LabelEncoding(4, (65535,)), file(Image.fromarray(stored)))

    def test_grey_saved_as_rgb_or_with_opacity(self):
        grey = Image.fromarray(SMALL)
        for mode in ("RGB", "RGBA", "LA"):
            assert LabelEncoding(4).decode(file(grey.convert(mode)), "a").tolist() == SMALL.tolist()

    def test_arrays(self):
        for stored in (SMALL, SMALL[..., None], SMALL.astype(np.int64), np.asfortranarray(SMALL), SMALL[::-1][::-1]):
            assert LabelEncoding(4).decode(stored, "a").tolist() == SMALL.tolist()
        assert LabelEncoding(2).decode(SMALL > 2, "a").tolist() == (SMALL > 2).tolist()
        assert "label -1 is outside 0…3" in message(LabelEncoding(4), np.array([[-1, 2]]))
        assert "float64 [1, 1]" in message(LabelEncoding(4), np.zeros((1, 1)))
        assert "uint8 [0, 4]" in message(LabelEncoding(4), np.zeros((0, 4), np.uint8))


COLOURS = ((0, 0, 0), (128, 0, 0), (10, 20, 30), (224, 224, 192))


class TestColours:
    def test_classes_follow_the_palette_and_what_is_beyond_is_ignored(self):
        stored = np.array([COLOURS, COLOURS[::-1]], np.uint8)
        encoding = LabelEncoding(3, colours=COLOURS)
        for mode in ("RGB", "RGBA"):
            data = file(Image.fromarray(stored).convert(mode))
            assert encoding.decode(data, "a").tolist() == [[0, 1, 2, 255], [255, 2, 1, 0]]
        assert encoding.inspect(stored, "a").classes == {0, 1, 2}
        assert encoding.decode(stored[:, :3], "a").tolist() == [[0, 1, 2], [255, 2, 1]]

    def test_files_of_indices_need_no_colours(self):
        assert LabelEncoding(4, colours=COLOURS).decode(file(palette_image(SMALL)), "a").tolist() == SMALL.tolist()
        assert LabelEncoding(4, colours=COLOURS).decode(file(Image.fromarray(SMALL)), "a").tolist() == SMALL.tolist()

    def test_grey_colours_are_levels(self):
        encoding = LabelEncoding(2, colours=((0, 0, 0), (255, 255, 255)))
        grey = Image.fromarray(np.array([[0, 255]], np.uint8))
        for image in (grey, grey.convert("RGB"), grey.convert("1")):
            assert encoding.decode(file(image), "a").tolist() == [[0, 1]]
        assert "colour (7, 7, 7)" in message(encoding, file(Image.fromarray(np.array([[0, 7]], np.uint8))))

    def test_rgb_without_colours(self):
        line = message(LabelEncoding(4), file(Image.fromarray(np.array([COLOURS], np.uint8))))
        assert "is RGB-coded" in line and "--config.segmentation.palette='((0,0,0),(128,0,0))'" in line
        assert "save the class numbers as grey PNGs" in line

    def test_unknown_colour(self):
        stored = np.array([COLOURS, COLOURS], np.uint8)
        stored[1, 2] = 1, 2, 3
        line = message(LabelEncoding(3, colours=COLOURS), file(Image.fromarray(stored)))
        assert "colour (1, 2, 3), at row 1 and column 2, is none of the 4 in segmentation.palette: add it" in line

    def test_workers_are_not_sent_a_table_of_all_colours(self):
        encoding = LabelEncoding(3, colours=COLOURS)
        encoding.decode(np.array([COLOURS], np.uint8), "a")
        encoding.decode(np.array([[0, 255]], np.uint8), "a")
        data = pickle.dumps(encoding)
        assert len(data) < 200_000
        assert pickle.loads(data) == encoding


class TestMessages:
    def test_labels_from_1(self):
        line = message(LabelEncoding(150), np.array([[0, 150]], np.uint8))
        assert "label 150 is outside 0…149 (ignored: 255)" in line
        assert "if labels count from 1, and 0 is unlabelled, set --config.segmentation.reduce_zero_label=True" in line
        assert "--config.model.num_classes=151" in line and "--config.segmentation.ignore_labels='(255,150)'" in line

    def test_255(self):
        line = message(LabelEncoding(3, ()), np.array([[0, 255]], np.uint8))
        assert "label 255 is outside 0…2: 255 usually marks pixels to ignore" in line
        assert "--config.segmentation.ignore_labels='(255,)'" in line

    def test_more_classes(self):
        line = message(LabelEncoding(3), np.array([[5, 7]], np.uint8))
        assert "label 7 is outside 0…2" in line and "num_classes=8" in line and "'(255,5,7)'" in line
        line = message(LabelEncoding(3, reduce_zero_label=True), np.array([[5, 7]], np.uint8))
        assert "label 7 is outside 1…3" in line and "num_classes=7" in line
        # A list of a hundred values to ignore helps nobody.
        assert "ignore_labels" not in message(LabelEncoding(3), np.arange(100, dtype=np.uint8)[None])

    def test_unknown_to_a_mapping(self):
        line = message(LabelEncoding(2, (0,), mapping={7: 0, 8: 1}), np.array([[7, 9]], np.uint8))
        assert "label 9 is none of the 2 known ones (ignored: 0)" in line

    @pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
    def test_formats_with_loss(self, form):
        line = message(LabelEncoding(4), file(Image.fromarray(SMALL), form, compression="jpeg"))
        assert f"is a {form} image, whose compression may change labels: save label maps as PNG" in line

    @pytest.mark.parametrize(
        ("form", "options"),
        [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}), ("PPM", {}), ("BMP", {})],
    )
    def test_formats_without_loss(self, form, options):
        image = Image.fromarray(SMALL)
        assert np.array_equal(
            LabelEncoding(4).decode(file(image, form, **options), "x"), LabelEncoding(4).decode(file(image), "x")
        )

    def test_undecodable(self):
        whole = file(Image.fromarray(np.random.default_rng(0).integers(0, 4, (64, 64), np.uint8)))
        for data, reason in (
            (b"", "it is empty"),
            (b"no image", "no image format"),
            (whole[:-400], "image file is truncated"),
        ):
            line = message(LabelEncoding(4), data, CorruptImageError)
            assert f"cannot be decoded ({reason}" in line and "on_corrupt=skip" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_classes": 256}, "1 to 255 classes, not 256"),
        ({"num_classes": 0}, "1 to 255 classes, not 0"),
        ({"num_classes": 2, "ignore_labels": (-1,)}, "0 to 65535, not -1"),
        ({"num_classes": 2, "ignore_labels": ("a",)}, "0 to 65535, not 'a'"),
        ({"num_classes": 2, "ignore_labels": (1.5,)}, "0 to 65535, not 1.5"),
        ({"num_classes": 2, "mapping": {1: 2}}, "class 2, outside 0…1"),
        ({"num_classes": 2, "mapping": {1: 1}, "reduce_zero_label": True}, "a mapping needs none"),
        ({"num_classes": 2, "colours": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"num_classes": 2, "colours": ((0, 0, 0), (0, 0, 0))}, "colours 0 and 1 of segmentation.palette are both"),
        ({"num_classes": 1, "colours": ((0, 0, 256),)}, "is (0, 0, 256): write (red, green, blue) in 0…255"),
        ({"num_classes": 1, "colours": ((0, 0),)}, "write (red, green, blue)"),
        # What is left of the parentheses of a single colour.
        ({"num_classes": 1, "colours": (0, 0, 0)}, "colour 0 of segmentation.palette is 0: write"),
    ],
)
def test_settings_that_cannot_be(arguments, expected):
    with pytest.raises(UserError) as caught:
        LabelEncoding(**arguments)
    assert expected in str(caught.value)


def test_distinct_colours_are_those_of_pascal_voc():
    colours = distinct_colours(255)
    assert colours.dtype == np.uint8 and len(np.unique(colours, axis=0)) == 255 and colours.any(axis=1).all()
    # As in its development kit: aeroplane, bicycle, bird, …, tvmonitor, and the border.
    known = {1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {number: tuple(colours[number - 1].tolist()) for number in known} == known
