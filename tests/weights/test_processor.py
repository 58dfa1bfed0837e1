"""Image processors of transformers as keys of a config, without transformers: old files, odd ones, broken ones."""

import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.weights.processor import read_processor

HALF = ((127.5,) * 3, (127.5,) * 3)
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SQUARE = {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

# As they lie on the hub: (content, model_type, what becomes of images, mean and deviation).
FILES = {
    "an old ViT": (
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        ("vit", ("squash", (224, 224), None, "bilinear"), HALF),
    ),
    "an old DeiT": (
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 438, "crop_size": 384, "resample": 3},
        ("deit", ("squash", (438, 438), (384, 384), "bicubic"), HALF),
    ),
    "an old SegFormer": (
        {"feature_extractor_type": "SegformerFeatureExtractor", "size": 640, "reduce_labels": True, "resample": 2},
        ("segformer", ("squash", (640, 640), None, "bilinear"), IMAGENET),
    ),
    "a fast PVT": (
        {"image_processor_type": "PvtImageProcessorFast", "size": {"height": 224, "width": 224}},
        ("pvt_v2", ("squash", (224, 224), None, "bicubic"), IMAGENET),
    ),
    "an old DETR": (
        {"feature_extractor_type": "DetrFeatureExtractor", "size": 480, "max_size": 800, "format": "coco_detection"},
        ("detr", ("within", (480, 800), None, "bilinear"), IMAGENET),
    ),
    "no type, but sizes": (SQUARE, ("swin", ("squash", (224, 224), None, "bilinear"), HALF)),
    "one mean for all channels": (
        {**SQUARE, "image_mean": 0.5, "image_std": 0.25},
        ("vit", ("squash", (224, 224), None, "bilinear"), ((127.5,) * 3, (63.75,) * 3)),
    ),
    "no normalisation": (
        {**SQUARE, "do_normalize": False},
        ("vit", ("squash", (224, 224), None, "bilinear"), ((0.0,) * 3, (255.0,) * 3)),
    ),
    "another factor": (
        {**SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        ("vit", ("squash", (224, 224), None, "bilinear"), HALF),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name):
    content, (model_type, sizes, normalisation) = FILES[name]
    found = read_processor(content, model_type)
    assert (found.resize, found.size, found.crop, found.interpolation) == sizes
    np.testing.assert_allclose(found.normalisation, normalisation, rtol=1e-6)
    assert not found.notes


SIZES = "the sizes of preprocessor_config.json are not followed: "
# What is said of a square processor with these changes.
ODD = [
    ({"do_resize": False}, SIZES + "do_resize is false, so images keep their sizes, and a batch has one"),
    ({"resample": 1}, SIZES + "it resizes with filter 1 of Pillow, and 2 and 3 are followed"),
    ({"size": {"max_height": 9, "max_width": 9}}, SIZES + "its size is {'max_height': 9, 'max_width': 9}"),
    ({"size": {"height": 0, "width": 224}}, SIZES + "its size is {'height': 0, 'width': 224}"),
    ({"do_center_crop": True}, SIZES + "its crop_size is None"),
    ({"image_processor_type": "SamImageProcessor"}, SIZES + "what SamImageProcessor does with them is not known here"),
    ({"do_flip_channel_order": True}, "preprocessor_config.json: do_flip_channel_order is not followed"),
    (
        {"do_rescale": False},
        "preprocessor_config.json: do_rescale is false, so mean and deviation are taken as those of pixels in 0..255",
    ),
    (
        {"rescale_factor": 1e-5},
        "preprocessor_config.json: mean [0.5, 0.5, 0.5], deviation [0.5, 0.5, 0.5] and rescale_factor 1e-05 are none "
        "of pixels in 0..255, and are not followed",
    ),
    (
        {"image_mean": [0.5]},
        "preprocessor_config.json: mean [0.5], deviation [0.5, 0.5, 0.5] and rescale_factor 0.00392156862745098 are "
        "none of pixels in 0..255, and are not followed",
    ),
]


@pytest.mark.parametrize(("changes", "note"), ODD)
def test_what_cannot_be_followed_is_said(changes, note):
    found = read_processor({**SQUARE, **changes}, "vit")
    assert found.notes == (note,)
    assert (found.resize is None) == note.startswith(SIZES)
    assert found.normalisation == (
        ((0.5,) * 3, (0.5,) * 3) if "do_rescale" in changes else None if "rescale_factor" in note else HALF
    )


def test_no_file_says_nothing():
    assert read_processor({}, "vit") is None


REASONS = [
    ("classification", ("within", (800, 1333), None), "images of a classifier have one size"),
    ("classification", ("shorter", (256, 256), None), "without cropping a square"),
    ("classification", ("squash", (224, 224), (256, 256)), "its crop of 256×256 is larger than 224×224"),
    ("classification", ("squash", (256, 256), (224, 200)), "or has another aspect ratio"),
    ("segmentation", ("shorter", (512, 512), None), "of one size or fitted into scale"),
    ("segmentation", ("squash", (500, 512), None), "no multiples of 32, but 500×512"),
    ("detection", ("squash", (800, 800), None), "images of a detector keep their aspect ratio"),
]


@pytest.mark.parametrize(("task", "sizes", "reason"), REASONS)
def test_what_a_task_cannot_do_has_a_reason(task, sizes, reason):
    with pytest.raises(UserError, match=reason):
        TASKS[task].config.of_processor(*sizes, "bilinear")


def test_crops_of_any_share():
    """The transform divides the crop by the share, and gets the side again."""
    config = TASKS["classification"].config
    for side in range(32, 600, 7):
        for kept in range(32, side + 1, 5):
            values, _ = config.of_processor("squash", (side, side), (kept, kept), "bicubic")
            assert int(kept / values["transform.eval_crop_fraction"]) == side, (side, kept)


def test_half_pixels_of_crops_are_said():
    config = TASKS["classification"].config
    notes = [config.of_processor("squash", (side, side), (64, 64), "bicubic")[1] for side in (64, 65, 66, 67, 68)]
    assert [bool(note) for note in notes] == [False, False, False, True, False]
    assert config.of_processor("shorter", (256, 256), (224, 224), "bicubic")[1]


def test_sizes_of_the_other_tasks():
    values, note = TASKS["segmentation"].config.of_processor("squash", (512, 1024), None, "bicubic")
    assert (
        values == {"segmentation.test_squash": (512, 1024), "segmentation.test_interpolation": "bicubic"} and not note
    )
    values, note = TASKS["detection"].config.of_processor("within", (480, 800), None, "bilinear")
    assert values == {"detection.short_sides": (480,), "detection.test_short_side": 0, "detection.long_side": 800}
    assert "rounds" in note
