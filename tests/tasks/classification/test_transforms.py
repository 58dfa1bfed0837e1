"""Decoding against Pillow, crops against torchvision's formulas, transforms against Pillow calls written out."""

import io
import math
import os
import pickle
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.images import decode, limit_threads
from pvt_jax.tasks.classification.randaugment import RandAugment
from pvt_jax.tasks.classification.transforms import EvalTransform, TrainTransform, sample_crop

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def picture(height: int = 60, width: int = 83, seed: int = 0) -> Image.Image:
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height), BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.integers(-9, 10, (height, width, 1)), 0, 255).astype("u1"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_alpha(mode: str) -> Image.Image:
    image = picture().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turn by 90 degrees
FILES = {
    "jpeg": encoded(picture(), "JPEG"),
    "jpeg_444": encoded(picture(), "JPEG", subsampling=0, quality=95),
    "jpeg_422": encoded(picture(), "JPEG", subsampling=1),
    "jpeg_progressive": encoded(picture(), "JPEG", progressive=True),
    "jpeg_restarts": encoded(picture(), "JPEG", restart_marker_rows=1),
    "jpeg_rgb": encoded(picture(), "JPEG", keep_rgb=True),
    "jpeg_grey": encoded(picture().convert("L"), "JPEG"),
    "jpeg_cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "jpeg_exif": encoded(picture(), "JPEG", exif=EXIF),
    "jpeg_bytes_after_the_end": encoded(picture(), "JPEG") + b"camera notes",
    "png": encoded(picture(), "PNG"),
    "png_exif": encoded(picture(), "PNG", exif=EXIF),
    "png_grey": encoded(picture().convert("L"), "PNG"),
    "png_grey_alpha": encoded(with_alpha("LA"), "PNG"),
    "png_alpha": encoded(with_alpha("RGBA"), "PNG"),
    "png_palette": encoded(picture().convert("P"), "PNG"),
    "png_palette_transparent": encoded(picture().convert("P"), "PNG", transparency=bytes(range(256))),
    "png_colour_key": encoded(picture(), "PNG", transparency=(1, 2, 3)),
    "png_one_bit": encoded(picture().convert("1"), "PNG"),
    "gif": encoded(picture(), "GIF"),
    "bmp": encoded(picture(), "BMP"),
    "tiff_cmyk": encoded(picture().convert("CMYK"), "TIFF"),
    "webp": encoded(picture(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", FILES)
def test_decoding_gives_the_rgb_of_pillow_upright(kind, recwarn):
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(FILES[kind])))
    expected = expected.convert("RGBA").convert("RGB") if kind.endswith("transparent") else expected.convert("RGB")
    image = decode(FILES[kind], kind)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, np.asarray(expected))
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "jpeg_restarts", "jpeg_grey", "png", "png_palette"])
def test_whole_common_files_go_through_opencv(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded by Pillow"))
    assert decode(FILES[kind], kind).shape == (60, 83, 3)


@pytest.mark.parametrize(("kind", "shape"), [(".png", (15, 20)), (".png", (15, 20, 3)), (".tiff", (15, 20))])
def test_sixteen_bits_keep_their_high_byte(kind, shape):
    image = (np.arange(math.prod(shape)) * 73).astype(np.uint16).reshape(shape)
    data = cv2.imencode(kind, image)[1].tobytes()
    expected = (image >> 8).astype(np.uint8)
    expected = expected[..., ::-1] if image.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(data, "x"), expected)


def unreadable() -> dict[str, bytes]:
    files = {"empty": b"", "text": b"this is not an image" * 20, "zeros": bytes(5000)}
    for kind in ("jpeg", "jpeg_progressive", "jpeg_cmyk", "png", "gif", "webp"):
        whole = FILES[kind]
        for percent in (2, 30, 60, 90):
            files[f"{kind}_cut_at_{percent}"] = whole[: len(whole) * percent // 100]
    large = encoded(picture(600, 900), "JPEG", quality=95)
    files["large_jpeg_without_its_end"] = large[:-4000]
    files["jpeg_header_only"] = large[:200] + b"\xff\xd9"
    # A thumbnail in the header has an end marker of its own.
    thumbnail = FILES["jpeg"][:2] + b"\xff\xe1\x02\x00" + encoded(picture(8, 8), "JPEG")[:508].ljust(510, b"\0")
    files["jpeg_with_thumbnail_cut"] = (thumbnail + large[2:])[:-4000]
    checksum = bytearray(FILES["png"])
    checksum[500:504] = b"\0\1\2\3"
    files["png_damaged"] = bytes(checksum)
    middle = len(large) // 2
    files["jpeg_damaged"] = large[:middle] + b"\xff\xc4\x00\x05" * 50 + large[middle + 200 :]
    return files


@pytest.mark.parametrize("kind", unreadable())
def test_unreadable_files_are_one_line_with_the_way_out(kind, capfd):
    with pytest.raises(CorruptImageError) as caught:
        decode(unreadable()[kind], "train/cat/0001.jpg")
    message = str(caught.value)
    assert message.startswith("train/cat/0001.jpg: cannot be decoded (")
    assert "--config.data.on_corrupt=skip" in message
    assert "\n" not in message and "BytesIO" not in message
    assert capfd.readouterr().err == ""


def test_an_empty_file_is_called_empty():
    with pytest.raises(CorruptImageError, match=r"\(it is empty\)"):
        decode(b"", "x")


@pytest.mark.parametrize("kind", [kind for kind in unreadable() if "jpeg" in kind or "png" in kind])
def test_damaged_files_do_not_reach_opencv(kind, monkeypatch):
    # Some versions of it fill up truncated files without a word.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded by OpenCV"))
    if kind != "jpeg_header_only":
        with pytest.raises(CorruptImageError):
            decode(unreadable()[kind], "x")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["jpeg", "jpeg_progressive", "jpeg_grey", "png", "png_palette"]), st.data())
