"""The classifier by spatial pyramid matching: its kernel by hand, its descriptors, and its command on a small run."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pooling import spatial_pyramid_matching as matching
from pvt_jax.errors import UserError
from pvt_jax.nn.pyramid_pooling import word_histograms
from tests.helpers.command import ROOT
from tests.helpers.trained import save_run

WORDS = np.eye(2, dtype=np.float32)


def words_map(rows: str) -> np.ndarray:
    """Columns of a map [1, h, w, 2], each exactly word 0 or word 1."""
    return WORDS[np.array([[int(word) for word in row] for row in rows.split()])][None]


# Two words on 4×4 positions: one above the other, the reverse, and the first with one quarter of the other word.
ABOVE, BELOW, PARTLY = (
    words_map(rows) for rows in ("0000 0000 1111 1111", "1111 1111 0000 0000", "1100 1100 1111 1111")
)


def test_the_kernel_by_hand():
    """Equation 3: matches at 1×1, 2×2 and 4×4 cells weigh 1/4, 1/4 and 1/2."""
    images = jnp.asarray(np.concatenate([ABOVE, BELOW, PARTLY]))
    found = np.asarray(word_histograms(images, jnp.asarray(WORDS), (1, 2, 4)))
    descriptors = 4 * 4
    weights = [found[0, :2].sum(), found[0, 2 : 2 + 8].sum(), found[0, 10:].sum()]
    assert weights == [1 / 4, 1 / 4, 1 / 2]
    # Of itself an image matches every descriptor at every level. Of the reverse it matches all 16 in the whole, and
    # none in any smaller cell; of the third 12 everywhere.
    kernel = descriptors * matching.intersections(found, found)
    np.testing.assert_array_equal(kernel[0], [16, 16 / 4, 12])
    np.testing.assert_array_equal(np.diag(kernel), [descriptors] * 3)
    # The third has 4 and 12 of the words, and no quarter but one in common with the second.
    assert kernel[1, 2] == (4 + 8) / 4 + 4 / 4 + 4 / 2


@pytest.mark.parametrize(("levels", "expected"), [((1,), 50.0), ((1, 2), 100.0)])
def test_only_a_pyramid_knows_the_layout(levels, expected):
    """Two classes with as many of each word, one above or below the other."""
    images, labels = np.concatenate([ABOVE, BELOW] * 4), np.tile([0, 1], 4)
    batches = lambda: iter([(images[:6], labels[:6]), (images[6:], labels[6:])])  # noqa: E731
    words = matching.learn_words(batches(), lambda maps: maps, 8, 2, 64, seed=0)
    assert sorted(np.asarray(words).tolist()) == [[0, 1], [1, 0]]
    histograms, found = matching.pyramids(batches(), lambda maps: maps, words, levels)
    np.testing.assert_array_equal(found, labels)
    kernel = matching.intersections(histograms, histograms)
    machines = matching.fit(kernel, labels, [1.0], seed=0)
    assert 100 * np.mean(machines.predict(kernel) == labels) == expected


def test_the_best_penalty_is_found_on_the_training_images():
    rng = np.random.default_rng(0)
    features = np.abs(rng.standard_normal((40, 6))) + np.repeat(np.eye(2, 6), 20, 0)
    kernel, labels = features @ features.T, np.repeat([3, 7], 20)
    machines = matching.fit(kernel, labels, [1e-9, 1.0], seed=0)
    assert matching.cost_of(machines) == 1.0
    assert matching.cost_of(matching.fit(kernel, labels, [0.5], seed=0)) == 0.5
    assert set(machines.predict(kernel)) == {3, 7}


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(UserError, match="all training images are of one class"):
        matching.fit(np.eye(3), np.zeros(3, int), [1.0], seed=0)
    said = "class 1 has 2 training images, and the best of several --C is found by 3 folds: give one --C"
    with pytest.raises(UserError, match=said):
        matching.fit(np.eye(6), np.array([0, 0, 0, 0, 1, 1]), [1.0, 2.0], seed=0)


# Descriptors.


def pictures(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


def test_patches_are_pixels_without_their_mean_and_contrast():
    images = pictures(9, 12)
    found = matching.dense_patches(images, 4, 2)
    assert found.shape == (2, 3, 5, 48)
    pixels = images[1, 4:8, 2:6].transpose(2, 0, 1).astype(np.float64).ravel()
    expected = (pixels - pixels.mean()) / np.sqrt(pixels.var() + 10)
    np.testing.assert_allclose(found[1, 2, 1], expected, rtol=1e-4, atol=1e-5)
    assert not matching.dense_patches(np.full((1, 4, 4, 3), 200, np.uint8), 4, 1).any()


def test_descriptors_of_gradients_move_with_the_image():
    image = pictures(48, 40)[:1]
    moved = np.roll(image, (4, 8), axis=(1, 2))
    found, other = (matching.dense_sift(pixels, 8, 4) for pixels in (image, moved))
    assert found.shape == (1, 11, 9, 128)
    # Away from the borders, which are blurred otherwise.
    np.testing.assert_array_equal(other[:, 4:-2, 5:-2], found[:, 3:-3, 3:-4])
    # OpenCV scales unit vectors by 512 and rounds.
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 512, rtol=0.02)


def test_a_flat_part_has_no_gradients_and_an_edge_its_direction():
    image = np.zeros((1, 32, 64, 3), np.uint8)
    image[:, :, 32:] = 255
    found = matching.dense_sift(image, 8, 8)[0].reshape(4, 8, 4, 4, 8)
    assert not found[:, :3].any() and not found[:, 5:].any()
    # Of the eight directions the one from dark to bright, along the row.
    assert set(found[1:3, 3:5].sum((0, 1, 2, 3)).nonzero()[0]) == {0}


# The command.


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Any:
    return save_run("classification", tmp_path_factory.mktemp("run")).folder


def output(capsys, *arguments: Any) -> dict[str, Any]:
    assert matching.main([*map(str, arguments), "--words", "5", "--levels", "1", "2", "--C", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "vocabulary of 5 words, from 5 training images"
    return json.loads(captured.out)


def test_a_run_s_maps_classify(run, capsys):
    found = output(capsys, run, "--map", "c2")
    assert found.pop("seconds") > 0 and found.pop("top1") in (0, 20, 40, 60, 80, 100)
    assert found == {
        **{"vocabulary": 5, "levels": [1, 2], "descriptors": "c2", "channels": 8, "C": 1.0, "seed": 0},
        **{"train_images": 5, "test_images": 5},
    }


def test_raw_images_classify_without_a_network(run, capsys):
    """Of a run's data; test images that are those of training, as these are, are all right."""
    found = output(capsys, run, "--raw", "sift")
    assert (found["descriptors"], found["channels"]) == ("sift", 128)
    # The folder's two splits hold different pixels, so that the numbers of images alone are known.
    assert (found["train_images"], found["test_images"]) == (5, 5)


