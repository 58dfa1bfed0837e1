"""Small folders of images and label maps, as people have them: digit scenes, written to files in several layouts."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pvt_jax.data.formats.digits.scenes import DigitScenesSource

# Layout → folders of images and of label maps for training and for evaluation, and what images are saved as.
LAYOUTS = {
    "ade": (
        ("images/training", "annotations/training"),
        ("images/validation", "annotations/validation"),
        "jpg",
    ),
    "camvid": (("train", "trainannot"), ("val", "valannot"), "png"),
}


def write_label_folder(
    root: Path,
    layout: Literal["ade", "camvid"] = "ade",
    *,
    count: int = 8,
    eval_count: int = 4,
    size: tuple[int, int] = (64, 64),
    growth: int = 0,
    num_classes: int = 11,
    coding: Literal["grey", "palette", "rgb"] = "grey",
    first_label: int = 0,
) -> dict[str, list[np.ndarray]]:
    """Writes pairs scene_000, scene_001, … and returns their classes by split, uint8 [h, w], 255 where ignored.

    Args:
        count, eval_count: pairs of each split.
        size: height and width in pixels.
        growth: both sides of the second of three images are larger by it, and those of the third by twice as much.
        num_classes: below 11, digits share classes.
        coding: what label PNGs hold: grey levels, the same as indices of a palette, or the colours of ``palette``.
        first_label: 1 saves class k as k + 1 as in ADE20K, and 0 in the top two rows, which are to be ignored.
    """
    assert not (coding == "rgb" and first_label), "colours have no order"
    *folders, suffix = LAYOUTS[layout]
    written: dict[str, list[np.ndarray]] = {}
    for split, number, (images, labels) in zip(("train", "eval"), (count, eval_count), folders, strict=True):
        (root / images).mkdir(parents=True)
        (root / labels).mkdir(parents=True)
        written[split] = []
        for index in range(number):
            height, width = (side + index % 3 * growth for side in size)
            record = DigitScenesSource(split, height=height, width=width, count=number)[index]
            classes = _shared(np.asarray(record["label_map"]), num_classes)
            if first_label:
                classes[:2] = 255
            Image.fromarray(np.asarray(record["image"])).save(root / images / f"scene_{index:03}.{suffix}", quality=95)
            _coded(classes, coding, first_label, num_classes).save(root / labels / f"scene_{index:03}.png")
            written[split].append(classes)
    return written


def palette(num_classes: int = 11) -> tuple[tuple[int, int, int], ...]:
    """The colours of RGB-coded label maps, for ``segmentation.palette``."""
    return tuple((int(red), int(green), int(blue)) for red, green, blue in DigitScenesSource("train").palette)[
        :num_classes
    ]


def _shared(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    return np.where(label_map > 0, 1 + (label_map - 1) % (num_classes - 1), 0).astype(np.uint8)


def _coded(classes: np.ndarray, coding: str, first_label: int, num_classes: int) -> Image.Image:
    if coding == "rgb":
        return Image.fromarray(np.array(palette(num_classes), np.uint8)[classes])
    # 255 + 1 is 0 again.
    image = Image.fromarray(classes + np.uint8(first_label))
    if coding == "palette":
        image.putpalette(np.array(palette(), np.uint8).tobytes())
    return image
