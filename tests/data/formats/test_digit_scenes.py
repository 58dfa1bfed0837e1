"""Scenes of digits: the same for everyone, and labels that are what the picture shows."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image

from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.formats.digits import scenes as digit_scenes
from pvt_jax.data.formats.digits.scenes import DigitScenesSource, digit_scene
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.segmentation.source import SegmentationSource

SPLITS = ("train", "eval")
MANY = 300
LUMINANCE = (0.299, 0.587, 0.114)


@pytest.fixture(scope="module")
def scenes():
    return {split: [digit_scene(split, index) for index in range(MANY)] for split in SPLITS}


def digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


class TestRepeats:
    # Whatever changes these, changes the data set, and no number measured before can be compared: then say so in
    # CHANGELOG.md and measure anew. No version of NumPy should: labels take from it raw random bits, whose streams it
    # keeps (NEP 19), integers, and floats one IEEE operation at a time.
    LABELS = {"train": "33eaf32491c4b209", "eval": "1a308c20f9bbbebc"}
    # The images also depend on the decoder of JPEG files, so they are compared where that gives these photographs.
    IMAGES = {"train": "84b00f6c057cf3e8", "eval": "70e0450ae76c5c05"}
    PHOTOGRAPHS = "405ceef4de355e1f"

    @pytest.mark.parametrize("split", SPLITS)
    def test_labels_never_change(self, scenes, split):
        parts = [part for s in scenes[split][:50] for part in (s.label_map, s.boxes, s.labels, s.masks)]
        assert digest(*parts) == self.LABELS[split]

    @pytest.mark.parametrize("split", SPLITS)
    def test_images_never_change(self, scenes, split):
        photographs = digest(*(load_sample_image(name) for name in ("china.jpg", "flower.jpg")))
        if photographs != self.PHOTOGRAPHS:
            pytest.skip(f"this decoder of JPEG reads scikit-learn's photographs as {photographs}: other images")
        assert digest(*(s.image for s in scenes[split][:50])) == self.IMAGES[split]

    def test_in_another_process_and_order(self, scenes):
        code = (
            "import hashlib\n"
            "from pvt_jax.data.formats.digits.scenes import DigitScenesSource\n"
            "source = DigitScenesSource('eval')\n"
            "for index in (7, 3, 0):\n"
            "    record = source[index]\n"
            "    print(hashlib.sha256(record['image'].tobytes() + record['label_map'].tobytes()).hexdigest())"
        )
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        expected = [scenes["eval"][index] for index in (7, 3, 0)]
        assert ran.stdout.split() == [
            hashlib.sha256(s.image.tobytes() + s.label_map.tobytes()).hexdigest() for s in expected
        ]

    def test_labels_do_not_depend_on_the_photographs(self, scenes, monkeypatch):
        blank = tuple(np.full((3, 427, 300), grey, np.uint8) for grey in (0, 255))
        monkeypatch.setattr(digit_scenes, "_photographs", lambda split: blank)
        for index in range(20):
            scene, expected = digit_scene("train", index), scenes["train"][index]
            np.testing.assert_array_equal(scene.masks, expected.masks)
            np.testing.assert_array_equal(scene.labels, expected.labels)
            assert (scene.image != expected.image).any()

    def test_seeds_splits_and_numbers_give_other_scenes(self):
        scenes = [digit_scene(split, index, seed=seed) for split in SPLITS for index in (0, 1) for seed in (0, 1)]
        assert len({digest(scene.label_map) for scene in scenes}) == 8


class TestSplits:
    def test_photographs_have_no_pixel_in_common(self):
        for number, name in enumerate(("china.jpg", "flower.jpg")):
            held_out, train = (digit_scenes._photographs(split)[number].transpose(1, 2, 0) for split in SPLITS[::-1])
            assert held_out.shape == (427, 224, 3)
            np.testing.assert_array_equal(np.concatenate([held_out, train], axis=1), load_sample_image(name))

    def test_backgrounds_come_from_their_part_alone(self, monkeypatch):
        # What is left is white here, what is right is black: one that straddles has both.
        photograph = np.zeros((427, 640, 3), np.uint8)
        photograph[:, :224] = 255
        monkeypatch.setattr("sklearn.datasets.load_sample_image", lambda name: photograph)
        uncached = digit_scenes._photographs.__wrapped__
        monkeypatch.setattr(digit_scenes, "_photographs", uncached)
        for split in SPLITS:
            for index in range(40):
                scene = digit_scene(split, index)
                luminance = scene.image[scene.label_map == 0] @ LUMINANCE
                # Far from digits and their rims there is one colour, and it is most of the picture.
                assert (np.median(luminance) > 64) == (split == "eval")
                assert np.mean(np.abs(luminance - np.median(luminance)) < 1) > 0.5

    @pytest.mark.parametrize("split", SPLITS)
    def test_digits_are_those_of_the_split(self, split):
        source = open_source(LABELLED_IMAGES, "digits", Request(split))
        glyphs, members = digit_scenes._glyphs(split)
        assert len(glyphs) == len(source)
        # 8×8 pixels and a margin of one, 8×8 points in each: those in the middle are near the originals.
        middles = glyphs.reshape(-1, 10, 8, 10, 8)[:, 1:-1, 3:5, 1:-1, 3:5].mean(axis=(2, 4))
        originals = np.stack([source[index]["image"][..., 0] for index in range(len(source))])
        assert np.abs(middles - originals).mean() < 3
        for digit, numbers in enumerate(members):
            assert (source.labels[numbers] == digit).all()
        assert sorted(np.concatenate(members)) == list(range(len(source)))


class TestLabels:
    @pytest.mark.parametrize("split", SPLITS)
    def test_map_masks_and_boxes_agree(self, scenes, split):
        for scene in scenes[split]:
            count = len(scene.labels)
            assert scene.image.shape == (128, 128, 3) and scene.image.dtype == scene.label_map.dtype == np.uint8
            assert scene.masks.shape == (count, 128, 128) and scene.masks.dtype == bool
            assert scene.boxes.shape == (count, 4) and scene.boxes.dtype == np.float32
            assert scene.labels.dtype == np.int32
            assert scene.masks.sum(axis=0).max() == 1
            expected = sum((1 + label) * mask for label, mask in zip(scene.labels, scene.masks, strict=True))
            np.testing.assert_array_equal(scene.label_map, expected)
            for box, mask in zip(scene.boxes, scene.masks, strict=True):
                rows, columns = np.nonzero(mask)
                assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]

    def test_frequencies(self, scenes):
        every = [scene for split in SPLITS for scene in scenes[split]]
        counts = np.bincount([len(scene.labels) for scene in every], minlength=6)
        assert counts[0] == 0 and len(counts) == 6
        assert (
            (counts[2:5] > 0.2 * len(every)).all() and counts[5] > 0.03 * len(every) and counts[1] < 0.01 * len(every)
        )
        digits = np.bincount(np.concatenate([scene.labels for scene in every]), minlength=10)
        # Of n draws with a share of 1/10, the deviation is √(0.09 n).
        assert np.abs(digits - digits.sum() / 10).max() < 4 * np.sqrt(0.09 * digits.sum())
        pixels = np.bincount(np.concatenate([scene.label_map.ravel() for scene in every]), minlength=11)
        shares = pixels / pixels.sum()
        assert len(shares) == 11 and 0.75 < shares[0] < 0.9 and (shares[1:] > 0.01).all() and shares[1:].max() < 0.03

    def test_no_digit_is_lost_below_others(self, scenes):
        areas = [mask.sum() for split in SPLITS for scene in scenes[split] for mask in scene.masks]
        # The thinnest 1 is a line of two pixels out of 5 × 8, and 36 pixels high.
        assert min(areas) > 100

    def test_a_person_would_read_the_digits(self, scenes):
        # The nearest of scikit-learn's training digits, by scikit-learn's classifier, reads the shape of the topmost.
        from sklearn.neighbors import KNeighborsClassifier

        def framed(shape: np.ndarray) -> np.ndarray:
            rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
            middle = (rows[[0, -1]].mean(), columns[[0, -1]].mean())
            side = max(np.ptp(rows), np.ptp(columns)) + 1
            grid = ((np.arange(16) + 0.5) / 16 - 0.5) * side + 0.5
            places = [np.clip((grid + centre).astype(int), 0, len(shape) - 1) for centre in middle]
            return shape[np.ix_(*places)].ravel()

        images, targets = load_digits(return_X_y=True)
        enlarged = np.kron(images.reshape(-1, 8, 8) > 7, np.ones((4, 4), bool))
        reader = KNeighborsClassifier(3).fit([framed(np.pad(image, 16)) for image in enlarged], targets)
        topmost = [framed(scene.masks[-1]) for scene in scenes["eval"]]
        assert np.mean(reader.predict(topmost) == [scene.labels[-1] for scene in scenes["eval"]]) > 0.85

    def test_ink_stands_out_from_its_ground(self, scenes):
        contrasts = []
        for scene in scenes["eval"]:
            luminance = scene.image @ LUMINANCE
            for mask in scene.masks:
                near = mask.copy()
                for _ in range(4):
                    near[1:] |= near[:-1]
                    near[:-1] |= near[1:]
                    near[:, 1:] |= near[:, :-1]
                    near[:, :-1] |= near[:, 1:]
                ground = near & (scene.label_map == 0)
                contrasts.append(abs(luminance[mask].mean() - luminance[ground].mean()))
        assert np.percentile(contrasts, 5) > 40 and np.median(contrasts) > 80


class TestPlaces:
    def place(self, *corners: tuple[int, int]):
        """Tries a stroke of 4×4 pixels at these rows and columns of 20×20, over one of 4×4 at row 8, column 8."""
        owners, areas = np.zeros((20, 20), np.uint8), []
        digit_scenes._place(np.ones((4, 4), bool), owners, areas, iter([8.5 / 17] * 2))
        repeated = [*corners, *[corners[-1]] * 8]
        numbers = iter([(corner + 0.5) / 17 for pair in repeated for corner in pair])
        return digit_scenes._place(np.ones((4, 4), bool), owners, areas, numbers), owners, areas

    def test_a_tenth_may_be_covered(self):
        place, owners, areas = self.place((11, 11))
        assert place == (slice(11, 15), slice(11, 15)) and areas == [(16, 15), (16, 16)]
        assert (owners == 1).sum() == 15 and (owners[11:15, 11:15] == 2).all()

    def test_no_more(self):
        assert self.place((8, 10), (7, 7), (5, 11))[0] == (slice(5, 9), slice(11, 15))
        place, owners, areas = self.place((11, 10))
        assert place is None and areas == [(16, 16)] and owners.max() == 1


class TestInterpolation:
    def test_quadratics_pass_unchanged(self):
        # Cubic convolution reproduces polynomials of the second degree, so their values are known between rows.
        rows = np.arange(12)
        image = (4096 * (3 * rows**2 - 5 * rows + 7))[None, :, None]
        at = 2 + (np.arange(64) + 0.5) / 8 - 0.5
        np.testing.assert_array_equal(digit_scenes._finer(image)[0, :, 0], 4096 * (3 * at**2 - 5 * at + 7))


class TestSource:
    def test_is_a_segmentation_source(self, scenes):
        source = DigitScenesSource("eval")
        assert isinstance(source, SegmentationSource)
        assert len(source) == 256 and len(DigitScenesSource("train")) == 32768
        assert source.class_names == ("background", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
        assert source.palette.shape == (11, 3) and len(np.unique(source.palette, axis=0)) == 11
        record = source[5]
        np.testing.assert_array_equal(record["image"], scenes["eval"][5].image)
        np.testing.assert_array_equal(record["label_map"], scenes["eval"][5].label_map)
        np.testing.assert_array_equal(
            source.encoding.decode(record["label_map"], source.label_name(5)), scenes["eval"][5].label_map
        )
        np.testing.assert_array_equal(source.scene(5).masks, scenes["eval"][5].masks)
        assert source.name(5) == "digit_scenes/eval scene 5" and "scene 5" in source.label_name(5)

    def test_sizes(self):
        source = DigitScenesSource("train", height=64, width=96, count=3)
        assert source.sizes().tolist() == [[64, 96]] * 3 and source.sizes().dtype == np.int32
        for record in source:
            assert record["image"].shape == (64, 96, 3) and record["label_map"].shape == (64, 96)

    def test_the_smallest_scenes_have_digits(self):
        for index in range(100):
            assert digit_scene("train", index, height=32, width=40).label_map.any()

    def test_travels_to_workers(self):
        source = DigitScenesSource("train")
        record = source[3]  # what is kept in this process stays here
        sent = pickle.dumps(source)
        assert len(sent) < 2000
        np.testing.assert_array_equal(pickle.loads(sent)[3]["image"], record["image"])

    def test_ends(self):
        source = DigitScenesSource("eval", count=2)
        assert len(list(source)) == 2
        for outside in (2, -1):
            with pytest.raises(IndexError):
                source[outside]

    def test_too_small(self):
        with pytest.raises(UserError, match="32 pixels or more on each side, not 16×128"):
            DigitScenesSource("train", height=16)
