"""What is written by Pillow, OpenCV or by hand, pixel for pixel, must come out of the one reader of images."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.headers import image_header
from pvt_jax.files.images import decode, inspect
from pvt_jax.files.labels import LabelEncoding

# How the stored pixels look upright, written out for each EXIF orientation.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.swapaxes(stored[::-1, ::-1], 0, 1),
    8: lambda stored: np.rot90(stored),
}
PICTURES = st.tuples(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))


def colours(drawn: tuple[int, int, int], channels: int = 3) -> np.ndarray:
    seed, height, width = drawn
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def file(image: Image.Image, form: str, orientation: int = 0, **options: Any) -> bytes:
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_opencv(ending: str, image: np.ndarray) -> bytes:
    return cv2.imencode(ending, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def as_rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def check(data: bytes, expected: np.ndarray, **options: Any) -> None:
    """The pixels, and the size that the header alone says."""
    reading = ReadingOptions(**options)
    read = decode(data, "x", reading)
    assert read.dtype == np.uint8 and read.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(read, as_rgb(expected))
    assert image_header(data).size(reading.exif_orientation) == expected.shape[:2]


@settings(max_examples=40, deadline=None)
@given(PICTURES, st.sampled_from(["RGB", "L", "LA", "RGBA", "1", "P", "CMYK"]), st.data())
def test_every_mode_of_lossless_formats(drawn, mode, data):
    rgb = colours(drawn)
    grey, opacity = rgb[..., 0], Image.fromarray(colours(drawn, 4)[..., 3])
    image, expected = Image.fromarray(rgb), rgb
    if mode in ("L", "LA", "1"):
        image, expected = Image.fromarray(grey), grey
    if mode == "1":
        image, expected = Image.fromarray(grey > 99), 255 * (grey > 99).astype(np.uint8)
    if mode in ("LA", "RGBA"):
        image.putalpha(opacity)
    if mode == "P":
        palette = colours((drawn[0], 256, 1))[:, 0]
        image, expected = Image.fromarray(grey), palette[grey]
        image.putpalette(palette.tobytes())
    if mode == "CMYK":
        inks = colours(drawn, 4)
        inks[..., 3] = 0
        image, expected = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes()), 255 - inks[..., :3]
    forms = {"CMYK": ["TIFF"], "P": ["PNG", "TIFF", "BMP"], "LA": ["PNG", "TIFF"], "RGBA": ["PNG", "TIFF", "WEBP"]}
    form = data.draw(st.sampled_from(forms.get(mode, ["PNG", "TIFF", "BMP", "PPM"])))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if form == "TIFF" and mode != "1":
        options["compression"] = data.draw(st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate"]))
    if mode == "P" and form == "PNG":
        options["transparency"] = data.draw(st.sampled_from([3, bytes([0, 128])]))
    check(file(image, form, **options), expected)


@settings(max_examples=40, deadline=None)
@given(
    PICTURES,
    st.sampled_from(sorted(UPRIGHT)),
    st.sampled_from(["PNG", "late PNG", "WEBP", "TIFF", "16 bits", "floats"]),
)
def test_orientations(drawn, orientation, form):
    rgb = colours(drawn)
    image = Image.fromarray(rgb)
    if form == "late PNG":
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = file(image, "PNG")
        data = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    elif form in ("16 bits", "floats"):
        rgb = rgb[..., 0]
        deep = rgb.astype(np.uint16) << 8 if form == "16 bits" else rgb.astype(np.float32) / 255
        data = file(Image.fromarray(deep), "TIFF", orientation)
    else:
        data = file(image, form, orientation, **({"lossless": True} if form == "WEBP" else {}))
    check(data, UPRIGHT[orientation](rgb))
    check(data, rgb, exif_orientation=False)
    assert inspect(data, "x").orientation == orientation


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientations_of_photographs(orientation, options):
    image = Image.fromarray(colours((0, 2, 3))).resize((40, 24), Image.Resampling.BICUBIC)
    stored = np.asarray(Image.open(io.BytesIO(file(image, "JPEG", **options))))
    data = file(image, "JPEG", orientation, **options)
    check(data, UPRIGHT[orientation](stored))
    check(data, stored, exif_orientation=False)
    # Behind the end OpenCV is not asked.
    check(data + b"notes", UPRIGHT[orientation](stored))


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_photographs_at_a_part_of_their_size(shrink, options):
    """Near the mean of the pixels that each stands for; red before blue; turned as ever where the sides divide."""
    for mode in ("RGB", "L"):
        image = Image.fromarray(colours((0, 5, 4))).resize((84, 61), Image.Resampling.BICUBIC).convert(mode)
        data = file(image, "JPEG", quality=95, **options)
        reduced = decode(data, "x", shrink=shrink)
        assert reduced.shape == (-(-61 // shrink), -(-84 // shrink), 3) and reduced.flags["C_CONTIGUOUS"]
        whole = decode(data, "x")[: 61 // shrink * shrink, : 84 // shrink * shrink].astype(float)
        blocks = whole.reshape(61 // shrink, shrink, 84 // shrink, shrink, 3).mean((1, 3))
        assert np.abs(reduced[: 61 // shrink, : 84 // shrink] - blocks).mean() < 1
    image = Image.fromarray(colours((0, 5, 4))).resize((80, 64), Image.Resampling.BICUBIC)
    stored = decode(file(image, "JPEG", **options), "x", shrink=shrink)
    for orientation, upright in UPRIGHT.items():
        data = file(image, "JPEG", orientation, **options)
        np.testing.assert_array_equal(decode(data, "x", shrink=shrink), upright(stored))
        as_stored = decode(data, "x", ReadingOptions(exif_orientation=False), shrink)
        np.testing.assert_array_equal(as_stored, stored)


def test_all_other_files_have_their_size_whatever_the_part():
    rgb = colours((0, 19, 13))
    image, deep = Image.fromarray(rgb), (rgb[..., 0].astype(np.uint16) << 8)
    files = [file(image, form) for form in ("PNG", "TIFF", "BMP", "GIF", "WEBP")]
    files += [file(image.convert("CMYK"), "JPEG"), file(image, "JPEG") + b"notes", file(image, "JPEG", 6)]
    files += [by_opencv(".png", deep), by_opencv(".tiff", deep), by_opencv(".png", rgb.astype(np.uint16) << 8)]
    for data in files:
        np.testing.assert_array_equal(decode(data, "x", shrink=4), decode(data, "x"))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_label_maps_are_turned_as_their_images(orientation):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for form in ("PNG", "TIFF"):
        data = file(Image.fromarray(labels), form, orientation)
        assert np.array_equal(LabelEncoding(6).decode(data, "x"), UPRIGHT[orientation](labels))
        assert np.array_equal(LabelEncoding(6).decode(data, "x", upright=False), labels)


@settings(max_examples=40, deadline=None)
@given(PICTURES, st.integers(8, 16), st.booleans(), st.sampled_from([".png", ".tiff"]))
def test_values_in_sixteen_bits(drawn, bits, is_grey, ending):
    rgb = colours(drawn)[..., 0] if is_grey else colours(drawn)
    values = rgb.astype(np.uint16) << bits - 8
    check(by_opencv(ending, values), rgb, value_range=(0, 2**bits - 1))
    check(by_opencv(ending, values), (values >> 8).astype(np.uint8))
    check(by_opencv(ending, rgb.astype(np.uint16) * 257), rgb)


@settings(max_examples=30, deadline=None)
@given(PICTURES, st.integers(-5000, 5000), st.integers(1, 20), st.sampled_from([np.int16, np.int32]), st.booleans())
def test_signed_values_need_a_range(drawn, black, step, dtype, is_grey):
    rgb = colours(drawn)[..., 0] if is_grey else colours(drawn)
    data = by_opencv(".tiff", (rgb.astype(np.int32) * step + black).astype(dtype))
    check(data, rgb, value_range=(black, black + 256 * step - 1))
    with pytest.raises(
        UserError, match=r"^x has signed (16|32) bits, .* … .*: set --config\.data\.value_range='\("
    ) as e:
        decode(data, "x")
    assert not isinstance(e.value, CorruptImageError) and "\n" not in str(e.value)


@settings(max_examples=30, deadline=None)
@given(PICTURES, st.floats(-1e4, 1e4), st.floats(0.5, 1e4), st.booleans())
def test_floats(drawn, black, width, is_grey):
    rgb = colours(drawn)[..., 0] if is_grey else colours(drawn)
    check(by_opencv(".tiff", rgb.astype(np.float32) / np.float32(255)), rgb)
    # In the middle of its step, no value depends on rounding.
    scaled = black + (rgb.astype(np.float64) + 0.5) * width / 256
    check(by_opencv(".tiff", scaled), rgb, value_range=(black, black + width))


def test_what_is_no_number_is_black_and_beyond_the_range_is_cut():
    values = np.array([[np.nan, np.inf, -np.inf, 2, -2, 0.5]], np.float32)
    check(file(Image.fromarray(values), "TIFF"), np.array([[0, 255, 0, 255, 0, 128]], np.uint8))


def tiff_of(bits: int, photometric: int, rows: list[list[int]]) -> bytes:
    """A TIFF file of packed samples, written by hand."""
    lines = ["".join(f"{value:0{bits}b}" for value in row) for row in rows]
    pixels = b"".join(
        int(line.ljust(-len(line) // -8 * 8, "0"), 2).to_bytes(len(line) + 7 >> 3, "big") for line in lines
    )
    height, width = len(rows), len(rows[0])
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: height}
    tags[279] = len(pixels)
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_packed_bits_say_their_range_and_0_may_be_white(bits):
    rows = [[0, 1 << bits - 1, (1 << bits) - 1, 1 << bits - 2]]
    expected = np.array([[0, 128, 255, 64]], np.uint8)
    check(tiff_of(bits, 1, rows), expected)
    check(tiff_of(bits, 0, rows), 255 - expected)
    spread = inspect(tiff_of(bits, 1, rows), "x").spread
    assert spread is not None and (spread.lowest, spread.highest, spread.full) == (0, 2**bits - 1, (0, 2**bits - 1))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_long_texts_do_not_matter(name, capfd):
    rgb = colours((0, 4, 5))
    text = zlib.compress(bytes(3_000_000))
    head = b"notes\0" + (b"\1\0\0\0" if name == b"iTXt" else b"\0")
    data = file(Image.fromarray(rgb), "PNG")
    for place in (33, -12):
        check(data[:place] + chunk(name, head + text) + data[place:], rgb)
    labels = file(Image.fromarray(rgb[..., 0] % 4), "PNG")
    labels = labels[:33] + chunk(name, head + text) + labels[33:]
    assert np.array_equal(LabelEncoding(4).decode(labels, "x"), rgb[..., 0] % 4)
    assert capfd.readouterr().err == ""


def test_large_pictures_are_read_or_refused_in_words(recwarn, monkeypatch):
    # Files that say what they have not got: their headers are read, not their pixels.
    def png(side: int) -> bytes:
        data = file(Image.fromarray(colours((0, 4, 5))), "PNG")
        return data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + data[33:]

    assert image_header(png(14_000)).size() == (14_000, 14_000)
    with pytest.raises(
        CorruptImageError, match="40,000 × 40,000 pixels are over the limit of 1,073,741,824: divide or"
    ):
        decode(png(40_000), "x")
    # With a lower limit of Pillow's, all the same.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    rgb = colours((0, 4, 5))
    for form in ("PNG", "JPEG"):
        assert decode(file(Image.fromarray(rgb), form), "x").shape == (4, 5, 3)
    with pytest.raises(CorruptImageError, match=r"it has more than 10 pixels, Pillow's limit: divide or resize it"):
        decode(file(Image.fromarray(rgb), "BMP"), "x")
    assert not recwarn.list


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read(form):
    frames = [Image.fromarray(colours((seed, 4, 5))).quantize(4).convert("RGB") for seed in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = file(frames[0], form, save_all=True, append_images=frames[1:], **options)
    check(data, np.asarray(frames[0]))
    assert inspect(data, "x").has_frames and not inspect(file(frames[0], form), "x").has_frames


def test_deep_files_that_are_cut_off_are_corrupt(recwarn):
    rgb = np.random.default_rng(0).integers(0, 65536, (60, 50, 3), dtype=np.uint16)
    for data in (by_opencv(".png", rgb), by_opencv(".tiff", rgb), by_opencv(".tiff", rgb / np.float64(65536))):
        for share in (0.3, 0.9):
            with pytest.raises(CorruptImageError, match="x: cannot be decoded"):
                decode(data[: int(len(data) * share)], "x")
    assert not recwarn.list


def test_black_is_below_white():
    with pytest.raises(UserError, match=r"data.value_range is \(9, 3\): give \(black, white\) with black below white"):
        ReadingOptions(value_range=(9, 3)).validate()


INSTEAD = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n": "a pointer of Git LFS: run git lfs pull",
    b"\n <!DOCTYPE html><html>": "an HTML page, as servers send for lack of a file: download it again",
    b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code>': "XML: download it again",
    b'{"error": "quota"}': "JSON: download it again",
    b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg">': "SVG: convert it to JPEG or PNG",
    b"%PDF-1.7\n": "PDF: convert it to JPEG or PNG",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n": "PostScript: convert it to JPEG or PNG",
    b"\0\0\0\x18ftypheic" + bytes(9): "HEIC: convert it to JPEG or PNG",
    b"\0\0\0\x18ftypmp42" + bytes(9): "a video: extract frames",
    b"8BPS\0\1": "a file of Photoshop: convert it to JPEG or PNG",
    b"PK\x03\x04" + bytes(9): "an archive: unpack it",
    bytes(4096): "zeros alone, as a download or copy that was cut off leaves them",
}


@pytest.mark.parametrize(("data", "content"), INSTEAD.items())
def test_what_lies_in_place_of_an_image_is_named(data, content, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program is run on the file"))
    with pytest.raises(CorruptImageError) as caught:
        decode(data, "a.jpg")
    assert str(caught.value) == (
        f"a.jpg: cannot be decoded (it is {content}); remove or replace the file, or pass --config.data.on_corrupt=skip"
    )
    assert image_header(data).stored == (0, 0)
    for cut in range(9):
        with pytest.raises(CorruptImageError, match="cannot be decoded .(it is|no image format)"):
            decode(data[:cut], "a.jpg")