def test_the_seed_is_that_of_the_run(run, capsys):
    """Otherwise runs of several seeds would have one and the same vocabulary."""
    assert output(capsys, run, "--raw", "sift", "--config.seed=3")["seed"] == 3
    assert output(capsys, run, "--raw", "sift", "--config.seed=3", "--seed", "4")["seed"] == 4


def test_fewer_images_are_drawn(capsys):
    arguments = [f"{ROOT}/configs/digits.py", "--raw", "patches", "--images", "60", "--words", "20", "--step", "8"]
    assert matching.main([*arguments, "--levels", "1", "2", "--C", "10"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("top1 ") and ", levels 1 2, C 10, 60 training images, " in line
    # Chance is 10 %.
    assert float(line.split()[1]) > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/digits.py", "--raw", "sift", "--map", "c2"], "argument --map: not allowed with argument --raw"),
        (["configs/digits.py", "--raw", "sift", "--words", "0"], "--words must be above 0, but is 0"),
        (["configs/digits.py", "--raw", "sift", "--C", "0"], "--levels and --C must be above 0, and --images not"),
        (["configs/digits.py", "--raw", "patches", "--patch", "33"], "a patch fit into 32×32 pixels"),
        (
            ["configs/digits.py", "--raw", "patches", "--words", "900", "--sample", "9", "--images", "20"],
            "--words 900 are",
        ),
        (["configs/digits_detection.py", "--raw", "sift"], "is of task 'detection', whose images have no label"),
        (["configs/none.py", "--raw", "sift"], "no config file configs/none.py"),
        (["runs/none"], "there is no"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert matching.main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
