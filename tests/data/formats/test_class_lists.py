"""Lists of classes that tools write beside label maps: CVAT's labelmap.txt and Roboflow's _classes.csv."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax.data.formats.class_lists import find_class_list
from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.segmentation.examples import image_and_label_map
from tests.helpers.command import ROOT
from tests.helpers.detection_data import save

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:61,61,245::\nvoid:10,20,30::\ntraffic light:1,2,3::\n"
COLOURS = [(0, 0, 0), (61, 61, 245), (1, 2, 3), (10, 20, 30)]
ROBOFLOW = "Pixel Value, Class\n0, background\n1, car\n2, traffic light\n"
SIZE = (8, 16)


def label_map(classes: int) -> np.ndarray:
    return np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % classes


def opened(root: Path, *overrides: str):
    """The training records, with as many classes as the config finds."""
    config = config_lib.load(f"{ROOT / 'configs/segmentation_folder.py'}:{root}", ["init.checkpoint=", *overrides])
    task = TASKS["segmentation"].make(config_lib.read(config))
    task.validate_data()
    return task.train_source


@pytest.mark.parametrize("place", ["", "{split}"])
def test_colours_of_cvat(tmp_path, place):
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            folder = tmp_path / split
            save(folder / f"JPEGImages/{number}.jpg", np.zeros((*SIZE, 3), np.uint8))
            save(folder / f"SegmentationClass/{number}.png", np.array(COLOURS, np.uint8)[label_map(4)])
        (tmp_path / place.format(split=split) / "labelmap.txt").write_text(CVAT)
    source = opened(tmp_path)
    assert source.class_names == ("background", "car", "traffic light")
    assert source.palette.tolist() == [list(colour) for colour in COLOURS[:3]]
    # What nobody labelled is ignored.
    expected = np.where(label_map(4) == 3, 255, label_map(4))
    np.testing.assert_array_equal(image_and_label_map(source, 0)[1], expected)
    if place:
        (tmp_path / "val/labelmap.txt").write_text(CVAT.replace("car", "van"))
        with pytest.raises(
            UserError, match="train/labelmap.txt and .*val/labelmap.txt differ: list the same classes in"
        ):
            opened(tmp_path)


def test_one_export_of_cvat_is_divided(tmp_path):
    for number in range(5):
        save(tmp_path / f"JPEGImages/a/{number}.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / f"SegmentationClass/a/{number}.png", np.array(COLOURS, np.uint8)[label_map(3)])
    (tmp_path / "labelmap.txt").write_text(CVAT)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("".join(f"a/{n}\n" for n in range(5)))
    source = opened(tmp_path, "data.holdout=0.2")
    assert len(source) == 4
    np.testing.assert_array_equal(image_and_label_map(source, 3)[1], label_map(3))


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 40, 200)])
def test_values_of_roboflow(tmp_path, values):
    for split in ("train", "valid"):
        for number in range(2):
            save(tmp_path / f"{split}/{number}_jpg.rf.1a.jpg", np.zeros((*SIZE, 3), np.uint8))
            save(tmp_path / f"{split}/{number}_jpg.rf.1a_mask.png", np.array(values, np.uint8)[label_map(3)])
        text = ROBOFLOW.replace("\n1,", f"\n{values[1]},").replace("\n2,", f"\n{values[2]},")
        (tmp_path / split / "_classes.csv").write_text(text)
    source = opened(tmp_path)
    assert source.class_names == ("background", "car", "traffic light")
    assert "label maps are the images that end in _mask" in source.notes()
    np.testing.assert_array_equal(image_and_label_map(source, 1)[1], label_map(3))


def test_the_first_class_may_be_ignored(tmp_path):
    (tmp_path / "labelmap.txt").write_text(CVAT)
    for split in ("train", "val"):
        save(tmp_path / f"images/{split}/0.jpg", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / f"masks/{split}/0.png", np.array(COLOURS, np.uint8)[label_map(4)])
    source = opened(tmp_path, "segmentation.reduce_zero_label=True")
    assert source.class_names == ("car", "traffic light")
    expected = np.array([255, 0, 1, 255])[label_map(4)]
    np.testing.assert_array_equal(image_and_label_map(source, 0)[1], expected)
    # The config has the last word.
    given = opened(tmp_path, "segmentation.class_names=('a', 'b', 'c', 'd')", f"segmentation.palette={tuple(COLOURS)}")
    assert given.class_names == ("a", "b", "c", "d")


def test_other_files_of_these_names(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("cat\ndog\n")
    assert find_class_list(str(tmp_path)).names == ("cat", "dog")
    path.write_text("cat:::\ndog:::\n")
    found = find_class_list(str(tmp_path))
    assert found.names == ("cat", "dog") and found.colours == ()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert find_class_list(str(tmp_path)).names == ("a", "b")
    for name in ("labelmap.txt", "classes.txt"):
        (tmp_path / name).unlink()
    assert find_class_list(str(tmp_path)) is None
    for line in ("x, cat", "1", "0, twice"):
        (tmp_path / "_classes.csv").write_text(f"Pixel Value, Class\n0, background\n{line}\n")
        with pytest.raises(
            UserError, match=f"line 3 of .*_classes.csv is '{line}': write a value of the label maps and"
        ):
            find_class_list(str(tmp_path))
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n")
    with pytest.raises(UserError, match="_classes.csv lists no classes: export it again"):
        find_class_list(str(tmp_path))


def test_pictures_are_not_changed(tmp_path):
    """A palette of greys decodes black and white masks; an image of one channel is still its numbers elsewhere."""
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncell:255,255,255::\n")
    for split in ("train", "val"):
        save(tmp_path / f"images/{split}/0.jpg", np.zeros((*SIZE, 3), np.uint8))
        (tmp_path / f"masks/{split}").mkdir(parents=True)
        Image.fromarray(np.uint8(label_map(2) * 255)).save(tmp_path / f"masks/{split}/0.png")
    np.testing.assert_array_equal(image_and_label_map(opened(tmp_path), 0)[1], label_map(2))
