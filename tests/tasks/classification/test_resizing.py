"""Faster ways to a crop: reduced decoding and another library's resizing have the same crops, draws and geometry."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.data.options import ReadingOptions
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.images import decode
from pvt_jax.tasks.classification.resizing import Box, resized_part
from pvt_jax.tasks.classification.transforms import TrainTransform

READING = ReadingOptions()
POLICY = "rand-m9-mstd0.5-inc1"


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours, as photographs of many pixels have them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def both(transform: TrainTransform, data: bytes, seed: int):
    """(of the decoded file, of the file), and that both have drawn the same."""
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    found = transform(decode(data, "x"), rngs[0]), transform.of_file(data, "x", READING, rngs[1])
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    return found


@settings(max_examples=20)
@given(st.integers(20, 130), st.integers(20, 130), st.integers(0, 2**32), st.sampled_from(["JPEG", "PNG"]))
def test_where_a_crop_is_not_twice_as_large_nothing_changes(height, width, seed, kind):
    transform = TrainTransform((66, 66), policy=POLICY, reduced_decoding=True)
    default, reduced = both(transform, encoded(picture(height, width, seed % 9), kind), seed)
    np.testing.assert_array_equal(reduced, default)


@pytest.mark.parametrize("settings_of", [{}, {"crop": "none"}, {"crop": "padded", "pad": 4}], ids=str)
@pytest.mark.parametrize("size", [(400, 536), (397, 531)], ids=str)
def test_a_large_photograph_is_decoded_smaller_at_the_same_place(monkeypatch, size, settings_of):
    data = encoded(picture(*size), quality=95)
    shrinks = []

    def noted(data, name, options=None, shrink=1):
        shrinks.append(shrink)
        return decode(data, name, options, shrink)

    monkeypatch.setattr("pvt_jax.tasks.classification.transforms.decode", noted)
    transform = TrainTransform((32, 32), reduced_decoding=True, **settings_of)
    for seed in range(12):
        default, reduced = both(transform, data, seed)
        # A shift by one of its own pixels would make more than 5.
        assert np.abs(default.astype(int) - reduced).mean() < 0.6
    assert set(shrinks) <= {2, 4, 8} and len(shrinks) == 12


def test_it_is_decoded_no_smaller_than_the_crop_allows():
    transform = TrainTransform((10, 20))
    sides = {
        (10, 20): 1,
        (19, 900): 1,
        (20, 40): 2,
        (39, 79): 2,
        (40, 80): 4,
        (79, 160): 4,
        (80, 160): 8,
        (999, 999): 8,
    }
    assert {side: transform._shrink(Box(0, 0, *side)) for side in sides} == sides


def test_what_is_no_photograph_is_as_ever():
    transform = TrainTransform((16, 16), reduced_decoding=True)
    large = picture(200, 260)
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        encoded(large, "PNG"),
        encoded(large.convert("CMYK")),
        encoded(large, "WEBP"),
        encoded(large) + b"notes",
        encoded(picture(201, 263), exif=exif),  # Turned, with part of a block at its beginning.
        encoded(Image.fromarray(np.arange(52000, dtype=np.uint16).reshape(200, 260)), "PNG"),
    ):
        default, reduced = both(transform, data, 1)
        np.testing.assert_array_equal(reduced, default)


def test_grey_and_turned_photographs_are_decoded_smaller():
    transform = TrainTransform((16, 16), reduced_decoding=True)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for image in (picture(200, 264), picture(200, 264).convert("L")):
            default, reduced = both(transform, encoded(image, exif=exif, quality=95), orientation)
            difference = np.abs(default.astype(int) - reduced)
            assert 0 < difference.mean() < 0.8, orientation


def test_a_damaged_file_draws_no_numbers():
    transform = TrainTransform((16, 16), reduced_decoding=True)
    for data in (encoded(picture(200, 264))[:-900], b"", b"no image"):
        rng = np.random.default_rng(0)
        with pytest.raises(CorruptImageError):
            transform.of_file(data, "x", READING, rng)
        assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def stand_in() -> types.ModuleType:
    """cykooz_resizer by Pillow, in as much of its interface as is used."""

    class ImageData:
        def __init__(self, width, height, kind, pixels=None):
            mode = {"U8": "L", "U8x3": "RGB"}[kind]
            self.image = Image.frombytes(mode, (width, height), pixels) if pixels else Image.new(mode, (width, height))

        def get_buffer(self):
            return self.image.tobytes()

    class ResizeOptions:
        crop_box = None

        def __init__(self, resize_alg, use_alpha):
            assert not use_alpha
            self.resampling = resize_alg

    class Resizer:
        def resize(self, source, target, options):
            left, top, width, height = options.crop_box or (0, 0, *source.image.size)
            box = (left, top, left + width, top + height)
            target.image = source.image.resize(target.image.size, options.resampling, box)

    names = {"bilinear": Image.Resampling.BILINEAR, "catmull_rom": Image.Resampling.BICUBIC}
    module: types.ModuleType = types.ModuleType("cykooz_resizer")
    module.__dict__.update(
        ImageData=ImageData,
        ResizeOptions=ResizeOptions,
        Resizer=Resizer,
        CropBox=lambda *box: box,
        PixelType=types.SimpleNamespace(U8="U8", U8x3="U8x3"),
        FilterType=types.SimpleNamespace(**names),
        ResizeAlg=types.SimpleNamespace(convolution=lambda kind: kind),
    )
    module.__spec__ = importlib.util.spec_from_loader("cykooz_resizer", None)
    return module


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_another_library_gets_the_same_part_and_filter(monkeypatch, interpolation):
    """With Pillow behind its interface, all is as with Pillow."""
    monkeypatch.setitem(sys.modules, "cykooz_resizer", stand_in())
    data = encoded(picture(210, 150))
    ways = ({"policy": POLICY}, {"crop": "padded", "pad": 4}, {"crop": "none"}, {"reduced_decoding": True})
    for options in (*ways, {"image_size": (210, 150), "crop": "none"}):
        chosen = {"image_size": (24, 32), "interpolation": interpolation, **options}
        for seed in range(6):
            default = TrainTransform(**chosen).of_file(data, "x", READING, np.random.default_rng(seed))
            fast = TrainTransform(**chosen, fast_resize=True).of_file(data, "x", READING, np.random.default_rng(seed))
            np.testing.assert_array_equal(fast, default)
            assert fast.flags.writeable and fast.flags.c_contiguous
    grey = np.asarray(picture(60, 40).convert("L"))
    fast = TrainTransform((24, 32), interpolation=interpolation, fast_resize=True)(grey, np.random.default_rng(1))
    default = TrainTransform((24, 32), interpolation=interpolation)(grey, np.random.default_rng(1))
    np.testing.assert_array_equal(fast, default)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        TrainTransform((24, 32), fast_resize=True)
    assert str(caught.value) == (
        "transform.fast_resize=True needs the package cykooz_resizer: pip install cykooz_resizer"
    )


@pytest.mark.skipif(importlib.util.find_spec("cykooz_resizer") is None, reason="the extra fast is not installed")
@pytest.mark.parametrize("box", [Box(3, 5, 180, 130), Box(10, 0, 20, 30), Box(2.5, 4.25, 170.5, 100.75)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_library_is_pillow_but_for_rounding(interpolation, box):
    image = np.asarray(picture(200, 150))
    default, fast = (np.asarray(resized_part(image, box, (48, 64), interpolation, fast=fast)) for fast in (False, True))
    assert np.abs(default.astype(int) - fast).mean() < 0.5
