"""What the pipeline makes of one record for evaluation: views and label map, each padded to its shape."""

from typing import Any

import cv2
import numpy as np
import pytest

from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.files.labels import LabelEncoding
from pvt_jax.tasks.segmentation.examples import SegmentationEvaluation, image_and_label_map
from pvt_jax.tasks.segmentation.transforms import SegmentationEvalTransform


class Records:
    """Arrays as they are, by number."""

    encoding = LabelEncoding(4)

    def __init__(self, *records):
        self._records = records

    def __getitem__(self, index):
        image, label_map = self._records[index]
        return {"image": image, "label_map": label_map}

    def name(self, index):
        return f"image {index}"

    def label_name(self, index):
        return f"labels {index}"


def records(*pairs) -> Any:
    return Records(*pairs)


def pair(height, width):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 4, (height, width), dtype=np.uint8)


def test_views_and_label_map_lie_at_the_top_left_of_their_shapes():
    image, labels = pair(40, 50)
    views = (SegmentationEvalTransform((0, 0)), SegmentationEvalTransform((0, 0), 0.5))
    shapes = np.array([[96, 96, 64, 64, 60, 70], [64, 64, 32, 32, 40, 50]])
    example = SegmentationEvaluation(views, shapes)
    wide, tight = (example(records((image, labels)), 0, kind) for kind in (0, 1))
    for arrays, shape in zip((wide, tight), shapes, strict=True):
        assert arrays["image0"].shape == (*shape[:2], 3) and arrays["image1"].shape == (*shape[2:4], 3)
        assert arrays["label_map"].shape == tuple(shape[4:])
        # 40×50 is stretched to 64×64, and 20×25 to 32×32.
        np.testing.assert_array_equal(arrays["size0"], (64, 64))
        np.testing.assert_array_equal(arrays["size1"], (32, 32))
        np.testing.assert_array_equal(arrays["label_size"], (40, 50))
        np.testing.assert_array_equal(arrays["image0"][:64, :64], cv2.resize(image, (64, 64)))
        small = cv2.resize(cv2.resize(image, (25, 20)), (32, 32))
        np.testing.assert_array_equal(arrays["image1"][:32, :32], small)
        np.testing.assert_array_equal(arrays["label_map"][:40, :50], labels)
    assert not wide["image0"][64:].any() and not wide["image0"][:, 64:].any()
    assert (wide["label_map"][40:] == 255).all() and (wide["label_map"][:, 50:] == 255).all()


def test_a_blank_has_the_shapes_of_its_kind_and_no_label():
    example = SegmentationEvaluation((SegmentationEvalTransform((0, 0)),), np.array([[64, 96, 40, 50]]))
    blank, arrays = example.blank(0), example(records(pair(40, 50)), 0, 0)
    assert {name: (value.shape, value.dtype) for name, value in blank.items()} == {
        name: (value.shape, value.dtype) for name, value in arrays.items()
    }
    assert (blank["label_map"] == 255).all() and not blank["image0"].any()
    np.testing.assert_array_equal(blank["size0"], (32, 32))


@pytest.mark.parametrize("height", [39, 41])
def test_a_label_map_of_another_size_than_its_image_is_told(height):
    """With data.check=sample not all records of TFDS are looked at before a run."""
    source = records(pair(40, 50), (pair(40, 50)[0], pair(height, 50)[1]))
    assert image_and_label_map(source, 0)[1].shape == (40, 50)
    with pytest.raises(UserError) as error:
        image_and_label_map(source, 1)
    assert not isinstance(error.value, CorruptImageError)
    assert str(error.value) == (
        f"the label map labels 1 has {height}×50 pixels, and its image image 1 40×50: give both one size"
    )


def test_what_cannot_be_decoded_is_told_from_labels_out_of_range():
    image, labels = pair(40, 50)
    with pytest.raises(CorruptImageError, match="image 0"):
        image_and_label_map(records((b"no image", labels)), 0)
    with pytest.raises(CorruptImageError, match="labels 0"):
        image_and_label_map(records((image, b"no image")), 0)
    with pytest.raises(UserError, match="labels 0: label 9 is outside"):
        image_and_label_map(records((image, np.full_like(labels, 9))), 0)
