"""What is refused of images and label maps before the first step, and how it is told."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.formats import LABEL_MAPS, open_source
from pvt_jax.data.options import LabelMapOptions, ReadingOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.labels import LabelEncoding
from pvt_jax.tasks import checks
from pvt_jax.tasks.segmentation.checks import SegmentationChecks
from pvt_jax.tasks.segmentation.transforms import SegmentationTrainTransform

CHECKS = pytest.mark.parametrize("check", ["all", "sample"])


def grey(*values: int) -> Image.Image:
    """4 × 6 pixels, with each of ``values``."""
    return Image.fromarray(np.resize(np.array(values, np.uint8), (4, 6)))


def save(path: Path, image: Image.Image | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path)


@pytest.fixture
def root(tmp_path):
    """Three classes; 40 training pairs and 2 of evaluation. A sample of 32 has 00 and 39, but not 04."""
    for number in range(40):
        save(tmp_path / f"images/train/{number:02}.jpg", Image.new("RGB", (6, 4)))
        save(tmp_path / f"labels/train/{number:02}.png", grey(0, 1, 2, 255))
    for name in "ab":
        save(tmp_path / f"images/val/{name}.jpg", Image.new("RGB", (6, 4)))
        save(tmp_path / f"labels/val/{name}.png", grey(0, 1, 2))
    return tmp_path


def validate(
    root,
    num_classes=3,
    outputs=None,
    on_corrupt="error",
    check="all",
    progress=None,
    reading=None,
    transform=None,
    **rest,
) -> str:
    options = LabelMapOptions(num_classes=num_classes, **rest)
    upright = reading is None or reading.exif_orientation
    train, held_out = (
        open_source(LABEL_MAPS, "label_folder", Request(split, root=str(root), options=options, upright=upright))
        for split in ("train", "eval")
    )
    outputs = num_classes if outputs is None else outputs
    settings = {
        "on_corrupt": on_corrupt,
        "check": check,
        "progress": progress,
        "reading": reading,
        "transform": transform,
    }
    return SegmentationChecks(outputs, **settings).validate(train, held_out)


def message(root, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        validate(root, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@CHECKS
def test_summary(root, check):
    line = validate(root, check=check)
    assert line == f"40 training and 2 evaluation images with label maps of 3 classes, from {root}"


def test_notes(root):
    for number in (1, 2):
        save(root / f"labels/train/{number:02}.png", grey(255))
    for name in "ab":
        save(root / f"labels/val/{name}.png", grey(0, 1))
    line = validate(root, num_classes=4, class_names=("sky", "sea", "sand", "ship"))
    assert line.endswith(
        "; training: 2 label maps have no labelled pixel, no label map has ship; "
        "evaluation: no label map has sand, ship"
    )
    # A sample cannot tell what never appears.
    assert "ship" not in validate(root, num_classes=4, class_names=("sky", "sea", "sand", "ship"), check="sample")


@pytest.mark.parametrize(
    ("scale", "largest", "crop", "expected"),
    [
        # 4 × 6 pixels become at most 43 × 64: of 64 × 64 two thirds. 43 takes 64, as sides are multiples of 32.
        ((64, 64), 1.0, (64, 64), "67 % of a crop of 64×64 pixels (height × width), the rest is padding: set a larger"),
        (
            (64, 64),
            1.0,
            (64, 96),
            "45 % of a crop of 64×96 pixels (height × width), the rest is padding: set --config.",
        ),
        ((64, 64), 1.0, (96, 96), "padding: set --config.segmentation.crop_size='(64,64)', or a larger --config.segm"),
        ((64, 64), 2.0, (64, 64), ""),
        ((64, 64), 1.0, (32, 64), ""),
    ],
)
def test_crops_that_are_mostly_padding(root, scale, largest, crop, expected):
    transform = SegmentationTrainTransform(crop_size=crop, scale=scale, scale_range=(0.5, largest))
    line = validate(root, transform=transform)
    assert (
        ("; training: images cover at most " in line) == bool(expected)
        and expected in line
        and "evaluation: " not in line
    )


def test_options():
    source = Memory([np.zeros((4, 6), np.uint8)])
    with pytest.raises(UserError, match="data.check is 'some', but it is either 'all' or 'sample'"):
        SegmentationChecks(3, check="some").validate(source, source)
    with pytest.raises(UserError, match="data.on_corrupt is 'stop'"):
        SegmentationChecks(3, on_corrupt="stop").validate(source, source)


def test_number_of_classes(root):
    assert message(root, outputs=150) == (
        "the data set has 3 classes but model.num_classes is 150: set --config.model.num_classes=3"
    )


@CHECKS
def test_sizes_of_all_pairs(root, check):
    save(root / "labels/train/04.png", grey(0).resize((3, 4)))
    save(root / "labels/train/05.png", grey(0).resize((3, 4)))
    line = message(root, check=check)
    assert "2 of 40 training label maps have another size than their images" in line
    assert f"such as {root}/labels/train/04.png, 4×3, and {root}/images/train/04.jpg, 4×6" in line
    assert "pair the right files" in line and "EXIF" not in line


def test_turned_images(root):
    save(root / "labels/val/b.png", grey(0).transpose(Image.Transpose.ROTATE_90))
    line = message(root)
    assert "1 of 2 evaluation label maps" in line and "turn the one that lies on its side" in line


def turn(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(path, exif=exif)


def test_images_that_are_turned_by_exif(root):
    turn(root / "images/val/b.jpg", 3)
    line = validate(root)
    assert line.endswith(
        "; evaluation: 1 image has an EXIF orientation, which is applied: label maps must be those of the image turned "
        "upright, or set data.exif_orientation=False"
    )
    turn(root / "images/val/b.jpg", 6)
    line = message(root)
    assert line.startswith("1 of 2 evaluation label maps have another size than their images, ")
    assert "b.png, 4×6, and " in line and "b.jpg, 6×4 (height × width): the label maps fit the image as it is" in line
    assert "if all do, set --config.data.exif_orientation=False" in line
    assert "which is not applied: label maps must be those of the image as it is stored" in validate(
        root, reading=ReadingOptions(exif_orientation=False)
    )
    save(root / "labels/val/b.png", grey(0, 1, 2).transpose(Image.Transpose.ROTATE_270))
    assert ", which is applied" in validate(root)
    line = message(root, reading=ReadingOptions(exif_orientation=False))
    assert "the label maps fit the image turned upright" in line and "data.exif_orientation=True" in line


@CHECKS
def test_rgb_coded(root, check):
    coloured = np.zeros((4, 6, 3), np.uint8)
    coloured[0, 0] = 128, 0, 0
    for number in (4, 5, 6):
        save(root / f"labels/train/{number:02}.png", Image.fromarray(coloured))
    line = message(root, check=check)
    assert f"{root}/labels/train/04.png is RGB-coded" in line and "--config.segmentation.palette" in line
    assert "; so are 3 of " in line and "training label maps that were read" in line
    palette = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert validate(root, check=check, palette=palette).startswith("40 training")
    line = message(root, check=check, palette=((0, 0, 0), (129, 0, 0), (0, 128, 0)))
    assert "colour (128, 0, 0), at row 0 and column 0, is none of the 3" in line and "; so are 3 of " in line


def test_labels_out_of_range(root):
    save(root / "labels/train/04.png", grey(0, 7))
    save(root / "labels/train/20.png", grey(0, 9))
    line = message(root)
    assert f"in 2 of 40 training label maps that were read, such as {root}/labels/train/20.png" in line
    assert "(all values run from 0 to 255): label 9 is outside 0…2 (ignored: 255)" in line
    assert "--config.model.num_classes=10" in line
    # Every label map is read, unless a sample is asked for.
    (root / "labels/train/20.png").write_bytes((root / "labels/train/00.png").read_bytes())
    assert "label 7 is outside" in message(root)
    assert validate(root, check="sample").startswith("40 training")


def test_labels_from_1(root):
    for path in (root / "labels").rglob("*.png"):
        save(path, grey(0, 1, 2, 3))
    line = message(root)
    assert "label 3 is outside 0…2" in line and "--config.segmentation.reduce_zero_label=True" in line
    assert validate(root, reduce_zero_label=True).startswith("40 training")


def test_255_that_is_not_ignored(root):
    line = message(root, ignore_labels=())
    assert "label 255 is outside 0…2: 255 usually marks pixels to ignore" in line
    assert "--config.segmentation.ignore_labels='(255,)'" in line


def test_black_and_white_masks(root):
    for path in (root / "labels").rglob("*.png"):
        save(path, grey(0, 255))
    line = message(root, num_classes=2)
    assert "hold 0 and 255 alone, and 255 is ignored" in line
    way_out = ((0, 0, 0), (255, 255, 255))
    assert f"--config.segmentation.palette='{way_out}'".replace(" ", "") in line
    assert validate(root, num_classes=2, palette=way_out).endswith(f"2 classes, from {root}")


def test_levels_of_grey(root):
    for path in (root / "labels").rglob("*.png"):
        save(path, grey(0, 127, 255))
    levels = "'((0,0,0),(127,127,127),(255,255,255))'"
    line = message(root)
    assert line.endswith(f"; if these levels of grey are the classes, --config.segmentation.palette={levels}")
    palette = tuple((level, level, level) for level in (0, 127, 255))
    assert validate(root, palette=palette).endswith(f"3 classes, from {root}")
    # As many levels as classes are no chance; another number says nothing, and nor do numbers in a row.
    assert "palette" not in message(root, num_classes=4)
    for path in (root / "labels").rglob("*.png"):
        save(path, grey(1, 2, 3))
    assert "palette" not in message(root)
    # The colours of a palette's indices are never asked for.
    for path in (root / "labels").rglob("*.png"):
        indices = grey(0, 127, 255).convert("P")
        indices.putpalette([1, 2, 3] * 256)
        save(path, indices)
    assert "label 127 is outside" in message(root) and "palette" not in message(root)


def test_one_class_alone(root):
    for path in (root / "labels").rglob("*.png"):
        save(path, grey(0, 255))
    assert message(root, num_classes=1) == (
        "one class alone leaves nothing to tell apart: count the background as a class, too, the first of two"
    )


@CHECKS
def test_nothing_but_ignored_pixels(root, check):
    for path in (root / "labels/val").iterdir():
        save(path, grey(255))
    line = message(root, check=check)
    assert "none of the 2 evaluation label maps that were read has a labelled pixel" in line and "(255)" in line


def test_undecodable_label_map(root):
    data = (root / "labels/train/04.png").read_bytes()
    save(root / "labels/train/04.png", data[:-30])
    line = message(root)
    assert (
        line.startswith("1 of 72 ")
        and "training images or label maps tried cannot be decoded" in line
        and f"{root}/labels/train/04.png" in line
    )
    assert validate(root, on_corrupt="skip").endswith(
        "; training: 1 of 72 images or label maps tried cannot be decoded and is skipped"
    )
    # Its header tells a sample nothing, but that of no image does.
    assert validate(root, check="sample").startswith("40 training")
    save(root / "labels/train/04.png", b"no image")
    assert "04.png: the label map cannot be decoded (no image format is recognised)" in message(root, check="sample")


@CHECKS
def test_undecodable_image(root, check):
    save(root / "images/train/04.jpg", b"no image")
    line = message(root, check=check)
    # One image more than are probed, and all label maps or a sample.
    assert (
        line.startswith({"all": "1 of 73 ", "sample": "1 of 65 "}[check])
        and "training images or label maps tried cannot be decoded" in line
        and f"{root}/images/train/04.jpg" in line
    )
    tried = {"all": 73, "sample": 65}[check]
    assert f"training: 1 of {tried} images or label maps tried" in validate(root, check=check, on_corrupt="skip")


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
def test_nothing_decodable(root, folder, on_corrupt):
    for path in (root / folder / "val").iterdir():
        save(path, b"no image")
    what = {"images": "images", "labels": "label maps"}[folder]
    line = message(root, on_corrupt=on_corrupt)
    assert f"none of the 2 evaluation {what} tried can be decoded: the data set as a whole" in line


def test_label_maps_of_another_format(root):
    buffer = io.BytesIO()
    grey(0, 1).save(buffer, "JPEG")
    save(root / "labels/train/04.png", buffer.getvalue())
    assert f"{root}/labels/train/04.png is a JPEG image, whose compression may change labels" in message(root)


def test_progress(root, monkeypatch):
    lines: list[str] = []
    validate(root, progress=lines.append)
    assert lines == []
    monkeypatch.setattr(checks, "_SECONDS_BETWEEN_REPORTS", -1)
    validate(root, progress=lines.append)
    assert "checked 1 of 40 training label maps" in lines and lines[-1] == "checked 2 of 2 evaluation label maps"


class Memory:
    """A source of arrays, which cannot read a label map alone."""

    encoding = LabelEncoding(3)
    class_names = ("a", "b", "c")
    palette = np.zeros((3, 3), np.uint8)

    def __init__(self, label_maps, image: np.ndarray | None = None):
        self._label_maps, self._image = label_maps, image
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self._label_maps)

    def __getitem__(self, index: int):
        self.read.add(index)
        image = np.zeros((4, 6, 3), np.uint8) if self._image is None else self._image
        return {"image": image, "label_map": self._label_maps[index]}

    def name(self, index: int) -> str:
        return f"memory record {index}"

    def label_name(self, index: int) -> str:
        return f"labels of {self.name(index)}"

    def sizes(self) -> np.ndarray:
        return np.tile(np.int32([4, 6]), (len(self), 1))

    def __str__(self) -> str:
        return "memory"


class TestArrays:
    def line(self, train, evaluation=None, **arguments) -> str:
        with pytest.raises(UserError) as caught:
            SegmentationChecks(3, **arguments).validate(train, train if evaluation is None else evaluation)
        return str(caught.value)

    def test_a_sample_makes_no_others(self):
        source = Memory([np.arange(24, dtype=np.uint8).reshape(4, 6) % 3] * 1000)
        line = SegmentationChecks(3, check="sample").validate(source, source)
        assert line == "1,000 training and 1,000 evaluation images with label maps of 3 classes, from memory"
        assert len(source.read) == 32 and {0, 999} < source.read

    def test_refusals(self):
        fine = np.zeros((4, 6), np.uint8)
        assert "the evaluation data has no images (memory)" in self.line(Memory([fine]), Memory([]))
        assert "labels of memory record 1, 4×5" in self.line(Memory([fine, fine[:, 1:]]))
        assert "in 1 of 2 training label maps" in self.line(Memory([fine, fine + 3]))
        assert "memory record 0 is float64 [4, 6, 3]" in self.line(Memory([fine], np.zeros((4, 6, 3))))
        other = Memory([fine])
        other.class_names = ("a", "c", "b")
        assert "the same names in another order" in self.line(Memory([fine]), other)
