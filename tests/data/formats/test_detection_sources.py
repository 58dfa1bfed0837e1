"""Sources for detection: what all have in common, and scenes of digits."""

import pickle
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.formats.digits import scenes as digit_scenes
from pvt_jax.data.formats.digits.objects import DigitObjectsSource
from pvt_jax.data.formats.digits.scenes import digit_scene
from pvt_jax.data.objects import Objects, decode_mask, run_lengths
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.detection.ground_truth import as_annotations, ground_truth
from pvt_jax.tasks.detection.source import DetectionSource
from tests.helpers.detection_data import counts_of


def opened(source: str, split: Any = "train", **rest: Any) -> Any:
    return open_source(OBJECTS, source, Request(split, options=ObjectOptions(10), **rest))


class TestOpen:
    def test_unknown_source(self):
        with pytest.raises(
            UserError, match=r"unknown source 'cocoo' of objects \(did you mean 'coco'\?\); there are: "
        ):
            opened("cocoo")

    def test_digit_scenes_have_one_split(self):
        with pytest.raises(UserError, match="one fixed split"):
            opened("digit_scenes", train_split="train")


class TestDigitScenes:
    @pytest.mark.parametrize("split", ["train", "eval"])
    def test_are_those_of_segmentation_with_their_objects(self, split):
        source = pickle.loads(pickle.dumps(opened("digit_scenes", split)))
        assert isinstance(source, DetectionSource)
        assert len(source) == {"train": 32768, "eval": 256}[split]
        assert source.class_names == tuple("0123456789")
        for index in (0, 17, len(source) - 1):
            scene = digit_scene(split, index)
            image, objects = source[index]
            np.testing.assert_array_equal(image, scene.image)
            np.testing.assert_array_equal(source.image(index), scene.image)
            np.testing.assert_array_equal(objects.boxes, scene.boxes)
            np.testing.assert_array_equal(objects.labels, scene.labels)
            np.testing.assert_array_equal(objects.areas, [mask.sum() for mask in scene.masks])
            assert objects.boxes.dtype == np.float32 and objects.labels.dtype == np.int32 and not objects.crowd.any()
            for mask, expected in zip(source.masks(index, objects), scene.masks, strict=True):
                assert mask.dtype == np.uint8
                np.testing.assert_array_equal(mask, expected)
        assert source.sizes().shape == (len(source), 2) and (source.sizes() == 128).all()
        with pytest.raises(IndexError):
            source.objects(len(source))

    def test_one_composition_a_record(self, monkeypatch):
        made = []
        compose = digit_scenes._compose
        monkeypatch.setattr(digit_scenes, "_compose", lambda *rest: made.append(rest) or compose(*rest))
        opened("digit_scenes")[3]
        assert len(made) == 1

    def test_counts_and_their_limit(self):
        source = DigitObjectsSource("eval", count=100)
        counts = source.counts()
        assert counts.tolist() == [len(digit_scene("eval", index).labels) for index in range(100)]
        assert counts.max() == source.most_objects()

    def test_ground_truth_is_of_coco_s_format(self):
        source = DigitObjectsSource("eval", count=6, height=48, width=64)
        truth = ground_truth(source)
        assert [image["id"] for image in truth["images"]] == [source.image_id(index) for index in range(6)]
        assert truth["images"][0]["height"] == 48 and truth["images"][0]["width"] == 64
        assert truth["categories"][3] == {"id": source.category_ids[3], "name": "3"}
        assert [row["id"] for row in truth["annotations"]] == list(range(1, 1 + int(source.counts().sum())))
        row = truth["annotations"][0]
        x, y, width, height = row["bbox"]
        assert [x, y, x + width, y + height] == digit_scene("eval", 0, height=48, width=64).boxes[0].tolist()
        mask = digit_scene("eval", 0, height=48, width=64).masks[0]
        assert row["area"] == mask.sum() and row["iscrowd"] == 0
        np.testing.assert_array_equal(decode_mask(row["segmentation"], (48, 64)), mask)


SIZE = (37, 53)


def random_masks(number: int) -> list[Any]:
    """Polygons within and beyond an image, in one part or two, and run lengths, as lists and as text."""
    random = np.random.default_rng(number)
    found: list[Any] = []
    for low, high in ((0, 1), (-0.5, 1.5)):
        for points in (3, 8):
            corners = random.uniform(low, high, (2, points, 2)) * (SIZE[1], SIZE[0])
            # With one decimal, halves of a pixel of the grid that polygons are filled on do occur.
            parts = np.round(corners, random.integers(3)).reshape(2, -1).tolist()
            found += [parts, parts[:1]]
    mask = random.random(SIZE) < 0.5
    found.append({"size": list(SIZE), "counts": counts_of(mask)})
    found.append(run_lengths(mask, SIZE))
    return found


class TestMasks:
    @pytest.mark.parametrize("number", range(10))
    def test_filled_as_pycocotools_does(self, number):
        reference = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle: make test ORACLES=1")
        for mask in random_masks(number):
            counted = mask
            if isinstance(mask, list):
                counted = reference.merge(reference.frPyObjects(mask, *SIZE))
            elif isinstance(mask["counts"], list):
                counted = reference.frPyObjects(mask, *SIZE)
            expected = reference.decode(counted)
            found = decode_mask(mask, SIZE)
            assert found.dtype == np.uint8 and found.shape == SIZE
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(decode_mask(run_lengths(mask, SIZE), SIZE), expected)

    def test_of_bool_arrays_and_of_nothing(self):
        mask = np.random.default_rng(0).random(SIZE) < 0.3
        for one in (mask, ~mask, np.zeros(SIZE, bool), np.ones(SIZE, bool)):
            for form in (one, run_lengths(one, SIZE), {"size": list(SIZE), "counts": counts_of(one)}):
                np.testing.assert_array_equal(decode_mask(form, SIZE), one)
        assert not decode_mask([], SIZE).any() and decode_mask([], SIZE).shape == SIZE


class TestObjects:
    objects = Objects(
        boxes=np.array([[1, 2, 4, 8], [0, 0, 1, 1], [2, 2, 3, 3]], np.float32),
        labels=np.array([2, 0, 1], np.int32),
        crowd=np.array([False, True, False]),
        areas=np.array([18.0, 1.0, 1.0]),
        ids=np.array([5, 6, 7]),
        masks=([[0.0, 0, 2, 0, 2, 2]], None, np.ones((9, 9), bool)),
    )

    @pytest.mark.parametrize("chosen", [np.array([True, False, True]), np.array([0, 2]), slice(0, 3, 2)])
    def test_take(self, chosen):
        found = self.objects.take(chosen)
        assert len(found) == 2 and found.ids.tolist() == [5, 7] and found.labels.tolist() == [2, 1]
        assert found.masks is not None and found.masks[0] is self.objects.masks[0] and found.masks[1].shape == (9, 9)
        assert found.boxes.tolist() == [[1, 2, 4, 8], [2, 2, 3, 3]] and not found.crowd.any()

    def test_as_annotations(self):
        first, second, third = as_annotations(self.objects, (9, 9), "a", (10, 20, 30))
        assert first["bbox"] == [1, 2, 3, 6] and first["category_id"] == 30 and first["area"] == 18
        assert second["iscrowd"] == 1 and "segmentation" not in second and second["image_id"] == "a"
        assert decode_mask(third["segmentation"], (9, 9)).sum() == 81