def test_damage_raises_corrupt_image_error_or_gives_an_image(kind, data):
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        # The header's size fields are left alone: a damaged one may rightly ask for a huge image.
        damaged[data.draw(st.integers(400, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(damaged), kind)
    except CorruptImageError:
        return
    assert image.dtype == np.uint8 and image.shape == (60, 83, 3)


def test_importing_leaves_threads_of_opencv_alone_and_limit_threads_sets_them():
    script = (
        "import cv2; cv2.setNumThreads(3); from pvt_jax.tasks.classification import transforms;"
        "from pvt_jax.files import images; print(cv2.getNumThreads());"
        "images.limit_threads(); print(cv2.getNumThreads())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["3", "1"], result.stderr
    threads = cv2.getNumThreads()
    limit_threads()
    assert cv2.getNumThreads() == 1
    cv2.setNumThreads(threads)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 700), st.integers(1, 700), st.floats(0.05, 0.95), st.floats(0.2, 1), st.data()
)
def test_crops_lie_inside_and_have_the_area_and_aspect(seed, height, width, least, aspect, data):
    scale, ratio = (least, data.draw(st.floats(least, 1))), (aspect, data.draw(st.floats(aspect, 4)))
    top, left, crop_height, crop_width = sample_crop(np.random.default_rng(seed), height, width, scale, ratio)
    assert crop_height >= 1 and crop_width >= 1
    assert 0 <= top <= height - crop_height and 0 <= left <= width - crop_width
    # Sides are rounded to whole pixels, so bounds hold for some box within half a pixel of it.
    smallest, largest = ((crop_width + d) / (crop_height - d) for d in (-0.5, 0.5))
    drawn = (
        smallest <= ratio[1] * (1 + 1e-9)
        and largest >= ratio[0] * (1 - 1e-9)
        and (crop_height - 0.5) * (crop_width - 0.5) <= scale[1] * height * width * (1 + 1e-9)
        and (crop_height + 0.5) * (crop_width + 0.5) >= scale[0] * height * width * (1 - 1e-9)
    )
    # If no draw fitted: the whole image, or what a bound of the aspect leaves of it, in the centre.
    most_height = height if width / height >= ratio[0] else max(1, round(width / ratio[0]))
    most_width = width if width / height <= ratio[1] else max(1, round(height * ratio[1]))
    central = ((height - most_height) // 2, (width - most_width) // 2, most_height, most_width)
    assert drawn or (top, left, crop_height, crop_width) == central


def test_crops_are_uniform_in_area_log_aspect_and_place():
    rng = np.random.default_rng(0)
    # So large and with so little area that every first draw fits.
    boxes = np.array([sample_crop(rng, 4000, 4000, (0.1, 0.4), (3 / 4, 4 / 3)) for _ in range(4000)], float)
    top, left, height, width = boxes.T
    shares = (height * width / 4000**2 - 0.1) / 0.3
    aspects = (np.log(width / height) - math.log(3 / 4)) / math.log(16 / 9)
    for uniform in (shares, aspects, top / (4000 - height), left / (4000 - width)):
        assert abs(np.sort(uniform) - np.linspace(0, 1, 4000)).max() < 1.95 / math.sqrt(4000)  # Kolmogorov, p 0.001


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 1000), (0, 433, 100, 133)), ((1000, 100), (433, 0, 133, 100)), ((90, 100), (0, 0, 90, 100))],
)
def test_a_crop_that_never_fits_is_the_largest_central_one(size, expected):
    height, width = size
    twice_the_area = (2.0, 2.0)
    assert sample_crop(np.random.default_rng(0), height, width, twice_the_area, (3 / 4, 4 / 3)) == expected


