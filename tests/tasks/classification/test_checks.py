"""What is refused before the first step, and how it is told."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.errors import UserError
from pvt_jax.files.images import Traits
from pvt_jax.tasks import checks
from pvt_jax.tasks.classification.checks import ClassificationChecks


def png(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = png()
CORRUPT = b"no image"


class Source:
    """A source in memory; ``known`` says whether it knows its labels without reading records."""

    def __init__(self, labels, *, classes="abc", images: list | None = None, known=True):
        self._labels = np.asarray(labels, np.int64)
        self._images = images or [GOOD] * len(labels)
        self.labels = self._labels if known else None
        self.class_names = tuple(classes)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> ClassificationRecord:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        return f"memory record {index}"

    def __str__(self):
        return "memory"


FINE = Source([0, 1, 2, 0])


def validate(train, evaluation, num_classes, **settings: Any) -> str:
    return ClassificationChecks(num_classes, **settings).validate(train, evaluation)


def message(train=FINE, evaluation=FINE, num_classes=3, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        validate(train, evaluation, num_classes, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_summary():
    train = Source([0, 1, 2] * 1000)
    assert validate(train, FINE, 3) == "3,000 training and 4 evaluation images of 3 classes, from memory"


def test_classes_without_images_are_told():
    summary = validate(Source([0, 1, 2]), Source([1, 1]), 3)
    assert summary.endswith("from memory; evaluation: no image of 2 of the 3 classes, a, c")


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        (sorted(map(str, range(12))), "label 2 is '10'"),
        (("01", "02", "10"), ""),
        (("1", "2", "3"), ""),
        (("10", "9", "a"), ""),
        (("9", "10", "11"), ""),
    ],
)
def test_numbers_that_are_sorted_as_text_are_told(classes, note):
    source = Source(range(len(classes)), classes=classes)
    summary = validate(source, source, len(classes))
    text = f"from memory; the names of classes are sorted as text, not as numbers: {note}"
    assert summary.endswith(text if note else "from memory")


def test_summary_of_digits():
    train, held_out = (open_source(LABELLED_IMAGES, "digits", Request(split)) for split in ("train", "eval"))
    assert (
        validate(train, held_out, 10)
        == "1,438 training and 359 evaluation images of 10 classes, from scikit-learn's digits"
    )


def test_number_of_classes():
    line = message(num_classes=10)
    assert line == "the data set has 3 classes but model.num_classes is 10: set --config.model.num_classes=3"
    one = Source([0], classes="a")
    assert "has 1 class but" in message(one, one, 10)


def test_empty_halves():
    assert "the training data has no images" in message(Source([]))
    assert "the evaluation data has no images" in message(evaluation=Source([]))


def test_different_classes():
    line = message(evaluation=Source([0], classes="abd"))
    assert "only the training data has c; only the evaluation data has d" in line
    assert "another order" in message(evaluation=Source([0], classes="acb"))
    assert "e and 15 more" in message(Source([0], classes="abcdefghijklmnopqrst"), Source([0], classes="u"))


@pytest.mark.parametrize("known", [True, False])
def test_label_outside(known):
    line = message(evaluation=Source([0, 2, 7, 1], known=known))
    assert "label 7 of memory record 2 is outside 0…2" in line
    assert "the evaluation labels run from 0 to 7 and 1 of 4 are outside" in line
    assert "1-based" not in line


@pytest.mark.parametrize("known", [True, False])
def test_labels_that_look_1_based(known):
    line = message(Source([1, 2, 3], known=known))
    assert "label 3 of memory record 2" in line and "they look 1-based: subtract 1" in line


def test_unlabelled_split():
    line = message(evaluation=Source([-1, -1], known=False))
    assert "label -1 of memory record 0" in line and "choose a split with labels" in line


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=20))
def test_every_label_outside_is_found(labels):
    if all(0 <= label < 3 for label in labels):
        validate(Source(labels), FINE, 3)
    else:
        first = next(i for i, label in enumerate(labels) if not 0 <= label < 3)
        assert f"label {labels[first]} of memory record {first} is outside" in message(Source(labels))


def test_some_images_corrupt():
    train = Source([0, 1, 2], images=[GOOD, CORRUPT, GOOD])
    line = message(train)
    assert "1 of 3 training images tried cannot be decoded" in line and "memory record 1" in line
    assert "on_corrupt" in line
    assert validate(train, FINE, 3, on_corrupt="skip").startswith("3 training")


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_all_images_corrupt(on_corrupt):
    line = message(evaluation=Source([0, 1], images=[CORRUPT, b""]), on_corrupt=on_corrupt)
    assert "none of the 2 evaluation images tried can be decoded" in line and "memory record 0" in line


def test_probes_are_spread_and_few(monkeypatch):
    asked = []
    monkeypatch.setattr(checks, "inspect", lambda data, name: asked.append(name) or Traits())
    validate(Source([0] * 1001), FINE, 3, probes=5)
    # In threads, each split by itself.
    assert sorted(asked[:5]) == sorted(f"memory record {index}" for index in (0, 250, 500, 750, 1000))
    assert len(asked) == 5 + 4


def test_arrays_are_checked_not_decoded():
    good, grey, floats = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))
    validate(Source([0], images=[good]), FINE, 3)
    assert "memory record 0 is uint8 [4, 4]" in message(Source([0], images=[grey]))
    assert "float64 [4, 4, 3]" in message(Source([0], images=[floats]))


def test_unknown_on_corrupt():
    assert "'error' or 'skip'" in message(on_corrupt="ignore")


def stored(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noted(*images: bytes, **reading: Any) -> str:
    """What is noted of training images, among four."""
    train = Source([0, 1, 2, 0], images=[*images, *[GOOD] * (4 - len(images))])
    line = validate(train, FINE, 3, reading=ReadingOptions(**reading))
    return line.removeprefix("4 training and 4 evaluation images of 3 classes, from memory").removeprefix(
        "; training: "
    )


def tiff(values: Any, dtype: Any) -> bytes:
    return stored(Image.fromarray(np.array([values], dtype)), "TIFF")


def test_how_deep_values_are_read_is_told():
    ten, full = tiff([4, 940], np.uint16), tiff([0, 65535], np.uint16)
    assert noted(ten) == (
        "1 of 4 probed images has 16 bits: their values 4 … 940 of 0 … 65,535 are read as 0 … 3 of 255: if 1,023 is "
        "white, set --config.data.value_range='(0,1023)'"
    )
    assert noted(ten, full) == (
        "2 of 4 probed images have 16 bits: their values 0 … 65,535 of 0 … 65,535 are read as 0 … 255 of 255 "
        "(data.value_range)"
    )
    assert noted(ten, value_range=(0, 1023)) == (
        "1 of 4 probed images has 16 bits: their values 4 … 940 of 0 … 1,023 are read as 1 … 235 of 255 "
        "(data.value_range)"
    )
    assert "floats: their values 0.1 … 0.25 of 0 … 1 are read as 25 … 64 of 255: if 0.25 is white" in noted(
        tiff([0.1, 0.25], np.float32)
    )


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        ([-1024, 3071], np.int32, "1 of 4 training images has signed 32 bits, -1,024 … 3,071"),
        ([0, 255], np.float32, "1 of 4 training images has floats, 0.0 … 255.0"),
        ([-1, 1], np.float32, "1 of 4 training images has floats, -1.0 … 1.0"),
    ],
)
def test_a_range_that_cannot_be_known_is_asked_for(values, dtype, words):
    line = message(Source([0] * 4, images=[tiff(values, dtype), GOOD, GOOD, GOOD]))
    way_out = f"set --config.data.value_range='({values[0]},{values[1]})'"
    assert line == f"{words}, and nothing says which values are black and white: {way_out}"
    assert "of 255" in noted(tiff(values, dtype), value_range=values)


def test_what_else_is_unusual_is_told():
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = stored(Image.new("RGB", (4, 4)), "JPEG", exif=exif)
    glass = stored(Image.new("RGBA", (4, 4), (9, 9, 9, 99)), "PNG")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    moving = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert noted(turned, glass, moving) == (
        "1 of 4 probed images has transparent pixels: the colours beneath are read, "
        "1 of 4 probed images has several frames or pages: the first is read, "
        "1 of 4 probed images has an EXIF orientation, which is applied"
    )
    assert noted(turned, turned, exif_orientation=False) == (
        "2 of 4 probed images have an EXIF orientation, which is not applied"
    )
    assert noted(stored(Image.new("RGBA", (4, 4), (9, 9, 9, 255)), "PNG")) == ""
