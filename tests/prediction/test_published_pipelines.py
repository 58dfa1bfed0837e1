"""Predictions against whole pipelines of transformers: its processors and its models, with the same random weights."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import pvt_jax
from pvt_jax import convert
from pvt_jax.tasks.classification.transforms import EvalTransform
from tests.helpers.hugging_face_pipelines import LABELS, PIPELINES, HuggingFace
from tests.helpers.oracles import torch

# A landscape and a portrait photograph; 427 × 640 is one of the sizes whose centre Hugging Face rounds otherwise.
FIRST, SECOND = (np.asarray(image) for image in load_sample_images().images)
PHOTOS = [FIRST, np.ascontiguousarray(SECOND.transpose(1, 0, 2)[:, ::-1])[:600]]


@pytest.mark.parametrize("name", PIPELINES)
def test_same_pixels_give_the_same_predictions(name, tmp_path):
    theirs = HuggingFace(PIPELINES[name], tmp_path)
    dense = name == "segformer_semantic"
    overrides = [] if dense else ["transform.eval_crop_fraction=1.0"]
    predictor = pvt_jax.Predictor(tmp_path, **PIPELINES[name].predictor, overrides=overrides)
    assert predictor.classes.names == tuple(LABELS)
    resized = theirs.resized(PHOTOS)
    expected = theirs.logits(theirs.pixels(PHOTOS))
    found = predictor(resized)
    if not dense:
        assert np.ptp(expected, axis=0).max() > 1e-2  # The photographs differ.
        np.testing.assert_allclose([one.arrays["logits"] for one in found], expected, rtol=0, atol=1e-4)
        assert [one["labels"][0]["label"] for one in found] == expected.argmax(1).tolist()
        return
    size = resized[0].shape[:2]
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(expected), size=size, mode="bilinear")
    best = enlarged.argmax(1).numpy()
    for one, labels in zip(found, best, strict=True):
        # Ties between classes, which rounding decides.
        assert len(np.unique(labels)) > 2 and (one.arrays["label_map"] != labels).mean() < 1e-4


@pytest.mark.parametrize("image", PHOTOS, ids=["landscape", "portrait"])
def test_pixels_of_the_centre_crop(image, tmp_path):
    """As torchvision's, which the models were evaluated with; transformers rounds the half pixel of odd rests down."""
    from transformers.models.pvt.image_processing_pil_pvt import PvtImageProcessorPil

    crop = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    processor = PvtImageProcessorPil(**crop, do_rescale=False, do_normalize=False)
    theirs = np.asarray(processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    transform = EvalTransform((224, 224))
    height, width = transform.resized_size(*image.shape[:2])
    rests = height - 224, width - 224
    top, left = (round(rest / 2) - rest // 2 for rest in rests)
    ours = transform(image)
    np.testing.assert_array_equal(
        ours[: 224 - top or None, : 224 - left or None], theirs[top:, left:] if top or left else theirs
    )


def test_normalisation_of_a_folder_is_kept(tmp_path):
    theirs = HuggingFace(PIPELINES["vit"], tmp_path / "vit")
    assert list(theirs.processor.image_mean) == [0.5, 0.5, 0.5]
    settings = PIPELINES["vit"].predictor["settings"]
    flags = ["--model", "vit_tiny_patch16", *(f"--set={name}={value}" for name, value in settings.items())]
    for place in (tmp_path / "folder", tmp_path / "file.safetensors"):
        assert convert.main([str(tmp_path / "vit"), str(place), *flags]) == 0
        choices = {"model": "vit_tiny_patch16", "settings": settings} if place.suffix else {}
        transform = pvt_jax.Predictor(place, **choices).trained.config.batch_transform
        assert transform.mean == transform.std == (127.5, 127.5, 127.5)
    config = tmp_path / "vit" / "preprocessor_config.json"
    for broken in ({"image_mean": [0.5]}, {"image_mean": [0.5] * 3, "image_std": [0, 0, 0]}, {"do_normalize": False}):
        config.write_text(json.dumps(broken))
        transform = pvt_jax.Predictor(tmp_path / "vit", model="vit_tiny_patch16", settings=settings)
        assert transform.trained.config.batch_transform.mean == (123.675, 116.28, 103.53)