def test_crops_of_everything_and_of_a_single_pixel():
    rng = np.random.default_rng(0)
    assert sample_crop(rng, 40, 40, (1.0, 1.0), (1.0, 1.0)) == (0, 0, 40, 40)
    assert sample_crop(rng, 1, 1, (0.01, 0.01), (5.0, 6.0)) == (0, 0, 1, 1)
    assert sample_crop(rng, 1, 1, (0.01, 0.01), (0.1, 0.2)) == (0, 0, 1, 1)


@pytest.mark.parametrize(("interpolation", "resampling"), [("bicubic", BICUBIC), ("bilinear", BILINEAR)])
def test_resized_crop_flip_and_policy_in_order(interpolation, resampling):
    image, policy, fill = picture(90, 120), "rand-m9-mstd0.5-inc1", (9, 8, 7)
    transform = TrainTransform((32, 48), (0.2, 0.9), (0.5, 2.0), 0.5, policy, fill, interpolation)
    flips = 0
    for seed in range(60):
        actual = transform(np.asarray(image), np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        top, left, height, width = sample_crop(rng, 90, 120, (0.2, 0.9), (0.5, 2.0))
        expected = image.crop((left, top, left + width, top + height)).resize((48, 32), resampling)
        if rng.random() < 0.5:
            flips += 1
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = RandAugment.parse(policy, fill=fill, interpolation=interpolation)(expected, rng)
        assert actual.dtype == np.uint8 and actual.shape == (32, 48, 3) and actual.flags.writeable
        np.testing.assert_array_equal(actual, np.asarray(expected))
    assert 15 < flips < 45


@pytest.mark.parametrize(("probability", "flipped"), [(0.0, 0), (1.0, 40), (0.25, 10)])
def test_flip_probability(probability, flipped):
    image = np.asarray(picture(16, 16))
    transform = TrainTransform((16, 16), flip_probability=probability, crop="none")
    results = [transform(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(np.array_equal(r, image) or np.array_equal(r, image[:, ::-1]) for r in results)
    assert abs(sum(np.array_equal(r, image[:, ::-1]) for r in results) - flipped) <= (6 if 0 < probability < 1 else 0)


def test_padded_crop_shows_every_offset_of_the_zero_padded_image():
    image = np.asarray(picture(8, 8))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 8, x : x + 8].tobytes(): (y, x) for y in range(5) for x in range(5)}
    transform = TrainTransform((8, 8), crop="padded", pad=2, flip_probability=0)
    rng = np.random.default_rng(0)
    seen = {windows[transform(image, rng).tobytes()] for _ in range(300)}
    assert len(seen) == 25


def test_padded_and_plain_resize_first_when_the_size_differs():
    image = picture(50, 70)
    resized = np.asarray(image.resize((24, 16), BICUBIC))
    plain = TrainTransform((16, 24), crop="none", flip_probability=0)
    np.testing.assert_array_equal(plain(np.asarray(image), np.random.default_rng(0)), resized)
    padded = np.pad(resized, ((3, 3), (3, 3), (0, 0)))
    transform = TrainTransform((16, 24), crop="padded", pad=3, flip_probability=0)
    result = transform(np.asarray(image), np.random.default_rng(1))
    assert any(np.array_equal(result, padded[y : y + 16, x : x + 24]) for y in range(7) for x in range(7))


@pytest.mark.parametrize("options", [{}, {"crop": "padded", "pad": 2}, {"crop": "none"}])
def test_grey_arrays_give_what_their_rgb_copies_give(options):
    grey = np.asarray(picture(20, 30).convert("L"))
    transform = TrainTransform((16, 16), policy="rand-m9-mstd0.5-inc1", **options)
    for seed in range(10):
        results = [
            transform(image, np.random.default_rng(seed))
            for image in (np.repeat(grey[..., None], 3, axis=2), grey, grey[..., None])
        ]
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])
    evaluation = EvalTransform((16, 16))
    np.testing.assert_array_equal(evaluation(grey), evaluation(grey[..., None]))
    np.testing.assert_array_equal(evaluation(grey), evaluation(np.repeat(grey[..., None], 3, axis=2)))


