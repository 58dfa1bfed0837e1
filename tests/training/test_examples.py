"""Examples are drawn as the step sees them."""

import numpy as np
import pytest
from PIL import Image

from pvt_jax import browse
from pvt_jax import config as config_lib
from pvt_jax.tasks import TASKS
from pvt_jax.training.examples import drawn_examples
from tests.helpers.command import ROOT

COUNT = 6


def config_of(file, *overrides):
    return config_lib.read(config_lib.load(f"{ROOT}/configs/{file}", ["batch_size=4", "data.threads=2", *overrides]))


def batches_of(config, steps=2):
    batches = TASKS[config.task].make(config).training_batches(0, (0, 1))
    found = [next(batches) for _ in range(steps)]
    batches.close()
    return {name: np.concatenate([batch[name] for batch in found])[:COUNT] for name in found[0]}


def test_images_are_those_of_the_batches():
    config = config_of("digits.py", *(f"batch_transform.{name}=0.0" for name in ("mixup_alpha", "cutmix_alpha")))
    assert config.batch_transform.erase_probability == 0
    drawn, batch = drawn_examples(config, COUNT), batches_of(config)
    assert len(drawn) == COUNT
    for (words, picture), image, label in zip(drawn, batch["image"], batch["label"], strict=True):
        np.testing.assert_array_equal(picture, image)
        assert words.split()[0] == str(label)


def test_later_steps_go_on_from_there():
    config = config_of("digits.py")
    first, second = drawn_examples(config, 8), drawn_examples(config, 4, 1)
    for (words, picture), (other_words, other) in zip(first[4:], second, strict=True):
        assert words == other_words
        np.testing.assert_array_equal(picture, other)


def test_mixed_images_have_both_labels():
    config = config_of("digits.py", "batch_transform.mixup_alpha=1.0", "batch_transform.mix_probability=1.0", "seed=3")
    shares = []
    for words, _ in drawn_examples(config, COUNT):
        parts = [part.split() for part in words.split(", ")]
        shares.append(sum(float(share) for _, share in parts))
        assert all(name in "0123456789" for name, _ in parts)
    assert max(len(words.split(", ")) for words, _ in drawn_examples(config, COUNT)) == 2
    assert min(shares) > 0.8


@pytest.mark.parametrize(
    ("file", "noun"), [("digits_segmentation.py", ""), ("digits_detection.py:mask_rcnn", "object")]
)
def test_dense_targets_are_drawn_over_the_image(file, noun):
    config = config_of(file, "init.checkpoint=")
    drawn, batch = drawn_examples(config, COUNT), batches_of(config)
    for number, (words, picture) in enumerate(drawn):
        image = batch["image"][number]
        assert picture.shape == image.shape and (picture != image).any()
        if noun:
            assert int(words.split()[0]) == batch["valid"][number].sum()
        else:
            ignored = batch["label_map"][number] == 255
            height, width = batch["size"][number]
            np.testing.assert_array_equal(
                picture[:height, :width][ignored[:height, :width]], image[:height, :width][ignored[:height, :width]]
            )


def test_the_command_writes_a_sheet(tmp_path, capsys):
    flags = ["--config", f"{ROOT}/configs/digits.py", "--output", str(tmp_path / "out"), "--config.batch_size=4"]
    assert browse.main([*flags, "--count", "5"]) == 0
    assert capsys.readouterr().out == f"done: 5 examples in {tmp_path}/out (examples.png, examples/)\n"
    assert len(list((tmp_path / "out" / "examples").iterdir())) == 5
    with Image.open(tmp_path / "out" / "examples.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > sheet.height > 100
    assert browse.main([*flags, "--count", "0"]) == 2
    assert capsys.readouterr().err == "error: --count must be 1 or more, but is 0\n"