def test_train_transform_leaves_its_argument_and_repeats_with_the_seed():
    image = np.asarray(picture())
    image.flags.writeable = False
    transform = TrainTransform((24, 24), policy="rand-m9-mstd0.5-inc1")
    copy = pickle.loads(pickle.dumps(transform))
    first = [transform(image, np.random.default_rng(seed)).tobytes() for seed in range(10)]
    assert first == [copy(image, np.random.default_rng(seed)).tobytes() for seed in range(10)]
    assert len(set(first)) == 10
    assert copy == transform and hash(copy) == hash(transform)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_every_size_of_image_works(height, width, seed):
    image = np.zeros((height, width, 3), np.uint8)
    for transform in (TrainTransform((14, 10)), TrainTransform((14, 10), crop="padded", pad=20)):
        assert transform(image, np.random.default_rng(seed)).shape == (14, 10, 3)
    assert EvalTransform((14, 10))(image).shape == (14, 10, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": "center"}, "crop must be"),
        ({"crop": "none", "crop_scale": (0.5, 1.0)}, "crop_scale"),
        ({"crop": "padded", "pad": 2, "crop_ratio": (1.0, 1.0)}, "crop_ratio"),
        ({"crop": "none", "pad": 2}, "pad"),
        ({"pad": 4}, "pad"),
        ({"crop": "padded"}, "pad"),
        ({"pad": -1}, "pad"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"policy": "rand-m9-x1"}, "x1"),
        ({"interpolation": "nearest"}, "interpolation"),
    ],
)
def test_options_that_are_wrong_or_unread_are_errors(options, words):
    with pytest.raises(UserError, match=words):
        TrainTransform((32, 32), **options)


@pytest.mark.parametrize("size", [(0, 32), (32,), (32, 32, 3)])
def test_sizes_are_checked(size):
    for transform in (TrainTransform, EvalTransform):
        with pytest.raises(UserError, match="image_size"):
            transform(size)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 4), (0, 4, 3), (2, 4, 4, 3)])
def test_arrays_of_other_shapes_or_types_are_errors(shape):
    transforms = (lambda image: TrainTransform((8, 8))(image, np.random.default_rng(0)), EvalTransform((8, 8)))
    for transform in transforms:
        with pytest.raises(UserError, match=re.escape(f"uint8 {list(shape)}")):
            transform(np.zeros(shape, np.uint8))
        with pytest.raises(UserError, match="float32"):
            transform(np.zeros((4, 4, 3), np.float32))


def reference_evaluation(image: Image.Image, side: int, crop: int, resampling: Image.Resampling) -> np.ndarray:
    """torchvision's Resize(side) and CenterCrop(crop), written out."""
    short, long = sorted(image.size)
    new_short, new_long = side, int(side * long / short)
    width, height = (new_short, new_long) if image.width <= image.height else (new_long, new_short)
    resized = image.resize((width, height), resampling)
    top, left = int(round((height - crop) / 2.0)), int(round((width - crop) / 2.0))
    return np.asarray(resized)[top : top + crop, left : left + crop]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (101, 333), (60, 83), (9, 5), (257, 256)])
def test_evaluation_is_resize_and_centre_crop_of_torchvision(size):
    image = picture(*size)
    for crop, fraction, side in ((224, 224 / 256, 256), (64, 224 / 256, 73), (32, 1.0, 32), (33, 0.9, 36)):
        for interpolation, resampling in (("bicubic", BICUBIC), ("bilinear", BILINEAR)):
            transform = EvalTransform((crop, crop), fraction, interpolation)
            actual = transform(image)
            assert actual.dtype == np.uint8 and actual.flags.writeable
            np.testing.assert_array_equal(actual, reference_evaluation(image, side, crop, resampling))
            np.testing.assert_array_equal(actual, transform(np.asarray(image)))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 640))
def test_resized_sides_are_those_of_the_reference(height, width, side):
    resized = EvalTransform((side, side)).resized_size(height, width)
    short = int(256 / 224 * side)
    long = int(short * max(height, width) / min(height, width))
    assert resized == ((short, long) if height <= width else (long, short))


@settings(max_examples=200, deadline=None)
@given(*(st.integers(1, 500) for _ in range(4)), st.floats(0.3, 1))
def test_unequal_sides_are_both_covered_and_the_aspect_is_kept(height, width, out_height, out_width, fraction):
    resized_height, resized_width = EvalTransform((out_height, out_width), fraction).resized_size(height, width)
    least_height, least_width = int(out_height / fraction), int(out_width / fraction)
    assert resized_height >= least_height and resized_width >= least_width
    assert resized_height == least_height or resized_width == least_width
    scale = max(least_height / height, least_width / width)
    assert abs(resized_height - scale * height) < 1 + 1e-6 and abs(resized_width - scale * width) < 1 + 1e-6


def test_evaluation_of_unequal_sides_by_hand():
    image = picture(100, 100)
    expected = np.asarray(image.resize((128, 128), BICUBIC))[36:92, 8:120]
    np.testing.assert_array_equal(EvalTransform((56, 112), 224 / 256)(image), expected)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1])
def test_crop_fraction_is_checked(fraction):
    with pytest.raises(UserError, match="crop_fraction"):
        EvalTransform((32, 32), fraction)


def test_evaluation_takes_pillow_images_of_other_modes():
    for mode in ("L", "P", "RGBA", "CMYK", "1", "LA"):
        image = picture().convert(mode)
        np.testing.assert_array_equal(EvalTransform((16, 16))(image), EvalTransform((16, 16))(image.convert("RGB")))
